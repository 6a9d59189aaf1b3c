"""The README's commands, run as they stand there; only ports and folders are the test's."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import forked_motet
import pytest

ROOT = Path(__file__).resolve().parents[2]
MOTET = [sys.executable, "-m", "motet.cli.main"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
RECIPE = """
name: readme
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2, max_length: 24}
data: {path: ward-a.jsonl}
adapter: {lora_rank: 2, targets: [query, value]}
method: {name: flora}
cohort: {clients: [ward-a], minimum: 1}
training: {rounds: 2, local_steps: 2, expected_batch_size: 8}
seed: 1
"""


def commands(page="README.md"):
    """Indented lines that start with a command of ours, without their comments, in order."""
    found = re.findall(r"^    ((?:\.venv/bin/)?motet .*|make .*)$", (ROOT / page).read_text(), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in found]


def test_every_make_target_of_the_readme_exists():
    named = {words[1] for words in commands() if words[0] == "make"}
    assert {"demo", "test", "help"} <= named
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert named - {"help"} <= targets | {"help"}


@pytest.mark.parametrize("page", ["README.md"])
def test_every_option_of_a_command_in_the_documents_exists(page):
    for words in commands(page):
        if words[0] == "make":
            continue
        path = [w for w in words[1:3] if re.fullmatch(r"[a-z]+", w)]
        shown = subprocess.run(
            [*MOTET, *path, "--help"], env=ENVIRONMENT | {"COLUMNS": "200"}, capture_output=True, text=True
        )
        assert shown.returncode == 0, words
        for option in (w for w in words if w.startswith("--")):
            assert option in shown.stdout, (words, option)


@pytest.mark.parametrize("words", [w for w in commands() if w[0] == ".venv/bin/motet"], ids=" ".join)
@pytest.mark.materials
def test_the_single_commands_of_the_readme_run(words, tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    done = subprocess.run(
        [*MOTET, *words[1:]], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]


def python_of_the_readme():
    """The one block of Python."""
    (found,) = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    return found


@pytest.mark.integration
def test_a_run_is_submitted_from_python_watched_from_a_shell_and_cancelled_from_another(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    shown = [w for w in commands() if w[:2] == ["motet", "run"] and w[2] in {"watch", "cancel"}]
    watch, cancel = shown[-2], shown[-1]
    assert (watch[2], cancel[2]) == ("watch", "cancel")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    start = ["coordinator", "start", "--home", "fed", "--listen", address, "--json"]
    log = tmp_path / "coordinator.log"
    coordinator = forked_motet.start(start, ENVIRONMENT, tmp_path, log)
    try:
        until = time.monotonic() + 120
        while "ready" not in (log.read_text() if log.exists() else ""):
            assert coordinator.poll() is None, log.read_text()
            assert time.monotonic() < until
            time.sleep(0.1)
        ready = json.loads(next(line for line in log.read_text().splitlines() if '"ready"' in line))
        assert ready["control"] == json.loads((tmp_path / "fed/control.json").read_text())["address"]
        submitted = subprocess.run(
            [sys.executable, "-c", python_of_the_readme()],
            cwd=tmp_path,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert submitted.returncode == 0, submitted.stderr
        run_id, state = submitted.stdout.split()
        assert state == "QUEUED"
        named = {"RUN": run_id}
        seen = tmp_path / "watch.log"
        watching = forked_motet.start([named.get(w, w) for w in watch[1:]], ENVIRONMENT, tmp_path, seen)
        until = time.monotonic() + 60
        while not (seen.exists() and "rounds closed" in seen.read_text()):
            assert time.monotonic() < until
            time.sleep(0.1)
        done = forked_motet.run([named.get(w, w) for w in cancel[1:]], ENVIRONMENT, tmp_path)
        assert done.returncode == 0, done.stderr
        assert watching.wait(60) == 9
        assert "CANCELLED" in seen.read_text()
    finally:
        coordinator.terminate()
        coordinator.wait(30)
    assert json.loads((tmp_path / "fed/control.json").read_text())["pid"] == 0


@pytest.mark.integration
def test_the_deployed_commands_of_the_readme_make_an_adapter_that_can_be_loaded(tmp_path):
    for name, text in (("recipe.yaml", RECIPE), ("policy.toml", 'allowed_methods = ["flora"]\n')):
        (tmp_path / name).write_text(text)
    rows = [{"text": f"{w} thing {i}", "label": n} for i in range(20) for n, w in enumerate(["good", "bad"])]
    (tmp_path / "ward-a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    running, run_id = [], ""
    try:
        for words in (w for w in commands() if w[0] == "motet"):
            arguments = [address if w == "0.0.0.0:8443" else run_id if w == "RUN" else w for w in words[1:]]
            if arguments[1] == "start":
                running.append(subprocess.Popen([*MOTET, *arguments], cwd=tmp_path, env=ENVIRONMENT))
                if arguments[0] == "coordinator":
                    until = time.monotonic() + 60
                    while not (tmp_path / "fed/join.json").exists():
                        assert time.monotonic() < until
                        time.sleep(0.1)
                    shutil.copy(tmp_path / "fed/join.json", tmp_path)
                continue
            if arguments[0] == "merge":
                for folder in arguments[-2:]:
                    shutil.copytree(tmp_path / "exported", tmp_path / folder)
            done = subprocess.run(
                [*MOTET, *arguments],
                cwd=tmp_path,
                env=ENVIRONMENT,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 0, (words, done.stderr[-2000:])
            if arguments[:2] == ["run", "submit"]:
                run_id = done.stdout.split()[0]
        assert len(running) == 2
        for adapter in ("exported", "merged"):
            assert (tmp_path / adapter / "adapter_model.safetensors").stat().st_size > 1000
        assert "<html" in (tmp_path / "report.html").read_text()
    finally:
        for process in reversed(running):
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.wait(30)
