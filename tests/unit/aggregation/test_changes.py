"""What a client changed: as numbers that add up again, and as products that do not depend on the gauge."""

import pytest
import torch

from aggregation.adapter import AdapterState, FactorPair, HalfPair
from aggregation.changes import change_norm, factor_move, moves, numbers, product_change, with_moves
from aggregation.geometry import norms, state_gram
from aggregation.serialize import to_bytes


def pair(seed, m=7, n=5, r=2, scale=2.0, size=1.0):
    g = torch.Generator().manual_seed(seed)
    return FactorPair(B=size * torch.randn(m, r, generator=g), A=torch.randn(r, n, generator=g), scale=scale)


def state(seed):
    g = torch.Generator().manual_seed(seed)
    return AdapterState(
        lora={"x": pair(seed), "y": pair(seed + 1, 4, 9, 3)},
        halves={"h": HalfPair(side="B", value=torch.randn(4, 2, generator=g), scale=2.0)},
        cores={"c": torch.randn(3, 3, generator=g)},
        dense={"head": torch.randn(2, 4, generator=g)},
    )


def dense_norm(now, start):
    """The plain answer: multiply everything out."""
    total = 0.0
    for layer, p in now.lora.items():
        s = start.lora[layer]
        moved = p.scale * p.B.double() @ p.A.double() - s.scale * s.B.double() @ s.A.double()
        total += float(moved.square().sum())
    for layer, h in now.halves.items():
        total += float(
            (h.scale * h.value - start.halves[layer].scale * start.halves[layer].value).square().sum()
        )
    for kind in ("cores", "dense"):
        for k, v in getattr(now, kind).items():
            total += float((v - getattr(start, kind)[k]).square().sum())
    return total**0.5


def test_a_start_and_its_moves_give_the_state_back():
    now, start = state(1), state(5)
    back = with_moves(start, moves(now, start))
    for key, value in numbers(now).items():
        torch.testing.assert_close(numbers(back)[key], value)
    assert to_bytes(with_moves(now, moves(now, now))) == to_bytes(now)
    assert not any(key.endswith("scale") for key in moves(now, start))


def test_moves_of_other_names_or_shapes_are_refused():
    now = state(1)
    with pytest.raises(ValueError, match="names of tensors differ"):
        moves(AdapterState(cores=now.cores), now)
    with pytest.raises(ValueError, match="shapes differ"):
        with_moves(now, {**moves(now, now), "core/c": torch.zeros(1, 1)})


def test_the_norm_is_that_of_the_products_multiplied_out():
    now, start = state(1), state(5)
    assert change_norm(now, start) == pytest.approx(dense_norm(now, start), rel=1e-6)
    gram = state_gram([product_change(now, start)])
    assert float(norms(gram)[0]) == pytest.approx(dense_norm(now, start), rel=1e-6)
    assert change_norm(now, now) == 0
    assert factor_move(now, now) == 0


def test_the_norm_does_not_depend_on_the_gauge_and_the_factors_move_does():
    start, now = AdapterState(lora={"x": pair(1)}), AdapterState(lora={"x": pair(2)})
    p = now.lora["x"]
    hidden = AdapterState(lora={"x": FactorPair(B=p.B * 1024, A=p.A / 1024, scale=p.scale)})
    assert change_norm(hidden, start) == pytest.approx(change_norm(now, start), rel=1e-6)
    assert factor_move(hidden, start) > 100 * factor_move(now, start)


def test_a_small_change_of_a_large_product_keeps_its_digits():
    """The difference of two Gram matrices would read the rounding of the large product instead."""
    start = pair(1, 40, 30, 4, size=1e4)
    step = 1e-9 * torch.randn(start.A.shape, generator=torch.Generator().manual_seed(9)).double()
    now = FactorPair(B=start.B.double(), A=start.A.double() + step, scale=start.scale)
    truth = float((start.scale * start.B.double() @ step).norm())
    found = change_norm(AdapterState(lora={"x": now}), AdapterState(lora={"x": start}))
    assert found == pytest.approx(truth, rel=1e-6)
    gram = state_gram([AdapterState(lora={"x": p}) for p in (now, start)])
    whole = float(gram[0, 0] - 2 * gram[0, 1] + gram[1, 1])
    assert abs(max(whole, 0) ** 0.5 - truth) > 1e-3 * truth  # positive control


def test_layers_that_started_from_nothing_count_from_zero_and_other_ranks_are_compared():
    now = AdapterState(lora={"x": pair(1)})
    assert change_norm(now, AdapterState()) == pytest.approx(
        float((2.0 * now.lora["x"].B @ now.lora["x"].A).norm()), rel=1e-5
    )
    start = AdapterState(lora={"x": pair(3, r=4)})
    assert change_norm(now, start) == pytest.approx(dense_norm(now, start), rel=1e-5)
