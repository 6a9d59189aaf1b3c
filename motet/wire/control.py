"""What the control API tells, as frozen records; field names are those of proto/motet/v1/control.proto.

Times are seconds since 1970, UTC; None where there is none yet.
"""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - the codec reads the annotations
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAction:
    """What somebody did to a run: submit, approve, start, cancel, resume.

    ``serial`` and ``fingerprint`` are of the certificate of the call; empty for the user of the coordinator's home.
    """

    action: str
    made_by: str
    serial: str = ""
    fingerprint: str = ""
    at: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training of one adapter. ``waiting_for``: what is missing before it starts or goes on.

    ``actions``: who did what to it; not told by ``watch``.
    """

    run_id: str
    name: str
    state: str
    reason: str = ""
    rounds_total: int = 0
    rounds_closed: int = 0
    adapter_sha256: str = ""
    recipe_sha256: str = ""
    created_at: float = 0.0
    finished_at: float | None = None
    cancel_requested: bool = False
    submitted_by: str = ""
    priority: int = 0
    approved_by: Sequence[str] = ()
    waiting_for: Sequence[str] = ()
    actions: Sequence[RunAction] = ()

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.state in {"FINISHED", "FAILED", "CANCELLED"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What one client was asked and answered in one attempt at a round."""

    client_id: str
    state: str
    lora_rank: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    change_norm: float | None = None
    share: float | None = None
    outcome: str = ""
    compression_error: float | None = None
    error_code: str = ""
    error_message: str = ""
    held_out_loss: float | None = None
    held_out_accuracy: float | None = None
    held_out_examples: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One attempt at one round."""

    run_id: str
    round_index: int
    attempt: int
    state: str
    reason: str = ""
    started_at: float = 0.0
    closed_at: float | None = None
    deadline_at: float = 0.0
    start_sha256: str = ""
    adapter_sha256: str = ""
    relative_error: float | None = None
    truncation_error: float | None = None
    contributions: Sequence[Contribution] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Nothing changed; the coordinator is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """One event of a watched run: exactly one of ``run``, ``round`` and ``heartbeat``."""

    number: int
    at: float
    run: Run | None = None
    round: Round | None = None
    heartbeat: Heartbeat | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A registered data owner."""

    client_id: str
    capacity_class: str = ""
    registered_at: float = 0.0
    last_seen_at: float | None = None
    is_online: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeRecord:
    """A recipe as its hash knows it: ``recipe_json`` is canonical."""

    recipe_sha256: str
    name: str
    recipe_json: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A figure of a round: the coordinator's own, or a mean of what clients tell of the adapter that it starts from."""

    round_index: int
    name: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a client tells of an adapter on examples that it does not train on; its owner lets it leave.

    ``rounds_done``: closed rounds in the adapter; 0 is before training. ``loss`` in nats; ``accuracy`` where there is
    one.
    """

    rounds_done: int
    client_id: str
    loss: float
    accuracy: float | None = None
    num_examples: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file in the coordinator's store."""

    sha256: str
    kind: str
    num_bytes: int
    created_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunBudget:
    """Epsilon of one run by itself."""

    run_id: str
    epsilon: float
    charges: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSetBudget:
    """Epsilon of one data set, by its owner's word. ``told_at``: of the record, by the owner's clock.

    ``charges``: also those of which no record says the data set.
    """

    data_set: str
    epsilon: float
    charges: int
    told_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one client has spent over all runs, in one unit. ``limit`` is the lowest of its runs.

    ``witnessed_charges``: of ``charges``, those known by the client's own signed record alone. ``data_sets``: where
    the owner's newest signed record names them; none for a researcher.
    """

    client_id: str
    unit: str
    target_delta: float
    spent: float
    reserved: float
    total: float
    limit: float | None = None
    remaining: float | None = None
    charges: int = 0
    open_charges: int = 0
    witnessed_charges: int = 0
    runs: Sequence[RunBudget] = ()
    data_sets: Sequence[DataSetBudget] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeReceiptsResponse:
    """What a client's record told: ``charges`` in it, ``added`` of them the coordinator lacked."""

    client_id: str
    charges: int
    added: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerCheckpoint:
    """What the ledger commits to. ``root``: 32 bytes. ``signed_note``: whole. ``public_key``: ``name+hash+key``."""

    origin: str
    size: int
    root: bytes
    signed_note: str = ""
    public_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InclusionProof:
    """That ``leaf`` is entry ``sequence`` of the first ``size`` (RFC 6962); hashes from the lowest up.

    ``leaf`` is empty for who may not list entries, unless it is a client's own; ``leaf_hash`` is always there.
    """

    sequence: int
    size: int
    leaf: bytes
    hashes: Sequence[bytes] = ()
    root: bytes = b""
    leaf_hash: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsistencyProof:
    """That the first ``old_size`` entries are the beginning of the first ``size``."""

    old_size: int
    size: int
    old_root: bytes
    root: bytes
    hashes: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """An entry's canonical bytes and its place."""

    sequence: int
    leaf: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """The coordinator, and who it takes the caller for."""

    software_version: str
    federation: str
    role: str
    name: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardLink:
    """An address that opens the dashboard once, until ``not_after``. Keep it out of logs."""

    url: str = field(repr=False)
    not_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityRecord:
    """One certificate. ``serial``: hexadecimal; ``revoked_at``: None while it is believed."""

    role: str
    name: str
    serial: str
    issued_at: float = 0.0
    not_after: float = 0.0
    revoked_at: float | None = None
    revocation_reason: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeIdentityResponse:
    """What one revocation took back. ``is_client_out``: a client's registered key was among it."""

    serials: Sequence[str] = ()
    role: str = ""
    name: str = ""
    is_client_out: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueIdentityResponse:
    """A person's certificate. ``control_address``: HOST:PORT; empty where no control API listens."""

    certificate_pem: str
    ca_pem: str
    federation: str
    not_after: float
    control_address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GarbageReason:
    """So many files that nobody needs, and why."""

    reason: str
    files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectGarbageResponse:
    """What was removed, or would be. ``missing``: artifacts that a run needs and no file has."""

    files: int
    num_bytes: int
    kept: int
    reasons: Sequence[GarbageReason] = ()
    missing: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueTokenResponse:
    """A token for one client; it is told once. Keep it out of logs."""

    token: str = field(repr=False)
    not_after: float
    enrol_address: str
