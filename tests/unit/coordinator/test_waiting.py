"""Why a run waits, in words."""

import pytest

from coordinator.engine.waiting import Situation, why_it_waits, without_whom

B = "r-5d21c0"
WORDS = [
    ({"ready": ["a"]}, ""),
    (
        {"is_leading": False, "pending": ["b"]},
        "waits for the lead: start a coordinator, or wait for the standby",
    ),
    ({"ahead": ["r-2", "r-1"]}, "waits for a place: r-1, r-2 are at work"),
    ({"ahead": ["r-1"]}, "waits for a place: r-1 is at work"),
    (
        {"minimum": 3, "ready": ["ward-a"], "pending": ["ward-c", "ward-b"]},
        "needs 2 more clients with approval: ward-b, ward-c",
    ),
    ({"minimum": 2, "ready": ["a"], "pending": ["b"]}, "needs 1 more client with approval: b"),
    ({"minimum": 1, "ready": ["a"], "pending": ["b"]}, "waits for approval of b"),
    ({"minimum": 1, "busy": {"ward-a": B}}, f"waits for ward-a: busy with run {B}"),
    (
        {"minimum": 3, "busy": {"b": "r-1", "a": "r-1", "c": "r-2"}},
        "waits for a, b: busy with run r-1; waits for c: busy with run r-2",
    ),
    ({"minimum": 1, "closed": {"ward-b": "22:00"}}, "outside hours of ward-b until 22:00"),
    (
        {"minimum": 2, "ready": ["a"], "offline": ["c", "b"]},
        "waits for 1 more client(s): b, c not online",
    ),
    ({"minimum": 1, "ready": ["a"], "offline": ["b"]}, "waits for clients: b not online"),
    ({"minimum": 2, "ready": ["a"]}, "needs 1 more client"),
    ({"minimum": 1, "silent": ["a"]}, "waits for an answer of a"),
    (
        {"minimum": 1, "blocked": {"a": "clause policy_file: unknown clause"}},
        "waits for a: clause policy_file: unknown clause",
    ),
    (
        {
            "minimum": 6,
            "ready": ["a"],
            "pending": ["b"],
            "busy": {"c": "r-1"},
            "closed": {"d": "22:00"},
            "offline": ["e"],
            "silent": ["f"],
        },
        "needs 5 more clients: b without approval yet; c busy with run r-1; d outside hours until 22:00; e not online; "
        "f without an answer yet",
    ),
    (
        {"minimum": 1, "ready": ["a"], "pending": ["b"], "offline": ["c"]},
        "waits for clients: b without approval yet; c not online",
    ),
]


@pytest.mark.parametrize(("facts", "words"), WORDS, ids=[w[1][:40] or "nothing" for w in WORDS])
def test_a_run_that_waits_says_exactly_for_what(facts, words):
    assert why_it_waits(Situation(**facts)) == words


def test_every_client_that_is_missing_is_named():
    missing = {
        "offline": ["o1", "o2"],
        "silent": ["s1"],
        "pending": ["p1", "p2"],
        "closed": {"c1": "1", "c2": "2"},
        "busy": {"b1": "r"},
        "blocked": {"x1": "y"},
    }
    for some in (missing, *({kind: value} for kind, value in missing.items())):
        words = why_it_waits(Situation(minimum=20, **some))
        assert all(client in words for clients in some.values() for client in clients)


def test_a_run_that_goes_on_says_without_whom():
    assert without_whom({}) == ""
    told = without_whom({"b": "clause hours", "a": "clause max_lora_rank: 4 is asked"})
    assert told == "goes on without a: clause max_lora_rank: 4 is asked; b: clause hours"
