"""An adapter goes on a base model and comes off without a trace."""

import pytest
import torch

from aggregation.adapter import AdapterState, FactorPair
from aggregation.methods import get_method
from client.adapters import attach, detach, fed_sb_bases, read_state
from client.base import KEPT_BASES, LoadedBase
from motet.modeling import initial_dense, layer_shapes, load_base


def random_state(recipe, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = layer_shapes(recipe)
    dense = {k: torch.randn(v.shape, generator=generator) for k, v in initial_dense(recipe).items()}
    if recipe.method.name == "fed-sb":
        return AdapterState(cores={n: torch.randn(4, 4, generator=generator) for n in shapes}, dense=dense)
    lora = {
        n: FactorPair(
            B=torch.randn(m, 4, generator=generator), A=torch.randn(4, k, generator=generator), scale=2.0
        )
        for n, (m, k) in shapes.items()
    }
    base = (
        {n: FactorPair(B=p.B * 0.1, A=p.A * 0.1) for n, p in lora.items()}
        if recipe.method.name == "flora"
        else {}
    )
    return AdapterState(lora=lora, base_delta=base, dense=dense)


def logits(model):
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize("method", ["flora", "fed-sb"])
def test_detach_restores_every_bit_of_the_base(recipe_of, kind, method):
    recipe = recipe_of(kind, method)
    model = load_base(recipe)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    plain = logits(model)
    state = random_state(recipe)
    bases = fed_sb_bases(model, recipe, 4) if state.cores else None
    attached = attach(model, recipe, state, bases=bases, scale=2.0)
    assert not torch.allclose(logits(model), plain)  # positive control: it was on
    detach(attached)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert torch.equal(logits(model), plain)
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize("method", ["flora", "fed-sb", "fedit"])
def test_an_attached_adapter_adds_exactly_its_product(recipe_of, kind, method):
    recipe = recipe_of(kind, method)
    model, reference = load_base(recipe), load_base(recipe)
    state = random_state(recipe)
    bases = fed_sb_bases(model, recipe, 4) if state.cores else None
    attach(model, recipe, state, bases=bases, scale=2.0)
    parameters = dict(reference.named_parameters())
    product = get_method(method).product(state, bases=bases, scale=2.0)
    pairs = [*product.items(), *(state.lora.items() if method == "flora" else [])]
    for layer, pair in pairs:
        delta = pair.scale * (pair.B.double() @ pair.A.double())
        weight = parameters[f"{layer}.weight"]
        weight.data.add_((delta.T if kind == "gpt2" else delta).float())
    for name, value in state.dense.items():
        parameters[name].data.copy_(value)
    torch.testing.assert_close(logits(model), logits(reference), rtol=1e-4, atol=1e-4)


def test_what_was_attached_is_read_back(recipe_of):
    recipe = recipe_of("bert", "fedit")
    state = random_state(recipe)
    back = read_state(attach(load_base(recipe), recipe, state))
    assert all(
        torch.equal(back.lora[k].A, p.A) and torch.equal(back.lora[k].B, p.B) for k, p in state.lora.items()
    )
    assert all(torch.equal(back.dense[k], v) for k, v in state.dense.items())


@pytest.mark.parametrize(("method", "trained"), [("fedit", "lora_"), ("fed-sb", "core.weight")])
def test_only_the_adapter_and_the_head_train(recipe_of, method, trained):
    recipe = recipe_of("bert", method)
    model = load_base(recipe)
    state = random_state(recipe)
    attached = attach(model, recipe, state, bases=fed_sb_bases(model, recipe, 4) if state.cores else None)
    assert all(trained in n or n.startswith("head.") for n in attached.trainable())
    assert sum(trained in n for n in attached.trainable()) == len(layer_shapes(recipe)) * (
        2 if method == "fedit" else 1
    )


def test_bases_of_many_runs_do_not_pile_up_in_a_client_that_lives_long(recipe_of):
    recipe = recipe_of(method="fed-sb")
    base = LoadedBase(model=load_base(recipe), tokenizer=None)
    with base.lock:
        first = base.bases_of(recipe, 2)
        assert base.bases_of(recipe, 2) is first
        for seed in range(10, 20):
            base.bases_of(recipe.model_copy(update={"seed": seed}), 2)
        assert len(base.bases) == KEPT_BASES
        again = base.bases_of(recipe, 2)
    assert again is not first
    assert all(torch.equal(again[k][i], first[k][i]) for k in first for i in (0, 1))
