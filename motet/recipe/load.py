"""Read a recipe, whole or not at all: every error names file, line, field, problem and remedy."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from motet.errors import MotetError
from motet.recipe.checks import check_soundness
from motet.recipe.model import Recipe

_NUMBER_AS_TEXT = re.compile(r"^[+-]?\d+(\.\d+)?[eE][+-]?\d+$")

REMEDIES = {
    "missing": "add it",
    "greater_than_equal": "raise it",
    "greater_than": "raise it",
    "less_than": "lower it",
    "less_than_equal": "lower it",
    "int_parsing": "write a whole number",
    "int_from_float": "write a whole number",
    "int_type": "write a whole number",
    "float_parsing": "write a number",
    "float_type": "write a number",
    "finite_number": "write a finite number",
    "string_pattern_mismatch": "use letters, digits, dot, dash and underscore",
    "too_short": "give at least one",
}


class RecipeError(MotetError):
    """The recipe can not be used. ``problems`` has one line for each thing to mend."""

    exit_code = 3

    def __init__(self, problems: list[str], *, hint: str = "see docs/recipe.md for every field") -> None:
        super().__init__("\n".join(problems), hint=hint)
        self.problems = problems


def load_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file.

    Raises:
      RecipeError: the file is missing, no YAML, or any field is wrong; all problems at once.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as e:
        raise RecipeError([f"{path}: no such recipe"], hint="ls examples/recipes") from e
    except (OSError, UnicodeDecodeError) as e:
        raise RecipeError([f"{path}: can not be read as text: {e}"], hint="a recipe is a UTF-8 YAML file") from e
    return parse_recipe(text, str(path))


def parse_recipe(text: str, source: str = "recipe") -> Recipe:
    """The recipe in ``text``; ``source`` is named in errors.

    Raises:
      RecipeError: as in ``load_recipe``.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise RecipeError([f"{source}{line}: not valid YAML: {getattr(e, 'problem', e)}. Indent with spaces"]) from e
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError([f"{source}:1: a recipe is a table of sections (name, base_model, task, data, ...)"])
    lines: dict[tuple[str, ...], int] = {}
    problems: list[str] = []
    data = _build(node, (), lines, problems, source)
    if problems:
        raise RecipeError(problems)
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as e:
        raise RecipeError(_problems(e, lines, source)) from None
    unsound = [f"{source}:{_line(lines, p.field)}: {'.'.join(p.field)}: {p.problem}. {p.remedy}" for p in check_soundness(recipe)]
    if unsound:
        raise RecipeError(unsound)
    return recipe


def canonical_json(recipe: Recipe) -> str:
    """One text a recipe: keys sorted, no spaces, defaults written out. What is hashed, stored and sent."""
    return json.dumps(recipe.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def recipe_sha256(recipe: Recipe) -> str:
    """Hex digest of ``canonical_json``: what clients approve."""
    return hashlib.sha256(canonical_json(recipe).encode()).hexdigest()


def from_canonical_json(text: str) -> Recipe:
    """The recipe in a stored or received text, checked as strictly as a file.

    Raises:
      RecipeError: it is not a sound recipe.
    """
    try:
        recipe = Recipe.model_validate_json(text)
    except ValidationError as e:
        raise RecipeError(_problems(e, {}, "received recipe")) from None
    unsound = check_soundness(recipe)
    if unsound:
        raise RecipeError([f"received recipe: {'.'.join(p.field)}: {p.problem}. {p.remedy}" for p in unsound])
    return recipe


def _build(
    node: yaml.Node, path: tuple[str, ...], lines: dict[tuple[str, ...], int], problems: list[str], source: str
) -> Any:  # noqa: ANN401 - YAML is anything
    lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        table: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in table:
                problems.append(f"{source}:{line}: {'.'.join((*path, key))}: written twice. Keep one")
            table[key] = _build(value_node, (*path, key), lines, problems, source)
            lines[(*path, key)] = line
        return table
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, str(i)), lines, problems, source) for i, item in enumerate(node.value)]
    value = yaml.SafeLoader("").construct_object(node)  # type: ignore[no-untyped-call]
    # YAML 1.1 reads 1e-3 as text; people mean a number.
    return float(value) if isinstance(value, str) and _NUMBER_AS_TEXT.match(value) else value


def _line(lines: dict[tuple[str, ...], int], path: tuple[str, ...]) -> int:
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def _problems(error: ValidationError, lines: dict[tuple[str, ...], int], source: str) -> list[str]:
    """One line a field: of a union's several complaints the first, which is the simplest member's."""
    first: dict[str, str] = {}
    for entry in error.errors():
        text = _problem(entry, lines, source)
        first.setdefault(": ".join(text.split(": ")[:2]), text)
    return list(first.values())


def _problem(error: Any, lines: dict[tuple[str, ...], int], source: str) -> str:  # noqa: ANN401 - pydantic's own dict
    path = tuple(str(part) for part in error["loc"])
    while path and path not in lines and lines and error["type"] not in {"missing", "extra_forbidden"}:
        path = path[:-1]  # pydantic appends the member of a union
    where = f"{source}:{_line(lines, path)}: {'.'.join(path) or 'recipe'}"
    if error["type"] == "extra_forbidden":
        known = list(_fields_at(path[:-1]))
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        remedy = f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(known)}"
        return f"{where}: unknown key. {remedy}"
    message = error["msg"].removeprefix("Value error, ")
    given = "" if error["type"] in {"missing", "value_error"} else f", got {str(error['input'])[:60]!r}"
    remedy = REMEDIES.get(error["type"], "")
    return f"{where}: {message[:1].lower()}{message[1:]}{given}{'. ' + remedy.capitalize() if remedy else ''}"


def _fields_at(path: tuple[str, ...]) -> Iterator[str]:
    model: type[BaseModel] = Recipe
    for part in path:
        field = model.model_fields.get(part)
        if field is None:
            return
        kinds = [field.annotation, *get_args(field.annotation)]
        inner = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
        if inner is None:
            return
        model = inner
    yield from model.model_fields
