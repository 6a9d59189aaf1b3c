"""A database that an older Motet filled is brought to the newest revision with everything that was in it."""

from importlib import resources

import pytest
from alembic import command
from alembic.config import Config
from databases import new_place, postgresql_url  # noqa: F401 - a fixture
from golden_databases import FOLDER, fill, read_golden, revisions, tables, write_key
from sqlalchemy import MetaData, create_engine, insert, select

from coordinator.storage.store import Store
from motet.audit.errors import LedgerConflictError
from privacy.ledger.chain import verify_chain
from privacy.ledger.rules import check_entries


def upgraded_to(url, revision, **kwargs):
    """A database at a revision; the engine on it."""
    engine = create_engine(url, **kwargs)
    config = Config()
    config.set_main_option("script_location", str(resources.files("coordinator.storage") / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    return engine


def copy_into(url, revision, content):
    """The tables of a revision made anew on a server, and the golden rows in them."""
    engine = upgraded_to(url, revision)
    metadata = MetaData()
    with engine.begin() as connection:
        metadata.reflect(connection)
        for table in metadata.sorted_tables:
            rows = content.get(table.name, [])
            if table.name in {"alembic_version", "write_lock"} or not rows:
                continue
            kinds = {c.name: c.type.python_type for c in table.columns}
            rows = [{k: v if v is None else kinds[k](v) for k, v in row.items()} for row in rows]
            if table.name == "ledger_entries":
                rows.sort(key=lambda row: row["sequence"])
            connection.execute(insert(table), rows)
    engine.dispose()


def rows_of(store):
    """Table -> rows of an open store, whatever its database."""
    metadata = MetaData()
    found = {}
    with store._database.engine.connect() as connection:
        metadata.reflect(connection)
        for table in metadata.sorted_tables:
            found[table.name] = [dict(row) for row in connection.execute(select(table)).mappings()]
    return found


def kept(old, new):
    """The old columns of the new rows, both in one order."""
    columns = set(old[0]) if old else set()
    narrow = [{k: v for k, v in row.items() if k in columns} for row in new]
    return sorted(old, key=repr_of), sorted(narrow, key=repr_of)


def repr_of(row):
    return repr(sorted((k, v if not isinstance(v, bool) else int(v)) for k, v in row.items()))


def cases():
    """Every revision on SQLite; on PostgreSQL the first and the last in the default suite, all of them in the whole."""
    found = []
    for revision in revisions():
        marks = [pytest.mark.xdist_group("postgresql")]
        marks += [] if revision in {revisions()[0], revisions()[-1]} else [pytest.mark.slow]
        found += [pytest.param(revision, "sqlite"), pytest.param(revision, "postgresql", marks=marks)]
    return found


@pytest.fixture
def place(request, tmp_path):
    """An empty database of the kind that the case names."""
    with new_place(request, tmp_path) as made:
        yield made


@pytest.fixture
def golden(revision, place):
    """An open store on what the revision's Motet left, and the tables as it left them."""
    original = place.ledger.parent / "original.db"
    read_golden(revision, original)
    content = tables(original)
    if place.dialect == "sqlite":
        original.rename(place.where)
    else:
        copy_into(place.where, revision, content)
    write_key(place.ledger)
    store = place.open()
    yield store, content, revision
    store.close()


def test_every_revision_has_a_golden_database():
    missing = [r for r in revisions() if not (FOLDER / f"{r}.sql").exists()]
    assert not missing, f"{missing}: run python tests/support/golden_databases.py and commit what it writes"
    assert [p.stem for p in sorted(FOLDER.glob("*.sql"))] == revisions()
    for revision in revisions():
        text = (FOLDER / f"{revision}.sql").read_text()
        assert f"INSERT INTO \"alembic_version\" VALUES('{revision}');" in text


EVERY = pytest.mark.parametrize(("revision", "place"), cases(), indirect=["place"])


@EVERY
def test_an_upgrade_keeps_every_row_of_every_table(golden):
    store, content, _ = golden
    after = rows_of(store)
    assert len(content["runs"]) == 4
    assert len(content["privacy_events"]) == 8
    for name, old in content.items():
        if name == "alembic_version":
            assert after[name] == [{"version_num": revisions()[-1]}]
            continue
        before, now = kept(old, after[name])
        assert before == now, name
    assert {b["client_id"]: b["charges"] for b in after["budgets"]} == {"a": 4, "b": 4}


@EVERY
def test_after_an_upgrade_the_ledger_is_a_chain_that_keeps_every_rule_and_has_every_charge(golden):
    store, content, _ = golden
    checkpoint = store.ledger.reconcile()
    leaves = store.ledger.leaves()
    assert checkpoint.size == len(leaves)
    entries = verify_chain(leaves)
    state = check_entries(entries)
    assert not state.findings
    assert set(state.reserves) == {row["reservation_id"] for row in content["privacy_events"]}
    told = [row["leaf"] for row in sorted(content.get("ledger_entries", []), key=lambda r: r["sequence"])]
    assert leaves[: len(told)] == told


@EVERY
def test_after_an_upgrade_work_goes_on_and_every_old_charge_still_counts(golden):
    store, _, _ = golden
    store.ledger.reconcile()
    before = [len(store.spent_events(client)) for client in "ab"]
    fill(store, runs=("n-whole", "n-open", "n-plain", "n-queued"))
    assert [len(store.spent_events(client)) for client in "ab"] == [2 * n for n in before] == [8, 8]
    store.ledger.publish()
    assert not check_entries(verify_chain(store.ledger.leaves())).findings
    assert store.next_run().run_id == "r-open"


@pytest.mark.parametrize(("revision", "place"), [(revisions()[-1], "sqlite")], indirect=["place"])
def test_a_charge_that_an_upgrade_lost_would_be_found(golden, place):
    """Positive control: the checks above can fail."""
    store, content, _ = golden
    store.ledger.reconcile()
    place.drop_triggers("privacy_events")
    place.sql(
        "DELETE FROM privacy_events WHERE reservation_id = (SELECT MIN(reservation_id) FROM privacy_events)"
    )
    before, now = kept(content["privacy_events"], rows_of(store)["privacy_events"])
    assert before != now
    again = Store.open(place.where, ledger=place.ledger)
    try:
        with pytest.raises(LedgerConflictError, match="lacks 1 charges"):
            again.ledger.reconcile()
    finally:
        again.close()
