"""What a data owner types: status, recipes, approve, refuse."""

import dataclasses
import io
import json

import pytest
import typer

from aggregation.serialize import sha256_hex
from client.asked import AskedRecipes
from client.decisions import Decisions
from client.keys import init_key
from client.ledger import ClientLedger
from client.lineage import Lineages
from client.whoami import heard, last_heard, recall, remember
from motet.cli.main import main
from motet.cli.words import UsageError, agree
from motet.recipe import canonical_json, parse_recipe
from motet.recipe.words import in_words
from privacy.events import PoissonGaussianEvent

YAML = (
    "name: study\nbase_model: {tiny: tiny-bert}\ntask: {kind: sequence-classification, num_labels: 2}\n"
    "data: {path: x.jsonl}\nadapter: {lora_rank: 4}\nmethod: {name: flora}\n"
    "cohort: {clients: [a, b], minimum: 2}\ntraining: {rounds: 3, local_steps: 7}\n"
)
PRIVATE = "privacy: {unit: UNIT, noise_multiplier: 1.1, sampling_rate: 0.02, target_delta: 1.0e-6, epsilon_limit: 5}\n"


@pytest.fixture
def home(tmp_path):
    init_key(tmp_path / "home")
    return tmp_path / "home"


def ask(home, text=YAML, run_id="r-1", answer="pending"):
    whole = canonical_json(parse_recipe(text))
    sha256 = sha256_hex(whole.encode())
    AskedRecipes(home).note(
        recipe_sha256=sha256,
        recipe_json=whole,
        client_id="a",
        run_id=run_id,
        at_ms=1,
        answer=answer,
        message="clause approval: not yet" if answer == "pending" else "clause max_lora_rank: 4 is asked",
    )
    return sha256


def motet(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    code = ended.value.code or 0
    out = capsys.readouterr()
    return code, out.out + out.err


def test_a_recipe_is_shown_in_plain_words_before_it_is_approved(home, capsys):
    sha256 = ask(home)
    code, text = motet(capsys, "client", "approve", sha256[:8], "--home", home)
    assert code == 0
    assert text.index("3 rounds of 7 steps") < text.index("is approved for a")
    assert "no privacy guarantee" in text
    assert Decisions(home).latest(sha256).decision == "approved"


def test_refusing_by_run_keeps_the_reason(home, capsys):
    sha256 = ask(home, run_id="r-9")
    code, _ = motet(capsys, "client", "refuse", "--run", "r-9", "--home", home, "--reason", "not our study")
    assert code == 0
    made = Decisions(home).latest(sha256)
    assert (made.decision, made.reason, made.made_by, made.client_id) == (
        "refused",
        "not our study",
        "owner",
        "a",
    )


def test_status_tells_what_was_asked_decided_and_spent(home, capsys, tmp_path):
    first, second = ask(home), ask(home, YAML.replace("study", "other"), run_id="r-2", answer="refused")
    policy = tmp_path / "policy.toml"
    policy.write_text('approval = "manual"\n')
    remember(home, "a", policy)
    motet(capsys, "client", "approve", first, "--home", home)
    data = tmp_path / "a.jsonl"
    data.write_text("\n".join(json.dumps({"text": f"a text of some length {i}"}) for i in range(5)))
    name = Lineages(home).identify(data).name
    event = PoissonGaussianEvent(sampling_rate=0.1, noise_multiplier=1.0, num_steps=10)
    ClientLedger(home / "ledger.jsonl").reserve(
        data_set=name,
        run_id="r-1",
        round_index=0,
        attempt=0,
        event=event,
        epsilon_cap=None,
        target_delta=1e-5,
    )
    heard(home)
    code, text = motet(capsys, "client", "status", "--home", home, "--json")
    facts = json.loads(text)
    assert code == 0
    assert (facts["client_id"], facts["approval"], facts["policy_problem"]) == ("a", "manual", "")
    decisions = {r["recipe_sha256"]: r["decision"] and r["decision"]["decision"] for r in facts["recipes"]}
    assert decisions == {first: "approved", second: None}
    approved = next(r for r in facts["recipes"] if r["recipe_sha256"] == first)
    assert approved["decision"]["policy_sha256"] == sha256_hex(policy.read_bytes())
    ((row),) = facts["spent"]
    assert (row["data_set"], row["unit"], row["charges"]) == (name, "example", 1)
    assert row["epsilon"] > 0
    assert facts["last_seen_ms"] == int(last_heard(home) * 1000)
    _, text = motet(capsys, "client", "status", "--home", home)
    assert "approved by you" in text
    assert "clause max_lora_rank: 4 is asked" in text
    policy.write_text("aproval = 1\n")
    _, text = motet(capsys, "client", "status", "--home", home)
    assert "everything is refused" in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["approve"], "say which recipe"),
        (["approve", "abc"], "too short"),
        (["approve", "0" * 12], "nobody has asked for"),
        (["approve", "--run", "r-none"], "nobody has asked for"),
        (["approve", "0" * 64], "no name yet"),
    ],
)
def test_a_recipe_that_is_not_there_is_said_in_words(home, capsys, arguments, told):
    code, text = motet(capsys, "client", *arguments, "--home", home)
    assert code == 2
    assert told in text


def test_a_recipe_can_be_approved_by_its_hash_before_anybody_asks(home, capsys):
    code, _ = motet(capsys, "client", "approve", "0" * 64, "--home", home, "--name", "a")
    assert code == 0
    assert Decisions(home).latest("0" * 64).client_id == "a"
    _, text = motet(capsys, "client", "recipes", "--home", home)
    assert "not asked for yet" in text


def test_recipes_shows_one_whole(home, capsys):
    sha256 = ask(home)
    _, text = motet(capsys, "client", "recipes", sha256[:10], "--home", home)
    assert sha256 in text
    assert '"local_steps": 7' in text
    _, told = motet(capsys, "client", "recipes", sha256[:10], "--home", home, "--json")
    assert sha256_hex(told.strip().encode()) == sha256


@pytest.mark.parametrize(
    ("unit", "told"),
    [
        ("example", "noise is added on your machine"),
        ("client", "the coordinator sees your update without noise"),
    ],
)
def test_words_say_who_adds_the_noise(unit, told):
    text = YAML.replace(", minimum: 2", "").replace("flora", "ffa") + PRIVATE.replace("UNIT", unit)
    words = " ".join(in_words(parse_recipe(text)))
    assert told in words
    assert "delta 1e-06" in words
    assert "no privacy guarantee" not in words


def test_a_home_that_was_never_started_is_nobody(tmp_path):
    assert dataclasses.asdict(recall(tmp_path)) == {"client_id": "", "policy": None}
    assert last_heard(tmp_path) is None
    heard(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_a_client_that_enrolled_and_was_not_started_yet_has_the_name_of_its_certificate(tmp_path, capsys):
    (tmp_path / "identity").mkdir()
    (tmp_path / "identity/identity.json").write_text('{"name": "ward-a", "role": "client"}')
    assert recall(tmp_path).client_id == "ward-a"
    assert (
        "client ward-a, coordinator last seen: never"
        in motet(capsys, "client", "status", "--home", str(tmp_path))[1]
    )
    remember(tmp_path, "named-at-start", None)
    assert recall(tmp_path).client_id == "named-at-start"  # positive control: a start says it itself


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_an_answer_that_is_not_yes_changes_nothing_and_is_no_fault_of_ours(monkeypatch, answer):
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    with pytest.raises(UsageError) as refused:
        agree("Accept?")
    assert (refused.value.exit_code, "--yes" in refused.value.hint) == (2, True)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))  # positive control
    agree("Accept?")


def test_ctrl_c_at_a_question_stops(monkeypatch):
    def interrupted(*_, **__):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise typer.Abort  # noqa: B904 - as click does

    monkeypatch.setattr("typer.confirm", interrupted)
    with pytest.raises(KeyboardInterrupt):
        agree("Accept?")


def test_words_of_a_coordinator_do_not_reach_the_owners_terminal_as_commands_to_it(home, capsys):
    bad = "\x1b[2J\x1b]0;owned\x07\u202e"
    sha256 = ask(home)
    AskedRecipes(home).note(  # as an earlier version kept it, or another program wrote it
        recipe_sha256=sha256,
        recipe_json=canonical_json(parse_recipe(YAML)),
        client_id="a",
        run_id=f"r{bad}",
        at_ms=90_000,
        answer="refused",
        message=f"clause allowed_base_models: x{bad} is not among them",
    )
    broken = json.dumps({"name": f"x{bad}"}, ensure_ascii=False)
    AskedRecipes(home).note(
        recipe_sha256="b" * 64,
        recipe_json=broken,
        client_id="a",
        run_id="r-2",
        at_ms=1,
        answer="pending",
        message="",
    )
    given = (["status"], ["recipes"], ["recipes", "b" * 8], ["recipes", "b" * 8, "--json"])
    for words in (*given, ["approve", "nothing" + bad]):
        _, text = motet(capsys, "client", *words, "--home", home)
        assert text.strip()
        assert not set(bad) & set(text) - set("[2J]0;owned"), words
