"""What is special to an SQLite file: it may be missing, none, or on a full disk. See tests/contract/test_store.py."""

import pytest
from sqlalchemy import text

from coordinator.errors import StorageError
from coordinator.storage.store import Store
from motet.recipe import parse_recipe

RECIPE = """
name: stored
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: 2}
method: {name: flora}
cohort: {clients: [a, b], minimum: 1}
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "motet.db"


@pytest.fixture
def store(path):
    store = Store.open(path)
    yield store
    store.close()


def test_each_connection_keeps_no_more_than_a_quarter_of_a_megabyte_of_pages(store):
    with store._database.reading() as session:
        assert session.scalar(text("PRAGMA cache_size")) == -256


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
