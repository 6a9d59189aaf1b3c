"""Messages of fewer bits, and what they leave for the next."""

import math

import pytest
import torch

from aggregation.adapter import AdapterState, FactorPair
from aggregation.changes import moves
from aggregation.compression import Scheme
from aggregation.errors import MalformedUpdateError
from aggregation.serialize import to_bytes
from client.errors import ClientError
from client.packing import Residuals, packed, whole

SCHEMES = [Scheme(kind="bf16"), Scheme(kind="int8"), Scheme(kind="int4"), Scheme(kind="ternary", density=0.2)]


def state(seed, size=1.0):
    g = torch.Generator().manual_seed(seed)
    pair = FactorPair(
        B=size * torch.randn(9, 3, generator=g), A=size * torch.randn(3, 7, generator=g), scale=2.0
    )
    return AdapterState(lora={"x": pair}, dense={"head": size * torch.randn(2, 7, generator=g)})


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.kind)
def test_the_error_that_is_told_is_that_of_what_is_read(scheme):
    start, trained = state(1), state(2)
    message, left = packed(trained, start, scheme, {})
    sent, read = moves(trained, start), moves(message.read, start)
    miss = math.sqrt(sum(float((sent[k] - read[k]).square().sum()) for k in sent))
    size = math.sqrt(sum(float(v.square().sum()) for v in sent.values()))
    assert message.error == pytest.approx(miss / size, rel=1e-3)
    for key, value in left.items():
        torch.testing.assert_close(value, sent[key] - read[key], atol=1e-5, rtol=1e-4)


def test_whole_values_are_their_own_bytes():
    trained = state(1)
    assert whole(trained).payload == to_bytes(trained)
    assert whole(trained).error == 0


@pytest.mark.parametrize("scheme", SCHEMES[1:], ids=lambda s: s.kind)
def test_with_feedback_the_sum_of_what_was_read_misses_the_last_residual_alone(scheme):
    """Without it the misses add up."""
    rounds, sums = 20, {}
    for feeds_back in (True, False):
        left, missed = {}, {}
        for _ in range(rounds):
            message, now = packed(state(3), state(1), scheme, left if feeds_back else {})
            left = now
            for key, value in moves(message.read, state(1)).items():
                missed[key] = missed.get(key, 0) + (moves(state(3), state(1))[key] - value)
        sums[feeds_back] = math.sqrt(sum(float(v.square().sum()) for v in missed.values()))
        if feeds_back:
            held = math.sqrt(sum(float(v.square().sum()) for v in left.values()))
            assert sums[True] == pytest.approx(held, rel=1e-2)
    assert sums[False] > 3 * sums[True]


def test_what_a_round_does_not_send_is_carried_on_and_what_no_longer_fits_is_dropped():
    resting, other = torch.ones(2, 2), torch.ones(1, 1)
    before = {"half/x/A": resting, "dense/head": other}
    message, left = packed(state(2), state(1), Scheme(kind="int4"), before)
    fresh, _ = packed(state(2), state(1), Scheme(kind="int4"), {})
    assert torch.equal(left["half/x/A"], resting)
    assert left["dense/head"].shape == (2, 7)
    assert message.payload == fresh.payload


def test_a_value_that_is_not_finite_does_not_leave():
    bad = AdapterState(dense={"head": torch.tensor([math.nan])})
    with pytest.raises(MalformedUpdateError):
        whole(bad)
    with pytest.raises(MalformedUpdateError):
        packed(bad, AdapterState(dense={"head": torch.zeros(1)}), Scheme(kind="int8"), {})


def test_residuals_are_of_earlier_rounds_and_old_ones_go(tmp_path):
    kept = Residuals(tmp_path)
    assert kept.before("r", 0) == {}
    for round_index in range(4):
        kept.keep("r", round_index, {"half/x/A": torch.full((2,), float(round_index))})
    assert kept.before("r", 4)["half/x/A"].tolist() == [3.0, 3.0]
    assert kept.before("r", 3)["half/x/A"].tolist() == [2.0, 2.0]  # round 3 is done again from the same
    assert kept.before("other", 3) == {}
    assert len(list((tmp_path / "r").iterdir())) == 2


def test_a_damaged_residual_is_told(tmp_path):
    kept = Residuals(tmp_path)
    kept.keep("r", 0, {"x": torch.zeros(2)})
    (tmp_path / "r/0.safetensors").write_bytes(b"nothing")
    with pytest.raises(ClientError, match="what compression left"):
        kept.before("r", 1)
