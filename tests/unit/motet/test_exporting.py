"""What a model card says of privacy: every charge counts, and nothing is promised for whom it is not known."""

import json
from dataclasses import replace

import pytest

from client.errors import NothingPersonalError, PersonalPartDamagedError
from client.ledger import ClientLedger
from client.personal import PersonalParts
from coordinator.export import CardFacts, model_card
from motet.exporting import export_personal
from motet.modeling import layer_shapes
from motet.recipe import canonical_json, from_canonical_json, parse_recipe, round_event
from motet.recipe.method import local_start, method_of
from privacy.accounting import epsilon_pld

RECIPE = parse_recipe(
    "name: t\nbase_model: {tiny: tiny-llama}\ntask: {kind: causal-lm, max_length: 16}\ndata: {path: x.jsonl}\n"
    "adapter: {lora_rank: 2, targets: [q_proj]}\nmethod: {name: fedsa}\ntraining: {rounds: 2, local_steps: 3}\n"
    "privacy: {noise_multiplier: 1.0, sampling_rate: 0.1, target_delta: 1.0e-5}\n"
)
FACTS = CardFacts(run_id="r-1", rounds=2, clients=3, adapter_sha256="0" * 64)


def epsilon_of(rounds):
    return epsilon_pld([round_event(RECIPE)] * rounds, 1e-5)


def charge(home, places, run_id="r-1"):
    ClientLedger(home / "ledger.jsonl").reserve_all(
        places, data_set="l-1", run_id=run_id, event=round_event(RECIPE), epsilon_cap=None, target_delta=1e-5
    )


@pytest.fixture
def home(tmp_path):
    method, shapes = method_of(RECIPE), layer_shapes(RECIPE)
    state = method.initial_state(shapes, lora_rank=2, scale=2.0, dense={}, seed=0)
    own = local_start(
        RECIPE, method, state, layer_shapes=shapes, lora_rank=2, round_index=0, client_id="a", personal=None
    )
    parts = PersonalParts(tmp_path / "personal")
    parts.keep("r-1", 1, method.personal_part(own), model=own, recipe_json=canonical_json(RECIPE))
    return tmp_path


def test_a_clients_own_export_tells_every_charge_of_the_run_failed_attempts_among_them(home, tmp_path):
    charge(home, [(0, 0), (1, 0), (1, 1), (1, 2)])
    charge(home, [(0, 0)], run_id="r-2")  # of another run: not in it
    export_personal(home, "r-1", tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert f"epsilon at most {epsilon_of(4):.2f} at delta 1e-05 for this client" in card
    assert f"{epsilon_of(4):.2f}" != f"{epsilon_of(2):.2f}"


def test_a_card_promises_no_epsilon_that_the_ledger_does_not_hold(home, tmp_path):
    export_personal(home, "r-1", tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert "epsilon is not known here" in card
    assert "epsilon at most" not in card


def test_clients_whose_epsilon_is_not_known_are_no_part_of_the_promise():
    whole = model_card(RECIPE, replace(FACTS, epsilons={"a": 1.5, "b": 2.5}), 2)
    assert "epsilon at most 2.50 at delta 1e-05 for every client" in whole
    part = model_card(RECIPE, replace(FACTS, epsilons={"a": 1.5}, num_epsilons_unknown=2), 2)
    assert "for every client" not in part
    assert "epsilon at most 1.50 at delta 1e-05 for 1 clients, not known here for 2" in part
    none = model_card(RECIPE, replace(FACTS, num_epsilons_unknown=3), 2)
    assert (
        "Differential privacy for one example" in none
    )  # it was trained with privacy; how much is not known
    assert "epsilon at most" not in none
    assert "without differential privacy" in model_card(RECIPE.model_copy(update={"privacy": None}), FACTS, 2)


def test_an_infinite_epsilon_is_said_in_words_and_is_json_that_everybody_reads(home, tmp_path):
    event = replace(round_event(RECIPE), noise_multiplier=0.0)
    ClientLedger(home / "ledger.jsonl").reserve_all(
        [(0, 0)], data_set="l-1", run_id="r-1", event=event, epsilon_cap=None, target_delta=1e-5
    )
    export_personal(home, "r-1", tmp_path / "out")
    assert "epsilon is infinite" in (tmp_path / "out/README.md").read_text()
    told = json.loads((tmp_path / "out/motet.json").read_text(), parse_constant=pytest.fail)
    assert told["facts"]["epsilons"] == {"this client": None}
    assert parse_recipe_of(told) == RECIPE


def parse_recipe_of(told):
    return from_canonical_json(json.dumps(told["recipe"]))


def test_a_run_of_which_nothing_was_kept_is_a_slip_and_a_damaged_part_is_not(home, tmp_path):
    with pytest.raises(NothingPersonalError, match="nothing personal was kept of run 'r-none'") as slip:
        export_personal(home, "r-none", tmp_path / "out")
    (home / "personal" / "r-1.model").write_bytes(b"cut")
    with pytest.raises(PersonalPartDamagedError, match="personal") as damage:
        export_personal(home, "r-1", tmp_path / "out")
    assert (slip.value.exit_code, damage.value.exit_code) == (2, 8)
    assert slip.value.hint
    assert damage.value.hint
