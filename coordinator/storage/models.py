"""Tables of the run state. Alembic migrations make them; a test holds both equal.

States and the ways between them are in ``coordinator.rounds.table``, which every write of the store obeys. SKIPPED:
charged, and not drawn. RESERVED and SETTLED count in full. Triggers refuse whatever would take back an entry of the
ledger, a charge, or a budget's count of charges.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """All tables."""


class RunRow(Base):
    """One training of one adapter under one recipe.

    ``submitted_by``: ``role/name``; empty where nobody said it. ``resumed_at``: when a failed run was last let go on.
    ``priority``: of the queue, higher goes first.
    """

    __tablename__ = "runs"
    run_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    recipe_json: Mapped[str] = mapped_column(Text)
    recipe_sha256: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16), index=True)
    reason: Mapped[str] = mapped_column(Text, default="")
    cancel_requested: Mapped[bool] = mapped_column(Boolean, default=False)
    adapter_sha256: Mapped[str] = mapped_column(String(64), default="")
    created_at: Mapped[float] = mapped_column(Float)
    finished_at: Mapped[float | None] = mapped_column(Float)
    submitted_by: Mapped[str] = mapped_column(String(80), default="")
    resumed_at: Mapped[float | None] = mapped_column(Float)
    priority: Mapped[int] = mapped_column(Integer, default=0)


class RunActionRow(Base):
    """What somebody did to a run, in order; a row never changes.

    ``made_by``: ``role/name``. ``serial`` and ``fingerprint``: of the certificate of the call, hexadecimal; empty for
    the user of this home, who needs none. ``detail``: such as the priority that was asked for.
    """

    __tablename__ = "run_actions"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    action: Mapped[str] = mapped_column(String(16))
    made_by: Mapped[str] = mapped_column(String(80))
    serial: Mapped[str] = mapped_column(String(64), default="")
    fingerprint: Mapped[str] = mapped_column(String(64), default="")
    made_at: Mapped[float] = mapped_column(Float)
    detail: Mapped[str] = mapped_column(Text, default="")


class RoundRow(Base):
    """One attempt at one round. ``optimizer_sha256``: artifact of the server optimiser's memory after it, if any."""

    __tablename__ = "rounds"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"), primary_key=True)
    round_index: Mapped[int] = mapped_column(Integer, primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    start_sha256: Mapped[str] = mapped_column(String(64))
    adapter_sha256: Mapped[str] = mapped_column(String(64), default="")
    deadline_at: Mapped[float] = mapped_column(Float)
    started_at: Mapped[float] = mapped_column(Float)
    closed_at: Mapped[float | None] = mapped_column(Float)
    relative_error: Mapped[float | None] = mapped_column(Float)
    optimizer_sha256: Mapped[str] = mapped_column(String(64), default="")
    reason: Mapped[str] = mapped_column(Text, default="")


class ClientRow(Base):
    """A registered data owner. ``last_seen_at``: online or with an answer, about a minute old while it is there."""

    __tablename__ = "clients"
    client_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    public_key: Mapped[bytes] = mapped_column(LargeBinary)
    node_id: Mapped[str] = mapped_column(String(32), default="")
    capacity_class: Mapped[str] = mapped_column(String(64), default="")
    registered_at: Mapped[float] = mapped_column(Float)
    last_seen_at: Mapped[float | None] = mapped_column(Float)


class ContributionRow(Base):
    """What one client was asked and answered in one attempt at a round.

    ``lora_rank``: as ordered; once the update is there, as it holds (less where the client has pruned itself).
    Of an update that was reduced: ``change_norm`` as a product, ``share`` of the result, ``outcome`` empty, clipped or
    rejected. ``compression_error``: the client's own figure, relative; None for whole updates, or where it is withheld.
    ``withholds_metrics``: its owner wants no figure of it recorded.
    """

    __tablename__ = "contributions"
    run_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    round_index: Mapped[int] = mapped_column(Integer, primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True)
    client_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    message_id: Mapped[str] = mapped_column(String(128), default="")
    lora_rank: Mapped[int] = mapped_column(Integer)
    bytes_down: Mapped[int] = mapped_column(Integer, default=0)
    bytes_up: Mapped[int] = mapped_column(Integer, default=0)
    payload_sha256: Mapped[str] = mapped_column(String(64), default="")
    weight: Mapped[float] = mapped_column(Float, default=1.0)
    num_examples: Mapped[int] = mapped_column(Integer, default=0)
    change_norm: Mapped[float | None] = mapped_column(Float)
    share: Mapped[float | None] = mapped_column(Float)
    outcome: Mapped[str] = mapped_column(String(16), default="")
    compression_error: Mapped[float | None] = mapped_column(Float)
    withholds_metrics: Mapped[bool] = mapped_column(Boolean, default=False)
    error_code: Mapped[str] = mapped_column(String(64), default="")
    error_message: Mapped[str] = mapped_column(Text, default="")
    __table_args__ = (
        ForeignKeyConstraint(
            ["run_id", "round_index", "attempt"], ["rounds.run_id", "rounds.round_index", "rounds.attempt"]
        ),
    )


class MetricRow(Base):
    """A figure of a round that is the coordinator's own (never a client's data)."""

    __tablename__ = "metrics"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"), primary_key=True)
    round_index: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[float] = mapped_column(Float)


class ScoreRow(Base):
    """How an adapter does on examples that one client does not train on, by its own word; its owner lets it leave.

    ``rounds_done``: closed rounds that are in the adapter; 0 is before training. ``accuracy``: None where the task has
    no classes. ``loss``: mean, nats.
    """

    __tablename__ = "scores"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"), primary_key=True)
    rounds_done: Mapped[int] = mapped_column(Integer, primary_key=True)
    client_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    loss: Mapped[float] = mapped_column(Float)
    accuracy: Mapped[float | None] = mapped_column(Float)
    num_examples: Mapped[int] = mapped_column(Integer)


class ArtifactRow(Base):
    """A file in the artifact store."""

    __tablename__ = "artifacts"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    num_bytes: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[float] = mapped_column(Float)


class PrivacyEventRow(Base):
    """Budget reserved for one client and one attempt at a round. Never deleted, never changed but to SETTLED."""

    __tablename__ = "privacy_events"
    reservation_id: Mapped[str] = mapped_column(String(160), primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"))
    round_index: Mapped[int] = mapped_column(Integer)
    attempt: Mapped[int] = mapped_column(Integer)
    client_id: Mapped[str] = mapped_column(String(64), index=True)
    event_json: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))
    reserved_at: Mapped[float] = mapped_column(Float)
    __table_args__ = (Index("ix_privacy_events_run_client", "run_id", "client_id"),)


class WitnessedChargeRow(Base):
    """A charge that a client's own signed record holds and this database lacked when it was told. It counts in full."""

    __tablename__ = "witnessed_charges"
    reservation_id: Mapped[str] = mapped_column(String(160), primary_key=True)
    client_id: Mapped[str] = mapped_column(String(64), index=True)
    run_id: Mapped[str] = mapped_column(String(64))
    round_index: Mapped[int] = mapped_column(Integer)
    attempt: Mapped[int] = mapped_column(Integer)
    event_json: Mapped[str] = mapped_column(Text)
    told_at: Mapped[float] = mapped_column(Float)


class SignedRecordRow(Base):
    """The newest record of its charges that a client signed and handed over. ``document``: as it came."""

    __tablename__ = "signed_records"
    client_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    made_at_ms: Mapped[int] = mapped_column(BigInteger)
    document: Mapped[bytes] = mapped_column(LargeBinary)
    told_at: Mapped[float] = mapped_column(Float)


class LedgerEntryRow(Base):
    """One entry of the ledger: the chain that auditors get. The table only grows, in order.

    ``leaf``: canonical bytes. ``sha256``: of them. ``identity``: hash of what a ledger holds at most once.
    """

    __tablename__ = "ledger_entries"
    sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(16))
    identity: Mapped[str] = mapped_column(String(64))
    leaf: Mapped[bytes] = mapped_column(LargeBinary)
    previous: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64))
    __table_args__ = (UniqueConstraint("identity", name="uq_ledger_entries_identity"),)


class BudgetRow(Base):
    """How many charges a client has, and how many of them an accountant had seen when the last one was admitted.

    The constraint refuses a charge that was admitted without a look at all the others.
    """

    __tablename__ = "budgets"
    client_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    charges: Mapped[int] = mapped_column(BigInteger)
    accounted: Mapped[int] = mapped_column(BigInteger)
    __table_args__ = (CheckConstraint("charges <= accounted", name="every_charge_was_accounted_for"),)


class WriteLockRow(Base):
    """The row that every writer locks first on PostgreSQL, as BEGIN IMMEDIATE locks the file on SQLite."""

    __tablename__ = "write_lock"
    name: Mapped[str] = mapped_column(String(16), primary_key=True)


class LeaseRow(Base):
    """Who leads: the one coordinator that drives runs. Its token is in every write that it makes, and only grows.

    ``place``: names the lock of one home on one running machine. Times are seconds by the database's clock.
    """

    __tablename__ = "leases"
    name: Mapped[str] = mapped_column(String(16), primary_key=True)
    token: Mapped[int] = mapped_column(BigInteger)
    place: Mapped[str] = mapped_column(String(128))
    host: Mapped[str] = mapped_column(String(255))
    home: Mapped[str] = mapped_column(Text)
    taken_at: Mapped[float] = mapped_column(Float)
    lease_until: Mapped[float] = mapped_column(Float)
