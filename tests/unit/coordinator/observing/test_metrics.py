"""What the metrics count, that they name nobody, and what health says."""

import re
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from golden_databases import RECIPE, fill
from metric_figures import figures
from one_by_one import order_sent
from prometheus_client.parser import text_string_to_metric_families

from coordinator.observing.metrics import (
    CODES,
    METRICS,
    RUN_STATES,
    CoordinatorCollector,
    code_label,
    metrics_text,
    registry_of,
)
from coordinator.observing.server import CONTENT_TYPE, ObservingError, health, observed
from coordinator.observing.status import Status
from coordinator.rounds.table import ENDED
from coordinator.storage.artifacts import open_artifacts
from coordinator.storage.database import Database
from coordinator.storage.store import Store
from motet.recipe import parse_recipe

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def home(tmp_path):
    """A coordinator's home with runs in every state."""
    store = Store.open(tmp_path / "motet.db")
    fill(store)
    store.ledger.publish()
    store.close()
    open_artifacts(tmp_path).put(b"x" * 1000, "update")
    return tmp_path


@pytest.fixture
def database(home):
    database = Database.as_it_is(home / "motet.db")
    yield database
    database.close()


def registry(home, database, status=None):
    return registry_of(CoordinatorCollector(database, open_artifacts(home), status or Status()))


def by_labels(found, wanted):
    return {tuple(v for _, v in labels): value for (name, labels), value in found.items() if name == wanted}


def test_the_figures_are_those_of_the_rows(home, database):
    found = figures(metrics_text(registry(home, database)))
    assert by_labels(found, "motet_runs") == {
        ("PROPOSED",): 0, ("HELD",): 0, ("QUEUED",): 1, ("RUNNING",): 1, ("FINISHED",): 1, ("FAILED",): 0,
        ("CANCELLED",): 1, ("other",): 0,
    }  # fmt: skip
    replies = by_labels(found, "motet_replies_total")
    assert replies == {("", "received"): 4, ("policy_refused", "failed"): 1, ("deadline", "late"): 1}
    assert by_labels(found, "motet_rounds_total") == {("CLOSED",): 2, ("ABORTED",): 1}
    assert found["motet_round_seconds_count", ()] == 2
    assert found["motet_round_seconds_sum", ()] > 0
    assert by_labels(found, "motet_bytes_total") == {("down",): 10_000, ("up",): 4_500}
    assert found["motet_open_orders", ()] == 4
    assert found["motet_clients", (("state", "registered"),)] == 2
    assert found["motet_ledger_entries", ()] > 20
    assert found["motet_artifact_files", ()] == 1
    assert found["motet_artifact_bytes", ()] > 1000
    assert found["motet_database_up", ()] == 1
    assert found["motet_leading", ()] == 0
    assert found["process_resident_memory_bytes", ()] > 1e6


def test_the_table_of_the_documents_is_what_is_shown(home, database):
    shown = {
        (
            f.name + ("_total" if f.type == "counter" else ""),
            f.type,
            tuple(sorted({k for s in f.samples for k in s.labels})),
        )
        for f in text_string_to_metric_families(metrics_text(registry(home, database)).decode())
    }
    described = {(m.name, m.kind, tuple(sorted(m.labels))) for m in METRICS}
    own = {d for d in described if not d[0].startswith("process_")}
    assert {s for s in shown if not s[0].startswith("process_")} == own
    page = (ROOT / "docs/operations.md").read_text()
    for metric in METRICS:
        labels = ", ".join(f"`{name}`" for name in metric.labels) or "-"
        assert f"| `{metric.name}` | {metric.kind} | {labels} | {metric.what} |" in page
    assert set(ENDED) < set(RUN_STATES)


def test_no_figure_names_a_client_a_run_or_what_a_client_said(home, database):
    store = Store.open(home / "motet.db")
    store.reply_failed("r-open", 0, 0, "a", code="anything_a_client_sends", message="Anna Smith has flu")
    store.close()
    text = metrics_text(registry(home, database)).decode()
    for word in ("anything_a_client_sends", "Anna", "r-open", "golden", "epsilon", '"a"', '"b"'):
        assert word not in text
    assert 'code="other"' in text


def test_a_client_can_not_make_labels(home, database):
    before = len(figures(metrics_text(registry(home, database))))
    store = Store.open(home / "motet.db")
    for index in range(30):
        run = store.submit_run(parse_recipe(RECIPE), run_id=f"many-{index}")
        store.start_run(run)
        store.plan_round(run, 0, 0, start_sha256="0" * 64, deadline_s=5, ranks={"a": 2}, event=None)
        order_sent(store, run, 0, 0, "a", message_id=f"m{index}", bytes_down=1)
        store.reply_failed(run, 0, 0, "a", code=f"code_{index}", message="")
    store.close()
    assert len(figures(metrics_text(registry(home, database)))) == before + 1


def test_every_reason_that_the_code_gives_is_told_apart():
    pattern = re.compile(
        r'(?:GridFailure\(\s*code=|MalformedUpdateError\(\s*|EnvelopeError\(\s*)"([a-z_]+)"'
        r'|^    code = "([a-z_]+)"',
        re.MULTILINE,
    )
    found = set()
    for package in ("aggregation", "client", "coordinator", "motet"):
        for path in (ROOT / package).rglob("*.py"):
            found |= {a or b for a, b in pattern.findall(path.read_text())}
    at_start = {"setup", "enrolment", "key"}  # a client that does not start answers no order
    assert len(found) > 20
    assert found - CODES - at_start == set(), "add it to coordinator.observing.metrics.CODES"
    assert code_label("policy_refused") == "policy_refused"
    assert (code_label(""), code_label("invented")) == ("", "other")


def test_without_its_database_the_service_says_so_and_still_answers(home, database):
    collector = CoordinatorCollector(database, open_artifacts(home), Status())
    (home / "motet.db").write_bytes(b"no database")
    for name in ("motet.db-wal", "motet.db-shm"):
        (home / name).unlink(missing_ok=True)
    found = figures(metrics_text(registry_of(collector)))
    assert found["motet_database_up", ()] == 0
    assert ("motet_ledger_entries", ()) not in found
    told = health(database, Status())
    assert told["checks"]["database"] == "down"
    assert told["ready"] is False


class Process:
    def __init__(self, code=None):
        self.code = code

    def poll(self):
        return self.code


class Child:
    def __init__(self, name, code=None):
        self.name, self.process = name, Process(code)


class Grid:
    online_at_last_look = 2


@pytest.mark.parametrize(
    ("leads", "gateway", "grid", "is_ready"),
    [
        (True, None, Grid(), True),
        (False, None, Grid(), False),
        (True, 1, Grid(), False),
        (True, None, None, False),
    ],
)
def test_it_is_ready_when_it_leads_and_all_its_parts_are_up(database, leads, gateway, grid, is_ready):
    status = Status(is_leading=leads, children=[Child("SuperLink"), Child("gateway", gateway)], grid=grid)
    told = health(database, status)
    assert told["ready"] is is_ready
    assert told["checks"]["gateway"] == ("up" if gateway is None else "down")
    assert status.online() == (2 if grid else 0)


def get(address, path):
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=30) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as e:
        return e.code, e.headers["Content-Type"], e.read()


@pytest.fixture
def address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_the_server_answers_metrics_and_health_and_nothing_else(home, address):
    status = Status(is_leading=True, children=[Child("SuperLink"), Child("gateway")], grid=Grid())
    with observed(address, home, status):
        code, kind, body = get(address, "/metrics")
        assert (code, kind) == (200, CONTENT_TYPE)
        assert figures(body)["motet_clients", (("state", "online"),)] == 2
        assert get(address, "/healthz")[0] == 200
        assert get(address, "/healthz/live")[0] == 200
        for path in ("/", "/artifacts", "/metrics/../motet.db", "/healthz/else"):
            assert get(address, path)[0] == 404
        status.ended()
        assert get(address, "/healthz/ready")[0] == 503
        assert get(address, "/healthz/live")[0] == 200
        with pytest.raises(ObservingError, match="can not be used"), observed(address, home, status):
            pass
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://{address}/metrics", timeout=5)
    with observed(None, home, status):
        pass
