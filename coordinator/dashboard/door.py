"""What every request passes before any page: its Host, its method, and the headers of every answer.

A page that is open elsewhere in the same browser can make it send requests here, and a name that points to loopback
for a moment (DNS rebinding) would make these look like ours; so only the names that this server goes by are answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with no-referrer a browser hides the origin of our own form as well
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
NOT_KEPT = "no-store"
LEAVE = "/leave"
MOST_BODY_BYTES = 4096


class Door:
    """Wraps the application.

    Args:
      app: what answers.
      hosts: values of ``Host`` that are ours, lower case, with the port where it is not the usual one.
      is_tls: the answers travel over TLS.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], is_tls: bool) -> None:
        self._app, self._hosts, self._is_tls = app, frozenset(hosts), is_tls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        sent: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            sent.setdefault(name, []).append(value)
        refused = self._refusal(scope, sent)
        if refused is not None:
            await _say(send, *refused, self._headers())
            return
        await self._app(scope, receive, self._with_headers(send))

    def _refusal(self, scope: Scope, sent: dict[bytes, list[bytes]]) -> tuple[int, bytes] | None:
        hosts = [h.decode("latin-1").lower() for h in sent.get(b"host", [])]
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return 421, b"this server does not go by that name\n"
        method, path = scope["method"], scope["path"]
        if method == "POST" and path == LEAVE:
            return self._refused_form(hosts[0], sent)
        return None if method in {"GET", "HEAD"} else (405, b"only GET; the dashboard changes nothing\n")

    def _refused_form(self, host: str, sent: dict[bytes, list[bytes]]) -> tuple[int, bytes] | None:
        origin = [o.decode("latin-1").lower() for o in sent.get(b"origin", [])]
        ours = f"{'https' if self._is_tls else 'http'}://{host}"
        if origin and origin != [ours]:
            return 403, b"the form came from elsewhere\n"
        length = (sent.get(b"content-length") or [b""])[0]
        if not length.isdigit() or int(length) > MOST_BODY_BYTES:
            return 413, b"the form is too large\n"
        return None

    def _headers(self) -> list[tuple[bytes, bytes]]:
        return [(k.encode(), v.encode()) for k, v in HEADERS.items()]

    def _with_headers(self, send: Send) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = list(message.get("headers", []))
                if not any(name.lower() == b"cache-control" for name, _ in kept):
                    kept.append((b"cache-control", NOT_KEPT.encode()))
                message["headers"] = [*kept, *self._headers()]
            await send(message)

        return sending


async def _say(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    told = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", NOT_KEPT.encode()),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": body})
