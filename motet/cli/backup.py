"""``motet backup`` and ``motet restore``: a coordinator's home in one file, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from motet.cli.homes import coordinators_home

PassphraseFile = Annotated[
    str | None,
    typer.Option("--passphrase-file", metavar="FILE", help="Holds the passphrase of the keys; - is stdin."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def backup_command(
    out: Annotated[Path, typer.Option("--out", help="File to write; it must not be there.")],
    home: Annotated[
        Path, typer.Option("--home", help="The coordinator's state folder.", callback=coordinators_home)
    ] = Path("coordinator-home"),
    passphrase_file: PassphraseFile = None,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Leave all private keys out; keep them elsewhere.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write one file with a coordinator's database, ledger, artifacts and keys, as of one moment. It may run.

    Example: motet backup --home fed --out fed-monday.motet --passphrase-file backup.pass
    """
    from coordinator.backup.making import back_up
    from motet.cli.words import UsageError

    if not home.is_dir():
        raise UsageError(f"{home}: no such folder", hint="name the coordinator's state folder with --home")
    if without_keys == (passphrase_file is not None):
        raise UsageError(
            "say what becomes of the keys", hint="--passphrase-file FILE to encrypt them, or --without-keys"
        )
    done = back_up(home, out, passphrase=_passphrase(passphrase_file))
    if as_json:
        told = {
            "out": str(done.path),
            "bytes": done.num_bytes,
            "revision": done.revision,
            "entries": done.entries,
        }
        print(json.dumps(told | {"artifacts": done.artifacts, "has_keys": done.has_keys}))
        return
    keys = (
        "keys under the passphrase"
        if done.has_keys
        else "no keys: keep tls/*.key, ledger.key, artifact.keys elsewhere"
    )
    print(
        f"{done.path}: {done.num_bytes / 1e6:.1f} MB, {done.entries} ledger entries, {done.artifacts} artifacts, {keys}"
    )


def restore_command(
    backup: Annotated[Path, typer.Argument(help="What `motet backup` wrote.", metavar="FILE")],
    home: Annotated[Path, typer.Option("--home", help="A new folder.")],
    passphrase_file: PassphraseFile = None,
    database: Annotated[
        str | None,
        typer.Option("--database", metavar="URL", help="An empty PostgreSQL database, instead of a file."),
    ] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            "--checkpoint",
            help="A signed checkpoint, a client's ledger-seen.json, or the old home: the backup must not be older.",
        ),
    ] = None,
    key: Annotated[str | None, typer.Option("--key", help="The ledger's public key, name+hash+key.")] = None,
    accept_rollback: Annotated[
        bool, typer.Option("--accept-rollback", help="Restore although the ledger was seen newer.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put a backup into a new home, once all of it was checked. An older ledger than was seen is refused.

    Example: motet restore fed-monday.motet --home fed2 --passphrase-file backup.pass --checkpoint fed
    """
    from coordinator.backup.restoring import restore

    done = restore(
        backup,
        home,
        passphrase=_passphrase(passphrase_file),
        database=database,
        checkpoints=tuple(checkpoint or ()),
        key=key,
        accept_rollback=accept_rollback,
    )
    if as_json:
        told = {"home": str(done.home), "revision": done.revision, "entries": done.entries, "key": done.key}
        print(
            json.dumps(
                told | {"missing_keys": list(done.missing_keys), "is_rolled_back": done.is_rolled_back}
            )
        )
        return
    print(f"{done.home}: {done.entries} ledger entries, signed by {done.key}")
    if done.missing_keys:
        print(f"put these back before the start: {', '.join(done.missing_keys)}")
    if done.is_rolled_back:
        print(
            "the ledger lost entries: each client refuses until its owner types motet client accept-rollback; "
            "their own ledgers count on"
        )


def _passphrase(file: str | None) -> str | None:
    from motet.cli.words import read_secret

    return None if file is None else read_secret("--passphrase", None, file).strip("\r\n")
