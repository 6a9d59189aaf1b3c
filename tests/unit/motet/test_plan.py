"""What a plan promises is what the other packages do."""

import dataclasses
import json

import pytest
import torch
from rich.console import Console
from typer import Typer
from typer.testing import CliRunner

from aggregation.adapter import AdapterState
from aggregation.changes import moves
from aggregation.compression import compress
from aggregation.control import trained_values
from aggregation.floats import sent_shapes
from aggregation.methods import get_method
from aggregation.serialize import to_bytes
from motet.cli.plan import BudgetTooSmallError, plan_command, print_plan
from motet.data.partition import partition
from motet.modeling import initial_dense, layer_shapes
from motet.plan import plan
from motet.recipe import RecipeError, parse_recipe, resolve_noise_multiplier
from motet.recipe.method import scheme_of
from privacy.accounting import epsilon_pld
from privacy.events import PoissonGaussianEvent

TINY = """\
name: tiny
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2, max_length: 8}
data: {path: SHARDS, test_examples: 2}
training: {rounds: 4, local_steps: 3, expected_batch_size: 4}
"""
PRIVATE = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.4}\n"


@pytest.fixture
def shards(tmp_path):
    for client, count in (("a", 10), ("b", 12), ("test", 2)):
        lines = [json.dumps({"text": f"{client} text {i}", "label": i % 2}) for i in range(count)]
        (tmp_path / f"{client}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def tiny(extra: str, shards="shards"):
    return parse_recipe(TINY.replace("SHARDS", str(shards)) + extra)


@pytest.mark.parametrize("method", ["fedit", "lora-fair", "fed-sb"])
def test_planned_bytes_are_those_of_the_state_that_travels(method):
    recipe = tiny(f"method: {{name: {method}}}\nadapter: {{lora_rank: 4}}\n")
    shapes, dense = layer_shapes(recipe), initial_dense(recipe)
    implementation = get_method(method)
    state = implementation.initial_state(shapes, lora_rank=4, scale=2.0, dense=dense, seed=0)
    sent = implementation.trained_part(state)
    client = plan(recipe, probe=False).clients[0]
    assert client.bytes_up == len(to_bytes(sent))
    assert client.bytes_down == (client.bytes_up,) * 4


@pytest.mark.parametrize("method", ["fedit", "ffa", "fed-sb"])
def test_control_variates_double_what_comes_down_and_nothing_that_goes_up(method):
    text = f"method: {{name: {method}}}\nadapter: {{lora_rank: 4}}\ncohort: {{clients: [a, b]}}\n"
    plain = plan(tiny(text), probe=False).clients[0]
    changed = TINY.replace("rounds: 4,", "rounds: 4, algorithm: scaffold, optimizer: sgd,")
    recipe = parse_recipe(changed + text)
    result = plan(recipe, probe=False)
    ours = result.clients[0]
    implementation = get_method(method)
    state = implementation.initial_state(
        layer_shapes(recipe), lora_rank=4, scale=2.0, dense=initial_dense(recipe), seed=0
    )
    start = implementation.starting_point(state)
    told = dataclasses.replace(start, control=trained_values(implementation.trained_part(state)))
    assert ours.bytes_up == plain.bytes_up
    assert ours.bytes_down == (plain.bytes_down[0], *[len(to_bytes(told))] * 3)
    assert 1.5 * len(to_bytes(start)) < len(to_bytes(told)) < 2.1 * len(to_bytes(start))
    assert any("scaffold doubles what a client receives" in note for note in result.notes)


def test_a_schedule_is_counted_round_by_round():
    text = "method: {name: fedit}\nadapter: {lora_rank: 8, lora_rank_schedule: [STEP]}\n"
    one = plan(tiny(text.replace("STEP", "{from_round: 1, lora_rank: 2}")), probe=False).clients[0]
    sizes = {
        rank: plan(tiny(f"method: {{name: fedit}}\nadapter: {{lora_rank: {rank}}}\n"), probe=False).clients[0]
        for rank in (2, 8)
    }
    assert one.bytes_down == (sizes[8].bytes_up, *[sizes[2].bytes_up] * 3)
    assert one.bytes_up == sizes[8].bytes_up
    assert one.bytes_up_total == sizes[8].bytes_up + 3 * sizes[2].bytes_up
    assert one.total_bytes == one.bytes_up_total + sum(one.bytes_down)


def test_a_client_with_a_smaller_rank_sends_less_and_flora_starts_from_nothing():
    recipe = tiny("method: {name: flora}\nadapter: {lora_rank: {a: 2, b: 8}}\ncohort: {clients: [a, b]}\n")
    result = plan(recipe, probe=False)
    a, b = result.clients
    assert (a.lora_rank, b.lora_rank) == (2, 8)
    assert a.bytes_up < b.bytes_up
    assert a.bytes_down == b.bytes_down
    assert list(a.bytes_down) == sorted(a.bytes_down)
    assert a.bytes_down[0] == len(to_bytes(AdapterState(dense=initial_dense(recipe))))  # the head alone
    assert result.clients_are_known


def test_planned_epsilon_is_that_of_all_steps_together():
    result = plan(tiny("method: {name: flora}\n" + PRIVATE), probe=False)
    event = PoissonGaussianEvent(noise_multiplier=1.0, sampling_rate=0.4, num_steps=12)
    assert result.privacy.num_steps == 12
    assert result.privacy.epsilon == pytest.approx(epsilon_pld([event], 1e-5), abs=1e-12)


def test_a_target_is_met_and_not_wasted():
    recipe = tiny("method: {name: flora}\nprivacy: {target_epsilon: 4, sampling_rate: 0.1}\n")
    privacy = plan(recipe, probe=False).privacy
    assert 3.9 < privacy.epsilon <= 4
    assert privacy.noise_multiplier == resolve_noise_multiplier(recipe)


def test_the_plan_says_after_how_many_rounds_the_limit_stops_the_run():
    def event(rounds):
        return PoissonGaussianEvent(noise_multiplier=1.0, sampling_rate=0.4, num_steps=3 * rounds)

    limit = (epsilon_pld([event(2)], 1e-5) + epsilon_pld([event(3)], 1e-5)) / 2
    text = f"privacy: {{noise_multiplier: 1.0, sampling_rate: 0.4, epsilon_limit: {limit}}}\n"
    result = plan(tiny("method: {name: flora}\n" + text), probe=False)
    assert result.privacy.rounds_within_limit == 2
    assert not result.fits_budget


def test_the_probe_reads_the_data_and_measures_a_step(shards):
    recipe = tiny("method: {name: flora}\nseed: 3\n" + PRIVATE.replace("0.4", "0.9"), shards)
    result = plan(recipe)
    assert {c.client_id: c.num_examples for c in result.clients} == {"a": 10, "b": 12}
    assert result.seconds_per_step > 0
    assert result.total_parameters > 1000
    notes = " ".join(result.notes)
    assert "a will see about 9 examples a step, but sums are divided by 4" in notes
    assert "another adapter" in notes


def test_missing_data_is_a_note_and_no_failure(tmp_path):
    result = plan(tiny("method: {name: flora}\n", tmp_path))
    assert any("data was not looked at" in note and "lacks" in note for note in result.notes)
    assert not result.clients_are_known


def test_a_rank_name_that_no_client_has_is_noted():
    recipe = tiny(
        "method: {name: flora, ridge: 1}\nadapter: {lora_rank: {a: 2, z: 4}}\ncohort: {clients: [a, b]}\n"
    )
    notes = plan(recipe, probe=False).notes
    assert any("names z" in note for note in notes)
    assert "method.ridge is not read by flora" in notes


def test_a_rank_over_the_layers_size_is_refused():
    with pytest.raises(RecipeError, match="rank 33 is over 32"):
        plan(tiny("method: {name: flora}\nadapter: {lora_rank: 33}\n"), probe=False)


@pytest.mark.materials
def test_dealt_clients_are_named_as_the_partition_names_them():
    text = TINY.replace("path: SHARDS", "material: vader, partition: {by: iid, num_clients: 11}")
    recipe = parse_recipe(text + "method: {name: flora}\n")
    assert [c.client_id for c in plan(recipe, probe=False).clients] == list(partition(recipe).train)


def _run(tmp_path, extra, *options):
    path = tmp_path / "r.yaml"
    path.write_text(TINY + extra)
    app = Typer()
    app.command("plan")(plan_command)
    return CliRunner().invoke(app, [str(path), "--no-probe", *options])


def test_json_is_one_object_with_the_facts(tmp_path):
    done = _run(tmp_path, "method: {name: flora}\n" + PRIVATE, "--json")
    values = json.loads(done.stdout)
    assert values["privacy"]["noise_multiplier"] == 1.0
    assert values["fits_budget"] is True
    assert values["clients"][0]["total_bytes"] > 0
    assert len(values["recipe_sha256"]) == 64


def test_a_budget_that_is_too_small_leaves_with_code_6_after_the_table(tmp_path):
    text = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.4, epsilon_limit: 0.5}\n"
    done = _run(tmp_path, "method: {name: flora}\n" + text)
    assert "noise multiplier 1" in done.stdout
    assert isinstance(done.exception, BudgetTooSmallError)
    assert done.exception.exit_code == 6
    assert "allows 0 of 4 rounds" in str(done.exception)


def test_the_table_fits_80_columns():
    ranks = ", ".join(f"hospital-with-a-long-name-{i}: {2 ** (i % 6)}" for i in range(30))
    recipe = tiny(f"method: {{name: flora}}\nadapter: {{lora_rank: {{{ranks}}}}}\n")
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    print_plan(plan(recipe, probe=False), console)
    assert max(len(line) for line in console.export_text().splitlines()) <= 80


CLIENT_UNIT = """
name: t
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: x.jsonl}
adapter: {lora_rank: 2}
method: {name: fedit}
cohort: {clients: [a, b, c, d]}
privacy: {unit: client, noise_multiplier: 1.0, sampling_rate: 0.5}
"""


def test_the_plan_tells_the_unit_the_divisor_and_where_the_unit_means_little():
    from motet.cli.plan import _privacy_words

    few = plan(parse_recipe(CLIENT_UNIT), probe=False)
    assert few.privacy is not None
    assert (few.privacy.unit, few.privacy.expected_cohort, few.privacy.num_steps) == ("client", 2.0, 3)
    assert any("too small for privacy.unit client" in note for note in few.notes)
    assert any("times as long" in note for note in few.notes)
    assert "the coordinator is trusted" in _privacy_words(few)
    many = ", ".join(f"c{i}" for i in range(400))
    enough = plan(parse_recipe(CLIENT_UNIT.replace("a, b, c, d", many)), probe=False)
    assert not any(
        "too small" in note or "times as long" in note for note in enough.notes
    )  # positive control
    by_example = plan(parse_recipe(CLIENT_UNIT.replace("unit: client, ", "")), probe=False)
    assert "one example of a client's data" in _privacy_words(by_example)
    assert by_example.privacy is not None
    assert by_example.privacy.expected_cohort is None


COMPRESSED = [("bf16", "{kind: bf16}"), ("int8", "{kind: int8, block: 32}"), ("int4", "{kind: int4}")]


@pytest.mark.parametrize(("kind", "section"), COMPRESSED)
def test_planned_uploads_are_those_of_the_compressed_message_and_downloads_stay_whole(kind, section):
    text = "method: {name: fedit}\nadapter: {lora_rank: 4}\n"
    recipe, whole = tiny(text + f"compression: {section}\n"), plan(tiny(text), probe=False).clients[0]
    method = get_method("fedit")
    state = method.initial_state(
        layer_shapes(recipe), lora_rank=4, scale=2.0, dense=initial_dense(recipe), seed=0
    )
    sent = method.trained_part(state)
    payload = compress(moves(sent, sent), scheme_of(recipe)).payload
    client = plan(recipe, probe=False).clients[0]
    assert client.bytes_up == len(payload) < whole.bytes_up / {"bf16": 2, "int8": 3.5, "int4": 6}[kind]
    assert client.bytes_down == whole.bytes_down


def test_the_most_that_a_sparse_message_can_be_is_planned_and_said():
    text = "method: {name: fedit}\nadapter: {lora_rank: 4}\ncompression: {kind: compeft}\n"
    recipe = tiny(text)
    result = plan(recipe, probe=False)
    sent = sent_shapes(
        "fedit", layer_shapes(recipe), 4, {k: tuple(v.shape) for k, v in initial_dense(recipe).items()}
    )
    generator = torch.Generator().manual_seed(0)
    values = {k: torch.randn(v, generator=generator) for k, v in sent.items() if not k.endswith("scale")}
    size = len(compress(values, scheme_of(recipe)).payload)
    assert size <= result.clients[0].bytes_up < 1.2 * size
    assert any("the most that it can be" in note for note in result.notes)


def test_a_plan_says_what_judging_on_held_out_examples_adds():
    judged = plan(tiny("method: {name: flora}\nevaluation: {held_out: 0.1, max_examples: 40}\n"), probe=False)
    assert any("judging up to 40 of them" in note for note in judged.notes)
    assert not any("judging" in note for note in plan(tiny("method: {name: flora}\n"), probe=False).notes)
