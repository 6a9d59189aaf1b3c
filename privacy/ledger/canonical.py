"""Canonical JSON: one value, one sequence of bytes, so that a hash of the bytes is a hash of the value.

The form of RFC 8785 for the values that are allowed here: objects with text keys, lists, text, booleans,
null, and integers of at most 53 bits. There are no floats: a float has several decimal forms and other
languages round it otherwise. Quantities that are not whole travel as text, or as integers in billionths.
"""

from __future__ import annotations

import json
from typing import TypeAlias, cast

from privacy.ledger.errors import LedgerFormatError

LARGEST_INTEGER = 2**53 - 1
MAX_DEPTH = 16

Value: TypeAlias = "dict[str, Value] | list[Value] | str | int | bool | None"


def canonical_bytes(value: Value) -> bytes:
    """Return the canonical UTF-8 bytes of a value: sorted keys, no spaces, no escapes but the necessary.

    Raises:
      LedgerFormatError: a float, an integer over 53 bits, a key that is not text, text that is not Unicode, or
        nesting deeper than ``MAX_DEPTH``.
    """
    _check(value, 0)
    try:
        return json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode()
    except UnicodeEncodeError as error:
        raise LedgerFormatError("text holds half a character (a lone surrogate)") from error


def parse_canonical(data: bytes) -> Value:
    """Read canonical bytes; every other spelling of the same value is refused.

    Raises:
      LedgerFormatError: not JSON, not UTF-8, or not in canonical form.
    """
    try:
        value: Value = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise LedgerFormatError(f"not JSON: {data[:60]!r}") from error
    if canonical_bytes(value) != data:
        raise LedgerFormatError(f"not in canonical form: {data[:60]!r}")
    return value


def _check(value: Value, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise LedgerFormatError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        for key, inner in value.items():
            # Code points outside the basic plane sort otherwise in RFC 8785; our keys are plain words.
            if not str(key).isascii() or type(key) is not str:
                raise LedgerFormatError(f"key {key!r} is not ASCII text")
            _check(inner, depth + 1)
    elif isinstance(value, list):
        if set(map(type, value)) == {int}:  # the vectors of charges: a hundred numbers each
            value = [max(cast("list[int]", value), key=abs)]
        for inner in value:
            _check(inner, depth + 1)
    elif isinstance(value, int):
        if abs(value) > LARGEST_INTEGER:
            raise LedgerFormatError(f"{value} has more than 53 bits")
    elif not (value is None or isinstance(value, str)):
        raise LedgerFormatError(f"{type(value).__name__} has no canonical form; use text or an integer")
