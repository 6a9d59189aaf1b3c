"""Fed-SB on bases that the run's own first rounds find: planned, charged, interrupted, compressed, exported."""

import pytest
import torch

from aggregation.adapter import AdapterState, HalfPair
from motet.exporting import NothingToExportError, learned_product
from motet.plan import plan
from motet.recipe import parse_recipe
from motet.recipe.method import method_of
from motet.simulate import head_only, prepare_shards, run_engine

METHOD = "fed-sb, basis: gradient_sketch"
PRIVATE = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.4}\n"


@pytest.fixture
def run(recipe_text, tmp_path):
    def start(
        name, extra="", change=lambda recipe: recipe, tiny="tiny-bert", with_curve=False, rounds=3, **options
    ):
        recipe = change(parse_recipe(recipe_text(tiny, METHOD, "4", rounds, extra)))
        shards = prepare_shards(recipe, tmp_path / "shards" / name)
        return recipe, run_engine(
            recipe, shards, tmp_path / name, stage=name, with_curve=with_curve, run_id="r-1", **options
        )

    return start


def test_a_run_learns_within_the_span_of_the_bases_that_it_found_and_moves_the_bytes_that_were_planned(
    run, tmp_path
):
    recipe, made = run("whole", with_curve=True, rounds=4)
    for layer, pair in learned_product(recipe, made.state).items():
        learned, basis = pair.B @ pair.A, made.state.lora[layer]
        assert learned.any()
        kept = basis.B @ (basis.B.T @ learned @ basis.A.T) @ basis.A
        torch.testing.assert_close(kept, learned, atol=1e-5, rtol=1e-4)
    for planned in plan(recipe, probe=False).clients:
        rows = [one["clients"][planned.client_id] for one in made.result.rounds]
        assert tuple(row["bytes_down"] for row in rows) == planned.bytes_down
        assert sum(row["bytes_up"] for row in rows) == planned.bytes_up_total
    start, *_, last = made.curve
    assert start == made.curve[1] != last  # nothing is learned while the bases are looked for


def test_a_search_that_is_interrupted_twice_goes_on_and_the_adapter_is_the_same(run):
    class Stopped(BaseException):
        pass

    def stop_after(round_count):
        def stop(_stage, done, _total):
            if done == round_count:
                raise Stopped

        return stop

    _, whole = run("whole", tiny="tiny-llama")
    for count in (1, 2):
        with pytest.raises(Stopped):
            run("stopped", tiny="tiny-llama", on_step=stop_after(count))
    _, resumed = run("stopped", tiny="tiny-llama")
    assert resumed.result.adapter_sha256 == whole.result.adapter_sha256
    _, other = run("other", tiny="tiny-llama", change=lambda r: r.model_copy(update={"seed": 4}))
    assert other.result.adapter_sha256 != whole.result.adapter_sha256  # positive control


def test_every_round_of_a_private_run_is_charged_those_that_sketch_included(run):
    recipe, made = run("private", PRIVATE)
    planned = plan(recipe, probe=False)
    assert list(made.epsilons.values()) == pytest.approx([planned.privacy.epsilon] * 3)
    assert planned.privacy.num_steps == 3 * 3
    assert any("the first 2 of 3 rounds" in note and "charged" in note for note in planned.notes)
    last = recipe.model_copy(update={"training": recipe.training.model_copy(update={"rounds": 1})})
    assert planned.privacy.epsilon > 1.2 * plan(last, probe=False).privacy.epsilon  # positive control


def test_compressed_sketches_and_a_robust_rule_end_in_a_run_that_learns(run):
    recipe, made = run("small", "compression: {kind: int8}\nrobust: {rule: geometric_median}\n")
    assert all(row["compression_error"] > 0 for one in made.result.rounds for row in one["clients"].values())
    assert all((pair.B @ pair.A).any() for pair in learned_product(recipe, made.state).values())
    planned = plan(recipe, probe=False).clients[0]
    assert planned.bytes_up_total == sum(one["clients"]["a"]["bytes_up"] for one in made.result.rounds)


def test_before_the_bases_are_found_there_is_nothing_to_export(recipe_text):
    recipe = parse_recipe(recipe_text("tiny-bert", METHOD, "4", 4))
    for state in (
        AdapterState(),
        AdapterState(halves={"x": HalfPair(side="B", value=torch.ones(2, 2), scale=1.0)}),
    ):
        assert not method_of(recipe).product(state)
        check_nothing_to_export(recipe, state)


def check_nothing_to_export(recipe, state):
    with pytest.raises(NothingToExportError, match="learned nothing"):
        learned_product(recipe, state)


def test_the_head_alone_has_no_basis_to_find(run):
    _, made = run("head", change=head_only)
    assert all(row["bytes_up"] > 0 for one in made.result.rounds for row in one["clients"].values())
    assert made.state.dense
    assert not {**made.state.lora, **made.state.cores}
