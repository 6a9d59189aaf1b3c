"""Models by name: shapes without weights, heads from the seed, hub ids only when they are not on disk."""

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config

from motet import modeling
from motet.recipe import parse_recipe


def recipe_of(
    base="{tiny: tiny-bert}", *, targets="[query, value]", task="sequence-classification", extra=""
):
    labels = ", num_labels: 3" if task == "sequence-classification" else ""
    return parse_recipe(
        f"name: t\nbase_model: {base}\ntask: {{kind: {task}{labels}, max_length: 24}}\ndata: {{path: x.jsonl}}\n"
        f"adapter: {{lora_rank: 2, targets: {targets}}}\nmethod: {{name: flora}}\n"
        f"cohort: {{clients: [a, b]}}\nseed: 3\n{extra}"
    )


@pytest.mark.parametrize(
    ("base", "targets", "task"),
    [
        ("{tiny: tiny-bert}", "[query, intermediate.dense]", "sequence-classification"),
        ("{tiny: tiny-llama}", "[q_proj, down_proj]", "causal-lm"),
        ("{tiny: tiny-gpt2}", "[c_attn, mlp.c_fc]", "causal-lm"),
    ],
)
def test_shapes_need_no_weights_and_are_those_of_the_loaded_model(base, targets, task):
    recipe = recipe_of(base, targets=targets, task=task)
    model = modeling.load_base(recipe)
    layers = modeling.target_layers(model, recipe)
    assert modeling.layer_shapes(recipe) == {n: modeling.shape_of(m) for n, m in layers.items()}
    assert any(rows != columns for rows, columns in modeling.layer_shapes(recipe).values())
    assert all(p.device.type == "meta" for p in modeling.skeleton(recipe).parameters())
    out_features, in_features = modeling.shape_of(next(iter(layers.values())))
    x = torch.randn(1, in_features)
    assert next(iter(layers.values()))(x).shape == (1, out_features)


def test_the_head_starts_from_the_recipes_seed():
    one, two = recipe_of(), recipe_of(extra="").model_copy(update={"seed": 4})
    first, again = modeling.initial_dense(one), modeling.initial_dense(one)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["head.weight"], modeling.initial_dense(two)["head.weight"])
    loaded = dict(modeling.load_base(one).named_parameters())
    assert torch.equal(loaded["head.weight"], first["head.weight"])


def test_a_base_model_is_frozen_and_has_no_dropout_of_its_own():
    model = modeling.load_base(recipe_of())
    assert not any(p.requires_grad for p in model.parameters())
    ids = torch.randint(0, 200, (2, 9))
    mask = torch.ones_like(ids)
    with torch.no_grad():
        model.train()
        assert torch.equal(model(ids, mask).logits, model(ids, mask).logits)


def test_padding_does_not_change_a_mean_pooled_prediction():
    model = modeling.load_base(recipe_of())
    ids = torch.randint(0, 200, (1, 6))
    padded = torch.cat([ids, torch.full((1, 5), 256)], dim=1)
    mask = torch.tensor([[1] * 6 + [0] * 5])
    with torch.no_grad():
        plain, with_padding = model(ids, torch.ones_like(ids)).logits, model(padded, mask).logits
        unmasked = model(padded, torch.ones_like(padded)).logits
    torch.testing.assert_close(plain, with_padding, rtol=0, atol=1e-5)
    assert (plain - unmasked).abs().max() > 1e-4  # positive control


def test_a_target_that_matches_no_layer_lists_those_that_exist():
    recipe = recipe_of()
    recipe = recipe.model_copy(update={"adapter": recipe.adapter.model_copy(update={"targets": ["q_proj"]})})
    with pytest.raises(modeling.ModelError, match="q_proj") as caught:
        modeling.layer_shapes(recipe)
    assert "query" in caught.value.hint


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_layer_that_shares_its_weight_with_another_gets_no_adapter(tmp_path, is_tied):
    config = GPT2Config(
        vocab_size=40, n_positions=32, n_embd=8, n_layer=1, n_head=2, tie_word_embeddings=is_tied
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    recipe = recipe_of(f"{{path: {tmp_path}}}", targets="[c_attn, lm_head]", task="causal-lm")
    if not is_tied:
        assert modeling.layer_shapes(recipe)["lm_head"] == (40, 8)
        return
    with pytest.raises(modeling.ModelError, match=r"lm_head shares its weight with transformer\.wte"):
        modeling.layer_shapes(recipe)


def test_more_tokens_than_the_model_reads_are_refused():
    recipe = recipe_of()
    longer = recipe.model_copy(update={"task": recipe.task.model_copy(update={"max_length": 999})})
    with pytest.raises(modeling.ModelError, match="at most 256"):
        modeling.load_config(longer)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(modeling.ModelError, match="no usable model"):
        modeling.load_config(recipe_of(f"{{path: {tmp_path}}}"))


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_hub_id_is_fetched_only_when_it_is_not_on_disk(monkeypatch, on_disk):
    calls = []

    def from_pretrained(source, *, local_files_only=False, trust_remote_code, **_options):
        calls.append((source, local_files_only, trust_remote_code, constants.HF_HUB_OFFLINE))
        if local_files_only and not on_disk:
            raise OSError("not here")
        return modeling._tiny_config("tiny-bert")

    monkeypatch.setattr(AutoConfig, "from_pretrained", from_pretrained)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    modeling.load_config(recipe_of("{hub: someone/some-model}"))
    expected = [("someone/some-model", True, False, True)]
    assert calls == expected + ([] if on_disk else [("someone/some-model", False, False, False)])
    assert constants.HF_HUB_OFFLINE is True
