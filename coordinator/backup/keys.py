"""The keys of a home in a backup: under a passphrase, or left out."""

from __future__ import annotations

import base64
import json
import secrets
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from coordinator.backup.errors import BackupError

if TYPE_CHECKING:
    from collections.abc import Mapping

LEAST_PASSPHRASE = 12
_FORMAT = "motet-backup-keys/1"
_COST = {"n": 1 << 16, "r": 8, "p": 1}  # 64 MiB, some tenths of a second a guess
_MOST_COST = 1 << 20


def seal_keys(files: Mapping[str, bytes], passphrase: str) -> bytes:
    """Key files under a passphrase (scrypt, AES-256-GCM).

    Raises:
      BackupError: the passphrase is too short.
    """
    if len(passphrase) < LEAST_PASSPHRASE:
        raise BackupError(
            f"the passphrase is too short: {LEAST_PASSPHRASE} characters or more", hint="openssl rand -hex 16"
        )
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    plain = json.dumps({name: base64.b64encode(data).decode() for name, data in files.items()}).encode()
    sealed = AESGCM(_derived(passphrase, salt, _COST)).encrypt(nonce, plain, _FORMAT.encode())
    fields = {"salt": salt, "nonce": nonce, "sealed": sealed}
    document = {"format": _FORMAT, "scrypt": _COST} | {
        k: base64.b64encode(v).decode() for k, v in fields.items()
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def open_keys(data: bytes, passphrase: str) -> dict[str, bytes]:
    """The key files.

    Raises:
      BackupError: another passphrase, or the member is damaged.
    """
    try:
        document = json.loads(data)
        cost = {k: int(document["scrypt"][k]) for k in _COST}
        salt, nonce, sealed = (
            base64.b64decode(document[k], validate=True) for k in ("salt", "nonce", "sealed")
        )
        if document["format"] != _FORMAT or cost["n"] * cost["r"] * cost["p"] > _MOST_COST:
            raise ValueError(document["format"])
        plain = AESGCM(_derived(passphrase, salt, cost)).decrypt(nonce, sealed, _FORMAT.encode())
        return {name: base64.b64decode(text, validate=True) for name, text in json.loads(plain).items()}
    except InvalidTag:
        raise BackupError(
            "the passphrase does not open the keys of the backup", hint="try the one of that day"
        ) from None
    except (ValueError, KeyError, TypeError) as e:
        raise BackupError("the keys of the backup are damaged") from e


def _derived(passphrase: str, salt: bytes, cost: Mapping[str, int]) -> bytes:
    return Scrypt(salt=salt, length=32, n=cost["n"], r=cost["r"], p=cost["p"]).derive(passphrase.encode())
