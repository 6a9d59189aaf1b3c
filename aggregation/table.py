"""What each method can be combined with: one row a method, one column a need, and for each no a reason and a way out.

The coordinator refuses a recipe whose need a method does not meet (``refusal``) and names the nearest method that
meets it. ``docs/methods.md`` is made from these rows. This module needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping

Need: TypeAlias = Literal[
    "mixed_ranks",
    "secure_sums",
    "example_dp",
    "client_dp",
    "constant_download",
    "exact",
    "fixed_base",
    "personal_part",
    "control_variates",
    "rank_changes",
]
NEEDS: tuple[Need, ...] = get_args(Need)
COLUMNS: Mapping[Need, tuple[str, str]] = {
    "mixed_ranks": ("mixed ranks", "clients may train different ranks"),
    "secure_sums": ("secure sums", "one sum of what the clients send is all that the server needs"),
    "example_dp": ("example DP", "DP-SGD at the client covers all that leaves it"),
    "client_dp": ("client DP", "clipping what a client sends bounds its influence, for noise on the sum"),
    "constant_download": (
        "constant download",
        "what a client receives does not grow with the number of clients",
    ),
    "exact": ("exact", "the next model is the mean of the models that the clients hold"),
    "fixed_base": ("base stays", "the base weights never change, so that 8 and 4 bit bases work"),
    "personal_part": ("personal part", "each client keeps a part of its own"),
    "control_variates": (
        "control variates",
        "SCAFFOLD: what trains has the same coordinates in every round and client, so that gradients of two "
        "rounds compare; one rank for all",
    ),
    "rank_changes": (
        "rank changes",
        "the rank may change between rounds: growing keeps the product, cutting tells its error",
    ),
}


@dataclass(frozen=True, slots=True)
class No:
    """A need that is not met.

    Attributes:
      reason: why, in one line.
      instead: the nearest method that meets it.
    """

    reason: str
    instead: str


Verdict: TypeAlias = Literal[True] | No


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One method. Verdicts in the order of ``NEEDS``; costs are floats a layer of shape (m, n), d = m + n."""

    title: str
    paper: str
    url: str
    up: str
    down: str
    resident: str
    mixed_ranks: Verdict
    secure_sums: Verdict
    client_dp: Verdict
    constant_download: Verdict
    exact: Verdict
    fixed_base: Verdict
    control_variates: Verdict
    example_dp: Verdict = True
    rank_changes: Verdict = True
    personal_part: Verdict = No("everything that is trained is shared", "fedsa")

    def verdict(self, need: Need) -> Verdict:
        """The verdict of a column."""
        found: Verdict = getattr(self, need)
        return found

    @property
    def base_changes(self) -> bool:
        """Whether what was learned is folded into the base weights."""
        return self.fixed_base is not True


_MEAN_IS_BIASED = "the product of means is not the mean of products"
_NEEDS_FACTORS = "it needs every client's factors, not their sum"
_UNBOUNDED = "its result is not a sum of what clients send, so clipping does not bound one client's influence"
_QUANTISED = "a base of 8 or 4 bits can not take what is folded into it"
_FRESH = "clients begin each round with fresh factors, so that a kept gradient is of factors that are gone"
_TURNED = "a new decomposition turns the factors each round, so that a kept gradient is of other coordinates"
_WIDE = "(m + n) R at first, m n at most"

TABLE: Mapping[str, Row] = {
    "fedit": Row(
        title="FedIT",
        paper="Zhang et al. 2023",
        url="https://arxiv.org/abs/2305.05644",
        up="r d",
        down="r d",
        resident=_WIDE,
        mixed_ranks=No("B and A of different ranks have no mean", "zero-pad"),
        secure_sums=True,
        client_dp=True,
        constant_download=True,
        exact=No(_MEAN_IS_BIASED, "fedex"),
        fixed_base=True,
        control_variates=True,
    ),
    "flora": Row(
        title="FLoRA",
        paper="Wang et al. 2024",
        url="https://arxiv.org/abs/2409.05976",
        up="r d",
        down="R d a round so far, m n at most",
        resident=_WIDE,
        mixed_ranks=True,
        secure_sums=No(_NEEDS_FACTORS, "ffa"),
        client_dp=No(_UNBOUNDED, "ffa"),
        constant_download=No("all clients' factors come back to each client", "flexlora"),
        exact=True,
        fixed_base=No(_QUANTISED, "flexlora"),
        control_variates=No(_FRESH, "ffa"),
    ),
    "fed-sb": Row(
        title="Fed-SB",
        paper="Singhal et al. 2025",
        url="https://arxiv.org/abs/2502.15436",
        up="r^2",
        down="r^2",
        resident="r^2",
        mixed_ranks=No("its square cores live in one shared basis", "ffa"),
        secure_sums=True,
        client_dp=True,
        constant_download=True,
        exact=True,
        fixed_base=True,
        rank_changes=No("its frozen bases belong to one rank", "ffa"),
        control_variates=True,
    ),
    "lora-fair": Row(
        title="LoRA-FAIR",
        paper="Bian et al. 2025",
        url="https://arxiv.org/abs/2411.14961",
        up="r d",
        down="r d",
        resident=_WIDE,
        mixed_ranks=No("B and A of different ranks have no mean", "flexlora"),
        secure_sums=No("the correction needs a second sum once the mean of A is known", "ffa"),
        client_dp=No(_UNBOUNDED, "ffa"),
        constant_download=True,
        exact=No("what lies outside the rows of the mean of A is lost", "fedex"),
        fixed_base=True,
        control_variates=No(
            "B is rewritten after the mean, so that a kept gradient is of another B", "fedit"
        ),
    ),
    "zero-pad": Row(
        title="Zero padding",
        paper="Cho et al. 2024",
        url="https://arxiv.org/abs/2401.06432",
        up="r_k d",
        down="r_k d",
        resident=_WIDE,
        mixed_ranks=True,
        secure_sums=True,
        client_dp=True,
        constant_download=True,
        exact=No(_MEAN_IS_BIASED + ", and padding shrinks what few clients have", "product"),
        fixed_base=True,
        control_variates=True,
    ),
    "rank-index": Row(
        title="Mean by rank index",
        paper="Chen et al. 2024 (RBLA)",
        url="https://arxiv.org/abs/2408.08699",
        up="r_k d",
        down="r_k d",
        resident=_WIDE,
        mixed_ranks=True,
        secure_sums=True,
        client_dp=No("a component that one client has is that client's alone", "zero-pad"),
        constant_download=True,
        exact=No(_MEAN_IS_BIASED + ", and few clients count for many", "product"),
        fixed_base=True,
        control_variates=True,
    ),
    "product": Row(
        title="Exact product",
        paper="as FedMomentum, 2026",
        url="https://arxiv.org/abs/2603.08014",
        up="r_k d",
        down="r_k d, and (R - r) d a round so far, m n at most",
        resident=_WIDE,
        mixed_ranks=True,
        secure_sums=No(_NEEDS_FACTORS, "ffa"),
        client_dp=No(_UNBOUNDED, "ffa"),
        constant_download=No("the remainder that is folded into the base grows with the cohort", "flexlora"),
        exact=True,
        fixed_base=No(_QUANTISED, "flexlora"),
        control_variates=No(_TURNED, "fedit"),
    ),
    "flexlora": Row(
        title="FlexLoRA",
        paper="Bai et al. 2024",
        url="https://arxiv.org/abs/2402.11505",
        up="r_k d",
        down="r_k d",
        resident=_WIDE,
        mixed_ranks=True,
        secure_sums=No(_NEEDS_FACTORS, "ffa"),
        client_dp=No(_UNBOUNDED, "ffa"),
        constant_download=True,
        exact=No("what the global rank can not hold is cut", "product"),
        fixed_base=True,
        control_variates=No(_TURNED, "fedit"),
    ),
    "florist": Row(
        title="FLoRIST",
        paper="Ramesh and Dass 2025",
        url="https://arxiv.org/abs/2506.09199",
        up="r_k d",
        down="at most FLoRA's",
        resident=_WIDE,
        mixed_ranks=True,
        secure_sums=No(_NEEDS_FACTORS, "ffa"),
        client_dp=No(_UNBOUNDED, "ffa"),
        constant_download=No("what is kept of each round comes back to each client", "flexlora"),
        exact=No("components below the energy threshold are cut", "product"),
        fixed_base=No(_QUANTISED, "flexlora"),
        control_variates=No(_FRESH, "ffa"),
    ),
    "fedex": Row(
        title="FedEx-LoRA",
        paper="Singhal et al. 2024",
        url="https://arxiv.org/abs/2410.09432",
        up="r d",
        down="r d, and (K - 1) r d a round so far, m n at most",
        resident=_WIDE,
        mixed_ranks=No("B and A of different ranks have no mean", "product"),
        secure_sums=No(_NEEDS_FACTORS, "ffa"),
        client_dp=No(_UNBOUNDED, "ffa"),
        constant_download=No("the residual that is folded into the base grows with the cohort", "lora-fair"),
        exact=True,
        fixed_base=No(_QUANTISED, "lora-fair"),
        control_variates=No(
            "the base moves below the factors each round, so that a kept gradient is of another base", "fedit"
        ),
    ),
    "ffa": Row(
        title="FFA-LoRA",
        paper="Sun et al. 2024",
        url="https://arxiv.org/abs/2403.12313",
        up="r_k m",
        down="r_k m",
        resident="r m",
        mixed_ranks=True,
        secure_sums=True,
        client_dp=True,
        constant_download=True,
        exact=True,
        fixed_base=True,
        control_variates=True,
    ),
    "rolora": Row(
        title="RoLoRA",
        paper="Chen et al. 2025",
        url="https://arxiv.org/abs/2502.01755",
        up="r m or r n",
        down="r d",
        resident="r d",
        mixed_ranks=No("the factor that rests must be the same for all", "ffa"),
        secure_sums=True,
        client_dp=True,
        constant_download=True,
        exact=True,
        fixed_base=True,
        control_variates=No(
            "the factor that trains changes every round, so that a kept gradient is of the other one", "ffa"
        ),
    ),
    "fedsa": Row(
        title="FedSA-LoRA",
        paper="Guo et al. 2024",
        url="https://arxiv.org/abs/2410.01463",
        up="r_k n",
        down="r_k n",
        resident="r n",
        mixed_ranks=True,
        secure_sums=True,
        client_dp=No("a row of A that one client has is that client's alone", "ffa"),
        constant_download=True,
        exact=No("every client keeps its own B, so there is no global model", "ffa"),
        fixed_base=True,
        rank_changes=No("each client's own B has the rank of the rounds before", "ffa"),
        control_variates=No("each client's own B differs for good, and A's gradient with it", "ffa"),
        personal_part=True,
    ),
    "hetlora": Row(
        title="HetLoRA",
        paper="Cho et al. 2024",
        url="https://arxiv.org/abs/2401.06432",
        up="r_k d",
        down="r_k d",
        resident=_WIDE,
        mixed_ranks=True,
        secure_sums=True,
        client_dp=No(
            "its weights come from the data, so that one client's share has no fixed bound", "zero-pad"
        ),
        constant_download=True,
        exact=No(_MEAN_IS_BIASED + ", and larger changes count more", "product"),
        fixed_base=True,
        control_variates=No(
            "clients count by the size of their change, control variates count them alike", "zero-pad"
        ),
    ),
    "dp-lora": Row(
        title="DP-LoRA",
        paper="Liu et al. 2023",
        url="https://arxiv.org/abs/2312.17493",
        up="r d",
        down="r d",
        resident=_WIDE,
        mixed_ranks=No("B and A of different ranks have no mean", "ffa"),
        secure_sums=True,
        client_dp=True,
        constant_download=True,
        exact=No(_MEAN_IS_BIASED + "; the noise of both factors multiplies", "ffa"),
        fixed_base=True,
        control_variates=True,
    ),
}


def refusal(method: str, need: Need) -> No | None:
    """Why ``method`` can not be combined with ``need``, and what can; None where it can.

    Raises:
      KeyError: no such method or need; the message lists all.
    """
    if method not in TABLE:
        raise KeyError(f"no method {method!r}; there are {', '.join(sorted(TABLE))}")
    if need not in NEEDS:
        raise KeyError(f"no column {need!r}; there are {', '.join(NEEDS)}")
    verdict = TABLE[method].verdict(need)
    return verdict if isinstance(verdict, No) else None


def nearest(method: str, needs: frozenset[Need]) -> str | None:
    """A method that meets every one of ``needs``: ``method`` itself, else the nearest, or None.

    Ways out are followed from need to need; where they lead in a circle, the first row that meets all is taken.
    """
    seen: set[str] = set()
    current = method
    while current not in seen:
        seen.add(current)
        refused = [r for need in NEEDS if need in needs and (r := refusal(current, need)) is not None]
        if not refused:
            return current
        current = refused[0].instead
    return next((name for name in TABLE if not any(refusal(name, need) for need in needs)), None)


def as_markdown() -> str:
    """The table, the reasons and the costs, as they stand in ``docs/methods.md``."""
    lines = ["| method | " + " | ".join(COLUMNS[need][0] for need in NEEDS) + " |"]
    lines.append("|---" * (len(NEEDS) + 1) + "|")
    for name, row in TABLE.items():
        cells = ["yes" if row.verdict(need) is True else "no" for need in NEEDS]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    lines += ["", "What the columns mean:", ""]
    lines += [f"- **{title}**: {meaning}." for title, meaning in COLUMNS.values()]
    lines += [
        "",
        "Each no, and the nearest method that says yes:",
        "",
        "| method | need | why not | use |",
        "|---|---|---|---|",
    ]
    for name, row in TABLE.items():
        for need in NEEDS:
            verdict = row.verdict(need)
            if isinstance(verdict, No) and need != "personal_part":
                lines.append(f"| `{name}` | {COLUMNS[need][0]} | {verdict.reason} | `{verdict.instead}` |")
    lines += [
        "",
        "Floats for a layer of shape (m, n), d = m + n, K clients of ranks r_k, R their sum, r the global rank:",
        "",
    ]
    lines += ["| method | up | down | coordinator holds |", "|---|---|---|---|"]
    lines += [f"| `{name}` | {row.up} | {row.down} | {row.resident} |" for name, row in TABLE.items()]
    return "\n".join(lines) + "\n"
