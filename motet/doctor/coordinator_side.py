"""The doctor at a coordinator's home."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from coordinator.storage.artifacts import KEY_FILE, ArtifactStore
from coordinator.storage.revision import Look, known_revisions, look_at
from coordinator.storage.where import database_of
from motet.audit.ledger import CoordinatorLedger
from motet.doctor import machine
from motet.doctor.checks import (
    check_certificate,
    check_last_entry,
    check_modes,
    check_port,
    check_processes,
    check_revision,
)
from motet.doctor.findings import Finding, failure, ok, warning
from motet.errors import MotetError
from motet.ports import split_address
from privacy.ledger.chain import entry_from_bytes
from privacy.ledger.notes import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator


def look(home: Path) -> Iterator[Finding]:
    """Everything about a coordinator's home."""
    lock = home / "coordinator.lock"
    seen, problem = _looked_at(home)
    is_locked = machine.is_locked(lock)
    leader = seen.leader if seen is not None else None
    stands_by = is_locked and leader is not None and Path(leader.home) != home.resolve()
    is_running = is_locked and not stands_by
    yield machine.disk(home)
    yield from _secrets(home)
    yield from _certificates(home, is_running=is_running)
    yield from _network(home, is_running=is_running)
    if stands_by and leader is not None:
        yield ok("lead", home, f"stands by: {leader.in_words()}")
    yield from check_processes(
        str(home),
        is_running=is_running,
        flower=machine.flower_processes(home),
        coordinator=machine.lock_holder(lock) if is_running else None,
    )
    if problem is not None:
        yield problem
    if seen is not None:
        yield check_revision(seen.shown, seen.revision, known_revisions(), str(home))
    yield from _ledger(home, seen, is_running=is_running)
    yield from machine.models(_models(seen))
    yield _artifacts(home)


def _looked_at(home: Path) -> tuple[Look | None, Finding | None]:
    try:
        return look_at(database_of(home)), None
    except MotetError as e:
        return None, failure("database", home, e.message, e.hint)


def _secrets(home: Path) -> list[Finding]:
    store = ArtifactStore(home / "artifacts")
    try:
        key = store.key_path()
    except MotetError as e:
        return [failure("secrets", home, e.message, e.hint)]
    secrets = [
        home / "tls/ca.key",
        home / "tls/server.key",
        home / "superlink/secret",
        home / "ledger/ledger.key",
    ]
    return check_modes(machine.modes([*secrets, key or home / KEY_FILE]))


def _certificates(home: Path, *, is_running: bool) -> Iterator[Finding]:
    tls = home / "tls"
    if not tls.exists():
        yield warning("certificates", tls, "none yet", f"motet coordinator start --home {home}")
        return
    restore = "restore the folder from a backup: motet restore FILE --home NEW"
    try:
        authority = x509.load_pem_x509_certificate((tls / "ca.crt").read_bytes())
        server = x509.load_pem_x509_certificates((tls / "server.pem").read_bytes())[0]
        keys = {
            name: serialization.load_pem_private_key((tls / name).read_bytes(), None)
            for name in ("ca.key", "server.key")
        }
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as e:
        yield failure("certificates", tls, f"missing or damaged: {e}", restore)
        return
    now = machine.now()
    yield from check_certificate(str(tls / "ca.crt"), authority, authority, now, mend=restore)
    start = f"motet coordinator start --home {home} ..., with the options that it had"
    again = ("restart it: " if is_running else "") + start
    yield from check_certificate(str(tls / "server.pem"), server, authority, now, mend=again)
    for name, certificate in (("ca.key", authority), ("server.key", server)):
        if keys[name].public_key() != certificate.public_key():
            yield failure("certificates", tls / name, "not the key of its certificate", restore)


def _network(home: Path, *, is_running: bool) -> Iterator[Finding]:
    try:
        address = str(json.loads((home / "join.json").read_text(encoding="utf-8"))["address"])
        split_address(address)
    except FileNotFoundError:
        yield warning("port", home / "join.json", "not started yet", f"motet coordinator start --home {home}")
        return
    except (OSError, ValueError, KeyError, TypeError):
        yield failure(
            "port", home / "join.json", "damaged", f"motet coordinator start --home {home} writes it anew"
        )
        return
    yield check_port(
        address,
        is_running=is_running,
        is_free=is_running or machine.is_port_free(address),
        is_answering=is_running and machine.is_answering(address),
        home=str(home),
    )


def _ledger(home: Path, seen: Look | None, *, is_running: bool) -> Iterator[Finding]:
    folder = home / "ledger"
    ledger = CoordinatorLedger(folder)
    try:
        entries = ledger.entries()
        if not entries:
            yield ok("ledger", folder, "empty")
            return
        verifier = ledger.verifier()
        newest = [open_checkpoint(note, verifier) for note in ledger.checkpoints()[-1:]]
        if seen is not None and seen.leaves:
            _hold(ledger, home, seen)
    except MotetError as e:
        yield failure("ledger", folder, e.message, e.hint)
        return
    except ValueError as e:  # a checkpoint that is none, or was signed by another key
        yield failure(
            "ledger", folder, f"the newest checkpoint does not hold: {e}", "restore the folder from a backup"
        )
        return
    behind = len(seen.leaves) - len(entries) if seen is not None else 0
    told = f"{len(entries)} entr{'y' if len(entries) == 1 else 'ies'}, a whole chain" + (
        f", {newest[0].size} signed" if newest else ""
    )
    if behind > 0 and not is_running:
        more = f"{told}; the database has {behind} more"
        yield warning("ledger", folder, more, "the next start of the coordinator writes them")
    else:
        later = f"; {behind} more are written before the next order leaves" if behind > 0 else ""
        yield ok("ledger", folder, told + later)
    last = entry_from_bytes(seen.leaves[-1]) if seen is not None and seen.leaves else entries[-1]
    yield check_last_entry(str(folder), machine.now().timestamp(), last.at_ms / 1000.0)


def _hold(ledger: CoordinatorLedger, home: Path, seen: Look) -> None:
    """Hold the file against the database; what was written since the database was looked at is no conflict.

    Raises:
      MotetError: they tell different things.
    """
    try:
        ledger.hold_against(seen.leaves)
    except MotetError:
        again, _ = _looked_at(home)
        if again is None or len(again.leaves) == len(seen.leaves):
            raise
        ledger.hold_against(again.leaves)


def _models(seen: Look | None) -> list[str]:
    """Materials that runs need which have not ended, and those that are here."""
    named = [
        json.loads(text)["base_model"].get("material") for text in (seen.recipes if seen is not None else ())
    ]
    return [*machine.fetched_models(), *(name for name in named if name)]


def _artifacts(home: Path) -> Finding:
    store = ArtifactStore(home / "artifacts")
    try:
        ring = store.keyring()
    except MotetError as e:
        return failure("artifacts", home / "artifacts", e.message, e.hint)
    if ring is None:
        if next(store.files(), None) is None:
            return ok("artifacts", home / "artifacts", "none yet")
        return warning(
            "artifacts", home / "artifacts", "stored in plain", f"motet coordinator rotate-keys --home {home}"
        )
    if len(ring.keys) > 1:
        return warning(
            "artifacts",
            ring.path,
            "a change of keys was cut off",
            f"motet coordinator rotate-keys --home {home}",
        )
    return ok("artifacts", home / "artifacts", f"encrypted under key {ring.current.key_id.hex()}")
