"""What a coordinator holds of a round, and that the order in which answers come is not in the result."""

import dataclasses
import gc
import random
import weakref
from unittest import mock

import pytest
import torch

from aggregation.adapter import ClientUpdate
from aggregation.methods import METHODS
from aggregation.serialize import flatten, from_bytes, to_bytes
from coordinator.engine.reduction import RoundReduction
from coordinator.engine.shape import ModelShape
from coordinator.storage.models import ContributionRow
from motet.recipe import parse_recipe

SHAPE = ModelShape(layer_shapes={"q": (24, 20), "v": (20, 24)}, dense={"head": torch.zeros(3)})
RANK = 2
SUMS = ["fed-sb", "ffa", "rolora", "fedsa"]  # the table: what they hold does not hold any client's factors
EVERY = pytest.mark.parametrize("method", sorted(METHODS))


def recipe_of(method, extra=""):
    algorithm = ", algorithm: scaffold, optimizer: sgd" if extra == "scaffold" else ""
    clients = ", ".join(names(400))
    return parse_recipe(
        "name: t\nbase_model: {tiny: tiny-bert}\ntask: {kind: sequence-classification, num_labels: 2}\n"
        f"data: {{path: x.jsonl}}\nadapter: {{lora_rank: {RANK}}}\nmethod: {{name: {method}}}\n"
        f"cohort: {{clients: [{clients}]}}\ntraining: {{rounds: 2{algorithm}}}\n"
    )


def names(count):
    return [f"c{i:03d}" for i in range(count)]


class Artifacts:
    """Updates that are made when they are read, as from a disk, and counted while anybody holds them."""

    def __init__(self, recipe):
        self.recipe, self.method = recipe, METHODS[recipe.method.name]
        self.before = self.method.initial_state(
            SHAPE.layer_shapes, lora_rank=RANK, scale=2.0, dense=SHAPE.dense, seed=0
        )
        self.live = self.most = self.one = 0

    def update(self, client):
        start = self.method.local_start(
            self.method.starting_point(self.before, lora_rank=RANK, scale=2.0),
            layer_shapes=SHAPE.layer_shapes,
            lora_rank=RANK,
            scale=2.0,
            seed=0,
            fresh_seed=int(client[1:]),
        )
        g = torch.Generator().manual_seed(int(client[1:]))
        trains = self.method.trained_factors(0)
        lora = {
            k: dataclasses.replace(
                p,
                B=p.B + torch.randn(p.B.shape, generator=g) if "B" in trains else p.B,
                A=p.A + 0.1 * torch.randn(p.A.shape, generator=g) if "A" in trains else p.A,
            )
            for k, p in start.lora.items()
        }
        cores = {k: torch.randn(c.shape, generator=g) for k, c in start.cores.items()}
        dense = {k: torch.randn(d.shape, generator=g) for k, d in start.dense.items()}
        return self.method.trained_part(dataclasses.replace(start, lora=lora, cores=cores, dense=dense), 0)

    def counted(self, data):
        state = from_bytes(data)
        tensors = [v for p in state.lora.values() for v in (p.A, p.B)]
        tensors += [h.value for h in state.halves.values()] + [*state.cores.values(), *state.dense.values()]
        sizes = [4 * t.numel() for t in tensors]
        self.one = sum(sizes)
        self.live += self.one
        self.most = max(self.most, self.live)
        for tensor, size in zip(tensors, sizes, strict=True):
            weakref.finalize(tensor, self.gone, size)
        return state

    def gone(self, size):
        self.live -= size

    def reduced(self, count, order=None):
        rows = [
            ContributionRow(client_id=c, lora_rank=RANK, weight=1.0, state="RECEIVED", payload_sha256=c)
            for c in (order or names(count))
        ]
        stored = lambda row: to_bytes(self.update(row.client_id))  # noqa: E731
        with mock.patch("coordinator.engine.reduction.from_bytes", self.counted):
            return RoundReduction(self.recipe, SHAPE, self.before, 0, rows, stored).run(None).state


def updates_held(method, count, extra=""):
    artifacts = Artifacts(recipe_of(method, extra))
    gc.collect()
    artifacts.reduced(count)
    return artifacts.most / artifacts.one


@pytest.mark.parametrize("method", SUMS)
def test_a_round_of_two_hundred_holds_two_updates_at_most(method):
    assert updates_held(method, 200) <= 2


@pytest.mark.parametrize("method", ["ffa", "fed-sb"])
def test_control_variates_hold_no_more_updates(method):
    assert updates_held(method, 200, "scaffold") <= 2


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(SUMS)))
def test_what_is_measured_against_all_factors_holds_a_stack_of_twice_the_layer_and_then_no_more(method):
    """The table: (m + n) R at first, m n at most. So memory is bounded by the layer, not by the clients."""
    widest = 2 * min(24, 20) / RANK  # updates in a stack that is twice as wide as the layer
    few, many = updates_held(method, 100), updates_held(method, 200)
    assert few == many <= widest + 2


def test_a_reduction_that_lists_its_updates_first_would_be_seen(monkeypatch):
    """Positive control of the counts above."""
    original = METHODS["ffa"].reduce
    monkeypatch.setattr(
        type(METHODS["ffa"]), "reduce", lambda _self, state, updates: original(state, iter(list(updates)))
    )
    assert updates_held("ffa", 200) >= 199


@EVERY
def test_the_same_updates_give_the_same_bytes_whatever_order_they_came_in(method):
    artifacts = Artifacts(recipe_of(method))
    shuffled = names(9)
    random.Random(1).shuffle(shuffled)
    assert shuffled != names(9)
    first = to_bytes(artifacts.reduced(9))
    assert to_bytes(artifacts.reduced(9, shuffled)) == first
    assert to_bytes(artifacts.reduced(9, names(9)[::-1])) == first
    assert len(flatten(artifacts.reduced(9))) > 1


@pytest.mark.parametrize("method", ["flora", "fedex"])
def test_without_the_order_of_names_arrival_would_be_in_the_bytes(method):
    """Positive control: the sum of factors does depend on the order in which they are read."""
    artifacts = Artifacts(recipe_of(method))
    states = [artifacts.update(c) for c in names(9)]

    def reduced(order):
        updates = [ClientUpdate(client_id=f"{i}", weight=1.0, state=states[k]) for i, k in enumerate(order)]
        return to_bytes(artifacts.method.reduce(artifacts.before, updates).state)

    assert reduced(range(9)) != reduced([*range(1, 9), 0])


@pytest.mark.parametrize("reverse", [False, True])
def test_an_engine_whose_answers_come_in_another_order_ends_with_the_same_adapter(
    federation, recipes, reverse
):
    collect = federation.grid.collect
    federation.grid.collect = lambda ids: collect(sorted(ids, reverse=reverse))
    result = federation.engine().run(federation.submit(recipes["plain"]))
    federation.grid.collect = collect
    other = federation.engine().run(federation.submit(recipes["plain"], run_id="r-2"))
    assert result.adapter_sha256 == other.adapter_sha256
