"""The mechanism under audit, right and wrong. Each false one is one line that breaks what the guarantee hangs on.

These exist so that an audit can show its power: one that does not catch them is blind. They are built here, around
``DpSgd``, by the audit alone; training knows no such choice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from privacy.dpsgd import DpSgd

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import nn

    from privacy.noise import NoiseSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a step is claimed to do; see ``DpSgd``."""

    clipping_norm: float
    noise_multiplier: float
    expected_batch_size: float


class ScaledNoise:
    """Noise with its standard deviation multiplied by ``factor``; coin tosses as they are."""

    is_test_only = True

    def __init__(self, noise: NoiseSource, factor: float) -> None:
        self._noise, self._factor = noise, factor

    def normal(self, shape: Sequence[int], std: float) -> torch.Tensor:
        """See ``NoiseSource.normal``."""
        return self._noise.normal(shape, std * self._factor)

    def bernoulli(self, n: int, q: float) -> npt.NDArray[np.bool_]:
        """See ``NoiseSource.bernoulli``."""
        return self._noise.bernoulli(n, q)


class RepeatedNoise:
    """The first draw of each shape, again and again: a seed that is set anew in every step."""

    is_test_only = True

    def __init__(self, noise: NoiseSource) -> None:
        self._noise = noise
        self._first: dict[tuple[int, ...], torch.Tensor] = {}

    def normal(self, shape: Sequence[int], std: float) -> torch.Tensor:
        """See ``NoiseSource.normal``."""
        return self._first.setdefault(tuple(shape), self._noise.normal(shape, std)).clone()

    def bernoulli(self, n: int, q: float) -> npt.NDArray[np.bool_]:
        """See ``NoiseSource.bernoulli``."""
        return self._noise.bernoulli(n, q)


def honest(model: nn.Module, optimizer: torch.optim.Optimizer, setup: Setup, noise: NoiseSource) -> DpSgd:
    """The mechanism as clients use it."""
    return DpSgd(
        model,
        optimizer,
        clipping_norm=setup.clipping_norm,
        noise_multiplier=setup.noise_multiplier,
        expected_batch_size=setup.expected_batch_size,
        noise=noise,
    )


def _no_noise(m: nn.Module, o: torch.optim.Optimizer, s: Setup, n: NoiseSource) -> DpSgd:
    return honest(m, o, s, ScaledNoise(n, 0.0))


def _quarter_noise(m: nn.Module, o: torch.optim.Optimizer, s: Setup, n: NoiseSource) -> DpSgd:
    return honest(m, o, s, ScaledNoise(n, 0.25))


def _no_clipping(m: nn.Module, o: torch.optim.Optimizer, s: Setup, n: NoiseSource) -> DpSgd:
    return honest(
        m, o, replace(s, clipping_norm=1e6 * s.clipping_norm, noise_multiplier=s.noise_multiplier / 1e6), n
    )


def _scaled_after_mean(m: nn.Module, o: torch.optim.Optimizer, s: Setup, n: NoiseSource) -> DpSgd:
    return honest(m, o, s, ScaledNoise(n, 1 / s.expected_batch_size))


def _repeated_noise(m: nn.Module, o: torch.optim.Optimizer, s: Setup, n: NoiseSource) -> DpSgd:
    return honest(m, o, s, RepeatedNoise(n))


FALSE_MECHANISMS: Mapping[str, Callable[[nn.Module, torch.optim.Optimizer, Setup, NoiseSource], DpSgd]] = {
    "no noise": _no_noise,
    "a quarter of the noise": _quarter_noise,
    "no clipping": _no_clipping,
    "noise scaled after the mean": _scaled_after_mean,
    "the same noise in every step": _repeated_noise,
}
