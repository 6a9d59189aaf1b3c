"""``motet dashboard``: a link that opens the dashboard, or the dashboard of a folder that nobody serves."""

from __future__ import annotations

import json
import signal
import threading
import time
import webbrowser
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from motet.cli.reach import DEFAULT_HOME, Coordinator, Home, WhoAmI, reached

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def dashboard_command(
    home: Home = None,
    coordinator: Coordinator = None,
    identity: WhoAmI = None,
    opens: Annotated[bool, typer.Option("--open", help="Open it in this machine's browser.")] = False,
    listen: Annotated[
        str,
        typer.Option(
            "--listen", metavar="HOST:PORT", help="Where to serve it when no coordinator serves the home."
        ),
    ] = "127.0.0.1:0",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print a link to the dashboard. It opens one session, within a minute, in your role.

    When no coordinator serves the home, or it is the folder of a simulation, this command serves it until Ctrl-C.

    Example: motet dashboard --home coordinator-home --open
    """
    from motet.reaching import served_at

    if coordinator is None and identity is None:
        place = home or DEFAULT_HOME
        if served_at(place) is None:
            _serve(place, listen, opens=opens, as_json=as_json)
            return
    with reached(home, coordinator, identity) as connection:
        link = connection.system.dashboard_link()
    _tell(link.url, link.not_after, opens=opens, as_json=as_json)


def _tell(url: str, not_after: float, *, opens: bool, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"url": url, "not_after": not_after}), flush=True)
    else:
        print(url, flush=True)
        print(f"opens once, within {max(0.0, not_after - time.time()):.0f} s", flush=True)
    if opens:
        webbrowser.open(url)


def _serve(home: Path, listen: str, *, opens: bool, as_json: bool) -> None:
    """The dashboard of a folder, by this process, for the user who can read it."""
    from coordinator.dashboard.server import serving_dashboard
    from coordinator.rpc.identity import LOCAL_OPERATOR
    from motet.cli.words import UsageError, check_address
    from motet.logs import configure
    from motet.ports import is_loopback

    check_address(listen, least_port=0)
    if not is_loopback(listen.rpartition(":")[0]):
        raise UsageError(
            "--listen: a folder is shown on this machine alone",
            hint="start its coordinator with --dashboard HOST:PORT, which serves it over TLS",
        )
    configure(verbose=False, log_format="text")
    place, result = simulated(home)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with ExitStack() as stack:
        served = stack.enter_context(serving_dashboard(place, listen, result=result))
        url, until = served.link(LOCAL_OPERATOR)
        _tell(url, until, opens=opens, as_json=as_json)
        if not as_json:
            print("no coordinator serves this folder: shown by this command until Ctrl-C", flush=True)
        stopping.wait()


def simulated(home: Path) -> tuple[Path, Mapping[str, Any]]:
    """Where a folder's database is, and what a simulation has measured; a coordinator's home is as it is."""
    inner = home / "runs" / "federated"
    if (home / "motet.db").exists() or not (inner / "motet.db").exists():
        return home, {}
    try:
        told = json.loads((home / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        told = {}
    return inner, told if isinstance(told, dict) else {}
