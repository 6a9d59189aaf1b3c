"""Which replies are admitted: cheap checks first, tensors last, nothing stored before all have passed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from aggregation.adapter import AdapterState, FactorPair
from aggregation.compression import decompress, payload_bytes
from aggregation.errors import MalformedUpdateError
from aggregation.methods.hetlora import tail_rank
from aggregation.serialize import (
    check_manifest,
    flatten,
    from_bytes,
    manifest,
    message_bytes,
    read_manifest,
    sha256_hex,
)
from aggregation.sketch_rounds import sketch_columns
from motet.recipe.method import scheme_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aggregation.compression import Scheme
    from aggregation.methods import Method
    from coordinator.engine.shape import ModelShape
    from motet.recipe import Recipe
    from motet.wire.messages import TrainOrder, TrainReply

HEADER_ALLOWANCE = 1 << 16  # beyond the exact size: so that what is wrong with a header can be named
LARGEST_MOVE = 1e30  # added to what training started from it must stay finite
MOST_EXAMPLES = 2**31 - 1  # what the column of every database holds
LARGEST_VALUE = 1e18  # its square is a float32


def expected_manifest(
    method: Method, shape: ModelShape, lora_rank: int, round_index: int
) -> dict[str, tuple[int, ...]]:
    """Key -> shape of what a client of ``lora_rank`` must send in a round. Holds no numbers, whatever the size."""

    def blank(*sides: int) -> torch.Tensor:
        return torch.empty(sides, device="meta")

    layers = shape.layer_shapes.items()
    held = AdapterState(dense={name: blank(*value.shape) for name, value in shape.dense.items()})
    if method.trained_factors(round_index) == "core":
        held = replace(held, cores={layer: blank(lora_rank, lora_rank) for layer, _ in layers})
    else:
        lora_rank = sketch_columns(shape.layer_shapes, lora_rank) if method.trains == "core" else lora_rank
        pairs = {k: FactorPair(B=blank(m, lora_rank), A=blank(lora_rank, n)) for k, (m, n) in layers}
        held = replace(held, lora=pairs)
    return manifest(method.trained_part(held, round_index))


def largest_payload(
    recipe: Recipe, method: Method, shape: ModelShape, *, lora_rank: int, round_index: int
) -> int:
    """The most bytes that an admitted payload has; a header may be longer by ``HEADER_ALLOWANCE``, to be refused."""
    expected = expected_manifest(method, shape, lora_rank, round_index)
    scheme = scheme_of(recipe)
    if scheme is not None:
        return payload_bytes(sent_shapes(expected), scheme)
    return message_bytes(expected) + HEADER_ALLOWANCE


def admit(reply: TrainReply, order: TrainOrder, recipe: Recipe, method: Method, shape: ModelShape) -> int:
    """Raise unless ``reply`` is a sound answer to ``order`` under ``recipe``, whole or compressed.

    Returns:
      The rank that the update holds: the order's, or the one that its client has pruned itself to.

    Raises:
      MalformedUpdateError: its code names the first check that failed.
    """
    for name in ("run_id", "round_index", "attempt", "client_id"):
        if getattr(reply, name) != getattr(order, name):
            raise MalformedUpdateError("wrong_envelope", f"its {name} is not the order's")
    _check_released_values(reply, recipe)
    expected = expected_manifest(method, shape, order.lora_rank, order.round_index)
    scheme = scheme_of(recipe)
    if scheme is not None:
        _admit_compressed(reply, sent_shapes(expected), scheme)
        return order.lora_rank
    most = largest_payload(recipe, method, shape, lora_rank=order.lora_rank, round_index=order.round_index)
    if len(reply.payload) > most:
        raise MalformedUpdateError("too_large", f"{len(reply.payload)} bytes, at most {most} are expected")
    if sha256_hex(reply.payload) != reply.payload_sha256:
        raise MalformedUpdateError("hash_differs", "the payload is not what its hash says")
    found, _ = read_manifest(reply.payload)
    rank = _told_rank(found, order, recipe)
    check_manifest(found, expected_manifest(method, shape, rank, order.round_index))
    state = from_bytes(reply.payload)
    for key, value in flatten(state).items():
        lowest, highest = torch.aminmax(value)
        if max(-float(lowest), float(highest)) > LARGEST_VALUE:
            raise MalformedUpdateError("too_large", f"{key} holds a number beyond {LARGEST_VALUE:g}")
    scale = recipe.scale_of(rank)
    told = {layer: pair.scale for layer, pair in state.lora.items()}
    told |= {layer: half.scale for layer, half in state.halves.items()}
    for layer, found_scale in told.items():
        if abs(found_scale - scale) > 1e-6 * abs(scale):
            raise MalformedUpdateError(
                "bad_scale", f"{layer}: scale {found_scale} is not the recipe's {scale}"
            )
    return rank


def check_score(reply: TrainReply, recipe: Recipe) -> None:
    """Raise unless the held-out figures of a reply are none, or such as the recipe asks for.

    Raises:
      MalformedUpdateError: ``released_count`` where none may be told, else ``bad_score``.
    """
    count, loss, accuracy = reply.held_out_examples, reply.held_out_loss, reply.held_out_accuracy
    if not count and not loss and not accuracy:
        return
    asked = recipe.evaluation
    if asked is None or recipe.privacy is not None or reply.withholds_metrics:
        raise MalformedUpdateError("released_count", "held-out figures are told where none may be")
    if not 1 <= count <= asked.max_examples:
        raise MalformedUpdateError(
            "bad_score", f"{count} held-out examples, 1 to {asked.max_examples} are asked for"
        )
    if not 0 <= loss <= LARGEST_VALUE:
        raise MalformedUpdateError(
            "bad_score", "the held-out loss is negative, not finite or beyond all measure"
        )
    if not 0 <= accuracy <= (1 if recipe.task.has_classes else 0):
        raise MalformedUpdateError("bad_score", "the held-out accuracy is no share, or the task has none")


def _told_rank(found: Mapping[str, tuple[int, ...]], order: TrainOrder, recipe: Recipe) -> int:
    """The order's rank, or the one below it that the recipe lets a client prune itself to, where all is of that."""
    asked = recipe.method.self_pruning
    if asked is None:
        return order.lora_rank
    pruned = tail_rank(order.lora_rank, asked.decay)
    told = {
        shape[0] for key, shape in found.items() if key.startswith("lora/") and key.endswith("/A") and shape
    }
    return pruned if told == {pruned} else order.lora_rank


def sent_shapes(expected: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """What of a manifest is compressed: all but the scales, which the recipe gives."""
    return {key: shape for key, shape in expected.items() if not key.endswith("/scale")}


def _admit_compressed(reply: TrainReply, shapes: dict[str, tuple[int, ...]], scheme: Scheme) -> None:
    most = payload_bytes(shapes, scheme)
    if len(reply.payload) > most:
        raise MalformedUpdateError("too_large", f"{len(reply.payload)} bytes, at most {most} are expected")
    if sha256_hex(reply.payload) != reply.payload_sha256:
        raise MalformedUpdateError("hash_differs", "the payload is not what its hash says")
    if not 0 <= reply.compression_error < math.inf:
        raise MalformedUpdateError("bad_count", "the error of compression is negative or not finite")
    for key, moved in decompress(reply.payload, shapes, scheme).items():
        if float(moved.abs().max()) > LARGEST_MOVE:
            raise MalformedUpdateError("too_large", f"{key} has moved by more than {LARGEST_MOVE:g}")


def _check_released_values(reply: TrainReply, recipe: Recipe) -> None:
    """What stands beside the tensors: weight, count, and whether noise was added."""
    if not 0 < reply.aggregation_weight < 1e12:
        raise MalformedUpdateError("bad_weight", "the aggregation weight is not positive and finite")
    if not 0 <= reply.num_examples <= MOST_EXAMPLES:
        raise MalformedUpdateError(
            "bad_count", f"the number of examples is negative or above {MOST_EXAMPLES}"
        )
    check_score(reply, recipe)
    if reply.withholds_metrics and (reply.num_examples or reply.compression_error):
        raise MalformedUpdateError("released_count", "figures stand beside the word that none are released")
    if recipe.privacy is not None:
        if recipe.trains_privately and not reply.is_private:
            raise MalformedUpdateError("not_private", "the run is private, this update carries no noise")
        if reply.num_examples:
            raise MalformedUpdateError(
                "released_count", "a private client must not tell its number of examples"
            )
    if recipe.cohort.weights == "num_examples" and reply.aggregation_weight != reply.num_examples:
        raise MalformedUpdateError("bad_weight", "the aggregation weight is not the number of examples")
