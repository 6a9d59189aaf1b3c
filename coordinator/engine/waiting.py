"""Why a run waits, in words. Pure: from what is known of its clients to the sentence that ``motet run show`` prints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What stands between a run and its next round. A client is in one of these only.

    Attributes:
      minimum: clients that a round needs.
      ready: clients that can be asked now.
      offline: clients that the recipe names and that can not be reached.
      silent: clients that were asked for leave and have not answered yet.
      pending: clients whose owner has not decided on the recipe.
      closed: client -> when its owner's hours begin, in the owner's time.
      busy: client -> the runs that it works for.
      blocked: client -> what its owner has to mend.
      is_leading: whether this coordinator leads its database.
      ahead: for a run in the queue: the runs that hold the places.
    """

    minimum: int = 1
    ready: Sequence[str] = ()
    offline: Sequence[str] = ()
    silent: Sequence[str] = ()
    pending: Sequence[str] = ()
    closed: Mapping[str, str] = field(default_factory=dict)
    busy: Mapping[str, str] = field(default_factory=dict)
    blocked: Mapping[str, str] = field(default_factory=dict)
    is_leading: bool = True
    ahead: Sequence[str] = ()


def why_it_waits(now: Situation) -> str:
    """One sentence that says what is missing and of whom; empty where nothing is missing."""
    if not now.is_leading:
        return "waits for the lead: start a coordinator, or wait for the standby"
    if now.ahead:
        verb = "is" if len(now.ahead) == 1 else "are"
        return f"waits for a place: {_names(now.ahead)} {verb} at work"
    short = max(0, now.minimum - len(now.ready))
    kinds = _kinds(now)
    if len(kinds) == 1:
        return _one_kind(now, kinds[0], short)
    told = "; ".join(phrase for kind in kinds for phrase in _phrases(now, kind))
    if short:
        return f"needs {_more(short)}" + (f": {told}" if told else "")
    return f"waits for clients: {told}" if told else ""


def without_whom(refusals: Mapping[str, str]) -> str:
    """Who is left out of a round that goes on, and why; empty where nobody is.

    Args:
      refusals: client -> what stands in the way.
    """
    told = "; ".join(f"{client}: {why}" for client, why in sorted(refusals.items()))
    return f"goes on without {told}" if told else ""


def _kinds(now: Situation) -> list[str]:
    kinds = ("pending", "busy", "closed", "offline", "silent", "blocked")
    return [kind for kind in kinds if getattr(now, kind)]


def _one_kind(now: Situation, kind: str, short: int) -> str:
    if kind == "pending" and short:
        return f"needs {_more(short)} with approval: {_names(now.pending)}"
    if kind == "offline":
        head = f"waits for {short} more client(s)" if short else "waits for clients"
        return f"{head}: {_names(now.offline)} not online"
    if kind == "silent":
        return f"waits for an answer of {_names(now.silent)}"
    if kind == "busy":
        return "; ".join(
            f"waits for {_names(clients)}: busy with run {run}" for run, clients in _by_value(now.busy)
        )
    if kind == "closed":
        return "; ".join(
            f"outside hours of {_names(clients)} until {until}" for until, clients in _by_value(now.closed)
        )
    if kind == "blocked":
        return "; ".join(f"waits for {client}: {what}" for client, what in sorted(now.blocked.items()))
    return f"waits for approval of {_names(now.pending)}"


def _phrases(now: Situation, kind: str) -> list[str]:
    """What is missing of one kind, where others are as well."""
    if kind == "pending":
        return [f"{_names(now.pending)} without approval yet"]
    if kind == "offline":
        return [f"{_names(now.offline)} not online"]
    if kind == "silent":
        return [f"{_names(now.silent)} without an answer yet"]
    if kind == "busy":
        return [f"{_names(clients)} busy with run {run}" for run, clients in _by_value(now.busy)]
    if kind == "closed":
        return [f"{_names(clients)} outside hours until {until}" for until, clients in _by_value(now.closed)]
    return [f"{client}: {what}" for client, what in sorted(now.blocked.items())]


def _by_value(table: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    grouped: dict[str, list[str]] = {}
    for client, value in sorted(table.items()):
        grouped.setdefault(value, []).append(client)
    return sorted(grouped.items())


def _more(short: int) -> str:
    return f"{short} more client" + ("" if short == 1 else "s")


def _names(names: Sequence[str]) -> str:
    return ", ".join(sorted(names))
