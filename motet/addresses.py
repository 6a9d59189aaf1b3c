"""Where this coordinator's control API and its enrolment listen, for tokens and identities that name them.

``control.json`` in the home: written when the coordinator listens, read by commands that run beside it. What it
names stays when the coordinator stops, but for ``pid``: 0 says that nobody serves there. A coordinator that is told to
take any free port takes the one from before if it is free, so that identities and tokens stay good.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FILE = "control.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """``host:port`` as others reach them; empty where nobody has said it.

    Attributes:
      control: the control API.
      enrolment: where a client without a certificate goes.
      address: the control API as processes on this machine reach it.
      federation: id of the federation.
      dashboard: the dashboard, as others reach it; empty where there is none.
      pid: of the coordinator that serves there; 0 when none does.
    """

    control: str = ""
    enrolment: str = ""
    address: str = ""
    federation: str = ""
    dashboard: str = ""
    pid: int = 0


def remember_addresses(home: Path, addresses: Addresses) -> None:
    """Write them, whole or not at all."""
    staging = home / (FILE + ".new")
    staging.write_text(json.dumps(asdict(addresses), indent=2) + "\n", encoding="utf-8")
    staging.rename(home / FILE)


def known_addresses(home: Path) -> Addresses:
    """What was written last; empty where nothing was."""
    try:
        told = json.loads((home / FILE).read_text(encoding="utf-8"))
        return Addresses(
            control=str(told["control"]),
            enrolment=str(told["enrolment"]),
            address=str(told.get("address", "")),
            federation=str(told.get("federation", "")),
            dashboard=str(told.get("dashboard", "")),
            pid=int(told.get("pid", 0)),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return Addresses()


def as_others_see(address: str, names: Sequence[str]) -> str:
    """``address`` with the first of ``names`` for a host that means every interface."""
    host, _, port = address.rpartition(":")
    everywhere = {"0.0.0.0", "[::]", "::", ""}  # noqa: S104 - compared, not bound
    return f"{names[0]}:{port}" if host in everywhere and names else address
