"""The public examples that a recipe names for a basis: the same at everyone, or an error."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from motet.data.errors import DataError
from motet.data.partition import examples_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from motet.data.examples import Example
    from motet.recipe.model import Recipe

_TAG = 0x7075626C  # keeps this draw apart from others that use the recipe's seed


def public_examples(recipe: Recipe) -> Sequence[Example]:
    """``num_examples`` of ``method.public_data``, drawn without replacement by the seed, in drawn order.

    A file is compared with its ``sha256`` before a line of it is read, so that what an error tells of a file is told
    to one who knows its content.

    Raises:
      DataError: no such file, another content, fewer examples than asked, or not examples of the task.
      MaterialError: the material is not fetched.
      ValueError: the recipe names no public data.
    """
    asked = recipe.method.public_data
    if asked is None:
        raise ValueError("the recipe names no public data")
    path = None if asked.path is None else Path(asked.path).expanduser()
    if path is not None and asked.sha256 is not None:
        _check_content(path, asked.sha256)
    data = recipe.data.model_copy(update={"material": asked.material, "path": asked.path, "classes": None})
    examples = examples_of(recipe.model_copy(update={"data": data, "privacy": None}), path)
    if len(examples) < asked.num_examples:
        raise DataError(
            f"method.public_data: has {len(examples)} examples, num_examples asks for {asked.num_examples}",
            hint="lower method.public_data.num_examples",
        )
    order = np.random.default_rng([_TAG, recipe.seed % 2**63]).permutation(len(examples))
    return [examples[int(i)] for i in order[: asked.num_examples]]


def _check_content(path: Path, sha256: str) -> None:
    """One message for all that can be wrong, so that nobody learns which files a machine has."""
    found = ""
    try:
        if path.is_file():  # no device, no pipe
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        found = ""
    if found != sha256:
        raise DataError(
            f"method.public_data.path: {path} is not a file with the recipe's sha256 here",
            hint="put the same public file at that path on every machine, or the bases of clients would differ",
        )
