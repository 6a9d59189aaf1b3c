"""Held-out figures of a deployed federation come from owners who share; the adapter does not depend on who does."""

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("federation")]


@pytest.fixture
def a_shares(federation, tmp_path):
    """The shared federation with a policy of the owner of a; without it after the test."""
    policy = tmp_path / "policy.toml"
    policy.write_text("share_accuracy = true\n")
    federation.terminate("a")
    federation.policies["a"] = policy
    federation.start_clients("a")
    yield federation
    federation.policies.pop("a")
    federation.terminate("a")


def test_figures_of_every_adapter_come_from_the_owner_who_shares_and_the_adapter_is_the_simulated_one(
    a_shares, recipe_file, embedded
):
    path = recipe_file("held-out", rounds=2, local_steps=1, minimum=3, extra="evaluation: {held_out: 0.3}\n")
    row = a_shares.finish(path)
    told = a_shares.store.scores.of(row.run_id)
    assert [(s.rounds_done, s.client_id) for s in told] == [(0, "a"), (1, "a"), (2, "a")]
    assert all(5 <= s.num_examples < 40 and 0 <= s.accuracy <= 1 and s.loss > 0 for s in told)
    assert len({s.num_examples for s in told}) == 1, "the same examples in every round"
    assert len({s.loss for s in told}) == 3, "each adapter is another"
    asked = a_shares.store.contributions(row.run_id)
    assert {c.client_id for c in asked if c.state == "RECEIVED"} == {"a", "b", "c"}
    assert row.adapter_sha256 == embedded(path), (
        "there all three share; what is held out does not train in either"
    )
