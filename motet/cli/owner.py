"""What a data owner was asked and decided: ``motet client status``, ``recipes``, ``approve``, ``refuse``."""

from __future__ import annotations

import datetime
import json
import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from motet.cli.homes import check_there, clients_home
from motet.cli.screen import printable
from motet.cli.words import agree
from motet.errors import MotetError

if TYPE_CHECKING:
    from client.asked import Asked

Home = Annotated[
    Path,
    typer.Option(
        "--home", help="This client's own folder: key, ledger, what was asked.", callback=clients_home
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Which = Annotated[
    str | None,
    typer.Argument(help="The recipe's sha256, or its first 8 digits or more.", metavar="SHA256"),
]
RunOption = Annotated[str | None, typer.Option("--run", help="The recipe of this run, as it was asked.")]
NameOption = Annotated[
    str | None, typer.Option("--name", help="This client's name in recipes, before it was ever started.")
]
DEFAULT_HOME = Path("client-home")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LEAST_DIGITS = 8


class NotAskedError(MotetError):
    """No such recipe was asked for, or the words fit several."""

    exit_code = 2


def register_on(app: typer.Typer) -> None:
    """Put the commands below ``motet client``."""
    app.command("status")(status_command)
    app.command("recipes")(recipes_command)
    app.command("approve")(approve_command)
    app.command("refuse")(refuse_command)
    app.command("accept-rollback")(accept_rollback_command)


def status_facts(home: Path, target_delta: float = 1e-5) -> dict[str, Any]:
    """What was asked of a client, what was decided, what was spent, when the coordinator was last heard.

    Raises:
      LedgerError: the ledger is damaged or cut.
    """
    from client.policy import PolicyFileError, load_policy
    from client.whoami import last_heard, recall

    who, problem, approval = recall(home), "", "any"
    if who.policy is not None:
        try:
            policy = load_policy(who.policy)
            approval, target_delta = policy.approval, policy.target_delta
        except PolicyFileError as e:
            problem = e.message
    heard = last_heard(home)
    return {
        "client_id": who.client_id,
        "policy": str(who.policy) if who.policy else None,
        "policy_sha256": who.policy_sha256,
        "policy_problem": problem,
        "approval": approval,
        "last_seen_ms": None if heard is None else int(heard * 1000),
        "recipes": recipe_facts(home),
        "target_delta": target_delta,
        "spent": _spent(home, target_delta),
    }


def recipe_facts(home: Path) -> list[dict[str, Any]]:
    """Every recipe that was asked for or decided on, the one asked for last at the end.

    Raises:
      LedgerError: the ledger is damaged or cut.
    """
    from client.asked import AskedRecipes
    from client.decisions import Decisions

    decided = {d.recipe_sha256: d for d in Decisions(home).all()}
    found: list[dict[str, Any]] = [
        {
            "recipe_sha256": asked.recipe_sha256,
            "name": _name(asked),
            "run_ids": list(asked.run_ids),
            "first_ms": asked.first_ms,
            "last_ms": asked.last_ms,
            "answer": asked.answer,
            "message": asked.message,
        }
        for asked in AskedRecipes(home).all()
    ]
    known = {row["recipe_sha256"] for row in found}
    unasked: dict[str, Any] = {
        "name": "",
        "run_ids": [],
        "first_ms": None,
        "last_ms": None,
        "answer": "",
        "message": "",
    }
    found = [{"recipe_sha256": sha, **unasked} for sha in decided if sha not in known] + found
    for row in found:
        made = decided.get(row["recipe_sha256"])
        row["decision"] = (
            None
            if made is None
            else {
                "decision": made.decision,
                "made_by": made.made_by,
                "decided_at_ms": made.decided_at_ms,
                "reason": made.reason,
                "policy_sha256": made.policy_sha256,
            }
        )
    return found


def _name(asked: Asked) -> str:
    try:
        return str(json.loads(asked.recipe_json)["name"])
    except (ValueError, KeyError, TypeError):
        return ""


def _spent(home: Path, target_delta: float) -> list[dict[str, Any]]:
    """Spent of each data set and unit, counting what was charged before data sets had names for each of them."""
    from client.ledger import ClientLedger
    from client.lineage import Lineages
    from privacy.accounting import epsilon_pld
    from privacy.events import of_unit, units_of

    charges, now = ClientLedger(home / "ledger.jsonl").charges(), Lineages(home).current_names()
    names = {now.get(c.data_set, c.data_set) for c in charges if not c.is_of_every_data_set}
    if not names and charges:
        names = {"every data set"}
    rows = []
    for name in sorted(names):
        events = [
            c.event for c in charges if c.is_of_every_data_set or now.get(c.data_set, c.data_set) == name
        ]
        for unit in units_of(events):
            own = of_unit(events, unit)
            epsilon = epsilon_pld(own, target_delta)
            told = epsilon if math.isfinite(epsilon) else None
            rows.append({"data_set": name, "unit": unit, "epsilon": told, "charges": len(own)})
    return rows


def _when(ms: int | None) -> str:
    if ms is None:
        return "never"
    return datetime.datetime.fromtimestamp(ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def _line(row: dict[str, Any]) -> str:
    decision = row["decision"]
    label = f"{row['recipe_sha256'][:12]} {row['name'] or '(not asked for yet)'}"
    runs = f", asked by {', '.join(row['run_ids'])}" if row["run_ids"] else ""
    if decision is not None:
        why = f" ({decision['reason']})" if decision["reason"] else ""
        by = "by rule" if decision["made_by"] == "rule" else "by you"
        told = f"{decision['decision']} {by} on {_when(decision['decided_at_ms'])}{why}"
    else:
        known = {"pending": "waits for your decision", "refused": "refused by your policy"}
        told = known.get(row["answer"], row["answer"] or "no answer yet")
    stands = f"; last answer: {row['message']}" if row["message"] and row["answer"] != "pending" else ""
    return printable(f"{label}: {told}{runs}{stands}")  # a stranger's words are in it


def status_command(home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """What was asked of this client, what was approved or refused and why, and what was spent.

    Example: motet client status --home ward-a
    """
    check_there(home)
    facts = status_facts(home)
    if as_json:
        print(json.dumps(facts))
        return
    name = facts["client_id"] or "(not enrolled, never started)"
    print(f"client {name}, coordinator last seen: {_when(facts['last_seen_ms'])}")
    policy = facts["policy"] or "none: whatever a recipe asks is allowed"
    print(f"policy: {policy}; approval: {facts['approval']}")
    if facts["policy_problem"]:
        print(f"the policy can not be used, so everything is refused: {facts['policy_problem']}")
    print("recipes:" if facts["recipes"] else "recipes: nobody has asked yet")
    for row in facts["recipes"]:
        print(f"  {_line(row)}")
    print("spent:" if facts["spent"] else "spent: nothing")
    for row in facts["spent"]:
        epsilon = "infinite" if row["epsilon"] is None else f"{row['epsilon']:.3f}"
        print(
            f"  {row['data_set']}: epsilon {epsilon} at delta {facts['target_delta']:g}, unit {row['unit']}, "
            f"{row['charges']} charges"
        )
    waiting = [r for r in facts["recipes"] if r["answer"] == "pending" and r["decision"] is None]
    if waiting:
        print(f"next: motet client approve {waiting[-1]['recipe_sha256'][:12]} --home {home}")


def recipes_command(
    which: Which = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """The recipes that were asked for; with a hash, that one in plain words and as JSON.

    Example: motet client recipes 3f9a1c22 --home ward-a
    """
    check_there(home)
    if which is None:
        rows = recipe_facts(home)
        print(json.dumps(rows) if as_json else "\n".join(_line(r) for r in rows) or "nobody has asked yet")
        return
    asked = _asked(home, which, None)
    if as_json:
        text = asked.recipe_json  # as it is hashed, unless it holds what a terminal would obey
        print(text if text.isascii() and text.isprintable() else json.dumps(json.loads(text)))
        return
    for line in _words(asked):
        print(line)
    print(f"sha256: {asked.recipe_sha256}\n{json.dumps(json.loads(asked.recipe_json), indent=2)}")


def approve_command(
    which: Which = None,
    run_id: RunOption = None,
    home: Home = DEFAULT_HOME,
    name: NameOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask again.")] = False,
    as_json: Json = False,
) -> None:
    """Let a recipe take part. It is shown in plain words first; the decision is signed and goes to the ledger.

    Example: motet client approve 3f9a1c22 --home ward-a
    """
    _decide("approved", which, run_id, home, name, "", as_json=as_json, yes=yes)


def refuse_command(
    which: Which = None,
    run_id: RunOption = None,
    home: Home = DEFAULT_HOME,
    name: NameOption = None,
    reason: Annotated[
        str, typer.Option("--reason", help="Why; the operator and the auditor will read it.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Keep a recipe out, whatever the policy says. The decision is signed and goes to the ledger.

    Example: motet client refuse 3f9a1c22 --home ward-a --reason "not our study"
    """
    _decide("refused", which, run_id, home, name, reason, as_json=as_json, yes=True)


def _decide(
    decision: str,
    which: str | None,
    run_id: str | None,
    home: Path,
    name: str | None,
    reason: str,
    *,
    as_json: bool,
    yes: bool,
) -> None:
    from client.decisions import Decisions
    from client.whoami import recall
    from motet.clock import SystemClock

    who = recall(home)
    known = which is None or not _SHA256.fullmatch(which) or _find(home, which)
    asked = _asked(home, which, run_id) if known else None
    client_id = name or who.client_id or (asked.client_id if asked else "")
    if not client_id:
        raise NotAskedError(
            "this client has no name yet", hint="add --name, or start it once: motet client start"
        )
    sha256 = asked.recipe_sha256 if asked else str(which)
    if not as_json:
        for line in (
            _words(asked) if asked else [f"recipe {sha256} was not asked for yet; only its hash is known"]
        ):
            print(line)
    if not (yes or as_json) and sys.stdin.isatty():
        agree("Approve it?")
    made = Decisions(home).decide(
        client_id=client_id,
        recipe_sha256=sha256,
        decision=decision,
        policy_sha256=who.policy_sha256,
        at_ms=int(SystemClock().now() * 1000),
        reason=reason,
    )
    told = {
        "client_id": client_id,
        "recipe_sha256": sha256,
        "decision": decision,
        "decided_at_ms": made.decided_at_ms,
    }
    print(json.dumps(told) if as_json else f"recipe {sha256[:12]} is {decision} for {client_id}")


def _words(asked: Asked) -> list[str]:
    from motet.recipe import from_canonical_json
    from motet.recipe.words import in_words

    try:
        return [printable(line) for line in in_words(from_canonical_json(asked.recipe_json))]
    except MotetError as e:
        return [printable(f"the recipe can not be read by this version: {e.message}")]


def _find(home: Path, sha256: str) -> bool:
    from client.asked import AskedRecipes

    return AskedRecipes(home).find(sha256) is not None


def _asked(home: Path, which: str | None, run_id: str | None) -> Asked:
    from client.asked import AskedRecipes

    every = AskedRecipes(home).all()
    if (which is None) == (run_id is None):
        raise NotAskedError(
            "say which recipe: its sha256, or --run", hint=f"motet client recipes --home {home}"
        )
    if run_id is not None:
        fits = [a for a in every if run_id in a.run_ids]
    elif which is not None and len(which) >= _LEAST_DIGITS:
        fits = [a for a in every if a.recipe_sha256.startswith(which)]
    else:
        raise NotAskedError(f"{which} is too short", hint=f"give {_LEAST_DIGITS} digits or more")
    if len(fits) != 1:
        what = f"run {run_id}" if run_id else f"a recipe {which}"
        how = "nobody has asked for" if not fits else "several recipes fit"
        raise NotAskedError(f"{how} {what}", hint=f"motet client recipes --home {home}")
    return fits[0]


def accept_rollback_command(
    home: Home = DEFAULT_HOME,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Train on for a coordinator whose ledger lost entries. What was spent here still counts in full.

    Only after the operator has said that no newer backup exists. The newest checkpoint that was seen is kept as
    evidence, for the auditor.

    Example: motet client accept-rollback --home ward-a
    """
    from client.seen_ledger import SeenLedger

    ledger = SeenLedger(home)
    before = ledger.seen()
    if before is not None and not yes:
        size = before.checkpoint.size
        agree(f"The ledger had {size} entries. Accept that it lost some?")
    done = ledger.accept()
    if as_json:
        told = None if done is None else {"size": done.size, "evidence": str(done.evidence)}
        print(json.dumps({"accepted": told}))
    elif done is None:
        print("nothing to accept: no private order was ever seen here")
    else:
        print(
            f"accepted; keep {done.evidence} for the auditor. The next private order shows where the ledger goes on."
        )
