"""Where adapters start: fresh LoRA factors, and the frozen bases of Fed-SB. Deterministic in the seed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import torch

from aggregation.adapter import FactorPair

Shapes = Mapping[str, tuple[int, int]]


def generator_for(seed: int, *labels: str | int) -> torch.Generator:
    """A generator keyed by seed and labels (layer, client, round), independent of the order of calls."""
    text = "\x1f".join([str(seed), *map(str, labels)])
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def fresh_factors(layer_shapes: Shapes, lora_rank: int, scale: float, seed: int) -> dict[str, FactorPair]:
    """A uniform in +-1/sqrt(n) (Kaiming with a = sqrt 5, as peft does), B = 0: the product starts at zero.

    Returns:
      layer -> B (m, r), A (r, n), float32.
    """
    made = {}
    for layer, (rows, columns) in sorted(layer_shapes.items()):
        bound = 1 / math.sqrt(columns)
        a = torch.empty(lora_rank, columns).uniform_(-bound, bound, generator=generator_for(seed, layer))
        made[layer] = FactorPair(B=torch.zeros(rows, lora_rank), A=a, scale=scale)
    return made


def spare_rows(layer: str, lora_rank: int, columns: int) -> torch.Tensor:
    """(r, n) rows for components that a product does not have; as ``fresh_factors``, the same on every machine."""
    bound = 1 / math.sqrt(columns)
    rows = torch.empty(lora_rank, columns)
    return rows.uniform_(-bound, bound, generator=generator_for(0, "spare", layer))


def frozen_rows(layer: str, lora_rank: int, columns: int, seed: int) -> torch.Tensor:
    """A (r, n) with orthonormal rows, from the seed alone, nested: a smaller rank gets the first rows, bit for bit.

    FFA-LoRA's frozen factor, Sun et al. 2024, https://arxiv.org/abs/2403.12313. Row i is a Gaussian row of its
    own, orthogonalised twice against the rows before it, in float64; nothing depends on how many rows follow.

    Returns:
      float32.

    Raises:
      ValueError: ``lora_rank`` exceeds ``columns``.
    """
    if lora_rank > columns:
        raise ValueError(f"{lora_rank=} exceeds the width of {layer}, {columns}")
    rows = torch.zeros(lora_rank, columns, dtype=torch.float64)
    for i in range(lora_rank):
        generator = generator_for(seed, "frozen", layer, i)
        row = torch.randn(columns, generator=generator, dtype=torch.float64)
        for _ in range(2):
            row = row - rows[:i].T @ (rows[:i] @ row)
        rows[i] = row / row.norm()
    return rows.float()


def orthonormal_bases(
    layer_shapes: Shapes, rank: int, seed: int
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Layer -> B (m, r) with orthonormal columns and A (r, n) with orthonormal rows, from the seed alone.

    Raises:
      ValueError: ``rank`` exceeds a layer's smaller side.
    """
    made = {}
    for layer, (rows, columns) in sorted(layer_shapes.items()):
        if rank > min(rows, columns):
            raise ValueError(f"{rank=} exceeds the smaller side of {layer}, {min(rows, columns)}")
        generator = generator_for(seed, "basis", layer)
        q_b = torch.linalg.qr(torch.randn(rows, rank, generator=generator, dtype=torch.float64)).Q
        q_a = torch.linalg.qr(torch.randn(columns, rank, generator=generator, dtype=torch.float64)).Q
        made[layer] = (q_b.float().contiguous(), q_a.T.float().contiguous())
    return made


def svd_bases(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The leading singular vectors of a matrix as bases.

    Of a frozen weight: LoRA-XS, Balazy et al. 2024, https://arxiv.org/abs/2405.17604, Sec. 3; no data is read. Of a
    gradient: as LoRA-SB, Ponkshe et al. 2024, https://arxiv.org/abs/2411.19557.

    Args:
      weight: (m, n).
      rank: at most min(m, n).

    Returns:
      B = U_r (m, r), A = V_r^T (r, n), float32, orthonormal; the entry of largest size of each column
      of B is positive, so that every machine finds the same signs.

    Raises:
      ValueError: ``rank`` exceeds the smaller side.
    """
    if rank > min(weight.shape):
        raise ValueError(f"{rank=} exceeds the smaller side of the weight, {min(weight.shape)}")
    u, _, vh = torch.linalg.svd(weight.double(), full_matrices=False)
    u, vh = u[:, :rank], vh[:rank]
    signs = torch.sign(u[u.abs().argmax(dim=0), torch.arange(rank)])
    return (u * signs).float().contiguous(), (vh * signs[:, None]).float().contiguous()
