"""The benchmarks of large fleets: who is taken away, what a slope is, recipes that hold."""

import importlib.util
import random
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from motet.recipe import parse_recipe

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


@pytest.fixture(scope="module")
def fifty():
    return load("fifty_clients")


@pytest.fixture(scope="module")
def thousand():
    return load("thousand_clients")


def test_each_round_takes_ten_to_thirty_per_cent_away_half_of_them_by_a_kill(fifty):
    names = [f"c{i:02d}" for i in range(50)]
    draws = [fifty.draw_absent(names, names, random.Random(seed)) for seed in range(60)]
    counts = {len(draw) for draw in draws}
    assert min(counts) >= 5
    assert max(counts) <= 15
    assert len(counts) > 5
    for draw in draws:
        ways = [how for _, how in draw]
        assert abs(ways.count("killed") - ways.count("stopped")) <= 1
        assert len({name for name, _ in draw}) == len(draw)
    assert fifty.draw_absent(names, names, random.Random(3)) == draws[3]


def test_who_was_back_in_time_is_told_from_who_was_not(fifty):
    moves = [(10.0, "a", False), (20.0, "a", True), (12.0, "b", False), (29.0, "b", True), (14.0, "c", False)]
    names = ["a", "b", "c", "d"]
    assert fifty.there_at(moves, names, 30.0) == {"a", "d"}  # b came a second ago
    assert fifty.there_at(moves, names, 31.0) == {"a", "b", "d"}
    assert fifty.there_at(moves, names, 11.0) == {"b", "c", "d"}


def test_a_slope_is_that_of_the_least_squares_line(fifty, thousand):
    for module in (fifty, thousand):
        assert module.slope([1.0, 3.0, 5.0]) == pytest.approx(2.0)
        assert module.slope([4.0, 4.0, 4.0]) == 0
        assert module.slope([7.0]) == 0


def test_the_recipes_of_both_benchmarks_hold(fifty, thousand, tmp_path):
    text = fifty.RECIPE.format(folder=tmp_path, minimum=30, over_select=1.6667, deadline_s=60, rounds=20)
    assert parse_recipe(text).cohort.minimum == 30
    options = Namespace(clients=1000, cohort=100, rounds=20)
    names = [f"client-{i:04d}" for i in range(1000)]
    recipes = {kind: parse_recipe(thousand.recipe_text(kind, names, options)) for kind in thousand.KINDS}
    assert recipes["plain"].privacy is None
    assert recipes["private by example"].cohort.draw_rate == 0.1
    assert recipes["private by client"].privacy.unit == "client"
    assert len(recipes["private by client"].cohort.clients) == 1000
