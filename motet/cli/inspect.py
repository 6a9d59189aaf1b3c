"""``motet inspect``: what did the federation learn?"""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from motet.cli.completing import run_ids
from motet.cli.reach import Coordinator, Home, WhoAmI, reached

if TYPE_CHECKING:
    from collections.abc import Sequence

_TEXTS_SHOWN = 12
_TOKENS_SHOWN = 12


def inspect_command(
    run_id: Annotated[
        str, typer.Argument(help="The run; see `motet run list`.", metavar="RUN", autocompletion=run_ids)
    ],
    home: Home = None,
    coordinator: Coordinator = None,
    identity: WhoAmI = None,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", help="Beginning of texts; may be given several times.")
    ] = None,
    texts: Annotated[
        Path | None, typer.Option("--texts", help="For classifiers: a file of public texts, one a line.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, max=256, help="Texts for each beginning.")] = 4,
    tokens: Annotated[int, typer.Option("--tokens", min=1, max=512, help="New tokens of each text.")] = 24,
    strength: Annotated[
        float, typer.Option("--strength", min=0.0, max=10.0, help="How much the difference is amplified.")
    ] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the draws.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what the adapter of RUN makes likelier than the base model does. A look, not a proof.

    Language models: texts drawn by the amplified difference of adapted and base model. Classifiers: how labels fall on
    public texts, before and after. Takes the base model twice in memory.

    Of a simulation: --home OUT/runs/federated.

    Example: motet inspect r-3f9a1c --home fed
    """
    from motet.cli.progress import StepProgress
    from motet.inspecting import BEGINNINGS, PUBLIC_TEXTS, inspect_run

    public = PUBLIC_TEXTS if texts is None else _lines(texts)
    with reached(home, coordinator, identity) as connection, StepProgress() as progress:
        found = inspect_run(
            connection,
            run_id,
            beginnings=prompt or BEGINNINGS,
            texts=public,
            samples=samples,
            new_tokens=tokens,
            strength=strength,
            seed=seed,
            on_step=progress.on_step,
        )
    if as_json:
        print(json.dumps(found))
        return
    print_look(found, Console())


def _lines(path: Path) -> Sequence[str]:
    from motet.data import DataError

    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError as e:
        raise DataError(f"{path}: no such file", hint="give --texts a text file, one text a line") from e
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{path}: can not be read as UTF-8 text") from e
    if not lines:
        raise DataError(f"{path}: holds no text", hint="one text a line")
    return lines


def print_look(found: dict[str, Any], console: Console) -> None:
    """The look for people."""
    epsilon = (
        "without privacy"
        if found["unit"] is None
        else f"epsilon {found['epsilon']:.2f}, unit {found['unit']}"
    )
    console.print(
        f"run {found['run_id']}, {found['rounds']} rounds, {epsilon}", highlight=False, markup=False
    )
    (_print_texts if found["task"] == "causal-lm" else _print_labels)(found, console)
    console.print(f"This is {found['look']}.", highlight=False)


def _print_texts(found: dict[str, Any], console: Console) -> None:
    table = Table("gain", "text", title="what the adapter makes likelier", title_justify="left")
    for text in found["texts"][:_TEXTS_SHOWN]:
        table.add_row(f"{text['gain']:+.2f}", _plain(text["text"]))
    console.print(table, highlight=False, markup=False)
    named = ", ".join(repr(t["token"]) for t in found["tokens"][:_TOKENS_SHOWN])
    console.print(
        f"gain: nats a token over the base. After the beginnings the models are {found['distance']:.3f} nats apart"
        + (f", most by {named}" if named else ""),
        highlight=False,
        markup=False,
    )


def _print_labels(found: dict[str, Any], console: Console) -> None:
    table = Table("label", "texts before", "after", "probability before", "after", title_justify="left")
    table.title = f"labels of {found['num_texts']} public texts"
    for row in found["labels"]:
        table.add_row(
            str(row["label"]),
            f"{100 * row['share_before']:.0f} %",
            f"{100 * row['share_after']:.0f} %",
            f"{row['probability_before']:.3f}",
            f"{row['probability_after']:.3f}",
        )
    console.print(table, highlight=False)
    moved = Table("shift", "label", "text", title="what moved most", title_justify="left")
    for row in found["moved"][:_TEXTS_SHOWN]:
        moved.add_row(f"{row['shift']:.2f}", f"{row['before']} to {row['after']}", _plain(row["text"]))
    console.print(moved, highlight=False, markup=False)
    console.print("before: the base model with a head that has learned nothing", highlight=False)


def _plain(text: str) -> Text:
    """One line without control characters: what a model writes must not steer a terminal, nor be taken for markup."""
    return Text("".join(c if c.isprintable() else " " for c in text))
