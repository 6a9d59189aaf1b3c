"""What every aggregation method is: what is trained, what is sent, how many updates become one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch

from aggregation.errors import MalformedUpdateError
from aggregation.kernels import stack
from aggregation.serialize import flatten

if TYPE_CHECKING:
    from aggregation.adapter import AdapterState, ClientUpdate, FactorPair

Bases = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    """What became of one round.

    Attributes:
      state: the new global state.
      relative_error: Frobenius distance of the aggregated change to ``sum_k p_k s_k B_k A_k``, over the norm
        of that sum, all layers as one vector; computed on factors. 0 where both vanish.
      num_clients: updates reduced.
    """

    state: AdapterState
    relative_error: float
    num_clients: int


class Method(Protocol):
    """One federated method. Implementations hold no state."""

    @property
    def name(self) -> str:
        """As in the recipe."""

    @property
    def allows_mixed_ranks(self) -> bool:
        """Whether clients may train different ranks."""

    @property
    def trains(self) -> Literal["lora", "core"]:
        """LoRA's two factors, or Fed-SB's square core."""

    @property
    def changes_base(self) -> bool:
        """Whether the base weight that clients start from moves each round."""

    def initial_state(
        self,
        layer_shapes: Mapping[str, tuple[int, int]],
        *,
        lora_rank: int,
        scale: float,
        dense: Mapping[str, torch.Tensor],
        seed: int,
    ) -> AdapterState:
        """The state before round 0."""

    def starting_point(self, state: AdapterState) -> AdapterState:
        """What is sent to a client."""

    def trained_part(self, state: AdapterState) -> AdapterState:
        """What a client sends back: what it trained, and nothing else."""

    def reduce(self, state: AdapterState, updates: Iterable[ClientUpdate]) -> Reduction:
        """Many updates, sorted by ``client_id``, into the next state.

        Raises:
          ValueError: no updates, not sorted, a weight that is not positive and finite, layers or shapes that
            do not match those of ``state`` or of the first client.
          MalformedUpdateError: (a ValueError) a tensor holds NaN or infinity.
        """

    def product(
        self, state: AdapterState, bases: Bases | None = None, scale: float = 1.0
    ) -> Mapping[str, FactorPair]:
        """Layer -> everything learned, as one pair. ``bases`` and ``scale`` are read by Fed-SB only."""


def in_order(updates: Iterable[ClientUpdate]) -> Iterator[ClientUpdate]:
    """Pass updates through, checked: strictly sorted by client, weights positive, everything finite.

    Raises:
      ValueError: as in ``Method.reduce``.
    """
    previous: str | None = None
    for update in updates:
        if previous is not None and update.client_id <= previous:
            raise ValueError(f"updates must be sorted by client_id: {update.client_id!r} after {previous!r}")
        if not (math.isfinite(update.weight) and update.weight > 0):
            raise ValueError(
                f"client {update.client_id!r}: weight={update.weight} must be positive and finite"
            )
        for key, value in flatten(update.state).items():
            if not bool(torch.isfinite(value).all()):
                raise MalformedUpdateError(
                    "not_finite", f"{key} of {update.client_id!r} holds NaN or infinity"
                )
        previous = update.client_id
        yield update
    if previous is None:
        raise ValueError("no updates: a round without clients has no mean")


def same_shapes(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], whose: str) -> None:
    """Names and shapes must agree; torch would broadcast (1, 1) over (r, r) in silence.

    Raises:
      ValueError: naming the first tensors that differ.
    """
    if found.keys() != expected.keys():
        raise ValueError(
            f"names of tensors differ from {whose}: {sorted(found.keys() ^ expected.keys())[:4]}"
        )
    odd = [name for name, value in found.items() if value.shape != expected[name].shape]
    if odd:
        shapes = f"{tuple(found[odd[0]].shape)} and {tuple(expected[odd[0]].shape)}"
        raise ValueError(f"shapes differ from {whose}: {odd[0]} has {shapes}")


class RunningMean:
    """Weighted mean of tensors, one resident at a time, summed in float64."""

    def __init__(self, like: Mapping[str, torch.Tensor]) -> None:
        """``like``: the tensors of the state before; empty where it holds none of this kind."""
        self._like = like
        self._sums: dict[str, torch.Tensor] = {}
        self._weight = 0.0
        self._count = 0

    def add(self, tensors: Mapping[str, torch.Tensor], weight: float) -> None:
        """Add one client's tensors.

        Raises:
          ValueError: its names or shapes differ from the state's or from the first client's.
        """
        if self._like:
            same_shapes(tensors, self._like, "the state's")
        if self._count:
            same_shapes(tensors, self._sums, "the first client's")
        for name, value in tensors.items():
            term = value.double() * weight
            self._sums[name] = self._sums[name] + term if self._count else term
        self._weight += weight
        self._count += 1

    @property
    def count(self) -> int:
        """Clients added."""
        return self._count

    def mean_double(self) -> dict[str, torch.Tensor]:
        """The means, float64."""
        return {name: total / self._weight for name, total in self._sums.items()}

    def mean(self) -> dict[str, torch.Tensor]:
        """The means, float32."""
        return {name: value.float() for name, value in self.mean_double().items()}


class RunningFactors:
    """Factors of all clients of a round, for the exact sum; weights are normalised when it is read.

    Holds the factors themselves (r_k (m + n) floats a layer and client): stacking, and the error against the
    exact sum, need every client's factors by nature.
    """

    def __init__(self, like: Mapping[str, FactorPair]) -> None:
        """``like``: the pairs of the state before, whose layers and (m, n) bind; may be empty."""
        self._shapes = {layer: pair.shape for layer, pair in like.items()}
        self.pairs: dict[str, list[FactorPair]] = {}
        self._weights: list[float] = []

    def add(self, lora: Mapping[str, FactorPair], weight: float) -> None:
        """Keep one client's factors.

        Raises:
          ValueError: its layers, or a layer's (m, n), differ from the state's or from the first client's.
        """
        shapes = {layer: pair.shape for layer, pair in lora.items()}
        if not self._shapes and not self._weights:
            self._shapes = shapes
        if shapes != self._shapes:
            odd = sorted(
                k for k in shapes.keys() | self._shapes.keys() if shapes.get(k) != self._shapes.get(k)
            )
            raise ValueError(f"layers differ from the state's or the first client's: {odd[:4]}")
        for layer, pair in lora.items():
            self.pairs.setdefault(layer, []).append(pair)
        self._weights.append(weight)

    @property
    def shares(self) -> list[float]:
        """p_k: weights over their sum."""
        total = math.fsum(self._weights)
        return [w / total for w in self._weights]

    def exact(self) -> dict[str, FactorPair]:
        """Layer -> ``sum_k p_k s_k B_k A_k`` as a stack, in float64: what methods are measured against."""
        shares = self.shares
        return {layer: stack(pairs, shares, dtype=torch.float64) for layer, pairs in self.pairs.items()}
