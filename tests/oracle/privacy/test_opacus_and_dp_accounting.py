"""Our RDP and PLD against other accountants."""

from __future__ import annotations

import math

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import RDPAccountant as OpacusRdpAccountant

from privacy.accounting import _ORDERS, epsilon_pld, epsilon_rdp
from privacy.events import PoissonGaussianEvent

SETTINGS = [(1.0, 0.064, 200), (1.1, 256 / 60_000, 1_000), (4.0, 1.0, 1), (2.0, 0.3, 30), (0.8, 0.02, 50)]


def event(noise, rate, steps) -> PoissonGaussianEvent:
    return PoissonGaussianEvent(noise_multiplier=noise, sampling_rate=rate, num_steps=steps)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("delta", [1e-3, 1e-5])
def test_own_rdp_equals_dp_accounting_at_the_same_orders(setting, delta):
    noise, rate, steps = setting
    accountant = RdpAccountant(orders=list(_ORDERS))
    accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise)), steps)
    theirs = accountant.get_epsilon(delta)
    assert epsilon_rdp([event(*setting)], delta) == pytest.approx(theirs, rel=1e-4)


@pytest.mark.filterwarnings("ignore:Optimal order")
@pytest.mark.parametrize("setting", SETTINGS)
def test_pld_is_below_the_rdp_of_opacus_which_is_not_above_ours(setting):
    noise, rate, steps = setting
    accountant = OpacusRdpAccountant()
    accountant.history = [(noise, rate, steps)]
    theirs = accountant.get_epsilon(delta=1e-5)
    assert epsilon_pld([event(*setting)], 1e-5) <= theirs
    assert theirs <= epsilon_rdp([event(*setting)], 1e-5) * 1.01
    assert math.isfinite(theirs)


def test_replacing_an_example_costs_what_the_threat_model_says():
    accountant = PLDAccountant(
        dp_accounting.NeighboringRelation.REPLACE_ONE, value_discretization_interval=1e-3
    )
    accountant.compose(dp_accounting.PoissonSampledDpEvent(0.064, dp_accounting.GaussianDpEvent(1.0)), 200)
    assert accountant.get_epsilon(1e-5) == pytest.approx(9.415, abs=0.01)
    assert epsilon_pld([event(1.0, 0.064, 200)], 1e-5) == pytest.approx(6.181, abs=0.002)
