"""A data owner's decision on a recipe, signed with the client's key: who allowed what, under which policy, when.

The statement is bound to client, recipe, policy and time; the entry ``Decision`` of a ledger is the statement and its
signature. Whose key it is, the ledger's ``ClientKey`` entries say.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from motet.audit.receipts import check_signature
from privacy.ledger.canonical import canonical_bytes, parse_canonical
from privacy.ledger.entries import Decision, body_from, fields_of
from privacy.ledger.errors import LedgerFormatError, SignatureError

if TYPE_CHECKING:
    from collections.abc import Iterable

_SIGNED = b"motet-decision/1\n"  # no other use of the key signs bytes that begin so


def signed(unsigned: Decision, key: ec.EllipticCurvePrivateKey) -> Decision:
    """The decision with the owner's signature (ECDSA, SHA-384) over everything else in it."""
    signature = key.sign(_statement(unsigned), ec.ECDSA(hashes.SHA384()))
    return replace(unsigned, signature=base64.b64encode(signature).decode())


def check_decision(decision: Decision, pem: str) -> None:
    """Hold a decision to a public key.

    Raises:
      SignatureError: it was signed by another key, or altered.
      LedgerFormatError: key or signature can not be read.
    """
    check_signature(pem, decision.signature, _statement(decision))


def is_signed_by_one_of(decision: Decision, pems: Iterable[str]) -> bool:
    """Whether one of the keys made the signature."""
    for pem in pems:
        try:
            check_decision(decision, pem)
        except (SignatureError, LedgerFormatError):
            continue
        return True
    return False


def to_text(decision: Decision) -> str:
    """Canonical JSON, as it travels to the coordinator."""
    return canonical_bytes(fields_of(decision)).decode()


def from_text(text: str) -> Decision:
    """Read it back.

    Raises:
      LedgerFormatError: no decision.
    """
    fields = parse_canonical(text.encode())
    if not isinstance(fields, dict):
        raise LedgerFormatError("a decision is an object")
    body = body_from(Decision.kind, fields)
    if not isinstance(body, Decision) or body.decision not in ("approved", "refused"):
        raise LedgerFormatError("a decision is approved or refused")
    return body


def _statement(decision: Decision) -> bytes:
    return _SIGNED + canonical_bytes(fields_of(replace(decision, signature="")))
