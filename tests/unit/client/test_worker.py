"""One order: checked, charged, trained, protected, answered once."""

import dataclasses
import json

import pytest
import torch

from aggregation.serialize import flatten, from_bytes, read_manifest
from client.errors import TrainableDidNotMoveError
from client.ledger import ClientLedger
from client.policy import Policy
from client.training import MovementGuard, make_optimizer
from client.worker import ClientWorker
from privacy.noise import SeededNoise

PRIVATE = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.2}\n"


def worker_for(data_file, tmp_path, name="state", **options):
    return ClientWorker("a", data_file, tmp_path / name, **options)


@pytest.mark.parametrize("method", ["flora", "fedit", "fed-sb", "lora-fair"])
@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_the_same_order_gives_the_same_bytes_in_any_process_without_privacy(
    recipe_of, order_of, data_file, tmp_path, method, kind
):
    order = order_of(recipe_of(kind, method))
    first = worker_for(data_file, tmp_path, "one").handle(order)
    second = worker_for(data_file, tmp_path, "two").handle(order)
    assert first.error_message == ""
    assert first.payload == second.payload
    other = worker_for(data_file, tmp_path, "three").handle(dataclasses.replace(order, round_index=1))
    assert other.payload != first.payload  # positive control: rounds draw other batches


def test_two_private_runs_differ_in_noise_although_the_seed_is_the_same(
    recipe_of, order_of, data_file, tmp_path
):
    order = order_of(recipe_of(extra=PRIVATE))
    replies = [worker_for(data_file, tmp_path, n).handle(order) for n in ("one", "two")]
    assert replies[0].payload != replies[1].payload
    assert all(r.is_private and not r.error_code for r in replies)


def test_a_message_done_again_gets_the_same_bytes_and_no_second_charge(
    recipe_of, order_of, data_file, tmp_path
):
    order = order_of(recipe_of(extra=PRIVATE))
    worker = worker_for(data_file, tmp_path)
    first = worker.handle(order)
    again = worker_for(data_file, tmp_path).handle(order)
    assert first == again
    rows = ClientLedger(tmp_path / "state/ledger.jsonl").rows()
    assert [r["kind"] for r in rows] == ["reserve", "settle"]


def test_the_charge_is_on_disk_before_the_first_gradient(
    recipe_of, order_of, data_file, tmp_path, monkeypatch
):
    seen = []

    def training(*_args, **_kwargs):
        seen.append(ClientLedger(tmp_path / "state/ledger.jsonl").rows())
        raise KeyboardInterrupt

    monkeypatch.setattr("client.worker.train_round", training)
    order = order_of(recipe_of(extra=PRIVATE))
    with pytest.raises(KeyboardInterrupt):
        worker_for(data_file, tmp_path).handle(order)
    assert [r["kind"] for r in seen[0]] == ["reserve"]
    monkeypatch.undo()
    worker_for(data_file, tmp_path).handle(order)
    assert [r["kind"] for r in ClientLedger(tmp_path / "state/ledger.jsonl").rows()] == [
        "reserve",
        "reserve",
        "settle",
    ]


def test_neighbouring_data_sets_give_messages_that_differ_in_noised_tensors_only(
    recipe_of, order_of, data_file, tmp_path
):
    order = order_of(recipe_of(extra=PRIVATE))
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("\n".join(data_file.read_text().splitlines()[:-1]) + "\n")
    one = ClientWorker("a", data_file, tmp_path / "s1", noise=SeededNoise(1), allows_test_noise=True).handle(
        order
    )
    two = ClientWorker("a", fewer, tmp_path / "s2", noise=SeededNoise(2), allows_test_noise=True).handle(
        order
    )
    blank = {"payload": b"", "payload_sha256": ""}
    assert dataclasses.replace(one, **blank) == dataclasses.replace(two, **blank)
    assert read_manifest(one.payload) == read_manifest(two.payload)
    assert one.num_examples == 0
    plain = order_of(recipe_of())
    counts = {ClientWorker("a", f, tmp_path / f.stem).handle(plain).num_examples for f in (data_file, fewer)}
    assert counts == {40, 39}  # positive control: without privacy the count does leave


@pytest.mark.parametrize(
    ("policy", "clause"),
    [
        (Policy(require_privacy=True), "require_privacy"),
        (Policy(max_lora_rank=2), "max_lora_rank"),
        (Policy(allowed_methods=("fed-sb",)), "allowed_methods"),
        (Policy(allowed_base_models=("minilm",)), "allowed_base_models"),
        (Policy(min_cohort=5), "min_cohort"),
    ],
)
def test_the_owners_policy_refuses_and_names_the_clause(
    recipe_of, order_of, data_file, tmp_path, policy, clause
):
    reply = worker_for(data_file, tmp_path, policy=policy).handle(order_of(recipe_of()))
    assert reply.error_code == "policy_refused"
    assert clause in reply.error_message
    assert reply.payload == b""


@pytest.mark.parametrize(
    ("policy", "clause"),
    [
        (Policy(min_noise_multiplier=2.0), "min_noise_multiplier"),
        (Policy(max_clipping_norm=0.5), "max_clipping_norm"),
        (Policy(max_epsilon=0.01), "max_epsilon"),
    ],
)
def test_a_coordinator_that_asks_for_less_protection_is_refused(
    recipe_of, order_of, data_file, tmp_path, policy, clause
):
    reply = worker_for(data_file, tmp_path, policy=policy).handle(order_of(recipe_of(extra=PRIVATE)))
    assert (reply.error_code, clause in reply.error_message) == ("policy_refused", True)
    assert ClientLedger(tmp_path / "state/ledger.jsonl").rows() == []


def test_a_second_run_on_the_same_data_starts_where_the_first_ended(recipe_of, order_of, data_file, tmp_path):
    order = order_of(recipe_of(extra=PRIVATE))
    ledger = ClientLedger(tmp_path / "state/ledger.jsonl")
    worker = worker_for(data_file, tmp_path)
    worker.handle(order)
    worker.handle(dataclasses.replace(order, run_id="r-2"))
    assert len(ledger.spent(ledger.rows()[0]["data_set"])) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"client_id": "b"},
        {"payload_sha256": "0" * 64},
        {"recipe_sha256": "0" * 64},
        {"payload": b"\x80\x04x"},
    ],
)
def test_a_damaged_or_misdirected_order_is_refused(recipe_of, order_of, data_file, tmp_path, change):
    reply = worker_for(data_file, tmp_path).handle(dataclasses.replace(order_of(recipe_of()), **change))
    assert reply.error_code == "bad_order"


def test_missing_data_is_told_without_a_traceback(recipe_of, order_of, tmp_path):
    reply = ClientWorker("a", tmp_path / "none.jsonl", tmp_path / "s").handle(order_of(recipe_of()))
    assert reply.error_code == "client_failed"
    assert "none.jsonl" in reply.error_message


def test_an_altered_ledger_stops_private_work(recipe_of, order_of, data_file, tmp_path):
    order = order_of(recipe_of(extra=PRIVATE))
    worker_for(data_file, tmp_path).handle(order)
    path = tmp_path / "state/ledger.jsonl"
    path.write_text(path.read_text().replace('num_steps\\":3', 'num_steps\\":1', 1))
    reply = worker_for(data_file, tmp_path).handle(dataclasses.replace(order, run_id="r-2"))
    assert reply.error_code == "ledger_failed"
    assert "chain" in reply.error_message


def test_the_guard_stops_a_round_in_which_a_tensor_stays():
    moving, still = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    guard = MovementGuard({"x.lora_B.weight": moving, "head.weight": still})
    moving.data.add_(1)
    with pytest.raises(TrainableDidNotMoveError, match=r"head\.weight"):
        guard.after_step(moved_by_data=True)


def test_the_guard_lets_lora_a_wait_one_step_and_no_longer():
    a, b = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    guard = MovementGuard({"x.lora_A.weight": a, "x.lora_B.weight": b})
    b.data.add_(1)
    guard.after_step(moved_by_data=True)
    with pytest.raises(TrainableDidNotMoveError, match="lora_A"):
        guard.after_step(moved_by_data=True)


def test_training_moves_every_trainable_tensor(recipe_of, order_of, data_file, tmp_path):
    order = order_of(recipe_of("bert", "fedit"))
    start, end = (
        flatten(from_bytes(order.payload)),
        flatten(from_bytes(worker_for(data_file, tmp_path).handle(order).payload)),
    )
    trained = [key for key in start if not key.endswith("/scale")]
    assert {key.split("/")[0] for key in trained} == {"lora", "dense"}
    assert not [key for key in trained if torch.equal(start[key], end[key])]


def test_replies_on_disk_hold_no_text_of_the_data(recipe_of, order_of, data_file, tmp_path):
    canary = "zqx-canary-7f"
    data_file.write_text(data_file.read_text() + json.dumps({"text": canary, "label": 1}) + "\n")
    worker_for(data_file, tmp_path).handle(order_of(recipe_of(extra=PRIVATE)))
    for path in (tmp_path / "state").rglob("*"):
        assert not path.is_file() or canary.encode() not in path.read_bytes()


def test_the_learning_rates_decay_from_round_to_round(recipe_of):
    recipe = recipe_of(training=", learning_rate_decay: 0.5")
    parameters = {
        "x.lora_A": torch.nn.Parameter(torch.zeros(1)),
        "head.weight": torch.nn.Parameter(torch.zeros(1)),
    }
    rates = [
        [g["lr"] for g in make_optimizer(recipe, parameters, round_index).param_groups]
        for round_index in range(3)
    ]
    assert rates == [[5e-3, 2e-2], [2.5e-3, 1e-2], [1.25e-3, 5e-3]]
    still = make_optimizer(recipe_of(), parameters, 2)
    assert [g["lr"] for g in still.param_groups] == [5e-3, 2e-2]  # without it they stay
