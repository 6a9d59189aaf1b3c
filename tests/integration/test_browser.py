"""The browser that pages are tested in: it finds what is wrong with a page, stays on loopback and ends."""

import asyncio
import subprocess
import sys
from pathlib import Path

import browser
import psutil
import pytest
from browser import axe_faults, is_local
from serving import served, site

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("browser")]
HEAD = '<!doctype html><html lang="en"><head><title>t</title><link rel="icon" href="data:,">'
GOOD = HEAD + '</head><body><main><h1>Good</h1><button type="button">Press</button></main></body></html>'
BAD = (
    HEAD
    + '</head><body><main><h1>Bad</h1><button type="button"></button><img src="data:,"></main></body></html>'
)
PAGES = {
    "/good": ("text/html", GOOD),
    "/bad": ("text/html", BAD),
    "/throws": ("text/html", HEAD + "<script>throw new Error('thrown by the page')</script>"),
    "/says": ("text/html", HEAD + "<script>console.error('said by the page')</script>"),
    "/asks": ("text/html", HEAD + '<script src="http://192.0.2.1/x.js"></script>'),
    "/socket": ("text/html", HEAD + '<script>new WebSocket("ws://192.0.2.1/x")</script>'),
}


@pytest.fixture(scope="module")
def address():
    with served(site(PAGES)) as url:
        yield url


def test_a_good_page_has_no_faults(browser_page, address):
    page = browser_page(360, 640, dark=True)
    page.goto(f"{address}/good")
    assert page.evaluate("[innerWidth, matchMedia('(prefers-color-scheme: dark)').matches]") == [360, True]
    assert axe_faults(page) == []
    assert browser_page.faults == []


def test_axe_finds_a_button_without_a_name_and_a_picture_without_words(browser_page, address):
    page = browser_page()
    page.goto(f"{address}/bad")
    assert sorted(line.split(":")[0] for line in axe_faults(page)) == ["button-name", "image-alt"]


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("/throws", "exception: thrown by the page"),
        ("/says", "console: said by the page"),
        ("/asks", "request to another machine: http://192.0.2.1/x.js"),
        ("/socket", "request to another machine: ws://192.0.2.1/x"),
    ],
)
def test_what_a_page_does_wrong_is_a_fault(browser_page, address, path, fault):
    browser_page.expect("thrown|said|another machine|ERR_BLOCKED_BY_CLIENT")
    browser_page().goto(address + path)
    assert fault in browser_page.faults


def test_a_fault_fails_the_test_unless_it_was_expected_and_an_expected_one_must_come(chromium, address):
    chromium.take_up()
    try:
        pages = browser.Pages(chromium.browser)
        pages().goto(f"{address}/throws")
        pages.expect("never said")
        left = pages.close()
    finally:
        chromium.put_aside()
    assert left == ["exception: thrown by the page", "never came: never said"]


def test_between_pages_other_event_loops_run_in_this_thread(chromium):
    assert asyncio.run(asyncio.sleep(0, "ran")) == "ran"


@pytest.mark.parametrize(
    ("url", "stays"),
    [
        ("http://127.0.0.1:8000/a", True),
        ("https://localhost/", True),
        ("http://[::1]:1/", True),
        ("data:,a", True),
        ("https://example.org/", False),
        ("http://localhost.example.org/", False),
        ("file:///etc/passwd", False),
    ],
)
def test_what_stays_on_this_machine(url, stays):
    assert is_local(url) is stays


@pytest.mark.slow
def test_a_browser_ends_with_a_session_that_is_killed():
    script = browser.get_browser_script()
    path = script.found_browser()
    if path is None:
        pytest.skip(script.HOW)
    child = subprocess.Popen(
        [sys.executable, str(Path(browser.__file__)), path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline().strip()[0].isdigit()
        started = psutil.Process(child.pid).children(recursive=True)
        assert any("headless" in " ".join(p.cmdline()) for p in started)
    finally:
        child.kill()
        child.communicate()
    _, alive = psutil.wait_procs(started, timeout=60)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def test_no_browser_is_got_where_none_is_wanted(monkeypatch):
    script = browser.get_browser_script()
    monkeypatch.setenv("MOTET_CHROMIUM", "none")
    monkeypatch.setattr(script, "_done", lambda command: pytest.fail(f"ran {command}"))
    assert script.get_browser() is None


@pytest.mark.parametrize(("is_ci", "is_root"), [(True, True), (True, False), (False, True), (False, False)])
def test_only_in_continuous_integration_a_missing_browser_is_got_from_the_system(
    monkeypatch, tmp_path, is_ci, is_root
):
    script = browser.get_browser_script()
    ran = []
    monkeypatch.delenv("MOTET_CHROMIUM", raising=False)
    monkeypatch.setenv("CI", "true" if is_ci else "")
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    monkeypatch.setattr(
        script.shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None
    )
    monkeypatch.setattr(script.os, "geteuid", lambda: 0 if is_root else 1000)
    monkeypatch.setattr(script, "_done", lambda command: ran.append(command) is not None)
    assert script.get_browser() is None
    assert [command[0] for command in ran] == ["apt-get"] * (is_ci and is_root) + [sys.executable]
    build = tmp_path / "chromium_headless_shell-1200" / "chrome-linux"
    build.mkdir(parents=True)
    (build / "headless_shell").touch(mode=0o755)
    assert script.get_browser() is None, "it does not start"
    monkeypatch.setattr(script, "_done", lambda command: command[1:] == ["--version"])
    assert script.get_browser() == str(build / "headless_shell")
