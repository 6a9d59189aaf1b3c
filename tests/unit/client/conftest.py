"""Tiny recipes and files: models of two layers that need no download."""

import json
import random

import pytest

from motet.recipe import canonical_json, parse_recipe, recipe_sha256

KINDS = {
    "bert": ("tiny-bert", "{kind: sequence-classification, num_labels: 2, max_length: 24}", "[query, value]"),
    "llama": ("tiny-llama", "{kind: causal-lm, max_length: 24}", "[q_proj, v_proj, down_proj]"),
    "gpt2": ("tiny-gpt2", "{kind: causal-lm, max_length: 24}", "[c_attn]"),
}


def make_recipe(kind="bert", method="flora", rank="4", extra="", training="", local_steps=3, rate="5e-3"):
    tiny, task, targets = KINDS[kind]
    return parse_recipe(
        f"name: t\nbase_model: {{tiny: {tiny}}}\ntask: {task}\ndata: {{path: x.jsonl}}\n"
        f"adapter: {{lora_rank: {rank}, targets: {targets}}}\nmethod: {{name: {method}}}\ncohort: {{clients: [a, b]}}\n"
        f"training: {{rounds: 2, local_steps: {local_steps}, expected_batch_size: 8, learning_rate: {rate}, "
        f"head_learning_rate: 2e-2{training}}}\nseed: 3\n{extra}"
    )


@pytest.fixture
def recipe_of():
    return make_recipe


@pytest.fixture
def data_file(tmp_path):
    rng = random.Random(0)
    path = tmp_path / "a.jsonl"
    words = [["good", "nice", "fine"], ["bad", "ugly", "poor"]]
    lines = []
    for i in range(40):
        label = i % 2
        lines.append(
            json.dumps(
                {"text": " ".join(rng.choice(words[label]) for _ in range(4)) + f" {i}", "label": label}
            )
        )
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def order_of():
    from aggregation.serialize import sha256_hex, to_bytes
    from motet.modeling import initial_dense, layer_shapes
    from motet.recipe.method import method_of
    from motet.wire.messages import TrainOrder

    def make(recipe, *, client_id="a", round_index=0, attempt=0, lora_rank=4, run_id="r-1", state=None):
        method = method_of(recipe)
        state = state or method.initial_state(
            layer_shapes(recipe),
            lora_rank=lora_rank,
            scale=recipe.scale_of(lora_rank),
            dense=initial_dense(recipe),
            seed=recipe.seed,
        )
        payload = to_bytes(method.starting_point(state))
        return TrainOrder(
            run_id=run_id,
            round_index=round_index,
            attempt=attempt,
            client_id=client_id,
            recipe_json=canonical_json(recipe),
            recipe_sha256=recipe_sha256(recipe),
            lora_rank=lora_rank,
            reservation_id="",
            payload=payload,
            payload_sha256=sha256_hex(payload),
        )

    return make
