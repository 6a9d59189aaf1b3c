"""Messages to bytes and back; the only module that touches the generated stubs."""

from __future__ import annotations

from dataclasses import fields
from typing import TypeVar

from google.protobuf.message import DecodeError

from motet.errors import MotetError
from motet.wire.messages import TrainOrder, TrainReply
from motet.wire.v1 import round_pb2

MAX_MESSAGE_BYTES = 1 << 30
_Record = TypeVar("_Record", TrainOrder, TrainReply)


class WireError(MotetError):
    """Bytes that are no message of this contract."""

    exit_code = 7


def encode_order(order: TrainOrder) -> bytes:
    """Deterministic protobuf of an order."""
    return _encode(order, round_pb2.TrainOrder())


def decode_order(data: bytes) -> TrainOrder:
    """The order in ``data``.

    Raises:
      WireError: too large, or no order.
    """
    return _decode(data, round_pb2.TrainOrder(), TrainOrder)


def encode_reply(reply: TrainReply) -> bytes:
    """Deterministic protobuf of a reply."""
    return _encode(reply, round_pb2.TrainReply())


def decode_reply(data: bytes) -> TrainReply:
    """The reply in ``data``.

    Raises:
      WireError: too large, or no reply.
    """
    return _decode(data, round_pb2.TrainReply(), TrainReply)


def _encode(record: TrainOrder | TrainReply, message: round_pb2.TrainOrder | round_pb2.TrainReply) -> bytes:
    for field in fields(record):
        setattr(message, field.name, getattr(record, field.name))
    return message.SerializeToString(deterministic=True)


def _decode(
    data: bytes, message: round_pb2.TrainOrder | round_pb2.TrainReply, kind: type[_Record]
) -> _Record:
    if len(data) > MAX_MESSAGE_BYTES:
        raise WireError(f"a message of {len(data)} bytes exceeds {MAX_MESSAGE_BYTES}")
    try:
        message.ParseFromString(data)
    except DecodeError as e:
        raise WireError(f"{len(data)} bytes are no {kind.__name__} of this version") from e
    return kind(**{field.name: getattr(message, field.name) for field in fields(kind)})
