"""The rank that a machine carries: the owner's bounds, measured without an example, told as one number."""

import dataclasses
import json

import pytest

from client.capacity import Capacity, Measured, ladder, largest_rank, probed
from client.errors import PolicyRefusedError
from client.ledger import ClientLedger
from client.policy import Policy, PolicyFileError, load_policy
from client.probe import measure as measured_here
from client.worker import ClientWorker
from motet.wire.messages import TrainReply

PRIVATE = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.2}\n"


def linear(rank):
    """A machine on which a rank takes rank MB over 100, and a tenth of a second a step."""
    return Measured(seconds_per_step=rank / 10, peak_mb=100 + rank)


@pytest.mark.parametrize(
    ("bounds", "most", "rank"),
    [
        ({}, 64, 64),
        ({"max_memory_mb": 200}, 64, 64),
        ({"max_memory_mb": 140}, 64, 32),
        ({"max_memory_mb": 120}, 64, 16),
        ({"max_memory_mb": 105}, 64, 1),
        ({"max_round_seconds": 4.0}, 64, 8),
        ({"max_round_seconds": 4.0, "max_memory_mb": 140}, 64, 8),
        ({"max_memory_mb": 140, "max_lora_rank": 12}, 64, 12),
        ({"max_lora_rank": 4}, 64, 4),
        ({"max_memory_mb": 140}, 3, 3),
    ],
)
def test_the_rank_is_the_largest_of_the_ladder_within_every_bound(bounds, most, rank):
    assert largest_rank(Policy(**bounds), most, 5, linear) == rank


def test_what_the_owner_does_not_bound_is_not_measured_and_measuring_ends_at_the_first_excess():
    seen = []

    def watched(rank):
        seen.append(rank)
        return linear(rank)

    largest_rank(Policy(max_lora_rank=8), 64, 5, watched)
    assert seen == []
    largest_rank(Policy(max_memory_mb=120), 64, 5, watched)
    assert seen == [8, 16, 32]
    assert [ladder(n) for n in (1, 2, 3, 6, 64)] == [[1], [1, 2], [1, 3], [1, 3, 6], [8, 16, 32, 64]]


def test_a_machine_that_carries_no_rank_says_which_clause():
    with pytest.raises(
        PolicyRefusedError, match="clause max_memory_mb: rank 1 takes 101, the owner gives 50"
    ):
        largest_rank(Policy(max_memory_mb=50), 64, 5, linear)
    with pytest.raises(PolicyRefusedError, match=r"clause max_round_seconds: rank 1 takes 0\.5"):
        largest_rank(Policy(max_round_seconds=0.1), 64, 5, linear)


def counting(path, policy):
    calls = []

    def measure(_recipe, rank, _noise_multiplier):
        calls.append(rank)
        return linear(rank)

    return Capacity(path, policy, measure), calls


def test_measurements_outlive_the_process_and_other_bounds_need_no_new_ones(recipe_of, tmp_path):
    recipe = recipe_of("bert", "flora")
    first, calls = counting(tmp_path / "capacity.json", Policy(max_memory_mb=120))
    assert first.offer(recipe, 64, None) == 16
    assert calls == [8, 16, 32]
    second, again = counting(tmp_path / "capacity.json", Policy(max_memory_mb=110))
    assert second.offer(recipe, 64, None) == 8
    assert again == []
    other, anew = counting(tmp_path / "capacity.json", Policy(max_memory_mb=110))
    other.offer(recipe_of("bert", "flora", extra=PRIVATE), 64, 1.0)  # private steps take other amounts
    assert anew == [8, 16]


def test_a_rank_below_another_that_fits_is_not_measured_again(recipe_of, tmp_path):
    recipe = recipe_of("bert", "flora")
    capacity, calls = counting(tmp_path / "capacity.json", Policy(max_memory_mb=120))
    capacity.offer(recipe, 64, None)
    calls.clear()
    capacity.check(recipe, 5, None)
    assert calls == []
    with pytest.raises(PolicyRefusedError, match="max_memory_mb: rank 24 takes 124"):
        capacity.check(recipe, 24, None)
    assert calls == [24]


@pytest.mark.parametrize("method", ["flora", "fed-sb", "ffa"])
@pytest.mark.parametrize("extra", ["", PRIVATE], ids=["plain", "private"])
def test_a_probe_trains_as_the_client_would_and_leaves_the_model_as_it_was(recipe_of, method, extra):
    from client.base import loaded_base

    recipe = recipe_of("bert", method, extra=extra)
    before = {k: v.clone() for k, v in loaded_base(recipe).model.state_dict().items()}
    taken = measured_here(recipe, 4, 1.0 if extra else None)
    assert taken["seconds_per_step"] > 0
    assert taken["peak_mb"] > 50  # a process with torch in it
    after = loaded_base(recipe).model.state_dict()
    assert before.keys() == after.keys()
    assert all(bool((before[k] == after[k]).all()) for k in before)


def test_a_probe_in_a_process_of_its_own_gives_the_same_kind_of_answer(recipe_of):
    taken = probed(recipe_of("bert", "flora"), 4, None)
    assert 0 < taken.seconds_per_step < 60
    assert 50 < taken.peak_mb < 20_000


def question(order):
    from aggregation.serialize import sha256_hex

    return dataclasses.replace(
        order, payload=b"", payload_sha256=sha256_hex(b""), asks_rank=True, lora_rank=16
    )


def measured_recipe(recipe_of, extra=""):
    plain = recipe_of("bert", "flora", extra=extra)
    return plain.model_copy(
        update={"adapter": plain.adapter.model_copy(update={"rank_policy": "measured", "lora_rank": 16})}
    )


@pytest.mark.parametrize("extra", ["", PRIVATE], ids=["plain", "private"])
def test_a_question_is_answered_by_a_rank_and_nothing_else_and_costs_nothing(
    recipe_of, order_of, tmp_path, extra
):
    recipe = measured_recipe(recipe_of, extra)
    policy = Policy(max_lora_rank=6)
    worker = ClientWorker("a", tmp_path / "no-data.jsonl", tmp_path / "home", policy)
    reply = worker.handle(question(order_of(recipe)))
    assert reply.offered_lora_rank == 6
    keys = ("run_id", "round_index", "attempt", "client_id")
    assert reply == TrainReply(**{k: getattr(reply, k) for k in keys}, offered_lora_rank=6)
    assert ClientLedger(tmp_path / "home/ledger.jsonl").rows() == []
    assert not (tmp_path / "home/replies").exists()


def test_the_owners_other_clauses_are_read_before_anything_is_measured(recipe_of, order_of, tmp_path):
    recipe = measured_recipe(recipe_of)
    policy = Policy(require_privacy=True, max_memory_mb=1.0)
    reply = ClientWorker("a", tmp_path / "x", tmp_path / "home", policy).handle(question(order_of(recipe)))
    assert (reply.error_code, reply.offered_lora_rank) == ("policy_refused", 0)
    assert "require_privacy" in reply.error_message


def test_an_answer_tells_the_rank_and_one_that_is_too_much_by_now_is_refused_with_it(
    recipe_of, order_of, data_file, tmp_path, monkeypatch
):
    recipe = measured_recipe(recipe_of)
    monkeypatch.setattr("client.capacity.probed", lambda _recipe, rank, _noise: linear(rank))
    order = order_of(recipe, lora_rank=16)
    taken = ClientWorker("a", data_file, tmp_path / "one", Policy(max_memory_mb=120)).handle(order)
    assert (taken.error_code, taken.offered_lora_rank) == ("", 16)
    less = ClientWorker("a", data_file, tmp_path / "two", Policy(max_memory_mb=110)).handle(order)
    assert (less.error_code, less.offered_lora_rank, less.payload) == ("over_capacity", 8, b"")
    assigned = order_of(recipe_of("bert", "flora"), lora_rank=16)
    told = ClientWorker("a", data_file, tmp_path / "three", Policy(max_memory_mb=110)).handle(assigned)
    assert (told.error_code, told.offered_lora_rank) == ("policy_refused", 0)
    assert "clause max_memory_mb: rank 16 takes 116, the owner gives 110" in told.error_message


def test_the_bounds_are_clauses_of_the_policy_file(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text("max_memory_mb = 4000\nmax_round_seconds = 90.5\n")
    policy = load_policy(path)
    assert (policy.max_memory_mb, policy.max_round_seconds) == (4000, 90.5)
    path.write_text("max_memory_mb = -1\n")
    with pytest.raises(PolicyFileError, match="max_memory_mb has an unusable value"):
        load_policy(path)


def test_a_damaged_file_of_measurements_is_made_anew(recipe_of, tmp_path):
    path = tmp_path / "capacity.json"
    path.write_text("{")
    capacity, calls = counting(path, Policy(max_memory_mb=200))
    assert capacity.offer(recipe_of("bert", "flora"), 8, None) == 8
    assert calls == [1, 2, 4, 8]
    assert len(json.loads(path.read_text())) == 1
