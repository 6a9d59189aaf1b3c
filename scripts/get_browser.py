"""Find a Chromium for the tests of the dashboard, or get one. Never fails: without one those tests are skipped.

`make test` calls it. It needs the standard library alone. A browser is taken from, in this order, MOTET_CHROMIUM, the
search path, and the folder where Playwright keeps its own. Where there is none, Playwright's own build is downloaded
into that folder; in continuous integration (CI=true, root with apt-get) Debian's and Ubuntu's package is installed.
On a person's machine no system package is touched.
MOTET_CHROMIUM=none says that no browser is wanted: nothing is installed and those tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PACKAGES = ("chromium-headless-shell", "chromium")
HOW = (
    "no Chromium: install chromium (or chromium-headless-shell), or set MOTET_CHROMIUM to one; "
    "tests in a browser are skipped"
)
_APT = (
    "apt-get",
    "-o",
    "Acquire::Retries=1",
    "-o",
    "Acquire::http::Timeout=20",
    "-o",
    "DPkg::Lock::Timeout=120",
)
_LIMIT_S = 400


def found_browser() -> str | None:
    """Path of a Chromium that can be started without a screen; None if there is none, or none is wanted."""
    wanted = os.environ.get("MOTET_CHROMIUM")
    if wanted:
        return None if wanted == "none" else shutil.which(wanted)
    on_path = (shutil.which(name) for name in NAMES)
    return next((path for path in on_path if path), None) or _of_playwright()


def _of_playwright() -> str | None:
    """The newest build in the folder where Playwright keeps its browsers."""
    caches = {"darwin": "Library/Caches", "win32": "AppData/Local"}
    home = Path.home() / caches.get(sys.platform, ".cache") / "ms-playwright"
    folder = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or home)
    for build in sorted(folder.glob("chromium_headless_shell-*"), reverse=True):
        for path in sorted(build.glob("*/*headless*shell*")):
            if path.is_file() and os.access(path, os.X_OK) and _done([str(path), "--version"]):
                return str(path)  # one that lacks a library of the system does not start
    return None


def get_browser() -> str | None:
    """Like ``found_browser``, after an attempt to install one; what the attempt says is not shown."""
    found = found_browser()
    if found or os.environ.get("MOTET_CHROMIUM"):
        return found
    if os.environ.get("CI") and os.geteuid() == 0 and shutil.which("apt-get"):
        print("no Chromium for the tests of the dashboard: installing the system's package", flush=True)
        if _done([*_APT, "-qq", "update"]):
            for package in PACKAGES:
                if (
                    _done([*_APT, "-qq", "-y", "--no-install-recommends", "install", package])
                    and found_browser()
                ):
                    return found_browser()
    print("no Chromium for the tests of the dashboard: downloading Playwright's own", flush=True)
    _done([sys.executable, "-m", "playwright", "install", "chromium-headless-shell"])
    return found_browser()


def _done(command: list[str]) -> bool:
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            env=quiet,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


if __name__ == "__main__":
    if not get_browser():
        print(HOW)
