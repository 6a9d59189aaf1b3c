"""The values that travel: low-rank factor pairs, square cores and dense heads.

Notation (used in every formula of this package): a layer's weight is ``W`` of shape (m, n) with
m = out_features and n = in_features, as in ``torch.nn.Linear.weight``. A client k holds
``B_k`` (m, r_k), ``A_k`` (r_k, n) and the PEFT scale ``s_k`` (alpha / r_k). Its change of the layer is
``delta_weight = s_k * B_k @ A_k``. Hu et al. 2021, https://arxiv.org/abs/2106.09685.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorPair:
    """One layer's low-rank change ``scale * B @ A``, never multiplied out.

    Attributes:
      B: (m, r), m = out_features. Any floating dtype; finite.
      A: (r, n), n = in_features. Same dtype as ``B``.
      scale: the PEFT scale (alpha / r); finite.

    Raises:
      ValueError: the inner dimensions differ, or a factor is not a matrix.
    """

    B: torch.Tensor
    A: torch.Tensor
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.B.ndim != 2 or self.A.ndim != 2 or self.B.shape[1] != self.A.shape[0]:
            raise ValueError(
                f"factors do not fit: B is {tuple(self.B.shape)}, A is {tuple(self.A.shape)}; "
                "need (m, r) and (r, n)"
            )

    @property
    def lora_rank(self) -> int:
        """The inner dimension r."""
        return self.A.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n): the shape of the layer's weight."""
        return self.B.shape[0], self.A.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfPair:
    """One factor of a pair alone: the other is frozen and known, or stays with its owner.

    Attributes:
      side: which factor ``value`` is.
      value: B (m, r) or A (r, n). Any floating dtype; finite.
      scale: the PEFT scale (alpha / r) of the pair that it belongs to; finite.

    Raises:
      ValueError: ``value`` is not a matrix.
    """

    side: Literal["A", "B"]
    value: torch.Tensor
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.value.ndim != 2:
            raise ValueError(f"{self.side} must be a matrix, not {tuple(self.value.shape)}")

    @property
    def lora_rank(self) -> int:
        """The inner dimension r."""
        return self.value.shape[0] if self.side == "A" else self.value.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterState:
    """Everything a run has learned so far, or one client's trained values. All maps may be empty.

    Attributes:
      lora: layer name -> factors that are being trained.
      base_delta: layer name -> change already folded into the frozen base (FLoRA); not trained.
      halves: layer name -> one factor alone (FFA-LoRA, RoLoRA, FedSA-LoRA).
      cores: layer name -> R (r, r) of Fed-SB, in ``s * B @ R @ A`` with frozen B and A.
      dense: parameter name -> whole trained tensor (classification heads).
      control: key of ``aggregation.control.trained_values`` -> mean control variate of SCAFFOLD; no part of the model.
    """

    lora: Mapping[str, FactorPair] = field(default_factory=dict)
    base_delta: Mapping[str, FactorPair] = field(default_factory=dict)
    halves: Mapping[str, HalfPair] = field(default_factory=dict)
    cores: Mapping[str, torch.Tensor] = field(default_factory=dict)
    dense: Mapping[str, torch.Tensor] = field(default_factory=dict)
    control: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientUpdate:
    """One client's trained values as the coordinator admits them.

    Attributes:
      client_id: name of the data owner; fixes the order of reduction.
      weight: unnormalised aggregation weight, > 0 and finite.
      state: the trained values (the values themselves, not differences).
    """

    client_id: str
    weight: float
    state: AdapterState
