"""Token, enrolment, a running client, people with roles, and revocation: with real processes, as people type it."""

import json

import grpc
import pytest

import motet
from motet.connection.errors import NotAllowedError, NotAuthenticatedError, UnreachableError
from motet.identity import load_identity
from motet.wire.v1 import control_pb2, control_pb2_grpc


def typed(deployment, *arguments):
    done = deployment.motet(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def a_researchers_run_waits_for_the_operator(deployment):
    ann, recipe = deployment.home / "ann-of-research", deployment.home / "proposed.yaml"
    recipe.write_text(
        "name: proposed\nbase_model: {tiny: tiny-bert}\ntask: {kind: sequence-classification, num_labels: 2}\n"
        "data: {path: x.jsonl}\nmethod: {name: flora}\ncohort: {clients: [nobody], minimum: 1}\n"
    )
    typed(
        deployment,
        "ca",
        "issue",
        "--role",
        "researcher",
        "--name",
        "ann",
        "--out",
        ann,
        "--home",
        deployment.place,
    )
    as_ann = ("--coordinator", load_identity(ann).control, "--identity", ann)
    run_id = json.loads(typed(deployment, "run", "submit", recipe, *as_ann, "--json"))["run_id"]
    refused = deployment.motet("run", "approve", run_id, *as_ann)
    assert refused.returncode != 0
    assert "Traceback" not in refused.stderr
    shown = json.loads(typed(deployment, "run", "show", run_id, *as_ann, "--json"))
    assert (shown["state"], shown["reason"]) == (
        "PROPOSED",
        f"waits for an operator: motet run approve {run_id}",
    )
    typed(deployment, "run", "approve", run_id, "--home", deployment.place)
    assert deployment.store.get_run(run_id).state in {"QUEUED", "RUNNING"}
    typed(deployment, "run", "cancel", run_id, *as_ann)


def strangers_may_only_enrol(deployment):
    shown = json.loads(typed(deployment, "ca", "show", "--json", "--home", deployment.place))
    ca = (deployment.place / "tls/ca.crt").read_bytes()
    with grpc.secure_channel(shown["enrolment"], grpc.ssl_channel_credentials(ca)) as channel:
        enrolment = control_pb2_grpc.EnrolmentServiceStub(channel)
        for call, request in (
            (enrolment.IssueToken, control_pb2.IssueTokenRequest(name="ward-x")),
            (enrolment.Renew, control_pb2.RenewRequest()),
            (enrolment.RevokeIdentity, control_pb2.RevokeIdentityRequest(name="ann")),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                call(request, timeout=20)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        with pytest.raises(grpc.RpcError) as refused:
            enrolment.Enrol(control_pb2.EnrolRequest(token="mt1.nothing"), timeout=20)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_data_owner_joins_with_a_token_alone_and_is_out_when_it_is_revoked(deploy, shards):
    deployment = deploy()
    deployment.options = (*deployment.options, "--approve-runs")
    place, ward = ("--home", deployment.place), deployment.client_home("ward-a")
    deployment.start_coordinator()
    token = deployment.home / "ward-a.token"
    typed(deployment, "ca", "token", "--client", "ward-a", "--out", token, *place)
    typed(deployment, "client", "enrol", "--token-file", token, "--home", ward)
    assert [c.client_id for c in deployment.store.clients()] == ["ward-a"]
    connected = deployment._next_line("ward-a", "is connected")
    start = ("client", "start", "--data", shards / "a.jsonl", "--home", ward, "--verbose")
    deployment.spawn("ward-a", *start)
    deployment.wait(connected, "ward-a connected", 60, needs=("ward-a", "coordinator"))
    with motet.connect(identity=ward / "identity") as own:
        assert own.clients.get("ward-a").client_id == "ward-a"
        with pytest.raises(NotAllowedError):
            own.clients.list()
        with motet.connect(home=deployment.place) as operator:
            assert [r.name for r in operator.identities.list() if r.role == "client"] == ["ward-a"]
            assert "mt1." not in repr(made := operator.identities.token("ward-b", lifetime_s=60))
            assert made.token.startswith("mt1.")
            operator.identities.revoke("ward-b")
        deployment.wait(lambda: own.clients.get("ward-a").is_online, "ward-a is seen", 60)
        deployment.wait(lambda: deployment.store.clients()[0].last_seen_at, "when it was seen is kept", 60)
        assert typed(deployment, "coordinator", "clients", *place) == "ward-a (online)\n"
        typed(deployment, "ca", "revoke", "ward-a", "--reason", "stolen", *place)
        with pytest.raises(
            NotAuthenticatedError
        ):  # the connection is still open; the certificate is not believed
            own.clients.get("ward-a")
    deployment.wait(lambda: "ward-a is revoked" in deployment.log("coordinator"), "ward-a signed off", 60)
    deployment.wait(
        lambda: "ward-a (last seen 2" in typed(deployment, "coordinator", "clients", *place), "it is gone", 60
    )
    again = deployment.motet("client", "enrol", "--token-file", token, "--home", ward)
    assert again.returncode == 7
    strangers_may_only_enrol(deployment)
    a_researchers_run_waits_for_the_operator(deployment)
    for word in (token.read_text()[8:60], "PRIVATE"):
        assert word not in deployment.tails()


@pytest.mark.slow
def test_people_have_their_role_and_the_addresses_outlive_a_restart(deploy):
    deployment = deploy()
    place, ann = ("--home", deployment.place), deployment.home / "ann"
    deployment.start_coordinator()
    typed(deployment, "ca", "issue", "--role", "auditor", "--name", "ann", "--out", ann, *place)
    shown = json.loads(typed(deployment, "ca", "show", "--json", *place))
    assert load_identity(ann).control == shown["control"]
    with motet.connect(identity=ann) as seen:
        assert seen.clients.list() == ()
    deployment.terminate("coordinator")
    deployment.start_coordinator()
    assert json.loads(typed(deployment, "ca", "show", "--json", *place)) == shown
    with motet.connect(identity=ann) as seen:
        assert seen.clients.list() == ()
    deployment.terminate("coordinator")
    with pytest.raises(UnreachableError), motet.connect(identity=ann) as gone:
        gone.clients.list()
