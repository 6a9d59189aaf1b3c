"""Two homes on one database: what they must have in common, and the refusal of those that have not.

A standby has its own home, with its own SuperLink and gateway. What the next leader needs of the last one lies in
folders that both homes see: artifacts, the signed ledger with its key, and the certificates that clients trust. In the
second home they are links into the first one, which lies on storage that both machines reach.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.errors import StorageError
from coordinator.rounds.table import ENDED
from coordinator.storage.where import FILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from coordinator.storage.artifacts import ArtifactStore
    from coordinator.storage.store import Store

SHARED = ("artifacts", "ledger", "tls")


def share(home: Path, other: Path) -> None:
    """Make a home a second one of the same federation, once.

    Args:
      home: of the standby; new, or one that shares the same folders already.
      other: home of the coordinator that is there already, on storage that both reach.

    Raises:
      StorageError: ``other`` has no PostgreSQL database, or ``home`` has folders of its own.
    """
    url, here = other / FILE, home / FILE
    if not url.exists():
        raise StorageError(
            f"{other} has no PostgreSQL database; an SQLite file belongs to one home on one machine",
            hint="start the first coordinator with --database postgresql://user@host:5432/name",
        )
    text = url.read_text(encoding="utf-8")
    if (home / "motet.db").exists() or (here.exists() and here.read_text(encoding="utf-8") != text):
        raise StorageError(f"{home} belongs to another database", hint="choose another --home")
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in SHARED:
            _link(home / name, (other / name).resolve())
        here.write_text(text, encoding="utf-8")
    except OSError as e:
        raise StorageError(f"{home} can not be made: {e.strerror}", hint="check the folder's rights") from e


def _link(link: Path, folder: Path) -> None:
    if link.is_symlink() and link.resolve() == folder:
        return
    if link.exists() or link.is_symlink():
        raise StorageError(f"{link} is there already, and is not {folder}", hint="choose another --home")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    link.symlink_to(folder, target_is_directory=True)


def check_may_lead(store: Store, artifacts: ArtifactStore, home: Path) -> None:
    """Refuse a coordinator that could not go on where the last leader stopped; before it leads, not in its place.

    Raises:
      LedgerKeyError: the ledger of the database was begun with another home's key.
      StorageError: artifacts of runs that are under way are not in this home.
    """
    store.ledger.check_key()
    missing = [sha256 for sha256 in _needed(store) if not artifacts.path_of(sha256).exists()]
    if missing:
        leader = store.leases.leader()
        led = f"; {leader.home} on {leader.host} led before" if leader else ""
        raise StorageError(
            f"{home / 'artifacts'} lacks {len(missing)} artifacts of runs that are under way, "
            f"first {missing[0][:12]}{led}",
            hint="a second coordinator needs the first one's artifacts, ledger and tls folders: --shares HOME",
        )


def _needed(store: Store) -> Iterator[str]:
    for run in store.list_runs():
        if run.state in ENDED:
            continue
        rounds = store.rounds(run.run_id)
        if not rounds:
            continue
        last = rounds[-1]
        yield last.adapter_sha256 or last.start_sha256
        for contribution in store.contributions(run.run_id, last.round_index, last.attempt):
            if contribution.payload_sha256:
                yield contribution.payload_sha256
