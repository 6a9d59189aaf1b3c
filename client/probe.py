"""What one rank takes on this machine, measured in this process: ``python -m client.probe``, for ``client.capacity``.

Reads one JSON object with ``recipe`` (canonical JSON), ``lora_rank`` and ``noise_multiplier``; writes one with
``seconds_per_step`` and ``peak_mb``. No example is read; private steps are measured as private steps.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from client.adapters import attach, detach
from client.base import loaded_base
from client.images import PixelExamples
from client.tokens import TokenisedExamples
from client.training import train_round
from motet.modeling import initial_dense, layer_shapes
from motet.recipe import from_canonical_json
from motet.recipe.method import local_start, method_of
from privacy.noise import SystemNoise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from client.inputs import Prepared
    from motet.recipe import Recipe

TIMED_STEPS = 2
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main() -> None:
    """Entry point."""
    torch.set_num_threads(1)  # as the client itself
    asked = json.load(sys.stdin)
    taken = measure(from_canonical_json(asked["recipe"]), asked["lora_rank"], asked["noise_multiplier"])
    sys.stdout.write(json.dumps(taken) + "\n")


def measure(recipe: Recipe, lora_rank: int, noise_multiplier: float | None) -> dict[str, float]:
    """Take one step, and then a few that are timed, of a client's own training on random inputs.

    Returns:
      ``seconds_per_step`` and ``peak_mb`` of ``client.capacity.Measured``.
    """
    method, base = method_of(recipe), loaded_base(recipe)
    shapes = layer_shapes(recipe) if recipe.method.train_adapter else {}
    scale = recipe.scale_of(lora_rank)
    state = method.initial_state(
        shapes, lora_rank=lora_rank, scale=scale, dense=initial_dense(recipe), seed=recipe.seed
    )
    start = local_start(
        recipe,
        method,
        method.starting_point(state, lora_rank=lora_rank, scale=scale),
        layer_shapes=shapes,
        lora_rank=lora_rank,
        round_index=0,
        client_id="probe",
    )
    examples = _random_examples(recipe)
    with base.lock:
        bases = base.bases_for(recipe, start)
        trains = method.trained_factors(0)
        rests = recipe.sketches_in(0)
        attached = attach(
            base.model, recipe, start, bases=bases, scale=scale, trains=trains, heads_rest=rests
        )
        try:
            _reset_peak()
            for steps in (1, TIMED_STEPS):
                began = time.perf_counter()
                train_round(
                    attached,
                    _probe_of(recipe, steps),
                    examples,
                    round_index=0,
                    client_id="probe",
                    noise=SystemNoise(),
                    noise_multiplier=noise_multiplier,
                )
                seconds = (time.perf_counter() - began) / steps
            return {"seconds_per_step": seconds, "peak_mb": _peak_mb()}
        finally:
            detach(attached)


def _probe_of(recipe: Recipe, steps: int) -> Recipe:
    """The recipe of a few plain steps in which all examples take part."""
    training = recipe.training.model_copy(update={"local_steps": steps, "algorithm": "fedavg"})
    changed: dict[str, object] = {"training": training}
    if recipe.privacy is not None:
        changed["privacy"] = recipe.privacy.model_copy(update={"sampling_rate": 1.0, "unit": "example"})
    return recipe.model_copy(update=changed)


def _random_examples(recipe: Recipe) -> Prepared:
    """As many as a batch has on average, all of full size."""
    count, generator = recipe.training.expected_batch_size, torch.Generator().manual_seed(0)
    labels: Sequence[int] = [i % (recipe.task.num_labels or 1) for i in range(count)]
    if recipe.task.reads_images:
        size = recipe.task.image_size
        pixels = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
        return PixelExamples(pixels=pixels, labels=labels)
    ids = torch.randint(3, 200, (count, recipe.task.max_length), generator=generator)
    return TokenisedExamples(ids=ids.tolist(), labels=labels, pad_id=0)


def _reset_peak() -> None:
    """Let the peak begin anew, where the system can (Linux); elsewhere it is that of the process so far."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return


def _peak_mb() -> float:
    try:
        line = next(x for x in _STATUS.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    except (OSError, StopIteration):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most * (1 if sys.platform == "darwin" else 1024) / 1e6


if __name__ == "__main__":
    main()
