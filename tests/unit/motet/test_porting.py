"""``motet port`` on real folders of tiny models, against dense matrices and peft's own reader."""

import json

import pytest
import torch
from peft import PeftModel
from peft_folders import base_model, delta_weights, edit_config, logits, make_adapter
from safetensors.torch import load_file, save_file
from transformers import BertModel

from motet.base_folder import BaseFolderError, open_base
from motet.folders import InputAsOutputError, OutputFolderError
from motet.peft_config import AdapterFolderError
from motet.porting import port_adapter


def newer(family, amount, seed=7):
    """The base a version later: every weight moved a little."""
    model = base_model(family)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(amount * torch.randn(parameter.shape, generator=generator))
    return model


def bases(folder, family, amount=0.01, **options):
    base_model(family).save_pretrained(folder / "old", **options)
    newer(family, amount).save_pretrained(folder / "new", **options)
    return folder / "old", folder / "new"


OPTIONS = {
    "bert": {"use_rslora": True},
    "llama": {"rank_pattern": {"q_proj": 2}},
    "gpt2": {"fan_in_fan_out": True},
}


@pytest.mark.parametrize("family", list(OPTIONS))
def test_the_ported_adapter_adds_the_same_change_to_the_new_base(family, tmp_path):
    old, new = bases(tmp_path, family)
    adapter = make_adapter(tmp_path / "adapter", family, **OPTIONS[family])
    deltas, heads = delta_weights(adapter, family)
    port_adapter(adapter, old, new, tmp_path / "out")
    model = newer(family, 0.01).double()
    parameters = dict(model.named_parameters())
    before = dict(base_model(family).named_parameters())
    plain = logits(model)
    with torch.no_grad():
        for layer, delta in deltas.items():
            parameters[f"{layer}.weight"].add_(delta.T if family == "gpt2" else delta)
        for name, value in heads.items():  # what training added to a module of the base is kept
            parameters[name].add_(value - before[name].double())
    expected = logits(model)
    loaded = logits(PeftModel.from_pretrained(newer(family, 0.01), tmp_path / "out"))
    torch.testing.assert_close(loaded, expected, rtol=0, atol=1e-5)
    assert (expected - plain).abs().max() > 1e-2  # positive control: the adapter does something
    ours, theirs = (load_file(p / "adapter_model.safetensors") for p in (tmp_path / "out", adapter))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs if "lora_" in k)
    assert json.loads((tmp_path / "out/adapter_config.json").read_text())["base_model_name_or_path"] == str(
        new
    )


@pytest.mark.parametrize("family", list(OPTIONS))
def test_the_report_has_the_dense_figures_of_each_layer(family, tmp_path):
    old, new = bases(tmp_path, family)
    adapter = make_adapter(tmp_path / "adapter", family, **OPTIONS[family])
    deltas, _ = delta_weights(adapter, family)
    report = port_adapter(adapter, old, new, tmp_path / "out")
    before, after = base_model(family).state_dict(), newer(family, 0.01).state_dict()
    changes = {k: (after[f"{k}.weight"] - before[f"{k}.weight"]).double() for k in deltas}
    if family == "gpt2":
        changes = {k: v.T for k, v in changes.items()}
    assert report["layers"].keys() == deltas.keys()
    for layer, row in report["layers"].items():
        change, delta = changes[layer], deltas[layer]
        assert row["ratio"] == pytest.approx(float(change.norm() / delta.norm()), rel=1e-5)
        cosine = float((change * delta).sum() / change.norm() / delta.norm())
        assert row["cosine"] == pytest.approx(cosine, abs=1e-6)
    assert json.loads((tmp_path / "out/motet-port.json").read_text()) == report


def test_a_warning_says_where_the_base_moved_by_more_than_the_adapter(tmp_path):
    old, new = bases(tmp_path, "llama", amount=0.001)
    adapter = make_adapter(tmp_path / "adapter", "llama")
    quiet = port_adapter(adapter, old, new, tmp_path / "quiet")
    assert (quiet["larger"], quiet["warnings"]) == ([], [])
    newer("llama", 3.0).save_pretrained(tmp_path / "far")
    loud = port_adapter(adapter, old, tmp_path / "far", tmp_path / "loud")
    assert sorted(loud["larger"]) == sorted(loud["layers"])
    assert "4 of 4 layers the base has moved by more than the adapter" in loud["warnings"][0]
    assert loud["warnings"][0] in (tmp_path / "loud/README.md").read_text()


def test_an_unchanged_base_is_told_and_leaves_the_adapter_as_it_was(tmp_path):
    old, _ = bases(tmp_path, "bert")
    adapter = make_adapter(tmp_path / "adapter", "bert")
    report = port_adapter(adapter, old, old, tmp_path / "out")
    assert (report["ratio"], report["cosine"]) == (0.0, None)
    assert "same weights" in report["warnings"][0]
    ours, theirs = (load_file(p / "adapter_model.safetensors") for p in (tmp_path / "out", adapter))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_shards_give_the_same_report_as_one_file(tmp_path):
    adapter = make_adapter(tmp_path / "adapter", "llama")
    whole = port_adapter(adapter, *bases(tmp_path / "one", "llama"), tmp_path / "a")
    old, new = bases(tmp_path / "many", "llama", max_shard_size="8KB")
    assert len(list(old.glob("*.safetensors"))) > 2
    assert port_adapter(adapter, old, new, tmp_path / "b")["layers"] == whole["layers"]


def test_a_bare_backbone_is_found_under_its_shorter_names(tmp_path):
    adapter = make_adapter(tmp_path / "adapter", "bert")
    whole = port_adapter(adapter, *bases(tmp_path / "one", "bert"), tmp_path / "a")
    for name, model in (("old", base_model("bert")), ("new", newer("bert", 0.01))):
        assert isinstance(model.bert, BertModel)
        model.bert.save_pretrained(tmp_path / name)
    report = port_adapter(adapter, tmp_path / "old", tmp_path / "new", tmp_path / "b")
    assert report["layers"] == whole["layers"]
    assert set(report["modules_to_save"].values()) == {"kept"}  # the head is the adapter's own there
    assert set(whole["modules_to_save"].values()) == {"moved with the base"}


def test_rows_are_read_in_blocks(tmp_path, monkeypatch):
    old, _ = bases(tmp_path, "llama")
    base = open_base(old)
    name = "model.layers.0.mlp.down_proj.weight"
    monkeypatch.setattr("motet.base_folder._BLOCK_NUMBERS", 100)
    blocks = list(base.rows(name))
    assert [len(block) for block in blocks] == [2] * 12
    assert torch.equal(torch.cat(blocks), load_file(old / "model.safetensors")[name])


# -- what is refused ---------------------------------------------------------------------------------------------


@pytest.fixture
def setting(tmp_path):
    return make_adapter(tmp_path / "adapter", "llama"), *bases(tmp_path, "llama")


def refused(setting, tmp_path, match, error=BaseFolderError, code=10):
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(error, match=match) as caught:
        port_adapter(*setting, tmp_path / "out")
    assert caught.value.exit_code == code
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def change(folder, edit):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


LAYER = "model.layers.0.self_attn.q_proj.weight"


def test_another_shape_is_refused(setting, tmp_path):
    change(setting[2], lambda t: t.update({LAYER: torch.zeros(24, 30)}))
    refused(setting, tmp_path, r"is \(24, 24\) in .*old and \(24, 30\) in")


def test_a_base_that_the_adapter_does_not_fit_is_refused(setting, tmp_path):
    for base in setting[1:]:
        change(base, lambda t: t.update({LAYER: torch.zeros(24, 30)}))
    refused(setting, tmp_path, r"is \(24, 30\) in .*, the adapter's is \(24, 24\)")


def test_a_missing_layer_is_refused(setting, tmp_path):
    change(setting[2], lambda t: t.pop(LAYER))
    refused(setting, tmp_path, r"has no model.layers.0.self_attn.q_proj.weight \(1 of 4 layers")


def test_another_kind_of_model_is_refused(setting, tmp_path):
    file = setting[2] / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "mistral"}))
    refused(setting, tmp_path, "mistral model")


def test_a_changed_configuration_and_other_shapes_elsewhere_are_told(setting, tmp_path):
    adapter, old, new = setting
    file = new / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rms_norm_eps": 0.5}))
    change(new, lambda t: t.update({"model.embed_tokens.weight": torch.zeros(70, 24)}))
    warnings = port_adapter(adapter, old, new, tmp_path / "out")["warnings"]
    assert any("rms_norm_eps" in w for w in warnings)
    assert any("model.embed_tokens.weight" in w for w in warnings)


def test_another_storage_type_is_told(setting, tmp_path):
    adapter, old, new = setting
    change(new, lambda t: t.update({k: v.to(torch.bfloat16) for k, v in t.items()}))
    assert any(
        "stored as F32 and as BF16" in w
        for w in port_adapter(adapter, old, new, tmp_path / "out")["warnings"]
    )


def test_a_quantised_base_is_refused(setting, tmp_path):
    change(setting[1], lambda t: t.update({LAYER: torch.zeros(24, 24, dtype=torch.int8)}))
    refused(setting, tmp_path, "stored as I8")


def test_a_base_that_is_not_finite_is_refused(setting, tmp_path):
    change(setting[2], lambda t: t.update({LAYER: torch.full((24, 24), float("nan"))}))
    refused(setting, tmp_path, "NaN or infinity")


def test_missing_truncated_and_pickled_bases_are_told_apart(setting, tmp_path):
    refused((setting[0], tmp_path / "nowhere", setting[2]), tmp_path, "is not a folder", code=2)
    file = setting[1] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    refused(setting, tmp_path, "truncated or no safetensors")
    file.rename(setting[1] / "pytorch_model.bin")
    refused(setting, tmp_path, "only a pickle, which is not opened")


@pytest.mark.parametrize(
    ("index", "match"),
    [
        ({"weight_map": {LAYER: "../../secret.safetensors"}}, "no shard of this folder"),
        ({"weight_map": {LAYER: "absent.safetensors"}}, "lacks the shard absent"),
        ({"weight_map": [1]}, "no weight_map"),
        ([], "not a JSON object"),
    ],
)
def test_an_index_that_leads_elsewhere_is_refused(setting, tmp_path, index, match):
    (setting[1] / "model.safetensors").unlink()
    (setting[1] / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(setting, tmp_path, match)


def test_two_layers_of_one_name_are_refused(setting, tmp_path):
    def double(tensors):
        both = {f"{p}.{k}": v.clone() for k, v in tensors.items() for p in ("one", "two")}
        tensors.clear()
        tensors.update(both)

    change(setting[1], double)
    refused(setting, tmp_path, "could be one.model.* or two.model")


def test_a_saved_module_that_the_new_base_has_in_another_shape_is_refused(tmp_path):
    adapter = make_adapter(tmp_path / "adapter", "bert")
    old, new = bases(tmp_path, "bert")
    change(new, lambda t: t.update({"classifier.weight": torch.zeros(5, 24)}))
    refused((adapter, old, new), tmp_path, "trained whole")


def test_a_bad_adapter_and_a_bad_place_are_refused(setting, tmp_path):
    with pytest.raises(InputAsOutputError):
        port_adapter(*setting, setting[0] / "..")
    with pytest.raises(InputAsOutputError):
        port_adapter(*setting, setting[2])
    make_adapter(tmp_path / "mine", "llama")
    with pytest.raises(OutputFolderError, match="not an earlier export"):
        port_adapter(*setting, tmp_path / "mine")
    edit_config(setting[0], use_dora=True)
    refused(setting, tmp_path, "DoRA", error=AdapterFolderError)
