"""FLoRIST: FLoRA whose round is cut to the fewest components that keep a share of its energy.

Ramesh and Dass 2025, https://arxiv.org/abs/2506.09199. The stacks' QR factors and the SVD of their small core give
the singular values; the smallest rank whose squares sum to ``energy`` of the total is kept. Where the paper leaves
the next round open, we do as FLoRA: what is kept is folded into the base, and clients begin with fresh factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aggregation.kernels import truncate_energy
from aggregation.methods.flora import Flora

if TYPE_CHECKING:
    from aggregation.adapter import FactorPair


@dataclass(frozen=True, slots=True)
class Florist(Flora):
    """``energy`` in (0, 1]: the share of ``||sum_k p_k s_k B_k A_k||_F^2`` that each round keeps."""

    name: str = "florist"
    energy: float = 0.95

    def kept(self, exact: FactorPair) -> FactorPair:
        """The best pair of the smallest rank that keeps the energy.

        Raises:
          ValueError: ``energy`` is not in (0, 1].
        """
        return truncate_energy(exact, self.energy)
