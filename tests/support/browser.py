"""A real Chromium without a screen: one for each test session, and pages that fail the test on any fault.

Whatever a page does that it should not is a fault: an error on the console, an exception that nobody caught, a request
that would leave the loopback interface (it is refused as well). The fixtures are in tests/conftest.py.
"""

from __future__ import annotations

import asyncio
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext, Page, Route

ROOT = Path(__file__).resolve().parents[2]
# No name is looked up but this machine's own, so that nothing leaves it even where no page asks for it.
FLAGS = (
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE [::1], EXCLUDE localhost",
    "--disable-dev-shm-usage",
)
_LOCAL_SCHEMES = {"data", "blob", "about"}
_WAIT_MS = 30_000


def get_browser_script() -> Any:
    """scripts/get_browser.py as a module: it knows where browsers are."""
    spec = spec_from_file_location("get_browser", ROOT / "scripts" / "get_browser.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def is_local(url: str) -> bool:
    """Whether a request for it stays on this machine."""
    parts = urlsplit(url)
    if parts.scheme in _LOCAL_SCHEMES:
        return True
    try:
        return parts.hostname == "localhost" or ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


class Chromium:
    """One browser process, with Playwright's event loop put aside whenever no test uses it."""

    def __init__(self, path: str) -> None:
        from playwright.sync_api import sync_playwright

        self._playwright = sync_playwright().start()
        self._loop = asyncio.get_running_loop()  # Playwright leaves it marked as running in this thread
        self.browser: Browser = self._playwright.chromium.launch(
            executable_path=path, headless=True, args=list(FLAGS), timeout=60_000
        )
        self.put_aside()

    def put_aside(self) -> None:
        """Other tests may run event loops of their own in this thread."""
        asyncio._set_running_loop(None)

    def take_up(self) -> None:
        """Playwright's calls work again."""
        asyncio._set_running_loop(self._loop)

    def close(self) -> None:
        """End the browser and its driver."""
        self.take_up()
        try:
            self.browser.close()
        finally:
            self._playwright.stop()
            asyncio._set_running_loop(None)


class Pages:
    """Makes pages, each in a profile of its own, and holds what went wrong in them.

    Attributes:
      faults: what the pages did that they should not.
    """

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self._expected: list[str] = []
        self.faults: list[str] = []

    def __call__(self, width: int = 1280, height: int = 800, dark: bool = False, **options: Any) -> Page:
        """A new page.

        Args:
          width: of the window, CSS pixels.
          height: of the window, CSS pixels.
          dark: the theme that the system asks for.
          options: of Playwright's ``Browser.new_context``, such as ``reduced_motion`` or ``forced_colors``.
        """
        context = self._browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            service_workers="block",
            **options,
        )
        self._contexts.append(context)
        context.set_default_timeout(_WAIT_MS)
        context.route("**/*", self._route)
        context.route_web_socket(re.compile(".*"), lambda socket: self._refuse(socket.url))
        context.on("page", self._watch)
        return context.new_page()

    def expect(self, pattern: str) -> None:
        """A fault that this test brings about: it must come, and is then none. ``pattern`` is searched for in it."""
        self._expected.append(pattern)

    def close(self) -> list[str]:
        """Close every page and say what went wrong."""
        for context in self._contexts:
            context.close()
        missed = [f"never came: {p}" for p in self._expected if not any(re.search(p, f) for f in self.faults)]
        return [f for f in self.faults if not any(re.search(p, f) for p in self._expected)] + missed

    def _watch(self, page: Page) -> None:
        page.on("console", lambda m: self.faults.append(f"console: {m.text}") if m.type == "error" else None)
        page.on("pageerror", lambda error: self.faults.append(f"exception: {error}"))

    def _route(self, route: Route) -> None:
        if is_local(route.request.url):
            route.continue_()
        else:
            self._refuse(route.request.url)
            route.abort("blockedbyclient")

    def _refuse(self, url: str) -> None:
        self.faults.append(f"request to another machine: {url}")


def axe_faults(page: Page) -> list[str]:
    """Serious and critical violations that axe-core finds on a page, one line each: rule, help, places."""
    from axe_playwright_python.sync_playwright import Axe

    page.evaluate(Axe().axe_script)
    found = page.evaluate(
        """async () => (await axe.run(document, {resultTypes: ["violations"]})).violations
             .filter(v => v.impact === "serious" || v.impact === "critical")
             .map(v => `${v.id}: ${v.help}: ${v.nodes.map(n => n.target.join(" ")).join(", ")}`)"""
    )
    return [str(line) for line in found]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """The browser of this session; ends with it."""
    script = get_browser_script()
    path = script.found_browser()
    if path is None:
        pytest.skip(script.HOW)
    chromium = Chromium(path)
    yield chromium
    chromium.close()


@pytest.fixture
def browser_page(chromium: Chromium) -> Iterator[Pages]:
    """``browser_page(width, height, dark)`` makes a page. The test fails if any of its pages had a fault."""
    chromium.take_up()
    pages = Pages(chromium.browser)
    try:
        yield pages
        left = pages.close()
    except BaseException:
        pages.close()
        raise
    finally:
        chromium.put_aside()
    if left:
        pytest.fail("the page had faults:\n  " + "\n  ".join(left), pytrace=False)


if (
    __name__ == "__main__"
):  # a session that is killed: tests/integration/test_browser.py looks at what is left of it
    print(Chromium(sys.argv[1]).browser.version, flush=True)
    sys.stdin.readline()
