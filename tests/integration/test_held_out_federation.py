"""Held-out figures of a deployed federation come from owners who share; the adapter does not depend on who does."""

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("federation")]


def test_figures_of_every_adapter_come_from_the_owner_who_shares_and_the_adapter_is_the_simulated_one(
    federation, recipe_file, embedded
):
    path = recipe_file("held-out", rounds=1, local_steps=2, minimum=3, extra="evaluation: {held_out: 0.3}\n")
    row = federation.finish(path)
    told = federation.store.scores.of(row.run_id)
    assert [(s.rounds_done, s.client_id) for s in told] == [(0, "a"), (1, "a")]
    assert all(5 <= s.num_examples < 40 and 0 <= s.accuracy <= 1 and s.loss > 0 for s in told)
    assert len({s.num_examples for s in told}) == 1, "the same examples in every round"
    assert len({s.loss for s in told}) == 2, "each adapter is another"
    asked = federation.store.contributions(row.run_id)
    assert {c.client_id for c in asked if c.state == "RECEIVED"} == {"a", "b", "c"}
    assert row.adapter_sha256 == embedded(path), (
        "there all three share; what is held out does not train in either"
    )
