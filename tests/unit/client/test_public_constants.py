"""What a private round does is fixed by the recipe: rate, steps, noise and divisor are the same whatever N is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch

import client.training
import client.units
from aggregation.methods import get_method
from client.adapters import attach
from client.tokens import TokenisedExamples
from client.training import train_round
from client.units import PrivateBatch
from motet.modeling import initial_dense, layer_shapes, load_base
from privacy.dpsgd import DpSgd
from privacy.noise import SeededNoise
from privacy.sampling import poisson_indices

PRIVATE = "privacy: {noise_multiplier: 1.5, sampling_rate: 0.2, clipping_norm: 0.5}\n"
STEPS, SIGMA_C, RATE, EXPECTED = 3, 0.75, 0.2, 8


class RecordingNoise(SeededNoise):
    def __init__(self):
        super().__init__(0)
        self.rates, self.stds, self.sizes = [], [], []

    def normal(self, shape, std):
        self.stds.append(std)
        self.sizes.append(math.prod(shape))
        return super().normal(shape, std)

    def bernoulli(self, n, q):
        self.rates.append(q)
        return super().bernoulli(n, q)


@dataclass
class Round:
    """What one round on N examples did, and where the trained values ended."""

    rates: list[float]
    stds: list[float]
    sizes: list[int]
    divisors: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    end: torch.Tensor = field(default_factory=lambda: torch.zeros(0))


def round_on(recipe, num_examples, monkeypatch):
    noise = RecordingNoise()
    done = Round(rates=noise.rates, stds=noise.stds, sizes=noise.sizes)

    class Watched(DpSgd):
        def __init__(self, *args, **kwargs):
            done.divisors.append(kwargs["expected_batch_size"])
            super().__init__(*args, **kwargs)

        def accumulate(self, losses, owners=None):
            done.batches.append(len(losses))
            super().accumulate(losses, owners)

    monkeypatch.setattr(client.training, "DpSgd", Watched)
    state = get_method("fedit").initial_state(
        layer_shapes(recipe),
        lora_rank=4,
        scale=recipe.scale_of(4),
        dense=initial_dense(recipe),
        seed=recipe.seed,
    )
    attached = attach(load_base(recipe), recipe, state, scale=recipe.scale_of(4))
    examples = TokenisedExamples(
        ids=[[65 + i % 20] * 5 for i in range(num_examples)],
        labels=[i % 2 for i in range(num_examples)],
        pad_id=256,
    )
    train_round(attached, recipe, examples, round_index=0, client_id="a", noise=noise, noise_multiplier=1.5)
    done.end = torch.cat([p.detach().flatten() for p in attached.trainable().values()])
    return done


@pytest.mark.parametrize("num_examples", [0, 1, 39, 40, 41, 200])
def test_rate_steps_noise_and_divisor_do_not_depend_on_the_number_of_examples(
    recipe_of, monkeypatch, num_examples
):
    recipe = recipe_of(method="fedit", extra=PRIVATE)
    done = round_on(recipe, num_examples, monkeypatch)
    assert done.rates == [RATE] * STEPS
    assert done.stds == [SIGMA_C] * STEPS
    assert len(set(done.sizes)) == 1
    assert done.sizes[0] == done.end.numel()  # all that trains, in one draw a step
    assert done.divisors == [EXPECTED]


def test_a_rate_taken_from_the_number_of_examples_is_seen(recipe_of, monkeypatch):
    def from_n(_privacy, ready, noise):  # as loaders do that are given a batch size
        chosen = poisson_indices(len(ready), min(1.0, EXPECTED / len(ready)), noise).tolist()
        yield PrivateBatch(examples=chosen)

    monkeypatch.setattr(client.training, "private_batches", from_n)
    recipe = recipe_of(method="fedit", extra=PRIVATE)
    found = [round_on(recipe, n, monkeypatch).rates for n in (40, 41)]
    assert found[0] == [RATE] * STEPS
    assert found[1] != found[0]


def test_the_physical_batch_alters_nothing_but_memory(recipe_of, monkeypatch):
    """A step of 200 examples at rate 1 in pieces of 5 or of 64 is the same step."""
    recipe = recipe_of(
        method="fedit",
        extra="privacy: {noise_multiplier: 1.5, sampling_rate: 1.0, clipping_norm: 0.5}\n",
    )
    rounds = []
    for limit in (5, 64):
        monkeypatch.setattr(client.units, "MICRO_BATCH", limit)
        rounds.append(round_on(recipe, 200, monkeypatch))
        assert max(rounds[-1].batches) == limit
        assert sum(rounds[-1].batches) == 200 * STEPS
        assert len(rounds[-1].stds) == STEPS  # noise once a step
    torch.testing.assert_close(rounds[0].end, rounds[1].end, rtol=1e-3, atol=1e-5)
