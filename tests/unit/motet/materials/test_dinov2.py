"""The ONNX reader and the conversion, on a tiny DINOv2 written here in protobuf's own layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from motet.materials import MaterialError, is_fetched, model_path
from motet.materials.dinov2 import convert, expected_shapes
from motet.materials.onnx import OnnxFile

CONFIG = {
    "architectures": ["Dinov2Model"],
    "model_type": "dinov2",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_ratio": 2,
    "patch_size": 4,
    "image_size": 12,
    "num_channels": 3,
    "layer_norm_eps": 1e-6,
    "layerscale_value": 1.0,
    "qkv_bias": True,
    "hidden_act": "gelu",
}


def varint(number):
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name, values, *, packed=True, raw=True, kind=1):
    dims = b"".join(varint(d) for d in values.shape)
    shape = field(1, dims) if packed else b"".join(field(1, d) for d in values.shape)
    return shape + field(2, kind) + field(9 if raw else 4, values.astype("<f4").tobytes()) + field(8, name)


def node(operation, inputs, output):
    return b"".join(field(1, i) for i in inputs) + field(2, output) + field(4, operation)


def published(model):
    """The state of a model under the names of the published checkpoint."""
    renames = {"attention.o_proj": "attention.output.dense"}
    renames |= {
        f"attention.{short}_proj": f"attention.attention.{long}"
        for short, long in (("q", "query"), ("k", "key"), ("v", "value"))
    }
    state = {}
    for name, value in model.state_dict().items():
        for ours, theirs in renames.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
        state[name] = value.numpy()
    return state


def graph_of(state):
    """As an exporter writes it: linear weights transposed and nameless, positions split in two, no mask token."""
    body, nodes = [], []
    linear = [
        n.removesuffix(".bias")
        for n in state
        if n.endswith(".bias") and n[:-4] + "weight" in state and state[n[:-4] + "weight"].ndim == 2
    ]
    for number, (name, values) in enumerate(sorted(state.items())):
        layer, _, leaf = name.rpartition(".")
        if name == "embeddings.mask_token":
            continue
        if name == "embeddings.position_embeddings":
            body.append(tensor("onnx::class", values[:, :1], packed=False))
            body.append(tensor("onnx::grid", values[:, 1:], raw=False))
        elif layer in linear and leaf == "weight":
            body.append(tensor(f"onnx::{number}", values.T))
            nodes.append(node("MatMul", [f"x{number}", f"onnx::{number}"], f"y{number}"))
            nodes.append(node("Add", [f"backbone.{layer}.bias", f"y{number}"], f"z{number}"))
        else:
            body.append(tensor(f"backbone.{name}", values))
    body.append(tensor("decoder.weight", np.ones((2, 2), np.float32)))
    body.append(tensor("backbone.counts", np.ones(2), kind=7))
    return b"".join(field(1, n) for n in nodes) + b"".join(field(5, t) for t in body)


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(**CONFIG)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.2)
        model.embeddings.mask_token.zero_()
    return model


def write(path, graph):
    path.write_bytes(field(1, 8) + varint(9 << 3 | 5) + b"\0\0\0\0" + field(7, graph))  # another field first
    return path


def test_the_converted_folder_gives_the_models_own_features(tiny, tmp_path):
    state = published(tiny)
    assert {n: v.shape for n, v in state.items()} == expected_shapes(CONFIG)
    convert(write(tmp_path / "m.onnx", graph_of(state)), tmp_path / "hf", CONFIG)
    loaded, told = Dinov2Model.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        ours, theirs = loaded.eval()(x).last_hidden_state, tiny(x).last_hidden_state
    assert torch.equal(ours, theirs)


def test_a_weight_that_was_not_transposed_back_would_be_seen(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("motet.materials.dinov2.np.ascontiguousarray", lambda x: np.array(x.T))
    with pytest.raises(MaterialError, match="is not what a DINOv2 of this size has"):
        convert(write(tmp_path / "m.onnx", graph_of(published(tiny))), tmp_path / "hf", CONFIG)


def test_another_graph_is_refused(tiny, tmp_path):
    state = published(tiny)
    graph = graph_of({n: v for n, v in state.items() if "layer.1.norm1.bias" not in n})
    with pytest.raises(MaterialError, match=r"encoder.layer.1.norm1.bias is not what"):
        convert(write(tmp_path / "m.onnx", graph), tmp_path / "hf", CONFIG)
    state["layernorm.weight"] = state["layernorm.weight"] * np.nan
    with pytest.raises(MaterialError, match=r"layernorm.weight holds a value that is not finite"):
        convert(write(tmp_path / "m.onnx", graph_of(state)), tmp_path / "hf", CONFIG)
    with pytest.raises(MaterialError, match="holds no ONNX graph"):
        OnnxFile(_empty(tmp_path))
    assert not (tmp_path / "hf").exists()


def _empty(tmp_path):
    path = tmp_path / "empty.onnx"
    path.write_bytes(b"")
    return path


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_refused(tiny, tmp_path, share):
    path = write(tmp_path / "m.onnx", graph_of(published(tiny)))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(MaterialError, match="cut short"):
        OnnxFile(path)


def test_bytes_that_are_no_protobuf_are_refused(tmp_path):
    for data, words in (
        (b"\x0f\x00", "wire type 7"),
        (b"\xff" * 11, "more than ten bytes"),
        (b"\x80", "cut short"),
    ):
        (tmp_path / "m.onnx").write_bytes(data)
        with pytest.raises(MaterialError, match=words):
            OnnxFile(tmp_path / "m.onnx")


def test_a_tensor_whose_shape_says_more_than_it_holds_is_refused(tmp_path):
    lying = field(1, varint(9)) + field(2, 1) + field(9, b"\0" * 8) + field(8, "w")
    source = OnnxFile(write(tmp_path / "m.onnx", field(5, lying)))
    with pytest.raises(MaterialError, match="has 8 bytes"):
        source.read("w")


@pytest.mark.materials
def test_the_real_backbone_loads_whole():
    if not is_fetched("dinov2-small"):
        pytest.skip("motet materials fetch dinov2-small")
    model, told = Dinov2Model.from_pretrained(model_path("dinov2-small"), output_loading_info=True)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert sum(p.numel() for p in model.parameters()) == 22_056_576
