"""A ``motet`` command on a terminal of its own (a pseudo-terminal), with what it wrote there."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import threading
import time
from contextlib import contextmanager

from forked_motet import ROOT, Command

COLOUR = re.compile(r"\x1b\[[0-9;]*(?:3[0-7]|9[0-7]|38;[0-9;]+|48;[0-9;]+)[0-9;]*m")
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A running command whose standard output and errors are a terminal of ``columns`` times ``rows``."""

    def __init__(self, arguments, environment, columns=80, rows=24, cwd=ROOT):
        self._ours, theirs = pty.openpty()
        self._name = os.ttyname(theirs)
        self._written = bytearray()
        self.resize(columns, rows)
        self.command = Command(arguments, environment, cwd, self._name)
        self._theirs = theirs
        self._is_over = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        while not self._is_over.is_set():
            if select.select([self._ours], [], [], 0.1)[0]:
                try:
                    self._written += os.read(self._ours, 65536)
                except OSError:
                    return

    def resize(self, columns, rows):
        """Another size; the command is told as by any terminal."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def interrupt(self):
        """What Ctrl-C does."""
        os.kill(self.command.pid, signal.SIGINT)

    @property
    def raw(self):
        """All that was written, control codes and all."""
        return self._written.decode(errors="replace")

    @property
    def text(self):
        """Without control codes."""
        return CODES.sub("", self.raw).replace("\r\n", "\n")

    def until(self, condition, within_s=60.0):
        """Whether ``condition(self)`` comes true."""
        end = time.monotonic() + within_s
        while not condition(self):
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def wait(self, within_s=60.0):
        """The exit code; everything that was written is there."""
        code = self.command.wait(within_s)
        time.sleep(0.3)
        return code

    def close(self):
        """Ends what runs."""
        if self.command.poll() is None:
            self.command.kill()
            self.command.wait(10)
        self._is_over.set()
        self._reader.join(5)
        os.close(self._ours)
        os.close(self._theirs)


@contextmanager
def terminal(arguments, environment=None, **size):
    """A command on a terminal; ``TERM`` is xterm-256color and nothing is said of colour but by ``environment``."""
    kept = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"}}
    made = Terminal(arguments, kept | {"TERM": "xterm-256color"} | (environment or {}), **size)
    try:
        yield made
    finally:
        made.close()
