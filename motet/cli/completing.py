"""What a shell offers when somebody presses Tab. It must answer at once: no torch, no network, no waiting."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import typer  # noqa: TC002 - typer reads the annotations

if TYPE_CHECKING:
    from collections.abc import Iterable

METHODS = (
    "fedit", "flora", "fed-sb", "lora-fair", "zero-pad", "rank-index", "product", "flexlora", "florist", "fedex",
    "ffa", "rolora", "fedsa", "hetlora", "dp-lora",
)  # fmt: skip
"""As in ``aggregation.table``, which needs torch; a test holds both equal."""
Offer = tuple[str, str]


def run_ids(context: typer.Context, incomplete: str) -> list[Offer]:
    """Runs of the home that was typed, or of the usual one; none of a coordinator elsewhere."""
    from coordinator.storage.names import run_names

    return _of_home(context, run_names, incomplete)


def client_ids(context: typer.Context, incomplete: str) -> list[Offer]:
    """Registered clients of the home that was typed, or of the usual one."""
    from coordinator.storage.names import client_names

    return _of_home(context, client_names, incomplete)


def methods(incomplete: str) -> list[str]:
    """Names of aggregation methods."""
    return _beginning(METHODS, incomplete)


def materials(incomplete: str) -> list[str]:
    """Names of materials."""
    from motet.materials.sources import MATERIALS

    return _beginning(MATERIALS, incomplete)


def recipes(incomplete: str) -> list[str]:
    """YAML files that begin so; where there are none the shell offers what it would."""
    folder = Path(incomplete).parent if not incomplete.endswith("/") else Path(incomplete)
    begin = incomplete[: incomplete.rfind("/") + 1]
    try:
        found = sorted(p.name for p in folder.expanduser().iterdir() if p.suffix in {".yaml", ".yml"})
    except OSError:
        return []
    return [begin + name for name in found if (begin + name).startswith(incomplete)]


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _of_home(context: typer.Context, names: Any, incomplete: str) -> list[Offer]:  # noqa: ANN401 - a reader
    if context.params.get("coordinator") or context.params.get("identity"):
        return []
    home = Path(context.params.get("home") or "coordinator-home")
    return [(name, what) for name, what in names(home) if name.startswith(incomplete)]


def words_so_far() -> list[str]:
    """What was typed after ``motet``, as the shell tells it; at least one word."""
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS", "")
    return line.split()[1:] or ["--help"]


def leave_paths_to_the_shell(command: click.Command) -> None:
    """Offer nothing for paths: every shell then completes files itself, with folders, spaces and the home sign."""
    for parameter in command.params:
        if (
            isinstance(parameter.type, click.Path)
            and getattr(parameter, "_custom_shell_complete", None) is None
        ):
            parameter._custom_shell_complete = lambda _context, _parameter, _incomplete: []  # noqa: SLF001 - no other way in
    for below in getattr(command, "commands", {}).values():
        leave_paths_to_the_shell(below)
