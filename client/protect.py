"""The one place from which values leave a client.

Released values of a private round: the trained tensors, whose every change from the public starting point was
clipped per example and noised step by step (DP-SGD); the constants of the order (run, round, attempt,
client); ``num_steps``, a constant of the recipe; ``aggregation_weight`` 1; where the recipe asks for it, the rank that
the client carries, which depends on its machine and its owner's policy, not on data (``client.capacity``). Compression
(``client.packing``) comes after the noise: its payload and the error that it reports are made of noised values and of
earlier messages alone, which is post-processing; where noise comes later, at the coordinator, that error is not told.
Of a round without privacy, also the number of examples, and the tensors as they are. Not released, ever: losses,
accuracies, gradient norms, batch sizes, texts. Keys and size of the message follow from the recipe and the rank alone;
with compeft the size follows from the values that are in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aggregation.serialize import sha256_hex
from motet.wire.messages import TrainOrder, TrainReply

if TYPE_CHECKING:
    from client.packing import Packed
    from motet.recipe import Recipe


def release(
    order: TrainOrder,
    recipe: Recipe,
    message: Packed,
    *,
    num_steps: int,
    num_examples: int,
    offered_lora_rank: int = 0,
) -> TrainReply:
    """The reply that may leave: see the module's list of released values."""
    counts_stay = recipe.privacy is not None
    noised_elsewhere = counts_stay and not recipe.trains_privately
    weighted = recipe.cohort.weights == "num_examples" and not counts_stay
    return TrainReply(
        run_id=order.run_id,
        round_index=order.round_index,
        attempt=order.attempt,
        client_id=order.client_id,
        payload=message.payload,
        payload_sha256=sha256_hex(message.payload),
        aggregation_weight=float(num_examples) if weighted else 1.0,
        num_steps=num_steps,
        num_examples=0 if counts_stay else num_examples,
        is_private=recipe.trains_privately,
        offered_lora_rank=offered_lora_rank,
        compression_error=0.0 if noised_elsewhere else message.error,
    )


def offer(order: TrainOrder, lora_rank: int) -> TrainReply:
    """The answer to a question for the rank: the rank, and nothing else."""
    return TrainReply(
        run_id=order.run_id,
        round_index=order.round_index,
        attempt=order.attempt,
        client_id=order.client_id,
        offered_lora_rank=lora_rank,
    )


def refuse(order: TrainOrder, code: str, message: str, *, offered_lora_rank: int = 0) -> TrainReply:
    """A reply without tensors: the code and a text that names a clause or a file, never data.

    With ``offered_lora_rank`` the client carries that rank, and less than was ordered.
    """
    return TrainReply(
        run_id=order.run_id,
        round_index=order.round_index,
        attempt=order.attempt,
        client_id=order.client_id,
        error_code=code,
        error_message=message,
        offered_lora_rank=offered_lora_rank,
    )
