"""Every table at its worst: names as long as they may be and large figures fit 80 columns, whole, in every terminal."""

import io
import re
from dataclasses import replace
from itertools import pairwise, zip_longest
from types import SimpleNamespace

import pytest
from rich.cells import cell_len
from terminal import CODES, COLOUR

from motet.audit.bundle import Claim
from motet.audit.data_sets import DataSetSpending
from motet.cli import audit, budget, materials, merge, plan, port, report, run, screen, watch_view
from motet.cli.watched_run import WatchedRun
from motet.plan import ClientPlan, Plan, PrivacyPlan
from motet.wire.control import Budget, Contribution, Round, Run, RunBudget, RunEvent

NAME = "a-client-of-sixty-three-letters-which-is-the-most-that-may-beuse"[:63]
NAMES = [f"{NAME[:-2]}{i:02}" for i in range(9)]
RUN_ID = "r-of-a-study-whose-people-name-their-runs-by-hand-2026-11-22-01"
HASH = "0123456789abcdef" * 4
REASON = f"clause [allowed_targets] of {NAME}: [/bold] is not among [red]them[/]"
UNITS = ("example", "person", "client")
EPSILONS = (123.456, 987654.321, float("inf"))


class Screen(io.StringIO):
    """Standard output, a terminal or not."""

    def __init__(self, *, is_terminal):
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self):
        return self._is_terminal


@pytest.fixture(params=["file", "NO_COLOR", "colour"])
def shown(request, monkeypatch):
    """Prints to what ``screen.console`` makes, holds what came against its kind, and gives it without codes."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("TERM", "xterm-256color")
    if request.param == "NO_COLOR":
        monkeypatch.setenv("NO_COLOR", "1")

    def printed(*things, fits=True):
        out = Screen(is_terminal=request.param != "file")
        monkeypatch.setattr("sys.stdout", out)
        for thing in things:
            thing(screen.console()) if callable(thing) else screen.console().print(thing)
        raw = out.getvalue()
        assert ("\x1b" in raw) == (request.param != "file") or not fits
        assert request.param == "colour" or not COLOUR.search(raw)
        text = CODES.sub("", raw)
        assert not fits or [line for line in text.splitlines() if cell_len(line) > 80] == []
        return text

    printed.kind = request.param
    return printed


def columns(text):
    """The columns of a table, each put together over the lines that its cells are folded into."""
    lines = text.splitlines()
    framed = [re.split(r"[│┃]", line) for line in lines if re.search(r"[│┃]", line)]
    # Without lines: a column is what stands below its header.
    free = [line for line in lines if not re.match(r"[│┃┏┡└]", line)]
    header = next((it for it in free if len(re.findall(r"\S+(?: \S+)*", it)) >= 3), "")
    starts = [found.start() for found in re.finditer(r"\S+(?: \S+)*", header)]
    open_ones = [[line[a:b] for a, b in pairwise([*starts, 80])] for line in free]
    together = [*zip_longest(*framed, fillvalue=""), *zip_longest(*open_ones, fillvalue="")]
    return ["".join(cells).replace(" ", "") for cells in together]


def holds(text, *words):
    """Every word is there in one piece, or folded within its column."""
    together = columns(text)
    missing = [w for w in words if w not in text and not any(w.replace(" ", "") in t for t in together)]
    assert not missing, text


def watched(*, ended=False):
    made = WatchedRun(lambda: 0.0)
    states = [("RECEIVED", ""), ("FAILED", REASON), ("ORDERED", "")]
    parts = tuple(
        Contribution(
            client_id=name, state=state, lora_rank=16, bytes_down=123456789, bytes_up=987654321,
            change_norm=1234.5, error_code="policy_refused" if why else "", error_message=why,
        )
        for name, (state, why) in zip(NAMES, states, strict=False)
    )  # fmt: skip
    found = Run(
        run_id=RUN_ID, name=NAME, state="FAILED" if ended else "RUNNING", rounds_total=100, rounds_closed=3,
        reason=REASON * 3, priority=-1000,
    )  # fmt: skip
    attempt = Round(
        run_id=RUN_ID, round_index=3, attempt=2, state="PLANNED", started_at=0.0, contributions=parts
    )
    for field, item in (("run", found), ("round", attempt)):
        made.take(RunEvent(number=1, at=5000.0, **{field: item}))
    made.take_budgets([_budget(NAMES[0], 123.456)])
    return found, made


def _budget(name, total):
    runs = (RunBudget(run_id=RUN_ID, epsilon=total, charges=3),)
    return Budget(
        client_id=name, unit="example", target_delta=1e-5, spent=total, reserved=0.0, total=total, limit=8.0,
        remaining=0.0, charges=3, open_charges=0, runs=runs,
    )  # fmt: skip


def test_run_list(shown):
    first, _ = watched()
    runs = [first, Run(run_id="r-3f9a1c00aa11", name="tiny", state="CANCELLED", rounds_total=3)]
    text = shown(run.runs_table(runs))
    holds(text, RUN_ID, NAME, "r-3f9a1c00aa11", "CANCELLED", "RUNNING", "3/100", "-1000")
    assert "priority" not in shown(run.runs_table(runs[1:]))


def test_run_show(shown):
    _, made = watched()
    text = shown(run.rounds_table([run.round_as_values(made.newest())]))
    holds(text, *NAMES[:3], "3 (attempt 3)", "PLANNED")


def test_budget_show(shown):
    rows = [
        {
            "client_id": name, "unit": unit, "spent": e, "reserved": e, "total": e, "target_delta": 1e-5,
            "limit": limit, "remaining": None if limit is None else e,
            "runs": [{"run_id": RUN_ID, "epsilon": e}, {"run_id": "r-3f9a1c00aa11", "epsilon": e}],
        }
        for name, unit, limit, e in zip(NAMES, UNITS, (None, 8, 12345.678), EPSILONS, strict=False)
    ]  # fmt: skip
    text = shown(budget.budgets_table(rows))
    holds(text, *NAMES[:3], RUN_ID, "123.456", "9.877e+05", "inf", "no limit", "of 8", "at delta 1e-05")
    rows[0]["target_delta"] = 1.234e-7
    holds(shown(budget.budgets_table(rows)), *NAMES[:3], "1.234e-07", "123.456")


def test_audit_verify(shown, monkeypatch):
    counted = ("entries", "checkpoints", "reservations", "orders", "decisions", "countersignatures")
    result = SimpleNamespace(
        summary=dict.fromkeys(counted, 1234567),
        clients=[
            Claim(client_id=n, target_delta=1.234e-7, epsilon_pld=e, epsilon_rdp=e, unit="person")
            for n, e in zip(NAMES, EPSILONS, strict=False)
        ],
        data_sets=[
            DataSetSpending(
                client_id=n, data_set=HASH, unit="example", charges=1000, target_delta=1.234e-7,
                epsilon_pld=e, epsilon_rdp=e,
            )
            for n, e in zip(NAMES, EPSILONS, strict=False)
        ],
        findings=(), notes=(), is_ok=True, state=SimpleNamespace(approvals=()),
    )  # fmt: skip
    decided = {
        "client_id": NAME, "recipe_sha256": HASH, "runs": [RUN_ID], "decision": "approved",
        "made_by": "policy", "reason": REASON,
    }  # fmt: skip
    monkeypatch.setattr(audit, "decisions_of", lambda _result: [decided])
    text = shown(lambda console: audit.print_result(result, console))
    holds(text, *NAMES[:3], RUN_ID, HASH[:12], "987654.3210", "inf", "1.234e-07", "approved")
    assert text.count("whole hashes: --json") == 2
    holds(text, "[/bold]")


def test_merge_and_port(shown):
    path = "/srv/models/" + "/".join(NAMES[:3])
    told = {"method": "rank-index", "inputs": [{"path": path, "share": 1 / 3, "lora_ranks": [4, 8, 16, 64]}]}
    holds(shown(merge.inputs_table(told)), path, "0.333", "4, 8, 16, 64")
    row = {"base_change_norm": 1.23e-7, "adapter_norm": 12345.6, "ratio": None, "cosine": -0.123}
    layers = {f"base_model.model.{NAME}.encoder.layer.11.attention.[self].query": row}
    holds(shown(port.layers_table(layers)), *layers, "1.23e-07", "-0.123")


def test_materials_list(shown):
    rows = [materials._row(m) for m in materials.MATERIALS.values()]
    holds(shown(materials.materials_table(rows)), *(r["name"] for r in rows))
    long = rows[0] | {"name": "smollm2-of-some-length", "licence": HASH, "what": f"{NAME} {REASON}"}
    holds(shown(materials.materials_table([long])), long["name"], HASH)


def test_simulate(shown):
    metric = {"loss": 123.456, "loss_standard_error": 0.01, "num_examples": 400}
    gain = {"gain": -12.345, "standard_error": 1.234}
    result = {
        "recipe_name": NAME,
        "metrics": {
            "start": metric, "federated": metric, "federated_no_privacy": metric, "head_only_private": metric,
            "local_only": {NAME: metric},
        },
        "gains": {k: {f"alone/{NAME}": gain} for k in ("federated", "federated_no_privacy")},
        "clients": [
            {
                "client_id": n, "lora_rank": 64, "num_examples": 1234567, "bytes_up": 123456789012,
                "bytes_down": 999_900_000, "epsilon": e,
            }
            for n, e in zip(NAMES, EPSILONS, strict=False)
        ],
        "privacy_unit": "person",
    }  # fmt: skip
    for loss in (3.412, 12.0, 987.654):
        metric["loss"] = loss
        text = shown(report.metrics_table(result), report.clients_table(result))
        holds(text, *NAMES[:3], "-12.345 ± 1.234", "123.5 GB", "987654.32", f"{loss:.3f} ± 0.010")


def test_plan(shown):
    clients = [
        ClientPlan(
            client_id=n, lora_rank=64, trainable_parameters=1234567890, bytes_up=987654321,
            bytes_up_total=98765432100, bytes_down=(1, 987654321), num_examples=None,
        )
        for n in NAMES
    ]  # fmt: skip
    privacy = PrivacyPlan(
        unit="person", expected_cohort=123.4, noise_multiplier=0.123456, sampling_rate=0.0123456,
        num_steps=100000, target_delta=1.234e-7, epsilon=987654.321, expected_epsilon=None,
        epsilon_limit=12345.678, rounds_within_limit=1,
    )  # fmt: skip
    made = Plan(
        name=NAME, recipe_sha256=HASH, method="rank-index", rounds=1000, local_steps=10000,
        adapted_layers=1000, total_parameters=123456789012, clients=clients, clients_are_known=True,
        asking=None, privacy=privacy, seconds_per_step=123.4, notes=(f"{NAME} [red]{NAME}",),
    )  # fmt: skip
    text = shown(lambda console: plan.print_plan(made, console))
    holds(text, *NAMES[:6], "1,234,567,890", "987.7 MB", "987654.321", "1.234e-07")
    assert "[red]" in text


def test_watch(shown):
    found, made = watched()
    live = shown(watch_view.RunView(made))
    assert "whole names: --json" in live
    assert len(live.splitlines()) <= 24
    holds(shown(watch_view.RunView(made, is_whole=True)), *NAMES[:3], RUN_ID)
    queue = shown(watch_view.RunsView(lambda: [(found, made)]))
    assert "whole names: --json" in queue
    short = replace(found, run_id="r-3f9a1c00aa11")
    for words in ("r-3f9a1c00aa11", "RUNNING", "3/100"):  # a long reason takes no room from them
        assert words in shown(watch_view.RunsView(lambda: [(short, made)]))
    for words in ("received", "refused", "987.7 MB", "123.46 of 8"):
        assert words in live
    text = shown(watch_view.RunsView(lambda: [(found, made)] * 30, is_whole=True))
    holds(text, RUN_ID)
    assert "whole names" not in text
    assert text.count("RUNNING") == 30


def test_a_cut_name_is_found():
    """Positive control."""
    holds(f"│ {NAME[:40]} │ 1 │\n│ {NAME[40:]} │   │", NAME)
    with pytest.raises(AssertionError):
        holds(f"│ {NAME[:40]}… │ 1 │", NAME)
