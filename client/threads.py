"""How many threads torch uses, for the time of a piece of work."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """``count`` threads within, as many as before after; None leaves them. One thread sums in one order everywhere."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
