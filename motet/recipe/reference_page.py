"""docs/recipe.md, from the model: keys, types, defaults, meanings."""

from __future__ import annotations

from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic_core import PydanticUndefined

from motet.recipe.explain import sections
from motet.recipe.model import Section
from motet.recipe.reference import MEANINGS
from motet.recipe.yaml_text import dotted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

_HEAD = """\
# The recipe
<!-- Written by scripts/gen_recipe_reference.py from motet/recipe/model.py and reference.py. -->
A run is declared in one YAML file; no code travels. The same file is simulated, deployed and planned:

    motet plan recipe.yaml          # bytes, parameters, epsilon and time, before anything starts
    motet simulate recipe.yaml
    motet run submit recipe.yaml

Samples for every method are in [examples/recipes](../examples/recipes). A key that is not below is an error,
as is a combination that would not be sound; all problems are printed at once, each with line and remedy.
Types are strict: `8` is a number, `"8"` is text. Anchors, tags and several documents are not read.

Equal recipes have one canonical text (all keys, defaults written out) and one SHA-256, by which clients
approve it.
"""


def recipe_page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for path, model in sections().items():
        title = f"`{dotted(path)}`" if path else "The outermost level"
        about = MEANINGS[dotted(path)] if path else ""
        parts.append(f"\n## {title}\n")
        if about:
            parts.append(f"{about[0].upper()}{about[1:]}.\n")
        parts.append("\n| key | type | default | meaning |\n|---|---|---|---|\n")
        for key, info in model.model_fields.items():
            name = dotted((*path, key))
            parts.append(f"| `{key}` | {_type(info)} | {_default(info)} | {MEANINGS[name]} |\n")
    return "".join(parts)


def _type(info: FieldInfo) -> str:
    bounds = [text for item in info.metadata for text in _bound(item)]
    text = " or ".join(dict.fromkeys(_kinds(info.annotation)))
    return (text + (f", {' and '.join(bounds)}" if bounds else "")).replace("|", "\\|")


def _kinds(annotation: Any) -> Iterator[str]:  # noqa: ANN401 - a type expression
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = [text for item in inner[1:] for text in _bound(item)]
        for kind in _kinds(inner[0]):
            yield f"{kind}{', ' + ' and '.join(bounds) if bounds else ''}"
    elif origin is Literal:
        yield ", ".join(f"`{choice}`" for choice in inner)
    elif origin is dict:
        yield "map of names to " + " or ".join(_kinds(inner[1]))
    elif origin is list:
        yield "list of " + " or ".join(_kinds(inner[0]))
    elif origin in (UnionType, Union):
        for item in inner:
            if item is not type(None):
                yield from _kinds(item)
    elif isinstance(annotation, type) and issubclass(annotation, Section):
        yield "section"
    else:
        yield {int: "whole number", float: "number", str: "text", bool: "true or false"}.get(
            annotation, "value"
        )


def _bound(item: Any) -> Iterator[str]:  # noqa: ANN401 - a constraint, or a FieldInfo that holds some
    if hasattr(item, "metadata"):
        for part in item.metadata:
            yield from _bound(part)
        return
    for name, sign in (("gt", ">"), ("ge", "at least"), ("lt", "<"), ("le", "at most")):
        if (value := getattr(item, name, None)) is not None:
            yield f"{sign} {value:g}"


def _default(info: FieldInfo) -> str:
    value = info.default
    if value is PydanticUndefined:
        return "needed"
    if value is None or isinstance(value, Section):
        return "-"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value:g}`" if isinstance(value, int | float) else f"`{value}`"
