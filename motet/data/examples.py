"""One example, and files of examples."""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from motet.data.errors import DataError, NoExamplesError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_MOST_FIELD_CHARACTERS = 16 << 20
HELD_OUT = "held-out/"
"""Sources with this start belong to the publisher's test part: they are never trained on."""

IMAGE_COLUMN = "image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One text or one picture: the unit that a privacy guarantee protects.

    Attributes:
      text: not empty, unless there is a picture.
      image: a whole PNG, JPEG or PPM file; empty for a text.
      label: class index from 0; 0 where there are no classes.
      group: where it comes from by nature (a domain, a topic): natural clients are groups. May be empty.
      source: the document it was cut from. All examples of one source stay on one side of a split.
      person: whose it is, where a column says so; the unit of privacy of some recipes. May be empty.
    """

    text: str = ""
    image: bytes = b""
    label: int = 0
    group: str = ""
    source: str = ""
    person: str = ""


def text_source(text: str) -> str:
    """A source for a text that states none: equal for texts that differ only in case and spacing."""
    return "text:" + hashlib.sha256(" ".join(text.lower().split()).encode()).hexdigest()[:16]


def image_source(data: bytes) -> str:
    """A source for a picture that states none: equal for equal files."""
    return "image:" + hashlib.sha256(data).hexdigest()[:16]


def read_examples(
    path: Path,
    *,
    text_column: str = "text",
    label_column: str = "label",
    num_labels: int | None = None,
    person_column: str | None = None,
    images: bool = False,
) -> list[Example]:
    """Read a JSONL or CSV file (told by its suffix; UTF-8, first line of a CSV names the columns).

    The columns ``group`` and ``source`` are read where they are; a missing source is made from the text.

    Args:
      path: ``.jsonl``, ``.ndjson`` or ``.csv``.
      text_column: name of the column with the text.
      label_column: name of the column with the class index, an integer from 0.
      num_labels: number of classes; each line must then have a label below it. None: no classes, a label
        may be absent.
      person_column: name of the column that says whose an example is; each line must then say it.
      images: each line has a column ``image``, a PNG, JPEG or PPM file in base64, instead of a text.

    Raises:
      DataError: no such file, empty, wrong suffix, not UTF-8, or a line that does not fit; the message says
        which.
    """
    examples = []
    try:
        for line, row in read_rows(path):
            where = f"{path}:{line}"
            image = _image_of(row, where) if images else b""
            text = "" if images else _text_of(row, text_column, where)
            examples.append(
                Example(
                    text=text,
                    image=image,
                    label=_label_of(row, label_column, num_labels, where),
                    group=str(row.get("group") or ""),
                    source=str(row.get("source") or "")
                    or (image_source(image) if images else text_source(text)),
                    person="" if person_column is None else _person_of(row, person_column, where),
                )
            )
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise DataError(f"{path}: can not be read: {error.strerror or error}") from error
    if not examples:
        raise NoExamplesError(f"{path}: holds no example")
    return examples


def read_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Every row of a JSONL or CSV file as it stands, with its line number; nothing but its form is checked.

    Raises:
      DataError: no such file, wrong suffix, or a line that is no row.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file", hint="check data.path in the recipe, or --data")
    if path.suffix.lower() not in {".jsonl", ".ndjson", ".csv"}:
        raise DataError(f"{path}: examples come as .jsonl or .csv", hint="rename or convert the file")
    yield from _csv_rows(path) if path.suffix.lower() == ".csv" else _jsonl_rows(path)


def write_jsonl(
    examples: Iterable[Example],
    path: Path,
    *,
    text_column: str = "text",
    label_column: str = "label",
    person_column: str | None = None,
) -> Path:
    """Write one JSON object a line (text or image, label, group, source, person): equal examples give equal bytes.

    Raises:
      DataError: the file can not be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="\n") as stream:
            for e in examples:
                image = {IMAGE_COLUMN: base64.b64encode(e.image).decode("ascii")}
                what = image if e.image else {text_column: e.text}
                row = {**what, label_column: e.label, "group": e.group, "source": e.source}
                if person_column is not None:
                    row[person_column] = e.person
                stream.write(json.dumps(row) + "\n")
    except OSError as error:
        raise DataError(f"{path}: can not be written: {error.strerror or error}") from error
    return path


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{path}:{number}: not JSON: {error}", hint="one JSON object a line"
                ) from error
            if not isinstance(row, dict):
                raise DataError(
                    f"{path}:{number}: a {type(row).__name__}, not an object", hint="one JSON object a line"
                )
            yield number, row


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    csv.field_size_limit(_MOST_FIELD_CHARACTERS)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        try:
            for row in reader:
                if None in row:
                    raise DataError(
                        f"{path}:{reader.line_num}: more fields than columns", hint='quote commas: "a, b"'
                    )
                yield reader.line_num, row
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: not CSV: {error}") from error


def _text_of(row: Mapping[str, Any], column: str, where: str) -> str:
    text = _cell(row, column, where, "text_column")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: column {column!r} holds no text")
    if not _is_unicode(text):
        raise DataError(
            f"{where}: column {column!r} holds half a character, a lone surrogate such as \\ud83d",
            hint="write the file again from its source; the other half was lost on the way",
        )
    return text


def _is_unicode(text: str) -> bool:
    """Whether every character is whole: JSON can spell halves, which no tokenizer reads."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _image_of(row: Mapping[str, Any], where: str) -> bytes:
    from motet.data.images import decoded

    stored = _cell(row, IMAGE_COLUMN, where, "path to a folder of pictures")
    try:
        data = base64.b64decode(stored, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise DataError(f"{where}: column {IMAGE_COLUMN!r} is not base64 of a picture's file") from error
    decoded(data, where)
    return data


def _label_of(row: Mapping[str, Any], column: str, num_labels: int | None, where: str) -> int:
    if num_labels is None and row.get(column) in (None, ""):
        return 0
    value = _cell(row, column, where, "label_column")
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value.strip()):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DataError(
            f"{where}: label {value!r} is not a class index", hint="use 0, 1, 2, ... for the classes"
        )
    if num_labels is not None and value >= num_labels:
        raise DataError(
            f"{where}: label {value} is not below num_labels = {num_labels}",
            hint="correct the line, or task.num_labels in the recipe",
        )
    return value


def _person_of(row: Mapping[str, Any], column: str, where: str) -> str:
    value = _cell(row, column, where, "unit_column")
    person = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not person:
        raise DataError(
            f"{where}: column {column!r} does not say whose the example is",
            hint="fill it, or remove the line: an example without a person can not be protected with one",
        )
    return person


def _cell(row: Mapping[str, Any], column: str, where: str, setting: str) -> Any:  # noqa: ANN401 - what the file holds
    if column not in row:
        known = ", ".join(repr(key) for key in row)
        raise DataError(
            f"{where}: no column {column!r}; there are {known}",
            hint=f"set {'privacy' if setting == 'unit_column' else 'data'}.{setting} in the recipe",
        )
    return row[column]
