"""Does the audit catch what is false and let pass what is right? Forty runs of the right mechanism, ten of each other.

Every run has noise of its own from the operating system and other coins for its canaries. Each is attacked twice: by
single steps with and without one worst-case example, and by one whole run with canaries at a small claim.

Run: python benchmarks/audit_power.py [--right 40] [--false 10]. Writes benchmarks/results/audit_power.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

# benchmarks/aggregation.py lies beside this file and must not hide the package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch  # noqa: E402

from privacy.audit.canary import CanaryPlan, run_canary_audit  # noqa: E402
from privacy.audit.controls import FALSE_MECHANISMS, honest  # noqa: E402
from privacy.audit.false_alarms import false_alarms  # noqa: E402
from privacy.audit.mechanism import check_mechanism  # noqa: E402
from privacy.noise import SystemNoise  # noqa: E402

RESULT = Path(__file__).parent / "results" / "audit_power.json"
CANARIES, GUESSES, TRIALS = 1000, 200, 1000


def attacked(build: object, runs: int) -> dict[str, object]:
    failed: Counter[str] = Counter()
    steps, mus, guesses, bounds, claims, seconds = 0, [], [], [], set(), time.process_time()
    for seed in range(runs):
        told = check_mechanism(build, SystemNoise(), trials=TRIALS)
        steps += told.holds
        mus.append(told.checks[0].measured)
        failed.update(check.name for check in told.checks if not check.holds)
        plan = CanaryPlan(canaries=CANARIES, guesses=GUESSES, seed=seed)
        run = run_canary_audit(build, SystemNoise(), plan)
        bounds.append(run.epsilon_lower_bound)
        guesses.append(max(run.correct_by_sum, run.correct_by_difference))
        claims.add(plan.claim)
    claim = max(claims)
    return {
        "runs": runs,
        "single_steps_hold": steps,
        "checks_that_failed": dict(sorted(failed.items())),
        "mu_at_least": [round(min(mus), 2), round(max(mus), 2)],
        "one_run_holds": sum(bound <= claim for bound in bounds),
        "right_guesses": [min(guesses), max(guesses)],
        "epsilon_at_least": [round(min(bounds), 2), round(max(bounds), 2)],
        "claim": round(claim, 2),
        "cpu_seconds_a_run": round((time.process_time() - seconds) / runs, 1),
    }


def stated(runs: int) -> dict[str, object]:
    """What theory says of the right mechanism's false alarms, for one run and for all."""
    step = check_mechanism(honest, SystemNoise(), trials=TRIALS)
    alarms = false_alarms(
        trials=TRIALS,
        noise_multiplier=step.noise_multiplier,
        confidence=step.confidence,
        plan=CanaryPlan(canaries=CANARIES, guesses=GUESSES),
    )
    each = {name: float(f"{value:.2g}") for name, value in asdict(alarms).items()}
    return each | {f"any_in_{runs}_runs": float(f"{alarms.in_runs(runs):.2g}")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--right", type=int, default=40)
    parser.add_argument("--false", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, object] = {
        "what": "attacks on single steps and on one run, on the right mechanism and on five false ones",
        "canaries": CANARIES,
        "guesses": GUESSES,
        "trials": TRIALS,
        "false_alarms_at_most": stated(arguments.right),
    }
    builds = {"as installed": (honest, arguments.right)}
    builds |= {name: (build, arguments.false) for name, build in FALSE_MECHANISMS.items()}
    for name, (build, runs) in builds.items():
        result[name] = attacked(build, runs)
        print(name, json.dumps(result[name]), flush=True)
        RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
