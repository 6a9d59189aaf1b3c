"""Rounds of a run and their figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.rpc.pages import page
from coordinator.rpc.records import metrics_of, rounds_of, scores_of
from motet.errors import NotFoundError
from motet.wire.control_codec import encode
from motet.wire.v1 import control_pb2, control_pb2_grpc

if TYPE_CHECKING:
    import grpc

    from coordinator.rpc.context import Resources


class RoundServicer(control_pb2_grpc.RoundServiceServicer):
    """See proto/motet/v1/control.proto."""

    def __init__(self, resources: Resources) -> None:
        self._store = resources.store

    def ListRounds(  # noqa: N802 - the contract's name
        self, request: control_pb2.ListRoundsRequest, _context: grpc.ServicerContext
    ) -> control_pb2.ListRoundsResponse:
        """Every attempt, in order."""
        self._store.get_run(request.run_id)
        rounds = rounds_of(self._store, request.run_id)
        rows, token = page(rounds, request, lambda r: (r.round_index, r.attempt), (int, int))
        return control_pb2.ListRoundsResponse(rounds=[encode(r) for r in rows], next_page_token=token)

    def GetRound(  # noqa: N802
        self, request: control_pb2.GetRoundRequest, _context: grpc.ServicerContext
    ) -> control_pb2.Round:
        """One attempt."""
        self._store.get_run(request.run_id)
        wanted = (request.round_index, request.attempt)
        for found in rounds_of(self._store, request.run_id):
            if (found.round_index, found.attempt) == wanted:
                message: control_pb2.Round = encode(found)
                return message
        raise NotFoundError("the run has no such round", hint="see: motet run show RUN")


class MetricServicer(control_pb2_grpc.MetricServiceServicer):
    """See proto/motet/v1/control.proto."""

    def __init__(self, resources: Resources) -> None:
        self._store = resources.store

    def ListMetrics(  # noqa: N802 - the contract's name
        self, request: control_pb2.ListMetricsRequest, _context: grpc.ServicerContext
    ) -> control_pb2.ListMetricsResponse:
        """By round and name."""
        self._store.get_run(request.run_id)
        wanted = (m for m in metrics_of(self._store, request.run_id) if request.name in {"", m.name})
        rows, token = page(wanted, request, lambda m: (m.round_index, m.name), (int, str))
        metrics = [encode(m) for m in rows]
        return control_pb2.ListMetricsResponse(metrics=metrics, next_page_token=token)

    def ListScores(  # noqa: N802
        self, request: control_pb2.ListScoresRequest, _context: grpc.ServicerContext
    ) -> control_pb2.ListScoresResponse:
        """By rounds done and client."""
        self._store.get_run(request.run_id)
        told = scores_of(self._store, request.run_id)
        rows, token = page(told, request, lambda s: (s.rounds_done, s.client_id), (int, str))
        return control_pb2.ListScoresResponse(scores=[encode(s) for s in rows], next_page_token=token)
