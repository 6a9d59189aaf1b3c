"""Privacy events: what is charged to a data set, as plain values that a ledger stores as JSON.

An event says which mechanism ran and how often, never what it produced. Neighbouring data sets differ by
adding or removing one unit (add/remove): an example, a person with all examples, or a client with all data.
Budgets of different units do not add up. This module imports neither torch nor an accountant.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from privacy.errors import MalformedEventError

if TYPE_CHECKING:
    from collections.abc import Iterable

Unit: TypeAlias = Literal["example", "person", "client"]
UNITS: tuple[Unit, ...] = get_args(Unit)

_POISSON_GAUSSIAN = "poisson_gaussian"
_ADD_REMOVE = "add_remove"
_MOST_STEPS = 2**53  # accountants multiply steps as floats


@dataclass(frozen=True, slots=True, kw_only=True)
class PoissonGaussianEvent:
    """``num_steps`` steps of the Gaussian mechanism, each on a fresh Poisson sample of the units.

    Attributes:
      noise_multiplier: standard deviation of the noise over the clipping norm, >= 0. Zero means no privacy.
      sampling_rate: probability in [0, 1] with which each unit joins a step, independently. One means no
        sampling.
      num_steps: number of steps charged, from 0 to 2^53. Zero charges nothing.
      unit: what neighbours differ by, and what clipping bounds the contribution of.

    Raises:
      MalformedEventError: a value is out of its range or not finite.
    """

    noise_multiplier: float
    sampling_rate: float
    num_steps: int
    unit: Unit = "example"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise MalformedEventError(f"unit must be one of {', '.join(UNITS)}, not {self.unit!r}")
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier >= 0):
            raise MalformedEventError(
                f"noise_multiplier must be finite and >= 0, not {self.noise_multiplier!r}"
            )
        if not 0 <= self.sampling_rate <= 1:
            raise MalformedEventError(f"sampling_rate must lie in [0, 1], not {self.sampling_rate!r}")
        if type(self.num_steps) is not int or not 0 <= self.num_steps <= _MOST_STEPS:
            raise MalformedEventError(f"num_steps must be an integer from 0 to 2^53, not {self.num_steps!r}")

    def to_json(self) -> str:
        """Return the canonical JSON text: sorted keys, no spaces; equal events give equal text.

        The unit is written unless it is the example, so that texts of before there were other units stay the same,
        and a reader of that time takes the others for unknown (infinite).
        """
        fields = {
            "adjacency": _ADD_REMOVE,
            "kind": _POISSON_GAUSSIAN,
            "noise_multiplier": float(self.noise_multiplier),
            "num_steps": self.num_steps,
            "sampling_rate": float(self.sampling_rate),
        }
        if self.unit != "example":
            fields["unit"] = self.unit
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEvent:
    """A charge that this version does not understand; its epsilon is infinite.

    Attributes:
      text: the JSON text as it was read, so that writing it back changes nothing.
    """

    text: str

    def to_json(self) -> str:
        """Return the text as it was read."""
        return self.text


Event = PoissonGaussianEvent | UnknownEvent


def units_of(events: Iterable[Event]) -> list[Unit]:
    """The units that were charged, in the order of ``UNITS``; ``example`` where only unknown events are."""
    events = list(events)
    known = {event.unit for event in events if isinstance(event, PoissonGaussianEvent)}
    return [unit for unit in UNITS if unit in known] or (["example"] if events else [])


def of_unit(events: Iterable[Event], unit: Unit) -> list[Event]:
    """What counts against the budget of one unit, in order: its own events, and all that are not understood."""
    return [e for e in events if isinstance(e, UnknownEvent) or e.unit == unit]


def event_from_json(text: str) -> Event:
    """Read an event that ``to_json`` wrote.

    Args:
      text: a JSON object.

    Returns:
      The event. An unknown kind, another adjacency, or a field that is not known gives ``UnknownEvent``
      (infinite epsilon), so that a newer mechanism is never under-counted by an older reader.

    Raises:
      MalformedEventError: the text is not a JSON object, or a known kind lacks a field or has a bad value.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedEventError(f"not JSON: {text[:80]!r}; the ledger row is damaged") from error
    if not isinstance(fields, Mapping):
        raise MalformedEventError(f"not a JSON object: {text[:80]!r}; the ledger row is damaged")
    expected = {"adjacency", "kind", "noise_multiplier", "num_steps", "sampling_rate"}
    unit = fields.get("unit", "example")
    if (
        fields.get("kind") != _POISSON_GAUSSIAN
        or fields.get("adjacency") != _ADD_REMOVE
        or unit not in UNITS
        or set(fields) - expected - {"unit"}
    ):
        return UnknownEvent(text=text)
    missing = sorted(expected - set(fields))
    if missing:
        raise MalformedEventError(
            f"event lacks {', '.join(missing)}: {text[:80]!r}; the ledger row is damaged"
        )
    return PoissonGaussianEvent(
        noise_multiplier=_number(fields, "noise_multiplier"),
        sampling_rate=_number(fields, "sampling_rate"),
        num_steps=fields["num_steps"],
        unit=unit,
    )


def _number(fields: Mapping[str, object], name: str) -> float:
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MalformedEventError(f"{name} must be a number, not {value!r}")
    try:
        return float(value)
    except OverflowError as error:  # JSON knows integers of any length
        raise MalformedEventError(f"{name} is no finite number") from error
