"""TLS handshakes at the gateway that failed, counted and logged by OpenSSL's word for why; no value of the peer's."""

from __future__ import annotations

import logging
import ssl
import threading
from collections import Counter

log = logging.getLogger(__name__)
UNKNOWN = "unknown"


class Handshakes:
    """Counts by kind; the log has the first of a kind, the second, the fourth, and so on. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._refused: Counter[str] = Counter()

    def refused(self, error: ssl.SSLError) -> None:
        """One failed. Its kind is OpenSSL's reason, such as ``http_request`` or ``tlsv1_alert_unknown_ca``."""
        kind = (error.reason or UNKNOWN).lower()
        with self._lock:
            self._refused[kind] += 1
            count = self._refused[kind]
        if count & (count - 1) == 0:
            log.warning("a TLS handshake failed: %s (%d since the start)", kind, count)

    def counts(self) -> dict[str, int]:
        """Failed handshakes by kind."""
        with self._lock:
            return dict(self._refused)


def counting(context: ssl.SSLContext) -> Handshakes:
    """Count what fails at a server's context from now on; a peer that just leaves is no failure."""
    found = Handshakes()

    class Counted(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLEOFError):
                raise
            except ssl.SSLError as e:
                found.refused(e)
                raise

    context.sslobject_class = Counted
    return found
