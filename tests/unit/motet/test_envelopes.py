"""The envelope of a reply: good for one client, one order, one federation, and for exactly these bytes."""

import dataclasses
import hashlib

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from motet.wire.codec import encode_order, encode_reply
from motet.wire.envelopes import ENVELOPE_BYTES, EnvelopeError, open_reply, seal_reply, statement
from motet.wire.messages import TrainOrder, TrainReply
from motet.wire.v1 import round_pb2

KEY, OTHER = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
FEDERATION = "f-0123"
ORDER = TrainOrder(
    run_id="r-1",
    round_index=3,
    attempt=1,
    client_id="ward-a",
    recipe_json="{}",
    recipe_sha256="0" * 64,
    lora_rank=4,
    reservation_id="",
    payload=b"start",
    payload_sha256="1" * 64,
)
REPLY = encode_reply(
    TrainReply(run_id="r-1", round_index=3, attempt=1, client_id="ward-a", payload=b"x" * 500)
)


def public(key):
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def digest(order):
    return hashlib.sha256(encode_order(order)).hexdigest()


def sealed(key=KEY, federation=FEDERATION, order=ORDER, reply=REPLY):
    return seal_reply(key, federation, order, digest(order), reply)


def opened(envelope, key=KEY, federation=FEDERATION, order=ORDER):
    return open_reply(public(key), federation, order, digest(order), envelope)


def test_a_sealed_reply_opens_to_the_same_bytes_and_sealing_again_makes_the_same_envelope():
    assert opened(sealed()) == REPLY
    assert sealed() == sealed()
    assert 96 < len(sealed()) - len(REPLY) <= ENVELOPE_BYTES


@pytest.mark.parametrize(
    "changes",
    [
        {"run_id": "r-2"},
        {"round_index": 4},
        {"attempt": 2},
        {"client_id": "ward-b"},
        {"payload": b"another start"},
        {"lora_rank": 8},
        {"reservation_id": "another"},
        {"counted_round": 1},
    ],
    ids=lambda c: next(iter(c)),
)
def test_an_answer_to_another_order_is_refused(changes):
    other = dataclasses.replace(ORDER, **changes)
    with pytest.raises(EnvelopeError) as refused:
        opened(sealed(order=other))
    assert refused.value.code == "bad_signature"
    assert opened(sealed(order=other), order=other) == REPLY  # positive control


def test_another_ones_key_and_another_federation_are_refused():
    for wrong in (sealed(key=OTHER), sealed(federation="f-0124")):
        with pytest.raises(EnvelopeError) as refused:
            opened(wrong)
        assert refused.value.code == "bad_signature"


def test_no_byte_of_a_reply_or_its_signature_can_be_changed():
    whole = round_pb2.SignedReply.FromString(sealed())
    for field, size in (("reply", len(REPLY)), ("signature", 96)):
        for place in range(0, size, 7):
            changed = round_pb2.SignedReply.FromString(sealed())
            value = bytearray(getattr(whole, field))
            value[place] ^= 1
            setattr(changed, field, bytes(value))
            with pytest.raises(EnvelopeError) as refused:
                opened(changed.SerializeToString())
            assert refused.value.code == "bad_signature"


def test_a_bare_reply_and_an_envelope_without_a_signature_are_unsigned():
    bare = round_pb2.SignedReply(reply=REPLY).SerializeToString()
    short = round_pb2.SignedReply(reply=REPLY, signature=b"s" * 95).SerializeToString()
    for wrong in (bare, short, b"", round_pb2.SignedReply().SerializeToString()):
        with pytest.raises(EnvelopeError) as refused:
            opened(wrong)
        assert refused.value.code == "unsigned"
    zero = round_pb2.SignedReply(reply=REPLY, signature=bytes(96)).SerializeToString()
    with pytest.raises(EnvelopeError) as refused:
        opened(zero)
    assert refused.value.code == "bad_signature"


def test_a_bare_reply_of_before_there_were_envelopes_is_refused():
    with pytest.raises(EnvelopeError) as refused:
        opened(REPLY)
    assert refused.value.code in {"malformed_reply", "unsigned"}


def test_bytes_that_are_no_envelope_or_hold_more_are_malformed():
    padded = sealed() + b"\x1a\xff\x01" + bytes(255)  # a field that nobody knows
    for wrong in (b"\xff\xff", padded):
        with pytest.raises(EnvelopeError) as refused:
            opened(wrong)
        assert refused.value.code == "malformed_reply"


def test_a_key_of_another_curve_signs_nothing():
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(EnvelopeError) as refused:
        open_reply(public(other), FEDERATION, ORDER, digest(ORDER), sealed())
    assert refused.value.code == "bad_signature"
    with pytest.raises(EnvelopeError):
        open_reply(b"no key\n", FEDERATION, ORDER, digest(ORDER), sealed())


def test_what_is_signed_is_text_that_a_stranger_can_rebuild():
    """The statement of docs/identity.md, byte for byte."""
    expected = (
        b'motet-reply/1\n{"attempt":1,"client_id":"ward-a","federation":"f-0123","order_sha256":"%s",'
        b'"reply_sha256":"%s","round_index":3,"run_id":"r-1"}'
    )
    told = (digest(ORDER).encode(), hashlib.sha256(REPLY).hexdigest().encode())
    assert statement(FEDERATION, ORDER, digest(ORDER), REPLY) == expected % told
