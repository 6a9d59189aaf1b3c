"""DP-LoRA: FedIT whose clients train both factors under differential privacy.

Liu et al. 2023, https://arxiv.org/abs/2312.17493. The server's part is FedIT's and only processes what was
released. Noise on both factors reaches the product as ``sigma^2 (m ||A||^2 + n ||B||^2) + sigma^4 m n r``: the last
term is why ffa and fed-sb keep more of the signal.
"""

from __future__ import annotations

from dataclasses import dataclass

from aggregation.methods.fedit import FedIT


@dataclass(frozen=True, slots=True)
class DPLoRA(FedIT):
    """FedIT by another name: the difference is the client's private training."""

    name: str = "dp-lora"


def expected_noise_energy(
    shape: tuple[int, int], lora_rank: int, b_square: float, a_square: float, std: float
) -> float:
    """``E ||(B + xi)(A + zeta) - B A||_F^2`` for i.i.d. Gaussian noise of ``std`` on both factors, scale 1.

    Args:
      shape: (m, n).
      lora_rank: r.
      b_square: ``||B||_F^2``.
      a_square: ``||A||_F^2``.
      std: standard deviation of each entry.
    """
    rows, columns = shape
    return std**2 * (rows * a_square + columns * b_square) + std**4 * rows * columns * lora_rank
