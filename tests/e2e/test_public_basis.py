"""Fed-SB on bases of public examples, in whole runs: trained, evaluated, exported."""

import hashlib
import json

import pytest
import torch

from client.base import loaded_base
from motet.exporting import learned_product
from motet.recipe import parse_recipe
from motet.simulate import prepare_shards, run_engine


@pytest.fixture
def run(recipe_text, data_folder, tmp_path):
    public = tmp_path / "public.jsonl"
    rows = [{"text": f"{('kind', 'rude')[i % 2]} word {i}", "label": i % 2} for i in range(50)]
    public.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pinned = (
        f"{{path: {public}, sha256: '{hashlib.sha256(public.read_bytes()).hexdigest()}', num_examples: 40}}"
    )

    def start(name, method):
        recipe = parse_recipe(recipe_text("tiny-bert", method.replace("PUBLIC", pinned), "4", 2))
        shards = prepare_shards(recipe, tmp_path / "shards" / name)
        return recipe, run_engine(recipe, shards, tmp_path / name, stage=name, with_curve=False)

    return start


def test_a_run_learns_within_the_span_of_the_public_gradient(run):
    recipe, made = run("public", "fed-sb, basis: public_gradient, public_data: PUBLIC")
    base = loaded_base(recipe)
    with base.lock:
        bases = base.bases_of(recipe, 4)
    for layer, pair in learned_product(recipe, made.state).items():
        learned, (b, a) = pair.B @ pair.A, bases[layer]
        assert learned.any()
        torch.testing.assert_close(b @ (b.T @ learned @ a.T) @ a, learned, atol=1e-5, rtol=1e-4)


def test_the_same_recipe_gives_the_same_adapter_and_another_basis_another(run):
    (_, one), (_, two) = (
        run(n, "fed-sb, basis: public_gradient, public_data: PUBLIC") for n in ("one", "two")
    )
    assert one.result.adapter_sha256 == two.result.adapter_sha256
    _, other = run("svd", "fed-sb, basis: svd")
    assert other.result.adapter_sha256 != one.result.adapter_sha256
    rows = [o.result.rounds[0]["clients"]["a"] for o in (one, other)]
    assert rows[0]["bytes_up"] == rows[1]["bytes_up"]
    assert rows[0]["bytes_down"] == rows[1]["bytes_down"]  # the basis does not travel
