"""A client's keys and its request, as ``motet client enrol`` makes them."""

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from motet.enrolment import EnrolRequest, parse_token, possession_statement


def public_pem(key):
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def request_pem(key):
    """A certificate request by ``key``."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "whoever")])
    made = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


class Keys:
    """Both keys of one client."""

    def __init__(self):
        self.own = ec.generate_private_key(ec.SECP256R1())
        self.fleet = ec.generate_private_key(ec.SECP384R1())

    def request(self, token, /, *, signer=None, **changes):
        """A request with ``token`` (text); ``signer`` signs the proof in place of the fleet key."""
        csr, public = request_pem(self.own), public_pem(self.fleet).decode()
        statement = possession_statement(parse_token(token).token_id, csr, public)
        proof = (signer or self.fleet).sign(statement, ec.ECDSA(hashes.SHA384()))
        fields = {
            "token": token,
            "csr_pem": csr,
            "fleet_public_key_pem": public,
            "proof_of_possession": proof,
        }
        return EnrolRequest(**fields | changes)
