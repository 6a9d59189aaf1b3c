"""What the envelope of a reply costs: signing at the client, checking at the coordinator, bytes on the wire.

python benchmarks/envelope_cost.py [--repeat 20]
"""

import argparse
import hashlib
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from motet.wire.codec import encode_order, encode_reply
from motet.wire.envelopes import open_reply, seal_reply
from motet.wire.messages import TrainOrder, TrainReply

SIZES = (1_000, 100_000, 1_000_000, 16 << 20)


def measured(size: int, repeat: int) -> dict[str, float]:
    """Median milliseconds of both sides for a payload of ``size`` bytes, with the hash of an order as large."""
    key = ec.generate_private_key(ec.SECP384R1())
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    names = {"run_id": "r-0", "round_index": 0, "attempt": 0, "client_id": "ward-a"}
    order = TrainOrder(
        **names,
        recipe_json="{}",
        recipe_sha256="",
        lora_rank=1,
        reservation_id="",
        payload=bytes(size),
        payload_sha256="",
    )
    asked, reply = encode_order(order), encode_reply(TrainReply(**names, payload=bytes(size)))
    sealing, opening, envelope = [], [], b""
    for _ in range(repeat):
        begun = time.perf_counter()
        envelope = seal_reply(key, "f-0", order, hashlib.sha256(asked).hexdigest(), reply)
        sealed = time.perf_counter()
        digest = hashlib.sha256(asked).hexdigest()
        open_reply(public, "f-0", order, digest, envelope)
        opening.append(1e3 * (time.perf_counter() - sealed))
        sealing.append(1e3 * (sealed - begun))
    return {
        "payload_bytes": size,
        "seal_ms": round(statistics.median(sealing), 2),
        "open_ms": round(statistics.median(opening), 2),
        "bytes_more": len(envelope) - len(reply),
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=20)
    repeat = parser.parse_args().repeat
    for size in SIZES:
        print(json.dumps(measured(size, repeat)))


if __name__ == "__main__":
    main()
