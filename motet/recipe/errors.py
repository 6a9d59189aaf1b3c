"""What can be wrong with a recipe: all problems at once, each with its place and its remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from motet.errors import MotetError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong.

    Attributes:
      source: file name, or a word for where the text came from.
      line: from 1; None when the text has no lines of its own (canonical JSON).
      field: dotted path, e.g. ``adapter.lora_rank``; empty for the whole file.
      problem: what is wrong, without the final dot.
      remedy: what to do, without the final dot.
    """

    source: str
    line: int | None
    field: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        """The line that people read: ``file:line: field: problem. Remedy.``."""
        where = self.source if self.line is None else f"{self.source}:{self.line}"
        field = f" {self.field}:" if self.field else ""
        remedy = self.remedy[:1].upper() + self.remedy[1:]
        return f"{where}:{field} {self.problem}. {remedy}{'' if remedy.endswith(('?', '.')) else '.'}"


class RecipeError(MotetError):
    """A recipe is refused; nothing was started. ``problems`` holds all that was found, in file order."""

    exit_code = 3

    def __init__(
        self, problems: Sequence[Problem], *, hint: str = "every key is described in docs/recipe.md"
    ) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.line or 0, p.field)))
        super().__init__("\n".join(str(p) for p in self.problems), hint=hint)
