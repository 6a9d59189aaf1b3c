"""The table of options is held to what the code does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aggregation.adapter import AdapterState, ClientUpdate, FactorPair
from aggregation.methods import METHODS
from aggregation.options import (
    AVERAGES_FACTORS,
    CLASHES,
    OPTIONS,
    as_markdown,
    clash,
    mixed_rule_refusal,
    option_refusal,
    weights_bind,
)
from aggregation.serialize import flatten
from aggregation.server_optimizer import LINEAR_METHODS

ROOT = Path(__file__).resolve().parents[3]
SHAPES = {"q": (12, 9), "v": (7, 10)}
EVERY = pytest.mark.parametrize("name", sorted(METHODS))


def started(name, rank=3):
    return METHODS[name].initial_state(SHAPES, lora_rank=rank, scale=2.0, dense={}, seed=0)


def sent(name, state, k, rank=3):
    """What client k sends: random values of the right kind and rank."""
    method, g = METHODS[name], torch.Generator().manual_seed(k)
    start = method.local_start(
        method.starting_point(state, lora_rank=rank, scale=2.0),
        layer_shapes=SHAPES, lora_rank=rank, scale=2.0, seed=0, fresh_seed=k,
    )  # fmt: skip
    lora = {
        layer: FactorPair(
            B=torch.randn(p.B.shape, generator=g), A=torch.randn(p.A.shape, generator=g), scale=p.scale
        )
        for layer, p in start.lora.items()
    }
    cores = {layer: torch.randn(c.shape, generator=g) for layer, c in start.cores.items()}
    return method.trained_part(AdapterState(lora=lora, cores=cores), 0)


def reduced(name, state, states, weights):
    updates = [
        ClientUpdate(client_id=f"c{k}", weight=w, state=s)
        for k, (s, w) in enumerate(zip(states, weights, strict=True))
    ]
    return flatten(METHODS[name].reduce(state, updates).state)


def test_each_no_has_a_reason_and_a_way_out_that_says_yes():
    refused = 0
    for option in OPTIONS:
        for name in METHODS:
            no = option_refusal(name, option)
            if no is not None:
                refused += 1
                assert no.reason
                assert option_refusal(no.instead, option) is None, (name, option)
    assert refused > 10
    with pytest.raises(KeyError, match="there are"):
        option_refusal("fedavg", "robust_rule")


@EVERY
def test_a_client_of_vanishing_weight_vanishes_where_weights_bind(name):
    """With mixed ranks the last client alone has the last components: the case in which some means do not bind."""
    mixed = METHODS[name].allows_mixed_ranks
    state = started(name)
    states = [sent(name, state, k, rank=2 if mixed and k < 2 else 3) for k in range(3)]
    states[2] = sent(name, state, 7)
    one = reduced(name, state, states, [1.0, 1.0, 1e-9])
    other = reduced(name, state, [*states[:2], sent(name, state, 8)], [1.0, 1.0, 1e-9])
    products = METHODS[name].product if name not in ("fed-sb", "fedsa") else None
    if products is not None:
        one, other = (
            {
                k: p.scale * p.B @ p.A
                for k, p in products(METHODS[name].reduce(state, _weighed(last)).state).items()
            }
            for last in ([*states], [*states[:2], sent(name, state, 8)])
        )
    same = all(torch.allclose(one[k], other[k], atol=1e-3) for k in one)
    assert same == weights_bind(name, mixed_ranks=mixed)


def _weighed(states):
    return [
        ClientUpdate(client_id=f"c{k}", weight=w, state=s)
        for k, (s, w) in enumerate(zip(states, [1.0, 1.0, 1e-9], strict=True))
    ]


def test_mixed_ranks_refuse_a_rule_where_one_rank_does_not():
    assert {n for n in METHODS if mixed_rule_refusal(n) and not option_refusal(n, "robust_rule")} == {
        "rank-index",
        "fedsa",
    }


def test_the_server_optimiser_goes_with_the_linear_methods_and_no_other():
    assert {n for n in METHODS if option_refusal(n, "server_optimizer") is None} == LINEAR_METHODS


@EVERY
def test_factors_are_bounded_where_a_harmless_product_with_huge_factors_moves_the_result(name):
    """The attack of hidden gauges: the same product, B and A a thousand times larger and smaller."""
    if METHODS[name].trains == "core" or name in ("ffa", "rolora", "fedsa"):
        assert name not in AVERAGES_FACTORS
        return
    state = started(name)
    states = [sent(name, state, k) for k in range(3)]
    hidden = AdapterState(
        lora={k: FactorPair(B=p.B * 1e3, A=p.A / 1e3, scale=p.scale) for k, p in states[2].lora.items()}
    )
    results = []
    for last in (states[2], hidden):
        updates = [
            ClientUpdate(client_id=f"c{k}", weight=1.0, state=s) for k, s in enumerate([*states[:2], last])
        ]
        after = METHODS[name].reduce(state, updates).state
        results.append({k: p.scale * p.B @ p.A for k, p in METHODS[name].product(after).items()})
    moved = max(float((results[0][k] - results[1][k]).norm() / results[0][k].norm()) for k in results[0])
    if name == "fedex":  # its product is exact whatever the factors are; they alone blow up
        assert moved < 1e-3
    else:
        assert (moved > 0.1) == (name in AVERAGES_FACTORS)


def test_clashes_are_between_two_options_and_say_what_to_do():
    assert clash("compression", "secure sums") == clash("secure sums", "compression") is not None
    assert clash("compression", "robust.rule") is None
    assert all(len(pair) == 2 and reason and remedy for pair, (reason, remedy) in CLASHES.items())


def test_the_page_holds_the_table_of_options():
    assert as_markdown() in (ROOT / "docs/methods.md").read_text(encoding="utf-8")


def test_the_options_can_be_read_without_torch():
    code = "import sys, aggregation.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
