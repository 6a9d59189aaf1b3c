"""Rounds of unit client: all on the roster are charged, the drawn are asked, whoever arrives is summed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from aggregation.adapter import AdapterState
from aggregation.changes import with_moves
from aggregation.methods import get_method
from aggregation.serialize import from_bytes, sha256_hex, to_bytes
from coordinator.engine.client_unit import draw_cohort
from coordinator.errors import BudgetRefusedError, RunFailedError
from motet.recipe import RecipeError, from_canonical_json, parse_recipe
from motet.wire.messages import TrainReply
from privacy.accounting import epsilon_pld
from privacy.ledger.rules import check_entries
from privacy.noise import SystemNoise

TEXT = """
name: tiny
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: 2}
method: {name: fedit}
cohort: {clients: [a, b, c], deadline_s: 5}
training: {rounds: 3, local_steps: 2}
privacy: {unit: client, noise_multiplier: SIGMA, sampling_rate: RATE, clipping_norm: 1.0 MORE}
"""


def text(sigma=1e-9, rate=1.0, more="", method="fedit"):
    return (
        TEXT.replace("SIGMA", f"{sigma:.12f}")
        .replace("RATE", str(rate))
        .replace("MORE", more)
        .replace("fedit", method)
    )


def reply_of(order, step=0.01):
    """A client that adds ``step`` to every number that it was sent."""
    recipe = from_canonical_json(order.recipe_json)
    method = get_method(recipe.method.name)
    start = method.trained_part(from_bytes(order.payload), order.round_index)
    move = {k: torch.full_like(v, step) for k, v in _numbers(start).items()}
    payload = to_bytes(with_moves(start, move))
    return TrainReply(
        run_id=order.run_id,
        round_index=order.round_index,
        attempt=order.attempt,
        client_id=order.client_id,
        payload=payload,
        payload_sha256=sha256_hex(payload),
        num_steps=2,
    )


def _numbers(state: AdapterState):
    from aggregation.changes import numbers

    return numbers(state)


@pytest.fixture
def fleet(federation):
    for client in "abc":
        federation.grid.handlers[client] = reply_of
    return federation


def head(fleet, result):
    return fleet.artifacts.load_state(result.adapter_sha256).dense["head.weight"]


def events(fleet, client):
    return fleet.store.spent_events(client)


def test_the_mean_of_a_round_is_that_of_the_expected_cohort(fleet):
    result = fleet.engine().run(fleet.submit(text()))
    assert result.state == "FINISHED"
    torch.testing.assert_close(head(fleet, result), torch.full((2, 8), 0.03), atol=1e-6, rtol=0)
    assert all(c["change_norm"] is None for r in result.rounds for c in r["clients"].values())


def test_who_does_not_arrive_adds_nothing_and_the_divisor_stays(fleet):
    """Stragglers and drop-outs: the sum is over those who came, the noise and the divisor are as before."""
    fleet.grid.handlers["b"] = None
    fleet.grid.handlers["c"] = None
    result = fleet.engine().run(fleet.submit(text()))
    torch.testing.assert_close(head(fleet, result), torch.full((2, 8), 0.01), atol=1e-6, rtol=0)
    assert [r.attempt for r in fleet.store.rounds("r-1")] == [0, 0, 0]  # a round is never drawn again


def test_a_client_over_the_norm_counts_for_the_norm(fleet):
    fleet.grid.handlers["a"] = lambda order: reply_of(order, step=1e4)
    result = fleet.engine().run(fleet.submit(text()))
    assert float(head(fleet, result).norm()) < 3 * 1.0 / 3 + 3 * 0.04
    assert float(head(fleet, result).norm()) > 0.08  # positive control: it did count


def test_a_round_to_which_nobody_came_closes_with_noise_alone(fleet):
    for client in "abc":
        fleet.grid.handlers[client] = None
    result = fleet.engine().run(fleet.submit(text(sigma=2.0)))
    assert result.state == "FINISHED"
    assert 0.1 < float(head(fleet, result).std()) / (2.0 / 3 * 3**0.5) < 3  # of 16 numbers


def test_everybody_on_the_roster_is_charged_every_round_drawn_or_not(fleet):
    run = fleet.submit(text(sigma=1.0, rate=0.5))
    result = fleet.engine().run(run)
    assert result.state == "FINISHED"
    for client in "abc":
        charged = events(fleet, client)
        assert [(e.unit, e.sampling_rate, e.num_steps) for e in charged] == [("client", 0.5, 1)] * 3
    asked = {(o.round_index, o.client_id) for o in fleet.grid.sent}
    drawn = {(c.round_index, c.client_id) for c in fleet.store.contributions(run) if c.state == "RECEIVED"}
    assert asked == drawn
    skipped = [c for c in fleet.store.contributions(run) if c.state == "SKIPPED"]
    assert len(skipped) + len(asked) == 9


def test_a_client_that_is_away_is_charged_and_not_waited_for_again(fleet):
    fleet.grid.clients = ["a", "b"]
    fleet.engine().run(fleet.submit(text(sigma=1.0)))
    assert len(events(fleet, "c")) == 3
    assert {o.client_id for o in fleet.grid.sent} == {"a", "b"}


def test_the_ledger_of_such_a_run_holds(fleet, tmp_path):
    from motet.audit.ledger import CoordinatorLedger

    fleet.engine().run(fleet.submit(text(sigma=1.0, rate=0.4)))
    state = check_entries(CoordinatorLedger(tmp_path / "ledger").entries())
    assert state.findings == []
    assert {len(v) for v in state.events.values()} == {3}
    wrong = [dataclasses.replace(e, num_steps=2) for e in state.events["a"]]
    assert epsilon_pld(wrong, 1e-5) > epsilon_pld(state.events["a"], 1e-5)


def test_a_round_that_is_resumed_keeps_its_draw(fleet, monkeypatch):
    run = fleet.submit(text(sigma=1.0, rate=0.5))

    class Killed(BaseException):
        pass

    def die(*_args, **_kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(fleet.store, "close_round", die)
        with pytest.raises(Killed):
            fleet.engine().run(run)
    before = {c.client_id: c.state for c in fleet.store.contributions(run, 0)}
    fleet.grid.pending.clear()
    fleet.engine().run(run)
    assert {c.client_id: c.state for c in fleet.store.contributions(run, 0)} == before
    assert all(len(events(fleet, c)) == 3 for c in "abc")  # and nobody was charged twice


def test_the_cohort_is_a_poisson_draw_at_the_public_rate():
    recipe = parse_recipe(text(rate=0.3))
    ranks, noise, times = dict.fromkeys("abcdefgh", 2), SystemNoise(), 2000
    drawn = np.zeros((times, 8))
    for i in range(times):
        found = draw_cohort(recipe, ranks, ranks, noise)
        assert set(found.asked) | set(found.others) == set(ranks)
        drawn[i] = [c in found.asked for c in sorted(ranks)]
    assert np.abs(drawn.mean(0) - 0.3).max() < 7 * np.sqrt(0.21 / times)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(8)).max() < 7 / np.sqrt(times)
    assert drawn.sum(1).var() == pytest.approx(8 * 0.21, rel=0.25)  # a fixed number would have no variance
    assert (drawn.sum(1) == 0).any()


def test_a_charge_over_the_limit_stops_the_run_before_anybody_is_asked(fleet):
    with pytest.raises(BudgetRefusedError):
        fleet.engine().run(fleet.submit(text(sigma=1.0, more=", epsilon_limit: 1.0")))
    assert fleet.grid.sent == []


def test_a_run_that_everybody_refuses_ends(fleet):
    def refuse(order):
        return dataclasses.replace(
            reply_of(order), payload=b"", payload_sha256="", error_code="policy_refused", error_message="no"
        )

    for client in "abc":
        fleet.grid.handlers[client] = refuse
    with pytest.raises(RunFailedError, match="everybody who was asked refused"):
        fleet.engine().run(fleet.submit(text()))


def test_a_recipe_that_does_not_tell_the_divisor_is_refused_before_a_charge(fleet):
    plain = text(sigma=1.0).replace("clients: [a, b, c], ", "")
    with pytest.raises(RunFailedError, match="divided"):
        fleet.engine().run(fleet.submit(plain))
    assert events(fleet, "a") == []
    told = text(sigma=1.0, more=", expected_cohort: 2.5").replace("clients: [a, b, c], ", "")
    assert fleet.engine().run(fleet.submit(told, run_id="r-2")).state == "FINISHED"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("fedit", "flora"), "has no client-level privacy"),
        (("deadline_s", "minimum: 2, deadline_s"), "draw a cohort again"),
        (("local_steps: 2", "local_steps: 2, optimizer: sgd, algorithm: scaffold"), "single updates"),
        (("unit: client", "unit: example, expected_cohort: 3"), "with unit: client only"),
        (("unit: client", "unit: person"), "unit: person needs it"),
    ],
)
def test_what_is_not_sound_with_a_unit_is_refused_with_the_reason(change, words):
    with pytest.raises(RecipeError, match=words):
        parse_recipe(text().replace(*change))
