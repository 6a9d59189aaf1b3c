"""``motet`` commands as processes that cost a fork.

Python, torch and transformers take five CPU-seconds to import, and the tests start a hundred processes. Here they are
forked from one that has imported them (``multiprocessing``'s fork server): a process of its own with its own session,
environment, folder and output, that runs ``motet.cli.main`` as typed. ``MOTET_TEST_FORK=0`` starts each from nothing,
as ``make test-all`` does.
"""

import multiprocessing
import os
import runpy
import shlex
import signal
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

from motet.cli.main import QUIET_ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]
MOTET = [sys.executable, "-m", "motet.cli.main"]
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}",
}
_context = multiprocessing.get_context("forkserver")
_server = forkserver.ForkServer()  # ours: worker pools start one of their own, with other imports


def is_forked():
    """Whether commands are forked."""
    return os.environ.get("MOTET_TEST_FORK", "1") != "0"


def _ready():
    _server.set_forkserver_preload(["forked_motet_imports"])
    environment = {key: value for key, value in os.environ.items() if key not in QUIET_ENVIRONMENT}
    with mock.patch.dict(os.environ, environment | ONE_THREAD, clear=True):
        _server.ensure_running()


def _take(environment, cwd, out, err):
    """Be a process of its own with this environment, folder and output."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who started the tests may have had it ignored
    for path, number in ((out, 1), (err, 2)):
        to = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(to, number)
        os.close(to)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)


def _run(arguments, environment, cwd, out, err):
    _take(environment, cwd, out, err)
    sys.argv = [str(ROOT / "motet/cli/main.py"), *arguments]
    from motet.cli.main import main

    main()


def _run_python(arguments, environment, cwd, out, err):
    _take(environment, cwd, out, err)
    sys.path.insert(0, str(cwd))
    sys.argv = list(arguments)
    runpy.run_path(arguments[0], run_name="__main__")


def start_function(function, *given):
    """A function of an importable module in the background, in a process with everything imported already."""
    _ready()
    process = _context.Process(target=function, args=given)
    with mock.patch.object(forkserver, "connect_to_new_process", _server.connect_to_new_process):
        process.start()
    return process


class Command:
    """``motet`` with these arguments in the background; what ``subprocess.Popen`` offers and the tests use.

    Args:
      arguments: of ``motet``.
      environment: whole.
      cwd: where it runs.
      out: file that its output is added to.
      err: the same for errors; by default ``out``.
      function: what runs, with these.
    """

    def __init__(self, arguments, environment, cwd, out, err=None, function=_run):
        _ready()
        words = [str(a) for a in arguments]
        given = (words, dict(environment), str(cwd), str(out), str(err or out))
        self._process = _context.Process(target=function, args=given)
        with mock.patch.object(forkserver, "connect_to_new_process", _server.connect_to_new_process):
            self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self):
        """None while it runs; minus the signal that ended it."""
        return self._process.exitcode

    def poll(self):
        """The exit code, or None."""
        return self._process.exitcode

    def wait(self, timeout=None):
        """The exit code, once it has ended."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return self._process.exitcode

    def terminate(self):
        """SIGTERM, if it runs."""
        self._process.terminate()

    def kill(self):
        """SIGKILL, if it runs."""
        self._process.kill()


def start(arguments, environment, cwd, log, err=None):
    """In the background, forked or from nothing; output and errors are added to the file ``log`` (errors: ``err``)."""
    if is_forked():
        return Command(arguments, environment, cwd, log, err)
    return _started([*MOTET, *arguments], environment, cwd, log, err or log)


def start_python(arguments, environment, cwd, out, err):
    """``python FILE ...`` in the background, forked or from nothing."""
    if is_forked():
        return Command(arguments, environment, cwd, out, err, _run_python)
    return _started([sys.executable, *arguments], environment, cwd, out, err)


def start_in_bash(arguments, environment, cwd, out, err):
    """``motet`` from nothing, as the child of a shell that waits for it."""
    line = " ".join(shlex.quote(str(word)) for word in [*MOTET, *arguments])
    return _started(["bash", "-c", f"{line}; exit $?"], environment, cwd, out, err)


def _started(words, environment, cwd, out, err):
    with Path(out).open("ab") as to, Path(err).open("ab") as errors:
        return subprocess.Popen(
            [str(w) for w in words],
            env=environment,
            cwd=cwd,
            stdout=to,
            stderr=errors,
            start_new_session=True,
        )


def run(arguments, environment, cwd, within_s=60.0):
    """To its end; a ``subprocess.CompletedProcess`` with texts."""
    words = [*MOTET, *map(str, arguments)]
    if not is_forked():
        return subprocess.run(
            words, env=environment, cwd=cwd, capture_output=True, text=True, timeout=within_s
        )
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        command = Command(arguments, environment, cwd, out, err)
        try:
            code = command.wait(within_s)
        except subprocess.TimeoutExpired:
            command.kill()
            command.wait(10)
            raise
        return subprocess.CompletedProcess(words, code, out.read_text(), err.read_text())
