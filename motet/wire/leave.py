"""The answer of a data owner's side to "may this run take part?", as it travels in ``TrainReply.leave_json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

ANSWERS = ("approved", "pending", "refused", "closed")
_MOST_TEXT = 2000
_MOST_DECISION = 8000


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """What a client says of one recipe. Nothing in it depends on data.

    Attributes:
      answer: ``approved``; ``pending``, the owner has not decided; ``refused``, by a clause or by the owner;
        ``closed``, outside the owner's hours.
      clause: of the policy that stands in the way; empty for approved.
      message: for people.
      until: when the owner's hours begin, in the owner's time; empty for every other answer.
      parallel_runs: for how many runs the client may be asked at one time.
      decision: the owner's signed decision (``motet.audit.decisions``), empty where there is none.
    """

    answer: str
    clause: str = ""
    message: str = ""
    until: str = ""
    parallel_runs: int = 1
    decision: str = ""


def leave_to_json(leave: Leave) -> str:
    """As text."""
    return json.dumps(asdict(leave), sort_keys=True)


def leave_from_json(text: str) -> Leave | None:
    """Read a stranger's text; None where it is no answer."""
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(table, dict) or set(table) != {f.name for f in fields(Leave)}:
        return None
    texts = {k: v for k, v in table.items() if k != "parallel_runs"}
    runs = table["parallel_runs"]
    if not all(isinstance(v, str) for v in texts.values()) or type(runs) is not int or not 1 <= runs <= 1000:
        return None
    if table["answer"] not in ANSWERS or len(table["decision"]) > _MOST_DECISION:
        return None
    for name in ("clause", "message", "until"):
        texts[name] = "".join(c if c.isprintable() else " " for c in texts[name])[:_MOST_TEXT]
    return Leave(**texts, parallel_runs=runs)
