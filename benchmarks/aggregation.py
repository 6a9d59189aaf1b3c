"""What aggregation costs a coordinator: factor space beside the dense route and beside the published iteration.

One layer, random factors (times do not depend on their values), one thread. Four parts, one run:

1. The exact product, 2048 x 2048, 10 clients of rank 16: our decomposition from QR of the factors (float64) against the
   dense route of public code (sum the products, ``torch.linalg.svd``, float32). Then a whole round of each, with the
   split into a pair and a remainder and the measured error; and that again with the dense route in float64 too.
2. LoRA-FAIR on the same layer: our closed form against the published iteration (SGD on a dense cosine loss, rate
   0.01, 1000 steps). A few of the steps are timed, one after the other with ours, and multiplied by 1000. On a
   256 x 256 layer all 1000 are run, and how near each comes is compared.
3. Coordinator memory for 10, 100 and 1000 clients (1024 x 1024, rank 16): resident peak of a fresh process
   above what it held before the round. Updates are made as they are asked for.
4. Seconds a round against clients, rank and width.

Run: python benchmarks/aggregation.py. Writes benchmarks/results/aggregation.json and aggregation.png.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from aggregation.adapter import AdapterState, ClientUpdate, FactorPair, HalfPair  # noqa: E402
from aggregation.kernels import factor_svd, relative_error, stack  # noqa: E402
from aggregation.methods import METHODS, FedIT, LoraFair  # noqa: E402
from aggregation.methods.lora_fair import ridge_solution  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RESULTS = ROOT / "benchmarks" / "results"
PUBLISHED_STEPS = 1000
MEMORY_METHODS = ("fed-sb", "ffa", "fedit", "product")
SWEPT = ("fedit", "lora-fair", "flora", "fedex", "flexlora", "product")
DENSE_FLOATS = 1024 * 1024


def pair_of(client: int, rank: int, rows: int, columns: int) -> FactorPair:
    g = torch.Generator().manual_seed(client)
    return FactorPair(B=torch.randn(rows, rank, generator=g), A=torch.randn(rank, columns, generator=g))


def updates_of(count: int, rank: int, side: int) -> list[ClientUpdate]:
    return [
        ClientUpdate(
            client_id=f"c{k:04d}", weight=1.0, state=AdapterState(lora={"x": pair_of(k, rank, side, side)})
        )
        for k in range(count)
    ]


def seconds(work: Callable[[], object], repetitions: int) -> list[float]:
    taken = []
    for _ in range(repetitions):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return taken


def interleaved(
    ours: Callable[[], object], theirs: Callable[[], object], rounds: int, ours_each: int
) -> dict[str, float]:
    """Medians of CPU time, the two taken in turns so that a busy machine disturbs both."""
    ours()
    own, other = [], []
    for _ in range(rounds):
        own += seconds(ours, ours_each)
        other += seconds(theirs, 1)
    return {"ours_s": statistics.median(own), "theirs_s": statistics.median(other)}


# -- 1 the exact product ---------------------------------------------------------------------------------------------


def exact_product(side: int, count: int, rank: int) -> dict[str, object]:
    updates = updates_of(count, rank, side)
    pairs, shares = [u.state.lora["x"] for u in updates], [1 / count] * count
    method = METHODS["product"]

    def dense_sum() -> torch.Tensor:
        total = torch.zeros(side, side)
        for pair, share in zip(pairs, shares, strict=True):
            total += share * (pair.B @ pair.A)
        return total

    def dense_round(dtype: torch.dtype = torch.float32) -> float:
        total = dense_sum().to(dtype)
        u, s, vh = torch.linalg.svd(total, full_matrices=False)
        root = s[:rank].sqrt()
        kept = (u[:, :rank] * root) @ (root[:, None] * vh[:rank])
        remainder = total - kept
        return float((kept + remainder - total).norm() / total.norm())

    decomposition = interleaved(
        lambda: factor_svd(stack(pairs, shares, dtype=torch.float64)),
        lambda: torch.linalg.svd(dense_sum(), full_matrices=False),
        rounds=3,
        ours_each=5,
    )
    whole = interleaved(lambda: method.reduce(AdapterState(), updates), dense_round, rounds=3, ours_each=5)
    alike = {**whole, "theirs_s": seconds(lambda: dense_round(torch.float64), 1)[0]}
    ours = factor_svd(stack(pairs, shares, dtype=torch.float64))[1]
    theirs = torch.linalg.svdvals(dense_sum())[: len(ours)].double()
    return {
        "layer": [side, side],
        "clients": count,
        "rank": rank,
        "decomposition": with_ratio(decomposition),
        "whole_round": with_ratio(whole),
        "whole_round_both_float64": with_ratio(alike),
        "singular_values_differ_by": float((ours - theirs).abs().max() / ours[0]),
        "relative_error_of_our_round": method.reduce(AdapterState(), updates).relative_error,
    }


def with_ratio(times: dict[str, float]) -> dict[str, float]:
    return {
        "ours_ms": round(1e3 * times["ours_s"], 2),
        "theirs_ms": round(1e3 * times["theirs_s"], 1),
        "ratio": round(times["theirs_s"] / times["ours_s"], 1),
    }


# -- 2 LoRA-FAIR -----------------------------------------------------------------------------------------------------


class PublishedIteration:
    """SGD on ``1 - mean_j cos(DW_j, (B' A)_j) + lambda ||B' - B||^2``, DW and B' A dense, as public code has it."""

    def __init__(self, mean: FactorPair, goal: torch.Tensor, weight: float, rate: float = 0.01) -> None:
        self.mean, self.goal, self.weight = mean, goal, weight
        self.delta = torch.zeros_like(mean.B).requires_grad_(True)
        self.optimiser = torch.optim.SGD([self.delta], lr=rate)

    def step(self) -> None:
        """One of the 1000."""
        self.optimiser.zero_grad()
        product = (self.mean.B + self.delta) @ self.mean.A
        cosine = torch.nn.functional.cosine_similarity(self.goal, product, dim=0).mean()
        (1 - cosine + self.weight * self.delta.square().sum()).backward()
        self.optimiser.step()

    def found(self) -> FactorPair:
        """Where it stands."""
        return FactorPair(B=(self.mean.B + self.delta).detach(), A=self.mean.A)


def lora_fair(side: int, count: int, rank: int) -> dict[str, object]:
    updates = updates_of(count, rank, side)
    pairs, shares = [u.state.lora["x"] for u in updates], [1 / count] * count
    exact = stack(pairs, shares, dtype=torch.float64)
    mean = FedIT().reduce(AdapterState(), updates).state.lora["x"]
    iteration = PublishedIteration(mean, (exact.B @ exact.A).float(), 0.01)
    closed = interleaved(lambda: ridge_solution(mean, exact, 0.16), iteration.step, rounds=8, ours_each=3)
    whole = seconds(lambda: LoraFair().reduce(AdapterState(), updates), 7)
    step_s, closed_s, whole_s = closed["theirs_s"], closed["ours_s"], statistics.median(whole)
    return {
        "layer": [side, side],
        "clients": count,
        "rank": rank,
        "closed_form_ms": round(1e3 * closed_s, 2),
        "whole_round_ms": round(1e3 * whole_s, 2),
        "published_step_ms": round(1e3 * step_s, 1),
        "published_steps": PUBLISHED_STEPS,
        "steps_timed": 8,
        "ratio_closed_form": round(PUBLISHED_STEPS * step_s / closed_s),
        "ratio_whole_round": round(PUBLISHED_STEPS * step_s / whole_s),
    }


def lora_fair_in_full(side: int = 256, count: int = 10, rank: int = 8) -> dict[str, object]:
    """All 1000 steps on a small layer; clients that share a start, so that means say something."""
    g = torch.Generator().manual_seed(0)
    b, a = torch.randn(side, rank, generator=g), torch.randn(rank, side, generator=g) / math.sqrt(side)
    pairs = [
        FactorPair(
            B=b + 0.5 * torch.randn(b.shape, generator=g),
            A=a + 0.5 * torch.randn(a.shape, generator=g) / math.sqrt(side),
        )
        for _ in range(count)
    ]
    updates = [
        ClientUpdate(client_id=f"c{k:04d}", weight=1.0, state=AdapterState(lora={"x": p}))
        for k, p in enumerate(pairs)
    ]
    exact = stack(pairs, [1 / count] * count, dtype=torch.float64)
    mean = FedIT().reduce(AdapterState(), updates)
    iteration = PublishedIteration(mean.state.lora["x"], (exact.B @ exact.A).float(), 0.01)
    started = time.process_time()
    for _ in range(PUBLISHED_STEPS):
        iteration.step()
    theirs_s = time.process_time() - started
    ours = {
        kind: LoraFair(objective=kind).reduce(AdapterState(), updates).relative_error
        for kind in ("ridge", "cosine_global", "cosine_columns")
    }
    ours_s = statistics.median(seconds(lambda: LoraFair().reduce(AdapterState(), updates), 9))
    return {
        "layer": [side, side],
        "clients": count,
        "rank": rank,
        "ours_ms": round(1e3 * ours_s, 2),
        "theirs_ms": round(1e3 * theirs_s, 1),
        "ratio": round(theirs_s / ours_s, 1),
        "relative_error": {
            "fedit": mean.relative_error,
            "published_iteration": relative_error([iteration.found()], [exact]),
            **ours,
        },
    }


# -- 3 memory --------------------------------------------------------------------------------------------------------


def arriving(name: str, count: int, rank: int, side: int) -> Iterator[ClientUpdate]:
    """Updates made one at a time, as they would be read from a disk."""
    for k in range(count):
        pair = pair_of(k, rank, side, side)
        if name == "fed-sb":
            state = AdapterState(cores={"x": pair.B[:rank].clone()})
        elif name == "ffa":
            state = AdapterState(halves={"x": HalfPair(side="B", value=pair.B)})
        else:
            state = AdapterState(lora={"x": pair})
        yield ClientUpdate(client_id=f"c{k:04d}", weight=1.0, state=state)


def peak_bytes(name: str, count: int, rank: int = 16, side: int = 1024) -> None:
    """Print the resident peak of one round above what was held before; runs in a process of its own."""
    torch.set_num_threads(1)
    method = METHODS[name]
    state = method.initial_state({"x": (side, side)}, lora_rank=rank, scale=1.0, dense={}, seed=0)
    method.reduce(state, arriving(name, 2, rank, side))  # libraries load what they need
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts at what is held now
    before = resident("VmRSS")
    started = time.process_time()
    method.reduce(state, arriving(name, count, rank, side))
    taken = time.process_time() - started
    print(json.dumps([resident("VmHWM") - before, taken]))


def resident(which: str) -> int:
    """Bytes of this process, now (VmRSS) or at most (VmHWM); Linux."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(which))


def memory(rank: int = 16, side: int = 1024) -> dict[str, object]:
    found: dict[str, object] = {
        "layer": [side, side],
        "rank": rank,
        "unit": "MB above what the process held before",
    }
    for name in MEMORY_METHODS:
        peaks = {}
        for count in (10, 100, 1000):
            command = [sys.executable, __file__, "--peak", name, str(count)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            peak, taken = json.loads(out)
            peaks[str(count)] = {"peak_mb": round(peak / 1e6, 1), "seconds": round(taken, 2)}
        found[name] = peaks
        print("memory", name, peaks)
    found["all_factors_mb"] = {str(k): round(k * rank * 2 * side * 4 / 1e6, 1) for k in (10, 100, 1000)}
    found["all_products_mb"] = {str(k): round(k * side * side * 4 / 1e6, 1) for k in (10, 100, 1000)}
    return found


# -- 4 sweeps --------------------------------------------------------------------------------------------------------


def sweeps() -> dict[str, object]:
    plans = {
        "clients": [(k, 16, 1024) for k in (2, 5, 10, 20, 40)],
        "rank": [(10, r, 1024) for r in (2, 4, 8, 16, 32, 64)],
        "width": [(10, 16, d) for d in (256, 512, 1024, 2048, 4096)],
    }
    found: dict[str, object] = {"fixed": {"clients": 10, "rank": 16, "width": 1024}}
    for axis, points in plans.items():
        rows: dict[str, list[float]] = {name: [] for name in SWEPT}
        for count, rank, side in points:
            updates = updates_of(count, rank, side)
            for name in SWEPT:
                method = METHODS[name]
                taken = seconds(
                    lambda m=method, u=updates: m.reduce(AdapterState(), u), 2 if side > 2048 else 3
                )
                rows[name].append(round(1e3 * min(taken), 2))
        places = {"clients": 0, "rank": 1, "width": 2}
        found[axis] = {"at": [point[places[axis]] for point in points], "ms": rows}
        print("sweep", axis, rows)
    return found


def draw(result: dict) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10, 7.2))
    product, fair = result["exact_product"], result["lora_fair"]
    bars = [
        (
            "exact product:\ndecomposition",
            product["decomposition"]["ours_ms"],
            product["decomposition"]["theirs_ms"],
        ),
        (
            "exact product:\nwhole round",
            product["whole_round"]["ours_ms"],
            product["whole_round"]["theirs_ms"],
        ),
        (
            "the same,\nboth float64",
            product["whole_round_both_float64"]["ours_ms"],
            product["whole_round_both_float64"]["theirs_ms"],
        ),
        ("LoRA-FAIR:\nwhole round", fair["whole_round_ms"], PUBLISHED_STEPS * fair["published_step_ms"]),
    ]
    top = axes[0][0]
    for place, (_, ours, theirs) in enumerate(bars):
        top.bar(place - 0.2, ours, 0.38, color="tab:blue", label="factor space" if not place else None)
        top.bar(
            place + 0.2, theirs, 0.38, color="tab:gray", label="dense or iterative" if not place else None
        )
        top.text(place, max(ours, theirs) * 1.3, f"{theirs / ours:,.0f}x", ha="center")
    top.set_xticks(range(len(bars)), [name for name, _, _ in bars], fontsize=8)
    top.set(yscale="log", ylabel="ms, CPU time", title="2048 x 2048, 10 clients of rank 16")
    top.set_ylim(top=top.get_ylim()[1] * 3)
    top.legend(fontsize=8, loc="upper left")
    held = axes[0][1]
    counts = [10, 100, 1000]
    for name in MEMORY_METHODS:
        held.plot(
            counts,
            [max(result["memory"][name][str(k)]["peak_mb"], 0.1) for k in counts],
            marker="o",
            label=name,
        )
    held.plot(
        counts, [result["memory"]["all_factors_mb"][str(k)] for k in counts], "k--", label="all factors"
    )
    held.plot(
        counts, [result["memory"]["all_products_mb"][str(k)] for k in counts], "k:", label="all products"
    )
    held.set(
        xscale="log",
        yscale="log",
        xlabel="clients",
        ylabel="MB, peak of a round",
        title="1024 x 1024, rank 16",
    )
    held.set_ylim(top=1e5)
    held.legend(fontsize=8, ncols=3, loc="upper left")
    for axis, plot, label in (("clients", axes[1][0], "clients"), ("width", axes[1][1], "width m = n")):
        for name, times in result["cost"][axis]["ms"].items():
            plot.plot(result["cost"][axis]["at"], times, marker="o", label=name)
        plot.set(xscale="log", yscale="log", xlabel=label, ylabel="ms a round and layer")
        plot.set_xticks(result["cost"][axis]["at"], [str(at) for at in result["cost"][axis]["at"]])
        plot.minorticks_off()
        plot.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(RESULTS / "aggregation.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peak", nargs=2, metavar=("METHOD", "CLIENTS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        peak_bytes(arguments.peak[0], int(arguments.peak[1]))
        return
    torch.set_num_threads(1)
    started = time.perf_counter()
    result: dict[str, object] = {
        "what": "aggregation in factor space beside the dense route and the published iteration; CPU time, one thread",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    for name, part in (
        ("exact_product", lambda: exact_product(2048, 10, 16)),
        ("lora_fair", lambda: lora_fair(2048, 10, 16)),
        ("lora_fair_256_in_full", lora_fair_in_full),
    ):
        result[name] = part()
        print(name, json.dumps(result[name]))
    result["memory"] = memory()
    result["cost"] = sweeps()
    result["total_s"] = round(time.perf_counter() - started)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "aggregation.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    draw(result)


if __name__ == "__main__":
    main()
