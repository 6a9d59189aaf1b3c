"""What encryption of artifacts costs a round: the same files, plain and encrypted, in turns within one run.

A round of ten clients writes ten updates and one adapter, and reads ten updates and two adapters. Sizes are those of
adapters: 0.3 MB (a small encoder), 3 MB, 30 MB (rank 16 on a model of some billions). Every write is fsynced, plain
or not. Figures are medians over rounds; the ratio is of the two medians. ``cipher only`` is AES-256-GCM in memory.

Run: python benchmarks/artifact_encryption.py. About a minute; writes benchmarks/results/artifact_encryption.json.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from coordinator.storage.artifacts import ArtifactStore, open_artifacts  # noqa: E402
from coordinator.storage.keyring import WrappingKey  # noqa: E402
from coordinator.storage.sealing import seal  # noqa: E402

SIZES = {"0.3 MB": 300_000, "3 MB": 3_000_000, "30 MB": 30_000_000}
CLIENTS = 10
ROUNDS = {"0.3 MB": 30, "3 MB": 15, "30 MB": 5}
RESULT = ROOT / "benchmarks/results/artifact_encryption.json"


def one_round(store: ArtifactStore, size: int) -> dict[str, float]:
    """Seconds of the writes and of the reads of a round; what was written is removed."""
    updates = [os.urandom(size) for _ in range(CLIENTS)]
    adapter = os.urandom(size)
    began = time.perf_counter()
    names = [store.put(u, "update") for u in updates]
    last = store.put(adapter, "adapter")
    written = time.perf_counter()
    for name in [*names, last, last]:
        store.get(name)
    read = time.perf_counter()
    for name in [*names, last]:
        store.path_of(name).unlink()
    return {"write_s": written - began, "read_s": read - written}


def cipher_seconds(size: int) -> float:
    """Seconds to encrypt one artifact in memory."""
    data, key = os.urandom(size), WrappingKey.new()
    name = hashlib.sha256(data).hexdigest()
    began = time.perf_counter()
    for _part in seal(data, name, "update", key):
        pass
    return time.perf_counter() - began


def main() -> None:
    """Measure and write the result."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        stores = {
            "plain": ArtifactStore(Path(folder) / "plain/artifacts"),
            "encrypted": open_artifacts(Path(folder) / "encrypted"),
        }
        for label, size in SIZES.items():
            seen: dict[str, list[dict[str, float]]] = {name: [] for name in stores}
            for store in stores.values():
                one_round(store, size)  # warm
            for index in range(ROUNDS[label]):
                for name in sorted(stores, reverse=bool(index % 2)):
                    seen[name].append(one_round(stores[name], size))
            row: dict[str, object] = {"size": label, "rounds": ROUNDS[label], "clients": CLIENTS}
            for part in ("write_s", "read_s"):
                middle = {name: statistics.median(r[part] for r in rounds) for name, rounds in seen.items()}
                row |= {f"{name}_{part}": round(value, 5) for name, value in middle.items()}
                row[f"{part[:-2]}_ratio"] = round(middle["encrypted"] / middle["plain"], 3)
            whole = {
                name: statistics.median(r["write_s"] + r["read_s"] for r in rounds)
                for name, rounds in seen.items()
            }
            row["round_ratio"] = round(whole["encrypted"] / whole["plain"], 3)
            row["more_ms_a_round"] = round(1e3 * (whole["encrypted"] - whole["plain"]), 1)
            row["cipher_only_mb_s"] = round(
                size / 1e6 / statistics.median(cipher_seconds(size) for _ in range(10))
            )
            rows.append(row)
            print(json.dumps(row))
    machine = {"python": platform.python_version(), "processors": os.cpu_count(), "system": platform.system()}
    RESULT.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
