"""What joins a private step: examples, or whole persons with a bound on their examples."""

from __future__ import annotations

import json

import numpy as np
import pytest

from client.ledger import ClientLedger
from client.policy import Policy
from client.tokens import TokenisedExamples
from client.training import MICRO_BATCH
from client.units import bounded, private_batches
from client.worker import ClientWorker
from motet.recipe import parse_recipe
from privacy.noise import SystemNoise

PERSON = (
    "privacy: {unit: person, unit_column: patient, max_examples_per_person: 3, noise_multiplier: 1.0, "
    "sampling_rate: 0.3}\n"
)


def tokens_of(persons):
    count = sum(len(p) for p in persons)
    return TokenisedExamples(ids=[[1]] * count, labels=[0] * count, pad_id=0, persons=persons)


def section(**changes):
    fields = {"unit": "person", "unit_column": "p", "max_examples_per_person": 3, "noise_multiplier": 1.0}
    fields |= {"sampling_rate": 0.25} | changes
    text = ", ".join(f"{k}: {v}" for k, v in fields.items() if v is not None)
    return parse_recipe(
        "name: t\nbase_model: {tiny: tiny-bert}\ntask: {kind: sequence-classification, num_labels: 2}\n"
        f"data: {{path: x.jsonl}}\nmethod: {{name: flora}}\nprivacy: {{{text}}}\n"
    ).privacy


PERSONS = [list(range(50)), [50], [51, 52], list(range(53, 57))]


def test_persons_join_at_the_sampling_rate_however_many_examples_they_have():
    tokens, noise, times = tokens_of(PERSONS), SystemNoise(), 2000
    joined = np.zeros(len(PERSONS))
    as_examples = 0
    by_example = section(unit="example", unit_column=None, max_examples_per_person=None)
    for _ in range(times):
        owners = {o for batch in private_batches(section(), tokens, noise) for o in batch.owners}
        joined[list(owners)] += 1
        chosen = [i for batch in private_batches(by_example, tokens, noise) for i in batch.examples]
        as_examples += any(i < 50 for i in chosen)
    assert np.abs(joined / times - 0.25).max() < 7 * np.sqrt(0.25 * 0.75 / times)
    assert (
        as_examples / times > 0.99
    )  # positive control: sampling examples finds the large person nearly always


def test_a_person_counts_with_at_most_the_bound_and_others_with_all_they_have():
    tokens, noise = tokens_of(PERSONS), SystemNoise()
    seen = set()
    for _ in range(500):
        drawn = {}
        for batch in private_batches(section(sampling_rate=1), tokens, noise):
            for example, owner in zip(batch.examples, batch.owners, strict=True):
                assert example in PERSONS[owner]
                drawn.setdefault(owner, []).append(example)
        assert {o: len(e) for o, e in drawn.items()} == {0: 3, 1: 1, 2: 2, 3: 3}
        assert all(len(set(e)) == len(e) for e in drawn.values())
        seen.update(drawn[0])
    assert seen == set(PERSONS[0])  # drawn afresh in each step: no example is shut out


def test_the_draw_within_a_person_is_uniform():
    counts = np.zeros(8)
    for _ in range(3000):
        counts[bounded(range(8), 2, SystemNoise())] += 1
    assert np.abs(counts / 3000 - 0.25).max() < 7 * np.sqrt(0.25 * 0.75 / 3000)


def test_a_persons_examples_are_never_split_between_batches():
    persons = [list(range(i * 20, i * 20 + 20)) for i in range(9)]
    batches = list(
        private_batches(
            section(sampling_rate=1, max_examples_per_person=20), tokens_of(persons), SystemNoise()
        )
    )
    owners = [o for batch in batches for o in set(batch.owners)]
    assert sorted(owners) == list(range(9))  # each in one batch only
    assert all(len(b.examples) <= MICRO_BATCH for b in batches)
    wide = [list(range(100)), [100]]
    sizes = [
        len(b.examples)
        for b in private_batches(
            section(sampling_rate=1, max_examples_per_person=100), tokens_of(wide), SystemNoise()
        )
    ]
    assert sizes == [100, 1]


def test_an_empty_sample_is_no_batch_at_all():
    assert list(private_batches(section(), tokens_of([]), SystemNoise())) == []


@pytest.fixture
def persons_file(tmp_path):
    path = tmp_path / "persons.jsonl"
    rows = [{"text": f"note {i} of somebody", "label": i % 2, "patient": i // 5} for i in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def test_a_run_that_protects_persons_is_trained_and_charged_to_that_unit(
    recipe_of, order_of, persons_file, tmp_path
):
    order = order_of(recipe_of(extra=PERSON))
    reply = ClientWorker("a", persons_file, tmp_path / "s").handle(order)
    assert (reply.error_message, reply.is_private, reply.num_examples) == ("", True, 0)
    (charge,) = ClientLedger(tmp_path / "s/ledger.jsonl").charges()
    assert (charge.event.unit, charge.event.sampling_rate, charge.event.num_steps) == ("person", 0.3, 3)


def test_an_example_that_is_nobodys_stops_a_run_that_protects_persons(
    recipe_of, order_of, persons_file, tmp_path
):
    persons_file.write_text(persons_file.read_text() + json.dumps({"text": "x", "label": 0, "patient": " "}))
    reply = ClientWorker("a", persons_file, tmp_path / "s").handle(order_of(recipe_of(extra=PERSON)))
    assert reply.error_code == "client_failed"
    assert ClientLedger(tmp_path / "s/ledger.jsonl").rows() == []


def test_the_owner_says_which_units_will_do(recipe_of, order_of, persons_file, tmp_path):
    policy = Policy(allowed_units=("person",))
    worker = ClientWorker("a", persons_file, tmp_path / "s", policy=policy)
    by_example = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.3}\n"
    refused = worker.handle(order_of(recipe_of(extra=by_example)))
    assert (refused.error_code, "allowed_units" in refused.error_message) == ("policy_refused", True)
    assert worker.handle(order_of(recipe_of(extra=PERSON))).error_code == ""


def test_budgets_of_two_units_do_not_add_up_so_a_cap_refuses_the_second(
    recipe_of, order_of, persons_file, tmp_path, caplog
):
    by_example = "privacy: {noise_multiplier: 5.0, sampling_rate: 0.1}\n"
    for policy, code in ((Policy(max_epsilon=50.0), "policy_refused"), (Policy(), "")):
        home = tmp_path / f"s{code}"
        worker = ClientWorker("a", persons_file, home, policy=policy)
        assert worker.handle(order_of(recipe_of(extra=by_example))).error_code == ""
        reply = worker.handle(order_of(recipe_of(extra=PERSON), run_id="r-2"))
        assert reply.error_code == code
        assert ("in another unit" in caplog.text) == bool(code)  # the owner's own log has the reason
        caplog.clear()


CLIENT = "privacy: {unit: client, noise_multiplier: 1.0, sampling_rate: 0.5}\n"


def test_with_unit_client_every_round_of_the_run_is_charged_at_the_first_order(
    recipe_of, order_of, persons_file, tmp_path
):
    recipe = recipe_of(method="fedit", extra=CLIENT)
    worker = ClientWorker("a", persons_file, tmp_path / "s")
    reply = worker.handle(order_of(recipe, round_index=1))
    assert (reply.error_message, reply.is_private, reply.num_examples) == ("", False, 0)
    ledger = ClientLedger(tmp_path / "s/ledger.jsonl")
    assert [(c.round_index, c.event.unit, c.event.num_steps) for c in ledger.charges()] == [
        (0, "client", 1),
        (1, "client", 1),
    ]
    worker.handle(order_of(recipe, round_index=0))
    assert len(ledger.charges()) == 2  # the other rounds were paid for
    worker.handle(order_of(recipe, round_index=0, run_id="r-2"))
    assert len(ledger.charges()) == 4


def test_an_owner_who_wants_privacy_has_to_name_unit_client_to_allow_it(
    recipe_of, order_of, persons_file, tmp_path
):
    order = order_of(recipe_of(method="fedit", extra=CLIENT))
    for policy, code in (
        (Policy(max_epsilon=50.0), "policy_refused"),
        (Policy(require_privacy=True), "policy_refused"),
        (Policy(max_epsilon=50.0, allowed_units=("client",)), ""),
        (Policy(max_epsilon=0.5, allowed_units=("client",)), "policy_refused"),
        (Policy(), ""),
    ):
        home = tmp_path / f"s{policy.max_epsilon}{policy.require_privacy}{policy.allowed_units}"
        assert ClientWorker("a", persons_file, home, policy=policy).handle(order).error_code == code
