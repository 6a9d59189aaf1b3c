"""``${NAME}``, ``${NAME:-default}``, ``${NAME:?message}`` and ``$$``, as Compose reads them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from compose.errors import ComposeError

if TYPE_CHECKING:
    from collections.abc import Mapping

_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)|(?P<plain>[A-Za-z_]\w*)"
    r"|\{(?P<name>[A-Za-z_]\w*)(?:(?P<how>:?[-?+])(?P<word>[^{}]*))?\}|(?P<bad>))"
)


def interpolated(value: Any, environment: Mapping[str, str], where: str = "") -> Any:  # noqa: ANN401 - any YAML
    """``value`` with every variable in its texts replaced; keys stay as they are.

    Raises:
      ComposeError: a variable that has to be set is not, or a ``$`` that begins nothing.
    """
    if isinstance(value, dict):
        return {key: interpolated(item, environment, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [interpolated(item, environment, where) for item in value]
    if not isinstance(value, str):
        return value

    def replaced(found: re.Match[str]) -> str:
        if found["escaped"]:
            return "$"
        if found["bad"] is not None:
            raise ComposeError(f"{where.lstrip('.')}: a single $ in {value!r}; write $$")
        name, how, word = found["plain"] or found["name"], found["how"] or "", found["word"] or ""
        told = environment.get(name)
        is_there = bool(told) if how.startswith(":") else told is not None
        if how.endswith("+"):
            return word if is_there else ""
        if is_there:
            return told or ""
        if how.endswith("?"):
            raise ComposeError(f"{where.lstrip('.')}: {name} is not set: {word}")
        return word

    return _VARIABLE.sub(replaced, value)
