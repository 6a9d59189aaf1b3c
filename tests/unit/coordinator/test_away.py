"""Which faults of PostgreSQL are waited for: the server is away, or let a connection go; not one that says no."""

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError, ProgrammingError

from coordinator.errors import DatabaseAwayError, StorageError
from coordinator.storage.database import Database


class ToldError(Exception):
    """What the driver raises."""

    def __init__(self, words, sqlstate=None):
        super().__init__(words)
        self.sqlstate = sqlstate


def met(error):
    engine = create_engine("postgresql+psycopg://u:secret@db/motet")  # connects to nothing
    with Database(engine, "postgresql://db/motet").translated():
        raise error


@pytest.mark.parametrize(
    ("words", "sqlstate"),
    [
        ('connection is bad: connection to server on socket "/x" failed: No such file or directory', None),
        ('connection failed: connection to server at "127.0.0.1", port 1 failed: Connection refused', None),
        ("connection failed: FATAL:  the database system is starting up", None),
        ("connection timeout expired", None),
        ("consuming input failed: server closed the connection unexpectedly", None),
        ("the connection is closed", None),
        ("terminating connection due to administrator command", "57P01"),
        ("terminating connection because of crash of another server process", "57P02"),
        ("terminating connection due to idle-in-transaction timeout", "25P03"),
        ("could not receive data", "08006"),
    ],
)
def test_a_server_that_is_away_is_waited_for(words, sqlstate):
    with pytest.raises(DatabaseAwayError, match="db/motet"):
        met(OperationalError("SELECT 1", {}, ToldError(words, sqlstate)))


@pytest.mark.parametrize(
    ("kind", "words", "sqlstate"),
    [
        (OperationalError, "connection failed: FATAL:  password authentication failed for user secret", None),
        (OperationalError, 'connection failed: FATAL:  database "motet" does not exist', None),
        (OperationalError, "connection failed: FATAL:  no pg_hba.conf entry for host", None),
        (OperationalError, "could not extend file: No space left on device", "53100"),
        (ProgrammingError, "permission denied for table runs", "42501"),
    ],
)
def test_a_server_that_says_no_is_not(kind, words, sqlstate):
    with pytest.raises(StorageError) as caught:
        met(kind("SELECT 1", {}, ToldError(words, sqlstate)))
    assert not isinstance(caught.value, DatabaseAwayError)
    assert "secret" not in caught.value.message
