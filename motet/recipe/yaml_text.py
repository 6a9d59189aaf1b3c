"""Recipe text to plain values, with the line of every key. A small, safe part of YAML 1.2, and of JSON.

Left out on purpose: anchors, aliases, merge keys, tags and several documents, which make a text mean much
more than it shows. ``1e-3`` is a number, ``yes`` and ``on`` are words (YAML 1.1 says otherwise to both).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from motet.recipe.errors import Problem, RecipeError

if TYPE_CHECKING:
    from collections.abc import Mapping

Path = tuple[str | int, ...]
LONGEST_TEXT = 256 * 1024
_DEEPEST = 8

_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: Mapping[str, bool | None] = {
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
    "null": None,
    "Null": None,
    "NULL": None,
    "~": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedText:
    """What a text says and where.

    Attributes:
      values: the outermost map.
      lines: line, from 1, of every path: of a key the key's own, of a list item the item's.
    """

    values: dict[str, object]
    lines: Mapping[Path, int]

    def line_of(self, path: Path) -> int:
        """The line of the path, or of its nearest parent that is in the text."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def dotted(path: Path) -> str:
    """``("adapter", "layers", 1)`` is ``adapter.layers[1]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def parse_text(text: str, source: str) -> ParsedText:
    """Read the text.

    Raises:
      RecipeError: not YAML, empty, too long, not a map, or it uses what is left out.
    """
    if len(text) > LONGEST_TEXT:
        raise _whole(
            source, 1, f"{len(text)} characters are too long for a recipe", f"keep it under {LONGEST_TEXT}"
        )
    node = _compose(text, source)
    if node is None:
        raise _whole(source, 1, "the file is empty", "start from a file in examples/recipes")
    if not isinstance(node, yaml.MappingNode):
        line = node.start_mark.line + 1
        raise _whole(source, line, "a recipe is a map of keys to values", "start it with name: my-run")
    reader = _Reader(source)
    values = reader.map(node, ())
    if reader.problems:
        raise RecipeError(reader.problems)
    return ParsedText(values=values, lines=reader.lines)


def _whole(source: str, line: int, problem: str, remedy: str) -> RecipeError:
    return RecipeError([Problem(source=source, line=line, field="", problem=problem, remedy=remedy)])


def _compose(text: str, source: str) -> yaml.Node | None:
    depth = documents = 0
    try:
        # The event parser does not recurse, so depth is bounded before anything that does is called.
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            line = 1 if event.start_mark is None else event.start_mark.line + 1
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
                raise _whole(
                    source,
                    line,
                    "anchors (&) and aliases (*) are not read in a recipe",
                    "write the value out",
                )
            tag = getattr(event, "tag", None)
            if tag is not None:
                raise _whole(source, line, f"the tag {tag} is not read in a recipe", "remove it")
            documents += isinstance(event, yaml.DocumentStartEvent)
            if documents > 1:
                raise _whole(
                    source, line, "a second document starts here", "keep one recipe a file, remove the ---"
                )
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise _whole(
                    source, line, f"nested more than {_DEEPEST} deep", "no section of a recipe is that deep"
                )
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise _broken(text, source, error) from error
    except yaml.YAMLError as error:
        raise _whole(
            source, 1, f"not text that YAML allows ({_first_line(error)})", "save it as UTF-8 text"
        ) from error


def _broken(text: str, source: str, error: yaml.MarkedYAMLError) -> RecipeError:
    mark = error.problem_mark or error.context_mark
    line = 1 if mark is None else mark.line + 1
    lines = text.splitlines()
    if (
        line <= len(lines)
        and "\t" in lines[line - 1][: len(lines[line - 1]) - len(lines[line - 1].lstrip()) + 1]
    ):
        return _whole(
            source, line, "indented with a tab, which YAML does not allow", "indent with two spaces"
        )
    column = 1 if mark is None else mark.column + 1
    remedy = "check indentation, colons and quotes here and in the line above"
    return _whole(source, line, f"not YAML at column {column}: {error.problem or error.context}", remedy)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


class _Reader:
    """Turns nodes into values and collects problems on the way."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self.lines: dict[Path, int] = {}

    def map(self, node: yaml.MappingNode, path: Path) -> dict[str, object]:
        values: dict[str, object] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._add(line, path, "a key must be a word", "write key: value")
                continue
            key = key_node.value
            here = (*path, key)
            if key in values:
                first = self.lines[here]
                self._add(line, here, f"this key stands twice, first in line {first}", "keep one of the two")
                continue
            self.lines[here] = line
            values[key] = self.value(value_node, here)
        return values

    def value(self, node: yaml.Node, path: Path) -> object:
        if isinstance(node, yaml.MappingNode):
            return self.map(node, path)
        if isinstance(node, yaml.SequenceNode):
            items = []
            for index, item in enumerate(node.value):
                self.lines[(*path, index)] = item.start_mark.line + 1
                items.append(self.value(item, (*path, index)))
            return items
        return self.scalar(node, path)

    def scalar(self, node: yaml.Node, path: Path) -> object:
        text = str(node.value)
        if getattr(node, "style", None) is not None:  # quoted or a block: text as it stands
            return text
        if text == "":
            # `privacy:` with all its lines commented out would otherwise mean a run without privacy.
            self._add(self.lines[path], path, "has no value", "give it one, or remove the line")
            return None
        if text in _WORDS:
            return _WORDS[text]
        if _INT.fullmatch(text) and len(text) <= 40:
            return int(text)
        return float(text) if _FLOAT.fullmatch(text) else text

    def _add(self, line: int, path: Path, problem: str, remedy: str) -> None:
        self.problems.append(
            Problem(source=self.source, line=line, field=dotted(path), problem=problem, remedy=remedy)
        )
