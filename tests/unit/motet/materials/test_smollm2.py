"""The GGUF reader and the conversion, on a tiny Llama written here in GGUF's own layout."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from motet.materials import MaterialError, is_fetched, model_path
from motet.materials.gguf import GgufFile
from motet.materials.smollm2 import convert

HEADS, KV_HEADS, HIDDEN, WIDE, LAYERS = 4, 2, 64, 96, 2


def string(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(v):
    if isinstance(v, str):
        return struct.pack("<I", 8) + string(v)
    if isinstance(v, float):
        return struct.pack("<If", 6, v)
    if isinstance(v, list):
        inner = [value(x) for x in v]
        return (
            struct.pack("<I", 9) + inner[0][:4] + struct.pack("<Q", len(v)) + b"".join(x[4:] for x in inner)
        )
    return struct.pack("<II", 4, v)


def write_gguf(path, meta, tensors):
    """tensors: name -> (type number, shape row-major, bytes)."""
    head = struct.pack("<IIQQ", 0x46554747, 3, len(tensors), len(meta))
    head += b"".join(string(k) + value(v) for k, v in meta.items())
    offset, body = 0, b""
    for name, (kind, shape, raw) in tensors.items():
        head += string(name) + struct.pack("<I", len(shape))
        head += b"".join(struct.pack("<Q", d) for d in reversed(shape)) + struct.pack("<IQ", kind, offset)
        raw += b"\0" * (-len(raw) % 32)
        body, offset = body + raw, offset + len(raw)
    path.write_bytes(head + b"\0" * (-len(head) % 32) + body)
    return path


def interleave(weight, heads):
    """The row order that llama.cpp's converter writes for q and k."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    config = LlamaConfig(
        vocab_size=len(alphabet) + 4,
        hidden_size=HIDDEN,
        intermediate_size=WIDE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    return model, ["<unk>", "<s>", "</s>", *alphabet, "he"]


def gguf_of(llama, path, **changes):
    model, tokens = llama
    meta = {
        "general.architecture": "llama",
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": WIDE,
        "llama.block_count": LAYERS,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "llama.context_length": 128,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(tokens) - 3),
        "tokenizer.ggml.merges": ["h e"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    } | changes
    short = {
        "q_proj": "attn_q",
        "k_proj": "attn_k",
        "v_proj": "attn_v",
        "o_proj": "attn_output",
        "gate_proj": "ffn_gate",
        "up_proj": "ffn_up",
        "down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    tensors = {}
    for name, tensor in model.state_dict().items():
        weight, parts = tensor.numpy(), name.split(".")
        if name == "lm_head.weight":
            continue
        if parts[1] == "layers":
            kind = short[parts[-2]]
            if kind in ("attn_q", "attn_k"):
                weight = interleave(weight, HEADS if kind == "attn_q" else KV_HEADS)
            name = f"blk.{parts[2]}.{kind}.weight"
        else:
            name = {"embed_tokens": "token_embd", "norm": "output_norm"}[parts[1]] + ".weight"
        tensors[name] = (0, weight.shape, np.ascontiguousarray(weight, "<f4").tobytes())
    return write_gguf(path, meta, tensors)


def test_the_converted_model_computes_what_the_original_computes(llama, tmp_path):
    convert(gguf_of(llama, tmp_path / "m.gguf"), tmp_path / "hf")
    loaded, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "hf", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(ids).logits, llama[0](ids).logits)
    assert (tmp_path / "hf/model.safetensors").stat().st_size < 2.2 * loaded.num_parameters() + 4096


def test_without_undoing_the_rotary_order_the_outputs_differ(llama, tmp_path, monkeypatch):
    monkeypatch.setattr("motet.materials.smollm2.undo_rotary_permutation", lambda weight, _heads: weight)
    convert(gguf_of(llama, tmp_path / "m.gguf"), tmp_path / "hf")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        assert not torch.allclose(loaded(ids).logits, llama[0](ids).logits, atol=1e-4)


def test_the_converted_tokenizer_gives_texts_back(llama, tmp_path):
    convert(gguf_of(llama, tmp_path / "m.gguf"), tmp_path / "hf")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    text = "the 12 caf\u00e9s\n"
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    assert llama[1].index("he") in ids  # the merge was applied
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)


def test_quantised_blocks_are_read_as_their_formulas_say(tmp_path):
    rng = np.random.default_rng(0)
    half = lambda x: struct.pack("<e", x)  # noqa: E731
    tensors, expected = {}, {}
    for name, kind in (("q4_0", 2), ("q4_1", 3), ("q8_0", 8)):
        raw, values = b"", []
        for _ in range(4):
            d, m = np.float16(rng.normal()), np.float16(rng.normal())
            if kind == 8:
                q = rng.integers(-128, 128, 32)
                raw += half(d) + q.astype("i1").tobytes()
                values += [float(d) * int(x) for x in q]
                continue
            q = rng.integers(0, 16, 32)
            packed = bytes(int(q[i]) | int(q[i + 16]) << 4 for i in range(16))
            raw += half(d) + (half(m) if kind == 3 else b"") + packed
            values += [float(d) * int(x) + float(m) if kind == 3 else float(d) * (int(x) - 8) for x in q]
        tensors[name], expected[name] = (kind, (2, 64), raw), np.array(values).reshape(2, 64)
    tensors["f16"] = (1, (3,), np.array([1, -2, 0.5], "<f2").tobytes())
    source = GgufFile(write_gguf(tmp_path / "t.gguf", {"a": "b"}, tensors))
    for name, want in expected.items():
        np.testing.assert_allclose(source.read(name), want, rtol=1e-6, atol=1e-6)
    assert source.read("f16").tolist() == [1, -2, 0.5]
    assert source.read("q4_0").dtype == np.float32


@pytest.mark.parametrize("size", [3, 30, 200, -40])
def test_a_file_that_is_cut_short_is_refused(llama, tmp_path, size):
    path = gguf_of(llama, tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(MaterialError, match="cut short"):
        convert(path, tmp_path / "hf")


def test_another_architecture_a_missing_key_and_foreign_tensors_are_refused(llama, tmp_path):
    with pytest.raises(MaterialError, match="only llama"):
        convert(gguf_of(llama, tmp_path / "a.gguf", **{"general.architecture": "gpt2"}), tmp_path / "hf")
    with pytest.raises(MaterialError, match="not those of its own configuration"):
        convert(gguf_of(llama, tmp_path / "b.gguf", **{"llama.block_count": 3}), tmp_path / "hf")
    meta = {"general.architecture": "llama", "tokenizer.ggml.tokens": ["a"]}
    with pytest.raises(MaterialError, match="lacks 'llama"):
        convert(write_gguf(tmp_path / "c.gguf", meta, {}), tmp_path / "hf")
    (tmp_path / "d.gguf").write_bytes(b"\0" * 64)
    with pytest.raises(MaterialError, match="not a GGUF file"):
        convert(tmp_path / "d.gguf", tmp_path / "hf")


def test_a_weight_that_float16_can_not_hold_is_refused(llama, tmp_path):
    model, tokens = llama
    broken = LlamaForCausalLM(model.config)
    broken.load_state_dict(model.state_dict())
    broken.model.norm.weight.data[0] = 1e6
    with pytest.raises(MaterialError, match="float16 can not hold"):
        convert(gguf_of((broken, tokens), tmp_path / "m.gguf"), tmp_path / "hf")


@pytest.mark.slow
@pytest.mark.materials
def test_the_real_model_knows_the_capital_of_france():
    if not is_fetched("smollm2"):
        pytest.skip("motet materials fetch smollm2")
    tokenizer = AutoTokenizer.from_pretrained(model_path("smollm2"))
    model = AutoModelForCausalLM.from_pretrained(model_path("smollm2"), dtype=torch.float32)
    assert 130e6 < model.num_parameters() < 140e6
    out = model.generate(
        **tokenizer("The capital of France is", return_tensors="pt"), max_new_tokens=2, do_sample=False
    )
    assert "Paris" in tokenizer.decode(out[0])
