"""What the lines of ``methods.py`` say: means, spread over seeds, paired differences, a table and a picture."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Line = dict[str, Any]
BESIDE = ("head alone (none)", "fedit (equal)")
"""What each row is compared with, seed by seed: split, start and held-out examples are the same."""

_T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}


def read_lines(path: Path) -> list[Line]:
    """Finished cells; the later of two lines for one cell counts. A line cut off by a crash is passed over."""
    found: dict[tuple[Any, ...], Line] = {}
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            found[line["task"], line["method"], line["ranks"], line["seed"]] = line
    return list(found.values())


def summary(lines: Sequence[Line]) -> dict[str, Any]:
    """``tasks``: name -> rows; a row has its values by seed, mean, what it costs, and ``beside`` (``paired``)."""
    tasks: dict[str, dict[str, dict[int, Line]]] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        tasks[line["task"]][f"{line['method']} ({line['ranks']})"][line["seed"]] = line
    result: dict[str, Any] = {}
    for task, rows in tasks.items():
        measure = "accuracy" if any("accuracy" in line for line in lines if line["task"] == task) else "loss"
        result[task] = {"measure": measure, "rows": {}}
        for name, by_seed in rows.items():
            values = {seed: line[measure] for seed, line in sorted(by_seed.items())}
            row: dict[str, Any] = {
                "by_seed": values,
                "mean": round(statistics.mean(values.values()), 4),
                "spread": round(max(values.values()) - min(values.values()), 4),
                "bytes_up": round(statistics.mean(line["bytes_up"] for line in by_seed.values())),
                "bytes_down": round(statistics.mean(line["bytes_down"] for line in by_seed.values())),
                "cpu_s": round(statistics.median(line["cpu_s"] for line in by_seed.values()), 1),
                "aggregation_error": round(
                    statistics.mean(line["aggregation_error"] for line in by_seed.values()), 4
                ),
            }
            sign = 1 if measure == "accuracy" else -1
            row["beside"] = {
                other: paired({s: sign * (by_seed[s][measure] - rows[other][s][measure]) for s in both})
                for other in BESIDE
                if other != name and (both := sorted(set(by_seed) & set(rows.get(other, {}))))
            }
            result[task]["rows"][name] = row
    return {"tasks": result}


def paired(gains: Mapping[int, float]) -> dict[str, Any]:
    """Mean gain over seeds (positive is better), half its 95 % interval (Student's t), and whether it excludes zero.

    With one seed there is no interval, and nothing is separated.
    """
    values = list(gains.values())
    half = math.inf
    if len(values) > 1:
        half = _T_95.get(len(values) - 1, 2.6) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.mean(values)
    return {
        "gain": round(mean, 4),
        "half_interval": None if math.isinf(half) else round(half, 4),
        "same_sign": all(v > 0 for v in values) or all(v < 0 for v in values),
        "separates": abs(mean) > half,
        "seeds": len(values),
    }


def table(result: Mapping[str, Any]) -> str:
    """Markdown, one part a task, the best row first; rows that lack seeds come last, without a mean."""
    parts = []
    for task, found in result["tasks"].items():
        better = -1 if found["measure"] == "accuracy" else 1
        parts += [
            f"\n**{task}** ({found['measure']})\n",
            "| method (ranks) | mean | by seed | beside head alone | beside fedit | kB up | kB down | error | CPU-s |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        most = _most_seeds(found)
        for name, row in sorted(
            found["rows"].items(), key=lambda item: (len(item[1]["by_seed"]) < most, better * item[1]["mean"])
        ):
            mean = _number(row["mean"], found["measure"]) if len(row["by_seed"]) == most else "-"
            seeds = " ".join(_number(v, found["measure"]) for v in row["by_seed"].values())
            beside = " | ".join(_gain(row["beside"].get(other), found["measure"]) for other in BESIDE)
            parts.append(
                f"| {name} | {mean} | {seeds} | {beside} | "
                f"{row['bytes_up'] / 1e3:,.0f} | {row['bytes_down'] / 1e3:,.0f} | "
                f"{row['aggregation_error']:.3f} | {row['cpu_s']:.0f} |"
            )
    return "\n".join(parts)


def short_table(result: Mapping[str, Any]) -> str:
    """Markdown, one row a method: each task's mean over the seeds, and what goes up and down on the first task.

    Bold: apart from FedIT, for better or for worse, by at least what is printed. A cell without all its seeds is empty.
    """
    tasks = result["tasks"]
    names = sorted({name for found in tasks.values() for name in found["rows"]})
    heads = [f"{task}, {'%' if found['measure'] == 'accuracy' else 'loss'}" for task, found in tasks.items()]
    parts = [f"| method (ranks) | {' | '.join(heads)} | kB up | kB down |", "|---" * (len(heads) + 3) + "|"]
    for name in names:
        cells = [_short(found, name) for found in tasks.values()]
        sizes = next(iter(tasks.values()))["rows"].get(name)
        bytes_both = (
            ["", ""] if sizes is None else [f"{sizes[k] / 1e3:,.0f}" for k in ("bytes_up", "bytes_down")]
        )
        parts.append(f"| {name} | {' | '.join([*cells, *bytes_both])} |")
    return "\n".join(parts)


def _short(found: Mapping[str, Any], name: str) -> str:
    row = found["rows"].get(name)
    if row is None or len(row["by_seed"]) < _most_seeds(found):
        return ""
    text = _number(row["mean"], found["measure"])
    beside = row["beside"].get(BESIDE[1])
    is_apart = beside is not None and beside["separates"]
    return (
        f"**{text}**"
        if is_apart and text != _number(found["rows"][BESIDE[1]]["mean"], found["measure"])
        else text
    )


def _most_seeds(found: Mapping[str, Any]) -> int:
    """Means over different seeds can not be compared: seeds differ more than methods do."""
    return max(len(row["by_seed"]) for row in found["rows"].values())


def _number(value: float, measure: str) -> str:
    return f"{100 * value:.1f}" if measure == "accuracy" else f"{value:.3f}"


def _gain(pair: Mapping[str, Any] | None, measure: str) -> str:
    if pair is None:
        return "-"
    factor, places = (100, 1) if measure == "accuracy" else (1, 3)
    half = "" if pair["half_interval"] is None else f" ± {factor * pair['half_interval']:.{places}f}"
    text = f"{factor * pair['gain']:+.{places}f}{half}"
    return f"**{text}**" if pair["separates"] else text


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Two panels a task: every seed's value, and bytes a client and round, both ways.

    Rows that lack seeds are not drawn.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    tasks = result["tasks"]
    if not tasks:
        return
    figure, axes = plt.subplots(
        2, len(tasks), figsize=(4.6 * len(tasks), 11.5), squeeze=False, height_ratios=(2, 1.4)
    )
    for column, (task, found) in enumerate(tasks.items()):
        percent = 100 if found["measure"] == "accuracy" else 1
        whole = {n: row for n, row in found["rows"].items() if len(row["by_seed"]) == _most_seeds(found)}
        ordered = sorted(whole.items(), key=lambda item: item[1]["mean"])
        if found["measure"] == "loss":
            ordered.reverse()
        top, low = axes[0][column], axes[1][column]
        for place, (name, row) in enumerate(ordered):
            colour = "black" if "head" in name else "tab:orange" if "mixed" in name else "tab:blue"
            values = [percent * v for v in row["by_seed"].values()]
            top.plot(values, [place] * len(values), ".", color=colour, alpha=0.6)
            top.plot(percent * row["mean"], place, "|", color=colour, markersize=12, markeredgewidth=2)
            up, down, value = row["bytes_up"] / 1e3, row["bytes_down"] / 1e3, percent * row["mean"]
            low.plot([up, down], [value, value], "-", color=colour, alpha=0.4)
            low.plot(up, value, "^", color=colour, markersize=5)
            low.plot(down, value, "v", color=colour, markersize=5)
        top.set_yticks(range(len(ordered)), [name for name, _ in ordered], fontsize=7)
        label = "accuracy, %" if percent == 100 else "loss, nats a token (left is better)"
        top.set(title=task, xlabel=label)
        top.grid(axis="x", alpha=0.3)
        low.set(xscale="log", xlabel="kB a client and round (up ^, down v)", ylabel=label.split(" (")[0])
        low.grid(alpha=0.3)
    figure.suptitle(
        "dots: seeds; bars: means; blue equal ranks, orange mixed, black the head alone", fontsize=10
    )
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)
