"""The compose runner as people type it, and a look at whether anything of it is left."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
RUNNER = ROOT / "scripts" / "compose_runner.py"
PROBE = """
import socket, sys
for address in sys.argv[1:]:
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 3).close()
        print("reached")
    except OSError as e:
        print("closed:", e)
"""


def why_not_here():
    """Why services can not be run in namespaces on this machine; empty where they can."""
    if sys.platform != "linux":
        return "namespaces are of Linux"
    user = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
    try:
        tried = subprocess.run(
            [
                "unshare",
                *user,
                "--mount",
                "--net",
                "--pid",
                "--fork",
                "--mount-proc",
                "ip",
                "link",
                "add",
                "br0",
                "type",
                "bridge",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as e:
        return f"unshare: {e.strerror}"
    return "" if tried.returncode == 0 else f"neither root nor user namespaces: {tried.stderr.strip()}"


class House:
    """One project in a folder of its own."""

    def __init__(self, file, runner=RUNNER, **environment):
        self.file, self.runner, self.environment = Path(file), runner, {**os.environ, **environment}
        self.state = Path(tempfile.mkdtemp(prefix="motet-compose-"))

    def run(self, *words, profile=None, timeout=1200):
        chosen = ["--profile", profile] if profile else []
        command = [
            sys.executable,
            str(self.runner),
            "--file",
            str(self.file),
            "--state",
            str(self.state),
            *chosen,
            *words,
        ]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=timeout, env=self.environment
        )

    def ok(self, *words, **options):
        """Run it; what it printed."""
        done = self.run(*words, **options)
        assert done.returncode == 0, f"{words}: {done.stdout[-3000:]}{done.stderr[-3000:]}{self.logs()}"
        return done.stdout

    def rows(self):
        """What each service does, by name."""
        return {row["service"]: row for row in json.loads(self.ok("ps", "--json"))}

    def reached(self, service, addresses, python="python"):
        """Those of ``addresses`` (``host:port``) that take a connection from a service."""
        said = self.ok("exec", service, python, "-c", PROBE, *addresses).splitlines()
        assert len(said) == len(addresses), said
        return {address for address, word in zip(addresses, said, strict=True) if word == "reached"}

    def logs(self):
        """The end of everything that was printed."""
        said = [
            f"--- {p.name}\n{p.read_text(errors='replace')[-600:]}" for p in sorted(self.state.rglob("*.log"))
        ]
        return "\n".join(said)

    def down(self):
        self.run("down")

    def left(self):
        """Processes, mounts and folders of this project that are still there."""
        word = str(self.state)
        found = []
        for process in psutil.process_iter(["pid", "cmdline"]):
            if any(word in part for part in process.info["cmdline"] or ()):
                found.append(process.info["cmdline"])
        found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if word in line]
        named = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
        links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=False).stdout
        return found, named, links, self.state.exists()
