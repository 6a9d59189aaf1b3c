"""Run the empirical audit on the installed mechanism, with its positive controls, and put the outcome in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table

from privacy.audit.canary import CanaryPlan, CanaryReport, run_canary_audit
from privacy.audit.controls import FALSE_MECHANISMS, honest
from privacy.audit.false_alarms import FalseAlarms, false_alarms
from privacy.audit.mechanism import MechanismReport, check_mechanism
from privacy.noise import SystemNoise

if TYPE_CHECKING:
    from collections.abc import Mapping

RIGHT = "as installed"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackResult:
    """Reports by mechanism; the first is the installed one, the others are false on purpose."""

    steps: Mapping[str, MechanismReport]
    runs: Mapping[str, CanaryReport]

    @property
    def false_alarms(self) -> FalseAlarms:
        """How often such an audit accuses a mechanism that is right, at most."""
        step = self.steps[RIGHT]
        return false_alarms(
            trials=step.trials,
            noise_multiplier=step.noise_multiplier,
            confidence=step.confidence,
            plan=self.runs[RIGHT].plan if self.runs else None,
        )

    @property
    def failures(self) -> list[str]:
        """What must not be: the installed mechanism refuted, or a false one not caught."""
        failures = []
        for title, reports in (("mechanism test", self.steps), ("one-run audit", self.runs)):
            for name, report in reports.items():
                if name == RIGHT and not report.holds:
                    failures.append(f"{title}: the installed mechanism gives away more than it claims")
                if name != RIGHT and report.holds:
                    failures.append(f"{title}: {name} was not caught, so this audit is blind")
        return failures

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "ok": not self.failures,
            "failures": self.failures,
            "false_alarms": asdict(self.false_alarms) | {"total": self.false_alarms.total},
            "mechanism_test": {name: asdict(r) | {"holds": r.holds} for name, r in self.steps.items()},
            "one_run_audit": {name: asdict(r) | {"holds": r.holds} for name, r in self.runs.items()},
        }

    def tables(self) -> list[Table]:
        """For people."""
        tables = []
        first = Table("mechanism", "mu, at least", "claimed", "noise / claimed", "correlation", "verdict")
        first.title, first.title_justify = "single steps", "left"
        for name, report in self.steps.items():
            mu, size, correlation = report.checks
            first.add_row(
                name,
                f"{mu.measured:.2f}",
                f"{mu.bound:.2f}",
                f"{size.measured / report.noise_std:.2f}",
                f"{correlation.measured:.3f}",
                _verdict(name, holds=report.holds),
            )
        tables.append(first)
        if self.runs:
            second = Table("mechanism", "right guesses", "epsilon, at least", "claimed", "verdict")
            second.title, second.title_justify = "one run with canaries", "left"
            for name, run in self.runs.items():
                best = max(run.correct_by_sum, run.correct_by_difference)
                second.add_row(
                    name,
                    f"{best} of {run.plan.guesses}",
                    f"{run.epsilon_lower_bound:.2f}",
                    f"{run.claim:.2f}",
                    _verdict(name, holds=run.holds),
                )
            tables.append(second)
        return tables

    def notes(self) -> list[str]:
        """What the figures can and can not say."""
        step = self.steps[RIGHT]
        notes = [
            f"single steps: {step.trials} with the canary and as many without, all checks together at "
            f"confidence {step.confidence:g}"
        ]
        if self.runs:
            run = self.runs[RIGHT]
            notes.append(
                f"one run: {run.plan.canaries} canaries, {run.plan.guesses} guesses, confidence "
                f"{run.plan.confidence:g}, delta {run.plan.delta:g}. Its ceiling is epsilon {run.ceiling:.2f}: no "
                "outcome could refute a larger claim"
            )
        notes.append(
            f"a mechanism that is right is accused in {self.false_alarms.total:.2g} of such audits, at most"
        )
        notes.append("what is not refuted is not thereby proven; the proof is the accounting")
        return notes


def _verdict(name: str, *, holds: bool) -> str:
    if name == RIGHT:
        return "holds" if holds else "REFUTED"
    return "NOT CAUGHT" if holds else "caught"


def attack(*, trials: int, canaries: int, with_runs: bool, with_controls: bool) -> AttackResult:
    """Test the installed mechanism with noise from the operating system.

    Args:
      trials: steps with, and steps without the canary.
      canaries: of the one-run audit; a fifth of them is guessed.
      with_runs: whether to run it.
      with_controls: whether to test the false mechanisms as well.
    """
    builds = {RIGHT: honest, **(FALSE_MECHANISMS if with_controls else {})}
    plan = CanaryPlan(canaries=canaries, guesses=2 * (canaries // 10))
    return AttackResult(
        steps={name: check_mechanism(b, SystemNoise(), trials=trials) for name, b in builds.items()},
        runs={name: run_canary_audit(b, SystemNoise(), plan) for name, b in builds.items()}
        if with_runs
        else {},
    )
