"""Which database a home has, and that its password is nowhere to be seen."""

import stat

import pytest

from coordinator.errors import DatabaseAwayError, StorageError
from coordinator.service import _exclusive
from coordinator.storage.where import PASSWORD, PASSWORD_FILE, database_of, open_store, remember
from motet.cli.main import main

URL = "postgresql://motet@db.example.org:5432/federation"
SECRET = "correct-horse-battery"


def test_a_home_without_a_url_has_a_file(tmp_path):
    assert database_of(tmp_path) == tmp_path / "motet.db"
    open_store(tmp_path).close()
    assert (tmp_path / "motet.db").is_file()


def test_a_database_is_named_once_and_found_by_every_command_with_that_home(tmp_path):
    remember(tmp_path, URL)
    remember(tmp_path, URL)
    assert database_of(tmp_path).render_as_string(hide_password=False) == URL
    with pytest.raises(StorageError, match=r"belongs to the database postgresql://motet@db\.example\.org"):
        remember(tmp_path, URL + "2")


def made_by_a_store(home):
    open_store(home).close()


def made_by_a_url(home):
    remember(home, URL)


def made_by_a_start(home):
    with _exclusive(home):
        pass


@pytest.mark.parametrize("made", [made_by_a_store, made_by_a_url, made_by_a_start])
def test_a_new_home_can_be_read_by_its_owner_alone(tmp_path, made):
    made(tmp_path / "fed")
    assert stat.S_IMODE((tmp_path / "fed").stat().st_mode) == 0o700
    (tmp_path / "open").mkdir(mode=0o755)  # positive control: a folder that was there keeps its rights
    made(tmp_path / "open")
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o755


def test_a_home_that_has_a_file_gets_no_other_database(tmp_path):
    open_store(tmp_path).close()
    with pytest.raises(StorageError, match=r"SQLite file motet\.db") as caught:
        remember(tmp_path, URL)
    assert "must not be forgotten" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("federation", "no database URL"),
        ("mysql://db/federation", "kind mysql is not supported"),
        ("sqlite:///other.db", "kind sqlite is not supported"),
        (f"postgresql://motet:{SECRET}@db/federation", "holds a password"),
        (f"postgresql://motet@db/federation?password={SECRET}", "holds a password"),
    ],
)
def test_a_url_that_can_not_be_used_is_refused_and_no_secret_is_shown_or_kept(tmp_path, text, words):
    with pytest.raises(StorageError, match=words) as caught:
        remember(tmp_path, text)
    assert SECRET not in caught.value.message + caught.value.hint
    assert not (tmp_path / "database.url").exists()


def test_the_password_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    remember(tmp_path, URL)
    monkeypatch.setenv(PASSWORD, SECRET)
    assert database_of(tmp_path).password == SECRET
    (tmp_path / "secret").write_text("from-a-file\n")
    monkeypatch.setenv(PASSWORD_FILE, str(tmp_path / "secret"))
    assert database_of(tmp_path).password == "from-a-file"
    monkeypatch.setenv(PASSWORD_FILE, str(tmp_path / "none"))
    with pytest.raises(StorageError, match="can not be read"):
        database_of(tmp_path)


def test_a_server_that_is_away_is_told_in_words_without_the_password(tmp_path, monkeypatch, capsys):
    remember(tmp_path, "postgresql://motet@127.0.0.1:1/federation")
    monkeypatch.setenv(PASSWORD, SECRET)
    with pytest.raises(DatabaseAwayError) as caught:
        open_store(tmp_path)
    assert SECRET not in caught.value.message + caught.value.hint
    with pytest.raises(SystemExit) as stopped:
        main(["run", "list", "--home", str(tmp_path)])
    err = capsys.readouterr().err
    assert stopped.value.code == 8
    assert "127.0.0.1" in err
    assert SECRET not in err
    assert "Traceback" not in err


def test_the_processes_that_the_coordinator_starts_do_not_get_the_password(monkeypatch):
    from coordinator.engine.superlink import _inherited

    monkeypatch.setenv(PASSWORD, SECRET)
    monkeypatch.setenv("PGPASSWORD", SECRET)
    monkeypatch.setenv("MOTET_TEST_OTHER", "kept")
    assert SECRET not in _inherited().values()
    assert _inherited()["MOTET_TEST_OTHER"] == "kept"
