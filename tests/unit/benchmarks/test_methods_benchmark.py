"""The campaign over all methods: every cell's recipe is sound, a line counts for its own recipe, spread is told."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from aggregation.methods import METHODS
from motet.recipe import parse_recipe

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def methods():
    spec = importlib.util.spec_from_file_location("methods_benchmark", BENCHMARKS / "methods.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def line(task, method, ranks, seed, accuracy, **more):
    return {
        "task": task, "method": method, "ranks": ranks, "seed": seed, "accuracy": accuracy, "bytes_up": 10,
        "bytes_down": 20, "cpu_s": 1.0, "aggregation_error": 0.0, **more,
    }  # fmt: skip


def test_every_cell_has_a_sound_recipe_and_every_method_is_there(methods):
    planned = list(methods.cells(list(methods.TASKS), [methods.HEAD, *METHODS], methods.SEEDS))
    assert len({c.key for c in planned}) == len(planned)
    assert {c.method for c in planned} == {methods.HEAD, *METHODS}
    for cell in planned[:: len(methods.SEEDS)]:
        recipe = parse_recipe(methods.recipe_text(cell))
        ranks = {recipe.lora_rank_of(client) for client in recipe.cohort.clients}
        assert (len(ranks) > 1) == (cell.ranks == "mixed")
        assert recipe.method.train_adapter == (cell.method != methods.HEAD)


def test_a_line_of_another_recipe_or_cut_off_by_a_crash_is_measured_again(methods, tmp_path):
    path = tmp_path / "methods.jsonl"
    cell = next(methods.cells(["fashion"], ["fedit"], [1]))
    good = line("fashion", "fedit", "equal", 1, 0.5, recipe_text_sha256=methods.sha256_of(cell, quick=False))
    path.write_text(json.dumps(good) + "\n" + json.dumps(good)[:30])
    assert list(methods.measured(path, quick=False)) == [cell.key]
    path.write_text(json.dumps(good | {"recipe_text_sha256": "0" * 16}) + "\n")
    assert methods.measured(path, quick=False) == {}


def test_a_difference_separates_only_when_the_interval_over_seeds_leaves_zero_out(methods):
    paired = methods.methods_reading.paired
    firm = paired({1: 0.05, 2: 0.06, 3: 0.055})
    assert firm["separates"]
    assert firm["half_interval"] == pytest.approx(4.303 * 0.005 / 3**0.5, abs=1e-4)
    loose = paired({1: 0.01, 2: 0.09, 3: 0.05})
    assert (loose["separates"], loose["same_sign"]) == (False, True)
    assert paired({1: 0.5}) == {
        "gain": 0.5, "half_interval": None, "same_sign": True, "separates": False, "seeds": 1,
    }  # fmt: skip


def test_the_report_pairs_seeds_and_writes_a_table_and_a_picture(methods, tmp_path):
    reading = methods.methods_reading
    lines = [line("t", "head alone", "none", s, 0.5 + s / 100) for s in (1, 2, 3)]
    lines += [line("t", "fedit", "equal", s, 0.6 + s / 100) for s in (1, 2)]
    result = reading.summary(lines)
    beside = result["tasks"]["t"]["rows"]["fedit (equal)"]["beside"]["head alone (none)"]
    assert (beside["gain"], beside["seeds"], beside["separates"]) == (0.1, 2, True)
    assert "**+10.0 ± 0.0**" in reading.table(result)
    rows = reading.table(result).splitlines()
    assert rows[-2].startswith("| head alone (none) | 52.0 |")
    assert rows[-1].startswith("| fedit (equal) | - |")  # a mean over fewer seeds is not compared
    assert reading.short_table(result).splitlines()[2:] == [
        "| fedit (equal) |  | 0 | 0 |",
        "| head alone (none) | **52.0** | 0 | 0 |",
    ]
    reading.draw(result, tmp_path / "m.png")
    assert (tmp_path / "m.png").stat().st_size > 1000
    losses = [{**row, "loss": 1 - row["accuracy"]} for row in lines]
    for row in losses:
        del row["accuracy"]
    lower = reading.summary(losses)["tasks"]["t"]["rows"]["fedit (equal)"]["beside"]["head alone (none)"]
    assert lower["gain"] == pytest.approx(0.1)  # a lower loss is a gain
