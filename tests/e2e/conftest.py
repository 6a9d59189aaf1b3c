"""Whole runs on tiny models, from files as a person would write them."""

import base64
import io
import json
import random

import pytest
from PIL import Image

TASKS = {
    "tiny-bert": ("{kind: sequence-classification, num_labels: 2, max_length: 24}", "[query, value]"),
    "tiny-llama": ("{kind: causal-lm, max_length: 24}", "[q_proj, v_proj]"),
    "tiny-gpt2": ("{kind: causal-lm, max_length: 24}", "[c_attn]"),
    "tiny-dinov2": (
        "{kind: image-classification, num_labels: 2, image_size: 8}",
        "[q_proj, v_proj, fc1]",
    ),
}


@pytest.fixture
def data_folder(tmp_path):
    rng = random.Random(0)
    words = [["good", "nice", "fine"], ["bad", "ugly", "poor"]]
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("a", "b", "c", "test"):
        lines = []
        for i in range(40):
            label = rng.randrange(2)
            text = " ".join(rng.choice(words[label]) for _ in range(4)) + f" {name}{i}"
            shade = rng.randrange(64) + 128 * label
            picture = io.BytesIO()
            Image.new("RGB", (8, 8), (shade, i, ord(name[0]))).save(picture, "PNG")
            image = base64.b64encode(picture.getvalue()).decode()
            lines.append(json.dumps({"text": text, "image": image, "label": label}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def recipe_text(data_folder):
    def make(tiny="tiny-bert", method="flora", rank="{a: 1, b: 4, c: 7}", rounds=2, extra=""):
        task, targets = TASKS[tiny]
        return (
            f"name: e2e\nbase_model: {{tiny: {tiny}}}\ntask: {task}\ndata: {{path: {data_folder}}}\n"
            f"adapter: {{lora_rank: {rank}, targets: {targets}}}\nmethod: {{name: {method}}}\n"
            "cohort: {clients: [a, b, c], minimum: 2, deadline_s: 60}\n"
            f"training: {{rounds: {rounds}, local_steps: 3, expected_batch_size: 16, learning_rate: 5e-3, "
            f"head_learning_rate: 2e-2}}\nseed: 3\n{extra}"
        )

    return make
