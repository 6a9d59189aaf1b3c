"""Read weights out of an ONNX file: its graph's initialisers and nodes. Nothing of the graph is run.

ONNX is protobuf; of its schema only the few fields below are read, with their published numbers. Every length
is checked against what is left of the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from motet.materials.errors import MaterialError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATION = 1, 2, 4
_TENSOR_DIMS, _TENSOR_KIND, _TENSOR_FLOATS, _TENSOR_NAME, _TENSOR_RAW, _TENSOR_PLACE = 1, 2, 4, 8, 9, 14
_FLOAT = 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_VARINT_BYTES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operation of the graph: its kind, and names of what it reads and makes."""

    operation: str
    inputs: Sequence[str]
    outputs: Sequence[str]


class OnnxFile:
    """An open ONNX file.

    Attributes:
      nodes: in the graph's order.
      shapes: name to shape of each float32 initialiser that lies in the file; ``read`` brings the values.

    Raises:
      MaterialError: not ONNX, or cut short.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.name
        whole = memoryview(path.read_bytes())  # as large as the weights, and read once
        self.nodes: list[Node] = []
        self._tensors: dict[str, Mapping[int, list[Any]]] = {}
        graph = self._one(self._message(whole), _MODEL_GRAPH)
        if graph is None:
            raise MaterialError(f"{self._name}: holds no ONNX graph")
        for number, _, value in self._fields(graph):
            if number == _GRAPH_NODE:
                fields = self._message(value)
                self.nodes.append(
                    Node(
                        operation=self._text(self._one(fields, _NODE_OPERATION)),
                        inputs=[self._text(v) for v in fields.get(_NODE_INPUT, ())],
                        outputs=[self._text(v) for v in fields.get(_NODE_OUTPUT, ())],
                    )
                )
            elif number == _GRAPH_INITIALIZER:
                fields = self._message(value)
                in_file = not self._one(fields, _TENSOR_PLACE)
                if self._one(fields, _TENSOR_KIND) == _FLOAT and in_file:
                    self._tensors[self._text(self._one(fields, _TENSOR_NAME))] = fields
        self.shapes = {name: self._shape(fields) for name, fields in self._tensors.items()}

    def read(self, name: str) -> NDArray[np.float32]:
        """One initialiser, float32, shape as in ``shapes[name]``.

        Raises:
          MaterialError: it holds fewer or more values than its shape says.
        """
        fields = self._tensors[name]
        pieces = fields.get(_TENSOR_RAW) or fields.get(_TENSOR_FLOATS, [])
        if not all(isinstance(piece, memoryview) for piece in pieces):
            raise MaterialError(f"{self._name}: tensor {name!r} is stored in a way that is not read here")
        data = b"".join(pieces)
        if len(data) != 4 * math.prod(self.shapes[name]):
            raise MaterialError(
                f"{self._name}: tensor {name!r} has {len(data)} bytes, not what its shape says"
            )
        return np.frombuffer(data, "<f4").reshape(self.shapes[name]).astype(np.float32)

    def _shape(self, tensor: Mapping[int, list[Any]]) -> tuple[int, ...]:
        shape: list[int] = []
        for value in tensor.get(_TENSOR_DIMS, ()):
            if isinstance(value, int):
                shape.append(value)
                continue
            at = 0
            while at < len(value):  # packed
                size, at = self._varint(value, at)
                shape.append(size)
        return tuple(shape)

    def _message(self, data: memoryview) -> dict[int, list[Any]]:
        fields: dict[int, list[Any]] = {}
        for number, _, value in self._fields(data):
            fields.setdefault(number, []).append(value)
        return fields

    def _fields(self, data: memoryview) -> Iterator[tuple[int, int, Any]]:
        """(field number, wire type, value): an int for varints, else the bytes."""
        at = 0
        while at < len(data):
            tag, at = self._varint(data, at)
            number, kind = tag >> 3, tag & 7
            if kind == _VARINT:
                value: Any
                value, at = self._varint(data, at)
            else:
                if kind == _BYTES:
                    size, at = self._varint(data, at)
                elif kind in (_FIXED32, _FIXED64):
                    size = 4 if kind == _FIXED32 else 8
                else:
                    raise MaterialError(f"{self._name}: not protobuf (wire type {kind})")
                if at + size > len(data):
                    raise MaterialError(
                        f"{self._name}: cut short: a field has {at + size - len(data)} bytes too few"
                    )
                value, at = data[at : at + size], at + size
            yield number, kind, value

    def _varint(self, data: memoryview, at: int) -> tuple[int, int]:
        value = 0
        for index in range(_MOST_VARINT_BYTES):
            if at + index >= len(data):
                raise MaterialError(f"{self._name}: cut short inside a number")
            byte = data[at + index]
            value |= (byte & 127) << (7 * index)
            if byte < 128:
                return value, at + index + 1
        raise MaterialError(f"{self._name}: not protobuf (a number of more than ten bytes)")

    def _one(self, fields: Mapping[int, list[Any]], number: int) -> Any:  # noqa: ANN401 - an int or bytes, as stored
        return fields[number][-1] if number in fields else None

    def _text(self, value: Any) -> str:  # noqa: ANN401 - as above
        return bytes(value).decode("utf-8", "replace") if isinstance(value, memoryview) else ""
