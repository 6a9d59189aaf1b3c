"""Exit codes of the ``motet`` command, one a kind of cause, so that scripts need not read messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitCode:
    """One row of docs/exit-codes.md.

    Attributes:
      code: of the process.
      name: short word.
      meaning: what happened.
      remedy: what to do next.
    """

    code: int
    name: str
    meaning: str
    remedy: str


EXIT_CODES: Sequence[ExitCode] = (
    ExitCode(code=0, name="ok", meaning="The command did what it says.", remedy="-"),
    ExitCode(
        code=1,
        name="internal",
        meaning="A mistake in Motet; what happened is in a file that the message names.",
        remedy="Report it with that file and the recipe.",
    ),
    ExitCode(
        code=2,
        name="usage",
        meaning="The command line is wrong, names something that does not exist, such as a run, or asks for what its "
        "state does not allow.",
        remedy="Read the message; every command has `--help`.",
    ),
    ExitCode(
        code=3,
        name="recipe",
        meaning="The recipe is refused; nothing was started.",
        remedy="Every problem is printed with its line and a remedy; keys are in [recipe.md](recipe.md).",
    ),
    ExitCode(
        code=4,
        name="data",
        meaning="A data file can not be used, or not be dealt to clients as asked.",
        remedy="The message names the file, the line and the column.",
    ),
    ExitCode(
        code=5,
        name="materials",
        meaning="Real weights or texts are missing, can not be downloaded, or are not what their hash says.",
        remedy="`motet materials fetch NAME` while online; `motet materials list` shows what is here.",
    ),
    ExitCode(
        code=6,
        name="budget or policy",
        meaning="A privacy budget or a data owner's policy does not allow it; no example was used.",
        remedy="Lower `target_epsilon`, take fewer steps, or ask the data owner. `motet plan` shows the "
        "cost first.",
    ),
    ExitCode(
        code=7,
        name="network",
        meaning="The coordinator or a client can not be reached, did not prove who it is, or may not do what it asks.",
        remedy="Check address, port and keys; an interrupted run continues when it is back.",
    ),
    ExitCode(
        code=8,
        name="storage",
        meaning="A database, a ledger or an artifact can not be read or written.",
        remedy="Check disk space and permissions of the folder that the message names.",
    ),
    ExitCode(
        code=9,
        name="run failed",
        meaning="The run ended without an adapter: too few replies, or training stood still or diverged.",
        remedy="`motet run show RUN` lists each client's reason.",
    ),
    ExitCode(
        code=10,
        name="model",
        meaning="The base model or an adapter folder can not be loaded, or has not the layers that are asked of it.",
        remedy="The message says what there is; see `base_model` and `adapter.targets`, or [merge.md](merge.md).",
    ),
    ExitCode(
        code=11,
        name="audit",
        meaning="An audit found something that does not hold: a signature, a row, an epsilon, a mechanism.",
        remedy="Every finding names its row; see [audit.md](audit.md). Ask the operator before the model is used.",
    ),
    ExitCode(
        code=12,
        name="unhealthy",
        meaning="`motet doctor` found something that does not work or is not safe.",
        remedy="Each finding names the command that mends it.",
    ),
    ExitCode(
        code=130, name="stopped", meaning="Stopped by Ctrl-C.", remedy="Start it again; a run continues."
    ),
)


def exit_codes_page() -> str:
    """The whole of docs/exit-codes.md, from the table."""
    rows = [f"| {row.code} | {row.name} | {row.meaning} | {row.remedy} |" for row in EXIT_CODES]
    head = [
        "# Exit codes",
        "<!-- Written by scripts/gen_exit_codes.py from motet/cli/exit_codes.py. -->",
        "Errors go to standard error as one message and what to do next; standard output stays clean for "
        "`--json`.",
        "",
        "| code | kind | what happened | what to do |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *rows, ""])
