"""Arithmetic for a 7B model, held against counts that others have published, and keys against real states."""

import math
from pathlib import Path

import pytest
import torch

from aggregation.adapter import AdapterState
from aggregation.control import trained_values
from aggregation.floats import (
    control_shapes,
    floats_control,
    floats_down,
    floats_up,
    received_shapes,
    sent_shapes,
)
from aggregation.methods import METHODS
from aggregation.serialize import manifest, message_bytes, to_bytes
from aggregation.sizes import MISTRAL_7B, as_markdown, downloads, uploads

ROOT = Path(__file__).resolve().parents[3]
SHAPES = {"q": (12, 9), "v": (7, 10)}
HEADS = {"head.weight": (2, 5), "head.bias": (2,)}
NUMEL = 12


def test_the_floats_of_mistral_are_those_that_fed_sbs_authors_plot():
    """Million parameters a round, 25 clients: FedIT and FFA at rank 32, Fed-SB at 120, 160 and 200."""
    assert floats_up("fedit", MISTRAL_7B, 32, 0) / 1e6 == pytest.approx(83.9, abs=0.05)
    assert floats_up("fed-sb", MISTRAL_7B, 120, 0) / 1e6 == pytest.approx(3.23, abs=0.01)
    assert floats_up("fed-sb", MISTRAL_7B, 160, 0) / 1e6 == pytest.approx(5.73, abs=0.01)
    assert floats_up("fed-sb", MISTRAL_7B, 200, 0) / 1e6 == pytest.approx(8.96, abs=0.01)
    stacked = floats_down("flora", MISTRAL_7B, [32] * 25, 32, 0, 1) / 1e6
    assert stacked == pytest.approx(2097, abs=1)


def test_bytes_are_four_a_float_and_a_small_header():
    for name in METHODS:
        assert uploads(name, 16) == pytest.approx(4 * floats_up(name, MISTRAL_7B, 16, 0), rel=0.1)
        assert uploads(name, 16) - 4 * floats_up(name, MISTRAL_7B, 16, 0) < 100_000
    assert downloads("flora", 16)[1] == pytest.approx(10 * uploads("fedit", 16), rel=1e-3)


def test_the_page_holds_the_table():
    assert as_markdown() in (ROOT / "docs/methods.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("round_index", [0, 1])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_shapes_are_the_manifests_of_real_states_and_their_floats_the_counted_ones(name, round_index):
    method = METHODS[name]
    state = method.initial_state(
        SHAPES, lora_rank=3, scale=2.0, dense={k: torch.zeros(s) for k, s in HEADS.items()}, seed=0
    )
    received = method.starting_point(state, lora_rank=3, scale=2.0)
    start = method.local_start(received, layer_shapes=SHAPES, lora_rank=3, scale=2.0, seed=0, fresh_seed=1)
    sent = method.trained_part(start, round_index)
    shapes = sent_shapes(name, SHAPES, 3, HEADS, round_index)
    assert shapes == manifest(sent)
    assert message_bytes(shapes) == len(to_bytes(sent))
    assert sum(map(math.prod, shapes.values())) == floats_up(name, SHAPES, 3, NUMEL, round_index)
    assert received_shapes(name, SHAPES, [3, 3], 3, HEADS, 0) == manifest(received)
    down = received_shapes(name, SHAPES, [3, 3], 3, HEADS, round_index)
    assert sum(map(math.prod, down.values())) == floats_down(name, SHAPES, [3, 3], 3, NUMEL, round_index)
    if round_index == 0:
        control = AdapterState(control=trained_values(sent))
        assert control_shapes(name, SHAPES, 3, HEADS) == manifest(control)
        numbers = sum(map(math.prod, control_shapes(name, SHAPES, 3, HEADS).values()))
        assert numbers == floats_control(name, SHAPES, 3, NUMEL)
