"""Pictures: reading a folder of them, and turning one file's bytes into pixels of the model's size."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from motet.data.errors import DataError
from motet.data.examples import Example, image_source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

FORMATS = ("PNG", "JPEG", "PPM")
"""What is decoded; no other decoder is ever asked."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
MOST_PIXELS = 1 << 26
"""A larger picture is refused before it is decoded: 8192 x 8192."""


def decoded(data: bytes, where: str) -> Image.Image:
    """One picture in RGB, turned as its EXIF tag says; a 16-bit greyscale keeps its upper 8 bits.

    Args:
      data: a whole PNG, JPEG or PPM file.
      where: its name in messages.

    Raises:
      DataError: it is no picture, is cut short, or is too large.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise DataError(
                    f"{where}: {picture.width} x {picture.height} pixels are too many",
                    hint="make it smaller; the model reads task.image_size pixels a side",
                )
            upright = ImageOps.exif_transpose(picture)
            if upright.mode.startswith("I;16"):
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            elif upright.mode in ("I", "F"):
                raise DataError(
                    f"{where}: 32 bits a pixel can not be read", hint="save it with 8 bits a channel"
                )
            return upright.convert("RGB")
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as e:
        raise DataError(
            f"{where}: no readable PNG or JPEG ({e})", hint="replace the file, or take it out of the data"
        ) from e


def pixels(data: bytes, size: int, where: str = "an image") -> NDArray[np.uint8]:
    """The middle square of a picture, resized (bicubic).

    Args:
      data: as in ``decoded``.
      size: pixels a side of the result.
      where: its name in messages.

    Returns:
      (3, size, size), red, green, blue; uint8.

    Raises:
      DataError: as in ``decoded``.
    """
    square = ImageOps.fit(decoded(data, where), (size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square, dtype=np.uint8).transpose(2, 0, 1))


def greyscale_file(values: NDArray[np.uint8]) -> bytes:
    """A binary PGM file of (H, W) uint8 values: nothing is compressed, so making and reading it costs nothing."""
    height, width = values.shape
    return f"P5 {width} {height} 255\n".encode("ascii") + values.tobytes()


def read_image_folder(folder: Path, classes: Sequence[str]) -> list[Example]:
    """Pictures in class folders, ``<folder>/<class>/*.png`` (or .jpg, .jpeg); each is decoded once, as a check.

    Args:
      folder: holds nothing but class folders; a class may be absent. Names that begin with a dot are passed over.
      classes: names of the folders, in label order.

    Returns:
      Sorted by class folder and file name.

    Raises:
      DataError: no such folder, a folder that is no class, a file that is no picture, or no picture at all.
    """
    examples: list[Example] = []
    try:
        for part in _visible(folder):
            if part.name not in classes or not part.is_dir():
                raise DataError(
                    f"{part}: is no folder of one of the classes {', '.join(classes)}",
                    hint="name every class in data.classes of the recipe, in label order",
                )
            for path in _visible(part):
                if path.suffix.lower() not in SUFFIXES or not path.is_file():
                    raise DataError(f"{path}: is not a .png or .jpg file", hint="convert it, or take it out")
                data = path.read_bytes()
                decoded(data, str(path))
                label = classes.index(part.name)
                examples.append(Example(image=data, label=label, source=image_source(data)))
    except OSError as error:
        raise DataError(f"{folder}: can not be read: {error.strerror or error}") from error
    if not examples:
        raise DataError(
            f"{folder}: holds no picture", hint="one folder a class, with .png or .jpg files in it"
        )
    return examples


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
