"""The options by which a command finds its coordinator, the same for every command that touches one's state."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from motet.cli.homes import coordinators_home
from motet.cli.words import UsageError, check_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from motet.connection.connection import Connection

DEFAULT_HOME = Path("coordinator-home")
Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        help="The coordinator's state folder on this machine; by default coordinator-home.",
        show_default=False,
        callback=coordinators_home,
    ),
]
Coordinator = Annotated[
    str | None,
    typer.Option("--coordinator", metavar="HOST:PORT", help="A coordinator elsewhere: its control API."),
]
WhoAmI = Annotated[
    Path | None,
    typer.Option(
        "--identity", metavar="FOLDER", help="With --coordinator: the folder that proves who you are."
    ),
]


@contextmanager
def reached(
    home: Path | None, coordinator: str | None, identity: Path | None, *, create: bool = False
) -> Iterator[Connection]:
    """The connection that a command's options name.

    Raises:
      MotetError: as ``motet.connect``.
    """
    from motet.reaching import connect

    if coordinator is None and identity is None:
        home = home or DEFAULT_HOME
    elif coordinator is not None:
        check_address(coordinator, "--coordinator")
        if identity is None and home is None:
            raise UsageError(
                "--coordinator needs --identity FOLDER, which proves who you are",
                hint="an operator makes one: motet ca issue --role ROLE --name YOU --out FOLDER",
            )
    with connect(coordinator, identity=identity, home=home, create=create) as connection:
        yield connection


def again(home: Path | None, coordinator: str | None, identity: Path | None) -> str:
    """The same options as words, for the command that comes next."""
    if coordinator is None and identity is None:
        return f"--home {home or DEFAULT_HOME}"
    told = [f"--coordinator {coordinator}"] if coordinator else []
    return " ".join([*told, f"--identity {identity}"])
