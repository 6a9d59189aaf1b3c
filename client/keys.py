"""The key that a client is known by: made here, registered by its public half, never sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.errors import ClientError
from motet.durable import write_whole

if TYPE_CHECKING:
    from pathlib import Path


class ClientKeyError(ClientError):
    """The client's key is missing or damaged."""

    exit_code = 2
    code = "key"


def init_key(home: Path) -> Path:
    """Make this client's key (P-384) unless it is there; the private half never leaves this folder.

    Returns:
      the file with the public half, which the operator registers.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    private_path, public_path = home / "client.key", home / "client.pub"
    if not private_path.exists():
        write_key(private_path, ec.generate_private_key(ec.SECP384R1()))
        public_path.unlink(missing_ok=True)
    if not public_path.exists():
        write_whole(
            public_path,
            load_key(home)
            .public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        )
    return public_path


def load_key(home: Path) -> ec.EllipticCurvePrivateKey:
    """The key of a home.

    Raises:
      ClientKeyError: there is none, or it is damaged.
    """
    path = home / "client.key"
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except FileNotFoundError:
        raise ClientKeyError(
            f"{home} holds no key", hint=f"make one: motet client init --home {home}"
        ) from None
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise ClientKeyError(
            f"{path} can not be read as a key", hint="restore it, or start with a new --home"
        ) from e
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ClientKeyError(f"{path} is no elliptic-curve key", hint="make one: motet client init")
    return key


def write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Write a private key that only this user can read; whole, or not there.

    Raises:
      OSError: the folder is missing, not writable, or full.
    """
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_whole(path, pem, mode=0o600)
