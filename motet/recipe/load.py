"""Recipe text to ``Recipe`` and back. Every problem is reported at once: its line, its field and a remedy."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import ValidationError

from motet.recipe.checks import check
from motet.recipe.errors import Problem, RecipeError
from motet.recipe.explain import explain
from motet.recipe.model import Recipe
from motet.recipe.yaml_text import LONGEST_TEXT, ParsedText, dotted, parse_text


def load_recipe(path: str | Path, *, combinations: bool = True) -> Recipe:
    """Read a recipe file.

    Args:
      path: the file.
      combinations: also check what single fields can not see; False is for reading what was meant, not to run it.

    Raises:
      RecipeError: the file can not be read or the recipe is refused.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise _unreadable(
            path, "there is no such file", "check the path; samples are in examples/recipes"
        ) from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, "not UTF-8 text", "save it as UTF-8") from error
    except OSError as error:
        raise _unreadable(
            path, f"can not be read ({error.strerror})", "check the path and its permissions"
        ) from error
    return parse_recipe(text, str(path), combinations=combinations)


def parse_recipe(text: str, source: str = "recipe", *, combinations: bool = True) -> Recipe:
    """Read a recipe from YAML (or JSON) text.

    Args:
      text: the whole recipe.
      source: what errors call it, usually the file name.
      combinations: as in ``load_recipe``.

    Raises:
      RecipeError: with every problem found. Fields are looked at when the text is right, combinations when
        the fields are.
    """
    parsed = parse_text(text, source)
    recipe = _validated(parsed, source)
    findings = check(recipe) if combinations else []
    if findings:
        raise RecipeError(
            [
                Problem(
                    source=source,
                    line=parsed.line_of(f.path),
                    field=dotted(f.path),
                    problem=f.problem,
                    remedy=f.remedy,
                )
                for f in findings
            ]
        )
    return recipe


def canonical_json(recipe: Recipe) -> str:
    """The one text of a recipe: all fields, defaults written out, sorted keys, no spaces, ASCII.

    Equal recipes give equal text, whatever their files looked like; ``from_canonical_json`` reads it back. ``trackers``
    and ``evaluation`` stand in it only where there are any: recipes without keep the hash that owners have approved.
    """
    values = recipe.model_dump(mode="json")
    if not recipe.trackers.chosen:
        del values["trackers"]
    if recipe.evaluation is None:
        del values["evaluation"]
    return json.dumps(
        values,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=True,
        allow_nan=False,
    )


def recipe_sha256(recipe: Recipe | str) -> str:
    """SHA-256, lower-case hex, of the canonical JSON; a ``str`` is taken to be that JSON, as it came."""
    text = recipe if isinstance(recipe, str) else canonical_json(recipe)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def from_canonical_json(text: str, source: str = "recipe") -> Recipe:
    """Read what ``canonical_json`` wrote, also an older version of it: keys that it lacks take defaults.

    The same checks as for a file hold, since the text may come from another machine.

    Raises:
      RecipeError: not JSON, a key stands twice, or the recipe is refused.
    """
    if len(text) > LONGEST_TEXT:
        raise _text_error(source, f"{len(text)} characters are too long for a recipe")
    try:
        values = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _text_error(source, f"not canonical JSON ({str(error)[:100]})") from error
    if not isinstance(values, dict):
        raise _text_error(source, "not a JSON object")
    recipe = _validated(ParsedText(values=values, lines={}), source, with_lines=False)
    findings = check(recipe)
    if findings:
        raise RecipeError(
            [
                Problem(source=source, line=None, field=dotted(f.path), problem=f.problem, remedy=f.remedy)
                for f in findings
            ]
        )
    return recipe


def _validated(parsed: ParsedText, source: str, *, with_lines: bool = True) -> Recipe:
    try:
        # Strict: "8", 8.0 and true are not the number 8. A recipe is approved by hash, so it means one thing.
        return Recipe.model_validate(parsed.values, strict=True)
    except ValidationError as error:
        problems = [
            Problem(
                source=source,
                line=parsed.line_of(path) if with_lines else None,
                field=dotted(path),
                problem=problem,
                remedy=remedy,
            )
            for path, problem, remedy in explain(error, parsed.values)
        ]
        raise RecipeError(problems) from error


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands twice")
    return values


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a number")


def _text_error(source: str, problem: str) -> RecipeError:
    remedy = "send the recipe as motet.recipe.canonical_json writes it"
    return RecipeError([Problem(source=source, line=None, field="", problem=problem, remedy=remedy)])


def _unreadable(path: Path, problem: str, remedy: str) -> RecipeError:
    return RecipeError(
        [Problem(source=str(path), line=None, field="", problem=problem, remedy=remedy)], hint=""
    )
