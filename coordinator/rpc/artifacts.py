"""Global states of rounds, in chunks. A client's own update is in no list and is never served."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from coordinator.rpc.interceptors import calling
from coordinator.rpc.pages import page
from coordinator.storage.artifacts import ArtifactStore
from coordinator.storage.collecting import GRACE_S, Retention
from motet.connection.errors import BadRequestError
from motet.errors import NotFoundError
from motet.wire.control import Artifact, CollectGarbageResponse, GarbageReason
from motet.wire.control_codec import encode
from motet.wire.v1 import control_pb2, control_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc

    from coordinator.rpc.context import Resources

log = logging.getLogger(__name__)
CHUNK_BYTES = 256 * 1024


class ArtifactServicer(control_pb2_grpc.ArtifactServiceServicer):
    """See proto/motet/v1/control.proto."""

    def __init__(self, resources: Resources) -> None:
        self._store = resources.store
        self._folder = resources.home / "artifacts"

    def ListArtifacts(  # noqa: N802 - the contract's name
        self, request: control_pb2.ListArtifactsRequest, _context: grpc.ServicerContext
    ) -> control_pb2.ListArtifactsResponse:
        """Those that a round closed with, oldest first."""
        rows, token = page(self._store.artifacts(), request, lambda r: (r.created_at, r.sha256), (float, str))
        found = [
            encode(Artifact(sha256=r.sha256, kind=r.kind, num_bytes=r.num_bytes, created_at=r.created_at))
            for r in rows
        ]
        return control_pb2.ListArtifactsResponse(artifacts=found, next_page_token=token)

    def DownloadArtifact(  # noqa: N802
        self, request: control_pb2.DownloadArtifactRequest, _context: grpc.ServicerContext
    ) -> Iterator[control_pb2.ArtifactChunk]:
        """Its bytes from a place on, checked against the name before the first one leaves.

        The file is read twice, so that a frame of it is in memory at a time and not the whole.
        """
        if all(row.sha256 != request.sha256 for row in self._store.artifacts()):
            raise NotFoundError(
                "there is no artifact of that hash", hint="a run's adapter_sha256 names one: motet run show"
            )
        artifacts = ArtifactStore(self._folder)
        size = sum(map(len, artifacts.chunks(request.sha256)))
        if request.offset > size:
            raise BadRequestError(f"the artifact has {size} bytes", hint="begin again from 0")
        start = 0
        for frame in artifacts.chunks(request.sha256):
            for cut in range(0, len(frame), CHUNK_BYTES):
                part = frame[max(cut, request.offset - start) : cut + CHUNK_BYTES]
                if part:
                    offset = start + max(cut, request.offset - start)
                    yield control_pb2.ArtifactChunk(offset=offset, data=part, num_bytes=size)
            start += len(frame)
        if request.offset == size:
            yield control_pb2.ArtifactChunk(offset=size, num_bytes=size)

    def CollectGarbage(  # noqa: N802
        self, request: control_pb2.CollectGarbageRequest, _context: grpc.ServicerContext
    ) -> control_pb2.CollectGarbageResponse:
        """Remove what no run needs any more; a running engine is not disturbed."""
        grace_s = request.grace_s if request.HasField("grace_s") else GRACE_S
        if not grace_s >= 0:
            raise BadRequestError("the grace is a number of seconds, 0 or more")
        retention = Retention(
            updates_for_rounds=max(request.keep_updates, 1),
            adapters=request.keep_adapters if request.HasField("keep_adapters") else None,
            grace_s=grace_s,
        )
        done = self._store.collect(ArtifactStore(self._folder), retention, dry_run=request.dry_run)
        log.info("%s collected %d files, %d bytes", calling().peer.label, len(done.garbage), done.num_bytes)
        message: control_pb2.CollectGarbageResponse = encode(
            CollectGarbageResponse(
                files=len(done.garbage),
                num_bytes=done.num_bytes,
                kept=done.kept,
                reasons=[GarbageReason(reason=r, files=n) for r, n in sorted(done.by_reason().items())],
                missing=done.missing,
            )
        )
        return message
