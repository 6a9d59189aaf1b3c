"""Whatever a command lists fits 80 columns, with names as long as they may be, and shows words as they are."""

import json

import pytest
from control_house import house
from one_by_one import order_sent, reply_received
from rich.cells import cell_len

from coordinator.authority import ensure_authority, issue_identity
from motet.cli.main import main
from motet.recipe import parse_recipe
from privacy.events import PoissonGaussianEvent

LONG = "a-name-of-sixty-three-letters-which-is-the-most-that-may-be-use"
WARDS = [f"{LONG[:-2]}{i:02}" for i in range(3)]
RECIPE = f"""
name: {LONG}
base_model: {{tiny: tiny-bert}}
task: {{kind: sequence-classification, num_labels: 2}}
data: {{path: none.jsonl}}
method: {{name: flora}}
training: {{rounds: 3, local_steps: 10}}
privacy: {{noise_multiplier: 1.0, sampling_rate: 0.1, epsilon_limit: 8}}
cohort: {{clients: [{", ".join(WARDS)}], minimum: 1}}
"""
EVENT = PoissonGaussianEvent(noise_multiplier=1.0, sampling_rate=0.1, num_steps=10)
MARKED = "clause [allowed_targets]: [/bold] is not among [red]them[/]"
COMMANDS = {
    "run list": ["run", "list"],
    "run show": ["run", "show", LONG],
    "watch": ["watch", LONG],
    "budget show": ["budget", "show"],
    "coordinator clients": ["coordinator", "clients"],
    "coordinator status": ["coordinator", "status"],
}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with house(tmp_path_factory.mktemp("house")) as made:
        store = made.store
        store.submit_run(parse_recipe(RECIPE), run_id=LONG)
        store.start_run(LONG)
        keys = (LONG, 0, 0)
        options = {"start_sha256": "0" * 64, "deadline_s": 5, "ranks": dict.fromkeys(WARDS, 16)}
        store.plan_round(*keys, **options, event=EVENT)
        for ward in WARDS:
            store.register_client(ward, b"key", capacity_class=LONG)
            order_sent(store, *keys, ward, message_id=f"m-{ward}", bytes_down=123456789)
        reply_received(
            store, *keys, WARDS[0], payload_sha256="1" * 64, bytes_up=987654321, weight=1.0, num_examples=0
        )
        store.reply_failed(*keys, WARDS[1], code="policy_refused", message=MARKED)
        store.close_round(*keys, adapter_sha256="2" * 64, num_bytes=5, relative_error=0.25)
        store.end_run(LONG, "FAILED", f"{MARKED} " * 3 + LONG * 4)
        made.identity("researcher", LONG)
        yield made


def said(served, capsys, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    at = ["--coordinator", served.address, "--identity", str(served.identity("operator"))]
    code = 0
    try:
        main([*words, *at])
    except SystemExit as e:
        code = int(e.code or 0)
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_listing_fits_eighty_columns(served, capsys, monkeypatch, name):
    code, out, err = said(served, capsys, monkeypatch, COMMANDS[name])
    assert (code, err) in {(0, ""), (9, "")}, err
    assert "\x1b" not in out
    if name in {"watch", "coordinator clients"}:
        return  # lines for programs and files: whole, one a thing
    wide = [line for line in out.splitlines() if cell_len(line) > 80]
    assert not wide
    assert len(out.splitlines()) > 1


def test_the_list_of_certificates_fits_eighty_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ensure_authority(tmp_path)
    issue_identity(tmp_path, "researcher", LONG, tmp_path / "researcher")
    with pytest.raises(SystemExit):
        main(["ca", "list", "--home", str(tmp_path)])
    out = capsys.readouterr().out
    assert "researcher" in out
    assert not [line for line in out.splitlines() if cell_len(line) > 80]


def test_words_that_look_like_markup_are_shown_as_they_are(served, capsys, monkeypatch):
    for words in (["run", "list"], ["run", "show", LONG]):
        _, out, _ = said(served, capsys, monkeypatch, words)
        assert "[/bold]" in "".join(out.split("\n")).replace("│", ""), words
    shown = json.loads(said(served, capsys, monkeypatch, ["run", "show", LONG, "--json"])[1])
    assert shown["reason"].startswith(MARKED)
