"""Records of the control API to messages and back, field by field; a test holds both to the same fields."""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from motet.wire import control as records
from motet.wire.v1 import control_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

MESSAGE_NAMES = {
    records.RecipeRecord: "Recipe",
    records.LedgerCheckpoint: "Checkpoint",
}
_Record = TypeVar("_Record")


def message_of(record: type) -> type[Message]:
    """The message class of a record class."""
    made: type[Message] = getattr(control_pb2, MESSAGE_NAMES.get(record, record.__name__))
    return made


def encode(record: Any) -> Any:  # noqa: ANN401 - any record to its message
    """The message of a record; None is left out."""
    message = message_of(type(record))()
    for field in fields(record):
        value = getattr(record, field.name)
        if value is None:
            continue
        if is_dataclass(value):
            getattr(message, field.name).CopyFrom(encode(value))
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            plain = [encode(inner) if is_dataclass(inner) else inner for inner in value]
            getattr(message, field.name).extend(plain)
        else:
            setattr(message, field.name, value)
    return message


def decode(message: Any, kind: type[_Record]) -> _Record:  # noqa: ANN401 - a generated message
    """The record of a message. A field that may be None is None where it is absent; a time of 0 is absent."""
    values: dict[str, Any] = {}
    for name, (inner, is_list, is_optional) in _shape(kind).items():  # type: ignore[arg-type] # classes are hashable
        descriptor = message.DESCRIPTOR.fields_by_name[name]
        value = getattr(message, name)
        if is_list:
            values[name] = tuple(decode(v, inner) if is_dataclass(inner) else v for v in value)
        elif descriptor.has_presence:
            there = message.HasField(name)
            values[name] = (decode(value, inner) if is_dataclass(inner) else value) if there else None
        else:
            values[name] = None if is_optional and not value else value
    return kind(**values)


@cache
def _shape(kind: type) -> dict[str, tuple[type, bool, bool]]:
    """Field -> its type without wrapping, whether it is a list, whether it may be None."""
    found = {}
    for name, hint in get_type_hints(kind).items():
        is_list = get_origin(hint) is Sequence
        is_optional = get_origin(hint) in {Union, types.UnionType}
        inner = next((a for a in get_args(hint) if a is not type(None)), hint)
        found[name] = (inner, is_list, is_optional)
    return found
