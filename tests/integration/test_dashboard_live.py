"""A page of the dashboard while a run goes on: it is fresh by itself, and takes nothing from the hand of its reader."""

import pytest
from dashboard_home import play, submit

from coordinator.dashboard.server import serving_dashboard
from coordinator.rpc.identity import LOCAL_OPERATOR
from coordinator.storage.where import open_store

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("browser")]
TIMELINE = "#fig-timeline"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    home = tmp_path_factory.mktemp("live")
    store = open_store(home)
    submit(store, "r-1", name="going")
    with serving_dashboard(home, "127.0.0.1:0") as shown:
        yield store, shown
    store.close()


def test_a_page_is_fresh_by_itself_and_keeps_focus_place_and_what_was_opened(browser_page, served):
    store, shown = served
    page = browser_page(1280, 500)
    page.goto(shown.link(LOCAL_OPERATOR)[0])
    page.wait_for_url(shown.url)
    page.goto(shown.url + "runs/r-1")
    page.get_by_text("No round yet").wait_for()
    play(store, "r-1", 0)
    page.locator(TIMELINE).wait_for()

    page.locator(f"{TIMELINE} summary").click()
    page.get_by_placeholder("Filter clients").fill("a")
    page.locator(f"{TIMELINE} .plot").focus()
    page.keyboard.press("ArrowRight")
    assert "Round 1" in page.locator("#tip").inner_text()
    before = page.evaluate("scrollY")
    assert before > 0
    play(store, "r-1", 1, failing=("b",), code="deadline")
    page.locator(f"{TIMELINE} tbody tr").nth(1).wait_for()
    assert page.evaluate("scrollY") == before
    assert page.evaluate("document.activeElement.matches('#fig-timeline .plot')")
    assert page.locator(f"{TIMELINE} details").get_attribute("open") is not None
    assert page.locator("#clients tr[data-row]").locator("visible=true").count() == 1
    page.keyboard.press("ArrowRight")
    assert "not in time: b" in page.locator("#tip").inner_text()

    with page.expect_download() as taken:
        page.locator(f"{TIMELINE} [data-png]").click()
    assert taken.value.suggested_filename == "motet-timeline.png"
    assert taken.value.path().read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"

    page.keyboard.press("g")
    page.keyboard.press("p")
    page.wait_for_url("**/privacy")
    page.keyboard.press("/")
    page.locator("table.budgets").wait_for()


def test_a_reader_whose_coordinator_is_gone_is_told_so(browser_page, tmp_path):
    browser_page.expect("ERR_CONNECTION_REFUSED|Failed to load|ERR_")
    home = tmp_path / "home"
    open_store(home).close()
    page = browser_page()
    with serving_dashboard(home, "127.0.0.1:0") as shown:
        page.goto(shown.link(LOCAL_OPERATOR)[0])
        page.wait_for_url(shown.url)
        page.locator("#live", has_text="Live").wait_for()
    page.locator("#live.away").wait_for()
