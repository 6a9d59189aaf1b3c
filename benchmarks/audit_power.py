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
from pathlib import Path

# benchmarks/aggregation.py lies beside this file and must not hide the package.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch  # noqa: E402

from privacy.audit.canary import CanaryPlan, run_canary_audit  # noqa: E402
from privacy.audit.controls import FALSE_MECHANISMS, honest  # noqa: E402
from privacy.audit.mechanism import check_mechanism  # noqa: E402
from privacy.noise import SystemNoise  # noqa: E402

RESULT = Path(__file__).parent / "results" / "audit_power.json"
CANARIES, GUESSES, TRIALS = 1000, 200, 1000


def attacked(build: object, runs: int) -> dict[str, object]:
    steps, bounds, claims, seconds = 0, [], set(), time.process_time()
    for seed in range(runs):
        steps += check_mechanism(build, SystemNoise(), trials=TRIALS).holds
        plan = CanaryPlan(canaries=CANARIES, guesses=GUESSES, seed=seed)
        bounds.append(run_canary_audit(build, SystemNoise(), plan).epsilon_lower_bound)
        claims.add(plan.claim)
    claim = max(claims)
    return {
        "runs": runs,
        "single_steps_hold": steps,
        "one_run_holds": sum(bound <= claim for bound in bounds),
        "epsilon_at_least": [round(min(bounds), 2), round(max(bounds), 2)],
        "claim": round(claim, 2),
        "cpu_seconds_a_run": round((time.process_time() - seconds) / runs, 1),
    }


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
    }
    builds = {"as installed": (honest, arguments.right)}
    builds |= {name: (build, arguments.false) for name, build in FALSE_MECHANISMS.items()}
    for name, (build, runs) in builds.items():
        result[name] = attacked(build, runs)
        print(name, json.dumps(result[name]), flush=True)
        RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
