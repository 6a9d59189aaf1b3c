"""The one place from which values leave a client.

Every message of a client is made here, by ``release``, ``offer``, ``grant``, ``judge`` or ``refuse``, and is one
``TrainReply``.
What each field tells:

| field | in a run of DP-SGD (unit example or person) | unit client | without privacy |
|---|---|---|---|
| ``run_id``, ``round_index``, ``attempt``, ``client_id`` | copied from the order | same | same |
| ``payload`` | trained tensors, clipped and noised in every step: charged | in the clear, to the coordinator | clear |
| ``payload_sha256`` | hash of ``payload`` | same | same |
| size, keys and shapes of ``payload`` | of recipe, rank and round; with compeft of its values | same | same |
| its rank with self_pruning | of noised values and the order alone (``client.pruning``) | none | of the data |
| ``aggregation_weight`` | 1 | 1 | 1, or the number of examples if the recipe weights by it |
| ``num_steps`` | a constant of the recipe | same | same |
| ``num_examples`` | 0 | 0 | the number of examples |
| ``is_private`` | true | false | false |
| ``offered_lora_rank`` | of the machine and its owner's policy, measured without an example | same | same |
| ``compression_error`` | of noised values and earlier messages alone (``client.packing``) | 0 | what was cut |
| ``withholds_metrics`` | of the owner's policy: no figure is told (``share_metrics = false``) | same | same |
| ``held_out_examples``, ``held_out_loss``, ``held_out_accuracy`` | 0 | 0 | 0, or as told below |
| ``leave_json`` | of the owner's policy, its clock and the owner's decisions (``client.leave``) | same | same |
| ``error_code``, ``error_message`` | empty, or of the list below | same | same, and where the data has a mistake |

Errors. ``policy_refused`` names a clause of the owner's policy; ``public_files`` stands before any file that a
private run calls public is looked at, or guesses of the private file could be tried. Of ``max_epsilon`` it says that
the cap is reached, never a figure: what was spent depends on which data set the file is, and one row that was seen
before can decide that (``client.lineage``). That the clause is reached is one such bit, to be counted as seen.
``over_capacity`` is about the machine, ``outside_hours``, ``approval_pending`` and ``cancelled`` about the owner's
clock, the owner's decisions and the coordinator's own word, ``ledger_failed`` and ``bad_order`` about the ledger's
file and the order, ``ledger_rolled_back`` about the coordinator's ledger as it was shown before. Of a policy file that
can not be used only that is told. ``did_not_move`` and ``not_finite`` name a tensor; under DP-SGD they are
post-processing of what is noised. ``client_failed``: the disk, the base model, or data that can not be read as the
recipe asks. Of the data only that fact leaves a run with a privacy section, never a line, a label or a name of a
column; the client's own log has them. A file without any example is no error under DP-SGD: such a client sends noise.

Held-out figures: how the model that an order brought does on examples that this client keeps out of training, their
number, mean loss and share that was right. They leave only where the recipe asks for them (``evaluation``), has no
privacy section (its checks refuse the two together, and so does ``_held_out``), and the owner's policy says
``share_accuracy = true`` and not ``share_metrics = false``; fewer than ``client.held_out.LEAST_JUDGED`` examples tell
nothing. They are exact: whoever chooses the models learns of the held-out examples by asking often.

Each message leaves in an envelope with this client's signature over it and its order (``client.sealing``): made of
what leaves anyway and of the key, the same each time.

Beside messages there are: the node's public key and heartbeats (that a client is there), when it answers, whether it
has taken up an order that it is asked after (``held`` or ``lost``: of delivery alone), the kind of a fault of our own
(``client.fleet``: the name of an exception, which a fault that data sets off would tell), and countersignatures,
which the owner hands out as a file (``client.receipts``: runs, rounds, events, and tags of data sets that nobody else
can make; which charges share a tag is not noised, so an owner decides who gets the file), and what enrolment and
renewal say (``client.enrolment``: public keys, a proof that the private halves are here, Motet's version; the present
certificate and the time).

Never released: which data set of before the data is (``docs/adr/0009-the-coordinator-counts-by-client.md``), losses
and accuracies of what is trained on, and any at all in a run with a privacy section or without the owner's word;
gradient norms, clip fractions, batch sizes, numbers of persons, texts, hashes of data, random states. Not noised, and
to be counted as seen: the time that a round takes, which moves with the sizes of Poisson batches and the lengths of
their texts; memory and crashes that come of them (``README.md`` of ``privacy``).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypedDict

from aggregation.serialize import sha256_hex
from client.held_out import LEAST_JUDGED
from motet.wire.leave import leave_to_json
from motet.wire.messages import TrainOrder, TrainReply

if TYPE_CHECKING:
    from client.evaluation import Scores
    from client.packing import Packed
    from client.policy import Policy
    from motet.recipe import Recipe
    from motet.wire.leave import Leave


DATA_UNUSABLE = "this client's data can not be read as the recipe asks; its own log says where"


def release(
    order: TrainOrder,
    recipe: Recipe,
    message: Packed,
    *,
    num_steps: int,
    num_examples: int,
    offered_lora_rank: int = 0,
    shares_metrics: bool = True,
    scores: Scores | None = None,
    shares_accuracy: bool = False,
) -> TrainReply:
    """The reply that may leave: see the module's list of released values.

    Args:
      order: what was asked.
      recipe: of the order.
      message: what was trained.
      num_steps: a constant of the recipe.
      num_examples: that were trained on.
      offered_lora_rank: what the client carries; 0 where the recipe assigns ranks.
      shares_metrics: of the owner's policy.
      scores: of held-out examples, under the model that the order brought; None where none was judged.
      shares_accuracy: of the owner's policy.

    Raises:
      ValueError: the recipe weighs by the number of examples, and the owner shares no metrics.
    """
    counts_stay = recipe.privacy is not None
    noised_elsewhere = counts_stay and not recipe.trains_privately
    weighted = recipe.cohort.weights == "num_examples" and not counts_stay
    if weighted and not shares_metrics:
        raise ValueError("clause share_metrics should have refused this recipe")
    return TrainReply(
        run_id=order.run_id,
        round_index=order.round_index,
        attempt=order.attempt,
        client_id=order.client_id,
        payload=message.payload,
        payload_sha256=sha256_hex(message.payload),
        aggregation_weight=float(num_examples) if weighted else 1.0,
        num_steps=num_steps,
        num_examples=0 if counts_stay or not shares_metrics else num_examples,
        is_private=recipe.trains_privately,
        offered_lora_rank=offered_lora_rank,
        compression_error=0.0 if noised_elsewhere or not shares_metrics else message.error,
        withholds_metrics=not shares_metrics,
        **_held_out(recipe, scores, may_leave=shares_metrics and shares_accuracy),
    )


class _HeldOut(TypedDict, total=False):
    held_out_examples: int
    held_out_loss: float
    held_out_accuracy: float


def _held_out(recipe: Recipe, scores: Scores | None, *, may_leave: bool) -> _HeldOut:
    """The held-out figures that may leave; nothing where one of the conditions of the module's list is missing."""
    if recipe.evaluation is None or recipe.privacy is not None or not may_leave:
        return {}
    if scores is None or len(scores.losses) < LEAST_JUDGED:
        return {}
    loss = float(scores.losses.mean())
    if not math.isfinite(loss):
        return {}
    accuracy = 0.0 if scores.correct is None else float(scores.correct.mean())
    return {"held_out_examples": len(scores.losses), "held_out_loss": loss, "held_out_accuracy": accuracy}


def judge(order: TrainOrder, recipe: Recipe, scores: Scores | None, policy: Policy) -> TrainReply:
    """The answer to a question for a score: the held-out figures where they may leave, and nothing else."""
    return TrainReply(
        run_id=order.run_id,
        round_index=order.round_index,
        attempt=order.attempt,
        client_id=order.client_id,
        withholds_metrics=not policy.share_metrics,
        **_held_out(recipe, scores, may_leave=policy.tells_scores),
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


def grant(order: TrainOrder, leave: Leave) -> TrainReply:
    """The answer to a question for leave: what the owner's policy, clock and decisions say, and nothing else."""
    return TrainReply(
        run_id=order.run_id,
        round_index=order.round_index,
        attempt=order.attempt,
        client_id=order.client_id,
        leave_json=leave_to_json(leave),
    )


def refuse(
    order: TrainOrder,
    code: str,
    message: str,
    *,
    offered_lora_rank: int = 0,
    leave: Leave | None = None,
) -> TrainReply:
    """A reply without tensors: the code and a text that names a clause or a file, never data.

    With ``offered_lora_rank`` the client carries that rank, and less than was ordered. ``leave`` carries the owner's
    signed refusal, where that is the reason.
    """
    return TrainReply(
        run_id=order.run_id,
        round_index=order.round_index,
        attempt=order.attempt,
        client_id=order.client_id,
        error_code=code,
        error_message=message,
        offered_lora_rank=offered_lora_rank,
        leave_json="" if leave is None else leave_to_json(leave),
    )
