"""What the database promises: one transition, one transaction; no charge beyond a limit, whoever races."""

import sqlite3
import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect

from coordinator.errors import RunNotFoundError, StorageError
from coordinator.storage.models import Base
from coordinator.storage.store import Store
from motet.recipe import parse_recipe
from privacy.accounting import epsilon_pld, would_exceed
from privacy.errors import PrivacyError
from privacy.events import PoissonGaussianEvent

RECIPE = """
name: stored
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: 2}
method: {name: flora}
cohort: {clients: [a, b], minimum: 1}
"""
EVENT = PoissonGaussianEvent(noise_multiplier=1.0, sampling_rate=0.1, num_steps=10)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "motet.db"


@pytest.fixture
def store(path):
    store = Store.open(path)
    yield store
    store.close()


def plan(store, run, round_index=0, attempt=0, *, event=None, may_spend=None, ranks=None):
    store.plan_round(
        run,
        round_index,
        attempt,
        start_sha256="0" * 64,
        deadline_s=5,
        ranks=ranks or {"a": 2, "b": 2},
        event=event,
        may_spend=may_spend,
    )


def test_the_migrations_make_the_tables_of_the_models(path, store):
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        assert set(inspect(connection).get_table_names()) == {*Base.metadata.tables, "alembic_version"}
        connection.exec_driver_sql("DROP TABLE metrics")
        assert compare_metadata(context, Base.metadata) != []  # positive control
    engine.dispose()


def test_submitting_twice_under_one_id_is_one_run_and_another_recipe_is_refused(store):
    recipe = parse_recipe(RECIPE)
    assert store.submit_run(recipe, run_id="r") == store.submit_run(recipe, run_id="r") == "r"
    assert len(store.list_runs()) == 1
    with pytest.raises(StorageError, match="another recipe"):
        store.submit_run(parse_recipe(RECIPE.replace("lora_rank: 2", "lora_rank: 3")), run_id="r")


def test_an_unknown_run_is_named_with_the_newest_ones(store):
    store.submit_run(parse_recipe(RECIPE), run_id="r-known")
    with pytest.raises(RunNotFoundError) as caught:
        store.get_run("r-unknwon")
    assert "r-unknwon" in caught.value.message
    assert "r-known" in caught.value.hint


def test_an_ended_run_stays_as_it_ended(store):
    run = store.submit_run(parse_recipe(RECIPE))
    store.start_run(run)
    store.end_run(run, "FAILED", "first")
    store.end_run(run, "FINISHED", adapter_sha256="f" * 64)
    store.start_run(run)
    row = store.get_run(run)
    assert (row.state, row.reason, row.adapter_sha256) == ("FAILED", "first", "")


def test_a_refused_charge_leaves_nothing_of_the_round_behind(store):
    run = store.submit_run(parse_recipe(RECIPE))
    before = store.count_rows()

    def refuse_b(client_id, _spent):
        if client_id == "b":
            raise PrivacyError("spent")

    with pytest.raises(PrivacyError):
        plan(store, run, event=EVENT, may_spend=refuse_b)
    assert store.count_rows() == before
    plan(store, run, event=EVENT, may_spend=lambda *_: None)  # positive control: allowed, it is written
    assert store.count_rows()["privacy_events"] == 2


def test_of_many_runs_that_race_for_the_last_budget_exactly_as_many_win_as_fit(path, store):
    fits, racers = 3, 8
    limit = epsilon_pld([EVENT] * fits, 1e-5) + 1e-6
    runs = [store.submit_run(parse_recipe(RECIPE), run_id=f"r-{i}") for i in range(racers)]
    barrier, won, lost = threading.Barrier(racers), [], []

    def may_spend(client_id, spent):
        if would_exceed(spent, EVENT, limit, 1e-5):
            raise PrivacyError("spent")

    def race(run):
        own = Store.open(path)
        barrier.wait()
        try:
            plan(own, run, event=EVENT, may_spend=may_spend, ranks={"a": 2})
            won.append(run)
        except PrivacyError:
            lost.append(run)
        finally:
            own.close()

    threads = [threading.Thread(target=race, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (fits, racers - fits)
    assert len(store.spent_events("a")) == fits


def test_a_charge_counts_settled_or_not_and_over_all_runs(store):
    for name in ("r-1", "r-2"):
        store.submit_run(parse_recipe(RECIPE), run_id=name)
        plan(store, name, event=EVENT)
    store.reply_received("r-1", 0, 0, "a", payload_sha256="1" * 64, bytes_up=1, weight=1.0, num_examples=0)
    store.reply_failed("r-2", 0, 0, "a", code="deadline", message="late")
    store.abort_round("r-2", 0, 0, "nobody answered")
    assert store.spent_events("a") == [EVENT, EVENT]
    assert store.spent_events("a", "r-2") == [EVENT]


def test_closing_twice_is_closing_once_and_another_adapter_is_refused(store):
    run = store.submit_run(parse_recipe(RECIPE))
    plan(store, run)
    close = {"adapter_sha256": "a" * 64, "num_bytes": 7, "relative_error": 0.0}
    store.close_round(run, 0, 0, **close)
    store.close_round(run, 0, 0, **close)
    assert [m.name for m in store.metrics(run)] == ["relative_error", "seconds"]
    with pytest.raises(StorageError, match="is not open") as caught:
        store.close_round(run, 0, 0, **(close | {"adapter_sha256": "b" * 64}))
    assert "two coordinators" in caught.value.hint


def test_an_answer_after_the_deadline_changes_a_counter_and_no_payload(store):
    run = store.submit_run(parse_recipe(RECIPE))
    plan(store, run)
    store.reply_failed(run, 0, 0, "a", code="deadline", message="late")
    store.reply_received(run, 0, 0, "a", payload_sha256="1" * 64, bytes_up=9, weight=1.0, num_examples=0)
    store.reply_late(run, 0, 0, "a", bytes_up=9)
    store.reply_late(run, 0, 0, "a", bytes_up=9)
    row = next(c for c in store.contributions(run) if c.client_id == "a")
    assert (row.state, row.payload_sha256, row.bytes_up) == ("LATE", "", 9)
    assert {m.name: m.value for m in store.metrics(run)} == {"late_replies": 1.0}


def test_a_reader_holds_no_writer_up(store, path):
    run = store.submit_run(parse_recipe(RECIPE))
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM runs").fetchone()
    store.start_run(run)
    assert store.get_run(run).state == "RUNNING"
    reader.execute("ROLLBACK")
    reader.close()


@pytest.mark.parametrize(
    ("content", "word"), [(b"this is a letter, not a database" * 90, "not a database"), (b"", None)]
)
def test_a_file_that_is_no_database_is_named(path, content, word):
    path.write_bytes(content)
    if word is None:
        Store.open(path).close()  # an empty file is an empty database
        return
    with pytest.raises(StorageError, match=word) as caught:
        Store.open(path)
    assert str(path) in caught.value.message
    assert path.read_bytes() == content


def test_a_database_of_a_newer_motet_is_left_alone(path, store):
    store.close()
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StorageError) as caught:
        Store.open(path)
    assert "another version" in caught.value.hint


def test_a_full_disk_ends_in_words_and_keeps_what_was_there(path, store):
    run = store.submit_run(parse_recipe(RECIPE), run_id="r-kept")
    with store._database.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        connection.commit()
    with pytest.raises(StorageError) as caught:  # noqa: PT012 - any of them may meet the end
        for number in range(500):
            store.submit_run(parse_recipe(RECIPE), run_id=f"r-{number}")
    assert "free disk space" in caught.value.hint
    assert store.get_run(run).state == "QUEUED"


def test_a_missing_database_is_not_made_by_a_reader(path):
    with pytest.raises(StorageError, match="no such database"):
        Store.open(path, create=False)
    assert not path.exists()
