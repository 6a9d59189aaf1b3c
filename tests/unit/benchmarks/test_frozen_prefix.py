"""What a benchmark keeps of the frozen layers changes no value, in the forward pass or in the gradients."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, Dinov2Config, Dinov2Model, LlamaConfig, LlamaModel

PATH = Path(__file__).resolve().parents[3] / "benchmarks" / "frozen_prefix.py"
SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def prefix_class():
    spec = importlib.util.spec_from_file_location("frozen_prefix_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FrozenPrefix


def texts():
    ids = torch.randint(5, 40, (6, 9), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(9)[None] < torch.tensor([9, 4, 7, 1, 9, 5])[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def model_of(kind):
    torch.manual_seed(0)
    if kind == "dinov2":
        model = Dinov2Model(Dinov2Config(**SMALL, mlp_ratio=2, patch_size=4, image_size=16))
        return model.eval(), model.encoder.layer, {"pixel_values": torch.randn(6, 3, 8, 8)}
    sizes = {"vocab_size": 50, "intermediate_size": 32, "max_position_embeddings": 16}
    if kind == "llama":
        model = LlamaModel(LlamaConfig(**SMALL, **sizes))
        return model.eval(), model.layers, texts()
    model = BertModel(BertConfig(**SMALL, **sizes), add_pooling_layer=False)
    return model.eval(), model.encoder.layer, texts()


def loss_and_gradients(model, layers, inputs, rows):
    chosen = {k: v[rows] for k, v in inputs.items()}
    trained = [p for layer in layers[2:] for p in layer.parameters()]
    hidden = model(**chosen).last_hidden_state
    if "attention_mask" in chosen:
        hidden = hidden * chosen["attention_mask"][..., None]
    loss = hidden.square().mean()
    return [loss, *torch.autograd.grad(loss, trained)]


@pytest.mark.parametrize("kind", ["bert", "llama", "dinov2"])
def test_kept_rows_give_the_whole_models_loss_and_gradients(prefix_class, kind):
    model, layers, inputs = model_of(kind)
    model.requires_grad_(False)
    layers[2].requires_grad_(True)
    plain = copy.deepcopy(model)
    plain_layers = plain.layers if kind == "llama" else plain.encoder.layer
    prefix_class(model, layers, 2)
    for rows in ([0, 1], [1, 2, 3], [0, 1, 2, 3, 4, 5], [5, 0, 3]):
        ours = loss_and_gradients(model, layers, inputs, rows)
        theirs = loss_and_gradients(plain, plain_layers, inputs, rows)
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)
    assert loss_and_gradients(model, layers, inputs, [0, 2])[0] != ours[0]  # rows are told apart


def test_layers_below_really_do_nothing_once_rows_are_kept(prefix_class):
    model, layers, inputs = model_of("bert")
    prefix_class(model, layers, 2)
    with torch.no_grad():
        before = model(**inputs).last_hidden_state
        layers[0].attention.self.query.weight.zero_()  # would be seen if the layer still ran
        assert torch.equal(model(**inputs).last_hidden_state, before)
        layers[2].attention.self.value.weight.zero_()
        assert not torch.equal(model(**inputs).last_hidden_state, before)
