"""What every aggregation method is: what is trained, what is sent, how many updates become one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch

from aggregation.adapter import FactorPair
from aggregation.errors import MalformedUpdateError
from aggregation.kernels import stack
from aggregation.serialize import flatten

if TYPE_CHECKING:
    from aggregation.adapter import AdapterState, ClientUpdate

Bases = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
TrainedFactors = Literal["AB", "A", "B", "core"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Resized:
    """A global state brought to another rank.

    Attributes:
      state: the same model, but for what was cut.
      relative_error: Frobenius norm of what was cut over that of the product, all layers as one vector; 0 where
        nothing was lost.
    """

    state: AdapterState
    relative_error: float


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
        """LoRA's factors, or Fed-SB's square core. Which of the factors: ``trained_factors``."""

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

    def starting_point(
        self, state: AdapterState, *, lora_rank: int | None = None, scale: float | None = None
    ) -> AdapterState:
        """What is sent to a client of ``lora_rank`` and PEFT ``scale``; without them, of the state's own."""

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
        """What a client puts on its model: what it received, with what it makes or keeps itself.

        Args:
          received: ``starting_point`` as it arrived.
          layer_shapes: (m, n) of each adapted layer.
          lora_rank: of this client.
          scale: its PEFT scale.
          seed: the run's; makes what all clients share (frozen factors).
          fresh_seed: of this client and round; makes factors that nobody shares (FLoRA).
          personal: what ``personal_part`` kept of this client's last round, if any.
        """

    def resized(self, state: AdapterState, *, lora_rank: int, scale: float, seed: int) -> Resized:
        """``state`` at another global rank, for the rounds to come.

        Growing keeps the product to rounding: new components have B = 0, and rows in A by which they can learn. Cutting
        keeps the best product that the method can hold; where the base may change, what is cut goes there and nothing
        is lost.

        Args:
          state: any state of this method.
          lora_rank: the new rank, at least 1.
          scale: the PEFT scale that goes with it, positive.
          seed: the run's.

        Raises:
          ValueError: the method binds its clients to one rank (fed-sb, fedsa); see ``rank_changes`` of the table.
        """

    def trained_factors(self, round_index: int) -> TrainedFactors:
        """What trains in a round: both factors, one of them while the other is frozen, or the core."""

    def trained_part(self, state: AdapterState, round_index: int = 0) -> AdapterState:
        """What a client sends back of what it holds after training: what it trained and shares, nothing else."""

    def personal_part(self, state: AdapterState) -> AdapterState:
        """What a client keeps for its next round and never sends; empty for most methods."""

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
        """Layer -> everything learned, as one pair. ``bases`` and ``scale`` are read by Fed-SB only.

        Raises:
          ValueError: bases are missing, or nobody holds a whole pair (FedSA-LoRA's server).
        """


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
    """The exact sum ``sum_k p_k s_k B_k A_k`` of every layer, while clients pass by one at a time.

    Factors are kept as they came until their stack is twice as wide as the layer, where it holds more numbers than
    the product; then they are multiplied into one (m, n) sum in float64. So the memory of a layer does not grow
    with the number of clients: at most about ``2 min(m, n) (m + n)`` numbers as they came, the same in float64
    while they are multiplied, and two dense matrices.
    """

    def __init__(self, like: Mapping[str, FactorPair]) -> None:
        """``like``: the pairs of the state before, whose layers and (m, n) bind; may be empty."""
        self._shapes = {layer: pair.shape for layer, pair in like.items()}
        self._kept: dict[str, list[tuple[FactorPair, float]]] = {}
        self._kept_rank: dict[str, int] = {}  # of the stack of what is kept
        self._wide: dict[str, torch.Tensor] = {}
        self._weights: list[float] = []

    def add(self, lora: Mapping[str, FactorPair], weight: float) -> None:
        """Add one client's factors.

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
            self._kept.setdefault(layer, []).append((pair, weight))
            self._kept_rank[layer] = self._kept_rank.get(layer, 0) + pair.lora_rank
            if self._kept_rank[layer] > 2 * min(pair.shape):
                self._widen(layer)
        self._weights.append(weight)

    def _widen(self, layer: str) -> None:
        """Multiply what is kept into the layer's dense sum."""
        kept = self._kept[layer]
        whole = stack([p for p, _ in kept], [w for _, w in kept], dtype=torch.float64)
        product = whole.B @ whole.A
        self._wide[layer] = self._wide[layer].add_(product) if layer in self._wide else product
        kept.clear()
        self._kept_rank[layer] = 0

    @property
    def shares(self) -> list[float]:
        """p_k: weights over their sum."""
        total = math.fsum(self._weights)
        return [w / total for w in self._weights]

    def kept(self, layer: str) -> list[tuple[FactorPair, float]] | None:
        """Every client's pair of a layer with its share, or None once they were multiplied out."""
        total = math.fsum(self._weights)
        return None if layer in self._wide else [(p, w / total) for p, w in self._kept[layer]]

    def exact(self) -> dict[str, FactorPair]:
        """Layer -> ``sum_k p_k s_k B_k A_k`` in float64: what methods are measured against.

        A stack of all factors; or, past that, the dense sum beside an identity.
        """
        total = math.fsum(self._weights)
        made = {}
        for layer, kept in self._kept.items():
            if layer in self._wide:
                if kept:
                    self._widen(layer)
                made[layer] = as_pair(self._wide[layer] / total)
            else:
                made[layer] = stack([p for p, _ in kept], [w / total for _, w in kept], dtype=torch.float64)
        return made


def as_pair(matrix: torch.Tensor) -> FactorPair:
    """A dense (m, n) matrix as a pair of rank min(m, n), one factor the identity."""
    rows, columns = matrix.shape
    if columns <= rows:
        return FactorPair(B=matrix, A=torch.eye(columns, dtype=matrix.dtype))
    return FactorPair(B=torch.eye(rows, dtype=matrix.dtype), A=matrix)
