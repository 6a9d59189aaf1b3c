"""The dashboard in a real browser: readable by everybody, safe with hostile words, closed to who is not let in."""

import datetime

import pytest
from browser import axe_faults
from dashboard_home import play, submit
from judged_run import FIGURES, judged_run
from serving import served, site

from coordinator.dashboard import server
from coordinator.dashboard.server import serving_dashboard
from coordinator.rpc.identity import Peer
from coordinator.storage.where import open_store
from coordinator.tls import ensure_certificates

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("browser")]
HOSTILE = "<img src=x onerror=alert(1)>\"'{{7*7}}</script><script>alert(2)</script>\u202eevil\x00 " + "W" * 90


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    store = open_store(home)
    submit(store, "r-empty", name="empty")
    submit(store, "r-1", name="played")
    for n in range(2):
        play(store, "r-1", n, failing=("b",) if n else (), message=HOSTILE)
    judged_run(store)
    store.ledger.publish()
    with serving_dashboard(home, "127.0.0.1:0") as shown:
        yield shown
    store.close()


@pytest.fixture
def enter(browser_page, dashboard):
    """``enter(role, width, height, dark)``: a page with a session; ``page.see(path)`` opens one."""

    def entered(role="operator", *given, **options):
        page = browser_page(*given, **options)
        page.goto(dashboard.link(Peer(role=role, name="somebody"))[0])
        page.wait_for_url(dashboard.url)

        def see(path):
            page.goto(dashboard.url.rstrip("/") + path)
            if path == "/ledger":
                page.wait_for_selector("[data-ledger]:not([data-state=checking])[data-state]")
            page.get_by_text("Being computed").wait_for(state="detached")
            return page

        page.see = see
        return page

    return entered


def paths(page):
    """Every page that the top line and the list of runs lead to."""
    query = "nav a[href^='/'], td a[href^='/'], th a[href^='/']"
    links = page.eval_on_selector_all(query, "links => links.map(link => link.getAttribute('href'))")
    return sorted(set(links))


def test_the_pages_are_found(enter):
    assert {"/", "/runs/r-1", "/runs/r-empty", "/clients", "/privacy", "/ledger"} <= set(paths(enter()))


@pytest.mark.parametrize(
    ("width", "dark"),
    [
        (360, True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [(1280, False), (1280, True), (360, False)]
        ),
    ],
)
def test_no_page_has_a_serious_fault_of_access_or_is_wider_than_the_window(enter, width, dark):
    page = enter("operator", width, 800, dark)
    for path in paths(page):
        page.see(path)
        for table in page.locator("summary").all():
            table.click()
        assert axe_faults(page) == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path


def test_words_of_others_are_shown_as_words(enter):
    page = enter()
    dialogs = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.see("/runs/r-1")
    assert page.get_by_text("onerror=alert(1)").first.is_visible()
    assert page.locator("img").count() == 0
    assert page.locator("main script").count() == 0
    with page.expect_response("**/runs/r-1"):  # the page asks for itself again
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    assert page.locator("img").count() == 0
    assert dialogs == []
    page.evaluate("alert('seen')")
    assert dialogs == ["seen"], "what would have run would have been seen"


def test_the_policy_stops_a_script_that_got_into_a_page(enter, browser_page):
    browser_page.expect("Content Security Policy")
    page = enter()
    ran = page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.ran = true";
          document.body.append(script);
          document.body.insertAdjacentHTML("beforeend", "<img src='data:,' onerror='window.ran = true'>");
          return new Promise((done) => setTimeout(() => done(window.ran === true), 200));
        }"""
    )
    assert ran is False


def test_the_cookie_is_kept_from_scripts_is_new_for_each_session_and_gone_after_it(
    enter, browser_page, dashboard
):
    browser_page.expect("401")  # the page after the end
    page = enter()
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
    assert page.evaluate("document.cookie") == ""
    page.context.add_cookies([{**cookie, "value": "chosen-by-somebody-else"}])
    page.goto(dashboard.link(Peer(role="auditor", name="b"))[0])
    page.wait_for_url(dashboard.url)
    (renewed,) = page.context.cookies()
    assert renewed["value"] not in {"chosen-by-somebody-else", cookie["value"]}
    page.get_by_role("button", name="Sign out").click()
    page.get_by_text("Sign in from a shell").wait_for()
    assert page.context.cookies() == []
    page.context.add_cookies([renewed])
    page.goto(dashboard.url)
    assert page.get_by_text("Sign in from a shell").is_visible()


def test_a_page_is_walked_with_the_keyboard_alone_and_the_focus_is_seen(enter):
    page = enter()
    for path in ("/runs/r-1", "/ledger"):
        page.see(path)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip", path
        seen, last = set(), None
        for _ in range(60):
            page.keyboard.press("Tab")
            now = page.evaluate(
                """() => {
                  const at = document.activeElement;
                  if (at === document.body) return null;
                  const style = getComputedStyle(at), box = at.getBoundingClientRect();
                  const isSeen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
                  const words = at.getAttribute("aria-label") || at.textContent.trim() || at.labels?.[0]?.textContent;
                  const place = [...document.querySelectorAll("*")].indexOf(at);
                  return [`${place} ${at.tagName} ${words.slice(0, 60)}`, isSeen && box.width > 0 && box.height > 0];
                }"""
            )
            if now is None:
                break
            assert now[1], (path, now)
            assert now[0] != last, (path, "the focus does not move on", now)
            last = now[0]
            seen.add(now[0])
        wanted = page.locator("main :is(a[href], button:not([disabled]), input, textarea, summary)").locator(
            "visible=true"
        )
        assert len(seen) >= min(wanted.count(), 40) * 0.6, path


def test_keys_open_and_close_the_help_and_the_theme_is_kept(enter):
    page = enter()
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog").is_hidden()
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.keyboard.press("t")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    page.see("/ledger")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_nothing_moves_for_those_who_asked_for_no_motion(enter):
    still = enter("operator", reduced_motion="reduce").see("/runs/r-1")
    assert still.evaluate("document.getAnimations().length") == 0
    moving = enter("operator", reduced_motion="no-preference").see("/runs/r-1")
    assert moving.evaluate("document.getAnimations().length") > 0, "the run is live: its mark breathes"


def test_twice_as_large_and_in_forced_colours_every_page_can_be_read(enter):
    page = enter("operator", 640, 400, device_scale_factor=2, forced_colors="active")
    for path in paths(page):
        page.see(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 640, path
        assert page.evaluate("matchMedia('(forced-colors: active)').matches")
        marks = page.evaluate(
            """() => [...document.querySelectorAll(".chart")].filter(c => c.getClientRects().length).flatMap(chart =>
                 [...chart.querySelectorAll(".bar,.line,.cell")].map(mark => getComputedStyle(mark))
                 .filter(s => s.fill === getComputedStyle(document.body).backgroundColor && s.stroke === "none")
                 .length)"""
        )
        assert not any(marks), (path, "a mark has the colour of the ground")
        tabs = page.locator("nav[aria-label=Pages] a")
        lines = tabs.evaluate_all("tabs => tabs.map(tab => getComputedStyle(tab).borderBottomColor)")
        here = tabs.evaluate_all("tabs => tabs.findIndex(tab => tab.hasAttribute('aria-current'))")
        assert lines.count(lines[here]) == 1, (path, "the page that one is on is not marked", lines)
        tones = page.evaluate(
            """() => [...document.querySelectorAll(".legend:has(li + li) .swatch:not(.o-asked)")]
                 .map(swatch => getComputedStyle(swatch).backgroundColor)"""
        )
        assert len(set(tones)) > 1 or not tones, (path, "a legend tells nothing", tones)


def test_the_ledger_page_checks_the_ledger_of_this_coordinator(enter, dashboard):
    page = enter("auditor").see("/ledger")
    assert page.get_attribute("[data-ledger]", "data-state") == "holds"
    page.get_by_role("button", name="Check every entry").click()
    page.wait_for_selector("[data-state=whole]")
    researcher = enter("researcher").see("/ledger")
    researcher.get_by_role("button", name="Check every entry").click()
    researcher.wait_for_selector("[data-state=whole]")
    assert "your role does not show" in researcher.locator("li[data-step='Hashes of entries']").inner_text()


def test_held_out_figures_of_each_client_are_drawn_told_as_a_table_and_downloaded(enter):
    page = enter("researcher").see("/runs/r-judged")
    drawn = page.locator("#fig-accuracy-by-client")
    lines = drawn.locator("svg:visible .line")
    assert lines.count() == 2, "a and b tell, c does not"
    assert all(box["width"] > 0 for box in (line.bounding_box() for line in lines.all()))
    assert page.locator("#fig-newest-accuracy svg:visible .bar").count() == 2
    drawn.get_by_text("As a table").click()
    cells = drawn.locator("tbody tr").evaluate_all(
        "rows => rows.map(r => [...r.cells].map(c => c.textContent))"
    )
    assert [row[1] for row in cells] == [f"{100 * FIGURES[done]['a'][1]:.0f} %" for done in range(4)]
    mean = page.locator("#fig-held-out-accuracy")
    mean.get_by_text("As a table").click()
    assert mean.locator("tbody tr").last.inner_text().split() == ["3", "80", "%"]
    with page.expect_download() as told:
        page.get_by_role("link", name="Held-out CSV").click()
    rows = told.value.path().read_text().splitlines()
    assert rows[0] == "rounds_done,client,accuracy,loss,num_examples"
    assert rows[-1] == "3,b,0.5,0.8,10"
    assert len(rows) == 1 + sum(map(len, FIGURES.values()))
    assert page.see("/runs/r-1").locator("#fig-accuracy-by-client").count() == 0, "the control"


FOREIGN = """<!doctype html><title>foreign</title><link rel="icon" href="data:,">
<form method="post" action="{url}leave"><input name="token" value="guessed"><button>Free gift</button></form>"""


def test_a_foreign_page_reads_nothing_and_ends_no_session_though_the_browser_sends_it_the_cookie(
    enter, browser_page, dashboard
):
    browser_page.expect("CORS|Failed to load|ERR_|Refused to display|frame")
    page = enter()
    with served(
        site({"/": ("text/html", FOREIGN.format(url=dashboard.url))})
    ) as foreign:  # another port: same site
        page.goto(foreign)
        told = page.evaluate(
            """async (url) => {
              const load = (tag) => new Promise((done) => {
                const element = document.createElement(tag);
                element.onload = () => done("loaded");
                element.onerror = () => done("refused");
                element.src = url + "runs.json";
                document.body.append(element);
              });
              const asked = (path, options) => fetch(url + path, options).then(() => "read", () => "refused");
              return [await asked("runs.json", {credentials: "include"}), await asked("ledger/checkpoint.json"),
                      await load("script"), await load("img")];
            }""",
            dashboard.url,
        )
        assert told == ["refused"] * 4
        page.get_by_role("button", name="Free gift").click()
        page.wait_for_url("**/leave")
    assert page.see("/").get_by_role("heading", name="Runs").is_visible()


def test_over_tls_the_cookie_is_for_tls_alone_and_the_ledger_is_checked(browser_page, tmp_path, monkeypatch):
    home = tmp_path / "home"
    store = open_store(home)
    submit(store, "r-1", name="played")
    play(store, "r-1")
    store.ledger.publish()
    ensure_certificates(home / "tls", ["localhost"], datetime.datetime.now(datetime.UTC))
    monkeypatch.setattr(server, "is_loopback", lambda host: False)  # as for an address that others reach
    with serving_dashboard(home, "127.0.0.1:0") as shown:
        page = browser_page(ignore_https_errors=True)
        page.goto(shown.link(Peer(role="auditor", name="somebody"))[0])
        page.wait_for_url(shown.url)
        assert shown.url.startswith("https://")
        (cookie,) = page.context.cookies()
        assert cookie["secure"] is True
        page.goto(f"{shown.url}ledger")
        page.wait_for_selector("[data-state=holds]")
    store.close()
