"""The 24 classes of bad input, each by its number: refused by a code, quickly, in little memory, with nothing changed.

Classes 1 to 17 are payloads that an admitted client signs; they go through a whole round. 18 to 22 come at the gateway,
at the grid and at the control port. 23 has no secure sums to misuse yet. 24 comes at the ledger. What tests elsewhere
prove of a class is named beside it.

``LIMIT_S`` and ``LIMIT_BYTES`` are the promise; the default suite counts CPU-seconds and allows for a busy machine, the
slow test does neither.
"""

import asyncio
import dataclasses
import datetime
import json
import logging
import time
import tracemalloc

import grpc
import httpx
import pytest
from bad_payloads import PAYLOADS, SECRET, of_rank, scaled, valued
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from enrolling import Coordinator, Keys, request_pem
from envelopes import order_for
from fake_superlink import Site
from one_by_one import reply_received
from small_federation import RECIPE, SHAPE, honest_reply

from aggregation.errors import MalformedUpdateError
from aggregation.serialize import message_bytes, sha256_hex
from coordinator.engine import gateway
from coordinator.engine.admission import admit, expected_manifest
from coordinator.engine.grid import GridFailure
from coordinator.engine.reply_size import BESIDE, ReplySizes
from coordinator.errors import StorageError
from coordinator.registration import RegistrationError, admit_key
from coordinator.tls import key_usage, leaf_builder, load_authority
from motet.errors import MotetError
from motet.identity import identity_uri
from motet.recipe import canonical_json, parse_recipe, recipe_sha256
from motet.recipe.method import method_of
from motet.wire.codec import encode_reply
from motet.wire.v1 import control_pb2, control_pb2_grpc
from privacy.errors import PrivacyError
from privacy.events import PoissonGaussianEvent, event_from_json
from privacy.ledger.entries import Reserve, Settle, reservation_id, reserve_of

LIMIT_S, LIMIT_BYTES = 0.050, 16 << 20
PATIENCE = 20  # a busy machine
CLASSES = {
    1: "pickle bytes",
    2: "truncated",
    3: "trailing bytes",
    4: "length lie",
    5: "header bomb",
    6: "metadata bomb",
    7: "duplicate, unknown or missing key",
    8: "wrong dtype",
    9: "wrong shape or transposed",
    10: "wrong rank",
    11: "zero dimension",
    12: "shape overflow",
    13: "NaN",
    14: "infinity or denormals",
    15: "norm bomb",
    16: "hidden gauge",
    17: "compression bomb",
    18: "oversize message or slow loris",
    19: "replay",
    20: "stale round or attempt",
    21: "equivocation",
    22: "impersonation",
    23: "secure aggregation misuse",
    24: "ledger misuse",
}
ELSEWHERE = {
    18: "tests/unit/coordinator: test_gateway.py, test_flower_messages.py, test_patience.py",
    21: "tests/unit/coordinator/test_signed_replies.py",
    22: "tests/unit/motet/test_envelopes.py, tests/contract/test_identities.py",
    24: "tests/unit/privacy/ledger, tests/contract/test_store.py",
}
NOT_YET = {23: "there are no secure sums yet, so there is no share, mask or key to misuse"}
FEDIT = RECIPE.replace("{a: 1, b: 2, c: 3}", "3").replace("rounds: 3", "rounds: 1").replace("flora", "fedit")


def reply_with(order, payload):
    return dataclasses.replace(honest_reply(order), payload=payload, payload_sha256=sha256_hex(payload))


def an_order(**fields):
    recipe = parse_recipe(FEDIT)
    told = {"recipe_json": canonical_json(recipe), "recipe_sha256": recipe_sha256(recipe), "lora_rank": 3}
    return order_for("c", **told | fields), recipe


def refusal(reply, order, recipe, clock=time.thread_time):
    """Error, seconds and bytes of a refusal by the admission of whole updates; two refusals, one for each figure."""
    started = clock()
    with pytest.raises(MalformedUpdateError) as refused:
        admit(reply, order, recipe, method_of(recipe), SHAPE)
    seconds = clock() - started
    tracemalloc.start()
    try:
        with pytest.raises(MalformedUpdateError):
            admit(reply, order, recipe, method_of(recipe), SHAPE)
        return refused.value, seconds, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_every_class_has_its_number_and_its_tests():
    assert list(CLASSES) == list(range(1, 25))
    told = {number for number, *_ in PAYLOADS} | {10, 18, 19, 20, 21, 22, 24} | set(NOT_YET)
    assert told == set(CLASSES)


def test_an_honest_reply_is_admitted():
    """Positive control of every test below."""
    order, recipe = an_order()
    assert admit(honest_reply(order), order, recipe, method_of(recipe), SHAPE) == 3


@pytest.mark.parametrize(
    ("number", "what", "make", "code"), PAYLOADS, ids=[f"{n}-{w}" for n, w, *_ in PAYLOADS]
)
def test_a_bad_payload_is_refused_by_its_code_in_little_time_and_memory(number, what, make, code):
    order, recipe = an_order()
    reply = reply_with(order, make(honest_reply(order).payload))
    if len(reply.payload) > 1 << 17:  # far more than is expected: its length alone decides
        code = "too_large"
    refused, seconds, memory = refusal(reply, order, recipe)
    assert refused.code == code
    assert seconds < PATIENCE * LIMIT_S
    assert memory < LIMIT_BYTES
    assert len(refused.reason) < 300


def test_bad_payloads_change_nothing_are_counted_and_the_round_goes_on_without_them(federation, caplog):
    """All of them in one round, each from a client of its own, beside two honest ones."""
    caplog.set_level(logging.DEBUG)
    federation.submit(FEDIT.replace("[a, b, c]", "[a, b]"), run_id="r-clean")
    clean = federation.engine().run("r-clean")
    sent, names = {}, [f"bad-{place}" for place in range(len(PAYLOADS))]

    def bad(order):
        make = PAYLOADS[int(order.client_id.removeprefix("bad-"))][2]
        sent[order.client_id] = reply_with(order, make(honest_reply(order).payload))
        return sent[order.client_id]

    federation.grid.clients = ["a", "b", *names]
    federation.grid.handlers = dict.fromkeys(names, bad)
    run = federation.submit(FEDIT.replace("[a, b, c]", f"[a, b, {', '.join(names)}]"))
    result = federation.engine().run(run)
    rows = {c.client_id: c for c in federation.store.contributions(run)}
    for name, (_, what, *_) in zip(names, PAYLOADS, strict=True):
        assert (rows[name].state, rows[name].payload_sha256) == ("FAILED", ""), what
        assert rows[name].error_code, what
        with pytest.raises(StorageError):
            federation.artifacts.get(sent[name].payload_sha256)
    assert {m.name: m.value for m in federation.store.metrics(run)}["refused_replies"] == len(PAYLOADS)
    assert result.adapter_sha256 == clean.adapter_sha256  # as if they had not been there
    assert caplog.text.count("refused") >= len(PAYLOADS)
    assert SECRET not in caplog.text
    assert "passwd" not in caplog.text


@pytest.mark.parametrize("lora_rank", [1, 2, 4, 64])
def test_10_an_update_of_another_rank_is_refused(lora_rank):
    order, recipe = an_order()
    refused, seconds, memory = refusal(reply_with(order, of_rank(lora_rank)(order)), order, recipe)
    assert refused.code in {"bad_shape", "too_large"}
    assert (seconds < PATIENCE * LIMIT_S, memory < LIMIT_BYTES) == (True, True)


def test_14_denormals_are_numbers_and_cost_no_more_than_others():
    order, recipe = an_order()
    payload = valued(*[1e-45] * 16)(honest_reply(order).payload)
    started = time.thread_time()
    assert admit(reply_with(order, payload), order, recipe, method_of(recipe), SHAPE) == 3
    assert time.thread_time() - started < PATIENCE * LIMIT_S


def test_16_factors_that_hide_behind_their_product_count_in_part_where_factors_are_averaged(federation):

    def answer(order):
        return reply_with(order, scaled(1e9)(honest_reply(order).payload))

    federation.grid.handlers = {"c": answer}
    run = federation.submit(FEDIT)
    federation.engine().run(run)
    rows = {c.client_id: c for c in federation.store.contributions(run)}
    assert rows["c"].outcome == "clipped"
    (closed,) = federation.store.closed_rounds(run)
    state = federation.artifacts.load_state(closed.adapter_sha256)
    assert max(float(p.B.abs().max()) for p in state.lora.values()) < 1e3


# -- 18: at the gateway -----------------------------------------------------------------------------------------------


def asked(app, length, receive):
    sent = []
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/fleet/push-messages",
        "raw_path": b"/v1/fleet/push-messages",
        "headers": [(b"content-length", str(length).encode())],
    }

    async def send(told):
        sent.append(told)

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"]


def test_18_a_body_over_the_limit_is_refused_before_a_byte_of_it_is_read():
    async def never():
        raise AssertionError("the body was read")

    started = time.thread_time()
    assert asked(gateway.FleetOnly(None), gateway.MAX_BODY_BYTES + 1, never) == 413
    assert time.thread_time() - started < PATIENCE * LIMIT_S


def test_18_a_reply_may_have_the_size_that_its_order_makes_and_what_is_larger_is_not_fetched():
    order, _ = an_order()
    sizes = ReplySizes(lambda _recipe: SHAPE)
    most = sizes(order)
    assert BESIDE < most < BESIDE + (1 << 17)
    assert len(encode_reply(honest_reply(order))) < most
    assert sizes(dataclasses.replace(order, asks_rank=True)) == BESIDE
    larger = dataclasses.replace(order, lora_rank=300)
    assert sizes(larger) - most == message_bytes(
        expected_manifest(method_of(parse_recipe(FEDIT)), SHAPE, 300, 0)
    ) - message_bytes(expected_manifest(method_of(parse_recipe(FEDIT)), SHAPE, 3, 0))


def test_18_a_body_that_does_not_come_is_given_up(monkeypatch):
    monkeypatch.setattr(gateway, "SILENCE_S", 0.05)
    made = gateway.ReverseProxy("https://127.0.0.1:1/", None)

    async def upstream(request):
        await request.aread()
        raise AssertionError("the body arrived")

    made._client = httpx.AsyncClient(transport=httpx.MockTransport(upstream))
    told = iter([{"type": "http.request", "body": b"x", "more_body": True}])

    async def drop_by_drop():
        for event in told:
            return event
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    started = time.perf_counter()
    assert asked(gateway.FleetOnly(made), 1000, drop_by_drop) == 408
    assert time.perf_counter() - started < 30


# -- 19 to 22: at the grid and at the control port -------------------------------------------------------------------


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    yield made
    made.store.close()


def refused_by_grid(site, order, message_id, carrier, data):
    """The failure that comes of ``data``; the store is as it was."""
    before = site.store.count_rows()
    site.link.bring(carrier, data)
    started = time.thread_time()
    outcome = site.outcome(message_id)
    assert time.thread_time() - started < PATIENCE * LIMIT_S
    assert isinstance(outcome, GridFailure)
    assert site.store.count_rows() == before
    assert SECRET not in outcome.message
    return outcome.code


def test_19_an_envelope_that_was_used_is_worth_nothing_for_the_next_order(site):
    order, message_id, carrier = site.send()
    used = site.seal(order, SECRET.encode())
    site.link.bring(carrier, used)
    assert site.outcome(message_id).payload == SECRET.encode()
    following = site.send(round_index=1)
    assert refused_by_grid(site, *following, used) == "bad_signature"


@pytest.mark.parametrize("stale", [{"round_index": 3}, {"attempt": 0}, {"run_id": "r-0"}], ids=str)
def test_20_an_answer_to_a_stale_round_attempt_or_run_is_refused(site, stale):
    sent = site.send(round_index=4, attempt=1)
    old = order_for("a", **{"round_index": 4, "attempt": 1} | stale)
    assert refused_by_grid(site, *sent, site.seal(old, SECRET.encode())) == "bad_signature"


def test_21_a_second_answer_with_other_content_never_replaces_the_first(federation):
    """What the grid records of it: tests/unit/coordinator/test_signed_replies.py."""
    run = federation.submit(FEDIT)
    federation.engine().run(run)
    before = [(c.client_id, c.state, c.payload_sha256) for c in federation.store.contributions(run)]
    reply_received(
        federation.store, run, 0, 0, "c", payload_sha256="e" * 64, bytes_up=1, weight=1.0, num_examples=1
    )
    assert [(c.client_id, c.state, c.payload_sha256) for c in federation.store.contributions(run)] == before


@pytest.mark.parametrize("field", ["run_id", "round_index", "attempt", "client_id"])
def test_22_a_signed_reply_that_names_another_order_is_refused(field):
    order, recipe = an_order()
    wrong = {"run_id": "../../etc", "round_index": 9, "attempt": 9, "client_id": "' OR 1=1 --"}[field]
    refused, seconds, _ = refusal(dataclasses.replace(honest_reply(order), **{field: wrong}), order, recipe)
    assert refused.code == "wrong_envelope"
    assert seconds < PATIENCE * LIMIT_S
    assert "etc" not in refused.reason
    assert "OR 1=1" not in refused.reason


def test_22_one_clients_answer_in_anothers_place_is_refused(site):
    order, message_id, carrier = site.send("a")
    assert (
        refused_by_grid(site, order, message_id, carrier, site.seal(order, key=site.keys["b"]))
        == "bad_signature"
    )


@pytest.fixture(scope="module")
def control(tmp_path_factory):
    made = Coordinator(tmp_path_factory.mktemp("control") / "home")
    yield made
    made.close()


def certificate(folder, key, *, federation, usage=ExtendedKeyUsageOID.CLIENT_AUTH, days=1):
    """By the authority of ``folder``: what a thief of its key, or a mistake, would make."""
    ca, ca_key = load_authority(folder / "tls")
    now = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=30)
    uri = x509.UniformResourceIdentifier(identity_uri(federation, "client", "ward-a"))
    built = leaf_builder(ca.subject, ca.subject, key.public_key(), now, datetime.timedelta(days=30 + days))
    return (
        built.add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(key_usage(sign_certificates=False), critical=True)
        .sign(ca_key, hashes.SHA256())
    )


@pytest.mark.parametrize(
    "what", ["another authority", "expired", "a server's certificate", "revoked", "unrecorded"]
)
def test_22_a_wrong_certificate_reaches_nothing(control, tmp_path, what):
    keys, theirs = Keys(), control.home
    if what == "another authority":
        stranger = Coordinator(tmp_path / "stranger")
        stranger.close()
        theirs = stranger.home
    days = -5 if what == "expired" else 1
    usage = (
        ExtendedKeyUsageOID.SERVER_AUTH
        if what == "a server's certificate"
        else ExtendedKeyUsageOID.CLIENT_AUTH
    )
    made = certificate(theirs, keys.own, federation=control.authority.federation, usage=usage, days=days)
    chain = made.public_bytes(serialization.Encoding.PEM)
    if what == "revoked":
        chain = control.enrolment.enrol(keys.request(control.token("ward-r"))).certificate_pem.encode()
        control.store.identities.revoke_name("ward-r")
    key = keys.own.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    before = control.store.count_rows(), len(control.store.identities.certificates())
    credentials = grpc.ssl_channel_credentials((control.home / "tls/ca.crt").read_bytes(), key, chain)
    with grpc.secure_channel(control.control, credentials) as channel:
        stub = control_pb2_grpc.EnrolmentServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.Renew(control_pb2.RenewRequest(csr_pem=request_pem(keys.own)), timeout=20)
    wanted = (
        grpc.StatusCode.PERMISSION_DENIED
        if what in {"revoked", "unrecorded"}
        else grpc.StatusCode.UNAVAILABLE
    )
    assert refused.value.code() == wanted
    assert (control.store.count_rows(), len(control.store.identities.certificates())) == before


STRANGE_NAMES = [
    "../ward-a",
    "ward-a\x00",
    "ward-a\n",
    "w\u0430rd-a",
    "ward-a'; DROP TABLE clients; --",
    "ward a",
    "",
    "a" * 64,
]


@pytest.mark.parametrize("name", STRANGE_NAMES, ids=ascii)
def test_22_names_with_paths_nulls_look_alikes_or_sql_are_no_names(control, name):
    before = control.store.count_rows()
    with pytest.raises(MotetError):
        control.token(name)
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(MotetError):
        control.authority.certify(key, "client", name, now=datetime.datetime.now(datetime.UTC))
    with pytest.raises(RegistrationError, match="is no name"):
        admit_key(control.store, name, b"")
    assert control.store.count_rows() == before


# -- 23 and 24 -------------------------------------------------------------------------------------------------------


def test_23_there_are_no_secure_sums_to_misuse_and_a_recipe_that_asks_for_them_is_refused():
    with pytest.raises(MotetError, match="secure"):
        parse_recipe(FEDIT + "secure_aggregation: {enabled: true}\n")
    assert list(NOT_YET) == [23]


EVENT = PoissonGaussianEvent(noise_multiplier=1.0, sampling_rate=0.1, num_steps=10)


@pytest.mark.parametrize(
    ("field", "value"),
    [("noise_multiplier", -1.0), ("noise_multiplier", "NaN"), ("sampling_rate", 2.0), ("num_steps", -1)],
)
def test_24_an_event_with_a_negative_or_no_number_is_refused(field, value):
    told = json.loads(EVENT.to_json()) | {field: value}
    with pytest.raises((PrivacyError, ValueError)):
        event_from_json(json.dumps(told).replace('"NaN"', "NaN"))


def test_24_an_outcome_without_its_charge_a_second_one_and_a_charge_of_another_size_are_refused(federation):
    run = federation.submit(FEDIT)
    store, name = federation.store, reservation_id(run, 0, 0, "a")
    before = store.count_rows()
    with pytest.raises(MotetError):  # nobody was charged: there is nothing to settle
        reply_received(store, run, 0, 0, "a", payload_sha256="0" * 64, bytes_up=1, weight=1.0, num_examples=0)
    assert store.count_rows() == before
    store.plan_round(run, 0, 0, start_sha256="0" * 64, deadline_s=5, ranks={"a": 3}, event=EVENT)
    reply_received(store, run, 0, 0, "a", payload_sha256="1" * 64, bytes_up=1, weight=1.0, num_examples=0)
    settled = len(store.ledger.leaves())
    reply_received(store, run, 0, 0, "a", payload_sha256="2" * 64, bytes_up=1, weight=1.0, num_examples=0)
    store.reply_failed(run, 0, 0, "a", code="late", message="")
    assert len(store.ledger.leaves()) == settled
    less = dataclasses.replace(reserve_of(run, 0, 0, "a", EVENT), event=EVENT.to_json().replace("10", "1"))
    for forged in (Settle(reservation_id=name, payload_sha256="2" * 64), less):
        with pytest.raises(MotetError), store._transaction() as session:
            store.ledger.record(session, [forged])
    assert isinstance(less, Reserve)
    assert len(store.ledger.leaves()) == settled


@pytest.mark.slow
def test_the_promise_of_50_ms_and_16_mib_is_kept_by_every_bad_payload():
    worst = {}
    for number, what, make, _ in PAYLOADS:
        order, recipe = an_order()
        reply = reply_with(order, make(honest_reply(order).payload))
        found = [refusal(reply, order, recipe, time.perf_counter) for _ in range(5)]
        worst[number, what] = min(s for _, s, _ in found), max(m for *_, m in found)
    assert {k: v for k, v in worst.items() if v[0] > LIMIT_S or v[1] > LIMIT_BYTES} == {}
    print(max(worst.items(), key=lambda kv: kv[1][0]), max(worst.items(), key=lambda kv: kv[1][1]))
