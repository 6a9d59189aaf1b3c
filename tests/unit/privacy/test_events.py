"""Events round-trip as canonical JSON; what is not understood is never cheap."""

from __future__ import annotations

import json
import math

import pytest

from privacy.accounting import epsilon_pld, epsilon_rdp, would_exceed
from privacy.errors import MalformedEventError
from privacy.events import PoissonGaussianEvent, UnknownEvent, event_from_json, of_unit, units_of

EVENT = PoissonGaussianEvent(noise_multiplier=1.25, sampling_rate=0.064, num_steps=40)


def changed(**fields) -> str:
    return json.dumps({**json.loads(EVENT.to_json()), **fields})


def test_an_event_reads_back_as_itself():
    assert event_from_json(EVENT.to_json()) == EVENT
    assert event_from_json(EVENT.to_json()).to_json() == EVENT.to_json()


def test_the_stored_text_is_frozen():
    assert EVENT.to_json() == (
        '{"adjacency":"add_remove","kind":"poisson_gaussian","noise_multiplier":1.25,"num_steps":40,'
        '"sampling_rate":0.064}'
    )


@pytest.mark.parametrize(
    "text",
    [
        changed(kind="skellam"),
        changed(kind=None),
        changed(adjacency="replace_one"),
        changed(sampling="shuffled"),
        "{}",
    ],
)
def test_an_unknown_event_costs_infinity(text):
    event = event_from_json(text)
    assert isinstance(event, UnknownEvent)
    assert event.to_json() == text
    assert epsilon_pld([EVENT, event], 1e-5) == math.inf
    assert epsilon_rdp([EVENT, event], 1e-5) == math.inf
    assert would_exceed([event], EVENT, 1e9, 1e-5)
    assert would_exceed([event], EVENT, math.inf, 1e-5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "nonsense",
        changed(num_steps=1.5),
        changed(num_steps=True),
        changed(num_steps=-1),
        changed(noise_multiplier="1"),
        changed(noise_multiplier=-0.1),
        changed(sampling_rate=1.5),
        changed(sampling_rate=False),
        '{"adjacency":"add_remove","kind":"poisson_gaussian"}',
        changed(noise_multiplier=math.nan),
        changed(noise_multiplier=10**400),
        changed(num_steps=2**53 + 1),
        changed(num_steps=10**400),
    ],
)
def test_a_damaged_event_is_an_error_and_never_a_free_one(text):
    with pytest.raises(MalformedEventError):
        event_from_json(text)


@pytest.mark.parametrize(
    "fields",
    [
        {"noise_multiplier": math.nan},
        {"noise_multiplier": math.inf},
        {"sampling_rate": math.nan},
        {"sampling_rate": -0.1},
        {"num_steps": -1},
    ],
)
def test_values_out_of_range_are_refused(fields):
    with pytest.raises(MalformedEventError):
        PoissonGaussianEvent(**{"noise_multiplier": 1.0, "sampling_rate": 0.1, "num_steps": 1, **fields})


def test_the_unit_is_written_unless_it_is_the_example_so_that_old_texts_stay():
    person = PoissonGaussianEvent(noise_multiplier=1.25, sampling_rate=0.064, num_steps=40, unit="person")
    assert event_from_json(person.to_json()) == person
    assert person.to_json() == changed(unit="person").replace(" ", "")
    assert isinstance(event_from_json(changed(unit="household")), UnknownEvent)
    with pytest.raises(MalformedEventError, match="unit"):
        PoissonGaussianEvent(noise_multiplier=1, sampling_rate=1, num_steps=1, unit="household")  # type: ignore[arg-type]


def test_events_of_different_units_have_no_common_epsilon():
    person = PoissonGaussianEvent(noise_multiplier=1.25, sampling_rate=0.064, num_steps=40, unit="person")
    assert epsilon_pld([person], 1e-5) == epsilon_pld([EVENT], 1e-5) < math.inf  # each has one by itself
    assert epsilon_pld([EVENT, person], 1e-5) == epsilon_rdp([EVENT, person], 1e-5) == math.inf
    assert would_exceed([EVENT], person, 1e9, 1e-5)
    unknown = UnknownEvent(text="{}")
    assert units_of([EVENT, person, unknown]) == ["example", "person"]
    assert units_of([unknown]) == ["example"]
    assert of_unit([EVENT, person, unknown], "person") == [person, unknown]
