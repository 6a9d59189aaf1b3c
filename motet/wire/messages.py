"""What crosses between coordinator and client, as frozen dataclasses; ``codec`` turns them into bytes.

No tensor semantics here: ``payload`` is an opaque canonical safetensors blob
(``aggregation.serialize``); this module imports neither torch nor numerics.
"""

from __future__ import annotations

from dataclasses import dataclass

CANCEL = b"cancel "
"""Begins a control message that takes an order back; the order's key follows (``motet.abandoned.order_key``)."""
LEAVE = b"leave\n"
"""Begins a control message that asks for leave; an encoded ``TrainOrder`` with ``asks_leave`` follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOrder:
    """One client's work for one round. The recipe is data, never code.

    Attributes:
      run_id: the run, e.g. ``r-3f9a...``.
      round_index: from 0 within the run.
      attempt: from 0; grows when the coordinator asks the same round again with a new charge.
      client_id: to whom.
      recipe_json: canonical JSON of the whole recipe (``motet.recipe.canonical_json``).
      recipe_sha256: hex digest of ``recipe_json``; clients approve recipes by it.
      lora_rank: rank assigned to this client.
      reservation_id: the coordinator's budget reservation, empty when the run is not private.
      payload: canonical safetensors of the starting ``AdapterState``.
      payload_sha256: hex digest of ``payload``.
      counted_round: one more than the last round whose result used this client's update, so that its own state
        (SCAFFOLD) is of that round; 0: none did, or the run keeps none.
      asks_rank: a question, for the largest rank up to ``lora_rank`` that the client carries; nothing is trained.
      ledger_json: of a private run: the ledger's newest signed checkpoint, and proofs that it only grew
        (``motet.audit.assurance``); else empty.
      asks_leave: a question, whether this client takes part in the run; nothing is charged, nothing is trained.
      asks_score: a question after the last round, for loss and accuracy of ``payload`` on this client's held-out
        examples; nothing is charged, nothing is trained.
    """

    run_id: str
    round_index: int
    attempt: int
    client_id: str
    recipe_json: str
    recipe_sha256: str
    lora_rank: int
    reservation_id: str
    payload: bytes
    payload_sha256: str
    counted_round: int = 0
    asks_rank: bool = False
    asks_leave: bool = False
    ledger_json: str = ""
    asks_score: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReply:
    """All that leaves a client for one round.

    Released values: ``payload`` (noised when the run is
    private) and ``num_steps``, which is a public constant of the recipe. Of a private run nothing else depends on data:
    ``offered_lora_rank`` depends on the client's machine and its owner's policy. ``client.protect`` has the whole list.

    Attributes:
      run_id, round_index, attempt, client_id: copied from the order.
      payload: canonical safetensors of the trained values, or their compressed moves (``aggregation.compression``).
      payload_sha256: hex digest of ``payload``.
      aggregation_weight: a public constant: 1.0, or the weight that the recipe names. Never a count of
        examples when the run is private.
      num_steps: optimiser steps taken (a constant of the recipe).
      num_examples: number of local examples when the recipe is not private, else 0.
      is_private: whether clipping and noise were applied in this round.
      error_code: empty on success, else a stable code such as ``policy_refused``.
      error_message: for people; names the clause and the remedy, never data.
      offered_lora_rank: the largest rank that the client carries; 0 where the recipe assigns ranks.
      compression_error: of a compressed payload, what it misses of what was to be sent, relative; 0 where it is whole,
        or where telling it would not be private.
      leave_json: the answer to ``asks_leave`` (``motet.wire.leave``), or the owner's signed no with which an order is
        refused; else empty.
      withholds_metrics: the owner's policy releases no metrics: ``num_examples`` and ``compression_error`` are 0,
        and no figure of this client is recorded.
      held_out_examples: on how many held-out examples the model that the order brought was judged; 0: none is told.
      held_out_loss: their mean loss, in nats.
      held_out_accuracy: the share of them that was right; 0 where the task has no classes.
    """

    run_id: str
    round_index: int
    attempt: int
    client_id: str
    payload: bytes = b""
    payload_sha256: str = ""
    aggregation_weight: float = 1.0
    num_steps: int = 0
    num_examples: int = 0
    is_private: bool = False
    error_code: str = ""
    error_message: str = ""
    offered_lora_rank: int = 0
    compression_error: float = 0.0
    leave_json: str = ""
    withholds_metrics: bool = False
    held_out_examples: int = 0
    held_out_loss: float = 0.0
    held_out_accuracy: float = 0.0
