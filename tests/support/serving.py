"""An ASGI application or a handful of files on loopback, for as long as a test wants them."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from starlette.requests import Request

_WAIT_S = 60.0


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve ``app`` on a free port of the loopback interface within the context; gives ``http://127.0.0.1:PORT``."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + _WAIT_S
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise AssertionError("the server did not start")
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(_WAIT_S)
        listener.close()


def site(files: Mapping[str, tuple[str, str]], headers: Mapping[str, str] | None = None) -> Starlette:
    """An application of fixed files. ``files``: path -> (media type, text)."""

    def answer(request: Request) -> Response:
        kind, text = files[request.url.path]
        return Response(text, media_type=kind, headers=dict(headers or {}))

    return Starlette(routes=[Route(path, answer) for path in files])
