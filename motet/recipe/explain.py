"""pydantic's findings in the product's words: what is wrong with a field, and what to do."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, get_args

from motet.recipe.model import Recipe, Section
from motet.recipe.reference import MEANINGS
from motet.recipe.yaml_text import Path, dotted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

Explained = tuple[Path, str, str]
MOST_EXPLAINED = 50  # of one recipe; a nearest key is looked for in each, and a stranger may write 20,000

_NAME = "a name: letters, digits, dot, dash and underscore, at most 63, starting with a letter or digit"
_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list, such as [query, value]",
    "dict_type": "a map of keys to values",
    "model_type": "a section: a map of keys to values",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
# Fields of two types: what each branch is for, in pydantic's tag, and what to ask for when no branch fits.
_EITHER = {
    "adapter.lora_rank": (
        dict,
        "dict",
        "a whole number, or a map of client ids or capacity classes to whole numbers",
    ),
    "adapter.alpha": (str, "constrained-str", "a number, or a multiple of the rank such as 2r"),
}


def sections() -> Mapping[Path, type[Section]]:
    """Every section of the model by its path; the whole recipe is ``()``."""
    return {(): Recipe, **dict(_nested((), Recipe))}


def explain(error: ValidationError, values: Mapping[str, object]) -> Iterator[Explained]:
    """Yield one (path, problem, remedy) for each thing that is wrong with ``values``, the outermost map."""
    either: set[Path] = set()
    for detail in error.errors(include_url=False)[:MOST_EXPLAINED]:
        path, tags = _strip_tags(
            detail["loc"], values, missing=detail["type"] in ("missing", "extra_forbidden")
        )
        field = next((f for f in _EITHER if dotted(path) == f or dotted(path).startswith(f + ".")), None)
        if field is not None and tags:
            wanted, tag, _ = _EITHER[field]
            value = _value_at(values, tuple(field.split(".")))
            like = isinstance(value, wanted), _is_number(value)
            fits = like[0] if any(str(t).startswith(tag) for t in tags) else like[1]
            if not fits and any(like):
                continue  # the other branch says it
            if not fits:
                if path not in either:
                    either.add(path)
                    yield path, *_wrong(path, value, f"must be {_EITHER[field][2]}")
                continue
        yield path, *_words(path, detail, in_key="[key]" in tags)


def _words(path: Path, detail: ErrorDetails, *, in_key: bool) -> tuple[str, str]:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "missing":
        return "is missing", f"add it: {MEANINGS.get(dotted(path), 'a value')}"
    if kind == "extra_forbidden":
        return f"there is no key {path[-1]!r} here", _nearest_key(path)
    if kind == "value_error":
        keys = ", ".join(value) if isinstance(value, dict) and value else "no keys"
        return str(context.get("error", detail["msg"])), f"it has {keys}; see {_page(path)}"
    if kind == "literal_error":
        return _wrong_choice(path, value)
    if in_key:
        return f"{value!r} is not {_NAME}", "rename it"
    if kind == "string_pattern_mismatch":
        if dotted(path) == "adapter.alpha":
            return _wrong(path, value, f"must be {_EITHER['adapter.alpha'][2]}")
        return _wrong(path, value, f"must be {_NAME}")
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return _wrong(path, value, f"must be {words} {context[key]:g}")
    if kind in _TYPES:
        return _wrong(path, value, f"must be {_TYPES[kind]}")
    if kind == "too_short":
        return "is an empty list", "name at least one, or remove the line"
    return _wrong(path, value, str(detail["msg"]))


def _wrong(path: Path, value: object, must: str) -> tuple[str, str]:
    problem = f"{must}, not {_shown(value)}"
    looks_like_number = isinstance(value, str) and value.strip().lstrip("+-").replace(".", "", 1).isdigit()
    if "number" in must and looks_like_number:
        return problem, "remove the quotes"
    if ("text" in must or "name" in must) and _is_number(value):
        return problem, f'put it in quotes: "{value}"'
    return problem, f"it is: {meaning}" if (meaning := _meaning(path)) else f"see {_page(path)}"


def _meaning(path: Path) -> str:
    name = dotted(tuple(part for part in path if isinstance(part, str)))
    while name and name not in MEANINGS:
        name = name.rpartition(".")[0]
    return MEANINGS.get(name, "")


def _wrong_choice(path: Path, value: object) -> tuple[str, str]:
    choices = _choices(path)
    near = difflib.get_close_matches(str(value).lower(), choices, n=1, cutoff=0.5)
    problem = f"{_shown(value)} is not one of {', '.join(choices)}"
    return problem, f"did you mean {near[0]}?" if near else f"choose one; see {_page(path)}"


def _choices(path: Path) -> list[str]:
    section = sections()[path[:-1]]
    annotation = section.model_fields[str(path[-1])].annotation
    flat: list[object] = []
    stack: list[object] = [annotation]
    while stack:
        inner = get_args(item := stack.pop())
        stack.extend(reversed(inner)) if inner else flat.append(item)
    return [item for item in flat if isinstance(item, str)]


def _nearest_key(path: Path) -> str:
    known = sections()
    key = str(path[-1])
    siblings = list(known[path[:-1]].model_fields) if path[:-1] in known else []
    near = difflib.get_close_matches(key.lower().replace("-", "_"), siblings, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]}?"
    elsewhere = [where for where, model in known.items() if where != path[:-1] and key in model.model_fields]
    if elsewhere:
        return f"it belongs to {' or '.join(dotted(w) or 'the outermost level' for w in elsewhere)}"
    far = {k: w for w, model in known.items() for k in model.model_fields}
    near = difflib.get_close_matches(key.lower(), list(far), n=1, cutoff=0.75)
    if near:
        return f"did you mean {dotted((*far[near[0]], near[0]))}?"
    return f"the keys here are {', '.join(siblings)}"


def _nested(path: Path, model: type[Section]) -> Iterator[tuple[Path, type[Section]]]:
    for name, info in model.model_fields.items():
        for kind in (info.annotation, *get_args(info.annotation)):
            if isinstance(kind, type) and issubclass(kind, Section):
                yield (*path, name), kind
                yield from _nested((*path, name), kind)


def _strip_tags(
    loc: tuple[int | str, ...], values: object, *, missing: bool
) -> tuple[Path, tuple[int | str, ...]]:
    """Split pydantic's location into the path in the text and the union branches that it walked through."""
    path: list[str | int] = []
    tags: list[int | str] = []
    here = values
    for index, part in enumerate(loc):
        if isinstance(here, dict) and part in here:
            here = here[part]
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            here = here[int(part)]
        elif not (missing and index == len(loc) - 1):
            tags.append(part)
            continue
        path.append(part)
    return tuple(path), tuple(tags)


def _value_at(values: object, path: Path) -> object:
    for part in path:
        if not isinstance(values, dict):
            return None
        values = values.get(part)
    return values


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, dict):
        return "a map"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _page(path: Path) -> str:
    return f"docs/recipe.md, {str(path[0]) if path else 'the top'}"
