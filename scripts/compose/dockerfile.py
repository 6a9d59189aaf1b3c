"""What a Dockerfile says of how its image is run: entrypoint, command, environment, user, folder."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from compose.errors import ComposeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """Of the last stage of a Dockerfile."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    working_dir: str = "/"


def image_facts(path: Path) -> ImageFacts:
    """Read them.

    Raises:
      ComposeError: an entrypoint or command that is a line for a shell.
    """
    found: dict[str, str] = {}
    environment: dict[str, str] = {}
    for word, rest in _instructions(path):
        if word == "FROM":
            found, environment = {}, {}
        elif word == "ENV":
            environment.update(re.findall(r"(\w+)=(\S*)", rest))
        elif word in {"ENTRYPOINT", "CMD", "USER", "WORKDIR"}:
            found[word] = rest
    return ImageFacts(
        entrypoint=_words(found.get("ENTRYPOINT", "[]"), path),
        command=_words(found.get("CMD", "[]"), path),
        environment=environment,
        user=found.get("USER", ""),
        working_dir=found.get("WORKDIR", "/"),
    )


def _instructions(path: Path) -> Iterator[tuple[str, str]]:
    lines = [
        line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")
    ]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word:
            yield word.upper(), rest.strip()


def _words(text: str, path: Path) -> tuple[str, ...]:
    try:
        words = json.loads(text)
    except ValueError as e:
        raise ComposeError(f"{path}: {text!r} is a line for a shell; write a JSON list") from e
    return tuple(str(word) for word in words)
