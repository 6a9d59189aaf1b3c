"""What a database promises, whichever it is: one transition, one transaction; charges and entries only grow.

``tests/integration/test_budget_race.py`` holds the same against processes, ``test_kill_campaign.py`` against kill -9.
"""

import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from databases import Place
from one_by_one import order_sent, reply_received
from sqlalchemy import delete, inspect, text, update
from sqlalchemy.event import listen, remove

from aggregation.weighing import Verdict
from coordinator.errors import DatabaseAwayError, RunNotFoundError, StorageError
from coordinator.storage.models import Base, BudgetRow, LedgerEntryRow, PrivacyEventRow
from motet.audit.errors import LedgerConflictError
from motet.recipe import parse_recipe
from privacy.accounting import epsilon_pld, would_exceed
from privacy.errors import PrivacyError
from privacy.events import PoissonGaussianEvent
from privacy.ledger.chain import verify_chain
from privacy.ledger.entries import CancelRefused, reservation_id, reserve_of
from privacy.ledger.rules import check_entries

RECIPE = """
name: stored
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: 2}
method: {name: flora}
training: {rounds: 3, local_steps: 10}
privacy: {noise_multiplier: 1.0, sampling_rate: 0.1}
cohort: {clients: [a, b], minimum: 1}
"""
EVENT = PoissonGaussianEvent(noise_multiplier=1.0, sampling_rate=0.1, num_steps=10)


@pytest.fixture
def store(place):
    store = place.open()
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


def play(store, run, round_index=0, attempt=0):
    """One attempt at a round: a answers, b does not."""
    plan(store, run, round_index, attempt, event=EVENT)
    for client in "ab":
        message_id = f"m-{run}-{round_index}-{attempt}-{client}"
        order_sent(store, run, round_index, attempt, client, message_id=message_id, bytes_down=1)
    update = {"payload_sha256": "1" * 64, "bytes_up": 1, "weight": 1.0, "num_examples": 0}
    reply_received(store, run, round_index, attempt, "a", **update)
    store.reply_failed(run, round_index, attempt, "b", code="deadline", message="late")


@pytest.fixture
def charged(store):
    """A store with a run, two charges, two orders and two outcomes."""
    play(store, store.submit_run(parse_recipe(RECIPE), run_id="r-1"))
    return store


def test_the_migrations_make_the_tables_of_the_models(store):
    with store._database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        assert set(inspect(connection).get_table_names()) == {*Base.metadata.tables, "alembic_version"}
        connection.exec_driver_sql("DROP TABLE metrics")
        assert compare_metadata(context, Base.metadata) != []  # positive control


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


def test_of_many_runs_that_race_for_the_last_budget_exactly_as_many_win_as_fit(place, store):
    fits, racers = 3, 8
    limit = epsilon_pld([EVENT] * fits, 1e-5) + 1e-6
    runs = [store.submit_run(parse_recipe(RECIPE), run_id=f"r-{i}") for i in range(racers)]

    def may_spend(_client_id, spent):
        if would_exceed(spent, EVENT, limit, 1e-5):
            raise PrivacyError("spent")

    def race(i):
        own = place.open()
        try:
            plan(own, runs[i], event=EVENT, may_spend=may_spend, ranks={"a": 2})
        finally:
            own.close()

    raised = at_once(racers, race)
    assert raised.count(None) == fits
    assert {type(e) for e in raised if e is not None} == {PrivacyError}
    assert len(store.spent_events("a")) == fits


def test_a_charge_counts_settled_or_not_and_over_all_runs(store):
    for name in ("r-1", "r-2"):
        store.submit_run(parse_recipe(RECIPE), run_id=name)
        plan(store, name, event=EVENT)
    reply_received(store, "r-1", 0, 0, "a", payload_sha256="1" * 64, bytes_up=1, weight=1.0, num_examples=0)
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


def test_a_round_closes_with_a_verdict_of_each_of_its_clients(store):
    """Several rows of one table in one statement or in many: every one of them is written, and counted."""
    run = store.submit_run(parse_recipe(RECIPE))
    ranks = {"a": 2, "b": 2, "c": 2}
    plan(store, run, ranks=ranks)
    verdicts = {c: Verdict(change_norm=float(i), share=0.1 * i) for i, c in enumerate(ranks, 1)}
    store.close_round(run, 0, 0, adapter_sha256="a" * 64, num_bytes=7, relative_error=0.0, verdicts=verdicts)
    assert {c.client_id: c.change_norm for c in store.contributions(run)} == {"a": 1.0, "b": 2.0, "c": 3.0}


def test_an_answer_after_the_deadline_changes_a_counter_and_no_payload(store):
    run = store.submit_run(parse_recipe(RECIPE))
    plan(store, run)
    store.reply_failed(run, 0, 0, "a", code="deadline", message="late")
    reply_received(store, run, 0, 0, "a", payload_sha256="1" * 64, bytes_up=9, weight=1.0, num_examples=0)
    store.reply_late(run, 0, 0, "a", bytes_up=9)
    store.reply_late(run, 0, 0, "a", bytes_up=9)
    row = next(c for c in store.contributions(run) if c.client_id == "a")
    assert (row.state, row.payload_sha256, row.bytes_up) == ("LATE", "", 9)
    assert {m.name: m.value for m in store.metrics(run)} == {"late_replies": 1.0}


# -- only growing ----------------------------------------------------------------------------------------------------

FORBIDDEN = {
    "ledger_entries": [
        "UPDATE ledger_entries SET leaf = leaf WHERE sequence = 2",
        "DELETE FROM ledger_entries WHERE sequence = 2",
        "DELETE FROM ledger_entries",
        "INSERT INTO ledger_entries SELECT sequence + 100, kind, 'x', leaf, previous, 'y' FROM ledger_entries "
        "WHERE sequence = 2",
        "INSERT INTO ledger_entries SELECT (SELECT MAX(sequence) + 1 FROM ledger_entries), kind, 'x', leaf, previous, "
        "'y' FROM ledger_entries WHERE sequence = 2",
    ],
    "privacy_events": [
        "DELETE FROM privacy_events WHERE client_id = 'a'",
        "UPDATE privacy_events SET state = 'RESERVED' WHERE client_id = 'a'",
        "UPDATE privacy_events SET state = 'VOID' WHERE client_id = 'b'",
        "UPDATE privacy_events SET event_json = '{}' WHERE client_id = 'a'",
        "UPDATE privacy_events SET client_id = 'c' WHERE client_id = 'a'",
        "UPDATE privacy_events SET reserved_at = 0 WHERE client_id = 'a'",
    ],
    "budgets": [
        "DELETE FROM budgets WHERE client_id = 'a'",
        "UPDATE budgets SET charges = charges - 1, accounted = accounted - 1 WHERE client_id = 'a'",
        "UPDATE budgets SET client_id = 'c' WHERE client_id = 'a'",
    ],
}
ONE_DIALECT = {
    "sqlite": {
        "ledger_entries": [
            "INSERT OR REPLACE INTO ledger_entries SELECT * FROM ledger_entries WHERE sequence = 2"
        ],
        "privacy_events": ["INSERT OR REPLACE INTO privacy_events SELECT * FROM privacy_events"],
        "budgets": ["INSERT OR REPLACE INTO budgets VALUES ('a', 0, 0)"],
    },
    "postgresql": {table: [f"TRUNCATE {table}"] for table in FORBIDDEN},
}


@pytest.mark.parametrize("table", FORBIDDEN)
def test_the_database_itself_refuses_to_take_back_a_charge_or_an_entry(charged, place, table):
    before = place.sql(f"SELECT * FROM {table}")
    assert before
    statements = FORBIDDEN[table] + ONE_DIALECT[place.dialect][table]
    for statement in statements:
        with pytest.raises(Exception, match="only grows"):
            place.sql(statement)
    assert place.sql(f"SELECT * FROM {table}") == before


@pytest.mark.parametrize("table", FORBIDDEN)
def test_without_its_triggers_the_database_would_take_back_what_was_spent(charged, place, table):
    """Positive control: the same statement, the same rows."""
    place.drop_triggers(table)
    before = place.sql(f"SELECT * FROM {table}")
    place.sql(FORBIDDEN[table][1 if table == "ledger_entries" else 0])
    assert len(place.sql(f"SELECT * FROM {table}")) == len(before) - 1


def test_the_store_itself_can_not_take_back_a_charge_and_says_why(charged):
    for statement in (
        delete(PrivacyEventRow),
        update(LedgerEntryRow).values(leaf=b""),
        delete(BudgetRow),
    ):
        with pytest.raises(StorageError, match="only grows") as caught, charged._transaction() as session:
            session.execute(statement)
        assert "never changed or removed" in caught.value.hint
    assert charged.count_rows()["privacy_events"] == 2


def test_a_charge_that_was_admitted_without_a_look_at_all_others_is_refused_by_the_table(charged):
    with (
        pytest.raises(StorageError, match="every_charge_was_accounted_for") as caught,
        charged._transaction() as s,
    ):
        s.execute(text("UPDATE budgets SET charges = charges + 1 WHERE client_id = 'a'"))
    assert "nothing was charged" in caught.value.hint


def test_a_charge_that_was_removed_behind_the_triggers_back_stops_the_next_charge(charged, place):
    place.drop_triggers("privacy_events")
    place.sql("DELETE FROM privacy_events WHERE client_id = 'a'")
    with pytest.raises(StorageError, match="client a has 0 charges, its budget counts 1"):
        plan(charged, "r-1", 1, event=EVENT)
    with pytest.raises(LedgerConflictError, match=r"lacks 1 charges .* client a"):
        charged.ledger.reconcile()


# -- the ledger ------------------------------------------------------------------------------------------------------


def test_the_entries_are_a_chain_that_keeps_every_rule(charged):
    play(charged, "r-1", 1)
    charged.abort_round("r-1", 1, 0, "too few")
    entries = verify_chain(charged.ledger.leaves())
    kinds = [e.body.kind for e in entries]
    assert kinds[:4] == ["genesis", "run", "reserve", "reserve"]
    assert [kinds.count(k) for k in ("reserve", "order", "settle", "cancel_refused")] == [4, 4, 2, 2]
    assert check_entries(entries).findings == []
    assert {e.recorded_by for e in entries[1:]} == {"engine"}


def test_a_transition_that_is_rolled_back_leaves_no_entry(store):
    run = store.submit_run(parse_recipe(RECIPE))
    before = store.ledger.leaves()

    def refuse(*_):
        raise PrivacyError("spent")

    with pytest.raises(PrivacyError):
        plan(store, run, event=EVENT, may_spend=refuse)
    assert store.ledger.leaves() == before
    plan(store, run, event=EVENT)  # positive control
    assert len(store.ledger.leaves()) == len(before) + 2


def test_what_is_told_twice_is_one_entry(charged):
    before = charged.ledger.leaves()
    play(charged, "r-1")
    charged.submit_run(parse_recipe(RECIPE), run_id="r-1")
    assert charged.ledger.leaves() == before


def test_the_same_charge_with_another_event_is_refused_and_nothing_is_written(charged):
    before = charged.ledger.leaves()
    cheaper = PoissonGaussianEvent(noise_multiplier=9.0, sampling_rate=0.1, num_steps=10)
    charges = [reserve_of("r-1", 1, 0, "b", EVENT), reserve_of("r-1", 0, 0, "a", cheaper)]
    with pytest.raises(LedgerConflictError, match="another reserve entry"), charged._transaction() as session:
        charged.ledger.record(session, charges)
    assert charged.ledger.leaves() == before


def test_a_second_reason_for_the_same_refusal_changes_nothing(charged):
    before = charged.ledger.leaves()
    again = CancelRefused(reservation_id=reservation_id("r-1", 0, 0, "b"), reason="another")
    with charged._transaction() as session:
        charged.ledger.record(session, [again])
    assert charged.ledger.leaves() == before


def test_a_client_that_is_registered_is_in_the_ledger_with_its_key(store):
    store.register_client("a", b"-----BEGIN one", node_id="1")
    store.register_client("a", b"-----BEGIN two", node_id="2")
    store.register_client("a", b"-----BEGIN two", node_id="3")
    told = [e.body for e in verify_chain(store.ledger.leaves()) if e.body.kind == "client_key"]
    assert [b.public_key for b in told] == ["-----BEGIN one", "-----BEGIN two"]


def test_the_signed_file_follows_the_database_and_a_second_process_sees_the_same(charged, place):
    charged.ledger.publish()
    play(charged, "r-1", 1)
    other = place.open()
    assert other.ledger.publish().size == len(charged.ledger.leaves())
    assert charged.ledger.publish().size == len(other.ledger.file.leaves())
    assert charged.ledger.file.leaves() == charged.ledger.leaves()
    other.close()


def test_an_entry_that_was_altered_in_the_database_is_found_and_named(charged, place):
    charged.ledger.publish()
    place.drop_triggers("ledger_entries")
    with charged._transaction() as session:
        row = session.get(LedgerEntryRow, 3)
        row.leaf = row.leaf.replace(b'"round_index":0', b'"round_index":7')
    with pytest.raises(LedgerConflictError, match="entry 3 of the database is not the one that was signed"):
        place.open().ledger.publish()


def test_entries_that_were_removed_from_the_end_of_the_database_are_found(charged, place):
    charged.ledger.publish()
    place.drop_triggers("ledger_entries")
    place.sql("DELETE FROM ledger_entries WHERE sequence >= 3")
    with pytest.raises(LedgerConflictError, match="lacks 1 charges that the ledger holds, first: run r-1"):
        place.open().ledger.publish()


# -- several at once -------------------------------------------------------------------------------------------------


def at_once(number, work):
    """Run ``work(i)`` in so many threads from one moment on; what each raised, or None."""
    barrier, raised = threading.Barrier(number), [None] * number

    def one(i):
        barrier.wait()
        try:
            work(i)
        except Exception as e:  # noqa: BLE001 - handed back, and looked at
            raised[i] = e

    threads = [threading.Thread(target=one, args=(i,)) for i in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_processes_that_open_a_new_database_at_once_make_its_tables_once(place):
    def open_and_write(i):
        store = place.open()
        store.submit_run(parse_recipe(RECIPE), run_id=f"r-{i}")
        store.close()

    assert at_once(4, open_and_write) == [None] * 4
    store = place.open()
    assert len(store.list_runs()) == 4
    assert [e.body.kind for e in verify_chain(store.ledger.leaves())] == ["genesis"] + ["run"] * 4
    store.close()


def test_no_count_and_no_entry_is_lost_when_many_write_at_once(charged, place):
    def count(i):
        store = place.open()
        store.count("r-1", 0, "late_replies")
        plan(store, "r-1", 1 + i, event=EVENT)
        store.close()

    assert at_once(4, count) == [None] * 4
    assert {m.name: m.value for m in charged.metrics("r-1")} == {"late_replies": 4.0}
    assert check_entries(verify_chain(charged.ledger.leaves())).findings == []
    assert len(charged.spent_events("a")) == 5


def test_a_reader_holds_no_writer_up(store, place):
    run = store.submit_run(parse_recipe(RECIPE))
    with place.raw() as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM runs").fetchone()
        store.start_run(run)
        assert store.get_run(run).state == "RUNNING"
        reader.execute("ROLLBACK")


def test_a_database_of_a_newer_motet_is_left_alone(store, place):
    place.sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StorageError) as caught:
        place.open()
    assert "another version" in caught.value.hint


def test_a_role_that_owns_nothing_and_may_not_delete_is_enough(charged, place):
    """On PostgreSQL: SELECT, INSERT and UPDATE alone, as docs/database.md advises."""
    if place.dialect != "postgresql":
        pytest.skip("a file has no roles")
    role = f"motet_app_{place.ledger.parent.name[-20:]}".lower().replace("-", "_")
    schema = place.sql("SELECT current_schema()")[0][0]
    place.sql(f"CREATE ROLE {role} LOGIN")
    try:
        place.sql(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
        place.sql(f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA {schema} TO {role}")
        app = Place(dialect="postgresql", where=place.where.set(username=role), ledger=place.ledger)
        store = app.open()
        play(store, "r-1", 1)
        store.close_round("r-1", 1, 0, adapter_sha256="a" * 64, num_bytes=1, relative_error=0.0)
        store.ledger.publish()
        store.close()
        for statement in (
            "DROP TRIGGER budgets_no_less ON budgets",
            "DELETE FROM metrics",
            "TRUNCATE budgets",
        ):
            with pytest.raises(Exception, match=r"must be owner|permission denied"):
                app.sql(statement)
    finally:
        place.sql(f"DROP OWNED BY {role}")
        place.sql(f"DROP ROLE {role}")


def test_a_connection_that_is_cut_within_a_charge_leaves_nothing_and_the_next_charge_goes_on(charged, place):
    if place.dialect != "postgresql":
        pytest.skip("a file has no connection")

    def cut(_client_id, _spent):
        place.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction' "
            "AND application_name = current_setting('application_name')"
        )

    with pytest.raises(DatabaseAwayError):
        plan(charged, "r-1", 1, event=EVENT, may_spend=cut)
    assert len(charged.spent_events("a")) == 1
    plan(charged, "r-1", 1, event=EVENT)
    assert len(charged.spent_events("a")) == 2


def test_closing_a_round_takes_no_more_statements_for_forty_clients_than_for_four(store):
    def statements_for(count):
        run = store.submit_run(parse_recipe(RECIPE))
        names = [f"c{i:02d}" for i in range(count)]
        plan(store, run, ranks=dict.fromkeys(names, 2))
        for name in names:
            reply_received(
                store, run, 0, 0, name, payload_sha256="1" * 64, bytes_up=1, weight=1.0, num_examples=0
            )
        assert store.num_received(run, 0, 0) == count
        verdicts = {name: Verdict(change_norm=2.0, share=1 / count) for name in names}
        seen = []

        def see(_connection, _cursor, statement, *_rest):
            seen.append(statement)

        listen(store._database.engine, "before_cursor_execute", see)
        store.close_round(
            run, 0, 0, adapter_sha256="a" * 64, num_bytes=1, relative_error=0.0, verdicts=verdicts
        )
        remove(store._database.engine, "before_cursor_execute", see)
        assert {(c.change_norm, c.share) for c in store.contributions(run)} == {(2.0, 1 / count)}
        return len(seen)

    few = statements_for(4)
    assert few > 0
    assert statements_for(40) <= few


def test_only_admitted_updates_of_the_attempt_are_received(charged):
    assert charged.num_received("r-1", 0, 0) == 1  # b failed
    assert charged.num_received("r-1", 0, 1) == 0
