"""The report: the figures of the ledger, in one page that fetches nothing, whatever the ledger holds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from html.parser import HTMLParser

import pytest
from audit_houses import EVENT, RECIPE, reserve

from motet.audit.attack import attack
from motet.audit.errors import BundleError
from motet.audit.report.curves import attack_curve, best_guess, epsilon_by_round
from motet.audit.report.facts import FACT_NAMES, NOT_STATED, build_report, read_facts
from motet.audit.report.page import render
from motet.audit.report.plots import Line, line_plot
from motet.audit.verify import verify_bundle
from motet.cli.main import main
from privacy.accounting import epsilon_pld
from privacy.audit.bounds import epsilon_of_gaussian
from privacy.events import PoissonGaussianEvent, UnknownEvent
from privacy.ledger.entries import RunDeclared

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Tags with their attributes; whether they are closed in order; texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def report_of(house, facts=None, canary=None):
    return build_report(verify_bundle(house.bundle()), facts=facts or {}, canary=canary)


def test_the_figures_are_those_of_the_ledger(house):
    house.play(range(8))
    told = report_of(house)
    assert told["verdict"]["ok"]
    assert [c["client_id"] for c in told["clients"]] == list("abcd")
    assert told["clients"][0]["epsilon_pld"] == pytest.approx(epsilon_pld([EVENT] * 8, 1e-5))
    assert told["clients"][3]["without_answer"] == 2
    assert told["runs"][0]["charged_without_answer"] == 2
    assert told["curves"]["by_round"]["a"]["y"][-1] == told["clients"][0]["epsilon_pld"]
    assert f"{told['clients'][0]['epsilon_pld']:.3f}" in render(told)


def test_the_report_names_all_that_nist_and_the_registry_ask_for(house):
    house.play(range(2))
    told = report_of(house)
    assert {
        "privacy parameters",
        "unit of privacy",
        "neighbouring data sets",
        "scope of the total",
        "composition",
        "post-processing",
        "mechanism",
        "trust model",
        "randomness",
        "side channels",
        "utility",
        "data retention",
        "access control",
    } <= set(told["nist_sp_800_226"])
    assert {
        "name",
        "flavor",
        "privacy unit",
        "privacy loss",
        "deployment model",
        "accounting",
        "sector",
    } <= set(told["deployment_registry"])
    assert told["deployment_registry"]["data curator"] == NOT_STATED
    assert len(told["unprotected"]) >= 8


def test_a_facts_file_fills_what_software_can_not_know(house):
    house.play(range(2))
    facts = read_facts('data_curator = "St. Anne <hospital>"\nsector = "health"', "facts.toml")
    told = report_of(house, facts)
    assert told["deployment_registry"]["data curator"] == "St. Anne <hospital>"
    page = render(told)
    assert "St. Anne &lt;hospital&gt;" in page
    assert "<hospital>" not in page


@pytest.mark.parametrize("text", ["x = ", 'purpose = "x"', "sector = 3"])
def test_a_facts_file_that_is_none_is_refused(text):
    with pytest.raises(BundleError, match=r"facts\.toml"):
        read_facts(text, "facts.toml")


def test_every_fact_has_a_place_on_the_page(house):
    house.play(range(1))
    facts = {name: f"the {name} is told" for name in FACT_NAMES}
    page = render(report_of(house, facts))
    assert [name for name in FACT_NAMES if f"the {name} is told" not in page] == []


def test_the_page_is_one_file_that_fetches_nothing(house):
    house.play(range(3))
    text = render(report_of(house))
    page = Page(text)
    assert page.open == []
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "video", "base", "form", "a"}
    for tag, attributes in page.tags:
        assert not {"src", "href", "xlink:href", "srcset", "background", "action"} & set(attributes), tag
        assert not [name for name in attributes if name.startswith("on")]
    style = "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL))
    assert "url(" not in style
    assert "@import" not in style
    assert not re.findall(r"https?://", text)
    assert "default-src 'none'" in text


def test_the_page_is_made_for_phones_and_for_the_dark(house):
    house.play(range(3))
    text = render(report_of(house))
    assert '<meta name="viewport" content="width=device-width,initial-scale=1">' in text
    assert "@media(prefers-color-scheme:dark)" in text
    assert text.count("<table>") == text.count('<div class="scroll"><table>') >= 4
    used = set(re.findall(r"var\(--(\w+)\)", text))
    light, dark = text.split("@media(prefers-color-scheme:dark)")[:2]
    for name in used:
        assert f"--{name}:#" in light
        assert f"--{name}:#" in dark.split("}}")[0]


def test_plots_are_inline_and_can_be_read_out(house):
    house.play(range(3))
    text = render(report_of(house))
    assert (
        text.count("<svg ")
        == text.count('role="img"')
        == text.count("</title></") + text.count("</title><") - 1
    )
    assert text.count("<svg ") == 2


HOSTILE = "</title><script>alert(1)</script>\"'&"


def test_nothing_from_the_ledger_becomes_markup(house):
    recipe = json.dumps({**json.loads(RECIPE), "name": HOSTILE, "method": {"name": HOSTILE}}, sort_keys=True)
    digest = hashlib.sha256(recipe.encode()).hexdigest()
    house.ledger.append([RunDeclared(run_id=HOSTILE, recipe_sha256=digest, recipe_json=recipe)])
    house.ledger.append([reserve(0, HOSTILE, HOSTILE)])
    text = render(build_report(verify_bundle(house.bundle(HOSTILE)), facts={}))
    assert Page(text).open == []
    assert "<script" not in text
    assert HOSTILE in Page(text).texts  # it is shown, as text
    assert "&lt;script&gt;" in text


def test_a_bundle_that_does_not_hold_is_said_so_on_top(house):
    house.play(range(2))
    data = house.bundle().replace(b'"reason":"deadline"', b'"reason":"deadlime"')
    told = build_report(verify_bundle(data), facts={})
    text = render(told)
    assert not told["verdict"]["ok"]
    assert "It does not hold." in text
    assert "All holds." not in text


def test_a_bundle_that_does_not_say_its_run_has_no_report(house):
    with pytest.raises(BundleError, match="which run"):
        build_report(verify_bundle(b"{}\n"), facts={})


def test_a_run_without_privacy_is_called_that(house):
    recipe = json.dumps({"name": "open", "privacy": None, "training": {"local_steps": 1}})
    digest = hashlib.sha256(recipe.encode()).hexdigest()
    house.ledger.append([RunDeclared(run_id="p", recipe_sha256=digest, recipe_json=recipe)])
    told = build_report(verify_bundle(house.bundle("p")), facts={})
    text = render(told)
    assert told["clients"] == []
    assert "no bound" in text
    assert "no differential privacy" in text
    assert told["deployment_registry"]["flavor"] == "none"


def test_an_infinite_epsilon_is_no_number_anywhere(house):
    house.ledger.append([dataclasses.replace(reserve(0, "a"), event='{"kind":"new"}', rdp_nano=None)])
    told = report_of(house)
    json.dumps(told, allow_nan=False)
    assert told["clients"][0]["epsilon_pld"] is None
    assert told["curves"]["attack"] is None
    assert "no bound" in render(told)


def test_the_canary_audit_is_part_of_the_page_with_its_ceiling(house):
    house.play(range(1))
    outcome = json.loads(
        json.dumps(attack(trials=50, canaries=400, with_runs=True, with_controls=True).as_json())
    )
    told = report_of(house, canary=outcome)
    assert told["empirical_audit"]["one_run"]["ceiling"] > told["empirical_audit"]["one_run"]["claim"]
    assert "can refute claims up to" in render(told)
    assert "no noise" in render(told)
    with pytest.raises(BundleError, match="canary"):
        report_of(house, canary={"ok": True})


# -- curves ----------------------------------------------------------------------------------------------------------


def test_the_bound_on_attacks_holds_for_the_best_attack_on_a_gaussian():
    """One step without sampling at noise 1: the best attack is known, TPR = Phi(Phi^-1(FPR) + 1)."""
    from scipy.stats import norm

    events = [PoissonGaussianEvent(noise_multiplier=1.0, sampling_rate=1.0, num_steps=1)]
    curve = attack_curve(events)
    for fpr, bound in zip(curve.x, curve.y, strict=True):
        best = float(norm.cdf(norm.ppf(fpr) + 1.0))
        assert bound >= best - 1e-3
        assert bound <= best + 0.15  # it is a bound of this attack, not of none
    accuracy = float(norm.cdf(0.5))
    assert accuracy <= best_guess(events) <= accuracy + 0.05


def test_the_bound_on_attacks_is_worthless_where_epsilon_is_infinite():
    assert set(attack_curve([UnknownEvent(text="{}")]).y) == {1.0}
    assert best_guess([UnknownEvent(text="{}")]) == 1.0
    assert best_guess([]) == pytest.approx(0.5, abs=1e-4)


def test_epsilon_grows_with_every_charge():
    curve = epsilon_by_round([EVENT] * 40, 1e-5)
    assert curve.x[0] == 0.0
    assert curve.x[-1] == 40.0
    assert curve.y[0] == 0.0
    assert list(curve.y) == sorted(curve.y)
    assert curve.y[-1] == epsilon_pld([EVENT] * 40, 1e-5)
    assert math.isinf(epsilon_by_round([UnknownEvent(text="")], 1e-5).y[-1])
    assert epsilon_of_gaussian(1.0, 1e-5) > 0


@pytest.mark.parametrize(
    ("largest", "limit"), [(0.0, None), (2.7, None), (40.0, 100.0), (1e-4, None), (1e6, 3.0)]
)
def test_a_plot_stays_inside_its_frame(largest, limit):
    text = line_plot("t", "x", "y", [Line(label="<b>", x=(0.0, 1.0), y=(0.0, largest))], limit=limit)
    assert "<b>" not in text
    for x, y in re.findall(r"[ML](-?[\d.]+),(-?[\d.]+)", text):
        assert 0 <= float(x) <= 640
        assert 0 <= float(y) <= 320
    assert Page(text).open == []


# -- the command -----------------------------------------------------------------------------------------------------


def run(capsys, *arguments):
    code = 0
    try:
        main(["audit", "report", *map(str, arguments)])
    except SystemExit as stop:
        code = stop.code or 0
    return code, capsys.readouterr()


def test_the_command_writes_the_page_and_prints_the_json(house, tmp_path, capsys):
    house.play(range(2))
    bundle = tmp_path / "b.jsonl"
    bundle.write_bytes(house.bundle())
    (tmp_path / "facts.toml").write_text('sector = "health"')
    code, out = run(
        capsys, bundle, "--out", tmp_path / "r.html", "--facts", tmp_path / "facts.toml", "--json"
    )
    assert code == 0
    assert json.loads(out.out)["deployment_registry"]["sector"] == "health"
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


def test_the_command_fails_when_the_bundle_does_not_hold_and_still_writes_the_page(house, tmp_path, capsys):
    house.play(range(2))
    bundle = tmp_path / "b.jsonl"
    bundle.write_bytes(house.bundle().replace(b'"reason":"deadline"', b'"reason":"deadlime"'))
    code, _ = run(capsys, bundle, "--out", tmp_path / "r.html")
    assert code == 11
    assert "It does not hold." in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    "options", [[], ["--json", "--canary", "no.json"], ["--json", "--canary", "list.json"]]
)
def test_what_can_not_be_done_is_told(house, tmp_path, capsys, monkeypatch, options):
    house.play(range(1))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.jsonl").write_bytes(house.bundle())
    (tmp_path / "no.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    code, out = run(capsys, "b.jsonl", *options)
    assert code == 2
    assert "next:" in out.err
