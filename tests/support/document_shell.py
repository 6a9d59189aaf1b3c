"""A shell for the commands of the documents: bash runs them as they stand there, and ``motet`` costs a fork.

``motet`` and ``python`` on its PATH are small programs that hand their arguments, folder, environment and output to
this process, which starts the command through ``forked_motet`` and hands back the exit code. What serves (``motet
coordinator start``, ``motet client start``) is left in the background, as if it had a terminal of its own; the next
command waits until it is ready.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import forked_motet

ROOT = Path(__file__).resolve().parents[2]
SHIM = """#!{python} -IS
import json, os, signal, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect({address!r})
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: s.sendall(b"end"))
told = dict(pid=os.getpid(), name={name!r}, words=sys.argv[1:], cwd=os.getcwd(), environment=dict(os.environ))
s.sendall(json.dumps(told).encode() + b"\\n")
code = int(s.makefile().readline() or 1)
sys.exit(code if code >= 0 else 128 - code)
"""
READY = {"coordinator": "coordinator ready", "client": "is connected"}
WITHIN_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What came of a command: exit code, and what it wrote to either output."""

    code: int
    printed: str


class _Service:
    """A coordinator or a client in the background."""

    def __init__(self, process, kind, words, log):
        self.process, self.kind, self.words, self.log = process, kind, words, log
        home = words[words.index("--home") + 1] if "--home" in words else f"{kind}-home"
        self.home = home

    def is_ready(self):
        return READY[self.kind] in self.printed() or '"ready"' in self.printed()

    def printed(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class DocumentShell:
    """One folder, one environment, and everything that runs in it; ``close`` ends all.

    Attributes:
      folder: where commands run.
      fills: pattern -> function of this shell and the match that gives a text: what stands on a page for something
        that only exists once it runs, such as RUN.
      has_run: commands that were run here.
      known: what pages call by a name, such as RECIPE.
      run_id: of the last run that was submitted.
    """

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="motet-docs-"))
        self.home = Path(tempfile.mkdtemp(prefix="motet-shell-"))
        self.fills, self.run_id, self.known, self.has_run = {}, None, {}, set()
        self.services = []
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._socket = socket.socket(socket.AF_UNIX)
        address = str(self.home / "socket")
        self._socket.bind(address)
        self._socket.listen(16)
        (self.home / "bin").mkdir()
        for name in ("motet", "python"):
            shim = self.home / "bin" / name
            shim.write_text(SHIM.format(python=sys.executable, address=address, name=name))
            shim.chmod(0o755)
        (self.folder / ".venv/bin").mkdir(parents=True)
        (self.folder / ".venv/bin/motet").symlink_to(self.home / "bin/motet")
        (self.folder / ".venv/bin/activate").write_text("# what runs here is on the PATH already\n")
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def environment(self):
        ours = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
        path = f"{self.home / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return os.environ | ours | {"PATH": path, "TMPDIR": str(self.home)}

    # -- the shims' other end ------------------------------------------------------------------------------------

    def _serve(self):
        while not self._ended.is_set():
            try:
                caller, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(caller,), daemon=True).start()

    def _answer(self, caller):
        with caller, contextlib.suppress(OSError):
            told = json.loads(caller.makefile().readline())
            process = self._start(told)
            caller.setblocking(False)
            while process.poll() is None:
                with contextlib.suppress(BlockingIOError):
                    if caller.recv(16) in {b"end", b""}:
                        process.terminate()
                time.sleep(0.01)
            caller.setblocking(True)
            caller.sendall(f"{process.poll()}\n".encode())

    def _start(self, told):
        out, err = (f"/proc/{told['pid']}/fd/{number}" for number in (1, 2))
        words = told["words"]
        with self._lock:
            if told["name"] == "python":
                return forked_motet.start_python(words, told["environment"], told["cwd"], out, err)
            if words[1:2] == ["start"] and words[0] in READY and "--help" not in words:
                log = self.home / f"{len(self.services)}-{words[0]}.log"
                process = forked_motet.start(words, told["environment"], told["cwd"], log)
                self.services.append(_Service(process, words[0], words, log))
                return process
            if words in (["--install-completion"], ["--show-completion"]):  # they look for the shell above
                return forked_motet.start_in_bash(words, told["environment"], told["cwd"], out, err)
            return forked_motet.start(words, told["environment"], told["cwd"], out, err)

    # -- commands ------------------------------------------------------------------------------------------------

    def filled(self, text):
        """The text with what only exists here."""
        for pattern, value in self.fills.items():
            text = re.sub(pattern, lambda found, value=value: value(self, found), text, flags=re.MULTILINE)
        return text

    def run(self, command, within_s=WITHIN_S):
        """The command's end; of a service, that it is ready."""
        text = self.filled(command)
        serves = re.match(r"motet (coordinator|client) start\b", text) and not text.rstrip().endswith("&")
        script = text + (" &" if serves else "")
        state, where = self.home / "exported", self.home / "cwd"
        lines = [
            f'cd "$(cat {where})" && . {state}' if state.exists() else f"cd {self.folder}",
            "set -a -o pipefail",
            script,
            f"code=$?; export -p > {state}; pwd > {where}; exit $code",
        ]
        before = len(self.services)
        out = self.home / "out"
        with out.open("wb") as file:
            code = subprocess.run(
                ["bash", "-c", "\n".join(lines)],
                env=self.environment(),
                stdout=file,
                stderr=file,
                timeout=within_s,
            ).returncode
        printed = out.read_text(errors="replace")
        expected = len(re.findall(r"motet (?:coordinator|client) start\b", text))
        if expected:
            printed += self._wait_for_services(before, before + expected, within_s)
        if found := re.search(r"^(r-[0-9a-f]{6,16})\b", printed, re.MULTILINE):
            self.run_id = found[1]
        return Done(code=code, printed=printed)

    def _wait_for_services(self, before, least, within_s):
        until = time.monotonic() + within_s
        while len(self.services) < least or not all(s.is_ready() for s in self.services[before:]):
            for service in self.services[before:]:
                assert service.process.poll() is None, f"{service.words} ended:\n{service.printed()}"
            assert time.monotonic() < until, self.logs()
            time.sleep(0.05)
        return "".join(s.printed() for s in self.services[before:])

    def stop(self, *homes, within_s=30.0):
        """End the services of these homes (none: of all), the clients first."""
        chosen = [s for s in self.services if s.process.poll() is None and (not homes or s.home in homes)]
        for service in sorted(chosen, key=lambda s: s.kind):
            service.process.terminate()
        for service in chosen:
            service.process.wait(within_s)

    def logs(self):
        """The last lines of every service."""
        return "".join(f"\n--- {s.words}\n{s.printed()[-1500:]}" for s in self.services)

    def close(self):
        """End all; the folders are gone."""
        try:
            self.stop()
        finally:
            for service in self.services:
                if service.process.poll() is None:
                    service.process.kill()
            self._ended.set()
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            for folder in (self.folder, self.home):
                shutil.rmtree(folder, ignore_errors=True)
