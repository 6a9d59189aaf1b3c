"""Steps that an orchestrator types again at each start: done once, and found done after that."""

import json

import pytest
from control_house import house
from enrolling import Coordinator

from coordinator.rpc.server import _numeric
from motet.cli.client import _enrol_once
from motet.cli.main import main
from motet.identity import load_identity

RECIPE = """
name: dealt
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: all.jsonl, partition: {by: iid, num_clients: 2}, test_examples: 4}
adapter: {lora_rank: 2}
method: {name: flora}
training: {rounds: 1, local_steps: 1}
cohort: {clients: [client-1, client-2], minimum: 1}
"""


@pytest.fixture
def motet(capsys):
    def run(*arguments):
        code = 0
        try:
            main([str(a) for a in arguments])
        except SystemExit as e:
            code = int(e.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [json.dumps({"text": f"words {n}", "label": n % 2}) for n in range(24)]
    (tmp_path / "all.jsonl").write_text("\n".join(rows))
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_deal_gives_one_client_its_own_examples_and_nobody_elses(motet, recipe, tmp_path):
    code, out, _ = motet("deal", recipe, "--out", tmp_path / "all", "--json")
    assert (code, json.loads(out)["examples"]) == (0, {"client-1": 10, "client-2": 10})
    code, out, _ = motet("deal", recipe, "--out", tmp_path / "one", "--client", "client-2")
    assert (code, "client-2: 10 examples" in out) == (0, True)
    assert [p.name for p in (tmp_path / "one").iterdir()] == ["client-2.jsonl"]
    same = [(tmp_path / folder / "client-2.jsonl").read_bytes() for folder in ("all", "one")]
    assert same[0] == same[1]
    code, _, err = motet("deal", recipe, "--client", "client-3")
    assert (code, "deals nothing to client-3" in err) == (2, True)


def test_a_recipe_is_submitted_once_however_often_it_is_typed(motet, recipe, tmp_path):
    with house(tmp_path / "house") as served:
        to = ("--coordinator", served.address, "--identity", served.identity("researcher", "ann"), "--json")
        ids = [json.loads(motet("run", "submit", recipe, *to, "--once")[1])["run_id"] for _ in range(2)]
        assert ids[0] == ids[1]
        assert json.loads(motet("run", "submit", recipe, *to)[1])["run_id"] != ids[0]
        other = recipe.with_name("other.yaml")
        other.write_text(RECIPE.replace("rounds: 1", "rounds: 2"))
        assert json.loads(motet("run", "submit", other, *to, "--once")[1])["run_id"] not in ids
        motet("run", "cancel", ids[0], *to)


def test_a_token_is_spent_at_the_first_start_and_not_read_after_that(motet, tmp_path):
    made = Coordinator(tmp_path / "home")
    try:
        token, home = tmp_path / "token", tmp_path / "ward-a"
        for_ward = ("ca", "token", "--client", "ward-a", "--home", made.home, "--address", made.address)
        assert motet(*for_ward, "--out", token, "--unless-known")[0] == 0
        _enrol_once(home, token)
        assert load_identity(home / "identity").name == "ward-a"
        token.unlink()
        _enrol_once(home, token)
        code, out, _ = motet(*for_ward, "--out", token, "--unless-known")
        assert (code, "registered already" in out, token.exists()) == (0, True, False)
        assert motet(*for_ward, "--out", token)[0] == 0
        assert token.exists()
    finally:
        made.close()


def test_the_bundle_of_the_latest_run_is_that_of_the_run_that_was_submitted_last(motet, recipe, tmp_path):
    home = ("--home", tmp_path / "fed")
    motet("run", "submit", recipe, *home)
    last = json.loads(motet("run", "submit", recipe, *home, "--json")[1])["run_id"]
    file = tmp_path / "audit.jsonl"
    code, _, err = motet("audit", "export", "latest", *home, "--out", file)
    assert code == 0, err
    assert last in file.read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("127.0.0.1:8444", "127.0.0.1:8444"),
        ("0.0.0.0:0", "0.0.0.0:0"),
        ("[::]:8444", "[::]:8444"),
        ("unix:/run/x", "unix:/run/x"),
    ],
)
def test_a_number_to_listen_on_stays_as_it_is(given, expected):
    assert _numeric(given) == expected


def test_a_name_to_listen_on_stands_for_one_address(monkeypatch):
    def told(host, *_, **__):
        assert host == "control"
        return [(2, 1, 6, "", ("10.0.0.5", 0)), (2, 1, 6, "", ("10.9.0.5", 0))]

    monkeypatch.setattr("coordinator.rpc.server.socket.getaddrinfo", told)
    assert _numeric("control:8444") == "10.0.0.5:8444"
