"""The application: each route with who may see it, and an answer in words for whatever goes wrong."""

from __future__ import annotations

import hashlib
import inspect
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from coordinator.dashboard import downloads, proofs, views
from coordinator.dashboard.access import CERTIFICATES, may, may_see
from coordinator.dashboard.budgets import Budgets
from coordinator.dashboard.door import Door
from coordinator.dashboard.pages.clients import clients_page
from coordinator.dashboard.pages.privacy import privacy_page
from coordinator.dashboard.pages.run import run_page
from coordinator.dashboard.pages.runs import runs_page
from coordinator.dashboard.rendering import STATIC, asset, render
from coordinator.dashboard.sessions import SESSION_S, is_token
from coordinator.rpc.roles import may_see_data_sets
from motet.connection.faults import told
from motet.errors import DatabaseAwayError, NotFoundError, StorageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from starlette.requests import Request
    from starlette.types import ASGIApp

    from coordinator.dashboard.pages.clients import ClientsPage
    from coordinator.dashboard.pages.privacy import PrivacyPage
    from coordinator.dashboard.records import Records
    from coordinator.dashboard.sessions import Session, Sessions

    Make = Callable[[Request, Session], Response]

log = logging.getLogger(__name__)
LIVE = "motet-live"
"""Header of a page that asks for itself again; it gets the middle alone."""
FILES = {
    "motet.css": "text/css",
    "motet.js": "text/javascript",
    "theme.js": "text/javascript",
    "verify.js": "text/javascript",
    "checks.js": "text/javascript",
    "ledger.js": "text/javascript",
    "mark.svg": "image/svg+xml",
}
DOWNLOAD_WAIT_S = 120.0
_A_YEAR = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the dashboard is served, as browsers see it.

    Attributes:
      hosts: values of ``Host`` that are ours.
      cookie: name of the session's cookie.
      is_tls: over TLS.
    """

    hosts: Collection[str]
    cookie: str
    is_tls: bool = False


class Pages:
    """Answers for everything that needs a session.

    Args:
      records: what is shown.
      sessions: who looks.
      place: where it is served.
    """

    def __init__(self, records: Records, sessions: Sessions, place: Place) -> None:
        self._records, self._sessions, self._place = records, sessions, place
        self._budgets = Budgets(records.store, records.database)

    # -- pages ---------------------------------------------------------------------------------------------------

    def runs(self, request: Request, session: Session) -> Response:
        """All runs."""
        page = runs_page(self._records, _page_number(request))
        return self._page(request, session, "runs.html", page=page, charts=views.charts_of_runs(page))

    def runs_json(self, request: Request, _session: Session) -> Response:
        """The same as JSON."""
        return _file(downloads.as_json(runs_page(self._records, _page_number(request))), "runs.json")

    def runs_csv(self, request: Request, _session: Session) -> Response:
        """The same as CSV."""
        return _file(downloads.runs_csv(runs_page(self._records, _page_number(request))), "runs.csv")

    def run(self, request: Request, session: Session) -> Response:
        """One run."""
        page = run_page(self._records, request.path_params["run_id"])
        charts = {
            "learning": views.learning_charts(page),
            "rounds": views.round_charts(page),
            "timeline": views.timeline_chart(page),
        }
        return self._page(request, session, "run.html", page=page, charts=charts)

    def run_json(self, request: Request, _session: Session) -> Response:
        """One run as JSON."""
        page = run_page(self._records, request.path_params["run_id"])
        return _file(downloads.as_json(page), f"{page.run_id}.json")

    def run_rounds(self, request: Request, _session: Session) -> Response:
        """Its rounds as CSV."""
        page = run_page(self._records, request.path_params["run_id"])
        return _file(downloads.rounds_csv(page), f"{page.run_id}-rounds.csv")

    def run_clients(self, request: Request, _session: Session) -> Response:
        """What each client did in each round, as CSV."""
        page = run_page(self._records, request.path_params["run_id"])
        return _file(downloads.clients_of_run_csv(page), f"{page.run_id}-clients.csv")

    def run_held_out(self, request: Request, _session: Session) -> Response:
        """What clients told of its adapters, as CSV."""
        page = run_page(self._records, request.path_params["run_id"])
        return _file(downloads.held_out_csv(page), f"{page.run_id}-held-out.csv")

    def ledger(self, request: Request, session: Session) -> Response:
        """Where the browser checks the ledger."""
        return self._page(request, session, "ledger.html")

    def proofs(self) -> list[Route]:
        """What it checks it by; whoever may not list entries gets none."""

        def may_read(request: Request) -> bool:
            return request.state.may_read is True

        ledger = self._records.store.ledger.file
        return [
            Route(route.path, self.guarded(str(route.name), _for_role(route)), name=route.name)
            for route in proofs.routes(ledger, may_read=may_read)
        ]

    def clients(self, request: Request, session: Session) -> Response:
        """All clients."""
        page = self._clients(request, session)
        return self._page(request, session, "clients.html", page=page)

    def clients_json(self, request: Request, session: Session) -> Response:
        """The same as JSON."""
        return _file(downloads.as_json(self._clients(request, session)), "clients.json")

    def clients_csv(self, request: Request, session: Session) -> Response:
        """The same as CSV."""
        return _file(downloads.clients_csv(self._clients(request, session)), "clients.csv")

    def privacy(self, request: Request, session: Session) -> Response:
        """Budgets and the ledger."""
        page = self._privacy(session)
        return self._page(request, session, "privacy.html", page=page, charts=views.privacy_charts(page))

    def privacy_json(self, _request: Request, session: Session) -> Response:
        """The same as JSON."""
        page = self._privacy(session, within_s=DOWNLOAD_WAIT_S)
        return _file(downloads.as_json(page), "privacy.json")

    def budgets_csv(self, _request: Request, session: Session) -> Response:
        """Budgets as CSV."""
        page = self._privacy(session, within_s=DOWNLOAD_WAIT_S)
        return _file(downloads.budgets_csv(page), "budgets.csv")

    def _privacy(self, session: Session, within_s: float = 0.0) -> PrivacyPage:
        tells = may_see_data_sets(session.peer.role)
        return privacy_page(self._records, self._budgets, tells_data_sets=tells, within_s=within_s)

    def _clients(self, request: Request, session: Session) -> ClientsPage:
        may_know = may(session.peer.role, CERTIFICATES)
        return clients_page(
            self._records, _page_number(request), certificates=may_know, now=self._sessions.now()
        )

    # -- coming and going ----------------------------------------------------------------------------------------

    def enter(self, request: Request) -> Response:
        """The one-time link: a cookie, and a page of ours that goes on, so that the cookie is sent with that step."""
        secret = self._sessions.enter(request.query_params.get("key", ""))
        if secret is None:
            return self._refused(401, "This link was used, or is older than a minute.")
        self._sessions.leave(request.cookies.get(self._place.cookie, ""))  # one session a browser
        answer = HTMLResponse(render("entered.html"))
        answer.set_cookie(
            self._place.cookie,
            secret,
            max_age=int(SESSION_S),
            httponly=True,
            samesite="strict",
            secure=self._place.is_tls,
        )
        return answer

    async def leave(self, request: Request, session: Session) -> Response:
        """Sign out; the form has to be of this session."""
        sent = parse_qs((await request.body()).decode("utf-8", "replace"))
        if not is_token(session, (sent.get("token") or [""])[0]):
            return self._refused(403, "The form was not made for this session.")
        self._sessions.leave(request.cookies.get(self._place.cookie, ""))
        answer = RedirectResponse("/", status_code=303)
        answer.delete_cookie(self._place.cookie, httponly=True, samesite="strict", secure=self._place.is_tls)
        return answer

    # -- what all of them share ----------------------------------------------------------------------------------

    def guarded(
        self, name: str, make: Callable[[Request, Session], Response | Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """``make`` behind session and role."""

        async def answer(request: Request) -> Response:
            try:
                secret = request.cookies.get(self._place.cookie, "")
                session = await run_in_threadpool(self._sessions.session, secret)
                if session is None:
                    return self._refused(401, "")
                if not may_see(session.peer.role, name):
                    return self._refused(
                        403, f"The role {session.peer.role} does not see this page.", session
                    )
                request.state.session = session
                if inspect.iscoroutinefunction(make):
                    made: Response = await make(request, session)
                    return made
                return await run_in_threadpool(cast("Make", make), request, session)
            except Exception as e:  # noqa: BLE001 - told in words; the log has the rest
                return self._fault(e)

        return answer

    def _page(self, request: Request, session: Session, template: str, **values: Any) -> Response:  # noqa: ANN401
        """A page, or its middle for a page that asks for itself again; 304 where nothing has changed."""
        is_live = request.headers.get(LIVE) == "1"
        role = session.peer.role
        text = render(
            template,
            base="middle.html" if is_live else "base.html",
            path=request.url.path,
            session=session,
            federation=self._records.federation,
            sees={name: may_see(role, name) for name in ("runs", "clients", "privacy", "ledger")}
            | {"certificates": may(role, CERTIFICATES)},
            **values,
        )
        tag = f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"etag": tag})
        return HTMLResponse(text, headers={"etag": tag, "vary": f"{LIVE}, cookie"})

    def _refused(self, status: int, why: str, session: Session | None = None) -> Response:
        template = "refused.html" if session else "signed-out.html"
        return HTMLResponse(render(template, why=why, status=status), status_code=status)

    def _fault(self, error: Exception) -> Response:
        """An error as a page; of a fault of ours nothing but that there was one."""
        fault, message, hint = told(error)
        status = 500
        if isinstance(error, NotFoundError):
            status = 404
        elif isinstance(error, DatabaseAwayError):
            status = 503
        if status == 500:
            log.error("the dashboard could not answer: %s", fault.kind, exc_info=error)
        if isinstance(error, StorageError) and status == 500:
            message = "The coordinator's storage can not be read now."
        return HTMLResponse(
            render("fault.html", status=status, message=message, hint=hint), status_code=status
        )


def build_app(records: Records, sessions: Sessions, place: Place) -> ASGIApp:
    """The application behind its door."""
    pages = Pages(records, sessions, place)
    routes = routes_of(pages)
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error, Exception: _any_error})
    return Door(app, hosts=place.hosts, is_tls=place.is_tls)


def routes_of(pages: Pages) -> list[Route]:
    """Every route; what is not public is behind session and role."""
    seen: dict[str, tuple[str, Callable[[Request, Session], Response | Awaitable[Response]]]] = {
        "runs": ("/", pages.runs),
        "runs.json": ("/runs.json", pages.runs_json),
        "runs.csv": ("/runs.csv", pages.runs_csv),
        "run-rounds.csv": ("/runs/{run_id}/rounds.csv", pages.run_rounds),
        "run-clients.csv": ("/runs/{run_id}/clients.csv", pages.run_clients),
        "run-held-out.csv": ("/runs/{run_id}/held-out.csv", pages.run_held_out),
        "run.json": ("/runs/{run_id}/run.json", pages.run_json),
        "run": ("/runs/{run_id}", pages.run),
        "ledger": ("/ledger", pages.ledger),
    }
    seen |= {
        "clients": ("/clients", pages.clients),
        "clients.json": ("/clients.json", pages.clients_json),
        "clients.csv": ("/clients.csv", pages.clients_csv),
        "privacy": ("/privacy", pages.privacy),
        "privacy.json": ("/privacy.json", pages.privacy_json),
        "budgets.csv": ("/budgets.csv", pages.budgets_csv),
    }
    routes = [Route(path, pages.guarded(name, make), name=name) for name, (path, make) in seen.items()]
    routes += pages.proofs()
    routes.append(Route("/leave", pages.guarded("leave", pages.leave), name="leave", methods=["POST"]))
    routes.append(Route("/enter", pages.enter, name="enter"))
    routes.append(Route("/static/{name}", _static, name="static"))
    return routes


def _static(request: Request) -> Response:
    name = request.path_params["name"]
    kind = FILES.get(name)
    if kind is None:
        return PlainTextResponse("no such file\n", status_code=404)
    # A module asks for those that it imports without the mark of their content, so these are asked for each time.
    is_marked = asset(name).endswith(f"?{request.url.query}")
    kept = _A_YEAR if is_marked else "no-cache"
    return FileResponse(STATIC / name, media_type=kind, headers={"cache-control": kept})


def _for_role(route: Route) -> Callable[[Request, Session], Awaitable[Response]]:
    async def answer(request: Request, session: Session) -> Response:
        request.state.may_read = may_see(session.peer.role, "ledger-entries")
        made: Response = await route.endpoint(request)
        return made

    return answer


def _file(body: bytes, name: str) -> Response:
    kind = "application/json" if name.endswith(".json") else "text/csv; charset=utf-8"
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in name)
    return Response(body, media_type=kind, headers={"content-disposition": f'attachment; filename="{safe}"'})


def _page_number(request: Request) -> int:
    sent = request.query_params.get("page", "1")
    return int(sent) if sent.isdecimal() and len(sent) < 7 else 1


def _http_error(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    words = "There is no such page." if status == 404 else "This can not be answered."
    return HTMLResponse(render("fault.html", status=status, message=words, hint=""), status_code=status)


def _any_error(_request: Request, error: Exception) -> Response:
    log.error("the dashboard met a fault", exc_info=error)
    words = "The dashboard met a fault of its own. The coordinator's log has it."
    return HTMLResponse(render("fault.html", status=500, message=words, hint=""), status_code=500)
