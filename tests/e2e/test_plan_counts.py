"""``motet plan`` counts the parameters that clients really train."""

import pytest

from aggregation.floats import trained_numbers
from client import worker
from motet.modeling import dense_shapes, layer_shapes
from motet.plan import plan
from motet.recipe import parse_recipe
from motet.simulate import prepare_shards, run_engine

MIXED = "{a: 1, b: 4, c: 7}"
CASES = [
    ("tiny-bert", "flora", MIXED),
    ("tiny-bert", "ffa", MIXED),
    ("tiny-bert", "fedsa", MIXED),
    ("tiny-bert", "fed-sb", "4"),
    ("tiny-bert", "rolora", "4"),
    ("tiny-bert", "hetlora", MIXED),
    ("tiny-bert", "flora, train_adapter: false", "4"),
    ("tiny-gpt2", "rolora", "4"),
    ("tiny-gpt2", "ffa", MIXED),
]


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """Recipe -> client -> numbers of what had a gradient in each round of a run."""

    def run(recipe):
        seen = {}
        original = worker.train_round

        def watching(attached, *args, round_index, client_id, **options):
            outcome = original(attached, *args, round_index=round_index, client_id=client_id, **options)
            numbers = [p.numel() for p in attached.model.parameters() if p.requires_grad]
            seen.setdefault(client_id, []).append(sum(numbers))
            return outcome

        monkeypatch.setattr(worker, "train_round", watching)
        run_engine(recipe, prepare_shards(recipe, tmp_path / "shards"), tmp_path, stage="t", with_curve=False)
        return seen

    return run


@pytest.mark.parametrize(("tiny", "method", "rank"), CASES)
def test_the_plan_counts_what_clients_train(recipe_text, trained, tiny, method, rank):
    recipe = parse_recipe(recipe_text(tiny, method, rank))
    planned = {c.client_id: c.trainable_parameters for c in plan(recipe, probe=False).clients}
    seen = trained(recipe)
    assert planned == {client: max(numbers) for client, numbers in seen.items()}
    shapes = layer_shapes(recipe) if recipe.method.train_adapter else {}
    heads = sum(n for n in map(_numel, dense_shapes(recipe).values()))
    for client, numbers in seen.items():
        rank_of = recipe.lora_rank_of(client)
        assert numbers == [trained_numbers(recipe.method.name, shapes, rank_of, heads, t) for t in range(2)]


def _numel(shape):
    total = 1
    for side in shape:
        total *= side
    return total


def test_frozen_factors_do_not_count(recipe_text):
    """Positive control: the methods differ in what they train, and so do the counts."""
    counts = {
        method: plan(parse_recipe(recipe_text("tiny-gpt2", method, "4")), probe=False)
        .clients[0]
        .trainable_parameters
        for method in ("fedit", "ffa", "fed-sb", "rolora", "fedsa")
    }
    assert counts["fed-sb"] < counts["ffa"] == counts["rolora"] < counts["fedit"] == counts["fedsa"]


def test_factors_that_take_turns_count_by_the_larger_turn(recipe_text):
    once, twice = (
        plan(parse_recipe(recipe_text("tiny-llama", "rolora", "4", rounds).replace("[q_proj, v_proj]", "[down_proj]")),
             probe=False).clients[0].trainable_parameters
        for rounds in (1, 2)
    )  # fmt: skip
    assert once < twice  # down_proj is wider than tall: A, of the second round, is the larger
