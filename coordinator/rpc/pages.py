"""One page of a list: keys in order, a token that names the last key of the page before."""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from motet.connection.errors import BadRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

DEFAULT_SIZE = 50
LARGEST_SIZE = 500
_Row = TypeVar("_Row")


class PageRequest(Protocol):
    """What every list request has."""

    page_size: int
    page_token: str


def size_of(request: PageRequest) -> int:
    """Rows that the page may have."""
    return min(request.page_size or DEFAULT_SIZE, LARGEST_SIZE)


def after(request: PageRequest, kinds: tuple[type, ...]) -> tuple[Any, ...] | None:
    """The key that the page begins after; None for the first page.

    Args:
      request: of the list.
      kinds: types of the key's parts.

    Raises:
      BadRequestError: the token is none that this list gave.
    """
    if not request.page_token:
        return None
    try:
        key = json.loads(base64.urlsafe_b64decode(request.page_token.encode("ascii")))
    except (ValueError, binascii.Error, RecursionError) as e:
        raise _bad_token() from e
    if not isinstance(key, list) or [type(part) for part in key] != list(kinds):
        raise _bad_token()
    return tuple(key)


def token_after(key: tuple[Any, ...]) -> str:
    """The token of a page whose last key is ``key``."""
    return base64.urlsafe_b64encode(json.dumps(list(key)).encode()).decode("ascii")


def page(
    rows: Iterable[_Row],
    request: PageRequest,
    key: Callable[[_Row], tuple[Any, ...]],
    kinds: tuple[type, ...],
) -> tuple[list[_Row], str]:
    """The rows of a page and the token of the next one, empty after the last.

    Args:
      rows: all of them, in the order of ``key``; rows that are added later come after.
      request: of the list.
      key: unique.
      kinds: types of its parts.

    Raises:
      BadRequestError: the token is none that this list gave.
    """
    begin, size = after(request, kinds), size_of(request)
    found: list[_Row] = []
    for row in rows:
        if begin is not None and key(row) <= begin:
            continue
        if len(found) == size:
            return found, token_after(key(found[-1]))
        found.append(row)
    return found, ""


def _bad_token() -> BadRequestError:
    return BadRequestError(
        "the page token is none of this list", hint="send next_page_token as it came, or nothing"
    )
