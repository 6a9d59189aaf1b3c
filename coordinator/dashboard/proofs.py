"""What a browser needs to check the ledger by itself: the signed head, the entries' bytes, and proofs.

Everything is of the signed file, which is what clients and auditors have. The checks are in ``static/ledger.js``; here
nothing is checked, since whoever asks does not trust us.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from motet.connection.errors import BadRequestError
from motet.errors import NotFoundError
from privacy.ledger.notes import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request

    from motet.audit.ledger import CoordinatorLedger

MOST_ENTRIES = 2000
MOST_BYTES = 2_000_000
"""Of one page; a single entry may be larger."""

_LEDGER = "/motet.v1.LedgerService/"
CALLS: Mapping[str, tuple[str, ...]] = {
    "ledger-checkpoint": (f"{_LEDGER}GetCheckpoint",),
    "ledger-entries": (f"{_LEDGER}ListEntries",),
    "ledger-hashes": (f"{_LEDGER}GetCheckpoint",),
    "ledger-inclusion": (f"{_LEDGER}GetInclusionProof",),
    "ledger-consistency": (f"{_LEDGER}GetConsistencyProof",),
}
"""Route -> the calls of the API that it stands for: who may make them may use it (``coordinator.rpc.roles``)."""


def checkpoint(ledger: CoordinatorLedger) -> dict[str, Any]:
    """The newest signed head.

    Returns:
      ``size`` 0 and no ``note`` while nothing was signed; else origin, size, root (hexadecimal), the note as it was
      signed, and the ledger's public key.
    """
    note = ledger.newest_note()
    if note is None:
        return {"size": 0, "note": None}
    verifier = ledger.verifier()
    head = open_checkpoint(note, verifier)
    return {
        "origin": head.origin,
        "size": head.size,
        "root": head.root.hex(),
        "note": note,
        "key": verifier.to_text(),
    }


def entries(ledger: CoordinatorLedger, *, start: int, end: int) -> bytes:
    """Canonical bytes of entries, each with a newline: as many from ``start`` on as fit a page, at least one.

    Args:
      ledger: the signed file.
      start: first entry, from 0.
      end: first entry that is not wanted.

    Raises:
      BadRequestError: there are no such entries.
    """
    _check_range(ledger, start, end)
    page: list[bytes] = []
    size = 0
    for leaf in ledger.leaves_between(start, min(end, start + MOST_ENTRIES)):
        size += len(leaf) + 1
        if page and size > MOST_BYTES:
            break
        page.append(leaf + b"\n")
    return b"".join(page)


def leaf_hashes(ledger: CoordinatorLedger, *, start: int, end: int) -> bytes:
    """Hashes of the same leaves, 32 bytes each: for those who may not read the entries.

    Raises:
      BadRequestError: there are no such entries.
    """
    _check_range(ledger, start, end)
    return b"".join(ledger.leaf_hashes(start, min(end, start + MOST_ENTRIES)))


def inclusion(ledger: CoordinatorLedger, *, sequence: int, size: int, may_read: bool) -> dict[str, Any]:
    """That an entry is in the ledger of a size; with the entry itself only for those who may read it.

    Raises:
      BadRequestError: there is no such entry.
    """
    _check_range(ledger, sequence, size)
    told: dict[str, Any] = {
        "sequence": sequence,
        "size": size,
        "leaf_hash": ledger.leaf_hashes(sequence, sequence + 1)[0].hex(),
        "hashes": [h.hex() for h in ledger.inclusion_proof(sequence, size)],
    }
    return told | ({"entry": ledger.leaves_between(sequence, sequence + 1)[0].decode()} if may_read else {})


def consistency(ledger: CoordinatorLedger, *, old_size: int, size: int) -> dict[str, Any]:
    """That the ledger of ``old_size`` entries is the beginning of that of ``size``.

    Raises:
      BadRequestError: there are not so many entries.
    """
    if not 1 <= old_size <= size <= ledger.size():
        raise BadRequestError(f"no proof from {old_size} to {size} entries: the ledger has {ledger.size()}")
    hashes = [h.hex() for h in ledger.consistency_proof(old_size, size)]
    return {"old_size": old_size, "size": size, "hashes": hashes}


def routes(
    ledger: CoordinatorLedger, *, may_read: Callable[[Request], bool], prefix: str = "/ledger"
) -> list[Route]:
    """The functions above over HTTP, named as in ``CALLS``. Whoever mounts them guards them.

    Args:
      ledger: ``store.ledger.file``; of one store.
      may_read: whether who asks may read entries; it is asked again before any entry is given.
      prefix: of the paths.
    """

    def told_checkpoint(request: Request) -> Response:
        return JSONResponse(checkpoint(ledger) | {"may_read": may_read(request)})

    def told_entries(request: Request) -> Response:
        if not may_read(request):
            return JSONResponse({"error": "your role may not read entries; ask for their hashes"}, 403)
        start, end = _number(request, "start"), _number(request, "end")
        return Response(entries(ledger, start=start, end=end), media_type="application/jsonl")

    def told_hashes(request: Request) -> Response:
        start, end = _number(request, "start"), _number(request, "end")
        return Response(leaf_hashes(ledger, start=start, end=end), media_type="application/octet-stream")

    def told_inclusion(request: Request) -> Response:
        sequence, size = _number(request, "sequence"), _number(request, "size")
        return JSONResponse(inclusion(ledger, sequence=sequence, size=size, may_read=may_read(request)))

    def told_consistency(request: Request) -> Response:
        old_size, size = _number(request, "old_size"), _number(request, "size")
        return JSONResponse(consistency(ledger, old_size=old_size, size=size))

    return [
        Route(f"{prefix}/checkpoint.json", _safe(told_checkpoint), name="ledger-checkpoint"),
        Route(f"{prefix}/entries.jsonl", _safe(told_entries), name="ledger-entries"),
        Route(f"{prefix}/hashes.bin", _safe(told_hashes), name="ledger-hashes"),
        Route(f"{prefix}/inclusion.json", _safe(told_inclusion), name="ledger-inclusion"),
        Route(f"{prefix}/consistency.json", _safe(told_consistency), name="ledger-consistency"),
    ]


def _safe(answer: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
    async def answered(request: Request) -> Response:
        try:
            return await run_in_threadpool(answer, request)
        except BadRequestError as error:
            return JSONResponse({"error": error.message}, 400)
        except NotFoundError as error:
            return JSONResponse({"error": error.message}, 404)

    return answered


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise BadRequestError(f"{name} must be a whole number from 0 on")
    return int(text)


def _check_range(ledger: CoordinatorLedger, start: int, end: int) -> None:
    if not 0 <= start < end <= ledger.size():
        raise BadRequestError(f"no entries from {start} to {end}: the ledger has {ledger.size()}")
