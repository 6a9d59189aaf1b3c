"""What this client was asked to take part in: one file a recipe in its home, for the owner to read and decide on."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from client.errors import ClientError
from motet.durable import write_whole

if TYPE_CHECKING:
    from pathlib import Path

_SHA256 = re.compile(r"[0-9a-f]{64}")
MOST_KEPT = 500  # recipes; a coordinator can not fill the owner's disk with questions
MOST_RUNS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One recipe that a coordinator asked for.

    Attributes:
      recipe_sha256: its hash.
      recipe_json: the whole recipe; the hash is of these bytes.
      client_id: as whom.
      run_ids: the newest runs that wanted it, newest last.
      first_ms, last_ms: when, milliseconds since 1970 (UTC).
      answer: what was answered last: approved, pending, refused or closed.
      message: why, with the clause; empty for approved.
    """

    recipe_sha256: str
    recipe_json: str
    client_id: str
    run_ids: tuple[str, ...]
    first_ms: int
    last_ms: int
    answer: str
    message: str


class AskedRecipes:
    """The files ``asked/SHA256.json`` of one home.

    Args:
      home: of the client; the folder is made at the first question.
    """

    def __init__(self, home: Path) -> None:
        self._folder = home / "asked"

    def note(
        self,
        *,
        recipe_sha256: str,
        recipe_json: str,
        client_id: str,
        run_id: str,
        at_ms: int,
        answer: str,
        message: str,
    ) -> None:
        """Remember a question and its answer; a recipe more than ``MOST_KEPT`` takes the place of the oldest.

        Raises:
          ClientError: the disk does not take it.
        """
        known = self.find(recipe_sha256)
        runs = tuple(r for r in (known.run_ids if known else ()) if r != run_id)
        asked = Asked(
            recipe_sha256=recipe_sha256,
            recipe_json=recipe_json,
            client_id=client_id,
            run_ids=(*runs, run_id)[-MOST_RUNS:],
            first_ms=known.first_ms if known else at_ms,
            last_ms=at_ms,
            answer=answer,
            message=message,
        )
        if known == replace(asked, last_ms=known.last_ms if known else 0) and at_ms - known.last_ms < 60_000:
            return  # nothing new to say, and the disk is not worn by a run that waits
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if known is None:
                self._make_room()
            write_whole(self._folder / f"{recipe_sha256}.json", json.dumps(asdict(asked)).encode())
        except OSError as e:
            raise ClientError(f"what was asked can not be stored: {e.strerror}") from e

    def find(self, recipe_sha256: str) -> Asked | None:
        """One recipe; None where nobody asked for it, or its file is damaged."""
        path = self._folder / f"{recipe_sha256}.json"
        if not _SHA256.fullmatch(recipe_sha256) or not path.is_file():
            return None
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            return Asked(**{**fields, "run_ids": tuple(fields["run_ids"])})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def all(self) -> list[Asked]:
        """Every recipe, asked for longest ago first."""
        found = [self.find(p.stem) for p in self._folder.glob("*.json")] if self._folder.is_dir() else []
        return sorted((a for a in found if a is not None), key=lambda a: (a.last_ms, a.recipe_sha256))

    def _make_room(self) -> None:
        files = sorted(self._folder.glob("*.json"), key=lambda p: p.stat().st_mtime_ns)
        for path in files[: max(0, len(files) - MOST_KEPT + 1)]:
            path.unlink(missing_ok=True)
