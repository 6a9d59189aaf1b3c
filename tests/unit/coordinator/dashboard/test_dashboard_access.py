"""Who gets in, who sees what, and what every answer carries."""

import re

import pytest
from dashboard_home import COOKIE, HOST, play, site, submit

from coordinator.dashboard import access, app
from coordinator.dashboard.access import PUBLIC, ROUTES, may_see
from coordinator.dashboard.app import Pages, routes_of
from coordinator.dashboard.rendering import asset
from coordinator.rpc.roles import ALLOWED, ROLES
from coordinator.rpc.server import called_methods

SECRET = "the-name-of-a-run"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with site(tmp_path_factory.mktemp("home")) as made:
        submit(made.store, "r-1", name=SECRET)
        play(made.store, "r-1")
        made.store.ledger.publish()
        yield made


def routes(served):
    return routes_of(Pages(served.records, served.sessions, None))


ASKS = {
    "ledger-entries": "?start=0&end=1",
    "ledger-hashes": "?start=0&end=1",
    "ledger-inclusion": "?sequence=0&size=1",
    "ledger-consistency": "?old_size=1&size=1",
}


def path_of(route):
    path = route.path.replace("{run_id}", "r-1").replace("{name}", "motet.css")
    return path + ASKS.get(route.name, "")


def test_every_route_is_public_by_name_or_has_the_calls_that_it_shows(served):
    names = {route.name for route in routes(served)}
    assert names == set(ROUTES) | PUBLIC
    assert frozenset({"enter", "static"}) == PUBLIC
    assert {call for calls in ROUTES.values() for call in calls} <= set(called_methods())


def test_nobody_sees_anything_without_a_session(served):
    for route in routes(served):
        if route.name in PUBLIC:
            continue
        method = "POST" if route.name == "leave" else "GET"
        for headers in ({}, {"cookie": f"{COOKIE}=made-up"}):
            answer = served.stranger.request(method, path_of(route), headers=headers)
            assert answer.status_code == 401, route.name
            assert SECRET not in answer.text


@pytest.mark.parametrize("role", ROLES)
def test_a_role_sees_the_pages_whose_calls_it_may_make_and_no_other(served, role):
    client = served.sign_in(role)
    for route in routes(served):
        if route.name in PUBLIC | {"leave"}:
            continue
        answer = client.get(path_of(route))
        assert answer.status_code == (200 if may_see(role, route.name) else 403), route.name


def test_a_call_that_is_taken_from_a_role_takes_the_page(served, monkeypatch):
    client = served.sign_in("auditor")
    assert client.get("/runs/r-1").status_code == 200
    monkeypatch.setitem(ALLOWED, "/motet.v1.MetricService/ListMetrics", frozenset({"operator"}))
    assert client.get("/runs/r-1").status_code == 403
    assert SECRET not in client.get("/runs/r-1").text
    assert served.sign_in("operator").get("/runs/r-1").status_code == 200


def test_a_route_without_an_entry_is_refused(served, monkeypatch):
    client = served.sign_in()
    monkeypatch.setattr(access, "ROUTES", {})
    assert client.get("/").status_code == 403


def test_a_link_opens_one_session_once_and_within_a_minute(served):
    key, until = served.sessions.link(served.peer())
    assert until == served.clock.now() + 60
    assert served.stranger.get(f"/enter?key={key}").status_code == 200
    again = served.client().get(f"/enter?key={key}")
    assert (again.status_code, COOKIE in again.cookies) == (401, False)
    late, _ = served.sessions.link(served.peer())
    served.clock.at += 61
    assert served.client().get(f"/enter?key={late}").status_code == 401
    assert served.client().get("/enter").status_code == 401


def test_the_cookie_is_kept_from_scripts_and_from_other_sites(served):
    key, _ = served.sessions.link(served.peer())
    told = served.client().get(f"/enter?key={key}").headers["set-cookie"].lower()
    assert "httponly" in told
    assert "samesite=strict" in told


def test_a_link_ends_the_session_that_the_browser_had(served):
    client = served.sign_in("operator")
    before = dict(client.cookies)
    key, _ = served.sessions.link(served.peer("auditor"))
    assert client.get(f"/enter?key={key}").status_code == 200
    assert client.cookies[COOKIE] != before[COOKIE]
    old = served.client()
    old.cookies.update(before)
    assert (old.get("/").status_code, client.get("/").status_code) == (401, 200)


def test_a_revoked_identity_is_out_at_its_next_look(served):
    client = served.sign_in(serial=1234)
    assert client.get("/").status_code == 200
    waiting, _ = served.sessions.link(served.peer(serial=1234))
    served.revoked.serials.add(1234)
    assert client.get("/").status_code == 401
    assert served.client().get(f"/enter?key={waiting}").status_code == 401
    served.revoked.serials.clear()
    assert client.get("/").status_code == 401, "a session that ended does not come back"


def test_a_session_ends_with_its_certificate(served):
    key, _ = served.sessions.link(served.peer())
    peer = served.sessions._links.popitem()[1][0]
    short = type(peer)(role=peer.role, name=peer.name, serial=9, not_after=served.clock.now() + 10)
    key, _ = served.sessions.link(short)
    client = served.client()
    client.get(f"/enter?key={key}")
    assert client.get("/").status_code == 200
    served.clock.at += 11
    assert client.get("/").status_code == 401


def test_who_signs_out_is_out_and_the_form_has_to_be_ours(served):
    client = served.sign_in()
    token = re.search(r'name="token" value="([^"]+)"', client.get("/").text)[1]
    assert client.post("/leave", data={"token": "other"}).status_code == 403
    assert client.post("/leave", data={"token": token}, headers={"origin": "http://evil"}).status_code == 403
    assert client.get("/").status_code == 200
    kept = dict(client.cookies)
    assert client.post("/leave", data={"token": token}).status_code == 303
    client.cookies.update(kept)
    assert client.get("/").status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9999", "127.0.0.1:1", ""])
def test_another_name_of_this_server_is_not_answered(served, host):
    client = served.sign_in()
    answer = client.get("/", headers={"host": host})
    assert answer.status_code == 421
    assert SECRET not in answer.text
    assert client.get("/", headers={"host": HOST}).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_can_be_changed(served, method):
    client = served.sign_in()
    for path in ("/", "/runs/r-1", "/enter"):
        assert client.request(method, path).status_code == 405


def test_every_answer_has_the_headers_that_bind_a_browser(served):
    signed_in = served.sign_in()
    answers = [signed_in.get(p) for p in ("/", "/runs/r-1", "/runs/none", "/nowhere", "/static/motet.js")]
    answers += [served.stranger.get("/"), signed_in.get("/", headers={"host": "evil"}), signed_in.post("/")]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
    assert all("no-store" in a.headers["cache-control"] for a in answers if "static" not in str(a.url))


def test_a_page_needs_no_style_or_script_that_the_policy_forbids(served):
    text = served.sign_in().get("/runs/r-1").text
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", text)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text))
    assert not re.search(r'(?:src|href)="(?:https?:)?//', text), "nothing is fetched from elsewhere"


def test_a_fault_is_told_without_a_traceback(served, monkeypatch):
    client = served.sign_in()

    def broken(*_):
        raise RuntimeError("a secret inside")

    monkeypatch.setattr(app, "runs_page", broken)
    answer = client.get("/")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


def test_files_outside_of_the_folder_are_not_served(served):
    for name in ("..%2fapp.py", "%2e%2e/app.py", "../app.py", "motet.css/../../app.py", "none.js"):
        assert served.sign_in().get(f"/static/{name}").status_code in {400, 404}


def test_a_file_is_kept_for_a_year_only_under_the_mark_of_its_content(served):
    marked = served.stranger.get(asset("checks.js"))
    assert "immutable" in marked.headers["cache-control"]
    for path in ("/static/checks.js", "/static/checks.js?v=0123456789ab"):
        assert served.stranger.get(path).headers["cache-control"] == "no-cache"


def test_whoever_may_ask_for_no_link_sees_nothing_with_a_session(served, monkeypatch):
    assert not any(may_see("client", name) for name in ROUTES)
    client = served.sign_in("client")
    assert {client.get(path).status_code for path in ("/", "/privacy", "/privacy.json", "/ledger")} == {403}
    everybody = ALLOWED["/motet.v1.SystemService/IssueDashboardLink"] | {"client"}
    monkeypatch.setitem(ALLOWED, "/motet.v1.SystemService/IssueDashboardLink", everybody)
    assert client.get("/ledger").status_code == 200


def test_entries_of_the_ledger_are_for_the_roles_that_may_list_them(served):
    for role in ("operator", "auditor", "researcher"):
        client = served.sign_in(role)
        told = client.get("/ledger/checkpoint.json").json()
        entry = client.get(f"/ledger/inclusion.json?sequence=0&size={told['size']}").json()
        reads = role in {"operator", "auditor"}
        assert told["may_read"] is reads
        assert ("entry" in entry) is reads
        assert client.get("/ledger/entries.jsonl?start=0&end=1").status_code == (200 if reads else 403)
        assert client.get("/ledger/hashes.bin?start=0&end=1").status_code == 200
        assert client.get("/ledger/hashes.bin?start=x&end=1").status_code == 400
