"""Noise has the right law, never repeats, and can not be seeded, copied or saved."""

from __future__ import annotations

import copy
import math
import os

import forked_motet
import noise_drawer
import numpy as np
import pytest
import torch
from scipy import stats

import privacy.noise
from privacy.noise import SeededNoise, SystemNoise, _standard_normal

N = 100_000


def test_the_law_is_gaussian_with_the_asked_standard_deviation():
    values = SystemNoise().normal((N,), 2.5).double().numpy()
    assert values.std() == pytest.approx(2.5, rel=0.02)
    assert abs(values.mean()) < 7 * 2.5 / math.sqrt(N)
    assert stats.kstest(values / 2.5, stats.norm.cdf).pvalue > 1e-8
    # Positive control: noise 6 % too small is told apart by the same test.
    assert stats.kstest(0.94 * values / 2.5, stats.norm.cdf).pvalue < 1e-8


def test_values_are_not_correlated_within_a_draw_between_draws_or_between_sources():
    source = SystemNoise()
    first, second = source.normal((N,), 1.0), source.normal((N,), 1.0)
    other = SystemNoise().normal((N,), 1.0)
    for a, b in ((first, second), (first, other), (first[1:], first[:-1])):
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 7 / math.sqrt(N)


def test_shapes_dtype_and_zero_noise():
    source = SystemNoise()
    assert source.normal((2, 3, 4), 1.0).shape == (2, 3, 4)
    assert source.normal((), 1.0).shape == ()
    assert source.normal((0, 5), 1.0).shape == (0, 5)
    assert source.normal((3,), 1.0).dtype == torch.float32
    assert not source.normal((3,), 0.0).any()


def test_extreme_random_words_give_finite_values_that_mirror_each_other():
    least, most, forward, backward = 2**63, 2**63 - 1, 0, 2**63
    words = np.array([[least, least], [least, least], [most, most], [forward, backward]], dtype=np.uint64)
    far, mirrored = _standard_normal(words.ravel()).tolist()
    assert far == -mirrored == pytest.approx(math.sqrt(2 * 108 * math.log(2)), rel=1e-12)
    near = _standard_normal(np.array([most, most, least, forward], dtype=np.uint64))
    assert abs(float(near)) < 1e-15


def test_each_value_is_half_the_sum_of_four_normals():
    words = SystemNoise()._words(4 * 5_000)
    signed = (words ^ np.uint64(2**63)) >> np.uint64(11)
    u, again, v, turns = ((signed.astype(np.longdouble) + 0.5) / np.longdouble(2) ** 53).reshape(4, -1)
    length = np.sqrt(-2 * (np.log(u) + np.log(again)))
    angle, other = 2 * np.pi * (turns - 0.5), 2 * np.pi * np.random.default_rng(0).random(len(u))
    on_sphere = np.stack(
        [
            np.sqrt(v) * np.cos(angle),
            np.sqrt(v) * np.sin(angle),
            np.sqrt(1 - v) * np.cos(other),
            np.sqrt(1 - v) * np.sin(other),
        ]
    )
    turned = (
        np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    )  # first row: the mean
    four = turned.T @ (length * on_sphere)
    np.testing.assert_allclose(
        _standard_normal(words).numpy(), (four.sum(0) / 2).astype(np.float64), atol=1e-13
    )
    for one in four.astype(np.float64):
        assert stats.kstest(one, stats.norm.cdf).pvalue > 1e-9
    correlations = np.corrcoef(four.astype(np.float64)) - np.eye(4)
    assert np.abs(correlations).max() < 7 / math.sqrt(len(u))


def test_the_tails_are_as_heavy_as_they_should_be():
    draws = 2_000_000
    values = SystemNoise().normal((draws,), 1.0).abs()
    for far in (3.0, 4.0, 4.75):
        expected = draws * 2 * stats.norm.sf(far)
        assert abs(int((values > far).sum()) - expected) < 6 * math.sqrt(expected)
    # Positive control: what passes for Gaussian in the middle, the sum of twelve uniform values, has too little there.
    poor = torch.rand(12, draws // 2).sum(0).sub_(6).abs_()
    expected = draws * stats.norm.sf(3.0)
    assert abs(int((poor > 3.0).sum()) - expected) > 6 * math.sqrt(expected)


def test_the_blocks_of_a_long_draw_are_joined_without_a_seam():
    values = SystemNoise().normal((3 * privacy.noise._BLOCK + 5,), 1.0)
    assert len(values.unique()) > 0.99 * values.numel()
    assert values[-5:].abs().max() > 0


def test_global_seeds_do_not_reach_the_noise():
    draws = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        draws.append(SystemNoise().normal((8,), 1.0))
    assert not torch.equal(*draws)


def test_two_processes_of_the_same_program_draw_different_noise(tmp_path):
    """Both are forked from one process that has imported everything: whatever state there is, they have the same."""
    for name in "ab":
        process = forked_motet.start_function(noise_drawer.draw, str(tmp_path / name))
        process.join(60)
        assert process.exitcode == 0
    assert (tmp_path / "a").read_text() != (tmp_path / "b").read_text()
    assert len((tmp_path / "a").read_text()) > 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_draws_noise_of_its_own():
    source = SystemNoise()
    source.bernoulli(1, 0.5)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, source._words(4).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reader, 32)
    os.close(reader)
    os.close(writer)
    assert len(theirs) == 32
    assert theirs != source._words(4).tobytes()


@pytest.mark.parametrize("take", [copy.copy, copy.deepcopy, lambda source: source.__reduce__()])
def test_a_source_can_not_be_copied_or_saved(take):
    with pytest.raises(TypeError, match="never copied or saved"):
        take(SystemNoise())


def test_a_source_takes_no_seed():
    with pytest.raises(TypeError):
        SystemNoise(0)


def test_a_new_key_is_drawn_before_the_old_one_is_worn_out(monkeypatch):
    monkeypatch.setattr(privacy.noise, "_BYTES_PER_KEY", 64)
    source = SystemNoise()
    streams = set()
    words = []
    for _ in range(10):
        words.append(source._words(5))
        streams.add(id(source._stream))
    assert len(np.unique(np.concatenate(words))) == 50
    assert source._left <= 64


def test_coins_fall_with_the_asked_probability():
    coins = SystemNoise().bernoulli(N, 0.03)
    assert coins.dtype == np.bool_
    assert coins.mean() == pytest.approx(0.03, abs=5 * math.sqrt(0.03 * 0.97 / N))
    assert not SystemNoise().bernoulli(1000, 0.0).any()
    assert SystemNoise().bernoulli(1000, 1.0).all()


@pytest.mark.parametrize("source", [SystemNoise(), SeededNoise(0)])
def test_values_out_of_range_are_refused(source):
    for std in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="std"):
            source.normal((2,), std)
    for n, q in ((-1, 0.5), (3, 1.5), (3, -0.1), (3, math.nan)):
        with pytest.raises(ValueError, match="need n"):
            source.bernoulli(n, q)


def test_seeded_noise_repeats_and_says_that_it_is_for_tests_only():
    assert torch.equal(SeededNoise(3).normal((5,), 1.0), SeededNoise(3).normal((5,), 1.0))
    assert SeededNoise(3).is_test_only
    assert not SystemNoise().is_test_only
    assert SeededNoise(0).normal((N,), 2.0).std() == pytest.approx(2.0, rel=0.015)
    assert SeededNoise(0).bernoulli(N, 0.3).mean() == pytest.approx(0.3, abs=0.01)
