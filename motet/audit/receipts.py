"""A data owner's countersignature: its own record of every charge, signed with its key.

It names runs, rounds and events, and for each data set a tag that only this owner can make, never the data set's
fingerprint: a hash of private data would let anybody who guesses the data confirm the guess.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.ledger.canonical import canonical_bytes
from privacy.ledger.errors import LedgerFormatError, SignatureError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from privacy.ledger.canonical import Value

FORMAT = "motet-client-receipts/1"
_SIGNED = b"motet-client-receipts/1\n"  # no other use of the key signs bytes that begin so
EVERY_DATA_SET = "every"  # in the place of a tag: the charge counts for each data set of its owner
_LATEST_MS = 253_370_764_800_000  # the year 9999, the last that a calendar shows
_CHARGE_FIELDS = frozenset({"attempt", "data_set", "event", "round_index", "run_id", "settled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSetNames:
    """Which charges were of which data set, by a record that its owner signed.

    Attributes:
      tags: reservation id -> the owner's tag, or ``EVERY_DATA_SET``.
      made_at: by the owner's clock, seconds since 1970. A charge of later is in no ``tags``.
    """

    tags: Mapping[str, str]
    made_at: float


def data_set_tag(key: ec.EllipticCurvePrivateKey, fingerprint: str) -> str:
    """Name of a data set outside its owner: the same data, the same tag; nobody else can make or test it."""
    secret = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=b"motet data set tag/1").derive(
        key.private_numbers().private_value.to_bytes(48, "big")
    )
    return hmac.new(secret, fingerprint.encode(), hashlib.sha256).hexdigest()[:32]


def sign_receipts(
    key: ec.EllipticCurvePrivateKey,
    *,
    client_id: str,
    charges: Sequence[Value],
    head: tuple[int, str],
    made_at_ms: int,
) -> dict[str, Value]:
    """The document that goes into a bundle: statement, public key, signature (ECDSA, SHA-384)."""
    statement: dict[str, Value] = {
        "charges": list(charges),
        "client_id": client_id,
        "format": FORMAT,
        "ledger_head": head[1],
        "ledger_rows": head[0],
        "made_at_ms": made_at_ms,
    }
    signature = key.sign(_SIGNED + canonical_bytes(statement), ec.ECDSA(hashes.SHA384()))
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return {
        "public_key": pem.decode(),
        "signature": base64.b64encode(signature).decode(),
        "statement": statement,
    }


def open_receipts(document: Value) -> tuple[str, list[dict[str, Value]], str]:
    """Verify a countersignature by the key that it carries; whose key that is, the ledger says.

    Returns:
      client id, charges, public key (PEM).

    Raises:
      LedgerFormatError: it is no such document.
      SignatureError: the signature does not fit.
    """
    if not isinstance(document, dict) or set(document) != {"public_key", "signature", "statement"}:
        raise LedgerFormatError("a countersignature has public_key, signature and statement")
    statement, pem, signature = document["statement"], document["public_key"], document["signature"]
    fields = {"charges", "client_id", "format", "ledger_head", "ledger_rows", "made_at_ms"}
    if not isinstance(statement, dict) or set(statement) != fields or statement["format"] != FORMAT:
        raise LedgerFormatError(f"the statement of a countersignature has the format {FORMAT}")
    client_id, charges = statement["client_id"], statement["charges"]
    if not (isinstance(pem, str) and isinstance(signature, str) and isinstance(client_id, str)):
        raise LedgerFormatError("public_key, signature and client_id are text")
    check_signature(pem, signature, _SIGNED + canonical_bytes(statement))
    if not isinstance(charges, list):
        raise LedgerFormatError("charges is a list")
    read: list[dict[str, Value]] = []
    for charge in charges:
        if not isinstance(charge, dict) or set(charge) != _CHARGE_FIELDS:
            raise LedgerFormatError("a charge has the fields " + ", ".join(sorted(_CHARGE_FIELDS)))
        read.append(charge)
    return client_id, read, pem


def made_at_of(document: Value) -> int:
    """When an opened countersignature was made, by its owner's clock; milliseconds since 1970.

    Raises:
      LedgerFormatError: it tells no such time.
    """
    statement = document.get("statement") if isinstance(document, dict) else None
    made_at_ms = statement.get("made_at_ms") if isinstance(statement, dict) else None
    if type(made_at_ms) is not int or not 0 <= made_at_ms < _LATEST_MS:
        raise LedgerFormatError("made_at_ms of a countersignature is a time in milliseconds")
    return made_at_ms


def check_signature(pem: str, signature: str, data: bytes) -> None:
    """Hold bytes to an owner's signature.

    Args:
      pem: public key of a client.
      signature: base64 (ECDSA, SHA-384).
      data: what was signed.

    Raises:
      LedgerFormatError: key or signature can not be read.
      SignatureError: it does not fit.
    """
    try:
        key = serialization.load_pem_public_key(pem.encode())
        raw = base64.b64decode(signature.encode("ascii"), validate=True)
    except (ValueError, UnsupportedAlgorithm, binascii.Error) as error:
        raise LedgerFormatError("the key or the signature of a countersignature can not be read") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise LedgerFormatError("the key of a countersignature is an elliptic curve key")
    try:
        key.verify(raw, data, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature as error:
        raise SignatureError("the countersignature does not fit its statement") from error
