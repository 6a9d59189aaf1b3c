"""``motet merge`` beside peft's own ``add_weighted_adapter``, where the two should agree, and where they do not."""

import pytest
import torch
from peft import PeftModel
from peft_folders import base_model, delta_weights, make_adapter

from motet.merging import MergeOptions, merge_adapters

WEIGHTS = [3.0, 2.0, 1.0]
SHARES = [w / 6 for w in WEIGHTS]
NO_HEAD = {"task_type": None}  # peft does not combine adapters with heads; we average them
VARIANTS = {
    "bert": [
        {"r": 2} | NO_HEAD,
        {"r": 5, "use_rslora": True} | NO_HEAD,
        {"r": 3, "rank_pattern": {"query": 6}} | NO_HEAD,
    ],
    "llama": [{"r": 1}, {"r": 8, "alpha_pattern": {"q_proj": 3}}, {"r": 4, "use_rslora": True}],
    "gpt2": [{"r": k + 2, "fan_in_fan_out": True} for k in range(3)],
}


def peft_combines(family, paths, kind, **options):
    """Layer -> the change that peft's combination makes, (m, n), float64."""
    model = PeftModel.from_pretrained(base_model(family), paths[0], adapter_name="a0")
    for k, path in enumerate(paths[1:], 1):
        model.load_adapter(path, adapter_name=f"a{k}")
    names = [f"a{k}" for k in range(len(paths))]
    model.add_weighted_adapter(names, SHARES, "both", combination_type=kind, **options)
    deltas = {}
    for name, module in model.base_model.model.named_modules():
        if hasattr(module, "lora_A") and "both" in module.lora_A:
            delta = module.get_delta_weight("both").detach().double()
            deltas[name] = delta.T if module.fan_in_fan_out else delta
    return deltas


def ours(family, paths, out, method, lora_rank=None):
    merge_adapters(paths, out, MergeOptions(method=method, weights=WEIGHTS, lora_rank=lora_rank))
    return delta_weights(out, family)[0]


def far(got, wanted):
    assert got.keys() == wanted.keys()
    miss = sum(float((got[k] - wanted[k]).square().sum()) for k in wanted)
    return (miss / sum(float(w.square().sum()) for w in wanted.values())) ** 0.5


@pytest.fixture(scope="module", params=list(VARIANTS))
def family_and_paths(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, [
        make_adapter(folder / f"a{k}", request.param, seed=k + 1, **options)
        for k, options in enumerate(VARIANTS[request.param])
    ]


def test_flora_is_pefts_cat(family_and_paths, tmp_path):
    family, paths = family_and_paths
    theirs = peft_combines(family, paths, "cat")
    assert far(ours(family, paths, tmp_path / "out", "flora"), theirs) < 2e-6
    assert far(ours(family, paths[::-1], tmp_path / "other", "flora"), theirs) > 0.1  # positive control


@pytest.mark.parametrize("lora_rank", [2, 5])
@pytest.mark.parametrize("method", ["flora", "product", "flexlora"])
def test_a_rank_limit_is_pefts_svd_of_that_rank(family_and_paths, method, lora_rank, tmp_path):
    family, paths = family_and_paths
    theirs = peft_combines(family, paths, "svd", svd_rank=lora_rank)
    assert far(ours(family, paths, tmp_path / "out", method, lora_rank), theirs) < 1e-5


def test_pefts_linear_is_not_the_sum_of_products_and_nor_is_fedit(tmp_path):
    """Peft's linear puts sqrt(p s) on each factor, so that it is not fedit either: three answers to one question."""
    paths = [make_adapter(tmp_path / f"a{k}", "llama", seed=k) for k in range(3)]
    exact = peft_combines("llama", paths, "cat")
    linear, fedit = peft_combines("llama", paths, "linear"), ours("llama", paths, tmp_path / "out", "fedit")
    assert far(linear, exact) > 0.1
    assert far(fedit, exact) > 0.1
    assert far(linear, fedit) > 0.1
    assert all(torch.isfinite(v).all() for v in linear.values())
