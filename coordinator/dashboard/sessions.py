"""One-time links and the sessions that they open; in memory, so that a coordinator that restarts has none.

A session is its owner's certificate for a while: it ends with the certificate, and at once when that is revoked.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordinator.rpc.identity import Peer, Revocations
    from motet.clock import Clock

LINK_S = 60.0
SESSION_S = 12 * 3600.0
MOST = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Somebody who looks. ``token`` is what a form has to send back; ``until`` in seconds since 1970."""

    peer: Peer
    token: str
    until: float


class Sessions:
    """Links that wait and sessions that are open; safe for threads. Only hashes of secrets are kept.

    Args:
      clock: for lifetimes.
      revocations: asked for a session's certificate on every look.
      link_s: how long a link waits.
      session_s: how long a session lasts.
    """

    def __init__(
        self,
        clock: Clock,
        revocations: Revocations,
        *,
        link_s: float = LINK_S,
        session_s: float = SESSION_S,
    ) -> None:
        self._clock, self._revocations = clock, revocations
        self._link_s, self._session_s = link_s, session_s
        self._lock = threading.Lock()
        self._links: dict[str, tuple[Peer, float]] = {}
        self._open: dict[str, Session] = {}

    def link(self, peer: Peer) -> tuple[str, float]:
        """A key that opens one session for ``peer``, and when it ends. The oldest goes where too many wait."""
        key, until = secrets.token_urlsafe(32), self._clock.now() + self._link_s
        with self._lock:
            self._forget_old()
            _make_room(self._links)
            self._links[_hash(key)] = (peer, until)
        return key, until

    def enter(self, key: str) -> str | None:
        """The secret of a new session; None where the key is unknown, was used, or is too old."""
        with self._lock:
            self._forget_old()
            found = self._links.pop(_hash(key), None)
        if found is None or not self._is_good(found[0]):
            return None
        secret, peer = secrets.token_urlsafe(32), found[0]
        until = min(self._clock.now() + self._session_s, peer.not_after)
        with self._lock:
            _make_room(self._open)
            self._open[_hash(secret)] = Session(peer=peer, token=secrets.token_urlsafe(16), until=until)
        return secret

    def session(self, secret: str) -> Session | None:
        """The open session of a secret; None where there is none, or its owner is no longer believed.

        Raises:
          StorageError: the record of certificates can not be read; nobody is let in then.
        """
        with self._lock:
            found = self._open.get(_hash(secret)) if secret else None
        if found is None:
            return None
        if self._clock.now() >= found.until or not self._is_good(found.peer):
            self.leave(secret)
            return None
        return found

    def now(self) -> float:
        """Seconds since 1970, by the clock that sessions end by."""
        return self._clock.now()

    def leave(self, secret: str) -> None:
        """End a session."""
        with self._lock:
            self._open.pop(_hash(secret), None)

    def _is_good(self, peer: Peer) -> bool:
        """Whether the certificate still holds; the user of this home has none."""
        return not peer.serial or not self._revocations.is_revoked(peer.serial)

    def _forget_old(self) -> None:
        now = self._clock.now()
        self._links = {k: v for k, v in self._links.items() if v[1] > now}
        self._open = {k: v for k, v in self._open.items() if v.until > now}


def is_token(session: Session, sent: str) -> bool:
    """Whether a form was made for this session."""
    return hmac.compare_digest(session.token.encode(), sent.encode())


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _make_room(kept: dict[str, tuple[Peer, float]] | dict[str, Session]) -> None:
    while len(kept) >= MOST:
        kept.pop(next(iter(kept)))
