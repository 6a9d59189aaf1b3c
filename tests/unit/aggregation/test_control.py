"""Control variates: the mean is the mean of the clients', and drift goes where data differ."""

import pytest
import torch

from aggregation.adapter import AdapterState, ClientUpdate, FactorPair, HalfPair
from aggregation.control import ControlTally, shifted, trained_values
from aggregation.errors import MalformedUpdateError
from aggregation.serialize import from_bytes, to_bytes

STEPS, RATE = 5, 0.2
RATES = {"dense/x": RATE}


def state(value):
    return AdapterState(dense={"x": value})


class Quadratics:
    """Clients with losses 1/2 a_i (x - t_i)^2 of unlike curvature, so that plain local steps drift."""

    def __init__(self, curvatures=(0.2, 1.0, 4.0), targets=(5.0, 0.0, -1.0)):
        self.a, self.t = (torch.tensor(v, dtype=torch.float64) for v in (curvatures, targets))
        self.optimum = float((self.a * self.t).sum() / self.a.sum())
        self.own = [{} for _ in self.a]
        self.control = {}
        self.x = torch.zeros(1)

    def trained(self, i, correct=True):
        y = self.x.double().clone()
        for _ in range(STEPS):
            step = self.a[i] * (y - self.t[i])
            if correct:
                zero = torch.zeros(1, dtype=torch.float64)
                step = step + self.control.get("dense/x", zero) - self.own[i].get("dense/x", zero)
            y = y - RATE * step
        return y

    def round(self, asked=None, *, correct=True, lost=(), forgets_loss=True):
        """One round; the replies of ``lost`` do not arrive. ``forgets_loss``: their variates are not in force."""
        tally, start, ended = ControlTally(), {"dense/x": self.x}, {}
        before = dict(self.control)
        for i in range(len(self.a)) if asked is None else asked:
            y = self.trained(i, correct)
            if i not in lost or not forgets_loss:
                self.own[i] = shifted(
                    self.own[i], before, start, {"dense/x": y}, num_steps=STEPS, rates=RATES
                )
            if i not in lost:
                ended[i] = y
        updates = [ClientUpdate(client_id=str(i), weight=1.0, state=state(y)) for i, y in ended.items()]
        assert list(tally.watch(updates)) == updates
        if correct:
            self.control = tally.next_control(
                before, start, num_steps=STEPS, rates=RATES, num_clients=len(self.a)
            )
        self.x = torch.stack(list(ended.values())).mean(0).float()

    def gap(self):
        zero = torch.zeros(1, dtype=torch.float64)
        mean = torch.stack([own.get("dense/x", zero) for own in self.own]).mean(0)
        return float((self.control["dense/x"].double() - mean).abs())


def test_clients_of_unlike_data_reach_the_common_optimum_and_without_variates_they_do_not():
    ours, plain = Quadratics(), Quadratics()
    for _ in range(60):
        ours.round()
        plain.round(correct=False)
    assert abs(float(ours.x) - ours.optimum) < 1e-4
    assert abs(float(plain.x) - plain.optimum) > 0.1


def test_the_mean_variate_is_the_mean_of_the_clients_own_whoever_takes_part():
    problem = Quadratics()
    for asked in ((0, 1, 2), (0,), (1, 2), (0, 2), (1,)):
        problem.round(asked)
        assert problem.gap() < 1e-5


def test_a_reply_that_was_lost_leaves_no_trace_if_its_variate_is_not_in_force():
    ours, broken = Quadratics(), Quadratics()
    for problem, forgets in ((ours, True), (broken, False)):
        problem.round()
        problem.round(lost=(2,), forgets_loss=forgets)
        problem.round()
        problem.round()
    assert ours.gap() < 1e-5
    assert broken.gap() > 0.1


def test_the_first_rounds_variate_is_the_mean_gradient_of_the_steps():
    problem = Quadratics(curvatures=(0.0, 0.0), targets=(0.0, 0.0))
    moved = {"dense/x": torch.tensor([-3.0])}
    got = shifted({}, {}, {"dense/x": problem.x}, moved, num_steps=3, rates={"dense/x": 0.5})
    assert float(got["dense/x"]) == pytest.approx(2.0)


def test_each_rate_is_that_of_its_tensor():
    start = {"A/q": torch.zeros(1), "dense/x": torch.zeros(1)}
    end = {k: v - 1 for k, v in start.items()}
    got = shifted({}, {}, start, end, num_steps=2, rates={"A/q": 0.1, "dense/x": 1.0})
    assert (float(got["A/q"]), float(got["dense/x"])) == (5.0, 0.5)


def test_what_does_not_fit_is_refused():
    start = {"dense/x": torch.zeros(2)}
    with pytest.raises(ValueError, match="a variate is"):
        shifted({"dense/x": torch.zeros(1)}, {}, start, start, num_steps=1, rates=RATES)
    tally = ControlTally()
    with pytest.raises(ValueError, match="0 of 3"):
        tally.next_control({}, start, num_steps=1, rates=RATES, num_clients=3)
    list(tally.watch([ClientUpdate(client_id=c, weight=1.0, state=state(torch.zeros(2))) for c in "ab"]))
    with pytest.raises(ValueError, match="2 of 1"):
        tally.next_control({}, start, num_steps=1, rates=RATES, num_clients=1)


def test_values_are_named_by_kind_and_layer():
    values = trained_values(
        AdapterState(
            lora={"q": FactorPair(B=torch.ones(3, 1), A=torch.ones(1, 2))},
            halves={"v": HalfPair(side="B", value=torch.ones(3, 1))},
            cores={"k": torch.ones(2, 2)},
            dense={"head.weight": torch.ones(1)},
        )
    )
    assert sorted(values) == ["A/q", "B/q", "B/v", "core/k", "dense/head.weight"]


def test_a_variate_travels_beside_the_model_and_only_under_its_own_kinds():
    whole = AdapterState(
        dense={"x": torch.ones(2)}, control={"A/q": torch.ones(1, 2), "dense/x": torch.ones(2)}
    )
    back = from_bytes(to_bytes(whole))
    assert sorted(back.control) == ["A/q", "dense/x"]
    assert sorted(back.dense) == ["x"]
    assert to_bytes(back) == to_bytes(whole)
    with pytest.raises(MalformedUpdateError, match="bad_key"):
        to_bytes(AdapterState(control={"scale/q": torch.ones(1)}))
