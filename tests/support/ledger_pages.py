"""A page that checks a ledger, as the dashboard serves it: its files, its headers, and a coordinator that may lie."""

from __future__ import annotations

import json
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

import coordinator.dashboard
from coordinator.dashboard import proofs

STATIC = Path(coordinator.dashboard.__file__).parent / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
PAGE = """<!doctype html><html lang="en"><head><title>Ledger</title><meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,"><script type="module" src="/static/verify.js"></script></head>
<body><main><h1>Privacy</h1><h2>Check the ledger</h2><section data-ledger="/ledger"></section></main></body></html>"""


class LedgerSite:
    """Serves one ledger.

    Attributes:
      ledger: the signed file that is shown now.
      may_read: whether who looks may read entries.
      lies: path -> what becomes of the body of its answer.
    """

    def __init__(self, ledger):
        self.ledger, self.may_read, self.lies = ledger, True, {}
        self.app = Starlette(
            routes=[
                Route(
                    "/",
                    lambda _: Response(
                        PAGE, headers={"Content-Security-Policy": POLICY}, media_type="text/html"
                    ),
                ),
                Mount("/static", StaticFiles(directory=STATIC)),
                Route("/ledger/{name}", self.answer),
            ]
        )

    async def answer(self, request: Request) -> Response:
        """What the coordinator tells, or its lie."""
        routes = proofs.routes(self.ledger, may_read=lambda _: self.may_read)
        route = next(route for route in routes if route.path == request.url.path)
        told = await route.endpoint(request)
        lie = self.lies.get(request.path_params["name"])
        if lie is None or told.status_code != 200:
            return told
        return Response(lie(told.body), media_type=told.media_type)

    def lie_in(self, name, **fields):
        """Change fields of a JSON answer; a function is given the old value."""

        def changed(body):
            told = json.loads(body)
            for field, value in fields.items():
                told[field] = value(told[field]) if callable(value) else value
            return json.dumps(told).encode()

        self.lies[name] = changed
