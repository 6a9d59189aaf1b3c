"""What clients that wait for work cost: polls through the gateway, answered by the SuperLink, none with an order.

Pollers sign each call as clients do and ask again at once. The firm figures are CPU-milliseconds a poll of SuperLink
and gateway; polls a second are of this machine with pollers on the same cores.

Run: python benchmarks/polling.py [--seconds 10]. Writes benchmarks/results/polling.json. Needs psutil (the dev extra).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402

from client.fleet import FleetLink  # noqa: E402
from client.keys import init_key  # noqa: E402
from coordinator.authority import ensure_authority  # noqa: E402
from coordinator.engine.flower_grid import FlowerGrid  # noqa: E402
from coordinator.engine.flower_link import FlowerLink  # noqa: E402
from coordinator.engine.superlink import start_gateway, start_superlink  # noqa: E402
from coordinator.registration import register  # noqa: E402
from coordinator.storage.store import Store  # noqa: E402
from coordinator.tls import write_private  # noqa: E402
from motet.ports import free_port  # noqa: E402


def polled(folder: Path, link_state: str, options: argparse.Namespace) -> dict[str, Any]:
    """Polls a second, and CPU-milliseconds a poll."""
    home, tls = folder / "home", folder / "home" / "tls"
    names = [f"c{i}" for i in range(options.pollers)]
    for name in names:
        register(home, name, init_key(folder / name))
    secret = secrets.token_hex(32).encode()
    (home / "superlink").mkdir(parents=True, exist_ok=True)
    write_private(home / "superlink" / "secret", secret)
    authority = ensure_authority(home, names=["127.0.0.1"])
    upstream, listen = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    children = [start_superlink(upstream, home, tls=tls, in_memory=link_state == "memory")]
    store = Store.open(home / "motet.db")
    stop = threading.Event()
    try:
        children.append(start_gateway(listen, upstream, home, tls=tls))
        ca = (tls / "ca.crt").read_bytes()
        link = FlowerLink(upstream, secret, ca)
        link.open()
        FlowerGrid(link, store, federation=authority.federation).online()
        links = [
            FleetLink(listen, ca, (folder / n / "client.key").read_bytes(), folder / n, stop) for n in names
        ]
        for one in links:
            one.__enter__()
        counts = [0] * len(links)

        def poll(index: int) -> None:
            while not stop.is_set():
                links[index].receive()
                counts[index] += 1

        threads = [threading.Thread(target=poll, args=(i,), daemon=True) for i in range(len(links))]
        processes = {c.name: psutil.Process(c.process.pid) for c in children}
        for thread in threads:
            thread.start()
        time.sleep(2.0)
        before, at, done = _cpu(processes), time.perf_counter(), sum(counts)
        time.sleep(options.seconds)
        after, seconds, total = _cpu(processes), time.perf_counter() - at, sum(counts) - done
        stop.set()
        for thread in threads:
            thread.join(10)
        link.close()
        return {
            "polls_a_second": round(total / seconds, 1),
            "cpu_ms_a_poll": {n: round(1000 * (after[n] - before[n]) / max(total, 1), 2) for n in processes},
            "resident_mb": {n: round(p.memory_info().rss / 2**20, 1) for n, p in processes.items()},
        }
    finally:
        stop.set()
        store.close()
        for child in reversed(children):
            child.stop()


def _cpu(processes: dict[str, psutil.Process]) -> dict[str, float]:
    return {name: sum(p.cpu_times()[:2]) for name, p in processes.items()}


def main() -> None:
    """Both link states."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pollers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "polling.json")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for link_state in ("disk", "memory"):
        with tempfile.TemporaryDirectory() as folder:
            found[link_state] = polled(Path(folder), link_state, options)
        print(link_state, json.dumps(found[link_state]), flush=True)
    head = {
        "pollers": options.pollers,
        "seconds": options.seconds,
        "cores": psutil.cpu_count(),
        "python": platform.python_version(),
        "load_at_the_end": [round(x, 1) for x in os.getloadavg()],
    }
    options.out.write_text(json.dumps({**head, "link_state": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
