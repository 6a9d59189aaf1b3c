"""Which replies are admitted: cheap checks first, tensors last, nothing stored before all have passed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from aggregation.adapter import AdapterState, FactorPair
from aggregation.errors import MalformedUpdateError
from aggregation.serialize import check_manifest, from_bytes, manifest, read_manifest, sha256_hex

if TYPE_CHECKING:
    from aggregation.methods import Method
    from coordinator.engine.shape import ModelShape
    from motet.recipe import Recipe
    from motet.wire.messages import TrainOrder, TrainReply

HEADER_ALLOWANCE = 1 << 20


def expected_manifest(
    method: Method, shape: ModelShape, lora_rank: int, round_index: int
) -> dict[str, tuple[int, ...]]:
    """Key -> shape of what a client of ``lora_rank`` must send in a round. Holds no numbers, whatever the size."""

    def blank(*sides: int) -> torch.Tensor:
        return torch.empty(sides, device="meta")

    layers = shape.layer_shapes.items()
    held = AdapterState(dense={name: blank(*value.shape) for name, value in shape.dense.items()})
    if method.trains == "core":
        held = replace(held, cores={layer: blank(lora_rank, lora_rank) for layer, _ in layers})
    else:
        pairs = {k: FactorPair(B=blank(m, lora_rank), A=blank(lora_rank, n)) for k, (m, n) in layers}
        held = replace(held, lora=pairs)
    return manifest(method.trained_part(held, round_index))


def admit(reply: TrainReply, order: TrainOrder, recipe: Recipe, method: Method, shape: ModelShape) -> None:
    """Raise unless ``reply`` is a sound answer to ``order`` under ``recipe``.

    Raises:
      MalformedUpdateError: its code names the first check that failed.
    """
    for name in ("run_id", "round_index", "attempt", "client_id"):
        if getattr(reply, name) != getattr(order, name):
            raise MalformedUpdateError(
                "wrong_envelope", f"{name} is {getattr(reply, name)!r}, expected {getattr(order, name)!r}"
            )
    _check_released_values(reply, recipe)
    expected = expected_manifest(method, shape, order.lora_rank, order.round_index)
    floats = sum(_numel(s) for s in expected.values())
    if len(reply.payload) > 4 * floats + HEADER_ALLOWANCE:
        raise MalformedUpdateError(
            "too_large", f"{len(reply.payload)} bytes, {4 * floats} and a header are expected"
        )
    if sha256_hex(reply.payload) != reply.payload_sha256:
        raise MalformedUpdateError("hash_differs", "the payload is not what its hash says")
    found, _ = read_manifest(reply.payload)
    check_manifest(found, expected)
    state = from_bytes(reply.payload)
    scale = recipe.scale_of(order.lora_rank)
    told = {layer: pair.scale for layer, pair in state.lora.items()}
    told |= {layer: half.scale for layer, half in state.halves.items()}
    for layer, found_scale in told.items():
        if abs(found_scale - scale) > 1e-6 * abs(scale):
            raise MalformedUpdateError(
                "bad_scale", f"{layer}: scale {found_scale} is not the recipe's {scale}"
            )


def _check_released_values(reply: TrainReply, recipe: Recipe) -> None:
    """What stands beside the tensors: weight, count, and whether noise was added."""
    if not 0 < reply.aggregation_weight < 1e12:
        raise MalformedUpdateError("bad_weight", "the aggregation weight is not positive and finite")
    if reply.num_examples < 0:
        raise MalformedUpdateError("bad_count", "the number of examples is negative")
    if recipe.privacy is not None:
        if recipe.trains_privately and not reply.is_private:
            raise MalformedUpdateError("not_private", "the run is private, this update carries no noise")
        if reply.num_examples:
            raise MalformedUpdateError(
                "released_count", "a private client must not tell its number of examples"
            )
    if recipe.cohort.weights == "num_examples" and reply.aggregation_weight != reply.num_examples:
        raise MalformedUpdateError("bad_weight", "the aggregation weight is not the number of examples")


def _numel(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
