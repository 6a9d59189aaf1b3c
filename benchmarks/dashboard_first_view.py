"""How long the first view of the dashboard takes on loopback, and what it weighs, in a real Chromium.

A home with fifty runs, and one with a run of sixty rounds and thirty clients. Each view is a new profile of the browser
that has a session and no file in its cache: from the request to the first paint (``first-contentful-paint``) and to the
end of loading, with the bytes that came over the wire. The page of budgets waits for an accountant: the time until its
figures stand is given besides, in a coordinator that has computed none before. ``server_cpu_ms`` depends least on what
else the machine does.

Run: python benchmarks/dashboard_first_view.py. About a minute; writes benchmarks/results/dashboard_first_view.json.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts"), str(ROOT / "tests/support")]

import httpx  # noqa: E402
from get_browser import HOW, found_browser  # noqa: E402
from large_home import fill_large_home  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

from coordinator.dashboard.server import serving_dashboard  # noqa: E402
from coordinator.rpc.identity import LOCAL_OPERATOR  # noqa: E402
from coordinator.storage.where import open_store  # noqa: E402
from motet.clock import SystemClock  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser

VIEWS = 15
PAGES = {"runs": "/", "a large run": "/runs/r-large", "clients": "/clients", "privacy": "/privacy"}
RESULT = ROOT / "benchmarks/results/dashboard_first_view.json"
ASK = """() => {
  const page = performance.getEntriesByType("navigation")[0];
  const files = performance.getEntriesByType("resource").filter((f) => f.initiatorType !== "fetch");
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  return {paint_ms: paint ? paint.startTime : null, load_ms: page.loadEventEnd,
          bytes: page.transferSize + files.reduce((sum, f) => sum + f.transferSize, 0)};
}"""


def view(browser: Browser, state: Any, url: str) -> dict[str, float]:
    """One view with nothing in the cache."""
    context = browser.new_context(storage_state=state, viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(url, wait_until="load")
    while not page.evaluate('performance.getEntriesByName("first-contentful-paint").length'):
        page.wait_for_timeout(5)  # no function to wait for: the page's policy has no eval
    told: dict[str, float] = page.evaluate(ASK)
    context.close()
    return told


def cpu_ms(state: Any, url: str) -> float:
    """Milliseconds of CPU that the server takes for a page, and the asking; it is in this process."""
    cookies = {c["name"]: c["value"] for c in state["cookies"]}
    with httpx.Client(cookies=cookies, timeout=60.0) as client:
        client.get(url)
        began = time.process_time()
        for _ in range(VIEWS):
            client.get(url).raise_for_status()
        return round(1000 * (time.process_time() - began) / VIEWS, 1)


def until_budgets(browser: Browser, state: Any, url: str) -> float:
    """Seconds until the figures of the budgets stand on their page."""
    context = browser.new_context(storage_state=state)
    page = context.new_page()
    began = time.perf_counter()
    page.goto(url)
    page.wait_for_selector("table.budgets", timeout=120_000)
    took = time.perf_counter() - began
    context.close()
    return took


def main() -> None:
    """Measure and write the result."""
    path = found_browser()
    if path is None:
        sys.exit(HOW)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        home = Path(folder)
        store = open_store(home)
        fill_large_home(store, SystemClock())
        store.close()
        browser = playwright.chromium.launch(executable_path=path)
        with serving_dashboard(home, "127.0.0.1:0") as shown:
            context = browser.new_context()
            page = context.new_page()
            page.goto(shown.link(LOCAL_OPERATOR)[0])
            page.wait_for_url(shown.url)
            state = context.storage_state()
            base = shown.url.rstrip("/")
            budgets_s = until_budgets(browser, state, base + "/privacy")
            for name, where in PAGES.items():
                seen = [view(browser, state, base + where) for _ in range(VIEWS)]
                row: dict[str, object] = {"page": name, "views": VIEWS}
                for key in ("paint_ms", "load_ms"):
                    times = sorted(s[key] for s in seen)
                    row |= {f"{key}_median": round(statistics.median(times)), f"{key}_most": round(times[-1])}
                row["server_cpu_ms"] = cpu_ms(state, base + where)
                row["kilobytes"] = round(max(s["bytes"] for s in seen) / 1000, 1)
                rows.append(row)
                print(json.dumps(row), flush=True)
        browser.close()
    told = {
        "machine": {"python": platform.python_version(), "processors": os.cpu_count()},
        "load_average": round(os.getloadavg()[0], 1),
        "first_budgets_s": round(budgets_s, 2),
        "rows": rows,
    }
    RESULT.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps({k: v for k, v in told.items() if k != "rows"}))


if __name__ == "__main__":
    main()
