"""Step 4 of a round: weigh the updates, reduce them, and let the server optimiser take its step.

Updates are read from the artifact store when they are needed, one at a time: once to measure, once to reduce. Rules
that compare clients (``robust.rule``) hold all of a round at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from aggregation.adapter import AdapterState, ClientUpdate
from aggregation.changes import change_norm, factor_move, moves, numbers, product_change, with_moves
from aggregation.compression import decompress
from aggregation.methods.base import Reduction
from aggregation.options import AVERAGES_FACTORS, weights_bind
from aggregation.robust import clipped, coordinate_median, coordinate_trimmed_mean
from aggregation.serialize import from_bytes
from aggregation.server_optimizer import advance
from aggregation.weighing import COORDINATE_RULES, Size, Weighing, balanced_gram, weigh
from coordinator.engine.client_unit import is_client_unit, noised
from coordinator.engine.controls import RoundControl
from motet.recipe.method import local_start, method_of, robust_options, scheme_of, server_optimizer
from privacy.noise import SystemNoise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from aggregation.methods import Method
    from coordinator.engine.shape import ModelShape
    from coordinator.storage.models import ContributionRow
    from motet.recipe import Recipe


_UNWEIGHED = Weighing(weights=(), verdicts=(), bound=math.inf)  # figures of single updates are not kept


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOutcome:
    """What a round comes to.

    Attributes:
      state: the next global state.
      memory: of the server optimiser, for the next round; None without one.
      relative_error: of the reduction, before the optimiser's step.
      weighing: weights and verdicts, in the order of the clients; none with client-level privacy.
    """

    state: AdapterState
    memory: AdapterState | None
    relative_error: float
    weighing: Weighing


def start_of(
    recipe: Recipe,
    method: Method,
    shape: ModelShape,
    before: AdapterState,
    *,
    lora_rank: int,
    round_index: int,
    client_id: str,
) -> AdapterState:
    """What a client's training started from, of that which it sends; made again from what it was given."""
    received = method.starting_point(before, lora_rank=lora_rank, scale=recipe.scale_of(lora_rank))
    held = local_start(
        recipe,
        method,
        received,
        layer_shapes=shape.layer_shapes,
        lora_rank=lora_rank,
        round_index=round_index,
        client_id=client_id,
    )
    return method.trained_part(held, round_index)


class RoundReduction:
    """One round's updates and how they become one.

    Args:
      recipe: of the run.
      shape: of the model.
      before: the global state that the round started from.
      round_index: of the round.
      received: the contributions that count.
      load: the bytes of a contribution's update as they were admitted.
    """

    def __init__(
        self,
        recipe: Recipe,
        shape: ModelShape,
        before: AdapterState,
        round_index: int,
        received: Sequence[ContributionRow],
        load: Callable[[ContributionRow], bytes],
    ) -> None:
        self._recipe, self._shape, self._before, self._round_index = recipe, shape, before, round_index
        self._method = method_of(recipe)
        self._received = sorted(received, key=lambda c: c.client_id)
        self._bytes_of = load

    def run(self, memory: AdapterState | None) -> RoundOutcome:
        """Weigh, reduce, step.

        Args:
          memory: of the server optimiser after the round before; None in the first.

        Raises:
          ValueError: the updates have no sum, or too few are there for the rule.
        """
        options = robust_options(self._recipe)
        in_private = is_client_unit(self._recipe)
        weighing = _UNWEIGHED if in_private else self._weighing()
        control = RoundControl(self._recipe, self._method)
        if in_private:
            reduction = self._noised()
        elif options.rule in COORDINATE_RULES:
            reduction = self._by_coordinate(weighing)
        else:
            reduction = self._method.reduce(self._before, self._updates(weighing, control))
        optimizer = server_optimizer(self._recipe)
        state, remembered = reduction.state, None
        if optimizer is not None:
            trained = self._method.trained_factors(self._round_index)
            state, remembered = advance(
                optimizer, self._method.name, self._before, state, memory, trained=trained
            )
        return RoundOutcome(
            state=control.closed(state, self._before, self._round_index),
            memory=remembered,
            relative_error=reduction.relative_error,
            weighing=weighing,
        )

    def _load(self, contribution: ContributionRow) -> AdapterState:
        """A client's update: whole as it stands, or its moves added to where they began."""
        data, scheme = self._bytes_of(contribution), scheme_of(self._recipe)
        if scheme is None:
            return from_bytes(data)
        start = self._start(contribution)
        shapes = {key: tuple(value.shape) for key, value in numbers(start).items()}
        return with_moves(start, decompress(data, shapes, scheme))

    def _start(self, contribution: ContributionRow) -> AdapterState:
        return start_of(
            self._recipe,
            self._method,
            self._shape,
            self._before,
            lora_rank=contribution.lora_rank,
            round_index=self._round_index,
            client_id=contribution.client_id,
        )

    def _weighing(self) -> Weighing:
        options = robust_options(self._recipe)
        compares = options.rule != "none" and options.rule not in COORDINATE_RULES
        sizes, changes = [], []
        for contribution in self._received:
            now, start = self._load(contribution), self._start(contribution)
            sizes.append(
                Size(
                    change=change_norm(replace(now, dense={}), start),
                    heads=change_norm(AdapterState(dense=now.dense), start),
                    factors=factor_move(now, start),
                )
            )
            if compares:
                changes.append(product_change(now, start))
        name = self._method.name
        mixed = len({c.lora_rank for c in self._received}) > 1
        return weigh(
            sizes,
            [c.weight for c in self._received],
            options,
            gram=balanced_gram(changes) if compares else None,
            bounds_factors=name in AVERAGES_FACTORS,
            weights_bind=weights_bind(name, mixed_ranks=mixed),
        )

    def _updates(self, weighing: Weighing, control: RoundControl) -> Iterator[ClientUpdate]:
        for contribution, weight in zip(self._received, weighing.weights, strict=True):
            if weight == 0:
                continue
            name, state = contribution.client_id, self._load(contribution)
            seen, part = state, weight / contribution.weight
            if control.is_on and part < 1:  # a control variate counts all alike: what it sees is cut instead
                start = self._start(contribution)
                seen = with_moves(start, {k: part * v for k, v in moves(state, start).items()})
            control.see(ClientUpdate(client_id=name, weight=1.0, state=seen))
            yield ClientUpdate(client_id=name, weight=weight, state=state)

    def _noised(self) -> Reduction:
        """The noised sum of clipped changes; the noise is new in every call and comes from the operating system."""
        pairs = ((self._load(c), self._start(c)) for c in self._received)
        noise = SystemNoise()
        return noised(self._recipe, self._method, self._before, pairs, self._round_index, noise)

    def _by_coordinate(self, weighing: Weighing) -> Reduction:
        """Cores and heads, number by number; every client's change is first cut to the bound."""
        options = robust_options(self._recipe)
        states = []
        for contribution in self._received:
            now = self._load(contribution)
            if math.isfinite(weighing.bound):
                now = clipped(now, self._start(contribution), weighing.bound)
            states.append(now)
        if options.rule == "coordinate_median":
            middle = coordinate_median(states)
        else:
            middle = coordinate_trimmed_mean(states, options.num_bad)
        return Reduction(
            state=middle, relative_error=_distance_to_mean(middle, states), num_clients=len(states)
        )


def _distance_to_mean(middle: AdapterState, states: Sequence[AdapterState]) -> float:
    """``||R - mean R_k||_F / ||mean R_k||_F`` over all cores; 0 where both vanish."""
    miss = size = 0.0
    for layer, core in middle.cores.items():
        mean = torch.stack([s.cores[layer].double() for s in states]).mean(dim=0)
        miss += float((core.double() - mean).square().sum())
        size += float(mean.square().sum())
    return math.sqrt(miss / size) if size > 0 else 0.0
