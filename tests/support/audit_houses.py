"""Ledgers and bundles of any size, made as the coordinator makes them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from motet.audit.bundle import make_bundle
from motet.audit.ledger import CoordinatorLedger
from motet.audit.receipts import data_set_tag, sign_receipts
from privacy.events import PoissonGaussianEvent
from privacy.ledger.chain import FIRST_PREVIOUS, chained, entry_hash
from privacy.ledger.entries import (
    CancelRefused,
    ClientKey,
    Order,
    Reserve,
    RunDeclared,
    Settle,
    identity,
    reserve_of,
)

EVENT = PoissonGaussianEvent(noise_multiplier=1.1, sampling_rate=0.05, num_steps=2)
RECIPE = json.dumps(
    {
        "name": "vader",
        "privacy": {
            "clipping_norm": 1.0,
            "noise_multiplier": 1.1,
            "sampling_rate": 0.05,
            "target_delta": 1e-05,
            "target_epsilon": None,
            "epsilon_limit": None,
        },
        "training": {"local_steps": 2, "rounds": 100},
    },
    sort_keys=True,
)
CLIENTS = ("a", "b", "c", "d")


class FixedClock:
    """Counts milliseconds."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000.0

    def now(self) -> float:
        self.seconds += 0.001
        return self.seconds


class WritingLedger(CoordinatorLedger):
    """A ledger without state behind it: it makes the entries itself, as a database would hand them over."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.clock = FixedClock()

    def append(self, bodies, recorded_by: str = "engine"):
        """Write what is not there yet; the checkpoint over everything."""
        leaves, known, new = self.leaves(), self.bodies(), {}
        for body in bodies:
            if identity(body) not in known:
                new.setdefault(identity(body), body)
        at_ms = int(self.clock.now() * 1000)
        leaves = leaves or chained([self.genesis()], sequence=0, previous=FIRST_PREVIOUS, at_ms=at_ms)
        leaves += chained(
            new.values(),
            sequence=len(leaves),
            previous=entry_hash(leaves[-1]),
            at_ms=at_ms,
            recorded_by=recorded_by,
        )
        return self.follow(lambda start: leaves[start:])


@dataclass
class House:
    """A coordinator's ledger with four clients who hold keys."""

    ledger: WritingLedger
    keys: dict[str, ec.EllipticCurvePrivateKey]

    def declare(self, run_id: str = "r-1") -> None:
        pems = {
            name: key.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode()
            for name, key in self.keys.items()
        }
        digest = hashlib.sha256(RECIPE.encode()).hexdigest()
        self.ledger.append([ClientKey(client_id=n, public_key=p) for n, p in pems.items()])
        self.ledger.append([RunDeclared(run_id=run_id, recipe_sha256=digest, recipe_json=RECIPE)])

    def play(self, rounds: range, run_id: str = "r-1", clients=CLIENTS) -> None:
        """Charge, order and settle; the last client fails in every seventh round."""
        bodies = []
        for index in rounds:
            charges = [reserve(index, client, run_id) for client in clients]
            bodies += charges
            bodies += [order(c) for c in charges]
            for charge in charges:
                if charge.client_id == "d" and index % 7 == 0:
                    bodies.append(CancelRefused(reservation_id=charge.reservation_id, reason="deadline"))
                else:
                    bodies.append(Settle(reservation_id=charge.reservation_id, payload_sha256=""))
        self.ledger.append(bodies)

    def receipts(self, client: str, rounds: range, run_id: str = "r-1", *, event=EVENT, made_at_ms=1) -> dict:
        charges = [
            {
                "attempt": 0,
                "data_set": data_set_tag(self.keys[client], "fingerprint"),
                "event": event.to_json(),
                "round_index": index,
                "run_id": run_id,
                "settled": True,
            }
            for index in rounds
        ]
        return sign_receipts(
            self.keys[client],
            client_id=client,
            charges=charges,
            head=(len(charges), "0" * 64),
            made_at_ms=made_at_ms,
        )

    def bundle(self, run_id: str = "r-1", countersignatures=()) -> bytes:
        return make_bundle(
            self.ledger,
            run_id=run_id,
            made_at_ms=1_700_000_900_000,
            version="0",
            countersignatures=countersignatures,
        )


def reserve(index: int, client: str, run_id: str = "r-1", event=EVENT) -> Reserve:
    return reserve_of(run_id, index, 0, client, event)


def order(charge: Reserve, message_id: str = "") -> Order:
    return Order(
        reservation_id=charge.reservation_id,
        run_id=charge.run_id,
        round_index=charge.round_index,
        attempt=charge.attempt,
        client_id=charge.client_id,
        message_id=message_id or f"m-{charge.reservation_id}",
    )


def house_at(folder: Path, clients=CLIENTS) -> House:
    house = House(
        ledger=WritingLedger(folder / "ledger"),
        keys={name: ec.generate_private_key(ec.SECP384R1()) for name in clients},
    )
    house.declare()
    return house
