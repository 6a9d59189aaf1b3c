"""Which rounds of a sketched Fed-SB find its bases, how wide their sketches are, and what travels. Needs no torch.

Round 0 sends B (m, l) beside a frozen A from the seed, round 1 sends A (l, n) beside the orthonormal B of round 0, and
every later round the core (r, r), whose bases come down with it. Heads rest in the first two. ``l`` is r and a few
more columns, so that the r leading directions come out clean (Halko et al. 2011, https://arxiv.org/abs/0909.4061,
Sec. 4.2). The arithmetic is ``aggregation.methods.sketched_sb``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregation import floats

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aggregation.floats import Shapes

SKETCH_ROUNDS = 2
SKETCH_NORM = 1e-6
"""What DP-SGD clips a unit's sketch to: below any gradient of size, so that its direction alone counts."""
MORE_COLUMNS = 8


def clipping_words(clipping_norm: object, method: object) -> str:
    """The clipping norm of a run of DP-SGD in words, for people who read what it promises.

    Args:
      clipping_norm: of the recipe, or a word where that is not known.
      method: the recipe's section as plain values.
    """
    said = f"{clipping_norm:g}" if isinstance(clipping_norm, int | float) else str(clipping_norm)
    sketches = (
        isinstance(method, dict) and method.get("basis") == "gradient_sketch" and method.get("train_adapter")
    )
    return (
        f"{said} ({SKETCH_NORM:g} in the {SKETCH_ROUNDS} rounds that sketch gradients)" if sketches else said
    )


def sketch_columns(layer_shapes: Shapes, lora_rank: int) -> int:
    """l: ``lora_rank + 8``, at most the smaller side of any layer; one width for all, as one LoRA has one rank."""
    return min(lora_rank + MORE_COLUMNS, *(side for shape in layer_shapes.values() for side in shape))


def sent_shapes(
    layer_shapes: Shapes, lora_rank: int, dense_shapes: Mapping[str, tuple[int, ...]], round_index: int
) -> dict[str, tuple[int, ...]]:
    """As ``aggregation.floats.sent_shapes``: key -> shape of what a client sends."""
    if round_index >= SKETCH_ROUNDS:
        return floats.sent_shapes("fed-sb", layer_shapes, lora_rank, dense_shapes)
    width = sketch_columns(layer_shapes, lora_rank)
    return floats.sent_shapes("rolora", layer_shapes, width, {}, round_index)


def received_shapes(
    layer_shapes: Shapes, lora_rank: int, dense_shapes: Mapping[str, tuple[int, ...]], round_index: int
) -> dict[str, tuple[int, ...]]:
    """As ``aggregation.floats.received_shapes``: nothing but heads, then the sketch's basis, then bases and cores."""
    heads: dict[str, tuple[int, ...]] = {f"dense/{name}": shape for name, shape in dense_shapes.items()}
    if round_index == 0:
        return heads
    if round_index < SKETCH_ROUNDS:
        width = sketch_columns(layer_shapes, lora_rank)
        return heads | floats.sent_shapes("rolora", layer_shapes, width, {}, 0)
    return floats.sent_shapes("fed-sb", layer_shapes, lora_rank, dense_shapes) | floats.sent_shapes(
        "fedit", layer_shapes, lora_rank, {}
    )


def trained_numbers(layer_shapes: Shapes, lora_rank: int, dense_numel: int, round_index: int) -> int:
    """As ``aggregation.floats.trained_numbers``: the numbers whose gradient a client takes in a round."""
    if round_index >= SKETCH_ROUNDS:
        return floats.trained_numbers("fed-sb", layer_shapes, lora_rank, dense_numel)
    width = sketch_columns(layer_shapes, lora_rank)
    return floats.trained_numbers("rolora", layer_shapes, width, 0, round_index)
