"""Fed-SB on sketched bases: what each round starts from, sends, and becomes."""

import dataclasses

import pytest
import torch

from aggregation import sketch_rounds
from aggregation.adapter import AdapterState, ClientUpdate, FactorPair, HalfPair
from aggregation.methods import SketchedFedSB
from aggregation.serialize import from_bytes, manifest, to_bytes

SHAPES = {"q": (30, 20), "v": (16, 40)}
HEADS = {"head.weight": torch.ones(2, 5)}
RANK, SCALE = 3, 2.0
METHOD = SketchedFedSB(core_rank=RANK)
SHAPE_RULES = {name: tuple(value.shape) for name, value in HEADS.items()}


def started(received):
    return METHOD.local_start(
        received, layer_shapes=SHAPES, lora_rank=RANK, scale=SCALE, seed=5, fresh_seed=0
    )


def first(dense=HEADS):
    return METHOD.initial_state(SHAPES, lora_rank=RANK, scale=SCALE, dense=dense, seed=5)


def sketch_of(start, gradients, round_index):
    """What training of ``start`` leaves: s G A^T in the place of B, or s B^T G in the place of A."""
    lora = {}
    for layer, pair in start.lora.items():
        g = SCALE * gradients[layer].float()
        if round_index == 0:
            lora[layer] = FactorPair(B=g @ pair.A.T, A=pair.A, scale=SCALE)
        else:
            lora[layer] = FactorPair(B=pair.B, A=pair.B.T @ g, scale=SCALE)
    return METHOD.trained_part(AdapterState(lora=lora, dense=start.dense), round_index)


def after_sketches(clients, weights):
    state = first()
    for t in range(2):
        start = started(from_bytes(to_bytes(METHOD.starting_point(state))))
        updates = [
            ClientUpdate(client_id=str(k), weight=w, state=sketch_of(start, g, t))
            for k, (g, w) in enumerate(zip(clients, weights, strict=True))
        ]
        state = METHOD.reduce(state, updates).state
    return state


@pytest.fixture
def gradients():
    generator = torch.Generator().manual_seed(1)
    return [
        {k: torch.randn(s, generator=generator, dtype=torch.float64) for k, s in SHAPES.items()} for _ in "ab"
    ]


def test_the_model_is_the_base_model_until_the_bases_are_there(gradients):
    state = first()
    assert not METHOD.product(state)
    zero = started(state)
    assert all(not (pair.B @ pair.A).any() for pair in zero.lora.values())
    update = ClientUpdate(client_id="a", weight=1.0, state=sketch_of(zero, gradients[0], 0))
    again = started(METHOD.reduce(state, [update]).state)
    assert all(not (pair.B @ pair.A).any() for pair in again.lora.values())
    ready = after_sketches(gradients, [1.0, 1.0])
    assert all(not (pair.B @ pair.A).any() for pair in METHOD.product(ready).values())
    moved = dataclasses.replace(ready, cores={k: torch.eye(RANK) for k in ready.cores})
    assert all((pair.B @ pair.A).any() for pair in METHOD.product(moved).values())  # positive control


def test_each_round_sends_and_receives_what_the_plan_counts(gradients):
    state = first()
    for t in range(4):
        received = METHOD.starting_point(state)
        assert manifest(received) == sketch_rounds.received_shapes(SHAPES, RANK, SHAPE_RULES, t)
        start = started(received)
        sent = sketch_of(start, gradients[0], t) if t < 2 else METHOD.trained_part(start, t)
        assert manifest(sent) == sketch_rounds.sent_shapes(SHAPES, RANK, SHAPE_RULES, t)
        numbers = sum(v.numel() for h in sent.halves.values() for v in [h.value])
        numbers += sum(v.numel() for v in [*sent.cores.values(), *sent.dense.values()])
        assert numbers == sketch_rounds.trained_numbers(SHAPES, RANK, 10, t)
        state = METHOD.reduce(state, [ClientUpdate(client_id="a", weight=1.0, state=sent)]).state


def test_bases_are_orthonormal_and_stay_while_cores_are_averaged(gradients):
    ready = after_sketches(gradients, [1.0, 3.0])
    for pair in ready.lora.values():
        torch.testing.assert_close(pair.B.T @ pair.B, torch.eye(RANK), atol=1e-5, rtol=0)
        torch.testing.assert_close(pair.A @ pair.A.T, torch.eye(RANK), atol=1e-5, rtol=0)
    updates = [
        ClientUpdate(
            client_id=name,
            weight=1.0,
            state=AdapterState(cores={k: torch.full((RANK, RANK), x) for k in SHAPES}, dense=HEADS),
        )
        for name, x in (("a", 1.0), ("b", 3.0))
    ]
    made = METHOD.reduce(ready, updates)
    assert all(torch.equal(core, torch.full((RANK, RANK), 2.0)) for core in made.state.cores.values())
    assert all(torch.equal(made.state.lora[k].B, ready.lora[k].B) for k in SHAPES)
    assert all(torch.equal(made.state.lora[k].A, ready.lora[k].A) for k in SHAPES)


def test_a_layer_without_any_gradient_gets_bases_all_the_same(gradients):
    """A client's guard refuses it before; a robust rule may still leave it."""
    nothing = [{"q": gradients[0]["q"], "v": torch.zeros(SHAPES["v"], dtype=torch.float64)}]
    pair = after_sketches(nothing, [1.0]).lora["v"]
    torch.testing.assert_close(pair.B.T @ pair.B, torch.eye(RANK), atol=1e-5, rtol=0)
    torch.testing.assert_close(pair.A @ pair.A.T, torch.eye(RANK), atol=1e-5, rtol=0)


def test_sketches_are_no_wider_than_a_layer():
    assert sketch_rounds.sketch_columns({"x": (5, 40), "y": (30, 30)}, 3) == 5
    assert sketch_rounds.sketch_columns(SHAPES, RANK) == 11
    with pytest.raises(ValueError, match="exceeds the smaller side"):
        METHOD.initial_state({"x": (2, 40)}, lora_rank=3, scale=1.0, dense={}, seed=0)


def half(side, *shape):
    return {k: HalfPair(side=side, value=torch.ones(shape), scale=SCALE) for k in SHAPES}


@pytest.mark.parametrize(
    "sent",
    [
        AdapterState(halves=half("A", 11, 20)),
        AdapterState(cores={k: torch.eye(RANK) for k in SHAPES}),
        AdapterState(halves=half("B", 30, 11), dense=HEADS),
    ],
)
def test_an_update_of_another_round_is_not_averaged(sent):
    with pytest.raises(ValueError, match="sent no sketch of B"):
        METHOD.reduce(first(), [ClientUpdate(client_id="a", weight=1.0, state=sent)])


def test_a_sketch_of_other_layers_than_the_rounds_is_not_averaged(gradients):
    start = started(first())
    state = METHOD.reduce(
        first(), [ClientUpdate(client_id="a", weight=1.0, state=sketch_of(start, gradients[0], 0))]
    ).state
    odd = AdapterState(halves={"q": HalfPair(side="A", value=torch.ones(11, 20), scale=SCALE)})
    with pytest.raises(ValueError, match="other layers"):
        METHOD.reduce(state, [ClientUpdate(client_id="a", weight=1.0, state=odd)])


def test_what_people_read_of_clipping_tells_of_the_sketch_rounds():
    method = {"name": "fed-sb", "basis": "gradient_sketch", "train_adapter": True}
    assert sketch_rounds.clipping_words(3.0, method) == "3 (1e-06 in the 2 rounds that sketch gradients)"
    assert sketch_rounds.clipping_words("not stated", {"basis": "svd"}) == "not stated"
    assert sketch_rounds.clipping_words(0.5, None) == "0.5"
    assert sketch_rounds.clipping_words(0.5, method | {"train_adapter": False}) == "0.5"
