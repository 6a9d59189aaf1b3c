"""The coordinator's side of Flower: how soon the rest of a reply is looked for."""

import pytest
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse

from coordinator.engine import flower_link

LATER = PullObjectResponse(object_found=True, object_available=False)
THERE = PullObjectResponse(object_found=True, object_available=True, object_content=b"part")
NEVER = PullObjectResponse(object_found=False)


@pytest.fixture
def waits(monkeypatch):
    waited = []
    monkeypatch.setattr(flower_link.time, "sleep", waited.append)
    return waited


def answers(*given):
    left = list(given)
    return flower_link.soon(lambda _request: left.pop(0)), left


def test_a_part_that_is_still_being_uploaded_is_looked_for_again_within_a_tenth_of_a_second(waits):
    pull, left = answers(LATER, THERE)
    assert pull(PullObjectRequest()) == THERE
    assert not left
    assert 0 < sum(waits) <= 0.1


@pytest.mark.parametrize("answer", [THERE, NEVER])
def test_a_part_that_is_there_or_unknown_is_not_waited_for(waits, answer):
    pull, _ = answers(answer)
    assert pull(PullObjectRequest()) == answer
    assert waits == []


def test_a_slow_upload_is_left_to_flowers_own_patience_after_less_than_a_second(waits):
    looks = len(flower_link.UPLOAD_LOOKS_S) + 1
    pull, left = answers(*[LATER] * looks)
    assert pull(PullObjectRequest()) == LATER
    assert not left
    assert sum(waits) < 1
