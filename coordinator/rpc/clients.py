"""Registered data owners."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.registration import admit_key
from coordinator.rpc.interceptors import calling
from coordinator.rpc.pages import page
from coordinator.rpc.records import client_record
from coordinator.rpc.roles import CLIENT
from motet.connection.errors import NotAllowedError
from motet.errors import NotFoundError
from motet.wire.control_codec import encode
from motet.wire.v1 import control_pb2, control_pb2_grpc

if TYPE_CHECKING:
    import grpc

    from coordinator.rpc.context import Resources


class ClientServicer(control_pb2_grpc.ClientServiceServicer):
    """See proto/motet/v1/control.proto."""

    def __init__(self, resources: Resources) -> None:
        self._store, self._presence = resources.store, resources.presence

    def ListClients(  # noqa: N802 - the contract's name
        self, request: control_pb2.ListClientsRequest, _context: grpc.ServicerContext
    ) -> control_pb2.ListClientsResponse:
        """All of them, by name."""
        rows, token = page(self._store.clients(), request, lambda r: (r.client_id,), (str,))
        presence = self._presence()
        clients = [encode(client_record(row, *presence)) for row in rows]
        return control_pb2.ListClientsResponse(clients=clients, next_page_token=token)

    def GetClient(  # noqa: N802
        self, request: control_pb2.GetClientRequest, _context: grpc.ServicerContext
    ) -> control_pb2.Client:
        """One of them; a client sees itself."""
        peer = calling().peer
        if peer.role == CLIENT and peer.name != request.client_id:
            raise NotAllowedError("a client sees itself only")
        row = next((r for r in self._store.clients() if r.client_id == request.client_id), None)
        if row is None:
            raise NotFoundError("there is no client of that name", hint="see: motet coordinator clients")
        message: control_pb2.Client = encode(client_record(row, *self._presence()))
        return message

    def RegisterClient(  # noqa: N802
        self, request: control_pb2.RegisterClientRequest, _context: grpc.ServicerContext
    ) -> control_pb2.Client:
        """Admit a client, or change its key and class."""
        pem = request.public_key_pem.encode("utf-8", "replace")  # what is no PEM is refused for that
        admit_key(self._store, request.client_id, pem, request.capacity_class)
        row = next(r for r in self._store.clients() if r.client_id == request.client_id)
        message: control_pb2.Client = encode(client_record(row, *self._presence()))
        return message
