"""The sample recipe for pictures on the real backbone and data, cut down to one step: it runs and is exported."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from motet.materials import is_fetched
from motet.recipe import load_recipe
from motet.simulate import simulate

SAMPLE = Path(__file__).resolve().parents[2] / "examples/recipes/fashion-flora.yaml"


@pytest.mark.materials
def test_the_sample_for_pictures_runs_on_real_weights_and_data(tmp_path):
    for name in ("dinov2-small", "fashion-mnist"):
        if not is_fetched(name):
            pytest.skip(f"motet materials fetch {name}")
    whole = load_recipe(SAMPLE)
    few = {"rounds": 1, "local_steps": 1, "expected_batch_size": 4}
    dealt = whole.data.partition.model_copy(update={"examples_per_client": 8})
    recipe = whole.model_copy(
        update={
            "training": whole.training.model_copy(update=few),
            "data": whole.data.model_copy(update={"partition": dealt, "test_examples": 8}),
        }
    )
    result = simulate(recipe, tmp_path / "out", baselines=False, processes=0)
    assert {row["client_id"]: row["lora_rank"] for row in result["clients"]} == {
        "blurred": 4, "inverted": 8, "rotated": 12, "upright": 16,
    }  # fmt: skip
    tensors = load_file(tmp_path / "out/adapter/adapter_model.safetensors")
    assert len(tensors) == 2 * 4 * 4 + 2  # A and B of four layers in four blocks, and the head
    assert (tmp_path / "out/adapter/preprocessor_config.json").exists()
