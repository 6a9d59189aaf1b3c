"""What the control API promises, over TLS and a real store: each call, each role, each refusal."""

import datetime
import threading
import time
from types import SimpleNamespace

import grpc
import pytest
from control_house import RECIPE, ROLES, house, play, submit, write_identity
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.authority import ensure_authority
from coordinator.rpc import interceptors
from coordinator.rpc.pages import token_after
from coordinator.rpc.roles import ALLOWED, may_call
from coordinator.rpc.server import called_methods
from motet.connection.channel import Channel
from motet.connection.connection import Connection
from motet.connection.errors import (
    BadRequestError,
    BusyError,
    DeadlineError,
    NotAllowedError,
    NotAuthenticatedError,
    RecipeRefusedError,
    ServerFaultError,
    UnreachableError,
)
from motet.connection.metadata import ERROR, REQUEST_ID
from motet.errors import (
    DatabaseAwayError,
    MotetError,
    NotFoundError,
    RunNotFoundError,
    StorageError,
    WrongStateError,
)
from motet.identity import Identity, load_identity
from motet.recipe import parse_recipe
from motet.wire.v1 import control_pb2

LEFT = ("/motet.v1.RunService/WatchRun", "CANCELLED")
NOBODY_MAY = {m for m in called_methods() if "EnrolmentService" in m}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with house(tmp_path_factory.mktemp("house")) as made:
        yield made


@pytest.fixture(scope="module")
def people(served):
    return {role: served.connect(role) for role in ROLES}


def refusal(connection, method, request=b"", *, timeout=20.0, metadata=()):
    """Status, detail and trailing metadata of a raw call; status OK when it was served."""
    channel = connection._channel._channel
    make = channel.unary_stream if is_stream(method) else channel.unary_unary
    call = make(method, request_serializer=lambda b: b, response_deserializer=lambda b: b)
    try:
        answer = call(request, timeout=timeout, metadata=metadata)
        if is_stream(method):
            next(iter(answer), None)
            answer.cancel()
    except grpc.RpcError as e:
        found = dict(e.trailing_metadata() or ())
        detail = control_pb2.ErrorDetail.FromString(found[ERROR]) if ERROR in found else None
        return e.code(), detail, found
    return grpc.StatusCode.OK, None, {}


def is_stream(method):
    return method.endswith(
        ("/WatchRun", "/DownloadArtifact", "/ExportAudit", "Health/Watch", "ServerReflectionInfo")
    )


# -- who may call ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_each_role_is_served_its_calls_and_refused_all_others(served, people, role):
    before = served.counts.refusals().get("NotAllowedError", 0)
    refused = 0
    for method in sorted(set(called_methods()) - NOBODY_MAY):
        status, detail, _ = refusal(people[role], method)
        if may_call(role, method):
            assert detail is None or detail.kind not in {"NotAuthenticatedError", "ServerFaultError"}, method
            assert detail is None or "role" not in detail.message, method
        else:
            refused += 1
            assert status is grpc.StatusCode.PERMISSION_DENIED, method
            assert (detail.kind, detail.exit_code) == ("NotAllowedError", 7)
    assert served.counts.refusals().get("NotAllowedError", 0) >= before + refused
    assert refused or role == "operator"


def test_a_role_that_is_taken_out_of_the_table_is_refused(served, people, monkeypatch):
    people["researcher"].runs.list()
    monkeypatch.setitem(ALLOWED, "/motet.v1.RunService/ListRuns", frozenset({"operator"}))
    with pytest.raises(NotAllowedError):
        people["researcher"].runs.list()
    people["operator"].runs.list()


def test_a_client_sees_itself_and_its_own_budget_only(served):
    submit(served, "r-own")
    play(served, "r-own")
    mine = served.connect("client", "a")
    assert [b.client_id for b in mine.budgets.list("a")] == ["a"]
    for call in (lambda: mine.budgets.list("b"), mine.budgets.list, lambda: mine.clients.get("b")):
        with pytest.raises(NotAllowedError):
            call()
    assert served.connect("auditor").budgets.list()


def raw(served, *, authority=None, role="operator", now=None, address=None, record=True):
    """A connection with a certificate that this house, or another one, has made."""
    authority = authority or served.authority
    key = ec.generate_private_key(ec.SECP256R1())
    issued = authority.certify(
        key.public_key(), role, "guest", now=now or datetime.datetime.now(datetime.UTC)
    )
    if record:
        served.store.identities.record(issued)
    folder = write_identity(
        served.home / "guests" / issued.serial, key, issued.pem, served.authority, role, "guest"
    )
    somebody = Identity(federation=authority.federation, role=role, name="guest", folder=folder)
    return Connection(Channel.secure(address or served.address, somebody)), issued


def test_a_peer_without_a_certificate_is_refused_and_counted(served):
    before = served.counts.refusals().get("handshake", 0)
    roots = (served.home / "tls/ca.crt").read_bytes()
    channel = grpc.secure_channel(served.address, grpc.ssl_channel_credentials(roots))
    with Connection(Channel(channel, served.address)) as nobody, pytest.raises(UnreachableError):
        nobody.runs.list()
    assert _until(lambda: served.counts.refusals().get("handshake", 0) > before)


def test_a_certificate_of_another_authority_is_refused_and_counted(served, tmp_path):
    before = served.counts.refusals().get("handshake", 0)
    connection, _ = raw(served, authority=ensure_authority(tmp_path / "other"))
    with connection, pytest.raises(UnreachableError):
        connection.runs.list()
    assert _until(lambda: served.counts.refusals().get("handshake", 0) > before)


def test_an_expired_certificate_is_refused_and_counted(served):
    before = served.counts.refusals().get("handshake", 0)
    long_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=60)
    connection, _ = raw(served, now=long_ago)
    with connection, pytest.raises(UnreachableError):
        connection.runs.list()
    assert _until(lambda: served.counts.refusals().get("handshake", 0) > before)


def test_a_certificate_that_ends_while_its_connection_lives_is_refused(served):
    connection, issued = raw(served)
    with connection:
        connection.runs.list()
        clock = served.resources.clock
        object.__setattr__(served.resources, "clock", _Later(issued.not_after + 1))
        try:
            with pytest.raises(NotAuthenticatedError, match="ended"):
                connection.runs.list()
        finally:
            object.__setattr__(served.resources, "clock", clock)
        connection.runs.list()


class _Later:
    def __init__(self, now):
        self.now = lambda: now
        self.monotonic = time.monotonic


def test_a_name_of_another_federation_is_refused_and_counted(served):
    before = served.counts.refusals().get("NotAuthenticatedError", 0)
    federation = served.resources.federation
    connection, _ = raw(served)
    object.__setattr__(served.resources, "federation", "f-another")
    try:
        with connection, pytest.raises(NotAuthenticatedError, match="nobody of this federation"):
            connection.runs.list()
    finally:
        object.__setattr__(served.resources, "federation", federation)
    assert served.counts.refusals()["NotAuthenticatedError"] == before + 1


def test_a_certificate_that_is_revoked_is_refused_from_the_next_call_on(served):
    connection, issued = raw(served)
    with connection:
        connection.runs.list()
        served.store.identities.revoke_serial(issued.serial)
        with pytest.raises(NotAuthenticatedError, match="revoked"):
            connection.runs.list()


def test_a_certificate_that_was_never_recorded_is_refused(served):
    connection, _ = raw(served, record=False)
    with connection, pytest.raises(NotAuthenticatedError):
        connection.runs.list()


# -- what is refused -------------------------------------------------------------------------------------------------


def test_a_request_that_is_too_large_is_refused_in_words_and_counted(served, people):
    before = served.counts.refusals().get("BusyError", 0)
    text = "x" * interceptors.LARGEST_REQUEST_BYTES
    with pytest.raises(BusyError, match="bytes"):
        people["operator"].recipes.check(text)
    assert served.counts.refusals()["BusyError"] == before + 1
    with pytest.raises(BusyError):
        people["operator"].recipes.check(text * 3)  # gRPC itself refuses this one, unread


def test_bytes_that_are_no_message_are_refused(served, people):
    status, detail, _ = refusal(people["operator"], "/motet.v1.RunService/GetRun", b"\xff\xff\xff")
    assert (status, detail.kind) == (grpc.StatusCode.INVALID_ARGUMENT, "BadRequestError")


@pytest.mark.parametrize("timeout", [None, interceptors.LONGEST_CALL_S + 60])
def test_a_call_without_a_deadline_or_with_one_too_far_is_refused(served, people, timeout):
    status, detail, _ = refusal(people["operator"], "/motet.v1.RunService/ListRuns", timeout=timeout)
    assert (status, detail.kind) == (grpc.StatusCode.INVALID_ARGUMENT, "BadRequestError")
    assert "deadline" in detail.message


def test_a_call_that_passes_its_deadline_ends_for_the_caller(served, people, monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(served.store, "list_runs", lambda: over.wait(30) or [])
    call = people["operator"].runs
    started = time.monotonic()
    with pytest.raises(DeadlineError):
        call._channel.call("RunService", "ListRuns", control_pb2.ListRunsRequest(), timeout_s=0.3)
    assert time.monotonic() - started < 20
    over.set()


def test_closing_a_connection_ends_the_calls_of_other_threads_first_and_takes_no_new_ones(
    served, monkeypatch
):
    over, came, ended = threading.Event(), threading.Semaphore(0), []
    monkeypatch.setattr(served.store, "list_runs", lambda: (came.release(), over.wait(60), [])[2])
    connection = served.connect("operator", "many")

    def call():
        with pytest.raises(MotetError):
            connection.runs.list()
        ended.append(time.monotonic())

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert came.acquire(timeout=60)
    connection.close()
    for thread in threads:
        thread.join(30)
    over.set()
    assert len(ended) == 3
    with pytest.raises(ValueError, match="closed"):
        connection.runs.list()


def test_no_call_has_the_blocking_form_for_which_a_channel_that_closes_does_not_wait():
    class Method:
        def __call__(self, *_given, **_options):
            raise AssertionError("the blocking form")

        def future(self, request, **_options):
            return SimpleNamespace(result=lambda: request)

    channel = Channel(None, "nowhere")
    channel._stubs["RunService"] = SimpleNamespace(ListRuns=Method())
    assert channel.call("RunService", "ListRuns", "a request") == "a request"


def test_a_recipe_that_is_refused_is_told_with_every_problem(people):
    with pytest.raises(RecipeRefusedError) as caught:
        people["operator"].recipes.check(
            RECIPE.replace("flora", "nothing").replace("rounds: 3", "rounds: -1")
        )
    assert "method" in caught.value.message
    assert "rounds" in caught.value.message
    assert caught.value.exit_code == 3


def test_a_fault_of_the_server_shows_no_traceback_no_value_and_no_path(served, people, monkeypatch, caplog):
    def broken():
        raise KeyError("secret-of-ward-a /srv/fed/motet.db")

    monkeypatch.setattr(served.store, "list_runs", broken)
    with pytest.raises(ServerFaultError) as caught:
        people["operator"].runs.list()
    said = f"{caught.value.message} {caught.value.hint}"
    assert "secret" not in said
    assert "/srv" not in said
    assert "Traceback" not in said
    assert caught.value.exit_code == 1
    request_id = caught.value.hint.split()[-1]
    assert any(request_id in r.getMessage() and r.exc_info for r in caplog.records)


def test_the_log_says_who_tried_what_its_role_does_not_have(people, caplog):
    with pytest.raises(NotAllowedError):
        people["researcher"].runs.approve("r-none")
    (line,) = [r.getMessage() for r in caplog.records if "ApproveRun" in r.getMessage()]
    assert " by researcher/" in line
    assert "NotAllowedError" in line


def test_a_fault_of_the_storage_tells_the_peer_no_path(served, people, monkeypatch):
    def full():
        raise StorageError("/srv/fed/artifacts/ab can not be written: disk full")

    monkeypatch.setattr(served.store, "list_runs", full)
    with pytest.raises(StorageError) as caught:
        people["operator"].runs.list()
    assert "/srv" not in f"{caught.value.message} {caught.value.hint}"
    assert caught.value.exit_code == 8


def test_the_request_id_of_the_caller_is_given_back_and_a_bad_one_is_not(people):
    for given, comes_back in (("mine-1", True), ("x" * 65, False), ("a b", False)):
        _, detail, found = refusal(
            people["operator"], "/motet.v1.RunService/GetRun", metadata=((REQUEST_ID, given),)
        )
        assert (detail.request_id == given) is comes_back
        assert found[REQUEST_ID] == detail.request_id


# -- what is served --------------------------------------------------------------------------------------------------


def test_a_run_is_submitted_listed_shown_and_cancelled(served, people, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    runs = people["operator"].runs
    first = runs.submit(path, run_id="r-mine")
    assert runs.submit(parse_recipe(RECIPE), run_id="r-mine").run_id == first.run_id
    assert (first.state, first.rounds_total, first.name) == ("QUEUED", 3, "shown")
    assert runs.get("r-mine") == first
    with pytest.raises(BadRequestError, match="another recipe"):
        runs.submit(parse_recipe(RECIPE.replace("shown", "other")), run_id="r-mine")
    assert first in runs.list(state="QUEUED")
    assert people["auditor"].recipes.get(first.recipe_sha256).name == "shown"
    ended = runs.cancel("r-mine")
    assert (ended.state, ended.cancel_requested, ended.has_ended) == ("CANCELLED", True, True)
    with pytest.raises(RunNotFoundError, match="r-none"):
        runs.get("r-none")


def test_a_run_that_is_held_starts_at_a_word_and_is_cancelled_without_one(served, people):
    runs = people["operator"].runs
    held = runs.submit(parse_recipe(RECIPE), run_id="r-held", hold=True)
    assert (held.state, held.waiting_for) == ("HELD", ("waits for a word to start: motet run start r-held",))
    assert "r-held" not in [run.run_id for run in served.store.open_runs()]
    with pytest.raises(WrongStateError, match="HELD and waits for no operator"):
        runs.approve("r-held")
    with pytest.raises(NotAllowedError, match="somebody else"):
        people["researcher"].runs.start("r-held")
    assert [runs.start("r-held").state for _ in range(2)] == ["QUEUED", "QUEUED"]
    assert "r-held" in [run.run_id for run in served.store.open_runs()]
    runs.submit(parse_recipe(RECIPE), run_id="r-never", hold=True)
    assert runs.cancel("r-never").state == "CANCELLED"
    with pytest.raises(WrongStateError, match="is CANCELLED"):
        runs.start("r-never")


def test_a_researchers_run_waits_for_an_operator_where_the_coordinator_asks_for_it(people, tmp_path):
    free = people["researcher"].runs.submit(parse_recipe(RECIPE), run_id="r-free")
    assert free.state == "QUEUED"  # nobody asks for it there
    with house(tmp_path, asks_operator=True) as strict:
        researcher, auditor, operator = (
            strict.connect(role).runs for role in ("researcher", "auditor", "operator")
        )
        asked = researcher.submit(parse_recipe(RECIPE), run_id="r-asked", hold=True)
        assert (asked.state, asked.reason) == (
            "PROPOSED",
            "waits for an operator: motet run approve r-asked",
        )
        assert strict.store.open_runs() == []
        for refused in (researcher.approve, auditor.approve):
            with pytest.raises(NotAllowedError):
                refused("r-asked")
        with pytest.raises(WrongStateError, match="waits for an operator"):
            researcher.start("r-asked")
        with pytest.raises(WrongStateError, match="another recipe"):
            operator.approve("r-asked", recipe_sha256="0" * 64)
        assert operator.approve("r-asked", recipe_sha256=asked.recipe_sha256).state == "QUEUED"
        assert operator.approve("r-asked").state == "QUEUED"
        assert [run.run_id for run in strict.store.open_runs()] == ["r-asked"]
        assert operator.submit(parse_recipe(RECIPE), run_id="r-own").state == "QUEUED"


def test_rounds_metrics_budgets_and_artifacts_are_those_of_the_store(served, people):
    submit(served, "r-seen")
    play(served, "r-seen")
    operator = people["operator"]
    (found,) = operator.rounds.list("r-seen")
    assert found == operator.rounds.get("r-seen", 0)
    assert (found.state, found.relative_error, found.truncation_error) == ("CLOSED", 0.25, None)
    assert [(c.client_id, c.state, c.bytes_up) for c in found.contributions] == [
        ("a", "RECEIVED", 7),
        ("b", "FAILED", 0),
    ]
    assert operator.metrics.list("r-seen", name="relative_error")[0].value == 0.25
    assert {b.client_id for b in operator.budgets.list()} >= {"a", "b"}
    assert operator.runs.get("r-seen").rounds_closed == 1
    with pytest.raises(NotFoundError):
        operator.rounds.get("r-seen", 7)


def test_an_artifact_is_downloaded_whole_and_a_clients_update_is_not_served(served, people, tmp_path):
    from coordinator.storage.artifacts import ArtifactStore

    data = bytes(range(256)) * 3000
    artifacts = ArtifactStore(served.home / "artifacts")
    sha256, update = artifacts.put(data), artifacts.put(b"an update of one client")
    submit(served, "r-art")
    served.store.start_run("r-art")
    served.store.plan_round("r-art", 0, 0, start_sha256="0" * 64, deadline_s=5, ranks={"a": 2}, event=None)
    served.store.close_round("r-art", 0, 0, adapter_sha256=sha256, num_bytes=len(data), relative_error=0.0)
    told = []
    path = people["operator"].artifacts.download(
        sha256, tmp_path / "adapter", on_bytes=lambda *count: told.append(count)
    )
    assert path.read_bytes() == data
    assert told[-1] == (len(data), len(data))
    assert {of for _, of in told} == {len(data)}
    assert sha256 in {a.sha256 for a in people["operator"].artifacts.list()}
    with pytest.raises(NotFoundError):
        people["operator"].artifacts.download(update, tmp_path / "update")
    assert {p.name for p in tmp_path.iterdir()} == {"adapter"}
    artifacts.path_of(sha256).write_bytes(b"damaged")
    with pytest.raises(StorageError):
        people["operator"].artifacts.download(sha256, tmp_path / "adapter-2")


def test_pages_hold_every_row_once_also_when_rows_are_added_between(served, people):
    for n in range(5):
        submit(served, f"r-page-{n}")
    channel = people["operator"]._channel
    found, token = [], ""
    while True:
        request = control_pb2.ListRunsRequest(page_size=2, page_token=token)
        answer = channel.call("RunService", "ListRuns", request)
        assert len(answer.runs) <= 2
        if not found:
            submit(served, "r-page-5")
        found += [run.run_id for run in answer.runs]
        token = answer.next_page_token
        if not token:
            break
    assert found == [r.run_id for r in served.store.list_runs()]
    for bad in ("x", "e30=", token_after(("a", 1)), token_after((1.0,))):
        with pytest.raises(BadRequestError, match="token"):
            channel.call("RunService", "ListRuns", control_pb2.ListRunsRequest(page_token=bad))


def test_a_watch_tells_what_changes_and_ends_with_the_run(served, people):
    submit(served, "r-watched")
    events = []
    thread = threading.Thread(
        target=lambda: events.extend(people["researcher"].runs.watch("r-watched", timeout_s=60))
    )
    thread.start()
    assert _until(lambda: events)
    play(served, "r-watched")
    assert _until(lambda: any(e.round is not None and e.round.state == "CLOSED" for e in events))
    served.store.end_run("r-watched", "FINISHED", adapter_sha256="0" * 64)
    thread.join(60)
    assert not thread.is_alive()
    assert events[0].run.state == "QUEUED"
    assert events[-1].run.state == "FINISHED"
    assert [e.number for e in events] == sorted({e.number for e in events})


def test_a_watch_that_is_left_frees_its_thread(served, people):
    submit(served, "r-left")
    places = _places(people["operator"], "r-left")
    for _ in range(2):
        watches = [people["operator"].runs.watch("r-left") for _ in range(places)]
        for watch in watches:
            next(watch)
        with pytest.raises(BusyError):
            next(people["operator"].runs.watch("r-left"))
        for watch in watches:
            watch.close()
        assert _until(lambda: served.counts.calls().get(LEFT, 0) >= places)
        assert _until(lambda: _can_watch(people["operator"], "r-left"))


def _places(connection, run_id):
    from coordinator.rpc.server import MOST_STREAMS

    assert _until(lambda: _can_watch(connection, run_id))
    return MOST_STREAMS


def _can_watch(connection, run_id):
    watch = connection.runs.watch(run_id)
    try:
        next(watch)
    except BusyError:
        return False
    finally:
        watch.close()
    time.sleep(0.3)
    return True


def _until(condition, seconds=40.0):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_the_server_says_that_it_serves_and_whom(served, people):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    stub = health_pb2_grpc.HealthStub(people["client"]._channel._channel)
    assert (
        stub.Check(health_pb2.HealthCheckRequest(), timeout=20).status
        == health_pb2.HealthCheckResponse.SERVING
    )
    info = people["client"].system.info()
    assert (info.role, info.name, info.federation) == ("client", "somebody", served.authority.federation)
    assert people["client"].system.refused_calls() == {}
    assert people["operator"].system.refused_calls()


def test_reflection_is_off_unless_it_is_asked_for_and_then_for_operators(served, people, tmp_path):
    method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    assert refusal(people["operator"], method)[0] is grpc.StatusCode.UNIMPLEMENTED
    with house(tmp_path / "h", reflection=True) as other:
        assert refusal(other.connect("operator"), method)[0] is grpc.StatusCode.OK
        assert refusal(other.connect("auditor"), method)[0] is grpc.StatusCode.PERMISSION_DENIED


def test_a_stopping_server_ends_its_streams_and_says_that_it_leaves(tmp_path):
    with house(tmp_path) as other:
        submit(other, "r-1")
        connection = other.connect()
        watch = connection.runs.watch("r-1", away_s=0.1)
        next(watch)
        started = time.monotonic()
        other.server.stop(10.0)
        assert time.monotonic() - started < 8
        with pytest.raises(UnreachableError):
            list(watch)


def test_connections_that_say_nothing_do_not_stop_others(served, people):
    import socket

    host, port = served.address.split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(60)]
    try:
        for one in silent[::2]:
            one.send(b"\x16\x03\x01")  # the beginning of a handshake that does not go on
        started = time.monotonic()
        with Connection(
            Channel.secure(served.address, load_identity(served.identity("operator", "late")))
        ) as late:
            late.runs.list()
        assert time.monotonic() - started < 20
    finally:
        for one in silent:
            one.close()


def test_a_watch_outlives_a_database_that_is_away(served, people, monkeypatch):
    submit(served, "r-away")
    watch = people["operator"].runs.watch("r-away", timeout_s=60)
    assert next(watch).run.state == "QUEUED"
    looked = threading.Event()
    whole = served.store.get_run

    def away(run_id):
        looked.set()
        raise DatabaseAwayError("the server does not answer")

    monkeypatch.setattr(served.store, "get_run", away)
    assert looked.wait(40)
    monkeypatch.setattr(served.store, "get_run", whole)
    served.store.end_run("r-away", "CANCELLED", "asked")
    assert list(watch)[-1].run.state == "CANCELLED"
