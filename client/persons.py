"""Whose examples are whose."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from motet.data import Example


def by_person(examples: Sequence[Example]) -> list[list[int]]:
    """Indices of the examples of each person, persons in order of their first example; nobody's are left out."""
    found: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        if example.person:
            found.setdefault(example.person, []).append(index)
    return list(found.values())
