"""The mechanism test: thousands of single steps with and without one worst-case example. Seconds, and tight.

It asks three things of a step: can its output tell whether the canary was there better than (1 / sigma)-GDP allows;
is the noise as large as claimed; are two steps independent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import beta, chi2

from privacy.audit.bounds import gaussian_mu_lower_bound
from privacy.audit.controls import Setup
from privacy.audit.probe import LinearProbe

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    from torch import nn

    from privacy.dpsgd import DpSgd
    from privacy.noise import NoiseSource

_SIZE = 8  # coordinate 0 is the canary's, 1 is the other examples', the rest hold noise alone
_CANARY_SCALE = 10.0  # of the clipping norm: clipping has to bring it down
_QUIET = slice(2, _SIZE)
NUM_CHECKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question and its answer.

    Attributes:
      name: the question.
      measured: the figure.
      bound: what it is held to.
      holds: whether it is within.
    """

    name: str
    measured: float
    bound: float
    holds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MechanismReport:
    """Outcome of the mechanism test.

    Attributes:
      noise_multiplier: claimed.
      noise_std: of the noise on the sum, as claimed.
      trials: steps with and steps without the canary, each.
      confidence: of all checks together: a right mechanism fails any of them with at most 1 - confidence.
      checks: ``mu`` (lower bound against 1 / sigma), ``noise too small`` and ``steps alike``.
    """

    noise_multiplier: float
    noise_std: float
    trials: int
    confidence: float
    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        """Whether every check holds."""
        return all(check.holds for check in self.checks)


def check_mechanism(
    build: Callable[[nn.Module, torch.optim.Optimizer, Setup, NoiseSource], DpSgd],
    noise: NoiseSource,
    *,
    noise_multiplier: float = 1.0,
    clipping_norm: float = 0.5,
    trials: int = 2000,
    confidence: float = 0.9999,
) -> MechanismReport:
    """Test single steps of a mechanism.

    Args:
      build: makes the mechanism; see ``privacy.audit.controls``.
      noise: where its noise comes from.
      noise_multiplier: sigma, as claimed.
      clipping_norm: C, as claimed.
      trials: steps with the canary, and as many without.
      confidence: of all checks together; each gets a third of the error. What it comes to in many runs:
        ``privacy.audit.false_alarms``.

    Returns:
      the report.
    """
    setup = Setup(clipping_norm=clipping_norm, noise_multiplier=noise_multiplier, expected_batch_size=16.0)
    probe = LinearProbe(_SIZE, build, setup, noise)
    others = torch.zeros(3, _SIZE)
    others[:, 1] = clipping_norm / 2
    canary = torch.zeros(1, _SIZE)
    canary[0, 0] = _CANARY_SCALE * clipping_norm
    try:
        without = _outputs(probe, others, trials)
        present = _outputs(probe, torch.cat([others, canary]), trials)
    finally:
        probe.close()
    p = (1 - confidence) / NUM_CHECKS
    std = noise_multiplier * clipping_norm
    quiet = np.concatenate([without[:, _QUIET], present[:, _QUIET]])
    return MechanismReport(
        noise_multiplier=noise_multiplier,
        noise_std=std,
        trials=trials,
        confidence=confidence,
        checks=(
            _tells_apart(without[:, 0], present[:, 0], clipping_norm, noise_multiplier, p),
            _noise_size(quiet, std, p),
            _independence(quiet, std, p),
        ),
    )


def _outputs(probe: LinearProbe, gradients: torch.Tensor, trials: int) -> npt.NDArray[np.float64]:
    """(trials, _SIZE) noised sums of the same batch."""
    return np.stack([probe.noised_sum(gradients).double().numpy() for _ in range(trials)])


def _tells_apart(
    without: npt.NDArray[np.float64],
    present: npt.NDArray[np.float64],
    clipping_norm: float,
    noise_multiplier: float,
    p: float,
) -> Check:
    threshold = clipping_norm / 2  # fixed before any output is seen: the best one if the claim is true
    mu = gaussian_mu_lower_bound(
        false_positives=int((without >= threshold).sum()),
        negatives=len(without),
        false_negatives=int((present < threshold).sum()),
        positives=len(present),
        p=p,
    )
    bound = 1 / noise_multiplier
    return Check(name="mu, at least", measured=mu, bound=bound, holds=mu <= bound)


def _noise_size(quiet: npt.NDArray[np.float64], std: float, p: float) -> Check:
    """Too little noise is a leak; too much is not looked for."""
    count = quiet.size
    measured = float(np.sqrt(np.mean(quiet**2)))
    bound = std * math.sqrt(float(chi2.ppf(p, count)) / count)
    return Check(
        name="standard deviation of the noise", measured=measured, bound=bound, holds=measured >= bound
    )


def _independence(quiet: npt.NDArray[np.float64], std: float, p: float) -> Check:
    """Correlation of each step's noise with the next one's.

    Steps 1 and 2, 3 and 4, ... share no value with each other, nor do 2 and 3, 4 and 5, ...: within each half the
    squared cosine of independent noise is exactly Beta(1/2, (n - 1)/2). The larger half is reported, each held to p/2.
    """
    measured = max(_cosine(quiet[0:-1:2], quiet[1::2], std), _cosine(quiet[1:-1:2], quiet[2::2], std))
    count = quiet[2::2].size
    bound = math.sqrt(float(beta.isf(p / 2, 0.5, (count - 1) / 2)))
    return Check(
        name="correlation of consecutive steps", measured=measured, bound=bound, holds=measured <= bound
    )


def _cosine(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], std: float) -> float:
    least = first.size * (1e-12 * std) ** 2  # without any noise there is no direction
    size = math.sqrt(max(float(np.sum(first**2)), least) * max(float(np.sum(second**2)), least))
    return abs(float(np.sum(first * second))) / size
