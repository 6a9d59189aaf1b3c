"""Run state in SQL: one method a transition, each ONE transaction under the write lock of ``Database``.

What a transition means for privacy (a charge, an order, an outcome) is an entry of the ledger in the same transaction.
"""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import func, select, update

from coordinator.crashpoints import AFTER_COMMIT, BEFORE_COMMIT, crashpoint
from coordinator.errors import StorageError
from coordinator.rounds import table
from coordinator.rounds.table import ABSENT, Transition, moves
from coordinator.storage.actions import APPROVE, CANCEL, RESUME, START, SUBMIT, RunActions, record_approval
from coordinator.storage.actions import remember_action as remember
from coordinator.storage.asking import ask_end, change_priority, no_such_run
from coordinator.storage.budgets import charged_events, spent_together
from coordinator.storage.charges import bodies_of, declared
from coordinator.storage.collecting import collect
from coordinator.storage.database import Database
from coordinator.storage.decisions import RecordedDecisions
from coordinator.storage.identities import Identities
from coordinator.storage.leases import Leases
from coordinator.storage.ledger import StoredLedger
from coordinator.storage.models import (
    ArtifactRow,
    ClientRow,
    ContributionRow,
    MetricRow,
    PrivacyEventRow,
    RoundRow,
    RunRow,
)
from coordinator.storage.planning import plan_attempt
from coordinator.storage.resuming import let_go_on
from coordinator.storage.scores import RecordedScores
from coordinator.storage.sightings import Sightings
from coordinator.storage.telling import Refused, Told, tell, transition_of
from coordinator.storage.witnessed import WitnessedCharges
from motet.clock import Clock, SystemClock
from motet.recipe import Recipe, canonical_json, recipe_sha256
from privacy.ledger.entries import CancelRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy import URL, Select
    from sqlalchemy.orm import Session

    from aggregation.weighing import Verdict
    from coordinator.storage.actions import Actor
    from coordinator.storage.artifacts import ArtifactStore
    from coordinator.storage.collecting import Collection, Retention
    from privacy.events import Event, PoissonGaussianEvent
    from privacy.ledger.entries import Body


class Store:
    """Everything that survives a crash of the coordinator. Rows that it returns are detached copies."""

    def __init__(self, database: Database, ledger: StoredLedger, clock: Clock) -> None:
        self._database, self._ledger, self._clock = database, ledger, clock
        self._transaction, self._reading = database.transaction, database.reading
        self.identities = Identities(database, ledger, clock)
        self.leases = Leases(database)
        self.decisions = RecordedDecisions(database, ledger)
        self.actions = RunActions(database)
        self.scores = RecordedScores(database)
        self.witnessed = WitnessedCharges(database, clock)
        self.sightings = Sightings(database)

    @classmethod
    def open(
        cls,
        where: Path | str | URL,
        *,
        create: bool = True,
        clock: Clock | None = None,
        ledger: Path | None = None,
    ) -> Self:
        """Open a database and bring it to the newest revision.

        Args:
          where: path of an SQLite file, or a database URL.
          create: make a missing SQLite file.
          clock: for records.
          ledger: folder of the signed ledger; beside an SQLite file by default.

        Raises:
          StorageError: missing, read-only, no database of Motet, or the disk is full.
          DatabaseAwayError: its server can not be reached.
          ValueError: a URL without ``ledger``.
        """
        if ledger is None and not isinstance(where, Path):
            raise ValueError("a database that is no file needs the folder of its ledger")
        folder = ledger or Path(where).parent / "ledger"  # type: ignore[arg-type]
        clock = clock or SystemClock()
        database = Database.open(where, create=create)
        return cls(database, StoredLedger(database, folder, clock), clock)

    def close(self) -> None:
        """Release the connections."""
        self._database.close()

    @property
    def ledger(self) -> StoredLedger:
        """Every charge, order and outcome, in a chain; ``publish`` it before an order leaves."""
        return self._ledger

    def collect(self, artifacts: ArtifactStore, retention: Retention, *, dry_run: bool) -> Collection:
        """Find and remove what nobody needs; see ``coordinator.storage.collecting``."""
        return collect(artifacts, self._database, retention, dry_run=dry_run)

    @contextmanager
    def _making(self, *transitions: Transition) -> Iterator[Session]:
        """The one transaction of them; a test may let the process die before or after its commit, once for each."""
        with self._transaction() as session:
            yield session
            session.flush()
            for transition in transitions:
                crashpoint(f"{transition.name}.{BEFORE_COMMIT}")
        for transition in transitions:
            crashpoint(f"{transition.name}.{AFTER_COMMIT}")

    # -- runs ----------------------------------------------------------------------------------------------------

    def submit_run(
        self,
        recipe: Recipe,
        *,
        run_id: str | None = None,
        submitted_by: str = "",
        priority: int = 0,
        state: str = "QUEUED",
        reason: str = "",
        actor: Actor | None = None,
    ) -> str:
        """Queue a run; the same ``run_id`` with the same recipe twice is one run, as it was submitted first.

        ``state``: PROPOSED or HELD for one that waits for a word first, and ``reason`` says whose.

        Raises:
          StorageError: the id exists with another recipe.
        """
        run_id = run_id or f"r-{secrets.token_hex(6)}"
        arrival = {"QUEUED": table.SUBMIT, "PROPOSED": table.PROPOSE, "HELD": table.HOLD}[state]
        with self._making(arrival) as session:
            known = session.get(RunRow, run_id)
            if known is not None and known.recipe_sha256 != recipe_sha256(recipe):
                raise StorageError(
                    f"run {run_id} exists with another recipe", hint="choose another folder or run id"
                )
            if not moves(arrival, known.state if known else ABSENT, what=f"run {run_id}"):
                return run_id
            session.add(
                RunRow(
                    run_id=run_id,
                    name=recipe.name,
                    recipe_json=canonical_json(recipe),
                    recipe_sha256=recipe_sha256(recipe),
                    state=state,
                    reason=reason,
                    created_at=self._clock.now(),
                    submitted_by=submitted_by,
                    priority=priority,
                )
            )
            self._ledger.record(session, [declared(run_id, recipe)])
            session.flush()
            detail = f"priority {priority}" if priority else ""
            remember(session, run_id, SUBMIT, actor, self._clock, detail=detail)
        return run_id

    def get_run(self, run_id: str) -> RunRow:
        """One run.

        Raises:
          RunNotFoundError: there is none of that id.
        """
        with self._reading() as session:
            run = session.get(RunRow, run_id)
            if run is None:
                raise no_such_run(session, run_id)
            return run

    def list_runs(self) -> Sequence[RunRow]:
        """All runs, oldest first."""
        with self._reading() as session:
            return session.scalars(select(RunRow).order_by(RunRow.created_at, RunRow.run_id)).all()

    def next_run(self) -> RunRow | None:
        """The run to work on, if there is one: the first of ``open_runs``."""
        return next(iter(self.open_runs()), None)

    def open_runs(self) -> Sequence[RunRow]:
        """Runs to work on: first those that are RUNNING, then QUEUED ones by priority, higher first, then by age."""
        order = (RunRow.state.desc(), RunRow.priority.desc(), RunRow.created_at, RunRow.run_id)
        with self._reading() as session:
            query = select(RunRow).where(RunRow.state.in_(("RUNNING", "QUEUED")))
            return session.scalars(query.order_by(*order)).all()

    def start_run(self, run_id: str) -> None:
        """QUEUED -> RUNNING; every other stays."""
        self._move_run(run_id, table.START)

    def wait_reason(self, run_id: str, reason: str) -> None:
        """Say why a run waits."""
        with self._making(table.SAY_REASON) as session:
            session.execute(update(RunRow).where(RunRow.run_id == run_id).values(reason=reason))

    def end_run(
        self,
        run_id: str,
        state: str,
        reason: str = "",
        adapter_sha256: str = "",
        *,
        actor: Actor | None = None,
    ) -> None:
        """To FINISHED, FAILED or CANCELLED; an ended run stays as it is. ``actor``: who asked for it."""
        self._move_run(
            run_id,
            table.END[state],
            CANCEL,
            actor,
            reason=reason,
            adapter_sha256=adapter_sha256,
            finished_at=self._clock.now(),
        )

    def approve_run(self, run_id: str, actor: Actor | None = None) -> None:
        """PROPOSED -> QUEUED; one that is further on stays. Of a run with privacy the ledger says who it was."""
        self._move_run(run_id, table.APPROVE, APPROVE, actor, reason="")

    def release_run(self, run_id: str, actor: Actor | None = None) -> None:
        """HELD -> QUEUED; one that is further on stays."""
        self._move_run(run_id, table.RELEASE, START, actor, reason="")

    def resume_run(self, run_id: str, actor: Actor | None = None) -> None:
        """FAILED -> QUEUED: it goes on after its last closed round, with new attempts that are charged as any.

        Raises:
          RunNotFoundError: there is none of that id.
          WrongStateError: it has finished or was cancelled.
        """
        with self._making(table.RESUME) as session:
            if let_go_on(session, run_id, self._clock.now()):
                remember(session, run_id, RESUME, actor, self._clock)

    def _move_run(
        self,
        run_id: str,
        transition: Transition,
        action: str = "",
        actor: Actor | None = None,
        **values: Any,  # noqa: ANN401 - column values
    ) -> None:
        with self._making(transition) as session:
            run = session.get(RunRow, run_id)
            if moves(transition, run.state if run else ABSENT, what=f"run {run_id}"):
                session.execute(
                    update(RunRow).where(RunRow.run_id == run_id).values(state=transition.after, **values)
                )
                remember(session, run_id, action, actor, self._clock)
                if action == APPROVE and run is not None and actor is not None:
                    record_approval(session, self._ledger, run, actor, self._clock)

    def request_cancel(self, run_id: str, actor: Actor | None = None) -> None:
        """Ask for the end of a run; the engine obeys between replies.

        Raises:
          RunNotFoundError: there is none of that id.
        """
        self.get_run(run_id)
        with self._making(table.ASK_CANCEL) as session:
            ask_end(session, run_id, actor, self._clock)

    def set_priority(self, run_id: str, priority: int, actor: Actor | None = None) -> None:
        """From now on it waits with this priority, for a place and for clients. The same twice is once.

        Raises:
          RunNotFoundError: there is none of that id.
          WrongStateError: it has ended.
        """
        with self._making(table.SET_PRIORITY) as session:
            change_priority(session, run_id, priority, actor, self._clock)

    # -- rounds --------------------------------------------------------------------------------------------------

    def rounds(self, run_id: str) -> Sequence[RoundRow]:
        """All attempts at all rounds, in order."""
        with self._reading() as session:
            query = (
                select(RoundRow)
                .where(RoundRow.run_id == run_id)
                .order_by(RoundRow.round_index, RoundRow.attempt)
            )
            return session.scalars(query).all()

    def closed_rounds(self, run_id: str) -> list[RoundRow]:
        """The attempt that closed, of each closed round, in order."""
        return [r for r in self.rounds(run_id) if r.state == "CLOSED"]

    def contributions(
        self, run_id: str, round_index: int | None = None, attempt: int | None = None
    ) -> Sequence[ContributionRow]:
        """Contributions of a run, a round or an attempt, sorted by round, attempt, client."""
        query = select(ContributionRow).where(ContributionRow.run_id == run_id)
        if round_index is not None:
            query = query.where(ContributionRow.round_index == round_index)
        if attempt is not None:
            query = query.where(ContributionRow.attempt == attempt)
        keys = (ContributionRow.round_index, ContributionRow.attempt, ContributionRow.client_id)
        with self._reading() as session:
            return session.scalars(query.order_by(*keys)).all()

    def num_received(self, run_id: str, round_index: int, attempt: int) -> int:
        """How many updates of an attempt were admitted."""
        received = _of_attempt(run_id, round_index, attempt).where(ContributionRow.state == "RECEIVED")
        with self._reading() as session:
            return session.scalar(select(func.count()).select_from(received.subquery())) or 0

    def plan_round(
        self,
        run_id: str,
        round_index: int,
        attempt: int,
        *,
        start_sha256: str,
        deadline_s: float,
        ranks: Mapping[str, int],
        event: PoissonGaussianEvent | None,
        may_spend: Callable[[str, Sequence[Event]], None] | None = None,
        others: Mapping[str, int] | None = None,
    ) -> None:
        """Plan an attempt and reserve its budget, together, before any order leaves. Planned twice is planned once.

        Args:
          run_id: the run.
          round_index: the round.
          attempt: the attempt at it.
          start_sha256: artifact of the state that the round starts from.
          deadline_s: seconds from now.
          ranks: client id -> lora_rank; the cohort.
          event: what each client is charged; None when the run is not private.
          may_spend: called with each client and all that was reserved for it before (``spent_by``), within the
            transaction; what it raises rolls everything back, so that two runs can not both take the last of a budget.
          others: client id -> lora_rank of those who are charged as well and not asked.
        """
        others = others or {}
        now = self._clock.now()
        with self._making(table.PLAN) as session:
            known = session.get(RoundRow, (run_id, round_index, attempt))
            if not moves(
                table.PLAN, known.state if known else ABSENT, what=_named(run_id, round_index, attempt)
            ):
                return
            session.add(
                RoundRow(
                    run_id=run_id,
                    round_index=round_index,
                    attempt=attempt,
                    state=table.PLAN.after,
                    start_sha256=start_sha256,
                    deadline_at=now + deadline_s,
                    started_at=now,
                )
            )
            session.flush()
            place = (run_id, round_index, attempt)
            plan_attempt(
                session, self._ledger, place, ranks, others, event=event, may_spend=may_spend, reserved_at=now
            )

    def tell(self, run_id: str, round_index: int, attempt: int, all_told: Sequence[Told]) -> None:
        """Orders that left and answers that came, of one attempt, in one transaction; see ``storage.telling``."""
        if not all_told:
            return
        with self._making(*map(transition_of, all_told)) as session:
            tell(session, self._ledger, (run_id, round_index, attempt), all_told)

    def reply_failed(
        self, run_id: str, round_index: int, attempt: int, client_id: str, *, code: str, message: str
    ) -> None:
        """A client refused, failed, or sent what is not admitted. Its charge stays reserved: it counts in full."""
        self.tell(run_id, round_index, attempt, [Refused(client_id=client_id, code=code, message=message)])

    def reply_late(
        self, run_id: str, round_index: int, attempt: int, client_id: str, *, bytes_up: int
    ) -> None:
        """An answer came after its deadline: FAILED -> LATE. It is counted, never used; its charge counts in full."""
        place = (run_id, round_index, attempt, client_id)
        with self._making(table.BE_LATE) as session:
            row = session.get(ContributionRow, place)
            what = f"{_named(*place[:3])}, client {client_id}"
            if row is None or not moves(table.BE_LATE, row.state, what=what):
                return
            row.state, row.bytes_up = table.BE_LATE.after, bytes_up
            _count(session, run_id, round_index, "late_replies")

    def count(self, run_id: str, round_index: int, name: str) -> None:
        """Add one to a counter of a round."""
        with self._making(table.COUNT) as session:
            _count(session, run_id, round_index, name)

    def note_figure(self, run_id: str, round_index: int, name: str, value: float) -> None:
        """Set a figure of a round, whether or not it was there."""
        with self._making(table.NOTE_FIGURE) as session:
            session.merge(MetricRow(run_id=run_id, round_index=round_index, name=name, value=value))

    def figures(self, run_id: str, name: str) -> dict[int, float]:
        """Round -> a figure of it, where it has one."""
        return {m.round_index: m.value for m in self.metrics(run_id) if m.name == name}

    def metrics(self, run_id: str) -> Sequence[MetricRow]:
        """The figures of a run's rounds.

        ``relative_error``, ``seconds``, ``truncation_error``, updates ``clipped`` and ``rejected``, ``late_replies``,
        ``duplicate_replies``, ``refused_replies`` (not admitted, or not signed), ``equivocations``.
        """
        query = (
            select(MetricRow)
            .where(MetricRow.run_id == run_id)
            .order_by(MetricRow.round_index, MetricRow.name)
        )
        with self._reading() as session:
            return session.scalars(query).all()

    def abort_round(self, run_id: str, round_index: int, attempt: int, reason: str) -> None:
        """PLANNED -> ABORTED. Reservations stay: they count in full."""
        with self._making(table.ABORT) as session:
            row = session.get(RoundRow, (run_id, round_index, attempt))
            is_new = moves(
                table.ABORT, row.state if row else ABSENT, what=_named(run_id, round_index, attempt)
            )
            if row is None or not is_new:
                return
            row.state, row.reason, row.closed_at = table.ABORT.after, reason, self._clock.now()
            query = select(PrivacyEventRow.reservation_id).where(
                PrivacyEventRow.run_id == run_id,
                PrivacyEventRow.round_index == round_index,
                PrivacyEventRow.attempt == attempt,
                PrivacyEventRow.state == "RESERVED",
            )
            names = session.scalars(query.order_by(PrivacyEventRow.client_id)).all()
            refused = [CancelRefused(reservation_id=name, reason="aborted") for name in names]
            self._ledger.record(session, refused)

    def close_round(
        self,
        run_id: str,
        round_index: int,
        attempt: int,
        *,
        adapter_sha256: str,
        num_bytes: int,
        relative_error: float,
        optimizer_sha256: str = "",
        verdicts: Mapping[str, Verdict] | None = None,
    ) -> None:
        """PLANNED -> CLOSED with its adapter, artifact and metrics, in one transaction. Closed twice is closed once.

        Args:
          run_id: the run.
          round_index: the round.
          attempt: the attempt at it.
          adapter_sha256: artifact of the new global state.
          num_bytes: its size.
          relative_error: of the aggregation.
          optimizer_sha256: artifact of the server optimiser's memory; empty without one.
          verdicts: client id -> how its update was counted.

        Raises:
          StorageError: the attempt is not open, or was closed with another adapter.
        """
        now = self._clock.now()
        with self._making(table.CLOSE) as session:
            row = session.get(RoundRow, (run_id, round_index, attempt))
            what, state = _named(run_id, round_index, attempt), row.state if row else ABSENT
            is_new = moves(table.CLOSE, state, what=what)
            if row is None or (not is_new and row.adapter_sha256 != adapter_sha256):
                raise table.refusal(table.CLOSE, state, what=what)
            if not is_new:
                return
            row.state, row.adapter_sha256, row.relative_error, row.closed_at = (
                table.CLOSE.after,
                adapter_sha256,
                relative_error,
                now,
            )
            if session.get(ArtifactRow, adapter_sha256) is None:
                session.add(
                    ArtifactRow(sha256=adapter_sha256, kind="adapter", num_bytes=num_bytes, created_at=now)
                )
            row.optimizer_sha256 = optimizer_sha256
            figures = {"relative_error": relative_error, "seconds": now - row.started_at}
            for contribution in (
                session.scalars(_of_attempt(run_id, round_index, attempt)) if verdicts else ()
            ):
                verdict = (verdicts or {}).get(contribution.client_id)
                if verdict is not None:
                    contribution.change_norm, contribution.share = verdict.change_norm, verdict.share
                    contribution.outcome = verdict.outcome
            for outcome in ("clipped", "rejected") if verdicts else ():
                figures[outcome] = float(sum(v.outcome == outcome for v in (verdicts or {}).values()))
            for name, value in figures.items():
                session.add(MetricRow(run_id=run_id, round_index=round_index, name=name, value=value))

    # -- budget and clients --------------------------------------------------------------------------------------

    def spent_events(self, client_id: str, run_id: str | None = None) -> list[Event]:
        """Everything reserved for a client, settled or not, in the order of reservation; over all runs, or of one."""
        with self._reading() as session:
            return charged_events(session, client_id, run_id)

    def spent_by(self, client_ids: Sequence[str]) -> dict[str, list[Event]]:
        """What each was charged over all runs; equal events as one (``storage.budgets.spent_together``)."""
        with self._reading() as session:
            return spent_together(session, client_ids)[0]

    def register_client(
        self, client_id: str, public_key: bytes, *, node_id: str = "", capacity_class: str = ""
    ) -> None:
        """Add a data owner, or change its key, node and class."""
        self.identities.register_client(client_id, public_key, node_id=node_id, capacity_class=capacity_class)

    def clients(self) -> Sequence[ClientRow]:
        """All registered data owners, by name."""
        with self._reading() as session:
            return session.scalars(select(ClientRow).order_by(ClientRow.client_id)).all()

    def artifacts(self) -> Sequence[ArtifactRow]:
        """What rounds closed with, oldest first."""
        with self._reading() as session:
            return session.scalars(
                select(ArtifactRow).order_by(ArtifactRow.created_at, ArtifactRow.sha256)
            ).all()

    def charge_bodies(self) -> list[Body]:
        """What the tables say was declared, charged, ordered and answered, as a ledger would."""
        with self._reading() as session:
            return list(bodies_of(session))

    def count_rows(self) -> dict[str, int]:
        """Rows a table: for tests of crashes and for people who look after a database."""
        tables = (RunRow, RoundRow, ContributionRow, PrivacyEventRow, ArtifactRow, MetricRow, ClientRow)
        with self._reading() as session:
            return {t.__tablename__: session.scalar(select(func.count()).select_from(t)) or 0 for t in tables}


def _of_attempt(run_id: str, round_index: int, attempt: int) -> Select[ContributionRow]:
    return select(ContributionRow).where(
        ContributionRow.run_id == run_id,
        ContributionRow.round_index == round_index,
        ContributionRow.attempt == attempt,
    )


def _named(run_id: str, round_index: int, attempt: int) -> str:
    return f"run {run_id}, round {round_index}, attempt {attempt}"


def _count(session: Session, run_id: str, round_index: int, name: str) -> None:
    row = session.get(MetricRow, (run_id, round_index, name))
    if row is None:
        row = MetricRow(run_id=run_id, round_index=round_index, name=name, value=0.0)
        session.add(row)
    row.value += 1.0
