"""Runs: submit, look, approve, start, cancel, resume, change their priority, watch."""

from __future__ import annotations

import logging
import re
import secrets
from typing import TYPE_CHECKING

from coordinator.rounds.table import WAITS_FOR_A_WORD
from coordinator.rpc.interceptors import calling
from coordinator.rpc.pages import page
from coordinator.rpc.records import run_record
from coordinator.rpc.roles import RESEARCHER
from coordinator.rpc.watching import run_events
from motet.connection.errors import BadRequestError, NotAllowedError
from motet.errors import RunNotFoundError, WrongStateError
from motet.recipe import parse_recipe, recipe_sha256
from motet.trackers.needs import check_trackers
from motet.wire.control_codec import encode
from motet.wire.v1 import control_pb2, control_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc

    from coordinator.rpc.context import Resources
    from motet.wire.control import Run

log = logging.getLogger(__name__)
_PRIORITY = 1000  # at most, either way
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class RunServicer(control_pb2_grpc.RunServiceServicer):
    """See proto/motet/v1/control.proto."""

    def __init__(self, resources: Resources) -> None:
        self._resources, self._store = resources, resources.store

    def SubmitRun(  # noqa: N802 - the contract's name
        self, request: control_pb2.SubmitRunRequest, _context: grpc.ServicerContext
    ) -> control_pb2.Run:
        """Check a recipe and queue it; the same run id with the same recipe twice is one run."""
        if request.run_id and not _RUN_ID.fullmatch(request.run_id):
            raise BadRequestError(
                "a run id has letters, digits, dot, dash and underscore, at most 63", hint="send none"
            )
        _check_priority(request.priority)
        recipe = parse_recipe(request.recipe_text)
        check_trackers(recipe)
        if self._recipe_of(request.run_id) not in {"", recipe_sha256(recipe)}:
            raise BadRequestError(
                f"run {request.run_id} exists with another recipe", hint="choose another id"
            )
        peer = calling().peer
        run_id = request.run_id or f"r-{secrets.token_hex(6)}"
        state, reason = "QUEUED", ""
        if self._resources.asks_operator and peer.role == RESEARCHER:
            state, reason = "PROPOSED", f"waits for an operator: motet run approve {run_id}"
        elif request.hold:
            state, reason = "HELD", f"waits for a word to start: motet run start {run_id}"
        self._store.submit_run(
            recipe,
            run_id=run_id,
            submitted_by=peer.label,
            priority=request.priority,
            state=state,
            reason=reason,
            actor=peer.actor,
        )
        return self._run(run_id)

    def GetRun(  # noqa: N802
        self, request: control_pb2.GetRunRequest, _context: grpc.ServicerContext
    ) -> control_pb2.Run:
        """One run."""
        return self._run(request.run_id)

    def ListRuns(  # noqa: N802
        self, request: control_pb2.ListRunsRequest, _context: grpc.ServicerContext
    ) -> control_pb2.ListRunsResponse:
        """Runs, oldest first."""
        wanted = (r for r in self._store.list_runs() if request.state in {"", r.state})
        rows, token = page(wanted, request, lambda r: (r.created_at, r.run_id), (float, str))
        runs = [encode(run_record(self._store, row)) for row in rows]
        return control_pb2.ListRunsResponse(runs=runs, next_page_token=token)

    def CancelRun(  # noqa: N802
        self, request: control_pb2.CancelRunRequest, _context: grpc.ServicerContext
    ) -> control_pb2.Run:
        """Ask for the end of a run; one that waits ends at once."""
        run = self._own(request.run_id)
        if run.state in {*WAITS_FOR_A_WORD, "QUEUED"}:
            self._store.end_run(
                run.run_id, "CANCELLED", "cancelled before it started", actor=calling().peer.actor
            )
        self._store.request_cancel(run.run_id, calling().peer.actor)
        return self._run(run.run_id)

    def ResumeRun(  # noqa: N802
        self, request: control_pb2.ResumeRunRequest, _context: grpc.ServicerContext
    ) -> control_pb2.Run:
        """A failed run goes on after its last closed round."""
        self._store.resume_run(self._own(request.run_id).run_id, calling().peer.actor)
        return self._run(request.run_id)

    def SetPriority(  # noqa: N802
        self, request: control_pb2.SetPriorityRequest, _context: grpc.ServicerContext
    ) -> control_pb2.Run:
        """Another place in the queue, and at the clients, for a run that waits or is at work."""
        _check_priority(request.priority)
        run = self._own(request.run_id)
        self._store.set_priority(run.run_id, request.priority, calling().peer.actor)
        return self._run(run.run_id)

    def StartRun(  # noqa: N802
        self, request: control_pb2.StartRunRequest, _context: grpc.ServicerContext
    ) -> control_pb2.Run:
        """A run that was held is queued; one that is further on stays as it is."""
        run = self._own(request.run_id)
        if run.has_ended:
            raise WrongStateError(f"run {run.run_id} is {run.state}", hint="submit its recipe again")
        if run.state == "PROPOSED":
            raise WrongStateError(
                f"run {run.run_id} waits for an operator", hint=f"an operator: motet run approve {run.run_id}"
            )
        self._store.release_run(run.run_id, calling().peer.actor)
        return self._run(run.run_id)

    def ApproveRun(  # noqa: N802
        self, request: control_pb2.ApproveRunRequest, _context: grpc.ServicerContext
    ) -> control_pb2.Run:
        """An operator's yes to what is proposed; data owners decide apart from that, each at its own client."""
        run = self._own(request.run_id)
        if request.recipe_sha256 not in {"", run.recipe_sha256}:
            raise WrongStateError(
                f"run {run.run_id} has another recipe", hint=f"see: motet run show {run.run_id}"
            )
        if run.has_ended or run.state == "HELD":
            raise WrongStateError(
                f"run {run.run_id} is {run.state} and waits for no operator's approval",
                hint=f"see: motet run show {run.run_id}",
            )
        self._store.approve_run(run.run_id, calling().peer.actor)
        log.info("run %s was approved by %s", run.run_id, calling().peer.label)
        return self._run(run.run_id)

    def WatchRun(  # noqa: N802
        self, request: control_pb2.WatchRunRequest, context: grpc.ServicerContext
    ) -> Iterator[control_pb2.RunEvent]:
        """What changes, until the run has ended, the caller leaves, or the server stops."""
        self._store.get_run(request.run_id)
        for event in run_events(self._store, request.run_id, context, self._resources):
            yield encode(event)

    def _recipe_of(self, run_id: str) -> str:
        """Hash of the recipe of a run; empty where there is no such run."""
        try:
            return self._store.get_run(run_id).recipe_sha256 if run_id else ""
        except RunNotFoundError:
            return ""

    def _run(self, run_id: str) -> control_pb2.Run:
        message: control_pb2.Run = encode(run_record(self._store, self._store.get_run(run_id)))
        return message

    def _own(self, run_id: str) -> Run:
        """The run, if the caller may change it.

        Raises:
          RunNotFoundError: there is none.
          NotAllowedError: a researcher, and the run is somebody else's.
        """
        run = run_record(self._store, self._store.get_run(run_id))
        peer = calling().peer
        if peer.role == RESEARCHER and run.submitted_by != peer.label:
            raise NotAllowedError(
                f"run {run_id} was submitted by somebody else", hint="ask the operator, or who submitted it"
            )
        return run


def _check_priority(priority: int) -> None:
    if abs(priority) > _PRIORITY:
        raise BadRequestError(
            f"a priority lies between -{_PRIORITY} and {_PRIORITY}; {priority} does not", hint="0 is usual"
        )
