"""The one-run canary audit (Steinke, Nasr and Jagielski 2023, https://arxiv.org/abs/2305.08846).

Many canaries, each an example whose gradient has a coordinate of its own, are in or out of the data by fair coins. The
whole mechanism runs once, sampling included; an adversary who sees every noised sum guesses for the clearest of them
whether they were in. How often it is right bounds epsilon from below.

It can refute a claim, never confirm one, and only a claim below its ceiling: with 400 guesses all right the bound is
about 4.9, so a claim of 8 is out of its reach whatever the mechanism does. Hence it is run at a small claim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from privacy.accounting import epsilon_pld
from privacy.audit.bounds import one_run_epsilon
from privacy.audit.controls import Setup
from privacy.audit.probe import LinearProbe
from privacy.events import PoissonGaussianEvent
from privacy.sampling import poisson_indices

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    from torch import nn

    from privacy.dpsgd import DpSgd
    from privacy.noise import NoiseSource

_CANARY_SCALE = 10.0  # of the clipping norm
_SCORES = 2  # two attacks are tried; each is held to half the error


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryPlan:
    """How the audit is run; everything is fixed before it begins.

    Attributes:
      canaries: m.
      guesses: r, even; r / 2 highest scores are guessed in, r / 2 lowest out.
      examples: others in the data.
      noise_multiplier: sigma of the mechanism.
      sampling_rate: q.
      steps: T.
      clipping_norm: C.
      delta: of claim and bound.
      confidence: of the bound.
      seed: of the coins that decide which canaries are in; not of any noise.
    """

    canaries: int = 2000
    guesses: int = 400
    examples: int = 200
    noise_multiplier: float = 4.0
    sampling_rate: float = 0.064
    steps: int = 200
    clipping_norm: float = 1.0
    delta: float = 1e-5
    confidence: float = 0.95
    seed: int = 0

    @property
    def claim(self) -> float:
        """Epsilon that the mechanism is claimed to have, by PLD."""
        event = PoissonGaussianEvent(
            noise_multiplier=self.noise_multiplier, sampling_rate=self.sampling_rate, num_steps=self.steps
        )
        return epsilon_pld([event], self.delta)

    @property
    def ceiling(self) -> float:
        """The largest epsilon that this audit could refute, were every guess right."""
        return self.bound(self.guesses)

    @property
    def p_of_each_attack(self) -> float:
        """The error that each of the two attacks is held to."""
        return (1 - self.confidence) / _SCORES

    def bound(self, correct: int) -> float:
        """Lower bound on epsilon from one attack's right guesses."""
        return one_run_epsilon(
            canaries=self.canaries,
            guesses=self.guesses,
            correct=correct,
            delta=self.delta,
            p=self.p_of_each_attack,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryReport:
    """Outcome of the audit.

    Attributes:
      plan: how it was run.
      claim: epsilon claimed.
      ceiling: the largest epsilon that could have been refuted.
      correct_by_sum: right guesses of the attack on the sum of all steps.
      correct_by_difference: of the attack on differences between steps.
      epsilon_lower_bound: the better of the two, at the plan's confidence.
    """

    plan: CanaryPlan
    claim: float
    ceiling: float
    correct_by_sum: int
    correct_by_difference: int
    epsilon_lower_bound: float

    @property
    def holds(self) -> bool:
        """Whether the claim stands; it always does where it is above the ceiling."""
        return self.epsilon_lower_bound <= self.claim


def run_canary_audit(
    build: Callable[[nn.Module, torch.optim.Optimizer, Setup, NoiseSource], DpSgd],
    noise: NoiseSource,
    plan: CanaryPlan,
) -> CanaryReport:
    """Run the mechanism once with canaries and attack it.

    Args:
      build: makes the mechanism; see ``privacy.audit.controls``.
      noise: of the mechanism: its noise and its sampling.
      plan: how.

    Returns:
      the report.
    """
    coins = np.random.Generator(np.random.PCG64(plan.seed))
    included = coins.random(plan.canaries) < 0.5
    by_sum, by_difference = _scores(build, noise, plan, np.flatnonzero(included))
    correct = [_correct(scores, included, plan.guesses) for scores in (by_sum, by_difference)]
    return CanaryReport(
        plan=plan,
        claim=plan.claim,
        ceiling=plan.ceiling,
        correct_by_sum=correct[0],
        correct_by_difference=correct[1],
        epsilon_lower_bound=max(plan.bound(value) for value in correct),
    )


def _scores(
    build: Callable[[nn.Module, torch.optim.Optimizer, Setup, NoiseSource], DpSgd],
    noise: NoiseSource,
    plan: CanaryPlan,
    members: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Score every canary: by the sum of all noised sums, and by how much they differ from step to step; (m,) each.

    The sum finds too little noise and missing clipping. The difference finds noise that repeats: it cancels there,
    and what is left is the canary coming and going.
    """
    size = plan.canaries + 1  # the last coordinate is the other examples'
    data_size = len(members) + plan.examples
    setup = Setup(
        clipping_norm=plan.clipping_norm,
        noise_multiplier=plan.noise_multiplier,
        expected_batch_size=plan.sampling_rate * data_size,
    )
    probe = LinearProbe(size, build, setup, noise)
    total, moved = torch.zeros(size), torch.zeros(size)
    previous: torch.Tensor | None = None
    try:
        for _ in range(plan.steps):
            drawn = poisson_indices(data_size, plan.sampling_rate, noise)
            gradients = torch.zeros(len(drawn), size)
            columns = np.where(
                drawn < len(members), members[np.minimum(drawn, len(members) - 1)], plan.canaries
            )
            rows = torch.arange(len(drawn))
            gradients[rows, torch.from_numpy(columns)] = _CANARY_SCALE * plan.clipping_norm
            output = probe.noised_sum(gradients)
            total += output
            if previous is not None:
                moved += (output - previous).abs()
            previous = output
    finally:
        probe.close()
    return total[: plan.canaries].double().numpy(), moved[: plan.canaries].double().numpy()


def _correct(scores: npt.NDArray[np.float64], included: npt.NDArray[np.bool_], guesses: int) -> int:
    """Right guesses: half of them for the highest scores (in), half for the lowest (out)."""
    order = np.argsort(scores, kind="stable")
    half = guesses // 2
    return int(included[order[-half:]].sum() + (~included[order[:half]]).sum())
