"""``motet doctor``: what is wrong, and the command that mends it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from motet.errors import MotetError
from motet.homes import CLIENT_SIGNS, COORDINATOR_SIGNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from motet.doctor import Finding


class UnhealthyError(MotetError):
    """A check failed; the findings say which."""

    exit_code = 12


def doctor_command(
    home: Annotated[
        Path | None, typer.Option("--home", help="A coordinator's or a client's folder; which, is seen.")
    ] = None,
    client_home: Annotated[Path | None, typer.Option("--client-home", help="A client's folder.")] = None,
    join: Annotated[
        Path | None, typer.Option("--join", help="join.json, to look at the coordinator from a client.")
    ] = None,
    policy: Annotated[Path | None, typer.Option("--policy", help="The data owner's policy file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Look at this machine and at a home: versions, keys, certificates, clock, disk, database, ledger, processes.

    Nothing is changed. Ends with 12 if something failed.

    Example: motet doctor --home coordinator-home
    """
    from motet.doctor import Level, client_side, coordinator_side, machine
    from motet.doctor.findings import as_json as told

    findings: list[Finding] = machine.software()
    for place, is_client in _places(home, client_home):
        if is_client:
            findings += client_side.look(place, join=join, policy=policy)
        else:
            findings += coordinator_side.look(place)
    failed = sum(f.level == Level.FAILURE for f in findings)
    if as_json:
        print(json.dumps(told(findings)))
    else:
        _print(findings)
    if failed:
        if as_json:
            sys.exit(UnhealthyError.exit_code)
        raise UnhealthyError(
            f"{failed} of {len(findings)} checks failed", hint="the commands above mend them"
        )


def _places(home: Path | None, client_home: Path | None) -> list[tuple[Path, bool]]:
    """Folders to look at, and whether each is a client's."""
    from motet.cli.words import UsageError

    if home is None and client_home is None:
        found = [(Path("coordinator-home"), False), (Path("client-home"), True)]
        return [(path, is_client) for path, is_client in found if path.is_dir()]
    places = [(client_home, True)] if client_home is not None else []
    if home is not None:
        is_coordinator = any((home / name).exists() for name in COORDINATOR_SIGNS)
        is_client = not is_coordinator and any((home / name).exists() for name in CLIENT_SIGNS)
        places.append((home, is_client))
    for path, _ in places:
        if not path.is_dir():
            raise UsageError(f"{path}: no such folder", hint="name the folder of a coordinator or a client")
    return places


def _print(findings: Sequence[Finding]) -> None:
    """A line a finding and one for its command, so that a command can be copied whole."""
    from rich.console import Console

    colours = {"ok": "green", "warning": "yellow", "failure": "bold red"}
    console = Console(soft_wrap=True, highlight=False)
    for finding in findings:
        console.print(f"{finding.level:8}", style=colours[finding.level], end="")
        console.print(f"{finding.check:13}{finding.where}: {finding.what}", markup=False)
        if finding.mend:
            console.print(f"{'':8}-> {finding.mend}", markup=False)
