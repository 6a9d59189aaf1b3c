"""Weights of a round: a clip that is always on, and rules that come after it."""

import math

import pytest
import torch

from aggregation.adapter import AdapterState
from aggregation.geometry import state_gram
from aggregation.options import least_clients
from aggregation.weighing import RobustOptions, Size, balanced_gram, weigh

ONE = Size(change=1.0, factors=1.0)


def sizes(*norms):
    return [Size(change=n) for n in norms]


def gram_of(vectors):
    return state_gram([AdapterState(dense={"v": torch.tensor(v)}) for v in vectors])


def test_where_nobody_is_over_the_bound_weights_stay_bit_for_bit():
    weights = [0.1, 0.7, 3.0]
    found = weigh(sizes(1.0, 2.0, 9.9), weights, RobustOptions())
    assert found.weights == tuple(weights)
    assert [v.outcome for v in found.verdicts] == ["", "", ""]
    assert sum(v.share for v in found.verdicts) == pytest.approx(1)
    assert found.bound == 20


def test_nobody_pulls_farther_than_the_factor_times_the_median():
    found = weigh(sizes(1.0, 1.0, 1.0, 1e6), [1.0] * 4, RobustOptions(clip_factor=3))
    assert found.verdicts[3].outcome == "clipped"
    assert found.weights[3] * 1e6 == pytest.approx(3.0)
    assert found.weights[:3] == (1.0, 1.0, 1.0)
    off = weigh(sizes(1.0, 1.0, 1.0, 1e6), [1.0] * 4, RobustOptions(clip_factor=1e9))
    assert off.weights[3] == 1.0  # positive control: it is the clip that does it


def test_half_of_the_clients_can_not_raise_the_bound():
    found = weigh(sizes(1.0, 1.0, 1e6, 1e6), [1.0] * 4, RobustOptions(clip_factor=10))
    assert found.bound == 10
    assert [v.outcome for v in found.verdicts] == ["", "", "clipped", "clipped"]


def test_huge_factors_of_a_harmless_product_are_bounded_where_factors_are_averaged():
    hidden = Size(change=1.0, factors=1e6)
    plain = weigh([ONE, ONE, hidden], [1.0] * 3, RobustOptions())
    assert plain.weights == (1.0, 1.0, 1.0)
    bounded = weigh([ONE, ONE, hidden], [1.0] * 3, RobustOptions(), bounds_factors=True)
    assert bounded.weights[2] * 1e6 == pytest.approx(10)
    assert bounded.verdicts[2].outcome == "clipped"


def test_where_weights_do_not_bind_who_is_over_the_bound_is_left_out():
    found = weigh(sizes(1.0, 1.0, 1e3), [1.0] * 3, RobustOptions(), weights_bind=False)
    assert found.weights == (1.0, 1.0, 0.0)
    assert found.verdicts[2].outcome == "rejected"
    assert found.verdicts[2].share == 0


def test_where_each_is_over_the_bound_of_another_part_nobody_is_left_and_that_is_said():
    odd = [Size(change=1.0, heads=100.0), Size(change=100.0, heads=1.0)]
    with pytest.raises(ValueError, match="nobody is left"):
        weigh(odd, [1.0] * 2, RobustOptions(), weights_bind=False)
    counted = weigh(odd, [1.0] * 2, RobustOptions())  # where weights bind, both count in part
    assert [v.outcome for v in counted.verdicts] == ["clipped", "clipped"]


def test_a_round_in_which_nobody_moved_is_no_ones_fault():
    found = weigh(sizes(0.0, 0.0, 5.0), [1.0] * 3, RobustOptions())
    assert found.weights == (1.0, 1.0, 1.0)
    assert math.isinf(found.bound)


VECTORS = [[1.0, 0.1], [1.0, -0.1], [0.9, 0.0], [1.1, 0.05], [-5.0, 0.0]]


@pytest.mark.parametrize("rule", ["multi_krum", "trimmed", "geometric_median"])
def test_a_rule_gives_little_or_nothing_to_the_one_that_lies_apart(rule):
    norms = [math.hypot(*v) for v in VECTORS]
    options = RobustOptions(rule=rule)
    found = weigh(sizes(*norms), [1.0] * 5, options, gram=gram_of(VECTORS))
    mean = sum(v.share * vector[0] for v, vector in zip(found.verdicts, VECTORS, strict=True))
    plain = sum(v[0] for v in VECTORS) / 5
    assert abs(mean - 1) < 0.2
    assert abs(plain - 1) > 1  # positive control: the mean does not survive
    if rule != "geometric_median":
        assert found.verdicts[4].outcome == "rejected"


def test_a_rule_reads_the_clients_weights():
    options = RobustOptions(rule="trimmed")
    found = weigh(sizes(1, 1, 1, 1, 5), [4.0, 1.0, 1.0, 1.0, 1.0], options, gram=gram_of(VECTORS))
    assert found.verdicts[0].share == pytest.approx(4 / 7)


def test_what_can_not_be_weighed_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        weigh([], [], RobustOptions())
    with pytest.raises(ValueError, match="Gram"):
        weigh(sizes(1.0), [1.0], RobustOptions(rule="multi_krum"))
    with pytest.raises(ValueError, match="outvote"):
        weigh(sizes(1, 1, 1, 1), [1.0] * 4, RobustOptions(rule="multi_krum"), gram=gram_of(VECTORS[:4]))
    with pytest.raises(ValueError, match="clip_factor"):
        RobustOptions(clip_factor=0.5)


def test_the_number_of_clients_that_a_rule_needs():
    needed = {r: least_clients(r, 2) for r in ("multi_krum", "trimmed", "none")}
    assert needed == {"multi_krum": 7, "trimmed": 5, "none": 1}


def test_a_huge_change_of_the_layers_does_not_hide_beside_heads_that_move_far():
    heads = 1000.0
    quiet, loud = Size(change=1.0, heads=heads), Size(change=500.0, heads=heads)
    found = weigh([quiet, quiet, loud], [1.0] * 3, RobustOptions())
    assert found.verdicts[2].outcome == "clipped"
    assert found.weights[2] * 500 == pytest.approx(10)
    together = weigh([Size(change=size.norm) for size in (quiet, quiet, loud)], [1.0] * 3, RobustOptions())
    assert together.verdicts[2].outcome == ""  # positive control: as one vector it would pass
    assert found.verdicts[2].change_norm == pytest.approx(math.hypot(500, 1000))


def test_a_rule_sees_a_reversed_adapter_under_heads_that_differ_by_more():
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(6, generator=generator)
    changes = [
        AdapterState(
            cores={"q": (honest if k else -3 * honest) + 0.1 * torch.randn(6, generator=generator)},
            dense={"head": 100 + 50 * torch.randn(20, generator=generator)},
        )
        for k in range(7)
    ]
    sizes_ = [Size(change=float(c.cores["q"].norm()), heads=float(c.dense["head"].norm())) for c in changes]
    options = RobustOptions(rule="trimmed")
    seen = weigh(sizes_, [1.0] * 7, options, gram=balanced_gram(changes))
    assert seen.verdicts[0].outcome == "rejected"
    unseen = weigh(sizes_, [1.0] * 7, options, gram=state_gram(changes))
    assert unseen.verdicts[0].outcome == ""  # positive control: as one vector the heads decide
