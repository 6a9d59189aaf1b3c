"""Admit clients by their public keys."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from coordinator.storage.where import open_store
from motet.errors import MotetError

if TYPE_CHECKING:
    from pathlib import Path

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")


class RegistrationError(MotetError):
    """The name or the key can not be used."""

    exit_code = 2


def register(home: Path, client_id: str, public_key_path: Path, capacity_class: str = "") -> None:
    """Add a client to the store, or change its key.

    Raises:
      RegistrationError: a bad name, or no P-384 public key in the file; a private key is refused without a
        look at it.
    """
    if not _NAME.match(client_id):
        raise RegistrationError(
            f"{client_id!r} is no name", hint="use letters, digits, dot, dash and underscore, at most 63"
        )
    try:
        text = public_key_path.read_bytes()
    except OSError as e:
        raise RegistrationError(
            f"{public_key_path}: {e.strerror}", hint="the client makes it: motet client init"
        ) from e
    if b"PRIVATE KEY" in text:
        raise RegistrationError(
            f"{public_key_path} is a private key, which stays with the client", hint="ask for client.pub"
        )
    try:
        key = load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm) as e:
        raise RegistrationError(
            f"{public_key_path} is no public key in PEM", hint="the client makes it: motet client init"
        ) from e
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise RegistrationError(
            f"{public_key_path} is no P-384 key", hint="the client makes it: motet client init"
        )
    store = open_store(home)
    try:
        store.register_client(client_id, public_key_to_bytes(key), capacity_class=capacity_class)
    finally:
        store.close()
