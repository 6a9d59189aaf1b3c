"""``motet merge`` on folders that plain peft wrote, against dense float64 sums and peft's own reader."""

import json

import pytest
import torch
from peft import PeftModel
from peft_folders import base_model, delta_weights, edit_config, logits, make_adapter
from safetensors.torch import load_file, save_file

from motet.folders import InputAsOutputError, OutputFolderError
from motet.merging import MergeOptions, MergeRefusedError, merge_adapters
from motet.peft_config import AdapterFolderError
from motet.peft_folder import open_adapter

WEIGHTS = [3.0, 2.0, 1.0]
EXACT = ["flora", "product"]


def merge(paths, out, method="flora", weights=WEIGHTS, **options):
    return merge_adapters(paths, out, MergeOptions(method=method, weights=weights, **options))


def weighted(tables, weights=WEIGHTS):
    total = sum(weights)
    return {k: sum(w / total * t[k] for w, t in zip(weights, tables, strict=True)) for k in tables[0]}


def far(got, wanted):
    """Relative distance over all tensors as one vector."""
    assert got.keys() == wanted.keys()
    miss = sum(float((got[k] - wanted[k]).square().sum()) for k in wanted)
    return (miss / sum(float(w.square().sum()) for w in wanted.values())) ** 0.5


VARIANTS = {
    "bert": [
        {"r": 2, "lora_alpha": 4},
        {"r": 5, "lora_alpha": 7, "use_rslora": True},
        {"r": 3, "lora_alpha": 9, "rank_pattern": {"query": 6}, "alpha_pattern": {"layer.0.output.dense": 1}},
    ],
    "llama": [
        {"r": 1, "lora_alpha": 2},
        {"r": 8, "lora_alpha": 3, "rank_pattern": {r"layers.\d.self_attn.q_proj": 2}},
        {"r": 4, "use_rslora": True, "alpha_pattern": {"^model.layers.1.mlp.down_proj": 5}},
    ],
    "gpt2": [
        {"r": 2, "fan_in_fan_out": True},
        {"r": 3, "fan_in_fan_out": True, "use_rslora": True},
        {"r": 30, "lora_alpha": 1, "fan_in_fan_out": True},
    ],
}


@pytest.fixture(scope="module", params=list(VARIANTS))
def mixed(request, tmp_path_factory):
    """Three adapters of one family that differ in rank, alpha, rsLoRA and patterns, with peft's own deltas."""
    folder = tmp_path_factory.mktemp(request.param)
    paths = [
        make_adapter(folder / f"a{k}", request.param, seed=k + 1, **options)
        for k, options in enumerate(VARIANTS[request.param])
    ]
    return request.param, paths, [delta_weights(path, request.param) for path in paths]


@pytest.mark.parametrize("method", EXACT)
def test_an_exact_method_gives_the_dense_weighted_sum_for_any_ranks_and_scales(mixed, method, tmp_path):
    family, paths, known = mixed
    report = merge(paths, tmp_path / "out", method)
    deltas, heads = delta_weights(tmp_path / "out", family)
    assert far(deltas, weighted([d for d, _ in known])) < 2e-6
    if known[0][1]:
        assert far(heads, weighted([h for _, h in known])) < 1e-6
    assert report["relative_error"] < 2e-6
    assert report["discarded_energy"] == 0
    # positive control: other weights are another adapter
    assert far(deltas, weighted([d for d, _ in known], [1.0, 2.0, 3.0])) > 0.1


def test_the_merged_model_answers_as_the_base_with_the_dense_sum_added(mixed, tmp_path):
    family, paths, known = mixed
    merge(paths, tmp_path / "out")
    model = base_model(family).double()
    parameters = dict(model.named_parameters())
    before = logits(model)
    with torch.no_grad():
        for layer, delta in weighted([d for d, _ in known]).items():
            parameters[f"{layer}.weight"].add_(delta.T if family == "gpt2" else delta)
        for name, value in weighted([h for _, h in known]).items() if known[0][1] else ():
            parameters[name].copy_(value)
    expected = logits(model)
    loaded = logits(PeftModel.from_pretrained(base_model(family), tmp_path / "out"))
    torch.testing.assert_close(loaded, expected, rtol=0, atol=1e-5)
    assert (expected - before).abs().max() > 1e-2  # positive control: the adapters do something


@pytest.mark.parametrize("method", ["flora", "flexlora", "zero-pad", "rank-index", "hetlora", "florist"])
def test_the_report_tells_the_error_and_the_rank_that_the_folder_has(mixed, method, tmp_path):
    family, paths, known = mixed
    report = merge(paths, tmp_path / "out", method)
    deltas, _ = delta_weights(tmp_path / "out", family)
    error = far(deltas, weighted([d for d, _ in known]))
    assert report["relative_error"] == pytest.approx(error, rel=1e-3, abs=2e-6)
    ranks = {
        v.shape[0] for k, v in load_file(tmp_path / "out/adapter_model.safetensors").items() if "lora_A" in k
    }
    assert ranks == {report["lora_rank"]}
    if method in ("zero-pad", "rank-index", "hetlora"):
        assert error > 0.05  # the known bias shows
    stored = json.loads((tmp_path / "out/motet-merge.json").read_text())
    assert stored == report


@pytest.mark.parametrize("lora_rank", [1, 3, 7])
def test_a_rank_limit_cuts_to_the_best_of_that_rank_and_says_what_it_cost(mixed, lora_rank, tmp_path):
    family, paths, known = mixed
    exact = weighted([d for d, _ in known])
    report = merge(paths, tmp_path / "out", lora_rank=lora_rank)
    deltas, _ = delta_weights(tmp_path / "out", family)
    cut = whole = 0.0
    for layer, delta in exact.items():
        squares = torch.linalg.svdvals(delta).square()
        cut, whole = cut + float(squares[lora_rank:].sum()), whole + float(squares.sum())
        best = torch.linalg.svd(delta)
        kept = (best.U[:, :lora_rank] * best.S[:lora_rank]) @ best.Vh[:lora_rank]
        torch.testing.assert_close(deltas[layer], kept, rtol=0, atol=1e-5)
    assert report["lora_rank"] == lora_rank
    assert report["discarded_energy"] == pytest.approx(cut / whole, rel=1e-4)
    assert report["relative_error"] == pytest.approx((cut / whole) ** 0.5, rel=1e-4)


def test_one_rank_and_scale_take_every_mean_of_factors(tmp_path):
    paths = [make_adapter(tmp_path / f"a{k}", "llama", seed=k) for k in range(3)]
    known = [delta_weights(path, "llama")[0] for path in paths]
    errors = {}
    for method in ("fedit", "dp-lora", "lora-fair", "fedex", "flexlora", "flora"):
        report = merge(paths, tmp_path / method, method)
        deltas, _ = delta_weights(tmp_path / method, "llama")
        errors[method] = far(deltas, weighted(known))
        assert report["relative_error"] == pytest.approx(errors[method], rel=1e-3, abs=2e-6)
    assert max(errors["fedex"], errors["flora"]) < 2e-6
    assert errors["flexlora"] <= errors["lora-fair"] < errors["fedit"] == pytest.approx(errors["dp-lora"])


def test_fedit_is_the_mean_of_each_factor(tmp_path):
    paths = [make_adapter(tmp_path / f"a{k}", "llama", seed=k) for k in range(3)]
    merge(paths, tmp_path / "out", "fedit")
    files = [load_file(p / "adapter_model.safetensors") for p in paths]
    out = load_file(tmp_path / "out/adapter_model.safetensors")
    for key, value in out.items():
        mean = sum(w / 6 * f[key].double() for w, f in zip(WEIGHTS, files, strict=True))
        scale = 2.0 if "lora_B" in key else 1.0  # alpha 8 / rank 4 stands in B, beside alpha = r
        torch.testing.assert_close(value.double(), scale * mean, rtol=1e-5, atol=1e-6)


def test_adapters_that_share_a_average_exactly_with_ffa_and_keep_their_rank(tmp_path):
    ranks = [2, 4, 3]
    paths = [
        make_adapter(tmp_path / f"a{k}", "llama", seed=k, share_a=True, r=r, lora_alpha=r + k)
        for k, r in enumerate(ranks)
    ]
    known = [delta_weights(path, "llama")[0] for path in paths]
    report = merge(paths, tmp_path / "out", "ffa")
    assert far(delta_weights(tmp_path / "out", "llama")[0], weighted(known)) < 2e-6
    assert report["lora_rank"] == 4
    other = make_adapter(tmp_path / "other", "llama", seed=9)
    with pytest.raises(MergeRefusedError, match="same A"):
        merge([*paths[:2], other], tmp_path / "no", "ffa")


def test_one_adapter_merges_to_itself(tmp_path):
    path = make_adapter(tmp_path / "a", "bert", r=3, lora_alpha=5)
    merge([path], tmp_path / "out", weights=[0.2])
    for got, wanted in zip(delta_weights(tmp_path / "out", "bert"), delta_weights(path, "bert"), strict=True):
        assert far(got, wanted) < 1e-6


def test_half_precision_and_an_export_of_ours_are_read(tmp_path):
    paths = [make_adapter(tmp_path / f"a{k}", "llama", seed=k) for k in range(2)]
    file = paths[1] / "adapter_model.safetensors"
    save_file({k: v.to(torch.bfloat16) for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    known = [delta_weights(path, "llama")[0] for path in paths]
    merge(paths, tmp_path / "one", weights=[1.0, 1.0])
    assert far(delta_weights(tmp_path / "one", "llama")[0], weighted(known, [1.0, 1.0])) < 2e-6
    merge([tmp_path / "one", paths[0]], tmp_path / "two", weights=[2.0, 1.0])
    exact = weighted([*known, known[0]], [1.0, 1.0, 1.0])
    assert far(delta_weights(tmp_path / "two", "llama")[0], exact) < 2e-6


def test_the_same_folders_give_the_same_bytes(tmp_path):
    paths = [make_adapter(tmp_path / f"a{k}", "llama", seed=k) for k in range(2)]
    for out in ("one", "two"):
        merge(paths, tmp_path / out, "product", weights=[1.0, 1.0])
    for name in ("adapter_model.safetensors", "adapter_config.json", "motet-merge.json", "README.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


# -- what is refused ---------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path):
    return [make_adapter(tmp_path / name, "llama", seed=k) for k, name in enumerate("ab")]


def refused(paths, tmp_path, match, error=AdapterFolderError, code=10, **options):
    """The refusal says what is wrong, has a code of the table, and leaves nothing behind."""
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(error, match=match) as caught:
        merge(paths, tmp_path / "out", weights=options.pop("weights", [1.0] * len(paths)), **options)
    assert caught.value.exit_code == code
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def overwrite(path, change):
    file = path / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def first(tensors, part="lora_A"):
    return next(k for k in sorted(tensors) if part in k)


def test_another_base_is_refused_unless_one_name_is_given(pair, tmp_path):
    edit_config(pair[1], base_model_name_or_path="another")
    refused(pair, tmp_path, "of base another")
    report = merge(pair, tmp_path / "out", weights=[1.0, 1.0], base="the-base")
    assert report["base_model"] == "the-base"
    assert (
        json.loads((tmp_path / "out/adapter_config.json").read_text())["base_model_name_or_path"]
        == "the-base"
    )


def test_another_revision_of_the_base_is_refused(pair, tmp_path):
    edit_config(pair[1], revision="v2")
    refused(pair, tmp_path, "revision v2")


def test_other_targets_are_refused(pair, tmp_path):
    other = make_adapter(tmp_path / "c", "llama", target_modules=["q_proj"])
    refused([pair[0], other], tmp_path, "other layers: model.layers.0.mlp.down_proj")


def test_another_shape_is_refused(pair, tmp_path):
    def grow(tensors):
        key = first(tensors)
        tensors[key] = torch.zeros(tensors[key].shape[0], 99)

    overwrite(pair[1], grow)
    refused(pair, tmp_path, "99")


def test_other_saved_modules_are_refused(tmp_path):
    paths = [
        make_adapter(tmp_path / "a", "bert", target_modules=["query"]),
        make_adapter(tmp_path / "b", "bert", target_modules=["query"], modules_to_save=["pooler"]),
    ]
    refused(paths, tmp_path, "other modules_to_save")


def test_another_task_is_refused(pair, tmp_path):
    edit_config(pair[1], task_type="SEQ_CLS")
    refused(pair, tmp_path, "is for SEQ_CLS")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused(pair, tmp_path, value):
    def spoil(tensors):
        tensors[first(tensors)][0, 0] = value

    overwrite(pair[1], spoil)
    refused(pair, tmp_path, "NaN or infinity")


def test_a_pickle_is_never_opened(pair, tmp_path):
    file = pair[1] / "adapter_model.safetensors"
    torch.save(load_file(file), pair[1] / "adapter_model.bin")
    file.unlink()
    refused(pair, tmp_path, "pickle")


def test_missing_weights_config_and_folder_are_told_apart(pair, tmp_path):
    (pair[0] / "adapter_model.safetensors").unlink()
    refused(pair, tmp_path, "has no adapter_model.safetensors")
    (pair[0] / "adapter_config.json").unlink()
    refused(pair, tmp_path, "has no adapter_config.json")
    refused([pair[1], tmp_path / "nowhere"], tmp_path, "is not a folder", code=2)


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(pair, tmp_path, cut):
    file = pair[1] / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    refused(pair, tmp_path, "truncated or no safetensors")


def test_a_malformed_file_is_refused(pair, tmp_path):
    file = pair[1] / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[9:14] = b"\xff\x00{[["
    file.write_bytes(bytes(data))
    refused(pair, tmp_path, "truncated or no safetensors")
    file.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    refused(pair, tmp_path, "truncated or no safetensors")


@pytest.mark.parametrize(
    ("text", "match"),
    [("{", "not JSON"), ("[]", "not a JSON object"), ("\xff", "not JSON"), ("[" * 100_000, "not JSON")],
)
def test_a_configuration_that_is_no_json_object_is_refused(pair, tmp_path, text, match):
    (pair[1] / "adapter_config.json").write_text(text, encoding="latin-1")
    refused(pair, tmp_path, match)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"peft_type": "IA3"}, "only LORA"),
        ({"peft_type": None}, "only LORA"),
        ({"use_dora": True}, "DoRA"),
        ({"lora_bias": True}, "biases"),
        ({"bias": "all"}, "biases"),
        ({"init_lora_weights": "pissa_niter_4"}, "base that was changed"),
        ({"init_lora_weights": "olora"}, "base that was changed"),
        ({"layer_replication": [[0, 1], [0, 2]]}, "repeats layers"),
        ({"trainable_token_indices": [3]}, "embedding"),
        ({"target_parameters": ["x"]}, "bare parameters"),
        ({"r": 0}, "not a positive whole number"),
        ({"r": "4"}, "not a positive whole number"),
        ({"r": 5}, "says rank 5"),
        ({"lora_alpha": -1}, "not a positive number"),
        ({"lora_alpha": None}, "not a positive number"),
        ({"rank_pattern": {"(a+)+": 2}}, "more than a simple pattern"),
        ({"rank_pattern": {"(": 2}}, "no pattern"),
        ({"rank_pattern": [1]}, "not a table"),
        ({"modules_to_save": "score"}, "not a list"),
        ({"base_model_name_or_path": 3}, "not a text"),
    ],
)
def test_a_configuration_we_do_not_understand_is_refused(pair, tmp_path, changes, match):
    edit_config(pair[1], **changes)
    refused(pair, tmp_path, match)


def test_dora_as_peft_writes_it_is_refused(tmp_path):
    refused([make_adapter(tmp_path / "a", "llama", use_dora=True)], tmp_path, "DoRA")


@pytest.mark.parametrize(
    ("key", "match"),
    [
        ("base_model.model.model.norm.weight", "neither a factor nor in modules_to_save"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", "not a factor of a linear layer"),
        ("model.stray", "not a factor of a linear layer"),
        ("base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight", "lora_A alone"),
    ],
)
def test_a_tensor_that_is_not_understood_is_refused(pair, tmp_path, key, match):
    overwrite(pair[1], lambda tensors: tensors.update({key: torch.zeros(4, 4)}))
    refused(pair, tmp_path, match)


def test_whole_numbers_and_convolutions_are_refused(pair, tmp_path):
    overwrite(pair[1], lambda tensors: tensors.update({first(tensors): torch.zeros(4, 24, dtype=torch.int8)}))
    refused(pair, tmp_path, "not a floating type")
    overwrite(pair[1], lambda tensors: tensors.update({first(tensors): torch.zeros(4, 24, 1, 1)}))
    refused(pair, tmp_path, "not matrices")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"weights": [1.0]}, "1 numbers for 2 adapters"),
        ({"weights": [1.0, -1.0]}, "not a positive number"),
        ({"weights": [1.0, float("nan")]}, "not a positive number"),
        ({"lora_rank": 0}, "at least 1"),
        ({"method": "fed-sb"}, "square cores"),
        ({"method": "fedsa"}, "no model for all"),
        ({"method": "nothing"}, "no method"),
        ({"method": "ffa"}, "same A"),
        ({"method": "rolora"}, "same A or the same B"),
    ],
)
def test_options_that_do_not_fit_are_refused(pair, tmp_path, options, match):
    refused(pair, tmp_path, match, error=MergeRefusedError, code=2, **options)


def test_mixed_ranks_are_refused_with_the_method_that_takes_them(pair, tmp_path):
    wide = make_adapter(tmp_path / "c", "llama", r=6)
    for method, instead in (("fedit", "zero-pad"), ("lora-fair", "flexlora"), ("fedex", "product")):
        with pytest.raises(MergeRefusedError, match="different") as caught:
            merge([pair[0], wide], tmp_path / "out", method, weights=[])
        assert f"or {instead}, which is nearest to {method}" in caught.value.hint
    assert not (tmp_path / "out").exists()


# -- where it is written -----------------------------------------------------------------------------------------


def test_a_folder_that_no_merge_wrote_is_not_touched(pair, tmp_path):
    out = tmp_path / "out"
    make_adapter(out, "llama")  # somebody's own adapter is not ours to replace
    kept = {p.name: p.read_bytes() for p in out.iterdir()}
    refused(pair, tmp_path, "not an earlier export", error=OutputFolderError, code=8)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == kept
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputFolderError, match="not a folder"):
        merge(pair, tmp_path / "file", weights=[])
    (tmp_path / "link").symlink_to(out)
    with pytest.raises(OutputFolderError, match="not a folder of its own"):
        merge(pair, tmp_path / "link", weights=[])


def test_an_earlier_merge_is_replaced_whole(pair, tmp_path):
    merge(pair, tmp_path / "out", weights=[])
    (tmp_path / "out/stray").write_text("old")
    merge(pair[:1], tmp_path / "out", weights=[])
    assert not (tmp_path / "out/stray").exists()
    assert far(delta_weights(tmp_path / "out", "llama")[0], delta_weights(pair[0], "llama")[0]) < 1e-6


def test_an_input_is_never_written_over(pair, tmp_path):
    merge(pair, tmp_path / "out", weights=[])
    with pytest.raises(InputAsOutputError, match="is, or holds, the input"):
        merge([tmp_path / "out", pair[0]], tmp_path / "out", weights=[])
    assert open_adapter(tmp_path / "out").layers


def test_a_fault_while_writing_leaves_what_was_there(pair, tmp_path, monkeypatch):
    merge(pair, tmp_path / "out", weights=[])
    kept = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    names = sorted(p.name for p in tmp_path.iterdir())

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("motet.merging.write_json", full)
    with pytest.raises(OutputFolderError, match="No space left"):
        merge(pair[:1], tmp_path / "out", weights=[])
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == kept
    assert sorted(p.name for p in tmp_path.iterdir()) == names
