"""Small whole numbers, worked out once in float64 by an independent numpy script."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import aggregation.methods.base
from aggregation.adapter import AdapterState, ClientUpdate, FactorPair
from aggregation.floats import floats_down, floats_up
from aggregation.initial import svd_bases
from aggregation.kernels import factor_svd, norm, recompress, stack
from aggregation.methods import FedIT, FedSB, Flora
from aggregation.methods.lora_fair import ridge_correction

GOLDEN = json.loads(Path(__file__).with_name("aggregation.json").read_text())
NUM_EXAMPLES = GOLDEN["inputs"]["num_examples"]
P = [n / sum(NUM_EXAMPLES) for n in NUM_EXAMPLES]
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


def pairs_of(kind, scales=(1.0, 1.0, 1.0)):
    told = GOLDEN["inputs"][kind]
    return [
        FactorPair(B=torch.tensor(b), A=torch.tensor(a), scale=s)
        for b, a, s in zip(told["B"], told["A"], scales, strict=True)
    ]


def updates_of(pairs):
    return [
        ClientUpdate(client_id=f"c{k}", weight=float(n), state=AdapterState(lora={"q": pair}))
        for k, (pair, n) in enumerate(zip(pairs, NUM_EXAMPLES, strict=True))
    ]


def product(pair):
    return (pair.scale * pair.B.double() @ pair.A.double()).numpy()


def check_flora(kind, scales=(1.0, 1.0, 1.0), key="ideal_deltaW"):
    reduction = Flora().reduce(AdapterState(), updates_of(pairs_of(kind, scales)))
    np.testing.assert_allclose(
        product(reduction.state.base_delta["q"]), GOLDEN[f"flora_{kind}"][key], **CLOSE
    )
    assert reduction.relative_error < 1e-6


def test_flora_is_the_exact_sum_of_products():
    check_flora("homo")
    check_flora("hetero")
    check_flora("hetero", (2.0, 1.0, 0.5), "ideal_deltaW_with_scales_2_1_0.5")


@pytest.mark.parametrize(
    ("broken", "error_key"),
    [("both", "error_if_p_on_both_factors"), ("neither", "error_if_p_on_neither_factor")],
)
@pytest.mark.parametrize("kind", ["hetero", "homo"])
def test_weights_on_both_factors_or_on_none_miss_by_the_known_amount(monkeypatch, broken, error_key, kind):
    def wrong(pairs, weights, *, dtype=torch.float32):
        if broken == "neither":
            return stack(pairs, [1.0] * len(pairs), dtype=dtype)
        return stack(
            [FactorPair(B=p.B * w, A=p.A, scale=p.scale) for p, w in zip(pairs, weights, strict=True)],
            weights,
            dtype=dtype,
        )

    monkeypatch.setattr(aggregation.methods.base, "stack", wrong)
    with pytest.raises(AssertionError):
        check_flora(kind)
    found = product(Flora().reduce(AdapterState(), updates_of(pairs_of(kind))).state.base_delta["q"])
    miss = np.linalg.norm(found - np.array(GOLDEN[f"flora_{kind}"]["ideal_deltaW"]))
    assert miss == pytest.approx(GOLDEN[f"flora_{kind}"][error_key], rel=1e-6)


@pytest.mark.parametrize("kind", ["hetero", "homo"])
def test_stack_keeps_b_as_it_is_and_weighs_a(kind):
    whole = stack(pairs_of(kind), P)
    np.testing.assert_allclose(whole.B, GOLDEN[f"flora_{kind}"]["stack_B"], **CLOSE)
    np.testing.assert_allclose(whole.A, GOLDEN[f"flora_{kind}"]["stack_A"], **CLOSE)


def test_singular_values_and_truncations_from_factors():
    told = GOLDEN["flexlora_hetero"]
    whole = stack(pairs_of("hetero"), P, dtype=torch.float64)
    np.testing.assert_allclose(factor_svd(whole)[1], told["singular_values"], rtol=1e-9)
    for rank, row in told["truncated"].items():
        cut = recompress(whole, int(rank))
        assert cut.lora_rank == int(rank)
        np.testing.assert_allclose(product(cut), row["product"], **CLOSE)


def test_fedit_is_the_product_of_means_and_says_how_far_off_it_is():
    told = GOLDEN["fedit_homo"]
    reduction = FedIT().reduce(AdapterState(), updates_of(pairs_of("homo")))
    mean = reduction.state.lora["q"]
    np.testing.assert_allclose(mean.B, told["B_bar"], **CLOSE)
    np.testing.assert_allclose(mean.A, told["A_bar"], **CLOSE)
    np.testing.assert_allclose(product(mean), told["product"], **CLOSE)
    assert reduction.relative_error == pytest.approx(told["relative_error"], rel=1e-6)


def test_a_mean_of_one_client_alone_is_noticed():
    """The known slip of a public baseline: client 0 only, scaled by its weight on both factors."""
    first = pairs_of("homo")[0]
    slip = product(FactorPair(B=first.B * P[0], A=first.A * P[0]))
    np.testing.assert_allclose(slip, GOLDEN["fedit_reference_bug_ATP1010"]["product"], **CLOSE)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(slip, GOLDEN["fedit_homo"]["product"], **CLOSE)


def test_product_of_means_plus_residual_is_exact_and_a_transposed_residual_is_not():
    told = GOLDEN["fedex_homo"]
    mean = product(FedIT().reduce(AdapterState(), updates_of(pairs_of("homo"))).state.lora["q"])
    residual = np.array(told["residual"])
    np.testing.assert_allclose(mean + residual, told["W0_update_plus_adapter"], **CLOSE)
    square = np.zeros((5, 5))
    square[:4] = residual
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(mean + square.T[:4], told["W0_update_plus_adapter"], **CLOSE)


@pytest.mark.parametrize("ridge", sorted(GOLDEN["lora_fair_ridge_homo"]["by_lambda"], key=float))
def test_lora_fair_ridge_at_each_lambda(ridge):
    told = GOLDEN["lora_fair_ridge_homo"]["by_lambda"][ridge]
    ideal = np.array(GOLDEN["flora_homo"]["ideal_deltaW"])
    pair = ridge_correction(pairs_of("homo"), P, float(ridge))
    np.testing.assert_allclose(product(pair), told["product"], **CLOSE)
    if "B_prime" in told:
        np.testing.assert_allclose(pair.B, told["B_prime"], **CLOSE)
    assert np.linalg.norm(product(pair) - ideal) == pytest.approx(told["error_fro"], rel=1e-5)


@pytest.mark.parametrize("kind", ["fed_sb_raw", "fed_sb_sign"])
def test_bases_span_the_leading_singular_spaces(kind):
    told = GOLDEN[kind]
    gradient = torch.tensor(told["grad"], dtype=torch.float64)
    step = -told["eta"] * (gradient.sign() if kind == "fed_sb_sign" else gradient)
    b, a = svd_bases(step, told["rank"])
    np.testing.assert_allclose(b @ b.T, told["projector_B"], **CLOSE)
    np.testing.assert_allclose(a.T @ a, told["projector_A"], **CLOSE)
    core = b.double().T @ step @ a.double().T
    np.testing.assert_allclose(b.double() @ core @ a.double(), told["init_product"], **CLOSE)
    assert norm(FactorPair(B=b @ core.float(), A=a)) == pytest.approx(
        float(torch.linalg.norm(core)), rel=1e-6
    )


def test_fed_sb_averages_cores_by_weight():
    cores = [torch.tensor([[1.0, 2.0], [3.0, 4.0]]) * (k + 1) for k in range(3)]
    updates = [
        ClientUpdate(client_id=f"c{k}", weight=float(n), state=AdapterState(cores={"q": core}))
        for k, (core, n) in enumerate(zip(cores, NUM_EXAMPLES, strict=True))
    ]
    mean = FedSB().reduce(AdapterState(), updates).state.cores["q"]
    expected = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64) * math.fsum(
        p * (k + 1) for k, p in enumerate(P)
    )
    torch.testing.assert_close(mean, expected.float(), rtol=1e-7, atol=0)


def test_floats_agree_with_the_table_of_communication_apart_from_one_scale_a_layer():
    told = GOLDEN["communication_examples"]["bert_base_qv_m768_n768_K3_r32"]
    shapes = {"q": (768, 768)}
    for method, key in [("fedit", "fedit"), ("lora-fair", "lora_fair"), ("fed-sb", "fedsb")]:
        scale = 0 if method == "fed-sb" else 1
        assert floats_up(method, shapes, 32, 0) == told[f"{key}_up"] + scale
        assert floats_down(method, shapes, [32] * 3, 32, 0, 1) == told[f"{key}_down"] + scale
    assert floats_up("flora", shapes, 32, 0) == told["flora_up"][0] + 1
    assert floats_down("flora", shapes, [32] * 3, 32, 0, 1) == told["flora_down_each"] + 1
