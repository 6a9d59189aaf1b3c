"""Admit clients by their public keys."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from coordinator.storage.where import open_store
from motet.connection.errors import BadRequestError

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.storage.store import Store

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class RegistrationError(BadRequestError):
    """The name or the key can not be used."""


def register(home: Path, client_id: str, public_key_path: Path, capacity_class: str = "") -> None:
    """Add a client to the store, or change its key.

    Raises:
      RegistrationError: a bad name, or no P-384 public key in the file; a private key is refused without a
        look at it.
    """
    pem = read_public_key(public_key_path)
    store = open_store(home)
    try:
        admit_key(store, client_id, pem, capacity_class, place=str(public_key_path))
    finally:
        store.close()


def read_public_key(path: Path) -> bytes:
    """What is in a file that is not a private key.

    Raises:
      RegistrationError: it can not be read, or it is a private key.
    """
    try:
        text = path.read_bytes()
    except OSError as e:
        raise RegistrationError(f"{path}: {e.strerror}", hint="the client makes it: motet client init") from e
    if b"PRIVATE KEY" in text:
        raise RegistrationError(
            f"{path} is a private key, which stays with the client", hint="ask for client.pub"
        )
    return text


def admit_key(
    store: Store, client_id: str, pem: bytes, capacity_class: str = "", *, place: str = "the key"
) -> None:
    """Add a client by its public key, or change its key and class.

    Args:
      store: run state.
      client_id: its name in recipes.
      pem: public key, P-384.
      capacity_class: for ranks by class.
      place: what errors call the key.

    Raises:
      RegistrationError: a bad name, or another kind of key.
    """
    if not _NAME.fullmatch(client_id):
        raise RegistrationError(
            f"{client_id!r} is no name", hint="use letters, digits, dot, dash and underscore, at most 63"
        )
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as e:
        raise RegistrationError(
            f"{place} is no public key in PEM", hint="the client makes it: motet client init"
        ) from e
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise RegistrationError(f"{place} is no P-384 key", hint="the client makes it: motet client init")
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes  # Flower takes its time to load

    store.register_client(client_id, public_key_to_bytes(key), capacity_class=capacity_class)
