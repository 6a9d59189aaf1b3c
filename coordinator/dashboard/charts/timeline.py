"""Rounds from left to right: how long each attempt took, and what each client did in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.dashboard.charts.scale import NONE, seconds, thinned
from coordinator.dashboard.charts.svg import NARROW, WIDE, Chart, Frame, el, picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

    from coordinator.dashboard.pages.run import Attempt

SIGNS = {
    "answered": "",
    "clipped": "~",
    "rejected": "\N{MULTIPLICATION SIGN}",
    "asked": "…",
    "late": "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}",
    "left behind": "\N{RIGHT-POINTING DOUBLE ANGLE QUOTATION MARK}",
    "failed": "!",
    "not drawn": "·",
}
"""What stands in a cell, so that no colour is needed to read it."""
TROUBLE = ("failed", "rejected", "left behind", "late")
MOST_CLIENTS, MOST_ATTEMPTS = 24, {WIDE: 60, NARROW: 14}
_STRIP, _ROW = 46.0, 22.0


def timeline(attempts: Sequence[Attempt]) -> Chart | None:
    """A column for each attempt at a round, a row for each client; None before the first order.

    Of more than ``MOST_CLIENTS`` clients those are drawn that had trouble most often; the table has all attempts.
    """
    clients = chosen_clients(attempts)
    if not attempts:
        return None
    summary = _summary(attempts)
    pictures = []
    for size, width, left in ((WIDE, 1140.0, 132.0), (NARROW, 340.0, 92.0)):
        frame = Frame(
            width=width,
            height=_STRIP + _ROW * len(clients) + 40,
            left=left,
            right=8,
            top=12,
            bottom=24,
        )
        shown = attempts[-MOST_ATTEMPTS[size] :]
        pictures.append(
            picture("timeline", size, frame, "Timeline of rounds", summary, _parts(shown, clients, frame))
        )
    used = {outcome for a in attempts for outcome in a.outcomes.values()}
    everybody = len({c for a in attempts for c in a.outcomes})
    hidden = everybody - len(clients)
    return Chart(
        name="timeline",
        title="Timeline of rounds",
        summary=summary,
        pictures=pictures,
        legend=[(_tone(o), f"{sign} {o}".strip()) for o, sign in SIGNS.items() if o in used],
        columns=["Round", "Attempt", "State", "Took", "Stragglers", "Failures", "Reason"],
        rows=[
            [
                str(a.round_index + 1),
                str(a.attempt + 1),
                a.state.lower(),
                seconds(a.seconds),
                ", ".join(a.stragglers) or NONE,
                ", ".join(a.failures) or NONE,
                a.reason or NONE,
            ]
            for a in attempts
        ],
        note=f"{hidden} clients with less trouble are not drawn" if hidden > 0 else "",
    )


def chosen_clients(attempts: Sequence[Attempt]) -> list[str]:
    """Who has a row, by name: everybody, or those with most trouble."""
    trouble: dict[str, int] = {}
    for attempt in attempts:
        for client, outcome in attempt.outcomes.items():
            trouble[client] = trouble.get(client, 0) + (outcome in TROUBLE)
    worst = sorted(trouble, key=lambda c: (-trouble[c], c))[:MOST_CLIENTS]
    return sorted(worst)


def _summary(attempts: Sequence[Attempt]) -> str:
    closed = sum(a.state == "CLOSED" for a in attempts)
    aborted = sum(a.state == "ABORTED" for a in attempts)
    late = sum(len(a.stragglers) for a in attempts)
    failed = sum(len(a.failures) for a in attempts)
    return (
        f"{closed} rounds closed, {aborted} attempts given up; {late} answers not in time, {failed} failures."
    )


def _parts(attempts: Sequence[Attempt], clients: Sequence[str], frame: Frame) -> list[Markup]:
    slot = min(124.0, frame.plot_width / len(attempts))
    cell = slot - min(4.0, slot * 0.2)
    longest = max((a.seconds or 0.0 for a in attempts), default=0.0) or 1.0
    most = int(len(attempts) * slot // 30) or 1
    labelled = set(thinned(range(len(attempts)), most))
    parts = [el("text", "took", x=0, y=frame.top + _STRIP - 12, class_="tick")]
    cells: dict[str, list[str]] = {}  # all of an outcome are one path, or a long run would be a heavy page
    signs: list[Markup] = []
    hits: list[Markup] = []
    top = frame.top + _STRIP
    for row, client in enumerate(clients):
        room = int((frame.left - 10) / 7)
        words = client if len(client) <= room else client[: room - 1] + "…"
        parts.append(el("text", words, x=0, y=top + row * _ROW + 14, class_="name"))
    for i, attempt in enumerate(attempts):
        x = frame.left + i * slot
        height = max(3.0, (attempt.seconds or 0.0) / longest * (_STRIP - 12))
        parts.append(
            el(
                "rect",
                x=x,
                y=top - 6 - height,
                width=cell,
                height=height,
                rx=1.5,
                class_=f"bar {'o-failed' if attempt.state == 'ABORTED' else 's1'}",
            )
        )
        for row, client in enumerate(clients):
            outcome = attempt.outcomes.get(client)
            if outcome is None:
                continue
            y = top + row * _ROW
            cells.setdefault(outcome, []).append(f"M{x:.4g} {y:g}h{cell:.3g}v{_ROW - 4:g}h-{cell:.3g}z")
            if SIGNS[outcome] and cell >= 7:
                signs.append(el("text", SIGNS[outcome], x=x + cell / 2, y=y + 13, class_="sign"))
        if i in labelled:
            parts.append(el("text", _label(attempt), x=x + cell / 2, y=frame.height - 8, class_="tick mid"))
        hits.append(_hit(attempt, x, cell, frame))
    drawn = [el("path", d="".join(d), class_=f"cell {_tone(o)}") for o, d in cells.items()]
    return [*parts, *drawn, *signs, *hits]


def _tone(outcome: str) -> str:
    return f"o-{outcome.replace(' ', '-')}"


def _label(attempt: Attempt) -> str:
    again = f".{attempt.attempt + 1}" if attempt.attempt else ""
    return f"{attempt.round_index + 1}{again}"


def _hit(attempt: Attempt, x: float, cell: float, frame: Frame) -> Markup:
    told = [f"Round {_label(attempt)}, {attempt.state.lower()}", f"took: {seconds(attempt.seconds)}"]
    for what, names in (("not in time", attempt.stragglers), ("failed", attempt.failures)):
        if names:
            told.append(f"{what}: {', '.join(names[:6])}{' …' if len(names) > 6 else ''}")
    if attempt.reason:
        told.append(attempt.reason[:160])
    return el(
        "rect",
        x=x,
        y=frame.top,
        width=cell,
        height=frame.plot_height,
        class_="hit",
        data_tip="\n".join(told),
    )
