"""Turn the SmolLM2 GGUF file into an ordinary Hugging Face folder: float16 safetensors, config, tokenizer.

One tensor is in memory at a time. The weights were quantised to 4 bits by their publisher; float16 holds the
dequantised values.
"""

from __future__ import annotations

import json
import math
import re
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from motet.materials.errors import MaterialError
from motet.materials.gguf import GgufFile

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_LAYER_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_CONTROL_TOKEN = 3
_FLOAT16_LIMIT = 65504.0


def convert(gguf: Path, folder: Path) -> None:
    """Write config.json, model.safetensors, tokenizer.json and tokenizer_config.json to ``folder``.

    Args:
      gguf: a GGUF file of the Llama architecture with a byte-level BPE tokenizer.
      folder: is made; must not exist.

    Raises:
      MaterialError: the file is of another architecture, damaged, or holds a value that float16 can not.
    """
    source = GgufFile(gguf)
    config = model_config(source)
    folder.mkdir(parents=True)
    _write_json(folder / "config.json", config)
    write_weights(source, config, folder / "model.safetensors")
    write_tokenizer(source, folder)
    check_folder(folder, config)


def model_config(source: GgufFile) -> dict[str, Any]:
    """The ``config.json`` of a Llama model, from GGUF metadata.

    Raises:
      MaterialError: another architecture, or a missing key.
    """
    meta = source.metadata
    if meta.get("general.architecture") != "llama":
        raise MaterialError(
            f"GGUF architecture {meta.get('general.architecture')!r} can not be converted; only llama"
        )
    try:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": len(meta["tokenizer.ggml.tokens"]),
            "hidden_size": meta["llama.embedding_length"],
            "intermediate_size": meta["llama.feed_forward_length"],
            "num_hidden_layers": meta["llama.block_count"],
            "num_attention_heads": meta["llama.attention.head_count"],
            "num_key_value_heads": meta["llama.attention.head_count_kv"],
            "rms_norm_eps": meta["llama.attention.layer_norm_rms_epsilon"],
            "rope_parameters": {"rope_type": "default", "rope_theta": meta["llama.rope.freq_base"]},
            "max_position_embeddings": meta["llama.context_length"],
            "tie_word_embeddings": "output.weight" not in source.tensors,
            "hidden_act": "silu",
            "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
            "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
            "pad_token_id": meta["tokenizer.ggml.eos_token_id"],
            "dtype": "float16",
        }
    except KeyError as error:
        raise MaterialError(f"GGUF metadata lacks {error}") from error


def expected_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name to shape of every weight that the configuration implies."""
    hidden, wide, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, hidden),
        "model.norm.weight": (hidden,),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, hidden)
    layer = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (wide, hidden),
        "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    for index in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{index}.{name}.weight": shape for name, shape in layer.items()}
    return shapes


def _published_name(name: str) -> str | None:
    if name in _TOP_NAMES:
        return _TOP_NAMES[name]
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if match is None or match[2] not in _LAYER_NAMES:
        return None
    return f"model.layers.{match[1]}.{_LAYER_NAMES[match[2]]}.weight"


def undo_rotary_permutation(weight: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Put the rows of q or k in Hugging Face order: GGUF interleaves the two rotary halves of each head.

    Args:
      weight: (num_heads * head_dim, hidden).
      num_heads: query heads for q, key-value heads for k.

    Returns:
      Same shape, rows in Hugging Face order.
    """
    rows, hidden = weight.shape
    pairs = weight.reshape(num_heads, rows // num_heads // 2, 2, hidden)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows, hidden)


def write_weights(source: GgufFile, config: dict[str, Any], path: Path) -> None:
    """Stream all tensors to one float16 safetensors file.

    Raises:
      MaterialError: names or shapes differ from what ``config`` implies, or a value is not finite in float16.
    """
    shapes = expected_shapes(config)
    stored = {_published_name(name): name for name in source.tensors}
    odd = sorted(source.tensors[stored[n]].shape != shapes[n] for n in shapes if n in stored)
    if set(stored) != set(shapes) or any(odd):
        raise MaterialError(
            "the GGUF file's tensors are not those of its own configuration; it can not be converted"
        )
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in sorted(shapes):
        size = 2 * math.prod(shapes[name])
        header[name] = {"dtype": "F16", "shape": list(shapes[name]), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(shapes):
            values = source.read(stored[name])
            if not np.isfinite(values).all() or np.abs(values).max() > _FLOAT16_LIMIT:
                raise MaterialError(f"weight {name!r} holds a value that float16 can not hold")
            num_heads = heads.get(name.split(".")[-2])
            if num_heads is not None:
                values = undo_rotary_permutation(values, num_heads)
            stream.write(values.astype("<f2").tobytes())


def write_tokenizer(source: GgufFile, folder: Path) -> None:
    """Write the byte-level BPE tokenizer of the SmolLM family (digits stand alone)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    meta = source.metadata
    tokens, kinds = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ", 1)) for merge in meta["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(folder / "tokenizer.json"))
    eos = tokens[meta["tokenizer.ggml.eos_token_id"]]
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[meta["tokenizer.ggml.bos_token_id"]],
        "eos_token": eos,
        "pad_token": eos,
        "unk_token": tokens[0],
        "model_max_length": meta["llama.context_length"],
        "clean_up_tokenization_spaces": False,
    }
    if "tokenizer.chat_template" in meta:
        settings["chat_template"] = meta["tokenizer.chat_template"]
    _write_json(folder / "tokenizer_config.json", settings)


def check_folder(folder: Path, config: dict[str, Any]) -> None:
    """Read the written weights back with the safetensors library.

    Raises:
      MaterialError: a name or shape is not the expected one.
    """
    from safetensors import safe_open

    with safe_open(str(folder / "model.safetensors"), framework="np") as weights:
        found = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    if found != expected_shapes(config):
        raise MaterialError(
            f"{folder / 'model.safetensors'}: the converted weights do not read back as written"
        )


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", "utf-8")
