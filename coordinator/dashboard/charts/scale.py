"""Ticks at round numbers, and numbers as people read them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

NONE = "\N{EN DASH}"
"""In the place of a figure that is not there."""
_UNITS = ("B", "kB", "MB", "GB", "TB")


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers from at or below ``low`` to at or above ``high``; at least two, never more than a dozen.

    Raises:
      ValueError: a bound is not finite.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("an axis has finite ends")
    if high <= low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / max(1, about)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((m * power for m in (1.0, 2.0, 2.5, 5.0) if m * power >= rough), 10.0 * power)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def number(value: float | None) -> str:
    """A figure with three significant digits; a dash where there is none."""
    if value is None:
        return NONE
    if not math.isfinite(value):
        return "∞" if value > 0 else NONE
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        mantissa, _, power = f"{value:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    if size >= 1000:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(size)))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def epsilon(value: float | None) -> str:
    """An epsilon with two decimals, so that those of a column stand under each other."""
    return number(value) if value is None or not math.isfinite(value) else f"{value:.2f}"


def percent(part: float) -> str:
    """A part of one, in percent."""
    return f"{f'{100 * part:.1f}'.removesuffix('.0')} %"


def size(num_bytes: float | None) -> str:
    """Bytes in the largest unit that leaves a number of at least one; 1 kB is 1,000 B."""
    if num_bytes is None:
        return NONE
    value, unit = float(num_bytes), 0
    while abs(value) >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    digits = 0 if unit == 0 or value >= 99.5 else 1
    return f"{f'{value:.{digits}f}'.removesuffix('.0')} {_UNITS[unit]}"


def seconds(value: float | None) -> str:
    """A span of time in its two largest units."""
    if value is None:
        return NONE
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{f'{value:.1f}'.removesuffix('.0')} s"
    whole = int(value)
    for unit, below, span in (("min", "s", 60), ("h", "min", 3600), ("d", "h", 86400)):
        if whole < span * (60 if unit == "min" else 24) or unit == "d":
            rest = (whole % span) // {"min": 1, "h": 60, "d": 3600}[unit]
            return f"{whole // span} {unit} {rest} {below}" if rest else f"{whole // span} {unit}"
    return f"{whole} s"


def thinned(values: Sequence[int], most: int) -> list[int]:
    """So many of them that labels do not touch; the first is always there."""
    step = max(1, -(-len(values) // max(1, most)))
    return list(values[::step])
