"""Turn an ONNX file that holds a DINOv2 backbone into an ordinary Hugging Face folder: float32 safetensors, config.

The file keeps biases and norms under the published names; weights of linear layers lost theirs when the graph was
written. Each is found by the bias that is added to its product.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from motet.materials.errors import MaterialError
from motet.materials.onnx import OnnxFile

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_PREFIX = "backbone."
_CONFIG: dict[str, Any] = {
    "architectures": ["Dinov2Model"],
    "model_type": "dinov2",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "patch_size": 14,
    "image_size": 518,
    "num_channels": 3,
    "layer_norm_eps": 1e-6,
    "layerscale_value": 1.0,
    "qkv_bias": True,
    "hidden_act": "gelu",
    "dtype": "float32",
}


def convert(onnx: Path, folder: Path, config: dict[str, Any] | None = None) -> None:
    """Write config.json and model.safetensors to ``folder``, under the names of the published checkpoint.

    Args:
      onnx: the graph.
      folder: is made; must not exist.
      config: of a DINOv2 model; that of DINOv2-small when absent.

    Raises:
      MaterialError: the file is damaged, or its weights are not those that ``config`` implies.
    """
    from safetensors.numpy import save_file

    config = config or _CONFIG
    weights = backbone_weights(OnnxFile(onnx), config)
    wanted = expected_shapes(config)
    odd = sorted(set(wanted) ^ set(weights)) or sorted(n for n, w in weights.items() if w.shape != wanted[n])
    if odd:
        raise MaterialError(
            f"{onnx.name}: {odd[0]} is not what a DINOv2 of this size has; it can not be converted"
        )
    bad = sorted(name for name, values in weights.items() if not np.isfinite(values).all())
    if bad:
        raise MaterialError(f"{onnx.name}: weight {bad[0]} holds a value that is not finite")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def expected_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name to shape of every weight that the configuration implies."""
    hidden, patch = config["hidden_size"], config["patch_size"]
    wide, positions = hidden * config["mlp_ratio"], (config["image_size"] // patch) ** 2
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, hidden),
        "embeddings.mask_token": (1, hidden),
        "embeddings.position_embeddings": (1, 1 + positions, hidden),
        "embeddings.patch_embeddings.projection.weight": (hidden, config["num_channels"], patch, patch),
        "embeddings.patch_embeddings.projection.bias": (hidden,),
        "layernorm.weight": (hidden,),
        "layernorm.bias": (hidden,),
    }
    linear = {f"attention.attention.{name}": (hidden, hidden) for name in ("query", "key", "value")}
    linear |= {
        "attention.output.dense": (hidden, hidden),
        "mlp.fc1": (wide, hidden),
        "mlp.fc2": (hidden, wide),
    }
    for index in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{index}."
        for name, shape in linear.items():
            shapes |= {f"{layer}{name}.weight": shape, f"{layer}{name}.bias": shape[:1]}
        for norm in ("norm1", "norm2"):
            shapes |= {f"{layer}{norm}.weight": (hidden,), f"{layer}{norm}.bias": (hidden,)}
        shapes |= {f"{layer}layer_scale{i}.lambda1": (hidden,) for i in (1, 2)}
    return shapes


def backbone_weights(source: OnnxFile, config: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    """Published name to values, of everything in the graph that belongs to the backbone.

    The mask token is used in pre-training alone and no longer in the file: zeros.

    Raises:
      MaterialError: the class token or the grid of positions is not there exactly once.
    """
    weights = {
        name.removeprefix(_PREFIX): source.read(name) for name in source.shapes if name.startswith(_PREFIX)
    }
    products = {
        output: node for node in source.nodes if node.operation == "MatMul" for output in node.outputs
    }
    for node in source.nodes:
        if node.operation != "Add":
            continue
        biases = [n for n in node.inputs if n.startswith(_PREFIX) and n.endswith(".bias")]
        stored = [n for i in node.inputs if i in products for n in products[i].inputs if n in source.shapes]
        if len(biases) == 1 and len(stored) == 1:
            name = biases[0].removeprefix(_PREFIX).removesuffix("bias") + "weight"
            weights[name] = np.ascontiguousarray(source.read(stored[0]).T)  # x @ W there, W @ x here
    hidden = config["hidden_size"]
    positions = (config["image_size"] // config["patch_size"]) ** 2
    class_token, grid = _only(source, (1, 1, hidden)), _only(source, (1, positions, hidden))
    weights["embeddings.position_embeddings"] = np.concatenate([class_token, grid], axis=1)
    weights["embeddings.mask_token"] = np.zeros((1, hidden), np.float32)
    return weights


def _only(source: OnnxFile, shape: tuple[int, ...]) -> NDArray[np.float32]:
    names = [n for n, s in source.shapes.items() if s == shape and not n.startswith(_PREFIX)]
    if len(names) != 1:
        raise MaterialError(f"the graph holds {len(names)} unnamed tensors of shape {shape}, not one")
    return source.read(names[0])
