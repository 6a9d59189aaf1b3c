"""The grid over Flower, with a link of this test's: which replies it believes, and whom it no longer speaks to."""

import logging

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from enrolling import public_pem
from envelopes import order_digest, order_for
from fake_superlink import FEDERATION, Site
from small_federation import RECIPE

from coordinator.engine.grid import GridFailure
from motet.recipe import parse_recipe
from motet.wire.envelopes import seal_reply
from motet.wire.messages import TrainReply

SECRET = "what a reply holds"
SECRET_BYTES = SECRET.encode()


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    yield made
    made.store.close()


def test_a_reply_that_its_client_signed_as_an_answer_to_this_order_is_believed(site):
    order, message_id, carrier = site.send()
    site.link.bring(carrier, site.seal(order, SECRET_BYTES))
    assert site.outcome(message_id).payload == SECRET.encode()


def forgeries(site, order):
    """Name -> what comes in the place of an honest reply, and the code that it is refused with."""
    honest = site.seal(order, SECRET_BYTES)
    return {
        "another client's key": (site.seal(order, SECRET_BYTES, key=site.keys["b"]), "bad_signature"),
        "another federation": (site.seal(order, SECRET_BYTES, federation="f-9"), "bad_signature"),
        "another run": (
            site.seal(order, SECRET_BYTES, answered=order_for("a", run_id="r-9")),
            "bad_signature",
        ),
        "another round": (
            site.seal(order, SECRET_BYTES, answered=order_for("a", round_index=9)),
            "bad_signature",
        ),
        "another attempt": (
            site.seal(order, SECRET_BYTES, answered=order_for("a", attempt=9)),
            "bad_signature",
        ),
        "another order of the round": (
            site.seal(order, SECRET_BYTES, answered=order_for("a", payload=b"x")),
            "bad_signature",
        ),
        "a changed byte": (honest[:20] + bytes([honest[20] ^ 1]) + honest[21:], "bad_signature"),
        "no signature": (honest[:-98], "unsigned"),
        "nothing": (b"", "unsigned"),
        "no envelope": (b"\xff\xff", "malformed_reply"),
    }


def test_whatever_else_comes_is_refused_before_it_is_parsed_and_without_a_word_of_it(
    site, caplog, monkeypatch
):
    parsed = []
    monkeypatch.setattr("coordinator.engine.flower_grid.decode_reply", parsed.append)
    caplog.set_level(logging.DEBUG)
    for what in forgeries(site, order_for("a")):
        order, message_id, carrier = site.send()
        data, code = forgeries(site, order)[what]
        site.link.bring(carrier, data)
        refused = site.outcome(message_id)
        assert isinstance(refused, GridFailure), what
        assert refused.code == code, what
        assert SECRET not in refused.message
    assert parsed == []
    assert SECRET not in caplog.text
    assert "a reply of client a is refused" in caplog.text


def test_bytes_that_a_client_signed_and_that_are_no_reply_are_its_failure(site):
    order, message_id, carrier = site.send()
    data = seal_reply(site.keys["a"], FEDERATION, order, order_digest(order), b"\xff\xff")
    site.link.bring(carrier, data)
    assert site.outcome(message_id).code == "malformed_reply"


def lost_and_sent_again(site, run_id="r-1"):
    """An order whose first carrier was called lost; both carriers."""
    order, message_id, first = site.send(run_id=run_id)
    site.time += 10
    site.grid.collect([message_id])  # asks after it
    question = max((q for q in site.link.pushed if q.startswith("q")), key=lambda q: int(q[1:]))
    site.link.bring(question, b"lost")
    site.grid.collect([message_id])
    second = f"c{len(site.link.pushed) - 1}"
    assert second != first
    return order, message_id, first, second


def equivocations(site, run_id):
    return {m.name: m.value for m in site.store.metrics(run_id)}.get("equivocations", 0)


def test_one_order_that_is_answered_in_two_ways_is_recorded_as_an_equivocation(site, caplog):
    run_id = site.store.submit_run(parse_recipe(RECIPE))
    order, message_id, first, second = lost_and_sent_again(site, run_id)
    site.link.bring(second, site.seal(order, b"one"))
    assert site.outcome(message_id).payload == b"one"
    site.link.bring(first, site.seal(order, b"two"))
    assert site.grid.collect([]) == []
    assert equivocations(site, run_id) == 1
    assert "answered one order" in caplog.text
    order, message_id, first, second = lost_and_sent_again(site, run_id)
    site.link.bring(first, site.seal(order, b"one"))
    site.link.bring(second, site.seal(order, b"two"))
    assert site.outcome(message_id).payload in {b"one", b"two"}
    assert equivocations(site, run_id) == 2


def test_the_same_answer_twice_and_a_forged_second_one_are_no_equivocation(site):
    run_id = site.store.submit_run(parse_recipe(RECIPE))
    order, message_id, first, second = lost_and_sent_again(site, run_id)
    for carrier in (first, second):
        site.link.bring(carrier, site.seal(order, b"one"))
    assert site.outcome(message_id).payload == b"one"
    order, message_id, first, second = lost_and_sent_again(site, run_id)
    site.link.bring(first, site.seal(order, b"one"))
    assert site.outcome(message_id).payload == b"one"
    site.link.bring(second, site.seal(order, b"two", key=site.keys["b"]))
    site.grid.collect([])
    assert equivocations(site, run_id) == 0


def test_a_revoked_client_is_signed_off_and_its_answer_is_refused_though_it_is_signed(site, caplog):
    order, message_id, carrier = site.send()
    node = site.link.pushed[carrier][0]
    site.store.identities.revoke_name("a", "stolen")
    site.link.bring(carrier, site.seal(order, SECRET_BYTES))
    refused = dict(site.grid.collect([message_id]))[message_id]
    assert refused.code == "revoked"
    assert site.link.off == [node]
    assert set(site.grid.online()) == {"b"}
    assert "client a is revoked" in caplog.text
    _, message_id, _ = site.send()
    assert len(site.link.pushed) == 1  # no further order left
    assert site.outcome(message_id).code == "revoked"


def test_a_client_that_was_revoked_while_the_coordinator_was_away_is_signed_off_at_its_start(site):
    node = site.link.nodes[public_pem(site.keys["a"])]
    site.store.identities.revoke_name("a")
    assert set(site.new_grid().online()) == {"b"}
    assert site.link.off == [node]


def test_a_client_that_comes_back_with_a_new_key_is_believed_by_that_key_alone(site):
    old = site.keys["a"]
    site.store.identities.revoke_name("a")
    site.grid.online()
    site.keys["a"] = ec.generate_private_key(ec.SECP384R1())
    site.store.register_client("a", public_pem(site.keys["a"]))
    assert set(site.grid.online()) == {"a", "b"}
    for key, believed in ((old, False), (None, True)):
        order, message_id, carrier = site.send()
        site.link.bring(carrier, site.seal(order, SECRET_BYTES, key=key))
        assert isinstance(site.outcome(message_id), TrainReply) is believed
