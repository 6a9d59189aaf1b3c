"""What two sketches say of a gradient, against the whole gradient in float64, which no client ever sends."""

import json

import numpy as np
import pytest
import torch

from aggregation.adapter import ClientUpdate
from aggregation.initial import frozen_rows
from aggregation.serialize import from_bytes, sha256_hex, to_bytes
from client.base import LoadedBase
from client.inputs import per_example_loss, prepare
from client.worker import ClientWorker
from motet.data import read_data
from motet.modeling import initial_dense, layer_shapes, load_base, load_tokenizer, target_layers
from motet.recipe import canonical_json, parse_recipe, recipe_sha256
from motet.recipe.method import method_of
from motet.wire.messages import TrainOrder

RANK = 4
TASKS = {
    "tiny-llama": ("{kind: causal-lm, max_length: 24}", "[q_proj, down_proj]"),
    "tiny-gpt2": ("{kind: causal-lm, max_length: 24}", "[c_attn]"),
    "tiny-bert": ("{kind: sequence-classification, num_labels: 2, max_length: 24}", "[query, value]"),
}


def recipe_of(tiny, count, extra=""):
    task, targets = TASKS[tiny]
    return parse_recipe(
        f"name: o\nbase_model: {{tiny: {tiny}}}\ntask: {task}\ndata: {{path: x.jsonl}}\n"
        f"adapter: {{lora_rank: {RANK}, targets: {targets}}}\nmethod: {{name: fed-sb, basis: gradient_sketch}}\n"
        f"cohort: {{clients: [a]}}\nseed: 3\n"
        f"training: {{rounds: 3, local_steps: 2, expected_batch_size: {count}, learning_rate: 1.0}}\n{extra}"
    )


def written(folder, rows):
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return path


def dense_gradients(recipe, path):
    """Layer -> gradient (m, n) of the mean loss, by a float64 copy of the base model without any adapter."""
    base = LoadedBase(model=load_base(recipe).double(), tokenizer=load_tokenizer(recipe))
    parameters = dict(base.model.named_parameters())
    for name, value in initial_dense(recipe).items():
        parameters[name].data.copy_(value)
    examples = prepare(recipe, base, read_data(recipe, path))
    layers = target_layers(base.model, recipe)
    for layer in layers.values():
        layer.weight.requires_grad_(True)
    base.model.eval()
    per_example_loss(recipe, base.model, examples, range(len(examples)))[0].mean().backward()
    shapes = layer_shapes(recipe)
    assert shapes.keys() == layers.keys() != set()
    found = {name: layer.weight.grad for name, layer in layers.items()}
    return {
        k: g if tuple(g.shape) == shapes[k] and recipe.base_model.tiny != "tiny-gpt2" else g.T
        for k, g in found.items()
    }


def sketch_rounds(recipe, path, home):
    """The updates and states of the two sketch rounds of one client that sees all its examples in every step."""
    worker, method = ClientWorker("a", path, home), method_of(recipe)
    scale = recipe.scale_of(RANK)
    state = method.initial_state(
        layer_shapes(recipe), lora_rank=RANK, scale=scale, dense=initial_dense(recipe), seed=recipe.seed
    )
    updates, states = [], [state]
    for t in range(2):
        payload = to_bytes(method.starting_point(state))
        reply = worker.handle(
            TrainOrder(
                run_id="r-1", round_index=t, attempt=0, client_id="a", recipe_json=canonical_json(recipe),
                recipe_sha256=recipe_sha256(recipe), lora_rank=RANK, reservation_id="", payload=payload,
                payload_sha256=sha256_hex(payload),
            )
        )  # fmt: skip
        assert not reply.error_code, reply.error_message
        updates.append(from_bytes(reply.payload))
        state = method.reduce(state, [ClientUpdate(client_id="a", weight=1.0, state=updates[-1])]).state
        states.append(state)
    return updates, states


ROWS = [(f"{'good' if i % 2 else 'bad'} words of row {i}", i % 2) for i in range(12)]


@pytest.mark.parametrize("tiny", TASKS)
def test_the_sketches_of_one_client_without_noise_are_the_whole_gradient_times_the_test_matrix(
    tiny, tmp_path
):
    recipe, path = recipe_of(tiny, len(ROWS)), written(tmp_path, ROWS)
    (first, second), states = sketch_rounds(recipe, path, tmp_path / "home")
    scale = recipe.scale_of(RANK)
    for layer, gradient in dense_gradients(recipe, path).items():
        columns = first.halves[layer].value.shape[1]
        omega = frozen_rows(layer, columns, gradient.shape[1], recipe.seed).double().T
        expected = scale * gradient @ omega
        miss = float((first.halves[layer].value.double() - expected).norm() / expected.norm())
        assert miss < 1e-4, layer
        basis = states[1].halves[layer].value.double()
        expected = scale * basis.T @ gradient
        assert float((second.halves[layer].value.double() - expected).norm() / expected.norm()) < 1e-4


def test_a_gradient_of_small_rank_lies_within_the_bases_whole(tmp_path):
    """One text of five tokens: what an adapted layer sees has rank 4 at most, and the leading subspace is all of it."""
    recipe, path = recipe_of("tiny-llama", 1), written(tmp_path, [("abcd", 0)])
    _, states = sketch_rounds(recipe, path, tmp_path / "home")
    for layer, gradient in dense_gradients(recipe, path).items():
        u, sizes, vh = np.linalg.svd(gradient.numpy())
        rank = int((sizes > 1e-6 * sizes[0]).sum())
        assert 1 <= rank <= RANK
        pair = states[2].lora[layer]
        assert float(torch.linalg.matrix_norm(residual(pair.B.T, u[:, :rank]))) < 1e-3
        assert float(torch.linalg.matrix_norm(residual(pair.A, vh[:rank].T))) < 1e-3


def residual(rows, columns):
    """What of orthonormal ``columns`` lies outside the span of orthonormal ``rows``."""
    found = torch.from_numpy(columns.copy())
    return found - rows.double().T @ (rows.double() @ found)


def test_of_a_gradient_of_full_rank_more_is_within_the_bases_than_within_the_weights_own(tmp_path):
    recipe, path = recipe_of("tiny-llama", len(ROWS)), written(tmp_path, ROWS)
    _, states = sketch_rounds(recipe, path, tmp_path / "home")
    weights = load_base(recipe)
    for layer, gradient in dense_gradients(recipe, path).items():
        pair = states[2].lora[layer]
        best = float(torch.linalg.svdvals(gradient)[:RANK].norm())
        u, _, vh = torch.linalg.svd(weights.get_submodule(layer).weight.detach().double())
        own = float((u[:, :RANK].T @ gradient @ vh[:RANK].T).norm())
        caught = float((pair.B.double().T @ gradient @ pair.A.double().T).norm())
        assert 0.95 * best < caught <= best * (1 + 1e-6)
        assert own < 0.8 * caught
