"""An address that is moved from one server to another, as a name, a virtual address or a balancer would be."""

import contextlib
import socket
import threading


class MovedAddress:
    """Carries bytes from a loopback port to where it points; ``point`` moves it and cuts what goes to the old place."""

    def __init__(self, target):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._target, self._open = target, []
        threading.Thread(target=self._accept, daemon=True).start()

    def point(self, target):
        """Lead new connections there, and cut the others."""
        self._target = target
        cut, self._open = self._open, []
        for one in cut:
            _shut(one)

    def close(self):
        """End."""
        self._listener.close()
        self.point("")

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            host, _, port = self._target.rpartition(":")
            try:
                far = socket.create_connection((host, int(port)), timeout=5)
                far.settimeout(None)
            except (OSError, ValueError):
                near.close()
                continue
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _pump(source, sink):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    _shut(source)
    _shut(sink)


def _shut(one):
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
