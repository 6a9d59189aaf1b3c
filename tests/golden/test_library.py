"""The library against numbers worked out by hand-sized examples (4 x 5, three clients, whole-number factors)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from aggregation.adapter import AdapterState, ClientUpdate, FactorPair, HalfPair
from aggregation.kernels import factor_svd, recompress, stack
from aggregation.methods import (
    FedEx,
    FedIT,
    FedSALoRA,
    FFALoRA,
    FlexLoRA,
    HetLoRA,
    RankIndex,
    RoLoRA,
    ZeroPad,
)
from aggregation.methods.dp_lora import expected_noise_energy
from aggregation.methods.fedex import residual
from aggregation.methods.hetlora import sparsity_weight
from aggregation.methods.lora_fair import cosine_global, ridge_from_sums, ridge_solution
from aggregation.sketch import first_message, from_sums, range_basis, second_message

GOLDEN = json.loads((Path(__file__).parent / "aggregation.json").read_text())
NUM_EXAMPLES = GOLDEN["inputs"]["num_examples"]
P = [n / sum(NUM_EXAMPLES) for n in NUM_EXAMPLES]
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


def pairs_of(kind):
    told = GOLDEN["inputs"][kind]
    return [
        FactorPair(B=torch.tensor(b), A=torch.tensor(a)) for b, a in zip(told["B"], told["A"], strict=True)
    ]


def updates_of(kind, side=None):
    made = []
    for k, (pair, n) in enumerate(zip(pairs_of(kind), NUM_EXAMPLES, strict=True)):
        halves = {"q": HalfPair(side=side, value=pair.A if side == "A" else pair.B)} if side else {}
        state = AdapterState(halves=halves) if side else AdapterState(lora={"q": pair})
        made.append(ClientUpdate(client_id=f"c{k}", weight=float(n), state=state))
    return made


def product(pair):
    return (pair.scale * pair.B.double() @ pair.A.double()).numpy()


def close(found, wanted):
    np.testing.assert_allclose(np.asarray(found, dtype=float), np.array(wanted), **CLOSE)


def ideal(kind):
    return np.array(GOLDEN[f"flora_{kind}"]["ideal_deltaW"])


@pytest.mark.parametrize(
    ("method", "key"),
    [(ZeroPad(), "fedit_zero_padding_hetero"), (RankIndex(), "rank_index_normalised_hetero")],
)
def test_padded_means_and_means_by_index(method, key):
    reduction = method.reduce(AdapterState(), updates_of("hetero"))
    pair = reduction.state.lora["q"]
    close(pair.B, GOLDEN[key]["B_bar"])
    close(pair.A, GOLDEN[key]["A_bar"])
    close(product(pair), GOLDEN[key]["product"])
    miss = reduction.relative_error * np.linalg.norm(ideal("hetero"))
    assert miss == pytest.approx(GOLDEN[key]["error_fro"], rel=1e-6)


def test_the_two_means_are_not_each_other():
    found = ZeroPad().reduce(AdapterState(), updates_of("hetero")).state.lora["q"]
    with pytest.raises(AssertionError):
        close(product(found), GOLDEN["rank_index_normalised_hetero"]["product"])


def test_hetlora_weighs_by_the_size_of_the_product_and_not_by_examples():
    told = GOLDEN["hetlora_hetero"]
    sizes = [sparsity_weight({"q": pair}) for pair in pairs_of("hetero")]
    close(sizes, told["S_k"])
    close([s / sum(sizes) for s in sizes], told["weights"])
    state = HetLoRA().reduce(AdapterState(), updates_of("hetero")).state
    close(state.lora["q"].B, told["B_bar"])
    close(product(state.lora["q"]), told["product"])
    first = HetLoRA().starting_point(state, lora_rank=1).lora["q"]
    close(product(first), told["truncate_rank1_product"])
    with pytest.raises(AssertionError):
        close(ZeroPad().reduce(AdapterState(), updates_of("hetero")).state.lora["q"].B, told["B_bar"])


@pytest.mark.parametrize("rank", ["1", "2", "3"])
def test_flexlora_gives_each_client_the_best_product_of_its_rank(rank):
    told = GOLDEN["flexlora_hetero"]["truncated"][rank]
    state = FlexLoRA().reduce(AdapterState(), updates_of("hetero")).state
    given = FlexLoRA().starting_point(state, lora_rank=int(rank)).lora["q"]
    close(product(given), told["product"])
    assert np.linalg.norm(product(given) - ideal("hetero")) == pytest.approx(told["eckart_young"], rel=1e-5)
    values = factor_svd(stack(pairs_of("hetero"), P))[1]
    close(values[:4], GOLDEN["flexlora_hetero"]["singular_values"])


def test_fedex_residual_its_rank_and_the_exact_total():
    told = GOLDEN["fedex_homo"]
    pairs = pairs_of("homo")
    mean = FedIT().reduce(AdapterState(), updates_of("homo")).state.lora["q"]
    missed = residual(list(zip(pairs, P, strict=True)), mean)
    assert missed.lora_rank == 4 == told["residual_rank"]
    close(product(missed), told["residual"])
    reduction = FedEx().reduce(AdapterState(), updates_of("homo"))
    close(product(reduction.state.base_delta["q"]), told["residual"])
    close(product(FedEx().product(reduction.state)["q"]), told["W0_update_plus_adapter"])
    assert reduction.relative_error < 1e-6
    flipped = FactorPair(B=-missed.B, A=missed.A)  # the sign that a subtraction the other way would give
    with pytest.raises(AssertionError):
        close(product(mean) + product(flipped), told["W0_update_plus_adapter"])


@pytest.mark.parametrize("weight", ["0.01", "0.1", "1.0"])
def test_lora_fair_cosine_at_each_lambda(weight):
    told = GOLDEN["lora_fair_cosine_homo"]["by_lambda"][weight]
    mean = FedIT().reduce(AdapterState(), updates_of("homo")).state.lora["q"]
    target = stack(pairs_of("homo"), P, dtype=torch.float64)
    found = cosine_global(mean, target, float(weight))
    close(found, told["B_prime"])
    after = found.numpy() @ mean.A.double().numpy()
    ratio = np.linalg.norm(after) / np.linalg.norm(ideal("homo"))
    assert ratio == pytest.approx(told["norm_ratio"], rel=1e-5)
    assert np.linalg.norm(after - ideal("homo")) == pytest.approx(told["error_fro"], rel=1e-5)


def test_lora_fair_cosine_without_a_penalty_is_the_limit():
    told = GOLDEN["lora_fair_cosine_homo"]["limit_lambda_to_0_plus"]
    mean = FedIT().reduce(AdapterState(), updates_of("homo")).state.lora["q"]
    target = stack(pairs_of("homo"), P, dtype=torch.float64)
    close(cosine_global(mean, target, 0.0), told["B_prime"])
    with pytest.raises(AssertionError):
        close(cosine_global(mean, target, 0.01), told["B_prime"])


def test_lora_fair_from_two_sums_is_lora_fair():
    means = FedIT().reduce(AdapterState(), updates_of("homo")).state.lora["q"]
    a = means.A.double()
    second = sum(
        p * pair.B.double() @ (pair.A.double() @ a.T) for p, pair in zip(P, pairs_of("homo"), strict=True)
    )
    close(second, GOLDEN["lora_fair_phase2_sum_C_homo"])
    target = stack(pairs_of("homo"), P, dtype=torch.float64)
    for ridge in (0.0, 0.1, 3.0):
        close(ridge_from_sums(means, second, ridge), ridge_solution(means, target, ridge).numpy())


def test_one_shared_factor_makes_the_mean_exact():
    first = pairs_of("homo")[0]
    state = AdapterState(lora={"q": first})
    for method, side, key in [
        (FFALoRA(), "B", "ffa_homo_A=A_0"),
        (RoLoRA(), "A", "rolora_homo_even_round_B=B_0"),
    ]:
        reduction = method.reduce(state, updates_of("homo", side))
        close(product(reduction.state.lora["q"]), GOLDEN[key]["product"])
        assert reduction.relative_error < 1e-7


def test_fedsa_averages_a_and_each_client_keeps_its_b():
    told = GOLDEN["fedsa_homo"]
    start = AdapterState(halves={"q": HalfPair(side="A", value=torch.zeros(2, 5))})
    state = FedSALoRA().reduce(start, updates_of("homo", "A")).state
    close(state.halves["q"].value, told["A_bar"])
    for pair, wanted in zip(pairs_of("homo"), told["personal_products"], strict=True):
        kept = FedSALoRA().personal_part(AdapterState(lora={"q": pair}))
        own = FedSALoRA().local_start(
            state, layer_shapes={"q": (4, 5)}, lora_rank=2, scale=1.0, seed=0, fresh_seed=0, personal=kept
        )
        close(product(own.lora["q"]), wanted)


def test_two_sums_of_a_sketch_give_the_exact_product():
    told = GOLDEN["two_stage_sketch_hetero"]
    omega = torch.tensor(told["omega"], dtype=torch.float64)
    clients = list(zip(pairs_of("hetero"), P, strict=True))
    first = sum(first_message(pair, p, omega) for pair, p in clients)
    close(first, told["sum_Y"])
    basis = range_basis(first)
    close(basis @ basis.T, told["projector_Q"])
    second = sum(second_message(pair, p, basis) for pair, p in clients)
    close(product(from_sums(basis, second)), told["QZ"])


def test_noise_on_both_factors_reaches_the_product_as_told():
    told = GOLDEN["dp_noise_energy_example"]
    energy = expected_noise_energy(
        (told["m"], told["n"]), told["r"], told["||B||_F^2"], told["||A||_F^2"], told["sigma"]
    )
    assert energy == pytest.approx(told["fedit_linear"] + told["fedit_quadratic"])


def test_a_balanced_split_has_the_same_product_as_the_unbalanced_one_of_the_reference():
    u, s, vh = factor_svd(stack(pairs_of("hetero"), P))
    reference = (u[:, :2] * s[:2]) @ vh[:2]
    close(product(recompress(stack(pairs_of("hetero"), P), 2)), reference)
