"""How many floats a round moves, by arithmetic: what ``motet plan`` prints and the wire must confirm.

Per layer of shape (m, n), rank r, d = m + n. A float is 4 bytes on the wire; a message adds only its header.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Shapes = Mapping[str, tuple[int, int]]


def floats_up(method: str, layer_shapes: Shapes, lora_rank: int, dense_numel: int) -> int:
    """Floats that one client sends a round.

    ``r d`` and one scale a layer for the LoRA methods, ``r^2`` a layer for fed-sb, and the heads.
    """
    if method == "fed-sb":
        return len(layer_shapes) * lora_rank**2 + dense_numel
    return sum(lora_rank * (m + n) + 1 for m, n in layer_shapes.values()) + dense_numel


def floats_down(
    method: str,
    layer_shapes: Shapes,
    ranks: Sequence[int],
    lora_rank: int,
    dense_numel: int,
    round_index: int,
) -> int:
    """Floats that one client of ``lora_rank`` receives for ``round_index``.

    FLoRA sends the accumulated change of the base, nothing in round 0; its rank is at most
    ``min(round_index * sum(ranks), m, n)``, and that bound is counted. ``ranks``: those of a whole cohort.
    """
    if method != "flora":
        return floats_up(method, layer_shapes, lora_rank, dense_numel)
    if round_index == 0:
        return dense_numel
    grown = round_index * sum(ranks)
    return sum(min(grown, m, n) * (m + n) + 1 for m, n in layer_shapes.values()) + dense_numel
