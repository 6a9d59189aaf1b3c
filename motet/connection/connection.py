"""An open connection to a coordinator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from motet.connection.calls import (
    ArtifactCalls,
    BudgetCalls,
    ClientCalls,
    LedgerCalls,
    MetricCalls,
    RecipeCalls,
    RoundCalls,
    SystemCalls,
)
from motet.connection.identities import IdentityCalls
from motet.connection.runs import RunCalls

if TYPE_CHECKING:
    from types import TracebackType

    from motet.connection.channel import Channel


class Connection:
    """Everything that the control API offers, by subject. A context manager; safe for threads.

    Attributes:
      runs: submit, look, watch, cancel, resume.
      rounds: attempts at rounds, with what each client did.
      metrics: figures of rounds.
      clients: registered data owners.
      identities: certificates, enrolment tokens, revocation.
      recipes: recipes by hash.
      artifacts: adapter states.
      budgets: what clients have spent.
      ledger: checkpoint, proofs, entries.
      system: the coordinator itself.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.runs = RunCalls(channel)
        self.rounds = RoundCalls(channel)
        self.metrics = MetricCalls(channel)
        self.clients = ClientCalls(channel)
        self.identities = IdentityCalls(channel)
        self.recipes = RecipeCalls(channel)
        self.artifacts = ArtifactCalls(channel)
        self.budgets = BudgetCalls(channel)
        self.ledger = LedgerCalls(channel)
        self.system = SystemCalls(channel)

    def close(self) -> None:
        """End the connection; running calls and watches end with it."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()
