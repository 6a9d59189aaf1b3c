"""How far a base has moved, from factors and rows, against dense matrices."""

import math

import pytest
import torch

from aggregation.adapter import FactorPair
from aggregation.drift import layer_drift, together, transposed


def draw(m=7, n=5, r=3, seed=0, scale=1.7):
    g = torch.Generator().manual_seed(seed)
    pair = FactorPair(B=torch.randn(m, r, generator=g), A=torch.randn(r, n, generator=g), scale=scale)
    return pair, torch.randn(m, n, generator=g), torch.randn(m, n, generator=g)


@pytest.mark.parametrize("step", [1, 3, 7, 100])
def test_rows_passing_by_give_the_dense_figures(step):
    pair, old, new = draw()
    drift = layer_drift(pair, zip(old.split(step), new.split(step), strict=True))
    delta, change = pair.scale * pair.B.double() @ pair.A.double(), new.double() - old.double()
    assert drift.ratio == pytest.approx(float(change.norm() / delta.norm()), rel=1e-12)
    assert drift.cosine == pytest.approx(
        float((change * delta).sum() / change.norm() / delta.norm()), abs=1e-12
    )


def test_a_transposed_base_gives_the_same_figures():
    pair, old, new = draw()
    straight = layer_drift(pair, [(old, new)])
    turned = layer_drift(transposed(pair), [(old.T, new.T)])
    assert turned.ratio == pytest.approx(straight.ratio, rel=1e-12)
    assert turned.cosine == pytest.approx(straight.cosine, abs=1e-12)
    crossed = layer_drift(FactorPair(B=pair.A.T, A=pair.B.T, scale=-pair.scale), [(old.T, new.T)])
    assert crossed.cosine == pytest.approx(-straight.cosine, abs=1e-12)  # positive control


def test_a_base_that_moved_by_the_adapter_has_ratio_and_cosine_one():
    pair, old, _ = draw()
    drift = layer_drift(pair, [(old.double(), old.double() + pair.scale * pair.B.double() @ pair.A.double())])
    assert drift.ratio == pytest.approx(1, rel=1e-12)
    assert drift.cosine == pytest.approx(1, rel=1e-12)


def test_where_one_stands_still_there_is_no_cosine():
    pair, old, new = draw()
    still = layer_drift(pair, [(old, old)])
    assert (still.ratio, math.isnan(still.cosine)) == (0.0, True)
    silent = layer_drift(FactorPair(B=0 * pair.B, A=pair.A), [(old, new)])
    assert (silent.ratio, math.isnan(silent.cosine)) == (math.inf, True)


def test_layers_together_are_one_vector():
    (p, o, w), (q, x, y) = draw(seed=1), draw(seed=2, scale=0.3)
    both = together([layer_drift(p, [(o, w)]), layer_drift(q, [(x, y)])])
    delta = torch.cat([p.scale * p.B.double() @ p.A.double(), q.scale * q.B.double() @ q.A.double()])
    change = torch.cat([w, y]).double() - torch.cat([o, x]).double()
    assert both.ratio == pytest.approx(float(change.norm() / delta.norm()), rel=1e-12)
    assert both.cosine == pytest.approx(
        float((change * delta).sum() / change.norm() / delta.norm()), abs=1e-12
    )


@pytest.mark.parametrize("cut", [(6, 5), (8, 5), (7, 4)])
def test_rows_that_are_not_the_layers_are_refused(cut):
    pair, *_ = draw()
    with pytest.raises(ValueError, match="rows"):
        layer_drift(pair, [(torch.zeros(cut), torch.zeros(cut))])
    with pytest.raises(ValueError, match="do not fit"):
        layer_drift(pair, [(torch.zeros(7, 5), torch.zeros(7, 1))])
