"""What each client has spent."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from coordinator.rpc.interceptors import calling
from coordinator.rpc.pages import page
from coordinator.rpc.roles import CLIENT, may_see_data_sets
from motet.connection.errors import NotAllowedError
from motet.wire.control import Budget, DataSetBudget, RunBudget, TakeReceiptsResponse
from motet.wire.control_codec import encode
from motet.wire.v1 import control_pb2, control_pb2_grpc

if TYPE_CHECKING:
    import grpc

    from coordinator.rpc.context import Resources

log = logging.getLogger(__name__)


class BudgetServicer(control_pb2_grpc.BudgetServiceServicer):
    """See proto/motet/v1/control.proto."""

    def __init__(self, resources: Resources) -> None:
        self._store = resources.store

    def ListBudgets(  # noqa: N802 - the contract's name
        self, request: control_pb2.ListBudgetsRequest, _context: grpc.ServicerContext
    ) -> control_pb2.ListBudgetsResponse:
        """By client and unit; a page is of so many clients. A client sees its own."""
        from motet.audit.accounts import budget_of, charged_clients  # an accountant takes a second to load

        peer = calling().peer
        if peer.role == CLIENT and request.client_id != peer.name:
            raise NotAllowedError("a client sees its own budget only", hint="name your client in the request")
        bodies, witnessed = self._store.charge_bodies(), self._store.witnessed.lacking()
        wanted = [c for c in charged_clients([*bodies, *witnessed]) if request.client_id in {"", c}]
        clients, token = page(wanted, request, lambda c: (c,), (str,))
        names = self._store.witnessed.data_sets(clients) if may_see_data_sets(peer.role) else {}
        rows = [
            Budget(
                **{
                    **row,
                    "runs": tuple(RunBudget(**run) for run in row["runs"]),
                    "data_sets": tuple(DataSetBudget(**one) for one in row["data_sets"]),
                }
            )
            for row in budget_of(bodies, only=set(clients), witnessed=witnessed, data_sets=names)
        ]
        return control_pb2.ListBudgetsResponse(budgets=[encode(r) for r in rows], next_page_token=token)

    def TakeReceipts(  # noqa: N802
        self, request: control_pb2.TakeReceiptsRequest, _context: grpc.ServicerContext
    ) -> control_pb2.TakeReceiptsResponse:
        """Raise a client's count by its own signed record."""
        peer = calling().peer
        told = self._store.witnessed.take(request.document, of=peer.name if peer.role == CLIENT else "")
        log.info("%s: %d of %d charges of %s are new", peer.label, told.added, told.charges, told.client_id)
        message: control_pb2.TakeReceiptsResponse = encode(
            TakeReceiptsResponse(client_id=told.client_id, charges=told.charges, added=told.added)
        )
        return message
