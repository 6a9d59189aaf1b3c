"""The calls of the control API in Python: one class a service, records in and out."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from motet.connection.channel import CALL_S
from motet.connection.errors import BadRequestError
from motet.connection.receiving import whole_file
from motet.errors import MotetError
from motet.wire.control import (
    Artifact,
    Budget,
    Client,
    CollectGarbageResponse,
    ConsistencyProof,
    DashboardLink,
    InclusionProof,
    Info,
    LedgerCheckpoint,
    LedgerEntry,
    Metric,
    RecipeRecord,
    Round,
    Run,
    Score,
    TakeReceiptsResponse,
)
from motet.wire.control_codec import decode
from motet.wire.v1 import control_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from motet.connection.channel import Channel
    from motet.recipe import Recipe

_Record = TypeVar("_Record")
DOWNLOAD_S = 3600.0
COLLECT_S = 240.0
MOST_COUNTERSIGNED_BYTES = 1_000_000
BUDGETS_A_CALL, BUDGETS_S = 10, 240.0  # an accountant takes its time for each client


class DamagedDownloadError(MotetError):
    """What came is not what the hash names; nothing was kept."""

    exit_code = 7


class Calls:
    """Calls of one service over a channel."""

    service = ""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def _one(self, kind: type[_Record], method: str, request: Any) -> _Record:  # noqa: ANN401 - a message
        return decode(self._channel.call(self.service, method, request), kind)

    def _pages(
        self,
        kind: type[_Record],
        method: str,
        field: str,
        request: Any,  # noqa: ANN401 - a message
        *,
        timeout_s: float = CALL_S,
    ) -> Iterator[_Record]:
        """Every record of a list, page after page."""
        while True:
            answer = self._channel.call(self.service, method, request, timeout_s=timeout_s)
            for message in getattr(answer, field):
                yield decode(message, kind)
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token


class ClientCalls(Calls):
    """Registered data owners."""

    service = "ClientService"

    def list(self) -> tuple[Client, ...]:
        """All of them, by name."""
        return tuple(self._pages(Client, "ListClients", "clients", control_pb2.ListClientsRequest()))

    def get(self, client_id: str) -> Client:
        """One of them.

        Raises:
          NotFoundError: there is none of that name.
        """
        return self._one(Client, "GetClient", control_pb2.GetClientRequest(client_id=client_id))

    def register(self, client_id: str, public_key_pem: str, *, capacity_class: str = "") -> Client:
        """Admit one by its public key (P-384, PEM), or change its key and class.

        Raises:
          BadRequestError: a bad name or key.
        """
        request = control_pb2.RegisterClientRequest(
            client_id=client_id, public_key_pem=public_key_pem, capacity_class=capacity_class
        )
        return self._one(Client, "RegisterClient", request)


class RecipeCalls(Calls):
    """Recipes."""

    service = "RecipeService"

    def check(self, text: str) -> RecipeRecord:
        """Let the coordinator check a recipe's text; nothing is stored.

        Raises:
          RecipeRefusedError: with every problem.
        """
        return self._one(RecipeRecord, "CheckRecipe", control_pb2.CheckRecipeRequest(text=text))

    def get(self, recipe_sha256: str) -> RecipeRecord:
        """The recipe of a hash.

        Raises:
          NotFoundError: no run has it.
        """
        return self._one(RecipeRecord, "GetRecipe", control_pb2.GetRecipeRequest(recipe_sha256=recipe_sha256))

    def list(self) -> tuple[RecipeRecord, ...]:
        """Those of submitted runs, each once."""
        return tuple(self._pages(RecipeRecord, "ListRecipes", "recipes", control_pb2.ListRecipesRequest()))


class RoundCalls(Calls):
    """Rounds of runs."""

    service = "RoundService"

    def list(self, run_id: str) -> tuple[Round, ...]:
        """Every attempt at every round, in order.

        Raises:
          RunNotFoundError: there is no such run.
        """
        return tuple(self._pages(Round, "ListRounds", "rounds", control_pb2.ListRoundsRequest(run_id=run_id)))

    def get(self, run_id: str, round_index: int, attempt: int = 0) -> Round:
        """One attempt.

        Raises:
          NotFoundError: there is none.
        """
        request = control_pb2.GetRoundRequest(run_id=run_id, round_index=round_index, attempt=attempt)
        return self._one(Round, "GetRound", request)


class MetricCalls(Calls):
    """Figures of rounds."""

    service = "MetricService"

    def list(self, run_id: str, *, name: str = "") -> tuple[Metric, ...]:
        """By round and name; of one name if asked.

        Raises:
          RunNotFoundError: there is no such run.
        """
        request = control_pb2.ListMetricsRequest(run_id=run_id, name=name)
        return tuple(self._pages(Metric, "ListMetrics", "metrics", request))

    def scores(self, run_id: str) -> tuple[Score, ...]:
        """What clients told of adapters on examples that they do not train on, by rounds done and client.

        Raises:
          RunNotFoundError: there is no such run.
        """
        request = control_pb2.ListScoresRequest(run_id=run_id)
        return tuple(self._pages(Score, "ListScores", "scores", request))


class ArtifactCalls(Calls):
    """Global states of rounds."""

    service = "ArtifactService"

    def list(self) -> tuple[Artifact, ...]:
        """Oldest first."""
        return tuple(self._pages(Artifact, "ListArtifacts", "artifacts", control_pb2.ListArtifactsRequest()))

    def download(
        self, sha256: str, path: Path | str, *, on_bytes: Callable[[int, int], None] = lambda _came, _of: None
    ) -> Path:
        """Write an artifact to a file; it is there whole and checked, or not at all.

        Args:
          sha256: which.
          path: the file.
          on_bytes: told after each piece how many bytes have come, and how many there are.

        Raises:
          NotFoundError: there is none of that hash.
          DamagedDownloadError: what came is something else.
          StorageError: the file can not be written.
        """
        request = control_pb2.DownloadArtifactRequest(sha256=sha256)
        chunks = self._channel.stream(self.service, "DownloadArtifact", request, timeout_s=DOWNLOAD_S)
        digest, came = hashlib.sha256(), 0
        with whole_file(Path(path)) as file:
            for chunk in chunks:
                digest.update(chunk.data)
                file.write(chunk.data)
                came += len(chunk.data)
                on_bytes(came, chunk.num_bytes)
            if digest.hexdigest() != sha256:
                raise DamagedDownloadError(
                    "what came is not what the hash names", hint="try again; else ask the operator"
                )
        return Path(path)

    def collect_garbage(
        self,
        *,
        dry_run: bool = False,
        keep_updates: int = 1,
        keep_adapters: int | None = None,
        grace_s: float = 86400.0,
    ) -> CollectGarbageResponse:
        """Remove what no run needs any more; for operators.

        Args:
          dry_run: only say what would be removed.
          keep_updates: of a run that goes on: updates of that many closed rounds, at least 1.
          keep_adapters: of an ended run: states of that many last rounds; None keeps all.
          grace_s: younger files are left alone, seconds.

        Raises:
          BadRequestError: a number is negative.
        """
        request = control_pb2.CollectGarbageRequest(
            dry_run=dry_run, keep_updates=keep_updates, keep_adapters=keep_adapters, grace_s=grace_s
        )
        answer = self._channel.call(self.service, "CollectGarbage", request, timeout_s=COLLECT_S)
        return decode(answer, CollectGarbageResponse)


class BudgetCalls(Calls):
    """What clients have spent."""

    service = "BudgetService"

    def list(self, client_id: str = "") -> tuple[Budget, ...]:
        """By client and unit; of one client if asked."""
        request = control_pb2.ListBudgetsRequest(client_id=client_id, page_size=BUDGETS_A_CALL)
        return tuple(self._pages(Budget, "ListBudgets", "budgets", request, timeout_s=BUDGETS_S))

    def take_receipts(self, document: bytes) -> TakeReceiptsResponse:
        """Raise a client's count by its own signed record (``motet audit receipts``), after an older backup came back.

        Args:
          document: as it was written.

        Raises:
          AdmissionRefusedError: it is no such record, or not signed by the registered key; nothing was changed.
          NotFoundError: no such client is registered.
          BusyError: it is larger than a request may be.
        """
        request = control_pb2.TakeReceiptsRequest(document=document)
        return self._one(TakeReceiptsResponse, "TakeReceipts", request)


class LedgerCalls(Calls):
    """What the ledger can be checked by."""

    service = "LedgerService"

    def checkpoint(self) -> LedgerCheckpoint:
        """The newest that was signed.

        Raises:
          NotFoundError: nothing was signed yet.
        """
        return self._one(LedgerCheckpoint, "GetCheckpoint", control_pb2.GetCheckpointRequest())

    def inclusion_proof(self, sequence: int, *, size: int = 0) -> InclusionProof:
        """That an entry is in the tree of a size; of the newest checkpoint by default.

        Raises:
          BadRequestError: the tree has no such entry or size.
        """
        request = control_pb2.GetInclusionProofRequest(sequence=sequence, size=size)
        return self._one(InclusionProof, "GetInclusionProof", request)

    def consistency_proof(self, old_size: int, *, size: int = 0) -> ConsistencyProof:
        """That the tree of an older size is the beginning of a later one.

        Raises:
          BadRequestError: there are no such sizes.
        """
        request = control_pb2.GetConsistencyProofRequest(old_size=old_size, size=size)
        return self._one(ConsistencyProof, "GetConsistencyProof", request)

    def entries(self) -> Iterator[LedgerEntry]:
        """Every signed entry, in order, page after page."""
        return self._pages(LedgerEntry, "ListEntries", "entries", control_pb2.ListEntriesRequest())

    def export(
        self, run_id: str, path: Path | str, *, countersignatures: Sequence[bytes] = ()
    ) -> LedgerCheckpoint:
        """Write the whole ledger as one signed file for auditors; it is there whole, or not at all.

        Args:
          run_id: what is asked about.
          path: of the file.
          countersignatures: documents of data owners (``motet audit receipts``), 1,000,000 bytes together at most.

        Returns:
          what the file commits to, with the ledger's public key.

        Raises:
          NotFoundError: the ledger knows no such run.
          BadRequestError: a document that is no countersignature, or too many.
          StorageError: the file can not be written.
        """
        if sum(map(len, countersignatures)) > MOST_COUNTERSIGNED_BYTES:
            raise BadRequestError(
                "the countersignatures are too large for one request",
                hint="leave them out here, and give them to motet audit verify --receipts",
            )
        request = control_pb2.ExportAuditRequest(run_id=run_id, countersignatures=countersignatures)
        checkpoint = None
        with whole_file(Path(path)) as file:
            for chunk in self._channel.stream(self.service, "ExportAudit", request, timeout_s=DOWNLOAD_S):
                checkpoint = checkpoint or decode(chunk.checkpoint, LedgerCheckpoint)
                file.write(chunk.data)
            if checkpoint is None:
                raise DamagedDownloadError("nothing came", hint="try again; else ask the operator")
        return checkpoint


class SystemCalls(Calls):
    """The coordinator itself."""

    service = "SystemService"

    def info(self) -> Info:
        """Who it is, and who it takes the caller for."""
        return self._one(Info, "GetInfo", control_pb2.GetInfoRequest())

    def dashboard_link(self) -> DashboardLink:
        """An address that opens the dashboard once, within a minute, in the role of the caller.

        Raises:
          NotFoundError: this coordinator shows no dashboard.
        """
        return self._one(DashboardLink, "IssueDashboardLink", control_pb2.IssueDashboardLinkRequest())

    def refused_calls(self) -> dict[str, int]:
        """Calls refused since its start, by reason; empty for all but operators."""
        answer = self._channel.call(self.service, "GetInfo", control_pb2.GetInfoRequest())
        return dict(answer.refused_calls)


class RunSubmission(Calls):
    """What changes runs."""

    service = "RunService"

    def submit(
        self, recipe: Recipe | Path | str, *, run_id: str = "", priority: int = 0, hold: bool = False
    ) -> Run:
        """Queue a run. Where the coordinator asks for it, a researcher's run is PROPOSED until an operator approves.

        Args:
          recipe: parsed, or the path of its file.
          run_id: one of the caller's own; the same twice is one run.
          priority: of the queue, from -1000 to 1000; higher goes first.
          hold: keep it HELD until ``start``.

        Raises:
          RecipeError: the recipe is refused, here or by the coordinator.
          NotAllowedError: the caller may not submit.
        """
        from motet.recipe import canonical_json, load_recipe

        parsed = load_recipe(recipe) if isinstance(recipe, str | Path) else recipe
        request = control_pb2.SubmitRunRequest(
            recipe_text=canonical_json(parsed),
            run_id=run_id or f"r-{secrets.token_hex(6)}",
            priority=priority,
            hold=hold,
        )
        return self._one(Run, "SubmitRun", request)

    def get(self, run_id: str) -> Run:
        """One run.

        Raises:
          RunNotFoundError: there is none of that id.
        """
        return self._one(Run, "GetRun", control_pb2.GetRunRequest(run_id=run_id))

    def list(self, *, state: str = "") -> tuple[Run, ...]:
        """Oldest first; of one state if asked."""
        return tuple(self._pages(Run, "ListRuns", "runs", control_pb2.ListRunsRequest(state=state)))

    def cancel(self, run_id: str) -> Run:
        """Ask for its end; a run that has ended stays as it is.

        Raises:
          RunNotFoundError: there is none of that id.
          NotAllowedError: it is somebody else's.
        """
        return self._one(Run, "CancelRun", control_pb2.CancelRunRequest(run_id=run_id))

    def resume(self, run_id: str) -> Run:
        """Let a failed run go on after its last closed round.

        Raises:
          RunNotFoundError: there is none of that id.
          WrongStateError: it has not failed.
        """
        return self._one(Run, "ResumeRun", control_pb2.ResumeRunRequest(run_id=run_id))

    def set_priority(self, run_id: str, priority: int) -> Run:
        """Another place in the queue for a run that waits, and at busy clients for one at work. Twice is once.

        Args:
          run_id: the run.
          priority: from -1000 to 1000; higher goes first.

        Raises:
          RunNotFoundError: there is none of that id.
          NotAllowedError: it is somebody else's.
          WrongStateError: it has ended.
          BadRequestError: no such priority.
        """
        request = control_pb2.SetPriorityRequest(run_id=run_id, priority=priority)
        return self._one(Run, "SetPriority", request)

    def start(self, run_id: str) -> Run:
        """Let a run that was submitted with ``hold`` go; one that is further on stays, ``waiting_for`` says for what.

        Raises:
          RunNotFoundError: there is none of that id.
          NotAllowedError: it is somebody else's.
          WrongStateError: it has ended, or waits for an operator.
        """
        return self._one(Run, "StartRun", control_pb2.StartRunRequest(run_id=run_id))

    def approve(self, run_id: str, *, recipe_sha256: str = "") -> Run:
        """An operator's yes to a run that is PROPOSED; said twice it is said once. Data owners decide at their clients.

        Raises:
          RunNotFoundError: there is none of that id.
          NotAllowedError: the caller is no operator.
          WrongStateError: it has another recipe, has ended, or waits for no operator.
        """
        request = control_pb2.ApproveRunRequest(run_id=run_id, recipe_sha256=recipe_sha256)
        return self._one(Run, "ApproveRun", request)
