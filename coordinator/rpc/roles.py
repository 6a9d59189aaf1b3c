"""Who may call what: one table, and what is not in it nobody may call."""

from __future__ import annotations

OPERATOR, RESEARCHER, AUDITOR, CLIENT = "operator", "researcher", "auditor", "client"
ROLES = (OPERATOR, RESEARCHER, AUDITOR, CLIENT)
ANYONE = "anyone"
"""Also a peer without a certificate; such a peer reaches the listener for enrolment only."""

_EVERY_ROLE = frozenset(ROLES)
_PEOPLE = frozenset({OPERATOR, RESEARCHER, AUDITOR})
_RUNNERS = frozenset({OPERATOR, RESEARCHER})
_OPERATOR = frozenset({OPERATOR})

ALLOWED: dict[str, frozenset[str]] = {
    "/motet.v1.EnrolmentService/Enrol": frozenset({ANYONE}),
    "/motet.v1.EnrolmentService/Renew": frozenset({CLIENT}),  # of people an operator says for how long
    "/motet.v1.EnrolmentService/RenewSigned": frozenset({ANYONE}),  # a signature in it says who asks
    "/motet.v1.EnrolmentService/IssueToken": _OPERATOR,
    "/motet.v1.EnrolmentService/ListIdentities": frozenset({OPERATOR, AUDITOR}),
    "/motet.v1.EnrolmentService/RevokeIdentity": _OPERATOR,
    "/motet.v1.EnrolmentService/IssueIdentity": _OPERATOR,
    "/motet.v1.ClientService/ListClients": _PEOPLE,
    "/motet.v1.ClientService/GetClient": _EVERY_ROLE,
    "/motet.v1.ClientService/RegisterClient": _OPERATOR,
    "/motet.v1.RecipeService/CheckRecipe": _EVERY_ROLE,
    "/motet.v1.RecipeService/GetRecipe": _EVERY_ROLE,
    "/motet.v1.RecipeService/ListRecipes": _EVERY_ROLE,
    "/motet.v1.RunService/SubmitRun": _RUNNERS,
    "/motet.v1.RunService/GetRun": _EVERY_ROLE,
    "/motet.v1.RunService/ListRuns": _EVERY_ROLE,
    "/motet.v1.RunService/ApproveRun": _OPERATOR,
    "/motet.v1.RunService/StartRun": _RUNNERS,
    "/motet.v1.RunService/CancelRun": _RUNNERS,
    "/motet.v1.RunService/ResumeRun": _RUNNERS,
    "/motet.v1.RunService/SetPriority": _RUNNERS,
    "/motet.v1.RunService/WatchRun": _PEOPLE,
    "/motet.v1.RoundService/ListRounds": _PEOPLE,
    "/motet.v1.RoundService/GetRound": _PEOPLE,
    "/motet.v1.MetricService/ListMetrics": _PEOPLE,
    "/motet.v1.MetricService/ListScores": _PEOPLE,
    "/motet.v1.ArtifactService/ListArtifacts": _PEOPLE,
    "/motet.v1.ArtifactService/DownloadArtifact": _PEOPLE,
    "/motet.v1.ArtifactService/CollectGarbage": _OPERATOR,
    "/motet.v1.BudgetService/ListBudgets": _EVERY_ROLE,
    "/motet.v1.BudgetService/TakeReceipts": frozenset({OPERATOR, CLIENT}),
    "/motet.v1.LedgerService/GetCheckpoint": _EVERY_ROLE,
    "/motet.v1.LedgerService/GetInclusionProof": _EVERY_ROLE,
    "/motet.v1.LedgerService/GetConsistencyProof": _EVERY_ROLE,
    "/motet.v1.LedgerService/ListEntries": frozenset({OPERATOR, AUDITOR}),
    "/motet.v1.LedgerService/ExportAudit": frozenset({OPERATOR, AUDITOR}),
    "/motet.v1.SystemService/GetInfo": _EVERY_ROLE,
    "/motet.v1.SystemService/IssueDashboardLink": _PEOPLE,
    "/grpc.health.v1.Health/Check": _EVERY_ROLE,
    "/grpc.health.v1.Health/List": _EVERY_ROLE,
    "/grpc.health.v1.Health/Watch": _OPERATOR,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _OPERATOR,
}
OWN_ONLY = {
    "/motet.v1.EnrolmentService/RenewSigned": "signed by the key of a client's certificate",
    "/motet.v1.ClientService/GetClient": "a client sees itself",
    "/motet.v1.BudgetService/ListBudgets": "a client sees its own",
    "/motet.v1.LedgerService/GetInclusionProof": "a client sees the entries of itself, a researcher their hashes",
    "/motet.v1.BudgetService/TakeReceipts": "a client gives its own",
    "/motet.v1.RunService/StartRun": "a researcher starts its own runs",
    "/motet.v1.RunService/CancelRun": "a researcher cancels its own runs",
    "/motet.v1.RunService/ResumeRun": "a researcher resumes its own runs",
    "/motet.v1.RunService/SetPriority": "a researcher changes its own runs",
}
"""What the table can not see and the servicer checks."""


def may_see_data_sets(role: str) -> bool:
    """Whether a role is told which charges were of one data set, where an owner has said so.

    That rests on single rows of the data and is not noised: owners hand it to those who run and audit a federation.
    """
    return role != RESEARCHER


def may_call(role: str, method: str) -> bool:
    """Whether a role has a call. ``role``: ``ANYONE`` for a peer without a certificate."""
    allowed = ALLOWED.get(method, frozenset())
    return ANYONE in allowed or role in allowed


def roles_table() -> str:
    """Rows for docs/api.md."""
    head = "| call | " + " | ".join(ROLES) + " | no certificate | |"
    rows = [head, "|---|" + "---|" * (len(ROLES) + 2)]
    for method, allowed in ALLOWED.items():
        cells = ["yes" if may_call(role, method) else "-" for role in ROLES]
        anyone = "yes" if ANYONE in allowed else "-"
        rows.append(f"| `{method[1:]}` | {' | '.join(cells)} | {anyone} | {OWN_ONLY.get(method, '')} |")
    return "\n".join(rows)
