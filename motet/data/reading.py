"""What a recipe's task makes of a path: a file of texts, a file of pictures, or a folder of pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from motet.data.errors import DataError
from motet.data.examples import Example, read_examples
from motet.data.images import read_image_folder

if TYPE_CHECKING:
    from pathlib import Path

    from motet.recipe.model import Recipe


def read_data(recipe: Recipe, path: Path, *, with_persons: bool = True) -> list[Example]:
    """One owner's examples: JSONL or CSV; for image-classification also a folder of class folders.

    Args:
      recipe: task, columns and classes.
      path: the file or folder.
      with_persons: read whose each example is, where the recipe protects persons; held-out examples need not say.

    Raises:
      DataError: as in ``read_examples`` and ``read_image_folder``; or a folder whose classes the recipe does not name.
    """
    data, privacy = recipe.data, recipe.privacy
    person_column = privacy.unit_column if privacy is not None and with_persons else None
    if not path.is_dir():
        return read_examples(
            path,
            text_column=data.text_column,
            label_column=data.label_column,
            num_labels=recipe.task.num_labels,
            images=recipe.task.reads_images,
            person_column=person_column,
        )
    if not recipe.task.reads_images:
        raise DataError(f"{path}: is a folder, not a file of examples", hint="give a JSONL or CSV file")
    if data.classes is None:
        raise DataError(
            f"{path}: the recipe does not say which class folder has which label",
            hint="set data.classes in the recipe to the names of the folders, in label order",
        )
    if person_column is not None:
        raise DataError(
            f"{path}: files in class folders do not say whose they are",
            hint=f"give a JSONL file with columns image, label and {person_column}, or set privacy.unit: example",
        )
    return read_image_folder(path, data.classes)


def is_one_data_set(recipe: Recipe, folder: Path) -> bool:
    """Whether a folder holds the class folders of one data set, and not one file or folder for each client."""
    return any((folder / name).is_dir() for name in recipe.data.classes or ())
