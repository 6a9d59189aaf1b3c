"""The coordinator itself: who it is, who it takes the caller for, what it refused."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from coordinator.rpc.interceptors import calling
from coordinator.rpc.roles import OPERATOR
from motet.errors import NotFoundError
from motet.wire.v1 import control_pb2, control_pb2_grpc

if TYPE_CHECKING:
    import grpc

    from coordinator.rpc.context import Resources


class SystemServicer(control_pb2_grpc.SystemServiceServicer):
    """See proto/motet/v1/control.proto."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    def GetInfo(  # noqa: N802 - the contract's name
        self, _request: control_pb2.GetInfoRequest, _context: grpc.ServicerContext
    ) -> control_pb2.Info:
        """What a caller may know; refusals are for the operator."""
        peer = calling().peer
        refused = self._resources.counts.refusals() if peer.role == OPERATOR else {}
        return control_pb2.Info(
            software_version=software_version(),
            federation=self._resources.federation,
            role=peer.role,
            name=peer.name,
            at=self._resources.clock.now(),
            refused_calls=refused,
        )

    def IssueDashboardLink(  # noqa: N802
        self, _request: control_pb2.IssueDashboardLinkRequest, _context: grpc.ServicerContext
    ) -> control_pb2.DashboardLink:
        """Opens a session of the caller's own role and certificate."""
        link = self._resources.dashboard_link
        if link is None:
            raise NotFoundError("this coordinator shows no dashboard", hint="start it without --no-dashboard")
        url, until = link(calling().peer)
        return control_pb2.DashboardLink(url=url, not_after=until)


def software_version() -> str:
    """Of this installation; ``0`` where it runs from a source tree."""
    try:
        return version("motet")
    except PackageNotFoundError:
        return "0"
