"""What each method goes with beside its needs: robust rules, server optimisers, feedback of compression's error.

Beside ``aggregation.table``, in the same form: each no has a reason and the nearest method that says yes. Options can
also clash with each other. The recipe parser refuses both; ``docs/methods.md`` is made from these rows. Needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from aggregation.table import TABLE, No, refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

Option: TypeAlias = Literal["robust_rule", "coordinate_rule", "server_optimizer", "error_feedback"]
OPTIONS: tuple[Option, ...] = get_args(Option)
OPTION_COLUMNS: Mapping[Option, tuple[str, str]] = {
    "robust_rule": (
        "robust weights",
        "`robust.rule` weighs clients by how far their changes lie from each other",
    ),
    "coordinate_rule": ("coordinate rules", "`robust.rule` looks at each trained number by itself"),
    "server_optimizer": (
        "server optimiser",
        "`server_optimizer.rule` treats the mean of a round as a step and gives steps momentum or their own size",
    ),
    "error_feedback": (
        "error feedback",
        "what `compression` left out of one message is added to the next",
    ),
}

AVERAGES_FACTORS = frozenset({"fedit", "lora-fair", "zero-pad", "rank-index", "fedex", "hetlora", "dp-lora"})
"""Methods that average B and A apart: a harmless product can hide huge factors, so both are bounded."""

_GAUGE = "single numbers of factors mean nothing: B and A of one product can be rotated and scaled at will"
_BOTH = "the product is not linear in two factors that are trained together"
_SVD = "a decomposition gives new coordinates each round, which what was kept of the last does not fit"
_FRESH = "each round begins with fresh factors, which what was kept of the last does not fit"

_REFUSED: Mapping[Option, Mapping[str, No]] = {
    "robust_rule": {
        "hetlora": No(
            "it makes its own weights from the sizes of the changes and reads no others", "zero-pad"
        ),
    },
    "coordinate_rule": {name: No(_GAUGE, "fed-sb") for name in TABLE if name != "fed-sb"},
    "server_optimizer": {
        "fedit": No(_BOTH, "rolora"),
        "dp-lora": No(_BOTH, "rolora"),
        "lora-fair": No(_BOTH, "rolora"),
        "fedex": No(_BOTH, "rolora"),
        "zero-pad": No(_BOTH, "ffa"),
        "rank-index": No(_BOTH, "ffa"),
        "hetlora": No(_BOTH, "ffa"),
        "flora": No(_FRESH, "ffa"),
        "florist": No(_FRESH, "ffa"),
        "product": No(_SVD, "ffa"),
        "flexlora": No(_SVD, "ffa"),
    },
    "error_feedback": {
        "flora": No(_FRESH, "fedex"),
        "florist": No(_FRESH, "zero-pad"),
        "product": No(_SVD, "fedex"),
        "flexlora": No(_SVD, "zero-pad"),
    },
}

CLASHES: Mapping[frozenset[str], tuple[str, str]] = {
    frozenset({"secure sums", "compression"}): (
        "masks are added in a ring of whole numbers that all clients share, and numbers with sizes or places of "
        "their own have no sum there",
        "leave compression out; the ring has its own, fixed precision",
    ),
    frozenset({"secure sums", "robust.rule"}): (
        "a rule compares single updates, which the server does not see",
        "leave the rule out, and bound each update at its client",
    ),
    frozenset({"privacy.unit: client", "robust.rule"}): (
        "a weight that depends on all updates has no bound that noise on the sum could be set to",
        "leave the rule out; each update is clipped to privacy.clipping_norm",
    ),
    frozenset({"privacy.unit: client", "error_feedback"}): (
        "what a message left out has no noise yet, and would reach a later round beside that round's own",
        "set compression.error_feedback: false, or privacy.unit: example",
    ),
    frozenset({"method.self_pruning", "compression"}): (
        "a compressed message names no shapes, so that nobody could tell the rank that its client has cut itself to",
        "leave compression out; a pruned rank makes uploads smaller as it is",
    ),
    frozenset({"scaffold", "robust.rule"}): (
        "its mean control variate counts every client alike, whatever weight a rule gives it",
        "set training.algorithm: fedprox, or leave the rule out; the clip stays on and bounds both",
    ),
}
"""Two options -> why they do not go together, and what to do. The key is without order."""


def option_refusal(method: str, option: Option) -> No | None:
    """Why ``method`` does not go with ``option``, and what does; None where it does.

    Raises:
      KeyError: no such method or option.
    """
    if method not in TABLE:
        raise KeyError(f"no method {method!r}; there are {', '.join(sorted(TABLE))}")
    return _REFUSED[option].get(method)


_BEYOND_TWICE: Mapping[str, int] = {"multi_krum": 3, "trimmed": 1, "coordinate_trimmed_mean": 1}


def least_clients(rule: str, num_bad: int) -> int:
    """How many updates a robust rule needs to outvote ``num_bad`` wrong ones; 1 for rules that read no such number."""
    return 2 * num_bad + _BEYOND_TWICE[rule] if rule in _BEYOND_TWICE else 1


def clash(one: str, other: str) -> tuple[str, str] | None:
    """Why two options do not go together, and what to do; None where they do."""
    return CLASHES.get(frozenset({one, other}))


def weights_bind(method: str, *, mixed_ranks: bool) -> bool:
    """Whether a client's weight bounds its part in the result.

    Not for hetlora, which reads none; nor, with mixed ranks, for a mean over those who have a component: a client
    that alone has one fills it whatever its weight.
    """
    if option_refusal(method, "robust_rule") is not None:
        return False
    return not (mixed_ranks and method in ("rank-index", "fedsa"))


def mixed_rule_refusal(method: str) -> No | None:
    """Why a robust rule is not sound for ``method`` when ranks differ; None where it is."""
    refused = option_refusal(method, "robust_rule")
    if refused is not None or weights_bind(method, mixed_ranks=True):
        return refused
    return refusal(method, "client_dp")


def as_markdown() -> str:
    """The table of options and its reasons, as they stand in ``docs/methods.md``."""
    lines = ["What goes with which method:", ""]
    lines.append("| method | " + " | ".join(OPTION_COLUMNS[option][0] for option in OPTIONS) + " |")
    lines.append("|---" * (len(OPTIONS) + 1) + "|")
    for name in TABLE:
        cells = [_cell(name, option) for option in OPTIONS]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    lines += [""] + [f"- **{title}**: {meaning}." for title, meaning in OPTION_COLUMNS.values()]
    lines += ["", "Each no that is not the same for all but one, and the nearest method that says yes:", ""]
    lines += ["| method | option | why not | use |", "|---|---|---|---|"]
    for name in TABLE:
        for option in OPTIONS:
            refused = option_refusal(name, option)
            if refused is not None and option != "coordinate_rule":
                title = OPTION_COLUMNS[option][0]
                lines.append(f"| `{name}` | {title} | {refused.reason} | `{refused.instead}` |")
        mixed = mixed_rule_refusal(name)
        if mixed is not None and option_refusal(name, "robust_rule") is None:
            title = f"{OPTION_COLUMNS['robust_rule'][0]}, mixed ranks"
            lines.append(f"| `{name}` | {title} | {mixed.reason} | `{mixed.instead}` |")
    lines.append(f"| all but `fed-sb` | {OPTION_COLUMNS['coordinate_rule'][0]} | {_GAUGE} | `fed-sb` |")
    lines += ["", "Options that do not go together, whatever the method:", ""]
    lines += ["| options | why not | instead |", "|---|---|---|"]
    lines += [
        f"| {' with '.join(sorted(pair))} | {reason} | {remedy} |"
        for pair, (reason, remedy) in CLASHES.items()
    ]
    return "\n".join(lines) + "\n"


def _cell(method: str, option: Option) -> str:
    if option_refusal(method, option) is not None:
        return "no"
    if option == "robust_rule" and mixed_rule_refusal(method) is not None:
        return "one rank"
    return "yes"
