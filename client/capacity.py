"""The largest rank that this machine carries within what its owner gives: measured here, with the run's own model.

The owner states memory and time in the policy (``max_memory_mb``, ``max_round_seconds``). A few ranks, small ones
first, each take a few steps of the client's own training until one is over a bound: in a process of its own, on random
inputs of full size (``client.probe``). No example is there, so the rank that is told depends on the machine and its
owner alone. Measurements are remembered in the client's home; delete ``capacity.json`` to measure again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from client.errors import ClientError, PolicyRefusedError
from motet.durable import write_whole
from motet.recipe import canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from client.policy import Policy
    from motet.recipe import Recipe

log = logging.getLogger(__name__)
PROBE_TIMEOUT_S = 600.0
_KILLED = (-9, 137)  # as by a system that is out of memory


class OverCapacityError(ClientError):
    """The order's rank is over what this machine carries now; the reply tells the rank that it carries."""

    code = "over_capacity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one rank takes here.

    Attributes:
      seconds_per_step: of one optimiser step of ``expected_batch_size`` examples, after a first one.
      peak_mb: most memory of the whole process in those steps, in 10^6 bytes: libraries, base model, training; not
        the examples, which are not there.
    """

    seconds_per_step: float
    peak_mb: float


def ladder(most: int) -> list[int]:
    """The ranks that are tried: an eighth, a quarter, a half and all of ``most``, ascending; 1 is the least."""
    return sorted({max(1, most // part) for part in (8, 4, 2, 1)})


def largest_rank(policy: Policy, most: int, num_steps: int, measure: Callable[[int], Measured]) -> int:
    """The largest rank of the ladder up to ``most`` that stays within the owner's bounds.

    Args:
      policy: bounds memory, time and rank; what it does not bound is not measured.
      most: the recipe's rank.
      num_steps: of a round.
      measure: what a rank takes.

    Raises:
      PolicyRefusedError: not even rank 1 does; names the clause.
    """
    most = min(most, policy.max_lora_rank or most)
    if policy.max_memory_mb is None and policy.max_round_seconds is None:
        return most
    found = 0
    for rank in ladder(most):
        if excess(policy, rank, num_steps, measure(rank)):
            break
        found = rank
    if found:
        return found
    over = excess(policy, 1, num_steps, measure(1))
    if over:
        raise PolicyRefusedError(over)
    return 1


def excess(policy: Policy, lora_rank: int, num_steps: int, taken: Measured) -> str:
    """Which clause a rank would break and by what; empty where none."""
    memory, seconds = policy.max_memory_mb, policy.max_round_seconds
    if memory is not None and taken.peak_mb > memory:
        return f"clause max_memory_mb: rank {lora_rank} takes {taken.peak_mb:.0f}, the owner gives {memory:g}"
    if seconds is not None and taken.seconds_per_step * num_steps > seconds:
        whole = taken.seconds_per_step * num_steps
        return f"clause max_round_seconds: rank {lora_rank} takes {whole:.1f}, the owner gives {seconds:g}"
    return ""


class Capacity:
    """What this client's machine carries of a recipe.

    Args:
      path: where measurements are remembered.
      policy: the owner's bounds.
      measure: what a rank of a recipe takes; ``probed`` by default.
    """

    def __init__(
        self,
        path: Path,
        policy: Policy,
        measure: Callable[[Recipe, int, float | None], Measured] | None = None,
    ) -> None:
        self._path, self._policy, self._measure = path, policy, measure or probed

    def offer(self, recipe: Recipe, most: int, noise_multiplier: float | None) -> int:
        """The rank to tell the coordinator: at least 1, at most ``most``.

        Raises:
          PolicyRefusedError: no rank stays within the owner's bounds.
        """
        return largest_rank(
            self._policy,
            most,
            recipe.training.local_steps,
            lambda rank: self._remembered(recipe, rank, noise_multiplier),
        )

    def check(self, recipe: Recipe, lora_rank: int, noise_multiplier: float | None) -> None:
        """Refuse an order whose rank is over the owner's bounds.

        Raises:
          PolicyRefusedError: of a recipe that assigns ranks.
          OverCapacityError: of one that asks for them; another attempt may ask for less.
        """
        if self._policy.max_memory_mb is None and self._policy.max_round_seconds is None:
            return
        steps = recipe.training.local_steps
        known = {int(rank): taken for rank, taken in self._read(recipe).items()}
        if any(rank >= lora_rank and not excess(self._policy, rank, steps, m) for rank, m in known.items()):
            return  # a larger rank fits, and has been measured
        over = excess(self._policy, lora_rank, steps, self._remembered(recipe, lora_rank, noise_multiplier))
        if over and recipe.adapter.rank_policy == "measured":
            raise OverCapacityError(over)
        if over:
            raise PolicyRefusedError(over)

    def _remembered(self, recipe: Recipe, lora_rank: int, noise_multiplier: float | None) -> Measured:
        known = self._read(recipe)
        if str(lora_rank) in known:
            return known[str(lora_rank)]
        taken = self._measure(recipe, lora_rank, noise_multiplier)
        if not math.isfinite(taken.peak_mb):
            return taken
        log.info("rank %s takes %.3f s a step and %.0f MB here", lora_rank, *asdict(taken).values())
        table = self._table()
        table.setdefault(_key(recipe), {})[str(lora_rank)] = asdict(taken)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, json.dumps(table, indent=1).encode())
        except OSError as e:
            raise ClientError(f"{self._path.name} can not be written: {e.strerror}") from e
        return taken

    def _read(self, recipe: Recipe) -> dict[str, Measured]:
        return {rank: Measured(**taken) for rank, taken in self._table().get(_key(recipe), {}).items()}

    def _table(self) -> dict[str, dict[str, dict[str, float]]]:
        if not self._path.exists():
            return {}
        try:
            found: dict[str, dict[str, dict[str, float]]] = json.loads(self._path.read_text())
        except ValueError:
            return {}  # measured again
        return found


def _key(recipe: Recipe) -> str:
    """Names all of a recipe that a step's cost depends on, but the rank."""
    training = recipe.training
    parts = [
        recipe.base_model.model_dump_json(),
        recipe.task.model_dump_json(),
        recipe.method.model_dump_json(),
        str((recipe.adapter.targets, recipe.adapter.layers, recipe.adapter.dropout)),
        str((training.expected_batch_size, training.optimizer, recipe.trains_privately)),
    ]
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]


def probed(recipe: Recipe, lora_rank: int, noise_multiplier: float | None) -> Measured:
    """Measure one rank in a process of its own; infinite where the system killed that.

    Raises:
      ClientError: the process failed or did not end in time; its words are in the client's log.
    """
    asked = {"recipe": canonical_json(recipe), "lora_rank": lora_rank, "noise_multiplier": noise_multiplier}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "client.probe"],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as e:
        raise ClientError(f"measuring rank {lora_rank} took over {PROBE_TIMEOUT_S:.0f} s") from e
    if done.returncode in _KILLED:
        return Measured(seconds_per_step=math.inf, peak_mb=math.inf)
    if done.returncode:
        log.error("measuring rank %s failed: %s", lora_rank, done.stderr[-2000:])
        raise ClientError(f"measuring rank {lora_rank} failed; the client's log says why")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))
