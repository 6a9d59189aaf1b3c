"""A client's part in finding Fed-SB's bases: gradients at the base model, charged, and nothing else."""

import json

import pytest
import torch

from aggregation.adapter import ClientUpdate
from aggregation.serialize import from_bytes
from client.base import loaded_base
from client.errors import TrainableDidNotMoveError
from client.gradient_sketch import GradientMean
from client.ledger import ClientLedger
from client.policy import Policy
from client.worker import ClientWorker
from motet.modeling import initial_dense, layer_shapes
from motet.recipe import resolve_noise_multiplier
from motet.recipe.method import method_of
from privacy.noise import SeededNoise

PRIVATE = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.2}\n"


@pytest.fixture
def sketched(recipe_of):
    def make(kind="bert", extra="", local_steps=3, training=""):
        recipe = recipe_of(kind, "fed-sb", extra=extra, local_steps=local_steps, training=training)
        return recipe.model_copy(
            update={
                "method": recipe.method.model_copy(update={"basis": "gradient_sketch"}),
                "training": recipe.training.model_copy(update={"rounds": 4}),
            }
        )

    return make


def next_state(recipe, state, reply):
    update = ClientUpdate(client_id="a", weight=1.0, state=from_bytes(reply.payload))
    return method_of(recipe).reduce(state, [update]).state


def first_state(recipe):
    return method_of(recipe).initial_state(
        layer_shapes(recipe),
        lora_rank=4,
        scale=recipe.scale_of(4),
        dense=initial_dense(recipe),
        seed=recipe.seed,
    )


def charges_seen_by_training(recipe, order_of, data_file, home, monkeypatch):
    """For each sketch round: what the ledger on disk held when the first gradient was taken, and when all was done."""
    from client import worker as module

    found, original = [], module.train_round

    def watching(*args, **options):
        found.append([row["kind"] for row in ClientLedger(home / "ledger.jsonl").rows()])
        return original(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "train_round", watching)
        worker, state = ClientWorker("a", data_file, home), first_state(recipe)
        for t in range(2):
            reply = worker.handle(order_of(recipe, round_index=t, state=state))
            assert not reply.error_code, reply.error_message
            state = next_state(recipe, state, reply)
    return found, ClientLedger(home / "ledger.jsonl").charges()


def test_the_gradient_sketch_is_charged_before_it_leaves(
    sketched, order_of, data_file, tmp_path, monkeypatch
):
    recipe = sketched(extra=PRIVATE)
    seen, charges = charges_seen_by_training(recipe, order_of, data_file, tmp_path / "s", monkeypatch)
    assert seen == [["reserve"], ["reserve", "settle", "reserve"]]
    assert [(c.round_index, c.event.num_steps) for c in charges] == [(0, 3), (1, 3)]
    assert {c.event.noise_multiplier for c in charges} == {resolve_noise_multiplier(recipe)}
    monkeypatch.setattr(ClientWorker, "_charge", lambda *_: None)  # positive control
    seen, charges = charges_seen_by_training(recipe, order_of, data_file, tmp_path / "free", monkeypatch)
    assert seen == [[], []]
    assert not charges


def test_a_sketch_over_the_owners_budget_is_refused_and_never_made(sketched, order_of, data_file, tmp_path):
    recipe = sketched(extra=PRIVATE)
    order = order_of(recipe)
    refused = ClientWorker("a", data_file, tmp_path / "s", Policy(max_epsilon=0.01)).handle(order)
    assert "max_epsilon" in refused.error_message
    assert not refused.payload
    assert ClientWorker("a", data_file, tmp_path / "t", Policy(max_epsilon=50.0)).handle(order).payload


class _Everybody(SeededNoise):
    """Every example in every batch, and no noise: what the sensitivity is read off."""

    def bernoulli(self, n, q):
        return super().bernoulli(n, 1.0)

    def normal(self, shape, std):
        return torch.zeros(tuple(shape))


def sum_of(recipe, order_of, path, home):
    """The first sketch of a file before noise, all layers as one vector, times the public divisor."""
    worker = ClientWorker("a", path, home, noise=_Everybody(0), allows_test_noise=True)
    reply = worker.handle(order_of(recipe))
    assert not reply.error_code, reply.error_message
    halves = from_bytes(reply.payload).halves
    return recipe.training.expected_batch_size * torch.cat(
        [halves[k].value.flatten() for k in sorted(halves)]
    )


def test_an_example_moves_a_private_sketch_by_its_direction_alone_at_length_one(
    sketched, order_of, data_file, tmp_path
):
    recipe = sketched(extra=PRIVATE, local_steps=2)
    rows = data_file.read_text().splitlines()
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("\n".join(rows[:-1]) + "\n")
    one, two = (sum_of(recipe, order_of, p, tmp_path / p.stem) for p in (data_file, fewer))
    assert 0.99 < float((one - two).norm()) < 1.0001  # steps are averaged: each moves by one
    loud = tmp_path / "loud.jsonl"
    loud.write_text("\n".join([*rows[:-1], json.dumps({"text": "!" * 90, "label": 1})]) + "\n")
    three = sum_of(recipe, order_of, loud, tmp_path / "l")
    assert 0.99 < float((three - two).norm()) < 1.0001
    plain = sketched(local_steps=2)
    reply = ClientWorker("a", data_file, tmp_path / "plain").handle(order_of(plain))
    sizes = [float(half.value.norm()) for half in from_bytes(reply.payload).halves.values()]
    assert max(sizes) < 0.5  # positive control: without clipping the gradients are as small as they are


def test_a_client_without_examples_sends_noise_of_the_size_that_is_charged(sketched, order_of, tmp_path):
    recipe, empty = sketched(extra=PRIVATE), tmp_path / "none.jsonl"
    empty.write_text("")
    reply = ClientWorker("a", empty, tmp_path / "s").handle(order_of(recipe))
    assert reply.is_private, reply.error_message
    values = torch.cat([half.value.flatten() for half in from_bytes(reply.payload).halves.values()]).double()
    expected = 1.0 / (8 * 3**0.5)  # sigma over the expected batch, a mean of three steps
    assert float(values.std()) == pytest.approx(expected, rel=5 / (2 * len(values)) ** 0.5)


@pytest.mark.parametrize("extra", ["", PRIVATE])
def test_a_sketch_round_sends_one_factor_and_no_head_and_leaves_the_base_model_as_it_was(
    sketched, order_of, data_file, tmp_path, extra
):
    recipe = sketched(extra=extra)
    model = loaded_base(recipe).model
    before = {k: v.clone() for k, v in model.state_dict().items()}
    worker, state = ClientWorker("a", data_file, tmp_path / "s"), first_state(recipe)
    for t, side in enumerate("BA"):
        reply = worker.handle(order_of(recipe, round_index=t, state=state))
        sent = from_bytes(reply.payload)
        assert {half.side for half in sent.halves.values()} == {side}
        assert not {**sent.dense, **sent.cores, **sent.lora}
        state = next_state(recipe, state, reply)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(p.requires_grad for p in model.parameters())
    sent = from_bytes(worker.handle(order_of(recipe, round_index=2, state=state)).payload)
    assert sent.dense.keys() == initial_dense(recipe).keys()  # positive control: then heads do train
    assert all(core.any() for core in sent.cores.values())


@pytest.mark.parametrize("round_index", [1, 2, 3])
def test_an_order_with_the_state_of_another_round_is_refused(
    sketched, order_of, data_file, tmp_path, round_index
):
    recipe = sketched()
    reply = ClientWorker("a", data_file, tmp_path / "s").handle(
        order_of(recipe, round_index=round_index, state=first_state(recipe))
    )
    assert (reply.error_code, reply.payload) == ("bad_order", b"")
    assert f"not what round {round_index} starts from" in reply.error_message


def test_a_layer_without_a_gradient_ends_the_round_and_is_named():
    moved, still = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    mean = GradientMean({"moved": moved, "still": still})
    for _ in range(4):
        moved.grad, still.grad = torch.tensor([2.0, 4.0]), torch.zeros(2)
        mean.step()
        assert torch.equal(moved, torch.ones(2))  # steps move nothing
    with pytest.raises(TrainableDidNotMoveError, match="still has no gradient"):
        mean.put_mean(unit=2.0, saw_data=True)
    mean.put_mean(unit=2.0, saw_data=False)
    assert moved.tolist() == [1.0, 2.0]
