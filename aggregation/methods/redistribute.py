"""The exact sum, split by its singular values: each client gets the best factors of its own rank.

``flexlora`` (Bai et al. 2024, https://arxiv.org/abs/2402.11505) keeps the global rank and lets the rest go: the error
is the least that any pair of that rank can have. ``product`` (as FedMomentum, https://arxiv.org/abs/2603.08014) folds
the rest into the base: nothing is lost, and factors are never started again. SVD of the factors,
not of the layer. Both factors get the root of the singular values, since both are trained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from aggregation.adapter import AdapterState, ClientUpdate, FactorPair
from aggregation.initial import spare_rows
from aggregation.kernels import relative_error, split, stack
from aggregation.methods.base import Reduction, RunningFactors, RunningMean, in_order
from aggregation.methods.factors import FactorMethod, accumulate, resized, rounded
from aggregation.methods.fedex import with_base

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aggregation.methods.base import Bases


@dataclass(frozen=True, slots=True)
class FlexLoRA(FactorMethod):
    """The best pair of the global rank; clients get its leading components."""

    name: str = "flexlora"
    allows_mixed_ranks: bool = True

    def reduce(self, state: AdapterState, updates: Iterable[ClientUpdate]) -> Reduction:
        """Sum, decompose, keep the leading; see ``Method.reduce``.

        The global rank is the state's, or the largest that was sent. The reported error is what was cut.
        """
        factors, heads = RunningFactors(state.lora), RunningMean(state.dense)
        goals = _Goals(state)
        for update in in_order(updates):
            factors.add(update.state.lora, update.weight)
            heads.add(update.state.dense, update.weight)
            goals.see(update)
        exact = factors.exact()
        lora = {layer: goals.split(layer, pair)[0] for layer, pair in exact.items()}
        return Reduction(
            state=AdapterState(lora=lora, dense=heads.mean()),
            relative_error=relative_error([lora[layer] for layer in exact], list(exact.values())),
            num_clients=len(factors.shares),
        )


@dataclass(frozen=True, slots=True)
class ExactProduct(FactorMethod):
    """The leading components go on being trained; the remainder is folded into the base.

    A client of smaller rank than the global one trains the leading components and gets the others in its base, so
    that every client starts from the same model; the server adds them back to that client's product.
    """

    name: str = "product"
    allows_mixed_ranks: bool = True
    changes_base: bool = True

    def starting_point(
        self, state: AdapterState, *, lora_rank: int | None = None, scale: float | None = None
    ) -> AdapterState:
        """The leading ``lora_rank`` components to train, all else in the base, and the heads."""
        lora, base = {}, dict(state.base_delta)
        for layer, pair in state.lora.items():
            lora[layer] = resized(pair, layer, lora_rank, scale)
            tail = _tail(pair, (torch.arange(pair.lora_rank) >= lora[layer].lora_rank).double())
            if tail is not None:
                base[layer] = accumulate(base.get(layer), tail)
        return AdapterState(lora=lora, base_delta=base, dense=state.dense)

    def reduce(self, state: AdapterState, updates: Iterable[ClientUpdate]) -> Reduction:
        """Sum, keep the leading, fold the rest; see ``Method.reduce``.

        The reported error is that against the mean of the changes that the clients' models hold: rounding only.
        """
        factors, heads = RunningFactors(state.lora), RunningMean(state.dense)
        goals = _Goals(state)
        for update in in_order(updates):
            factors.add(update.state.lora, update.weight)
            heads.add(update.state.dense, update.weight)
            goals.see(update)
        lora, base, achieved, targets = {}, dict(state.base_delta), [], []
        for layer, trained in factors.exact().items():
            target = goals.with_tails(layer, trained)
            lora[layer], rest = goals.split(layer, target)
            if rest is not None:
                base[layer] = accumulate(base.get(layer), rest)
            achieved.append(lora[layer] if rest is None else stack([lora[layer], rounded(rest)], [1.0, 1.0]))
            targets.append(target)
        return Reduction(
            state=AdapterState(lora=lora, base_delta=base, dense=heads.mean()),
            relative_error=relative_error(achieved, targets),
            num_clients=len(factors.shares),
        )

    def product(
        self, state: AdapterState, bases: Bases | None = None, scale: float = 1.0
    ) -> Mapping[str, FactorPair]:
        """The factors and what was folded into the base, as one pair."""
        return with_base(state)


class _Goals:
    """What the next global pair of each layer is to be, gathered while clients pass by."""

    def __init__(self, state: AdapterState) -> None:
        self._before = state.lora
        self._kinds = {layer: (pair.lora_rank, pair.scale) for layer, pair in state.lora.items()}
        self._seen: dict[str, list[tuple[int, float]]] = {}

    def see(self, update: ClientUpdate) -> None:
        """Note a client's ranks. Without a state before, the largest rank and the first scale are the goal."""
        for layer, pair in update.state.lora.items():
            rank, scale = self._kinds.get(layer, (0, pair.scale))
            if layer not in self._before:
                self._kinds[layer] = (max(rank, pair.lora_rank), scale)
            self._seen.setdefault(layer, []).append((pair.lora_rank, update.weight))

    def split(self, layer: str, pair: FactorPair) -> tuple[FactorPair, FactorPair | None]:
        """The next global pair, and what it leaves."""
        rank, scale = self._kinds[layer]
        return split(pair, rank, scale=scale, spare=spare_rows(layer, rank, pair.shape[1]))

    def with_tails(self, layer: str, trained: FactorPair) -> FactorPair:
        """``trained`` plus, for each client, the global components behind its rank: they were in its base."""
        before = self._before.get(layer)
        if before is None:
            return trained
        total = math.fsum(weight for _, weight in self._seen[layer])
        index = torch.arange(before.lora_rank)
        absent = torch.zeros(before.lora_rank, dtype=torch.float64)
        for rank, weight in self._seen[layer]:
            absent += (index >= rank) * (weight / total)
        tail = _tail(before, absent)
        return trained if tail is None else stack([trained, tail], [1.0, 1.0], dtype=torch.float64)


def _tail(pair: FactorPair, shares: torch.Tensor) -> FactorPair | None:
    """``s B diag(shares) A`` without the components whose share or B is zero, float64; None if none is left."""
    b = pair.B.double() * shares
    held = b.abs().amax(dim=0) > 0
    if not bool(held.any()):
        return None
    return FactorPair(B=b[:, held], A=pair.A.double()[held], scale=pair.scale)
