"""What a check of a recipe finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from motet.recipe.yaml_text import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is wrong at ``path``, and the nearest sound choice."""

    path: Path
    problem: str
    remedy: str
