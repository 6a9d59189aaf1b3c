"""What auditors and clients check the ledger by: checkpoint, proofs, entries."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from coordinator.rpc.artifacts import CHUNK_BYTES
from coordinator.rpc.interceptors import calling
from coordinator.rpc.pages import after, size_of, token_after
from coordinator.rpc.roles import CLIENT, may_call
from coordinator.rpc.system import software_version
from motet.audit.errors import BundleError
from motet.connection.errors import BadRequestError
from motet.errors import NotFoundError
from motet.wire.control import ConsistencyProof, InclusionProof, LedgerCheckpoint, LedgerEntry
from motet.wire.control_codec import encode
from motet.wire.v1 import control_pb2, control_pb2_grpc
from privacy.ledger.canonical import parse_canonical
from privacy.ledger.chain import entry_from_bytes
from privacy.ledger.errors import LedgerFormatError
from privacy.ledger.merkle import leaf_hash
from privacy.ledger.notes import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import grpc

    from coordinator.rpc.context import Resources

log = logging.getLogger(__name__)
LIST_ENTRIES = "/motet.v1.LedgerService/ListEntries"


class LedgerServicer(control_pb2_grpc.LedgerServiceServicer):
    """See proto/motet/v1/control.proto. Proofs are of the signed file, which is what clients and auditors have."""

    def __init__(self, resources: Resources) -> None:
        self._ledger, self._clock = resources.store.ledger, resources.clock
        self._file = self._ledger.file

    def GetCheckpoint(  # noqa: N802 - the contract's name
        self, _request: control_pb2.GetCheckpointRequest, _context: grpc.ServicerContext
    ) -> control_pb2.Checkpoint:
        """The newest one that was signed."""
        message: control_pb2.Checkpoint = encode(self._newest())
        return message

    def GetInclusionProof(  # noqa: N802
        self, request: control_pb2.GetInclusionProofRequest, _context: grpc.ServicerContext
    ) -> control_pb2.InclusionProof:
        """That an entry is in the tree of a size; the entry itself for those who may read it."""
        size = self._size(request.size)
        if request.sequence >= size:
            raise BadRequestError(f"a tree of {size} entries has no entry {request.sequence}")
        leaf = self._file.leaves_between(request.sequence, request.sequence + 1)[0]
        message: control_pb2.InclusionProof = encode(
            InclusionProof(
                sequence=request.sequence,
                size=size,
                leaf=leaf if _may_read(leaf) else b"",
                leaf_hash=leaf_hash(leaf),
                hashes=tuple(self._file.inclusion_proof(request.sequence, size)),
                root=self._file.root(size),
            )
        )
        return message

    def GetConsistencyProof(  # noqa: N802
        self, request: control_pb2.GetConsistencyProofRequest, _context: grpc.ServicerContext
    ) -> control_pb2.ConsistencyProof:
        """That a tree is the beginning of a larger one."""
        size = self._size(request.size)
        if not 1 <= request.old_size <= size:
            raise BadRequestError(f"the older size must be from 1 to {size}")
        message: control_pb2.ConsistencyProof = encode(
            ConsistencyProof(
                old_size=request.old_size,
                size=size,
                old_root=self._file.root(request.old_size),
                root=self._file.root(size),
                hashes=tuple(self._file.consistency_proof(request.old_size, size)),
            )
        )
        return message

    def ListEntries(  # noqa: N802
        self, request: control_pb2.ListEntriesRequest, _context: grpc.ServicerContext
    ) -> control_pb2.ListEntriesResponse:
        """Signed entries, in order."""
        last = after(request, (int,))
        begin = 0 if last is None else max(last[0] + 1, 0)
        leaves = self._file.leaves_between(begin, begin + size_of(request))
        end = begin + len(leaves)
        token = token_after((end - 1,)) if leaves and end < self._file.size() else ""
        entries = [encode(LedgerEntry(sequence=n, leaf=leaf)) for n, leaf in enumerate(leaves, begin)]
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
        note = self._file.newest_note()
        if note is None:
            raise NotFoundError(
                "nothing was signed yet", hint="the first charge or run is signed as it starts"
            )
        verifier = self._file.verifier()
        checkpoint = open_checkpoint(note, verifier)
        return LedgerCheckpoint(
            origin=checkpoint.origin,
            size=checkpoint.size,
            root=checkpoint.root,
            signed_note=note,
            public_key=verifier.to_text(),
        )

    def _size(self, asked: int) -> int:
        size = asked or self._newest().size
        if size > self._file.size():
            raise BadRequestError(f"the ledger has {self._file.size()} entries")
        return size


def _may_read(leaf: bytes) -> bool:
    """Who may not list entries reads none; a client reads those of itself."""
    peer = calling().peer
    if may_call(peer.role, LIST_ENTRIES):
        return True
    return peer.role == CLIENT and getattr(entry_from_bytes(leaf).body, "client_id", None) == peer.name


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
