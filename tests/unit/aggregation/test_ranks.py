"""Cutting products to a rank: the best that there is, and its error told."""

import pytest
import torch

from aggregation.adapter import FactorPair
from aggregation.ranks import truncated


def pair(rank, m=12, n=9, scale=1.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    return FactorPair(B=torch.randn(m, rank, generator=g), A=torch.randn(rank, n, generator=g), scale=scale)


def dense(p):
    return p.scale * (p.B.double() @ p.A.double())


def test_the_cut_is_the_best_of_its_rank_and_the_error_is_what_was_cut():
    product = {"q": pair(5, scale=2.0), "v": pair(2, m=7, seed=1), "k": pair(14, seed=2)}
    result = truncated(product, 3)
    missed, whole = 0.0, 0.0
    for layer, p in product.items():
        s = torch.linalg.svdvals(dense(p))
        missed += float(s[3:].square().sum())
        whole += float(s.square().sum())
        assert result.product[layer].lora_rank <= 3
        assert float((dense(p) - dense(result.product[layer])).norm()) == pytest.approx(
            float(s[3:].norm()), rel=1e-4, abs=1e-5
        )
    assert result.relative_error == pytest.approx((missed / whole) ** 0.5, rel=1e-5)
    first = {k: FactorPair(B=p.B[:, :3], A=p.A[:3], scale=p.scale) for k, p in product.items()}
    naive = sum(float((dense(product[k]) - dense(first[k])).square().sum()) for k in product)
    assert naive > 1.5 * missed  # positive control: the first columns are not the best ones


def test_what_fits_is_left_bit_for_bit():
    product = {"q": pair(3, scale=2.0)}
    result = truncated(product, 3)
    assert result.product["q"] is product["q"]
    assert result.relative_error == 0
    assert truncated({}, 3).relative_error == 0


def test_a_product_of_zero_has_no_error():
    zero = FactorPair(B=torch.zeros(4, 3), A=torch.ones(3, 4))
    assert truncated({"q": zero}, 1).relative_error == 0


def test_a_rank_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        truncated({}, 0)
