"""``motet coordinator rotate-keys`` and ``gc``: the files beside the database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from motet.cli import reach
from motet.cli.homes import coordinators_home

Home = Annotated[
    Path, typer.Option("--home", help="The coordinator's state folder.", callback=coordinators_home)
]
ArtifactKey = Annotated[
    Path | None,
    typer.Option("--artifact-key", help="File of the keys that encrypt artifacts; made if it is not there."),
]
DEFAULT_HOME = Path("coordinator-home")


def rotate_keys_command(
    home: Home = DEFAULT_HOME,
    artifact_key: ArtifactKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Put every stored adapter and update under a new key; plain ones are encrypted. The coordinator may run.

    Example: motet coordinator rotate-keys --home coordinator-home
    """
    from coordinator.storage.rotation import rotate_keys

    _check_home(home)
    done = rotate_keys(home, artifact_key)
    if as_json:
        told = {"key_id": done.key_id, "key_file": str(done.key_path.resolve())}
        print(json.dumps(told | {"rewrapped": done.rewrapped, "encrypted": done.encrypted}))
        return
    print(
        f"key {done.key_id} in {done.key_path.resolve()}: {done.rewrapped} wrapped anew, {done.encrypted} encrypted"
    )
    print("back up the key file: without it the artifacts can not be read by anyone")


def gc_command(
    home: reach.Home = None,
    coordinator: reach.Coordinator = None,
    identity: reach.WhoAmI = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    keep_updates: Annotated[
        int,
        typer.Option(
            "--keep-updates", min=1, help="Of a run that goes on: updates of that many closed rounds."
        ),
    ] = 1,
    keep_adapters: Annotated[
        int | None,
        typer.Option(
            "--keep-adapters", min=0, help="Of an ended run: states of that many last rounds; all by default."
        ),
    ] = None,
    grace_hours: Annotated[
        float, typer.Option("--grace-hours", min=0.0, help="Younger files are left alone.")
    ] = 24.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Remove adapters and updates that no run needs any more. The coordinator may run.

    Example: motet coordinator gc --home coordinator-home --dry-run
    """
    if coordinator is None and identity is None:
        _check_home(home or reach.DEFAULT_HOME)
    with reach.reached(home, coordinator, identity) as connection:
        done = connection.artifacts.collect_garbage(
            dry_run=dry_run,
            keep_updates=keep_updates,
            keep_adapters=keep_adapters,
            grace_s=grace_hours * 3600.0,
        )
    reasons = {r.reason: r.files for r in done.reasons}
    if as_json:
        told = {"dry_run": dry_run, "files": done.files, "bytes": done.num_bytes, "kept": done.kept}
        print(json.dumps(told | {"reasons": reasons, "missing": list(done.missing)}))
        return
    word = "would be removed" if dry_run else "removed"
    print(f"{done.files} files, {done.num_bytes / 1e6:.1f} MB {word}; {done.kept} artifacts stay")
    for why, count in reasons.items():
        print(f"  {count} x {why}")
    if done.missing:
        print(f"missing: {len(done.missing)} artifacts that a run names, first {done.missing[0]}")


def _check_home(home: Path) -> None:
    from motet.cli.words import UsageError

    if not home.is_dir():
        raise UsageError(f"{home}: no such folder", hint="name the coordinator's state folder with --home")
