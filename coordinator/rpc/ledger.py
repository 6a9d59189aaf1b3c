"""What auditors and clients check the ledger by: checkpoint, proofs, entries."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from coordinator.rpc.artifacts import CHUNK_BYTES
from coordinator.rpc.interceptors import calling
from coordinator.rpc.pages import after, size_of, token_after
from coordinator.rpc.system import software_version
from motet.audit.errors import BundleError
from motet.connection.errors import BadRequestError
from motet.errors import NotFoundError
from motet.wire.control import ConsistencyProof, InclusionProof, LedgerCheckpoint, LedgerEntry
from motet.wire.control_codec import encode
from motet.wire.v1 import control_pb2, control_pb2_grpc
from privacy.ledger.canonical import parse_canonical
from privacy.ledger.errors import LedgerFormatError
from privacy.ledger.merkle import MerkleTree
from privacy.ledger.notes import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import grpc

    from coordinator.rpc.context import Resources

log = logging.getLogger(__name__)


class LedgerServicer(control_pb2_grpc.LedgerServiceServicer):
    """See proto/motet/v1/control.proto. Proofs are of the signed file, which is what clients and auditors have."""

    def __init__(self, resources: Resources) -> None:
        self._ledger, self._clock = resources.store.ledger, resources.clock
        self._file = self._ledger.file
        self._lock = threading.Lock()  # the file's own memory is for one thread
        self._tree = MerkleTree()
        self._leaves: list[bytes] = []

    def GetCheckpoint(  # noqa: N802 - the contract's name
        self, _request: control_pb2.GetCheckpointRequest, _context: grpc.ServicerContext
    ) -> control_pb2.Checkpoint:
        """The newest one that was signed."""
        with self._lock:
            message: control_pb2.Checkpoint = encode(self._newest())
            return message

    def GetInclusionProof(  # noqa: N802
        self, request: control_pb2.GetInclusionProofRequest, _context: grpc.ServicerContext
    ) -> control_pb2.InclusionProof:
        """That an entry is in the tree of a size."""
        with self._lock:
            tree, size = self._grown(), self._size(request.size)
            if request.sequence >= size:
                raise BadRequestError(f"a tree of {size} entries has no entry {request.sequence}")
            message: control_pb2.InclusionProof = encode(
                InclusionProof(
                    sequence=request.sequence,
                    size=size,
                    leaf=self._leaves[request.sequence],
                    hashes=tuple(tree.inclusion_proof(request.sequence, size)),
                    root=tree.root(size),
                )
            )
            return message

    def GetConsistencyProof(  # noqa: N802
        self, request: control_pb2.GetConsistencyProofRequest, _context: grpc.ServicerContext
    ) -> control_pb2.ConsistencyProof:
        """That a tree is the beginning of a larger one."""
        with self._lock:
            tree, size = self._grown(), self._size(request.size)
            if not 1 <= request.old_size <= size:
                raise BadRequestError(f"the older size must be from 1 to {size}")
            message: control_pb2.ConsistencyProof = encode(
                ConsistencyProof(
                    old_size=request.old_size,
                    size=size,
                    old_root=tree.root(request.old_size),
                    root=tree.root(size),
                    hashes=tuple(tree.consistency_proof(request.old_size, size)),
                )
            )
            return message

    def ListEntries(  # noqa: N802
        self, request: control_pb2.ListEntriesRequest, _context: grpc.ServicerContext
    ) -> control_pb2.ListEntriesResponse:
        """Signed entries, in order."""
        last = after(request, (int,))
        begin = 0 if last is None else last[0] + 1
        with self._lock:
            self._grown()
            end = min(begin + size_of(request), len(self._leaves))
            entries = [
                encode(LedgerEntry(sequence=n, leaf=self._leaves[n])) for n in range(max(begin, 0), end)
            ]
            token = token_after((end - 1,)) if end < len(self._leaves) and entries else ""
        return control_pb2.ListEntriesResponse(entries=entries, next_page_token=token)

    def ExportAudit(  # noqa: N802
        self, request: control_pb2.ExportAuditRequest, _context: grpc.ServicerContext
    ) -> Iterator[control_pb2.AuditChunk]:
        """The whole ledger as one signed file; what is written meanwhile is left out."""
        from motet.audit.bundle import bundle_rows  # loads an accountant

        documents = [_countersignature(data) for data in request.countersignatures]
        checkpoint = self._ledger.reconcile()
        verifier = self._file.verifier()
        first: control_pb2.Checkpoint | None = encode(
            LedgerCheckpoint(
                origin=checkpoint.origin,
                size=checkpoint.size,
                root=checkpoint.root,
                public_key=verifier.to_text(),
            )
        )
        rows = bundle_rows(
            self._file,
            run_id=request.run_id,
            made_at_ms=int(self._clock.now() * 1000),
            version=software_version(),
            countersignatures=documents,
            size=checkpoint.size,
        )
        log.info("%s exports the ledger, %d entries", calling().peer.label, checkpoint.size)
        try:
            for part in _parts(rows):
                yield control_pb2.AuditChunk(data=part, checkpoint=first)
                first = None
        except BundleError as e:
            raise NotFoundError(e.message, hint=e.hint) from e

    def _newest(self) -> LedgerCheckpoint:
        notes = self._file.checkpoints()
        if not notes:
            raise NotFoundError(
                "nothing was signed yet", hint="the first charge or run is signed as it starts"
            )
        verifier = self._file.verifier()
        checkpoint = open_checkpoint(notes[-1], verifier)
        return LedgerCheckpoint(
            origin=checkpoint.origin,
            size=checkpoint.size,
            root=checkpoint.root,
            signed_note=notes[-1],
            public_key=verifier.to_text(),
        )

    def _grown(self) -> MerkleTree:
        """The tree over what is in the file now."""
        leaves = self._file.leaves()
        if leaves[: len(self._leaves)] != self._leaves:
            self._tree = MerkleTree()
            self._leaves = []
        for leaf in leaves[len(self._leaves) :]:
            self._tree.append(leaf)
        self._leaves = leaves
        return self._tree

    def _size(self, asked: int) -> int:
        size = asked or self._newest().size
        if size > len(self._leaves):
            raise BadRequestError(f"the ledger has {len(self._leaves)} entries")
        return size


def _countersignature(data: bytes) -> dict[str, Any]:
    try:
        document = parse_canonical(data)
    except LedgerFormatError as e:
        raise BadRequestError(f"that is no countersignature: {e}", hint="see: motet audit receipts") from e
    if not isinstance(document, dict):
        raise BadRequestError("that is no countersignature", hint="see: motet audit receipts")
    return document


def _parts(rows: Iterable[bytes]) -> Iterator[bytes]:
    """Rows together, about a chunk each."""
    held, size = [], 0
    for row in rows:
        held.append(row)
        size += len(row)
        if size >= CHUNK_BYTES:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)
