"""What a round moves, by arithmetic: shapes, of which ``motet plan`` counts the bytes, and their floats by formula.

Per layer of shape (m, n), rank r, d = m + n. A float is 4 bytes on the wire; a message adds only its header. The
formulas (``floats_up``, ``floats_down``, ``floats_control``) are those of the papers' tables; tests hold the shapes,
and messages of rounds, to them. This module needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

Shapes = Mapping[str, tuple[int, int]]
Sent = Literal["AB", "A", "B", "core"]

_SENDS: Mapping[str, tuple[Sent, ...]] = {
    "fed-sb": ("core",),
    "ffa": ("B",),
    "fedsa": ("A",),
    "rolora": ("B", "A"),
}
_RECEIVES: Mapping[str, Sent] = {"fed-sb": "core", "ffa": "B", "fedsa": "A"}


def sent_factors(method: str, round_index: int = 0) -> Sent:
    """What a client sends of each layer in a round."""
    turns = _SENDS.get(method, ("AB",))
    return turns[round_index % len(turns)]


def floats_up(
    method: str, layer_shapes: Shapes, lora_rank: int, dense_numel: int, round_index: int = 0
) -> int:
    """Floats that one client of ``lora_rank`` sends in a round.

    A layer costs ``r d`` and one scale; ``r m`` or ``r n`` and one scale where one factor is sent; ``r^2`` for
    fed-sb. Heads are added, except for fedsa, whose heads stay.
    """
    heads = 0 if method == "fedsa" else dense_numel
    return _layers(sent_factors(method, round_index), layer_shapes, lora_rank) + heads


def trained_numbers(
    method: str, layer_shapes: Shapes, lora_rank: int, dense_numel: int, round_index: int = 0
) -> int:
    """Numbers that one client of ``lora_rank`` trains in a round: those factors that are not frozen, and the heads.

    What is sent, without scales; fedsa also trains B and heads, which stay.
    """
    trained = "AB" if method == "fedsa" else sent_factors(method, round_index)
    scales = 0 if trained == "core" else len(layer_shapes)
    return _layers(trained, layer_shapes, lora_rank) - scales + dense_numel


def floats_down(
    method: str,
    layer_shapes: Shapes,
    ranks: Sequence[int],
    lora_rank: int,
    dense_numel: int,
    round_index: int,
) -> int:
    """Floats that one client of ``lora_rank`` receives for ``round_index``.

    Methods that change the base send what has been folded into it so far. Its rank grows each round by the sum of
    ranks (flora, and florist at most), by (K - 1) r (fedex), or by what the exact sum has beyond the global rank
    (product), up to min(m, n); that bound is counted. ``ranks``: those of a whole cohort, of which the largest is
    the global rank.
    """
    if method in ("flora", "florist"):
        base = [_folded(method, ranks, lora_rank, round_index, shape) for shape in layer_shapes.values()]
        return _base(base, layer_shapes) + dense_numel
    total = _layers(_RECEIVES.get(method, "AB"), layer_shapes, lora_rank) + dense_numel
    if method in ("fedex", "product"):
        base = [_folded(method, ranks, lora_rank, round_index, shape) for shape in layer_shapes.values()]
        total += _base(base, layer_shapes)
    return total


def floats_control(method: str, layer_shapes: Shapes, lora_rank: int, dense_numel: int) -> int:
    """Floats of SCAFFOLD's mean control variate, which comes down with every round but the first.

    One for each number that a client trains and sends. Nothing more goes up: the coordinator derives the change of the
    mean from what is sent anyway (``aggregation.control``).
    """
    scales = 0 if sent_factors(method) == "core" else len(layer_shapes)
    return floats_up(method, layer_shapes, lora_rank, dense_numel) - scales


def sent_shapes(
    method: str,
    layer_shapes: Shapes,
    lora_rank: int,
    dense_shapes: Mapping[str, tuple[int, ...]],
    round_index: int = 0,
) -> dict[str, tuple[int, ...]]:
    """Key -> shape of what a client sends, as ``aggregation.serialize`` names it; numbers as in ``floats_up``."""
    side = sent_factors(method, round_index)
    found = _keys("half" if side in ("A", "B") else "lora", side, layer_shapes, lora_rank)
    return found | (
        {} if method == "fedsa" else {f"dense/{name}": shape for name, shape in dense_shapes.items()}
    )


def received_shapes(
    method: str,
    layer_shapes: Shapes,
    ranks: Sequence[int],
    lora_rank: int,
    dense_shapes: Mapping[str, tuple[int, ...]],
    round_index: int,
) -> dict[str, tuple[int, ...]]:
    """Key -> shape of what a client receives; numbers as in ``floats_down``, arguments too."""
    found: dict[str, tuple[int, ...]] = {f"dense/{name}": shape for name, shape in dense_shapes.items()}
    if method not in ("flora", "florist"):
        side = _RECEIVES.get(method, "AB")
        found |= _keys("half" if side in ("A", "B") else "lora", side, layer_shapes, lora_rank)
    if method in ("flora", "florist", "fedex", "product"):
        for layer, shape in layer_shapes.items():
            folded = _folded(method, ranks, lora_rank, round_index, shape)
            found |= _keys("base", "AB", {layer: shape}, folded) if folded else {}
    return found


def control_shapes(
    method: str, layer_shapes: Shapes, lora_rank: int, dense_shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Key -> shape of SCAFFOLD's mean control variate; numbers as in ``floats_control``."""
    found = {}
    for key, shape in sent_shapes(method, layer_shapes, lora_rank, dense_shapes).items():
        kind, _, name = key.partition("/")
        if not key.endswith("/scale"):
            layer, _, side = name.rpartition("/")
            found[f"control/{kind}/{name}" if kind in ("core", "dense") else f"control/{side}/{layer}"] = (
                shape
            )
    return found


def _keys(kind: str, side: Sent, layer_shapes: Shapes, lora_rank: int) -> dict[str, tuple[int, ...]]:
    if side == "core":
        return {f"core/{layer}": (lora_rank, lora_rank) for layer in layer_shapes}
    found: dict[str, tuple[int, ...]] = {}
    for layer, (m, n) in layer_shapes.items():
        found |= {f"{kind}/{layer}/A": (lora_rank, n)} if "A" in side else {}
        found |= {f"{kind}/{layer}/B": (m, lora_rank)} if "B" in side else {}
        found[f"{kind}/{layer}/scale"] = (1,)
    return found


def _layers(sent: Sent, layer_shapes: Shapes, lora_rank: int) -> int:
    if sent == "core":
        return len(layer_shapes) * lora_rank**2
    return sum(lora_rank * (m * ("B" in sent) + n * ("A" in sent)) + 1 for m, n in layer_shapes.values())


def _base(folded_ranks: Sequence[int], layer_shapes: Shapes) -> int:
    """Floats of the change of the base; a layer without any is not sent."""
    sides = zip(folded_ranks, layer_shapes.values(), strict=True)
    return sum(rank * (m + n) + 1 for rank, (m, n) in sides if rank)


def _folded(
    method: str, ranks: Sequence[int], lora_rank: int, round_index: int, shape: tuple[int, int]
) -> int:
    """Most components in a layer's base, as a client of ``lora_rank`` receives it."""
    smaller = min(shape)
    if method in ("flora", "florist"):
        return min(round_index * sum(ranks), smaller)
    if method == "fedex":
        return min(round_index * (sum(ranks) - max(ranks)), smaller)
    largest, grown = max(ranks), 0
    for earlier in range(round_index):
        tails = largest - min(ranks) if earlier else 0
        grown = min(grown + max(min(sum(ranks) + tails, smaller) - largest, 0), smaller)
    behind = largest - lora_rank if round_index else 0
    return min(grown + behind, smaller)
