"""Methods that share one factor a round: its mean is exact, because the product is linear in it.

``ffa``: A is frozen from the seed and never sent (FFA-LoRA, Sun et al. 2024,
https://arxiv.org/abs/2403.12313). Its rows are orthonormal and nested: a client of smaller rank has the first rows,
so mixed ranks stay exact. With plain SGD, isotropic noise and clipping this equals FedSVD
(https://arxiv.org/abs/2505.12805) without its decompositions.
``rolora``: B in even rounds, A in odd ones (RoLoRA, https://arxiv.org/abs/2502.01755). B is first, since at
B = 0 nothing reaches A. ``fedsa``: A is averaged, B and the heads stay at home (FedSA-LoRA, Guo et al. 2024,
https://arxiv.org/abs/2410.01463).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from aggregation.adapter import AdapterState, ClientUpdate, FactorPair, HalfPair
from aggregation.initial import fresh_factors, frozen_rows
from aggregation.kernels import norm
from aggregation.methods.base import Reduction, Resized, RunningMean, in_order
from aggregation.methods.factors import FactorMethod
from aggregation.methods.means import HalfMeans

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from aggregation.methods.base import Bases, TrainedFactors

Side = Literal["A", "B"]


@dataclass(frozen=True, slots=True)
class FFALoRA(FactorMethod):
    """Trains and sends B; A is frozen, orthonormal, and made from the seed by everyone."""

    name: str = "ffa"
    allows_mixed_ranks: bool = True

    def initial_state(
        self,
        layer_shapes: Mapping[str, tuple[int, int]],
        *,
        lora_rank: int,
        scale: float,
        dense: Mapping[str, torch.Tensor],
        seed: int,
    ) -> AdapterState:
        """B = 0 beside the frozen A.

        Raises:
          ValueError: ``lora_rank`` exceeds a layer's width n.
        """
        lora = {
            layer: FactorPair(
                B=torch.zeros(rows, lora_rank), A=frozen_rows(layer, lora_rank, columns, seed), scale=scale
            )
            for layer, (rows, columns) in layer_shapes.items()
        }
        return AdapterState(lora=lora, dense=dict(dense))

    def starting_point(
        self, state: AdapterState, *, lora_rank: int | None = None, scale: float | None = None
    ) -> AdapterState:
        """B alone, its first ``lora_rank`` columns where given, in the client's scale; and the heads.

        Raises:
          ValueError: ``lora_rank`` exceeds the global rank.
        """
        halves = {}
        for layer, pair in state.lora.items():
            rank, to_scale = lora_rank or pair.lora_rank, pair.scale if scale is None else scale
            if rank > pair.lora_rank:
                raise ValueError(f"{layer}: rank {rank} exceeds the global rank {pair.lora_rank}")
            b = pair.B[:, :rank] if to_scale == pair.scale else pair.B[:, :rank] * (pair.scale / to_scale)
            halves[layer] = HalfPair(side="B", value=b.contiguous(), scale=to_scale)
        return AdapterState(halves=halves, dense=state.dense)

    def resized(self, state: AdapterState, *, lora_rank: int, scale: float, seed: int) -> Resized:
        """More or fewer columns of B beside more or fewer rows of the frozen A.

        A can not be turned, so a cut takes the last columns; the rows of A are orthonormal, so that the norm of
        those columns is the error.
        """
        lora, cut, whole = {}, 0.0, 0.0
        for layer, pair in state.lora.items():
            (rows, columns), held = pair.shape, min(lora_rank, pair.lora_rank)
            b = torch.zeros(rows, lora_rank)
            b[:, :held] = pair.B[:, :held] * (pair.scale / scale)
            lora[layer] = FactorPair(B=b, A=frozen_rows(layer, lora_rank, columns, seed), scale=scale)
            tail = FactorPair(B=pair.B[:, held:], A=pair.A[held:], scale=pair.scale)
            cut, whole = cut + norm(tail) ** 2, whole + norm(pair) ** 2
        return Resized(
            state=AdapterState(lora=lora, dense=state.dense),
            relative_error=math.sqrt(cut / whole) if whole > 0 else 0.0,
        )

    def local_start(
        self,
        received: AdapterState,
        *,
        layer_shapes: Mapping[str, tuple[int, int]],
        lora_rank: int,
        scale: float,
        seed: int,
        fresh_seed: int,
        personal: AdapterState | None = None,
    ) -> AdapterState:
        """The received B beside the first rows of the frozen A."""
        lora = {
            layer: FactorPair(
                B=half.value,
                A=frozen_rows(layer, half.lora_rank, layer_shapes[layer][1], seed),
                scale=half.scale,
            )
            for layer, half in received.halves.items()
        }
        return AdapterState(lora=lora, dense=received.dense)

    def trained_factors(self, round_index: int) -> TrainedFactors:
        """B."""
        return "B"

    def trained_part(self, state: AdapterState, round_index: int = 0) -> AdapterState:
        """B and the heads."""
        return AdapterState(halves=halves_of(state.lora, "B"), dense=state.dense)

    def reduce(self, state: AdapterState, updates: Iterable[ClientUpdate]) -> Reduction:
        """Average B; see ``Method.reduce``. Two updates are resident at most; the error is rounding."""
        return reduce_half(state, updates, "B", one_rank=False)


@dataclass(frozen=True, slots=True)
class RoLoRA(FactorMethod):
    """Trains and sends B in even rounds, A in odd ones; the other factor is the global one, frozen."""

    name: str = "rolora"

    def trained_factors(self, round_index: int) -> TrainedFactors:
        """B, A, B, A, ..."""
        return "B" if round_index % 2 == 0 else "A"

    def trained_part(self, state: AdapterState, round_index: int = 0) -> AdapterState:
        """The round's factor and the heads."""
        side: Side = "B" if self.trained_factors(round_index) == "B" else "A"
        return AdapterState(halves=halves_of(state.lora, side), dense=state.dense)

    def reduce(self, state: AdapterState, updates: Iterable[ClientUpdate]) -> Reduction:
        """Average the factor that was sent; see ``Method.reduce``. Two updates are resident at most.

        All clients must have sent the same factor, at the state's rank.
        """
        arriving = iter(updates)
        sent = list(itertools.islice(arriving, 1))
        side: Side = next((half.side for u in sent for half in u.state.halves.values()), "B")
        return reduce_half(state, _after(sent, arriving), side, one_rank=True)


@dataclass(frozen=True, slots=True)
class FedSALoRA(FactorMethod):
    """Trains A and B, sends A; B and the heads are personal. There is no global model.

    A component of A is averaged over the clients that have it, so ranks may differ.
    """

    name: str = "fedsa"
    allows_mixed_ranks: bool = True

    def initial_state(
        self,
        layer_shapes: Mapping[str, tuple[int, int]],
        *,
        lora_rank: int,
        scale: float,
        dense: Mapping[str, torch.Tensor],
        seed: int,
    ) -> AdapterState:
        """A alone, and the heads that a client without its own begins with; these never change."""
        fresh = fresh_factors(layer_shapes, lora_rank, scale, seed)
        return AdapterState(halves=halves_of(fresh, "A"), dense=dict(dense))

    def starting_point(
        self, state: AdapterState, *, lora_rank: int | None = None, scale: float | None = None
    ) -> AdapterState:
        """A, its first ``lora_rank`` rows where given, and the first heads.

        Raises:
          ValueError: ``lora_rank`` exceeds the global rank.
        """
        halves = {}
        for layer, half in state.halves.items():
            rank = lora_rank or half.lora_rank
            if rank > half.lora_rank:
                raise ValueError(f"{layer}: rank {rank} exceeds the global rank {half.lora_rank}")
            to_scale = half.scale if scale is None else scale
            halves[layer] = HalfPair(side="A", value=half.value[:rank].contiguous(), scale=to_scale)
        return AdapterState(halves=halves, dense=state.dense)

    def local_start(
        self,
        received: AdapterState,
        *,
        layer_shapes: Mapping[str, tuple[int, int]],
        lora_rank: int,
        scale: float,
        seed: int,
        fresh_seed: int,
        personal: AdapterState | None = None,
    ) -> AdapterState:
        """The received A beside this client's own B and heads; B = 0 and the received heads in its first round.

        Raises:
          ValueError: the kept B is of another shape than the received A needs.
        """
        kept = {} if personal is None else personal.halves
        lora = {}
        for layer, half in received.halves.items():
            shape = (layer_shapes[layer][0], half.lora_rank)
            b = kept[layer].value if layer in kept else torch.zeros(shape)
            if b.shape != shape:
                raise ValueError(f"{layer}: the B that was kept is {tuple(b.shape)}, the round needs {shape}")
            lora[layer] = FactorPair(B=b, A=half.value, scale=half.scale)
        own = {} if personal is None else personal.dense
        return AdapterState(lora=lora, dense={**received.dense, **own})

    def resized(self, state: AdapterState, *, lora_rank: int, scale: float, seed: int) -> Resized:
        """Refused: every client keeps a B of the rank of the rounds before.

        Raises:
          ValueError: always.
        """
        raise ValueError("fedsa binds each client to one rank: its own B has it; use ffa")

    def trained_part(self, state: AdapterState, round_index: int = 0) -> AdapterState:
        """A alone."""
        return AdapterState(halves=halves_of(state.lora, "A"))

    def personal_part(self, state: AdapterState) -> AdapterState:
        """B and the heads."""
        return AdapterState(halves=halves_of(state.lora, "B"), dense=state.dense)

    def reduce(self, state: AdapterState, updates: Iterable[ClientUpdate]) -> Reduction:
        """Average A; see ``Method.reduce``. Two updates are resident at most; the error is rounding.

        Raises:
          ValueError: also where a client sent heads.
        """
        like = {layer: (half.value.shape, half.scale) for layer, half in state.halves.items()}
        means = HalfMeans("A", like)
        for update in in_order(updates):
            if update.state.dense:
                raise ValueError(f"client {update.client_id!r} sent heads, which are personal: names differ")
            means.add(update.state.halves, update.weight, folds_scale=False)
        wide = means.by_index({layer: half.value for layer, half in state.halves.items()})
        halves = {
            layer: HalfPair(side="A", value=value.float(), scale=state.halves[layer].scale)
            for layer, value in wide.items()
        }
        miss = math.sqrt(sum(float((halves[k].value.double() - wide[k]).square().sum()) for k in wide))
        size = math.sqrt(sum(float(wide[k].square().sum()) for k in wide))
        return Reduction(
            state=AdapterState(halves=halves, dense=state.dense),
            relative_error=miss / size if size > 0 else 0.0,
            num_clients=means.count,
        )

    def product(
        self, state: AdapterState, bases: Bases | None = None, scale: float = 1.0
    ) -> Mapping[str, FactorPair]:
        """The pairs of one client's own state.

        Raises:
          ValueError: the server's state, which holds no B.
        """
        if state.halves:
            raise ValueError(
                "fedsa has no global product: every client's B is its own; give a client's state"
            )
        return state.lora


def halves_of(lora: Mapping[str, FactorPair], side: Side) -> dict[str, HalfPair]:
    """One factor of every layer."""
    return {
        layer: HalfPair(side=side, value=pair.A if side == "A" else pair.B, scale=pair.scale)
        for layer, pair in lora.items()
    }


def reduce_half(
    state: AdapterState, updates: Iterable[ClientUpdate], side: Side, *, one_rank: bool
) -> Reduction:
    """Replace one factor of the state by its mean over the clients; the other keeps every bit.

    Args:
      state: the pairs before.
      updates: as in ``Method.reduce``, with ``halves``.
      side: which factor.
      one_rank: refuse ranks below the state's.

    Raises:
      ValueError: as in ``Method.reduce``; another factor than ``side``.
    """
    means, heads = HalfMeans(side, _shapes(state.lora, side)), RunningMean(state.dense)
    for update in in_order(updates):
        if one_rank:
            _check_rank(update, state.lora)
        means.add(update.state.halves, update.weight, folds_scale=True)
        heads.add(update.state.dense, update.weight)
    lora, miss, size = {}, 0.0, 0.0
    for layer, wide in means.zero_padded().items():
        before, value = state.lora[layer], wide.float()
        b, a = (before.B, value) if side == "A" else (value, before.A)
        lora[layer] = FactorPair(B=b, A=a, scale=before.scale)
        miss += _norm_beside(before, value.double() - wide, side) ** 2
        size += _norm_beside(before, wide, side) ** 2
    return Reduction(
        state=AdapterState(lora=lora, dense=heads.mean()),
        relative_error=math.sqrt(miss / size) if size > 0 else 0.0,
        num_clients=means.count,
    )


def _after(sent: list[ClientUpdate], arriving: Iterator[ClientUpdate]) -> Iterator[ClientUpdate]:
    """What was looked at, and then the rest; ``sent`` is emptied, so that nobody holds it for the whole round."""
    while sent:
        yield sent.pop()
    yield from arriving


def _shapes(lora: Mapping[str, FactorPair], side: Side) -> dict[str, tuple[torch.Size, float]]:
    return {k: ((p.A if side == "A" else p.B).shape, p.scale) for k, p in lora.items()}


def _check_rank(update: ClientUpdate, lora: Mapping[str, FactorPair]) -> None:
    odd = [k for k, h in update.state.halves.items() if k in lora and h.lora_rank != lora[k].lora_rank]
    if odd:
        raise ValueError(
            f"{odd[0]}: ranks differ from the state's, which rolora can not average; use ffa or flora"
        )


def _norm_beside(pair: FactorPair, value: torch.Tensor, side: Side) -> float:
    """Frobenius norm of the product of ``value`` with the pair's other factor."""
    return norm(FactorPair(B=pair.B, A=value) if side == "A" else FactorPair(B=value, A=pair.A))
