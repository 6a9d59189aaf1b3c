"""Who may see what. A page shows what calls of the API tell, so whoever may not make the calls may not see the page.

There is no second table of roles: ``coordinator.rpc.roles`` decides here as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.dashboard.proofs import CALLS as PROOFS
from coordinator.rpc.roles import may_call

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_V1 = "/motet.v1."
RUNS = (f"{_V1}RunService/ListRuns", f"{_V1}RoundService/ListRounds")
RUN = (
    f"{_V1}RunService/GetRun",
    f"{_V1}RoundService/ListRounds",
    f"{_V1}MetricService/ListMetrics",
    f"{_V1}MetricService/ListScores",
    f"{_V1}RecipeService/GetRecipe",
)
CLIENTS = (f"{_V1}ClientService/ListClients", f"{_V1}RoundService/ListRounds")
PRIVACY = (f"{_V1}BudgetService/ListBudgets", f"{_V1}LedgerService/GetCheckpoint")
CERTIFICATES = (f"{_V1}EnrolmentService/ListIdentities",)
ANYBODY = (f"{_V1}SystemService/GetInfo",)
LINK = f"{_V1}SystemService/IssueDashboardLink"
"""Who may not ask for a link sees nothing, however it came by a session: a client's own budget is not on a page."""

ROUTES: Mapping[str, tuple[str, ...]] = {
    "runs": RUNS,
    "runs.json": RUNS,
    "runs.csv": RUNS,
    "run": RUN,
    "run.json": RUN,
    "run-rounds.csv": RUN,
    "run-clients.csv": RUN,
    "run-held-out.csv": RUN,
    "ledger": (f"{_V1}LedgerService/GetCheckpoint",),
    **PROOFS,
    "clients": CLIENTS,
    "clients.json": CLIENTS,
    "clients.csv": CLIENTS,
    "privacy": PRIVACY,
    "privacy.json": PRIVACY,
    "budgets.csv": PRIVACY,
    "leave": ANYBODY,
}
"""Route -> the calls of the API whose answers it shows; a role needs all of them."""
PUBLIC = frozenset({"enter", "static"})
"""Routes that nobody needs a session for: the one-time link, and files that are the same for everyone."""


def may(role: str, calls: Sequence[str]) -> bool:
    """Whether a role may make all of some calls."""
    return all(may_call(role, call) for call in calls)


def may_see(role: str, route: str) -> bool:
    """Whether a role may see a route; False for one that has no entry."""
    calls = ROUTES.get(route, ())
    return bool(calls) and may(role, (LINK, *calls))
