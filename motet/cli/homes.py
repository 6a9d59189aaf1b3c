"""Whose home a folder is: a command for the one kind leaves a home of the other kind alone."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations

import click  # noqa: TC002 - typer reads the annotations

from motet.errors import MotetError
from motet.homes import CLIENT_SIGNS, COORDINATOR_SIGNS

COORDINATOR, CLIENT = "coordinator", "client"
_SIGNS = {COORDINATOR: COORDINATOR_SIGNS, CLIENT: CLIENT_SIGNS}
_NEXT = {
    COORDINATOR: "give this client's own folder; a coordinator's commands: motet coordinator --help",
    CLIENT: "give the coordinator's folder; a client's commands: motet client --help",
}


class WrongHomeError(MotetError):
    """The folder is no home, or one of the other kind; nothing was read or written."""

    exit_code = 2


def coordinators_home(context: click.Context, value: Path | None) -> Path | None:
    """Of an option ``--home``: what was typed.

    Raises:
      WrongHomeError: it is a file, or a client's home.
    """
    return _checked(context, value, COORDINATOR)


def clients_home(context: click.Context, value: Path | None) -> Path | None:
    """Of an option ``--home``: what was typed.

    Raises:
      WrongHomeError: it is a file, or a coordinator's home.
    """
    return _checked(context, value, CLIENT)


def check_there(home: Path) -> None:
    """Raise unless a home is there.

    Raises:
      WrongHomeError: it is not.
    """
    if not home.is_dir():
        raise WrongHomeError(
            f"{home}: no such folder", hint="check --home; motet client init makes a new one"
        )


def _checked(context: click.Context, home: Path | None, kind: str) -> Path | None:
    if home is None or context.resilient_parsing:
        return home
    other = CLIENT if kind == COORDINATOR else COORDINATOR
    if home.is_file():
        raise WrongHomeError(f"--home {home} is a file", hint=f"give the {kind}'s folder")
    if _has_any(home, _SIGNS[other]) and not _has_any(home, _SIGNS[kind]):
        raise WrongHomeError(f"--home {home} is the home of a {other}, not of a {kind}", hint=_NEXT[other])
    return home


def _has_any(home: Path, names: tuple[str, ...]) -> bool:
    return any((home / name).exists() for name in names)
