"""The rest of the golden file, and that no figure of it is left unread."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from aggregation.adapter import AdapterState, ClientUpdate, FactorPair, HalfPair
from aggregation.floats import floats_down, floats_up
from aggregation.kernels import distance, factor_svd, stack
from aggregation.methods import FedEx, FedIT, FedSB, FFALoRA, Flora, LoraFair
from aggregation.methods.lora_fair import ridge_correction

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "aggregation.json").read_text())
NUM_EXAMPLES = GOLDEN["inputs"]["num_examples"]
P = [n / sum(NUM_EXAMPLES) for n in NUM_EXAMPLES]
CLOSE = {"rtol": 2e-5, "atol": 2e-6}
# Words for people, and the shapes that the arrays beside them have anyway.
PROSE = {
    "convention",
    "tolerance",
    "identity",
    "note",
    "gram_trick",
    "reference_code_factors",
    "residual_rank_bound",
    "closed_form",
    "gradient_identity",
    "isometry",
    "meaning",
    "uplink_floats_per_client",
}


def pairs_of(kind, scale=1.0):
    told = GOLDEN["inputs"][kind]
    return [
        FactorPair(B=torch.tensor(b), A=torch.tensor(a), scale=scale)
        for b, a in zip(told["B"], told["A"], strict=True)
    ]


def updates_of(pairs, weights=None):
    return [
        ClientUpdate(client_id=f"c{k}", weight=float(n), state=AdapterState(lora={"q": pair}))
        for k, (pair, n) in enumerate(zip(pairs, weights or NUM_EXAMPLES, strict=True))
    ]


def product(pair):
    return (pair.scale * pair.B.double() @ pair.A.double()).numpy()


def flora(pairs, weights=None):
    return product(Flora().reduce(AdapterState(), updates_of(pairs, weights)).state.base_delta["q"])


def fedit(pairs, weights=None):
    return product(FedIT().reduce(AdapterState(), updates_of(pairs, weights)).state.lora["q"])


def fair(pairs, ridge, weights=None):
    shares = np.array(weights or NUM_EXAMPLES, dtype=float)
    return product(ridge_correction(pairs, list(shares / shares.sum()), ridge))


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path


def unread(figures):
    """Paths of figures whose key no test names."""
    source = "".join(path.read_text(encoding="utf-8") for path in sorted(HERE.glob("test_*.py")))
    return {
        "/".join(path)
        for path in leaves(figures)
        if path[-1] not in PROSE and f'"{path[-1]}"' not in source and path[0] not in _BY_LOOP
    }


def test_every_figure_of_the_file_is_read_by_a_test():
    assert unread(GOLDEN) == set()
    assert unread({"flora_homo": {"no" + "where": 1.0}}) == {"flora_homo/nowhere"}  # positive control


def test_shares_are_the_numbers_of_examples_over_their_sum():
    assert pytest.approx(GOLDEN["inputs"]["p"]) == P


# Read whole by a loop over their keys, each of which the loop names a route for.
_BY_LOOP = {"communication_examples", "lora_fair_ridge_homo", "lora_fair_cosine_homo", "flexlora_hetero"}


@pytest.mark.parametrize("kind", ["homo", "hetero"])
def test_the_stack_has_the_told_shapes_and_no_error(kind):
    told = GOLDEN[f"flora_{kind}"]
    whole = stack(pairs_of(kind), P)
    assert list(whole.B.shape) == told["stack_B_shape"]
    assert list(whole.A.shape) == told["stack_A_shape"]
    assert Flora().reduce(AdapterState(), updates_of(pairs_of(kind))).relative_error < 1e-6
    assert told["error"] < 1e-12


def test_means_by_index_divide_by_the_share_of_those_who_have_a_component():
    told = GOLDEN["rank_index_normalised_hetero"]["denominators"]
    ranks = GOLDEN["inputs"]["hetero"]["ranks"]
    held = [sum(p for p, rank in zip(P, ranks, strict=True) if rank > index) for index in range(3)]
    np.testing.assert_allclose(held, told, **CLOSE)


def test_raflora_from_the_stack_and_the_factor_svd():
    """Not among the methods: row j of A_k scaled by p_k over the share of those with that row, stacked, decomposed."""
    told = GOLDEN["raflora_hetero"]
    pairs = pairs_of("hetero")
    held = [sum(p for p, x in zip(P, pairs, strict=True) if x.lora_rank > j) for j in range(3)]
    np.testing.assert_allclose(held, told["per_index_denominator"], **CLOSE)
    scaled = [
        FactorPair(
            B=x.B, A=x.A * torch.tensor([1 / held[j] for j in range(x.lora_rank)], dtype=x.A.dtype)[:, None]
        )
        for x in pairs
    ]
    found = stack(scaled, P)
    np.testing.assert_allclose(product(found), told["product_before_svd"], **CLOSE)
    np.testing.assert_allclose(factor_svd(found)[1][:4], told["singular_values"], **CLOSE)
    assert distance(found, stack(pairs, P)) == pytest.approx(told["distance_to_ideal"], rel=1e-5)


def test_fedex_has_no_error():
    reduction = FedEx().reduce(AdapterState(), updates_of(pairs_of("homo")))
    assert reduction.relative_error < 1e-6
    assert GOLDEN["fedex_homo"]["error"] < 1e-12


def test_fair_without_a_ridge_errs_by_the_irreducible_part_and_the_best_rank_by_less():
    told = GOLDEN["lora_fair_ridge_homo"]
    ideal = np.array(GOLDEN["flora_homo"]["ideal_deltaW"])
    error = np.linalg.norm(fair(pairs_of("homo"), 0.0) - ideal)
    assert error == pytest.approx(told["irreducible_error_lambda0"], rel=1e-5)
    rest = factor_svd(stack(pairs_of("homo"), P))[1][2:]
    assert float(rest.square().sum().sqrt()) == pytest.approx(told["best_rank2_error"], rel=1e-5)


@pytest.mark.parametrize("kind", ["fed_sb_raw", "fed_sb_sign"])
def test_the_mean_of_the_cores_is_exact_between_orthonormal_bases(kind):
    """The told cores are the first plus a hundredth of these whole numbers."""
    told = GOLDEN[kind]
    moves = [[[1.0, 2.0], [3.0, 4.0]], [[-1.0, 0.0], [0.0, 5.0]], [[6.0, 0.0], [0.0, -6.0]]]
    first = torch.tensor(told["R0"])
    cores = [first + 0.01 * torch.tensor(move) for move in moves]
    updates = [
        ClientUpdate(client_id=f"c{k}", weight=float(n), state=AdapterState(cores={"q": core}))
        for k, (core, n) in enumerate(zip(cores, NUM_EXAMPLES, strict=True))
    ]
    reduction = FedSB().reduce(AdapterState(), updates)
    np.testing.assert_allclose(
        reduction.state.cores["q"] - first, told["R_bar_minus_R0"], rtol=1e-4, atol=1e-6
    )
    assert reduction.relative_error < 1e-6
    assert told["error"] < 1e-12


def test_a_shared_factor_leaves_no_error():
    assert GOLDEN["ffa_homo_A=A_0"]["error"] < 1e-12
    assert GOLDEN["rolora_homo_even_round_B=B_0"]["error"] < 1e-12
    pairs = pairs_of("homo")
    state = AdapterState(lora={"q": FactorPair(B=torch.zeros(4, 2), A=pairs[0].A)})
    updates = [
        ClientUpdate(
            client_id=f"c{k}",
            weight=float(n),
            state=AdapterState(halves={"q": HalfPair(side="B", value=x.B)}),
        )
        for k, (x, n) in enumerate(zip(pairs, NUM_EXAMPLES, strict=True))
    ]
    assert FFALoRA().reduce(state, updates).relative_error < 1e-6


def test_fedsvd_moves_no_subspace_so_that_a_frozen_orthonormal_factor_does_the_same():
    told = GOLDEN["fedsvd_homo_A=A_0"]
    pairs = pairs_of("homo")
    mean = sum(p * x.B for p, x in zip(P, pairs, strict=True))
    whole = FactorPair(B=mean, A=pairs[0].A)
    np.testing.assert_allclose(product(whole), told["product"], **CLOSE)
    _, values, vh = factor_svd(whole)
    np.testing.assert_allclose(values[:2], told["singular_values"], **CLOSE)
    np.testing.assert_allclose(vh[:2].T @ vh[:2], told["rowspace_projector"], **CLOSE)
    a = pairs[0].A.double()
    before = a.T @ torch.linalg.solve(a @ a.T, a)
    np.testing.assert_allclose(before, told["rowspace_projector_of_previous_A"], **CLOSE)
    assert float((vh[:2].T @ vh[:2] - before).norm()) < 1e-6 > told["subspace_moved"]


def test_the_sketch_and_the_noise_that_are_told():
    assert GOLDEN["two_stage_sketch_hetero"]["error"] < 1e-12
    told = GOLDEN["dp_noise_energy_example"]
    variance = told["sigma"] ** 2
    assert variance * told["m"] * told["||A||_F^2"] == pytest.approx(told["ffa_general"])
    assert variance * told["m"] * told["r"] == pytest.approx(told["ffa_A_orthonormal"])
    assert variance * told["r"] ** 2 == pytest.approx(told["fed_sb_orthonormal"])
    assert told["fed_sb_orthonormal"] < told["ffa_general"] < told["fedit_linear"]


def test_the_invariants():
    told = GOLDEN["invariants"]
    pairs, many = pairs_of("homo"), pairs_of("hetero")
    close = {"abs": 2e-5}
    turned = [many[2], many[0], many[1]]
    weights = [NUM_EXAMPLES[2], *NUM_EXAMPLES[:2]]
    moved = np.linalg.norm(flora(turned, weights) - flora(many))
    assert moved == pytest.approx(told["permutation_invariance_flora"], **close)
    same = [pairs[0]] * 3
    alone = product(pairs[0])
    assert np.linalg.norm(fedit(same) - alone) == pytest.approx(
        told["identical_clients_fedit_exact"], **close
    )
    assert np.linalg.norm(fair(same, 0.01) - alone) == pytest.approx(
        told["identical_clients_fair_delta_B"], **close
    )
    singles = [flora(pairs[:1], [1.0]), fedit(pairs[:1], [1.0]), fair(pairs[:1], 0.01, [1.0])]
    assert max(np.linalg.norm(s - alone) for s in singles) == pytest.approx(
        told["single_client_all_equal"], **close
    )
    turn = torch.tensor([[2.0, 1.0], [1.0, 1.0]])
    gauge = FactorPair(B=pairs[0].B @ turn, A=torch.linalg.solve(turn, pairs[0].A))
    others = [gauge, *pairs[1:]]
    assert np.linalg.norm(flora(others) - flora(pairs)) == pytest.approx(
        told["gauge_change_moves_ideal"], **close
    )
    assert np.linalg.norm(fedit(others) - fedit(pairs)) == pytest.approx(
        told["gauge_change_moves_fedit"], rel=1e-5
    )
    assert np.linalg.norm(fair(others, 0.0) - fair(pairs, 0.0)) == pytest.approx(
        told["gauge_change_moves_fair_lambda0"], rel=1e-4
    )
    seven = [7 * n for n in NUM_EXAMPLES]
    assert np.linalg.norm(flora(many, seven) - flora(many)) == pytest.approx(
        told["weight_scale_invariance"], **close
    )
    halves = [NUM_EXAMPLES[0] / 2, *NUM_EXAMPLES[1:], NUM_EXAMPLES[0] / 2]
    assert np.linalg.norm(flora([*many, many[0]], halves) - flora(many)) == pytest.approx(
        told["duplicate_client_split_weight"], **close
    )
    ideal = flora(pairs)
    rest = factor_svd(stack(pairs, P))[1][2:]
    order = [
        float(np.linalg.norm(ideal - fedit(pairs))),
        float(np.linalg.norm(ideal - fair(pairs, 0.01))),
        float(np.linalg.norm(ideal - fair(pairs, 0.0))),
        float(rest.square().sum().sqrt()),
    ]
    assert order == pytest.approx(told["error_order_fedit>=fair(.01)>=fair(0)>=svd_r"], rel=1e-5)
    assert order == sorted(order, reverse=True)


TABLE = [
    ("bert_base_qv_m768_n768_K3_r32", (768, 768), [32] * 3, 32),
    ("llama7b_q_m4096_n4096_K10_r16", (4096, 4096), [16] * 10, 16),
    ("flora_hetero_K10", (4096, 4096), [64, 32, 16, 16, 8, 8, 4, 4, 4, 4], 16),
]
UP = {
    "fedit_up": "fedit",
    "fedex_up": "fedex",
    "lora_fair_up": "lora-fair",
    "ffa_up": "ffa",
    "fedsa_up": "fedsa",
    "fedsb_up": "fed-sb",
    "rolora_up_avg": "rolora",
}
DOWN = {
    "fedit_down": "fedit",
    "lora_fair_down": "lora-fair",
    "ffa_down": "ffa",
    "fedsa_down": "fedsa",
    "fedsb_down": "fed-sb",
}
EACH = {"flora_up": "flora", "flexlora_up": "flexlora", "zero_pad_up": "zero-pad"}
EACH_DOWN = {"flexlora_down": "flexlora", "zero_pad_down": "zero-pad"}
SUMS = {"flora_total", "flora_lossless_svd_down_each", "full_ft"}
NOT_OURS = {
    "fedsvd_up",
    "fedsvd_down",
    "fedask_up",
    "lora_fair_secagg_up",
}  # methods and modes that are not here


def scales(method):
    """We send one scale a layer, which the papers do not count."""
    return 0 if method == "fed-sb" else 1


@pytest.mark.parametrize(("key", "shape", "ranks", "rank"), TABLE)
def test_floats_are_those_of_the_table_of_communication(key, shape, ranks, rank):
    told, shapes = GOLDEN["communication_examples"][key], {"q": shape}
    seen = set(NOT_OURS)
    for name, method in UP.items():
        assert floats_up(method, shapes, rank, 0) - scales(method) == told[name]
        seen.add(name)
    for name, method in DOWN.items():
        assert floats_down(method, shapes, ranks, rank, 0, 1) - scales(method) == told[name]
        seen.add(name)
    for name, method in EACH.items():
        assert [floats_up(method, shapes, r, 0) - 1 for r in ranks] == told[name]
        seen.add(name)
    for name, method in EACH_DOWN.items():
        assert [floats_down(method, shapes, ranks, r, 0, 1) - 1 for r in ranks] == told[name]
        seen.add(name)
    stacked = floats_down("flora", shapes, ranks, rank, 0, 1) - 1
    m, n = shape
    assert stacked == told["flora_down_each"] == told["flora_lossless_svd_down_each"]
    assert sum(told["flora_up"]) + len(ranks) * stacked == told["flora_total"]
    if len(set(ranks)) == 1:  # fedex takes one rank
        fedex = floats_down("fedex", shapes, ranks, rank, 0, 1) - 2
        assert fedex == told["fedex_down_each"]
    assert m * n == told["full_ft"]
    seen |= SUMS | {"flora_down_each", "fedex_down_each"}
    assert set(told) == seen


def test_a_ridge_of_nothing_is_the_recipes_default_apart_from_its_unit():
    """The method's ridge is relative to the size of A; the told lambdas are absolute."""
    pairs = pairs_of("homo")
    reduction = LoraFair(ridge=0.0).reduce(AdapterState(), updates_of(pairs))
    np.testing.assert_allclose(product(reduction.state.lora["q"]), fair(pairs, 0.0), **CLOSE)
