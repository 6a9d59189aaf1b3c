"""One value, one sequence of bytes."""

from __future__ import annotations

import pytest

from privacy.ledger.canonical import LARGEST_INTEGER, canonical_bytes, parse_canonical
from privacy.ledger.errors import LedgerFormatError


def test_keys_are_sorted_and_nothing_is_escaped_that_need_not_be():
    value = {"b": [1, True, None], "a": 'é"\n\\', "C": {}}
    assert canonical_bytes(value) == '{"C":{},"a":"é\\"\\n\\\\","b":[1,true,null]}'.encode()
    assert parse_canonical(canonical_bytes(value)) == value


@pytest.mark.parametrize(
    "value",
    [0.5, float("nan"), {"a": 1.0}, [2**53], {"a": {1, 2}}, {1: "a"}, {"é": 1}, b"bytes", "\ud800", -(2**53)],
)
def test_a_value_without_one_form_is_refused(value):
    with pytest.raises(LedgerFormatError):
        canonical_bytes(value)


def test_the_largest_integer_has_a_form():
    assert canonical_bytes(LARGEST_INTEGER) == b"9007199254740991"


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1}',
        b'{"b":1,"a":1}',
        b'{"a":1,"a":1}',
        b"1.0",
        b"1e2",
        b'"\\u0061"',
        b"NaN",
        b"{",
        b"\xff",
        b"1 ",
        b"[" * 10_000,
        b"[" * 18 + b"]" * 18,
    ],
)
def test_every_other_spelling_is_refused(data):
    with pytest.raises(LedgerFormatError):
        parse_canonical(data)
