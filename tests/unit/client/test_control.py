"""A client's control variates: kept, the same after a restart, made of what was released."""

import dataclasses

import pytest
import torch

from aggregation.control import shifted, trained_values
from aggregation.serialize import from_bytes, sha256_hex, to_bytes
from client.control import ControlLostError, OwnControls
from client.worker import ClientWorker
from privacy.noise import SeededNoise

SCAFFOLD = ", optimizer: sgd, algorithm: scaffold"
PRIVATE = "privacy: {noise_multiplier: 0.5, sampling_rate: 0.2}\n"
METHODS = pytest.mark.parametrize("method", ["fedit", "ffa", "fed-sb"])


def with_control(order, scale):
    """The order as it comes in a later round: with a mean variate beside the start."""
    state = from_bytes(order.payload)
    g = torch.Generator().manual_seed(1)
    control = {
        k: scale * torch.randn(v.shape, generator=g) for k, v in trained_values(sent(order, state)).items()
    }
    payload = to_bytes(dataclasses.replace(state, control=control))
    return dataclasses.replace(order, payload=payload, payload_sha256=sha256_hex(payload))


def sent(order, state):
    return state if order.recipe_json.find('"name":"fedit"') >= 0 else dataclasses.replace(state, lora={})


def worker(data_file, folder):
    return ClientWorker("a", data_file, folder, noise=SeededNoise(2), allows_test_noise=True)


def replied(data_file, folder, order):
    reply = worker(data_file, folder).handle(order)
    assert reply.error_message == ""
    return reply


@METHODS
@pytest.mark.parametrize("extra", ["", PRIVATE])
def test_a_variate_is_made_of_the_order_and_the_reply_alone(
    recipe_of, order_of, data_file, tmp_path, method, extra
):
    """So a private run's variate is post-processing of values that were noised and charged."""
    recipe = recipe_of("bert", method, extra=extra, training=SCAFFOLD, rate="5")
    order = order_of(recipe)
    first = replied(data_file, tmp_path, order)
    second_order = dataclasses.replace(with_control(order, 1e-3), round_index=1, counted_round=1)
    second = replied(data_file, tmp_path, second_order)
    expected = {}
    for asked, reply in ((order, first), (second_order, second)):
        received, ended = from_bytes(asked.payload), trained_values(from_bytes(reply.payload))
        expected = shifted(
            expected,
            received.control,
            trained_values(received),
            ended,
            num_steps=3,
            rates={k: 2e-2 if k.startswith("dense/") else 5.0 for k in ended},
        )
    kept = OwnControls(tmp_path / "control").in_force("r-1", 2)
    assert sorted(kept) == sorted(expected)
    for key, value in kept.items():
        torch.testing.assert_close(value, expected[key].float(), rtol=1e-5, atol=1e-7)
    assert max(float(v.abs().max()) for v in kept.values()) > 0


@METHODS
@pytest.mark.parametrize("steps", [1, 3])
def test_the_difference_of_the_variates_moves_every_step(
    recipe_of, order_of, data_file, tmp_path, method, steps
):
    recipe = recipe_of("bert", method, training=SCAFFOLD, rate="1e-2", local_steps=steps)
    order = order_of(recipe)
    steered_order = with_control(order, 100.0)  # beside which the data's gradients are nothing
    reply = replied(data_file, tmp_path, steered_order)
    start, end = (trained_values(from_bytes(data)) for data in (order.payload, reply.payload))
    control = from_bytes(steered_order.payload).control
    for key, value in end.items():
        rate = 2e-2 if key.startswith("dense/") else 1e-2
        torch.testing.assert_close(start[key] - value, steps * rate * control[key], rtol=0.1, atol=0.5)


def test_an_order_done_again_gives_the_same_bytes_and_the_same_variate(
    recipe_of, order_of, data_file, tmp_path, monkeypatch
):
    recipe = recipe_of("bert", "ffa", training=SCAFFOLD, rate="5")
    order = order_of(recipe)
    file = tmp_path / "home/control/r-1/0.safetensors"
    first = replied(data_file, tmp_path / "home", order)
    kept = file.read_bytes()
    assert replied(data_file, tmp_path / "home", order) == first  # sent again, after a restart
    assert file.read_bytes() == kept
    with monkeypatch.context() as patch:  # killed between the variate and the reply
        patch.setattr("client.worker.release", lambda *_a, **_k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            worker(data_file, tmp_path / "killed").handle(order)
    assert (tmp_path / "killed/control/r-1/0.safetensors").exists()
    assert replied(data_file, tmp_path / "killed", order).payload == first.payload
    assert (tmp_path / "killed/control/r-1/0.safetensors").read_bytes() == kept


def test_the_variate_in_force_is_that_of_the_round_that_was_counted(recipe_of, order_of, data_file, tmp_path):
    recipe = recipe_of("bert", "ffa", training=SCAFFOLD, rate="5")
    order = order_of(recipe)
    replied(data_file, tmp_path, order)
    uncounted = dataclasses.replace(order, round_index=1, counted_round=0)
    counted = dataclasses.replace(order, round_index=1, counted_round=1, attempt=1)
    without, with_it = replied(data_file, tmp_path, uncounted), replied(data_file, tmp_path, counted)
    fresh = replied(data_file, tmp_path / "fresh", uncounted)
    assert without.payload == fresh.payload  # as if the first round had never been
    assert with_it.payload != without.payload


def test_a_variate_that_is_gone_is_told_and_nothing_is_trained(recipe_of, order_of, data_file, tmp_path):
    recipe = recipe_of("bert", "ffa", training=SCAFFOLD, rate="5")
    order = dataclasses.replace(order_of(recipe), round_index=3, counted_round=2)
    reply = worker(data_file, tmp_path).handle(order)
    assert reply.error_code == "control_lost"
    assert "round 1 of run r-1" in reply.error_message
    assert reply.payload == b""


@pytest.mark.parametrize("counted", [-1, 2])
def test_an_order_that_counts_a_round_to_come_is_refused(recipe_of, order_of, data_file, tmp_path, counted):
    order = dataclasses.replace(order_of(recipe_of()), round_index=1, counted_round=counted)
    assert worker(data_file, tmp_path).handle(order).error_code == "bad_order"


def test_only_what_an_order_can_still_ask_for_is_kept(tmp_path):
    own = OwnControls(tmp_path)
    for round_index, counted in ((0, 0), (1, 0), (2, 2), (3, 3)):
        own.keep("r-1", round_index, {"dense/x": torch.full((1,), float(round_index))}, counted_round=counted)
    assert sorted(p.stem for p in (tmp_path / "r-1").iterdir()) == ["2", "3"]
    assert float(own.in_force("r-1", 3)["dense/x"]) == 2.0
    assert own.in_force("r-1", 0) == {}
    with pytest.raises(ControlLostError):
        own.in_force("r-2", 1)


def test_without_scaffold_nothing_is_kept(recipe_of, order_of, data_file, tmp_path):
    replied(data_file, tmp_path, order_of(recipe_of("bert", "ffa")))
    assert not (tmp_path / "control").exists()
