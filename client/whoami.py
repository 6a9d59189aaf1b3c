"""Under which name and policy this home was last started, so that the owner's commands need not be told."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from motet.durable import write_whole
from motet.identity import FACTS

_FILE = "client.json"
_CONTACT = "last-contact"


@dataclass(frozen=True, slots=True, kw_only=True)
class Whoami:
    """``client_id``: the name in recipes; empty where it has none yet. ``policy``: its file, if one was given."""

    client_id: str = ""
    policy: Path | None = None

    @property
    def policy_sha256(self) -> str:
        """Of the policy file as it is now; empty where there is none."""
        if self.policy is None:
            return ""
        try:
            return hashlib.sha256(self.policy.read_bytes()).hexdigest()
        except OSError:
            return ""


def remember(home: Path, client_id: str, policy: Path | None) -> None:
    """Note a start.

    Raises:
      OSError: the home can not be written.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    told = {"client_id": client_id, "policy": None if policy is None else str(policy.absolute())}
    write_whole(home / _FILE, json.dumps(told).encode())


def recall(home: Path) -> Whoami:
    """What the last start noted; before the first the name that it enrolled under, empty where there is none."""
    if not (home / _FILE).exists():
        return Whoami(client_id=_enrolled_as(home))
    try:
        told = json.loads((home / _FILE).read_text(encoding="utf-8"))
        policy = told["policy"]
        return Whoami(client_id=str(told["client_id"]), policy=Path(policy) if policy else None)
    except (OSError, ValueError, KeyError, TypeError):
        return Whoami()


def _enrolled_as(home: Path) -> str:
    try:
        return str(json.loads((home / "identity" / FACTS).read_text(encoding="utf-8"))["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def heard(home: Path) -> None:
    """Note that the coordinator answered just now; a disk that does not take it is no matter."""
    try:
        (home / _CONTACT).touch()
    except OSError:
        return


def last_heard(home: Path) -> float | None:
    """Seconds since 1970 (UTC) when the coordinator last answered; None before that."""
    try:
        return (home / _CONTACT).stat().st_mtime
    except OSError:
        return None
