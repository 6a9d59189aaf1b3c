"""The dashboard of a real coordinator: its address, links in the caller's role, a run as it goes, revocation, TLS."""

import json
import re
import ssl
from contextlib import contextmanager

import httpx
import pytest

from coordinator.authority import ensure_authority, issue_identity
from coordinator.dashboard.server import DashboardError, serving_dashboard
from coordinator.rpc.identity import LOCAL_OPERATOR
from coordinator.storage.where import open_store
from motet.addresses import known_addresses

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("federation")]


def link(federation, *where):
    done = federation.motet("dashboard", *where, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["url"]


@contextmanager
def entered(url):
    with httpx.Client(base_url=url.split("/enter")[0], timeout=60.0) as client:
        assert client.get(url).status_code == 200
        yield client


def test_a_coordinator_shows_its_run_and_its_clients_to_who_has_a_link(federation, recipe_file):
    address = known_addresses(federation.place).dashboard
    url = link(federation, "--home", federation.place)
    assert url.startswith(f"http://{address}/enter?key=")
    row = federation.finish(recipe_file("shown", rounds=2))
    with entered(url) as client:
        text = client.get(f"/runs/{row.run_id}").text
        assert "finished" in text
        assert 'id="fig-timeline"' in text
        told = client.get(f"/runs/{row.run_id}/run.json").json()
        assert [a["state"] for a in told["attempts"]] == ["CLOSED", "CLOSED"]
        assert {c["client_id"]: c["rank"] for c in told["clients"]} == {"a": 1, "b": 4, "c": 7}
        clients = client.get("/clients.json").json()
        presence = {c["client_id"]: c["presence"] for c in clients["clients"]}
        assert {name: presence[name] for name in "abc"} == dict.fromkeys("abc", "online")
        assert clients["online"] == list(presence.values()).count(
            "online"
        )  # other tests register clients as well
        assert "federation" in client.get("/").text.lower()
    assert httpx.get(f"http://{address}/", timeout=60.0).status_code == 401
    assert url not in federation.log("coordinator"), "a link is a secret"


def test_a_person_elsewhere_sees_its_role_and_is_out_when_it_is_revoked(federation, tmp_path):
    control = known_addresses(federation.place).control
    issue_identity(federation.place, "researcher", "ann", tmp_path / "ann")
    url = link(federation, "--coordinator", control, "--identity", tmp_path / "ann")
    with entered(url) as ann:
        text = ann.get("/").text
        assert "researcher/ann" in text
        assert ann.get("/ledger/entries.jsonl?start=0&end=1").status_code == 403
        done = federation.motet("ca", "revoke", "ann", "--home", federation.place)
        assert done.returncode == 0, done.stderr
        assert ann.get("/").status_code == 401
    refused = federation.motet("dashboard", "--coordinator", control, "--identity", tmp_path / "ann")
    assert refused.returncode == 7


def test_off_loopback_it_is_served_over_tls_under_the_names_of_the_certificate(tmp_path):
    home = tmp_path / "home"
    ensure_authority(home, names=["fed.example.org"])
    open_store(home).close()
    with serving_dashboard(home, "0.0.0.0:0", names=["fed.example.org"]) as shown:
        port = shown.address.rpartition(":")[2]
        assert shown.url == f"https://fed.example.org:{port}/"
        trust = ssl.create_default_context(cafile=str(home / "tls" / "ca.crt"))
        key = shown.link(LOCAL_OPERATOR)[0].rpartition("=")[2]
        with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=trust, timeout=60.0) as client:
            answer = client.get(f"/enter?key={key}", headers={"host": f"fed.example.org:{port}"})
            assert "secure" in answer.headers["set-cookie"].lower()
            assert client.get("/", headers={"host": f"10.0.0.7:{port}"}).status_code == 421
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{port}/", timeout=60.0)


def test_a_free_port_is_kept_and_a_taken_one_is_told(tmp_path):
    home = tmp_path / "home"
    open_store(home).close()
    with (
        serving_dashboard(home, "127.0.0.1:0") as shown,
        pytest.raises(DashboardError, match="can not listen"),
        serving_dashboard(home, shown.address),
    ):
        pass


def test_a_folder_that_nobody_serves_is_shown_by_the_command_itself(tmp_path, federation):
    inner = tmp_path / "sim" / "runs" / "federated"
    store = open_store(inner)
    store.close()
    (tmp_path / "sim" / "result.json").write_text("{}")
    running = federation.spawn("shown-folder", "dashboard", "--home", tmp_path / "sim")
    federation.wait(
        lambda: "until Ctrl-C" in federation.log("shown-folder"), "the link", 120, needs=("shown-folder",)
    )
    url = re.search(r"http://\S+", federation.log("shown-folder"))[0]
    with entered(url) as client:
        assert "No run yet" in client.get("/").text
    running.terminate()
    assert running.wait(30) == 0
