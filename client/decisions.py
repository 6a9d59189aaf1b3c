"""What this data owner decided on recipes: signed, in the client's own ledger, the newest counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from client.errors import LedgerError
from client.keys import load_key
from client.ledger import ClientLedger
from motet.audit.decisions import signed
from privacy.ledger.entries import Decision, body_from, fields_of
from privacy.ledger.errors import LedgerFormatError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

APPROVED, REFUSED = "approved", "refused"
BY_OWNER, BY_RULE = "owner", "rule"
_MOST_REASON = 500


class Decisions:
    """The decisions in one client's home. Safe for several processes and threads.

    Args:
      home: holds ``client.key`` and ``ledger.jsonl``.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._ledger = ClientLedger(home / "ledger.jsonl")

    @property
    def can_sign(self) -> bool:
        """Whether there is a key; a simulated client has none."""
        return (self._home / "client.key").exists()

    def all(self) -> list[Decision]:
        """Every decision, oldest first.

        Raises:
          LedgerError: the ledger is damaged or cut.
        """
        return _decisions(self._ledger.rows())

    def latest(self, recipe_sha256: str) -> Decision | None:
        """What was decided last on a recipe.

        Raises:
          LedgerError: the ledger is damaged or cut.
        """
        return _latest(self.all(), recipe_sha256)

    def decide(
        self,
        *,
        client_id: str,
        recipe_sha256: str,
        decision: str,
        policy_sha256: str,
        at_ms: int,
        made_by: str = BY_OWNER,
        reason: str = "",
    ) -> Decision:
        """Sign a decision and append it; durable when this returns. The same decision twice is one.

        Args:
          client_id: this client's name.
          recipe_sha256: what is decided on.
          decision: ``approved`` or ``refused``.
          policy_sha256: of the policy file in force; empty without one.
          at_ms: milliseconds since 1970 (UTC).
          made_by: ``owner`` or ``rule``.
          reason: for the operator and the auditor; it leaves with the decision.

        Raises:
          ClientKeyError: there is no key.
          LedgerError: the ledger can not be written.
        """
        made: list[Decision] = []

        def choose(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
            known = _latest(_decisions(rows), recipe_sha256)
            if known is not None and (known.decision, known.client_id) == (decision, client_id):
                made.append(known)
                return None
            earliest = (
                known.decided_at_ms + 1 if known is not None else 0
            )  # a clock may go back; an order may not
            unsigned = Decision(
                client_id=client_id,
                recipe_sha256=recipe_sha256,
                decision=decision,
                policy_sha256=policy_sha256,
                decided_at_ms=max(at_ms, earliest),
                made_by=made_by,
                reason="".join(c if c.isprintable() else " " for c in reason)[:_MOST_REASON],
                signature="",
            )
            made.append(signed(unsigned, load_key(self._home)))
            return {"kind": Decision.kind, **fields_of(made[-1])}

        self._ledger.append_one(choose)
        return made[-1]


def _latest(decisions: Sequence[Decision], recipe_sha256: str) -> Decision | None:
    return next((d for d in reversed(decisions) if d.recipe_sha256 == recipe_sha256), None)


def _decisions(rows: Sequence[dict[str, Any]]) -> list[Decision]:
    found = []
    for row in rows:
        if row["kind"] != Decision.kind:
            continue
        fields = {k: v for k, v in row.items() if k not in ("kind", "previous")}
        try:
            body = body_from(Decision.kind, fields)
        except LedgerFormatError as e:
            raise LedgerError(
                f"a decision in the ledger can not be read: {e}", hint="restore the backup"
            ) from e
        if isinstance(body, Decision):
            found.append(body)
    return found
