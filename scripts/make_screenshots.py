"""Screenshots of the dashboard for the docs, of runs that really ran: scripts/make_screenshots.py [--work FOLDER].

A federation of four data owners on loopback (coordinator and clients as processes, enrolled with tokens) trains a
small random BERT on the VADER texts: two runs to their end, one of them with a client that is killed on the way and
comes back with another data set, and a third one that is under way when the pictures are taken. Two owners share their
held-out figures where there is no privacy to keep, and hand over their signed records. A simulation of another recipe
gives the learning curves. What
the work folder holds already is used again. It needs the materials (`make materials`), a Chromium
(scripts/get_browser.py), and about ten minutes of two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
OUT = ROOT / "docs" / "images"
MOTET = (sys.executable, "-m", "motet.cli.main")
OWNERS = ("amazon", "movies", "nyt", "tweets")
SHARING = ("movies", "tweets")
DESKTOP, PHONE = (1280, 860), (390, 844)
COLOURS = 256
WAIT_S = 900.0


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/screenshots"), help="where runs are kept")
    work = parser.parse_args().work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    simulated = simulation(work)
    with federation(work) as home, chromium() as browser:
        shared, run = finished_runs(home, work)
        if all(r["state"] not in {"RUNNING", "QUEUED"} for r in runs(home)):
            live = recipe(work, "sentiment-live", "flora", rounds=40)
            motet("run", "submit", str(live), "--home", str(home))
        wait_for(lambda: any(r["state"] == "RUNNING" and r["rounds_closed"] > 1 for r in runs(home)), "a run")
        hand_over_records(home, work)
        pages = {"runs": "/", "run": f"/runs/{run}", "accuracy": f"/runs/{shared}"}
        pictures(browser, link(home), pages | {"clients": "/clients", "privacy": "/privacy"})
    with shown_folder(simulated) as url, chromium() as browser:
        found = json.loads((simulated / "result.json").read_text())["run_id"]
        pictures(browser, url, {"learning": f"/runs/{found}"})


# -- runs ------------------------------------------------------------------------------------------------------------


def recipe(
    work: Path, name: str, method: str, *, rounds: int, private: bool = True, deadline_s: int = 45
) -> Path:
    """A recipe of this federation."""
    told: dict[str, Any] = yaml.safe_load((ROOT / "examples/recipes/vader-flora-private.yaml").read_text())
    told |= {"name": name, "method": {"name": method}, "cohort": {"clients": list(OWNERS), "minimum": 3}}
    told["cohort"]["deadline_s"] = deadline_s
    told["base_model"] = {"tiny": "tiny-bert"}
    del told["adapter"]["layers"]
    told["training"] |= {"rounds": rounds, "local_steps": 2}
    told["data"]["test_examples"] = 800
    if method == "fedit":
        told["adapter"]["lora_rank"] = 8
    if private:
        told["privacy"] |= {"noise_multiplier": 0.9, "epsilon_limit": 8.0}
        del told["privacy"]["target_epsilon"]
    else:
        del told["privacy"]
        told["evaluation"] = {"held_out": 0.2}
    path = work / f"{name}.yaml"
    path.write_text(yaml.safe_dump(told, sort_keys=False))
    return path


def simulation(work: Path) -> Path:
    """The folder of a simulated run."""
    folder = work / "simulated"
    if not (folder / "result.json").exists():
        path = ROOT / "examples/recipes/vader-self-pruning.yaml"
        motet("simulate", str(path), "--out", str(folder), "--no-baselines", "--json")
    return folder


def data(work: Path) -> dict[str, Path]:
    """A file of examples for each owner."""
    from motet.recipe import load_recipe
    from motet.simulate import prepare_shards

    path = recipe(work, "sentiment-data", "flora", rounds=1)
    shards = dict(prepare_shards(load_recipe(path), work / "data").train)
    lines = shards["tweets"].read_text().splitlines(keepends=True)
    first = lines[: len(lines) // 2]
    known = {json.loads(line)["source"] for line in first}  # one text in both would make them one data set
    later = [line for line in lines[len(first) :] if json.loads(line)["source"] not in known]
    (work / "tweets-first.jsonl").write_text("".join(first))
    (work / "tweets-later.jsonl").write_text("".join(later))
    return shards


def finished_runs(home: Path, work: Path) -> tuple[str, str]:
    """A run without privacy, then a private one during which an owner's process is killed; the ids of both."""
    ended = {r["name"]: r["run_id"] for r in runs(home) if r["state"] == "FINISHED"}
    for name, method, rounds, private in (
        ("sentiment-fedit", "fedit", 4, False),
        ("sentiment-flora-private", "flora", 8, True),
    ):
        if name in ended:
            continue
        path = recipe(work, name, method, rounds=rounds, private=private)
        run_id = json.loads(motet("run", "submit", str(path), "--home", str(home), "--json"))["run_id"]
        if private:
            wait_for(lambda r=run_id: shown(home, r)["rounds_closed"] >= 3, "three rounds")
            (work / "later").touch()
            restart(work, "tweets", away_s=60.0)
        wait_for(lambda r=run_id: shown(home, r)["state"] == "FINISHED", name)
        ended[name] = run_id
    return ended["sentiment-fedit"], ended["sentiment-flora-private"]


def hand_over_records(home: Path, work: Path) -> None:
    """Some owners sign what they were charged, and the operator takes it."""
    for name in SHARING:
        record = str(work / f"{name}-receipts.json")
        motet("audit", "receipts", name, "--home", str(work / "owners" / name), "--out", record)
        motet("budget", "take-receipts", record, "--home", str(home))


def runs(home: Path) -> list[dict[str, Any]]:
    """All of them."""
    told = json.loads(motet("run", "list", "--home", str(home), "--json"))
    return list(told["runs"] if isinstance(told, dict) else told)


def shown(home: Path, run_id: str) -> dict[str, Any]:
    """One of them."""
    return next(r for r in runs(home) if r["run_id"] == run_id)


# -- processes -------------------------------------------------------------------------------------------------------

_RUNNING: dict[str, subprocess.Popen[bytes]] = {}


def environment() -> dict[str, str]:
    """Of every command."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def motet(*arguments: str) -> str:
    """Run a command to its end; its output."""
    done = subprocess.run(
        [*MOTET, *arguments], env=environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"motet {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def start(name: str, log: Path, *arguments: str) -> None:
    """A command in the background."""
    with log.open("ab") as file:
        _RUNNING[name] = subprocess.Popen([*MOTET, *arguments], env=environment(), stdout=file, stderr=file)


def restart(work: Path, name: str, *, away_s: float) -> None:
    """Kill an owner's process, and start it again after a while."""
    _RUNNING[name].kill()
    _RUNNING[name].wait()
    time.sleep(away_s)
    start_owner(work, name)


def start_owner(work: Path, name: str) -> None:
    """One owner's process."""
    own, shard = work / "owners" / name, work / "data" / f"{name}.jsonl"
    if name == "tweets":
        shard = work / ("tweets-later.jsonl" if (work / "later").exists() else "tweets-first.jsonl")
    (work / f"{name}.log").unlink(missing_ok=True)
    where = ["--home", str(own), "--data", str(shard)]
    if name in SHARING:
        policy = work / "shares.toml"
        policy.write_text("share_accuracy = true\n")
        where += ["--policy", str(policy)]
    start(name, work / f"{name}.log", "client", "start", *where)


def wait_for(is_true: Any, what: str) -> None:  # noqa: ANN401 - a question
    """Until it is so."""
    until = time.monotonic() + WAIT_S
    while not is_true():
        if time.monotonic() > until:
            sys.exit(f"not within {WAIT_S:g} s: {what}")
        time.sleep(1.0)


@contextmanager
def federation(work: Path) -> Iterator[Path]:
    """Coordinator and owners; every process ends with the context."""
    from motet.reaching import served_at

    home, shards = work / "coordinator", data(work)
    try:
        start(
            "coordinator",
            work / "coordinator.log",
            "coordinator",
            "start",
            "--home",
            str(home),
            "--listen",
            "127.0.0.1:28711",
        )
        wait_for(lambda: served_at(home) is not None, "the coordinator")
        for name in shards:
            own, token = work / "owners" / name, work / f"{name}.token"
            if not own.exists():
                motet("ca", "token", "--client", name, "--out", str(token), "--home", str(home))
                motet("client", "enrol", "--token-file", str(token), "--home", str(own))
            start_owner(work, name)
        wait_for(lambda: len(online(home)) == len(shards), "all owners")
        yield home
    finally:
        for process in reversed(_RUNNING.values()):
            process.terminate()
        for process in _RUNNING.values():
            process.wait(60)
        _RUNNING.clear()


def online(home: Path) -> list[str]:
    """Owners whose log says that they are connected since their last start."""
    logs = {name: home.parent / f"{name}.log" for name in OWNERS}
    return [n for n, p in logs.items() if p.exists() and "is connected" in p.read_text(errors="replace")]


def link(home: Path) -> str:
    """A link of the coordinator that serves a home."""
    return str(json.loads(motet("dashboard", "--home", str(home), "--json"))["url"])


@contextmanager
def shown_folder(folder: Path) -> Iterator[str]:
    """A link to the dashboard of a folder, for as long as the context."""
    command = [*MOTET, "dashboard", "--home", str(folder), "--json"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            yield json.loads(process.stdout.readline())["url"] if process.stdout else ""
        finally:
            process.terminate()


# -- pictures --------------------------------------------------------------------------------------------------------


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser."""
    from get_browser import HOW, found_browser
    from playwright.sync_api import sync_playwright

    path = found_browser()
    if path is None:
        sys.exit(HOW)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


def pictures(browser: Browser, url: str, pages: dict[str, str]) -> None:
    """Each page on a desktop and on a phone, light and dark."""
    first = browser.new_context()
    page = first.new_page()
    page.goto(url)
    base = url.split("/enter")[0]
    page.wait_for_url(base + "/")
    state = first.storage_state()
    for name, path in pages.items():
        for kind, (width, height) in {"desktop": DESKTOP, "phone": PHONE}.items():
            for theme in ("light", "dark"):
                context = browser.new_context(
                    viewport={"width": width, "height": height},
                    color_scheme="dark" if theme == "dark" else "light",
                    storage_state=state,
                    reduced_motion="reduce",
                )
                shot = context.new_page()
                shot.goto(base + path)
                settle(shot, name)
                save(shot, OUT / f"dashboard-{name}-{kind}-{theme}.png", height if kind == "phone" else 0)
                context.close()


def settle(page: Page, name: str) -> None:
    """Until the page is fresh and, of budgets, the figures are there."""
    page.wait_for_selector("#live:not([hidden])")
    if name == "privacy":
        page.wait_for_selector("table.budgets", timeout=120_000)


def save(page: Page, path: Path, height: int) -> None:
    """A picture with a palette, so that it is small; of a phone at most the first two windows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if height:
        whole = page.evaluate("document.querySelector('.foot').getBoundingClientRect().bottom + scrollY")
        page.set_viewport_size({"width": PHONE[0], "height": min(2 * height, int(whole))})
    page.screenshot(path=path, full_page=not height)
    with Image.open(path) as image:
        image.convert("RGB").quantize(COLOURS, kmeans=2, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
