"""The countersignature of a data owner: what this client charged itself, signed, for the auditor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.errors import LedgerError
from client.ledger import ClientLedger
from client.lineage import Lineages
from motet.audit.receipts import EVERY_DATA_SET, data_set_tag, sign_receipts

if TYPE_CHECKING:
    from pathlib import Path

    from motet.clock import Clock
    from privacy.ledger.canonical import Value


def receipts_of(
    home: Path, client_id: str, clock: Clock, *, names_data_sets: bool = True
) -> dict[str, Value]:
    """Sign the whole ledger of a client's home. The document names no example and no fingerprint of data.

    Charges of one data set have one tag, whatever it was called when they were made. Charges of before there were
    lineages belong to no data set that can be told, and have the tag of every one.

    Args:
      home: of the client; holds ``client.key`` and ``ledger.jsonl``.
      client_id: the name under which the coordinator knows the key.
      clock: for the document's time.
      names_data_sets: tell which charges were of one data set. That depends on single rows and is not noised; without
        it every charge counts for every data set.

    Raises:
      LedgerError: there is no key, or the ledger or the list of data sets is damaged or cut.
    """
    path = home / "client.key"
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as e:
        raise LedgerError(
            f"{path} can not be read as a key", hint=f"make one: motet client init --home {home}"
        ) from e
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise LedgerError(
            f"{path} is no elliptic curve key", hint=f"make one: motet client init --home {home}"
        )
    ledger = ClientLedger(home / "ledger.jsonl")
    made = ledger.charges()
    lineages = Lineages(home)
    lineages.check_knows([charge.data_set for charge in made])
    now = lineages.current_names()
    charges: list[Value] = [
        {
            "attempt": charge.attempt,
            "data_set": EVERY_DATA_SET
            if charge.is_of_every_data_set or not names_data_sets
            else data_set_tag(key, now.get(charge.data_set, charge.data_set)),
            "event": charge.event.to_json(),
            "round_index": charge.round_index,
            "run_id": charge.run_id,
            "settled": charge.is_settled,
        }
        for charge in made
    ]
    return sign_receipts(
        key, client_id=client_id, charges=charges, head=ledger.head(), made_at_ms=int(clock.now() * 1000)
    )
