"""Fashion-MNIST (Xiao et al. 2017): 28 x 28 pictures of garments, as published or seen through four cameras.

* ``fashion-mnist``: the pictures as they are; no groups.
* ``fashion-domains``: every picture belongs to one of four domains, by its place in the file: groups blurred,
  inverted, rotated (a quarter turn) and upright. These are transforms made here, not a natural shift; the
  labels are as even in one domain as in another.
"""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING

import numpy as np

from motet.data.errors import DataError
from motet.data.examples import HELD_OUT, Example
from motet.data.images import greyscale_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Pictures = NDArray[np.uint8]

FASHION = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle-boot",
)
"""Class names, in label order."""

_FOLDER = "usr/share/datasets/fashion-mnist"
_PARTS = (("t10k", HELD_OUT), ("train", ""))
_IMAGES, _LABELS = 0x00000803, 0x00000801


def read_fashion(folder: Path, *, domains: bool) -> Iterator[Example]:
    """All pictures, the publisher's test part first (its sources begin with ``HELD_OUT``).

    Raises:
      DataError: a file is missing or damaged.
    """
    for part, start in _PARTS:
        pictures = _idx(folder / _FOLDER / f"{part}-images-idx3-ubyte.gz", _IMAGES)
        labels = _idx(folder / _FOLDER / f"{part}-labels-idx1-ubyte.gz", _LABELS)
        if len(pictures) != len(labels):
            raise DataError(f"{folder}: {part} has {len(pictures)} pictures and {len(labels)} labels")
        seen = [transform(pictures) for transform in _DOMAINS.values()] if domains else [pictures]
        names = list(_DOMAINS) if domains else [""]
        for index, label in enumerate(labels):
            camera = index % len(seen)
            yield Example(
                image=greyscale_file(seen[camera][index]),
                label=int(label),
                group=names[camera],
                source=f"{start}{part}/{index}",
            )


def blurred(pictures: Pictures) -> Pictures:
    """The mean over 5 x 5 pixels, edges repeated; (N, H, W) uint8 as are all here."""
    padded = np.pad(pictures.astype(np.uint16), ((0, 0), (2, 2), (2, 2)), mode="edge")
    height, width = pictures.shape[1:]
    total = sum(padded[:, i : i + height, j : j + width] for i in range(5) for j in range(5))
    return np.asarray(total // 25, dtype=np.uint8)


def inverted(pictures: Pictures) -> Pictures:
    """Black for white."""
    return 255 - pictures


def rotated(pictures: Pictures) -> Pictures:
    """A quarter turn to the left."""
    return np.ascontiguousarray(np.rot90(pictures, axes=(1, 2)))


def upright(pictures: Pictures) -> Pictures:
    """As they are."""
    return pictures


_DOMAINS: dict[str, Callable[[Pictures], Pictures]] = {
    "blurred": blurred,
    "inverted": inverted,
    "rotated": rotated,
    "upright": upright,
}


def _idx(path: Path, magic: int) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes: a magic number, one size a dimension (big endian), the values."""
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: can not be read: {error}", hint="motet materials fetch fashion-mnist"
        ) from error
    head = np.frombuffer(data[: 4 * (1 + (magic & 255))], ">u4")
    body = np.frombuffer(data[4 * len(head) :], np.uint8)
    if len(head) != 1 + (magic & 255) or head[0] != magic or len(body) != np.prod(head[1:], dtype=np.int64):
        raise DataError(
            f"{path}: is no IDX file of the kind expected", hint="motet materials fetch fashion-mnist"
        )
    return body.reshape(head[1:].astype(int).tolist())
