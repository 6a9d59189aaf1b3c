"""When each client was last there: a column of its row, written for many clients at once."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from sqlalchemy import update

from coordinator.storage.models import ClientRow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordinator.storage.database import Database

AT_ONCE = 5000  # names in a statement; both databases take more than six times as many


class Sightings:
    """``last_seen_at`` of the clients.

    Args:
      database: where they are registered.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, seen: Mapping[str, float]) -> None:
        """Write when clients were seen; one transaction, and one statement for all that were seen at one time.

        Args:
          seen: client -> seconds since 1970. Who is not registered is passed over.

        Raises:
          LeadLostError: another coordinator leads; nothing was written.
          StorageError: the database refuses; nothing was written.
        """
        together: defaultdict[float, list[str]] = defaultdict(list)
        for client_id, at in seen.items():
            together[at].append(client_id)
        if not together:
            return
        with self._database.transaction() as session:
            for at, clients in together.items():
                for first in range(0, len(clients), AT_ONCE):
                    some = clients[first : first + AT_ONCE]
                    statement = update(ClientRow).where(ClientRow.client_id.in_(some)).values(last_seen_at=at)
                    session.execute(statement, execution_options={"synchronize_session": False})
