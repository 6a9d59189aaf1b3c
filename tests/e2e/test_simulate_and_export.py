"""From a recipe to a folder that plain peft loads, for every method and kind of model."""

import json
import os

import forked_motet
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from client.adapters import attach
from client.base import loaded_base
from client.personal import PersonalParts
from coordinator.export import ExportError
from coordinator.storage.artifacts import ArtifactStore
from motet.exporting import NothingToExportError, export_run
from motet.modeling import load_base, load_base_for, load_merged, load_tokenizer
from motet.recipe import parse_recipe
from motet.simulate import simulate

MIXED = "{a: 1, b: 4, c: 7}"
METHODS = [("flora", MIXED), ("fedit", "4"), ("lora-fair", "4"), ("fed-sb", "4")]
OTHERS = [
    ("zero-pad", MIXED),
    ("rank-index", MIXED),
    ("product", MIXED),
    ("flexlora", MIXED),
    ("florist", MIXED),
    ("fedex", "4"),
    ("ffa", MIXED),
    ("rolora", "4"),
    ("hetlora", MIXED),
    ("dp-lora", "4"),
]


def logits_of(model, ids):
    with torch.no_grad():
        return model(**ids).logits


def inputs_for(recipe):
    if recipe.task.reads_images:
        return {"pixel_values": torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))}
    tokens = load_tokenizer(recipe)(["good nice", "bad ugly poor"], return_tensors="pt", padding=True)
    return {k: tokens[k] for k in ("input_ids", "attention_mask")}


EVERY = [(tiny, *m) for tiny in ("tiny-bert", "tiny-llama", "tiny-gpt2") for m in METHODS]
EVERY += [(tiny, *m) for tiny in ("tiny-bert", "tiny-dinov2") for m in OTHERS]
EVERY += [("tiny-dinov2", *m) for m in METHODS]


@pytest.mark.parametrize(("tiny", "method", "rank"), EVERY)
def test_the_exported_folder_gives_the_engines_own_logits(recipe_text, tmp_path, tiny, method, rank):
    recipe = parse_recipe(recipe_text(tiny, method, rank))
    result = simulate(recipe, tmp_path / "out", baselines=False, merged=True, processes=0)
    folder = result["adapter_dir"]
    ids = inputs_for(recipe)
    state = ArtifactStore(tmp_path / "out/runs/federated/artifacts").load_state(result["adapter_sha256"])
    base = loaded_base(recipe)
    model = load_base(recipe)
    attach(
        model,
        recipe,
        state,
        bases=base.bases_of(recipe, 4) if state.cores else None,
        scale=recipe.scale_of(4),
    )
    ours = logits_of(model, ids)
    loaded = logits_of(PeftModel.from_pretrained(load_base_for(folder), folder).eval(), ids)
    merged = logits_of(load_merged(tmp_path / "out/merged").eval(), ids)
    plain = logits_of(load_base(recipe), ids)
    torch.testing.assert_close(loaded, ours, rtol=0, atol=1e-5)
    torch.testing.assert_close(merged, ours, rtol=0, atol=1e-5)
    assert (ours - plain).abs().max() > 1e-4  # positive control: the adapter does something


def test_a_folder_that_is_no_export_is_not_touched(recipe_text, tmp_path):
    (tmp_path / "out/adapter").mkdir(parents=True)
    (tmp_path / "out/adapter/thesis.txt").write_text("mine")
    with pytest.raises(ExportError, match="not an earlier export"):
        simulate(parse_recipe(recipe_text(rounds=1)), tmp_path / "out", baselines=False, processes=0)
    assert (tmp_path / "out/adapter/thesis.txt").read_text() == "mine"


def test_simulate_prints_one_json_object_last_with_everything_promised(recipe_text, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(recipe_text(extra="privacy: {target_epsilon: 8, sampling_rate: 0.4}\n"))
    done = forked_motet.run(
        ("simulate", path, "--out", tmp_path / "out", "--json"), os.environ, tmp_path, 120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert {
        "run_id",
        "adapter_dir",
        "adapter_sha256",
        "method",
        "rounds",
        "metrics",
        "clients",
    } <= result.keys()
    assert {"start", "local_only", "federated", "federated_no_privacy", "head_only"} <= result[
        "metrics"
    ].keys()
    assert set(result["metrics"]["local_only"]) == {"a", "b", "c"}
    for row, rank in zip(result["clients"], (1, 4, 7), strict=True):
        assert row["lora_rank"] == rank
        assert row["num_examples"] == 40
        assert row["bytes_up"] > 0
        assert row["bytes_down"] > 0
        assert 7.5 < row["epsilon"] <= 8
    assert (tmp_path / "out/learning-curve.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "out/result.json").read_text())["run_id"] == result["run_id"]


def test_worker_processes_and_inline_clients_give_the_same_adapter(recipe_text, tmp_path):
    recipe = parse_recipe(recipe_text())
    hashes = {
        simulate(recipe, tmp_path / str(n), baselines=False, processes=n)["adapter_sha256"] for n in (0, 2)
    }
    assert len(hashes) == 1


def test_a_method_with_a_personal_part_gives_each_client_its_own_model(recipe_text, tmp_path):
    recipe = parse_recipe(recipe_text("tiny-bert", "fedsa", MIXED))
    result = simulate(recipe, tmp_path / "out", baselines=False, processes=0)
    ids = inputs_for(recipe)
    ours = {}
    for client in "abc":
        folder = tmp_path / "out/adapters" / client
        loaded = logits_of(PeftModel.from_pretrained(load_base_for(folder), folder).eval(), ids)
        state, _, rounds = PersonalParts(tmp_path / "out/runs/federated/clients" / client / "personal").model(
            result["run_id"]
        )
        model = load_base(recipe)
        attach(model, recipe, state)
        ours[client] = logits_of(model, ids)
        torch.testing.assert_close(loaded, ours[client], rtol=0, atol=1e-5)
        assert rounds == 2
    assert (ours["a"] - ours["b"]).abs().max() > 1e-4  # they differ: a part stays at home
    assert 0 <= result["metrics"]["federated"]["accuracy"] <= 1
    with pytest.raises(NothingToExportError) as caught:
        export_run(tmp_path / "out/runs/federated", result["run_id"], tmp_path / "global")
    assert "motet client export" in caught.value.hint


def test_a_serving_cap_cuts_the_export_and_its_error_is_told_everywhere(recipe_text, tmp_path):
    recipe = parse_recipe(recipe_text("tiny-bert", "flora", MIXED))
    simulated = simulate(recipe, tmp_path / "out", baselines=False, processes=0)
    home = tmp_path / "out/runs/federated"
    whole = export_run(home, simulated["run_id"], tmp_path / "whole")
    assert (whole["learned_rank"], whole["truncation_error"]) == (0, 0)
    cut = export_run(home, simulated["run_id"], tmp_path / "cut", lora_rank=2)
    before, after = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "cut"))
    missed = size = 0.0
    for key in (k for k in before if k.endswith("lora_A.weight")):
        b = key.replace("lora_A", "lora_B")
        exact, kept = before[b] @ before[key], after[b] @ after[key]
        assert after[key].shape[0] == 2
        missed, size = missed + float((exact - kept).square().sum()), size + float(exact.square().sum())
    assert cut["truncation_error"] == pytest.approx((missed / size) ** 0.5, rel=1e-3)
    assert 0.01 < cut["truncation_error"] < 1
    assert json.loads((tmp_path / "cut/adapter_config.json").read_text())["r"] == 2
    card = (tmp_path / "cut/README.md").read_text()
    assert f"2, cut from {cut['learned_rank']} with relative error {cut['truncation_error']:.3g}" in card
    PeftModel.from_pretrained(load_base_for(tmp_path / "cut"), tmp_path / "cut")
    with pytest.raises(ExportError, match="no rank to cut"):
        export_run(home, simulated["run_id"], tmp_path / "merged", merged=True, lora_rank=2)
    typed = ("--out", tmp_path / "typed", "--lora-rank", "2")
    done = forked_motet.run(("export", simulated["run_id"], "--home", home, *typed), os.environ, tmp_path)
    assert f"cut from rank {cut['learned_rank']}: relative error {cut['truncation_error']:.3g}" in done.stdout


def test_a_recipes_serving_rank_caps_the_adapter_of_a_simulation(recipe_text, tmp_path):
    text = recipe_text("tiny-bert", "fedit", "4").replace(
        "lora_rank: 4,", "lora_rank: 4, serving_lora_rank: 1,"
    )
    result = simulate(parse_recipe(text), tmp_path / "out", baselines=False, processes=0)
    assert result["learned_rank"] == 4
    assert 0 < result["truncation_error"] < 1
    assert json.loads((tmp_path / "out/adapter/adapter_config.json").read_text())["r"] == 1
