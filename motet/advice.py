"""``motet advise``: which aggregation method, and why, from what a federation needs. Needs no torch.

The needs and the verdicts are those of ``aggregation.table``; here is only where to begin, as ``docs/methods.md``
says it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aggregation.table import COLUMNS, NEEDS, TABLE, Need, nearest, refusal
from motet.errors import MotetError
from motet.recipe.checks import distinct_ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from motet.recipe.model import Recipe

QUESTIONS: Mapping[Need, str] = {
    "mixed_ranks": "Will clients train different ranks, because their machines differ?",
    "example_dp": "Must training be differentially private for each example (DP-SGD at the client)?",
    "client_dp": "Must a whole client's influence be bounded, for noise on the sum?",
    "secure_sums": "May the server see sums only, never one client's update?",
    "constant_download": "Must a download stay as small as it is, however many clients there are?",
    "fixed_base": "Must the base weights stay as they are, as in a base of 8 or 4 bits?",
    "exact": "Must the next model be exactly the mean of the clients' models?",
    "personal_part": "Does every client want a model of its own?",
    "rank_changes": "Will the rank change between rounds, by a schedule or with the machines?",
    "control_variates": "Will clients correct their drift with control variates (SCAFFOLD)?",
}
# The first whose needs are asked for; the last has none.
_STARTS: tuple[tuple[frozenset[Need], str, str], ...] = (
    (frozenset({"personal_part"}), "fedsa", "A is shared, B and the heads stay with each client"),
    (
        frozenset({"example_dp", "client_dp"}),
        "fed-sb",
        "only a small square core is trained, between orthonormal factors, so that the noise of privacy is least",
    ),
    (
        frozenset({"secure_sums"}),
        "fed-sb",
        "the mean of its cores is exact, and a sum is all that the server needs",
    ),
    (
        frozenset({"fixed_base", "constant_download"}),
        "lora-fair",
        "the base stays, and B is corrected so that the product comes closest to the exact sum",
    ),
    (frozenset(), "product", "it is exact for any ranks, and training goes on where it stood"),
)


class NoMethodError(MotetError):
    """No method meets all needs."""

    exit_code = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedOver:
    """A method that was thought of first, and the need that it does not meet."""

    method: str
    need: Need
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """The method for some needs.

    Attributes:
      method: its name in a recipe.
      needs: what was asked for, in the table's order.
      reasons: for people, one sentence each.
      passed_over: methods on the way, with what each lacks.
      also: all other methods that meet every need, in the table's order.
    """

    method: str
    needs: tuple[Need, ...]
    reasons: tuple[str, ...]
    passed_over: tuple[PassedOver, ...]
    also: tuple[str, ...]


def needs_of(recipe: Recipe) -> frozenset[Need]:
    """What a recipe asks of its method: mixed ranks where clients may get several, privacy where it is private."""
    found: set[Need] = set()
    if len(distinct_ranks(recipe)) > 1:
        found.add("mixed_ranks")
    if recipe.privacy is not None:
        found.add("example_dp")
    if recipe.adapter.lora_rank_schedule:
        found.add("rank_changes")
    if recipe.training.algorithm == "scaffold":
        found.add("control_variates")
    return frozenset(found)


def ask(answer: Callable[[str], bool]) -> frozenset[Need]:
    """The needs of a person who answers every question with yes or no."""
    return frozenset(need for need, question in QUESTIONS.items() if answer(question))


def refusals(method: str, needs: frozenset[Need]) -> tuple[PassedOver, ...]:
    """What a method lacks of some needs; empty where it meets all."""
    return tuple(
        PassedOver(method=method, need=need, reason=refused.reason)
        for need in NEEDS
        if need in needs and (refused := refusal(method, need)) is not None
    )


def advise(needs: frozenset[Need]) -> Advice:
    """The method to begin with.

    Raises:
      NoMethodError: no method meets all; the message says what to give up for which method.
    """
    start, why = next((m, w) for asked, m, w in _STARTS if asked & needs or not asked)
    if start == "lora-fair" and "mixed_ranks" in needs:
        start, why = "flexlora", "the base stays, and each client gets the best factors of its own rank"
    method = nearest(start, needs)
    if method is None:
        raise _conflict(needs)
    passed = refusals(start, needs) if method != start else ()
    ordered = tuple(need for need in NEEDS if need in needs)
    reasons = (
        [f"{method}: {why}"]
        if method == start
        else [f"{p.method} lacks {_name(p.need)}: {p.reason}" for p in passed]
    )
    if method != start:
        reasons.append(f"{method} is the nearest that meets all that was asked")
    reasons += [f"{_name(need)}: {COLUMNS[need][1]}" for need in ordered]
    also = tuple(name for name in TABLE if name != method and not refusals(name, needs))
    return Advice(method=method, needs=ordered, reasons=tuple(reasons), passed_over=passed, also=also)


def _name(need: Need) -> str:
    return COLUMNS[need][0]


def _conflict(needs: frozenset[Need]) -> NoMethodError:
    """Which single need to give up, and what that gives."""
    ways = []
    for need in (n for n in NEEDS if n in needs):
        rest = needs - {need}
        found = next((name for name in TABLE if not refusals(name, rest)), None)
        if found is not None:
            ways.append(f"{_name(need)} ({found})")
    asked = ", ".join(_name(n) for n in NEEDS if n in needs)
    hint = (
        f"give up one of: {', '.join(ways)}"
        if ways
        else "give up more than one; docs/methods.md has the table"
    )
    return NoMethodError(f"no method meets all of: {asked}", hint=hint)
