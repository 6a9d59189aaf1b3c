"""A federation of one client is that client training at home: nothing is lost or added by the rounds between."""

import pytest
import torch

from aggregation.initial import generator_for
from client.adapters import attach, detach, read_state
from client.base import loaded_base
from client.tokens import tokenise
from client.training import train_round
from coordinator.storage.artifacts import ArtifactStore
from motet.data import read_examples
from motet.modeling import initial_dense, layer_shapes
from motet.recipe import parse_recipe
from motet.recipe.method import method_of
from motet.simulate import alone, prepare_shards, run_engine

ROUNDS = 3


def at_home(recipe, data, *, fresh=False):
    """Train round after round on one model, without messages; ``fresh`` merges and begins with new factors."""
    method, shapes = method_of(recipe), layer_shapes(recipe)
    state = method.initial_state(
        shapes, lora_rank=4, scale=recipe.scale_of(4), dense=initial_dense(recipe), seed=recipe.seed
    )
    base = loaded_base(recipe)
    examples = tokenise(recipe, base.tokenizer, read_examples(data, num_labels=2))
    merged = {}
    for round_index in range(ROUNDS):
        start = method.local_start(
            method.starting_point(state), layer_shapes=shapes, lora_rank=4, scale=recipe.scale_of(4),
            seed=recipe.seed, fresh_seed=generator_for(recipe.seed, "fresh", round_index, "a").initial_seed(),
        )  # fmt: skip
        bases = base.bases_of(recipe, 4) if start.cores else None
        attached = attach(
            base.model, recipe, start, bases=bases, scale=recipe.scale_of(4),
            trains=method.trained_factors(round_index),
        )  # fmt: skip
        train_round(
            attached,
            recipe,
            examples,
            round_index=round_index,
            client_id="a",
            noise=None,
            noise_multiplier=None,
        )
        ended = read_state(attached)
        detach(attached)
        if fresh:
            for layer, pair in ended.lora.items():
                moved = pair.scale * pair.B.double() @ pair.A.double()
                merged[layer] = merged.get(layer, 0) + moved
            state = _with_base(start, ended, merged)
        else:
            state = ended
    return state, merged


def _with_base(start, ended, merged):
    from aggregation.adapter import AdapterState
    from aggregation.methods.base import as_pair

    base = {layer: as_pair(matrix.float()) for layer, matrix in merged.items()}
    return AdapterState(base_delta=base, dense=ended.dense)


def in_rounds(recipe, tmp_path):
    one = alone(recipe, "a")
    shards = prepare_shards(one, tmp_path / "data")
    outcome = run_engine(one, shards, tmp_path / "run", stage="one", with_curve=False)
    return ArtifactStore(tmp_path / "run/artifacts").load_state(outcome.result.adapter_sha256), shards.train[
        "a"
    ]


@pytest.mark.parametrize("tiny", ["tiny-bert", "tiny-gpt2"])
@pytest.mark.parametrize("method", ["fedit", "ffa", "fed-sb", "rolora", "dp-lora"])
def test_a_federation_of_one_is_training_at_home_bit_for_bit(recipe_text, tmp_path, method, tiny):
    recipe = parse_recipe(recipe_text(tiny, method, "4", rounds=ROUNDS))
    found, data = in_rounds(recipe, tmp_path)
    wanted, _ = at_home(recipe, data)
    for layer, pair in found.lora.items():
        assert torch.equal(pair.B, wanted.lora[layer].B)
        assert torch.equal(pair.A, wanted.lora[layer].A)
    assert all(torch.equal(core, wanted.cores[layer]) for layer, core in found.cores.items())
    assert all(torch.equal(value, wanted.dense[name]) for name, value in found.dense.items())
    assert found.lora or found.cores


def test_flora_of_one_is_merging_at_home_and_beginning_with_new_factors(recipe_text, tmp_path):
    recipe = parse_recipe(recipe_text("tiny-bert", "flora", "4", rounds=ROUNDS))
    found, data = in_rounds(recipe, tmp_path)
    _, merged = at_home(recipe, data, fresh=True)
    for layer, pair in found.base_delta.items():
        product = pair.scale * pair.B.double() @ pair.A.double()
        assert float((product - merged[layer]).norm() / merged[layer].norm()) < 1e-4
    other, _ = at_home(parse_recipe(recipe_text("tiny-bert", "fedit", "4", rounds=ROUNDS)), data)
    kept = {k: p.scale * p.B.double() @ p.A.double() for k, p in other.lora.items()}
    assert any(  # positive control: factors that go on are another training
        float((kept[k] - merged[k]).norm() / merged[k].norm()) > 0.05 for k in merged
    )
