"""``motet audit``: make a bundle, check one, report on one, try to break the mechanism."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from motet.cli.completing import run_ids
from motet.cli.homes import clients_home
from motet.cli.reach import Coordinator, Home, WhoAmI, reached
from motet.cli.screen import console as made
from motet.cli.screen import listing, printable

if TYPE_CHECKING:
    from rich.console import Console

    from motet.audit.verify import AuditResult

app = typer.Typer(no_args_is_help=True, help="Prove what privacy was spent, and check such a proof.")
Bundle = Annotated[Path, typer.Argument(help="The bundle; see `motet audit export`.", metavar="FILE")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.command("export")
def export_command(
    run: Annotated[
        str,
        typer.Argument(
            help="The run; see `motet run list`. Or `latest`, submitted last.",
            metavar="RUN",
            autocompletion=run_ids,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The file to write.")],
    home: Home = None,
    coordinator: Coordinator = None,
    identity: WhoAmI = None,
    receipts: Annotated[
        list[Path] | None,
        typer.Option("--receipts", help="A data owner's countersignature; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write one file that holds all an auditor needs: the whole ledger, its checkpoints, keys and claims.

    Example: motet audit export r-1a2b3c --home fed --out audit.jsonl
    """
    documents = [_read(path).rstrip(b"\n") for path in receipts or []]
    with reached(home, coordinator, identity) as connection:
        if run == "latest":
            newest = max(connection.runs.list(), key=lambda one: one.created_at, default=None)
            run = newest.run_id if newest else run
        made = connection.ledger.export(run, out, countersignatures=documents)
    if as_json:
        told = {"file": str(out), "entries": made.size, "root": made.root.hex(), "key": made.public_key}
        print(json.dumps(told))
        return
    print(f"{out}: {made.size} entries, {out.stat().st_size:,} bytes")
    print(f"key of this ledger, to be told to auditors by another way: {made.public_key}")
    print(f"next: motet audit verify {out}")


@app.command("receipts")
def receipts_command(
    client: Annotated[str, typer.Argument(help="This client's name in recipes.", metavar="CLIENT")],
    out: Annotated[Path, typer.Option("--out", help="The file to write.")],
    home: Annotated[
        Path, typer.Option("--home", help="This client's own folder: key, ledger.", callback=clients_home)
    ] = Path("client-home"),
    hide_data_sets: Annotated[
        bool,
        typer.Option("--hide-data-sets", help="Do not tell which charges were of one data set."),
    ] = False,
    as_json: Json = False,
) -> None:
    """At a data owner: sign what this client charged itself, for the auditor. It holds no data and no hash of data.

    Example: motet audit receipts ward-a --home ward-a --out ward-a-receipts.json
    """
    from client.receipts import receipts_of
    from motet.clock import SystemClock
    from privacy.ledger.canonical import canonical_bytes

    document = receipts_of(home, client, SystemClock(), names_data_sets=not hide_data_sets)
    _write(out, canonical_bytes(document) + b"\n")
    print(json.dumps({"receipts": str(out)}) if as_json else f"give this file to the auditor: {out}")


@app.command("verify")
def verify_command(
    file: Bundle,
    previous: Annotated[
        Path | None, typer.Option("--previous", help="An earlier bundle or checkpoint of the same ledger.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", help="The ledger's public key, as the operator told it: name+hash+key."),
    ] = None,
    receipts: Annotated[
        list[Path] | None,
        typer.Option("--receipts", help="A countersignature straight from a data owner; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a bundle: offline, without a database, without trust in who made it. Exits with 0 only if all holds.

    Example: motet audit verify audit.jsonl --previous last-month.jsonl
    """
    from motet.audit.errors import AuditFailedError
    from motet.audit.verify import verify_bundle
    from motet.cli.progress import StepProgress

    with StepProgress() as progress:
        result = verify_bundle(
            _read(file),
            previous=_read(previous) if previous else None,
            key=key,
            receipts={str(path): _read(path) for path in receipts or []},
            on_step=progress.on_step,
        )
    if as_json:
        print(json.dumps(result_as_json(result)))
    else:
        print_result(result, made())
    if not result.is_ok:
        first = result.findings[0]
        where = f"row {first.row}: " if first.row else ""
        more = f" (and {len(result.findings) - 1} more)" if len(result.findings) > 1 else ""
        raise AuditFailedError(
            f"{file}: {where}{first.message}{more}",
            hint="ask the operator; until this is explained, take no epsilon of this ledger for granted",
        )


def result_as_json(result: AuditResult) -> dict[str, Any]:
    """The outcome as plain values; an infinite epsilon is null."""

    def finite(value: float) -> float | None:
        return value if value < float("inf") else None

    return {
        "ok": result.is_ok,
        "findings": [asdict(finding) for finding in result.findings],
        "notes": result.notes,
        "clients": [
            {
                "client_id": claim.client_id,
                "unit": claim.unit,
                "target_delta": claim.target_delta,
                "epsilon_pld": finite(claim.epsilon_pld),
                "epsilon_rdp": finite(claim.epsilon_rdp),
            }
            for claim in result.clients
        ],
        "data_sets": [
            asdict(s) | {"epsilon_pld": finite(s.epsilon_pld), "epsilon_rdp": finite(s.epsilon_rdp)}
            for s in result.data_sets
        ],
        "recipe_decisions": decisions_of(result),
        "operator_approvals": [asdict(approval) for approval in result.state.approvals],
        **result.summary,
    }


_FINDINGS_SHOWN = 20


def decisions_of(result: AuditResult) -> list[dict[str, Any]]:
    """Who allowed or refused which recipe, in the order of the ledger, with the runs of that recipe."""
    runs: dict[str, list[str]] = {}
    for run_id, recipe_sha256 in result.state.recipes.items():
        runs.setdefault(recipe_sha256, []).append(run_id)
    return [asdict(d) | {"runs": runs.get(d.recipe_sha256, [])} for _, d in result.state.decisions]


def print_decisions(result: AuditResult, console: Console) -> None:
    """The decisions for people; nothing where there are none."""
    rows = decisions_of(result)
    if not rows:
        return
    columns = ("client", "recipe", "runs", "decision", "by", "reason")
    title = "recipes, as owners decided and signed (whole hashes: --json)"
    table = listing(*columns, title=title, whole=("recipe", "decision"), is_open=True)
    for row in rows:
        cells = (row["client_id"], row["recipe_sha256"][:12], ", ".join(row["runs"]) or "none")
        table.add_row(*cells, row["decision"], row["made_by"], printable(row["reason"]))
    console.print(table)


def print_result(result: AuditResult, console: Console) -> None:
    """The outcome for people."""
    summary = result.summary
    console.print(
        f"{summary['entries']} entries, {summary['checkpoints']} signed checkpoints, "
        f"{summary['reservations']} charges, {summary['orders']} training orders, "
        f"{summary['decisions']} signed decisions on recipes, "
        f"{summary['countersignatures']} countersignatures",
        highlight=False,
    )
    if result.clients:
        figures = ("epsilon (PLD)", "epsilon (Renyi)", "delta")
        table = listing("client", *figures, title="recomputed", whole=figures)
        for claim in result.clients:
            table.add_row(
                claim.name,
                f"{claim.epsilon_pld:.4f}",
                f"{claim.epsilon_rdp:.4f}",
                f"{claim.target_delta:g}",
            )
        console.print(table)
    if result.data_sets:
        columns = ("data set", "unit", "charges", "epsilon (PLD)", "delta")
        title = "by data set, as owners signed (whole hashes: --json)"
        table = listing("client", *columns, title=title, whole=columns)
        for s in result.data_sets:
            row = (s.client_id, s.data_set[:12], s.unit, str(s.charges))
            table.add_row(*row, f"{s.epsilon_pld:.4f}", f"{s.target_delta:g}")
        console.print(table)
    print_decisions(result, console)
    for a in result.state.approvals:
        console.print(f"run {a.run_id} was approved by {a.approved_by}", markup=False, highlight=False)
    for finding in result.findings[:_FINDINGS_SHOWN]:
        where = f"row {finding.row}" if finding.row else "the file"
        console.print(
            f"does not hold: {where}: {finding.message} [{finding.code}]", markup=False, highlight=False
        )
    for note in result.notes:
        console.print(f"- {note}", markup=False, highlight=False, soft_wrap=True)
    if result.is_ok:
        console.print("all holds", highlight=False)


@app.command("report")
def report_command(
    file: Bundle,
    out: Annotated[Path | None, typer.Option("--out", help="The HTML page to write.")] = None,
    facts: Annotated[
        Path | None,
        typer.Option("--facts", help="TOML: what software can not know, such as purpose and curator."),
    ] = None,
    canary: Annotated[
        Path | None, typer.Option("--canary", help="Output of `motet audit canary --json`, to be included.")
    ] = None,
    as_json: Json = False,
) -> None:
    """One page for a data protection officer: what was spent, what that means, what is not protected.

    The bundle is checked first; the page is written whatever comes of it, and says so. Exits with 11 if not all holds.

    Example: motet audit report audit.jsonl --out report.html
    """
    from motet.audit.errors import AuditFailedError, BundleError
    from motet.audit.report.facts import build_report, read_facts
    from motet.audit.report.page import render
    from motet.audit.verify import verify_bundle

    if out is None and not as_json:
        raise BundleError("nothing to do", hint="give --out report.html, or --json")
    result = verify_bundle(_read(file))
    report = build_report(
        result,
        facts=read_facts(_read(facts).decode("utf-8", "replace"), str(facts)) if facts else {},
        canary=_json_file(canary) if canary else None,
    )
    if out is not None:
        _write(out, render(report).encode())
    if as_json:
        print(json.dumps(report))
    elif out is not None:
        print(f"{out}: one page, nothing else is needed to read it")
    if not result.is_ok:
        raise AuditFailedError(
            f"{file}: {result.findings[0].message}", hint=f"every finding: motet audit verify {file}"
        )


@app.command("canary")
def canary_command(
    quick: Annotated[bool, typer.Option("--quick", help="The mechanism test alone.")] = False,
    controls: Annotated[
        bool, typer.Option(help="Run false mechanisms as well; an audit that misses one is blind.")
    ] = True,
    trials: Annotated[
        int, typer.Option("--trials", min=100, help="Steps with and without the canary.")
    ] = 2000,
    canaries: Annotated[int, typer.Option("--canaries", min=100, help="Of the one-run audit.")] = 2000,
    as_json: Json = False,
) -> None:
    """Attack the installed mechanism: a lower bound on the privacy it loses. It can refute a claim, never confirm one.

    Exits with 11 if a claim is refuted, or if a false mechanism is not caught.

    Example: motet audit canary --quick
    """
    from motet.audit.attack import attack
    from motet.audit.errors import AuditFailedError

    told = attack(trials=trials, canaries=canaries, with_runs=not quick, with_controls=controls)
    if as_json:
        print(json.dumps(told.as_json()))
    else:
        console = made()
        for table in told.tables():
            console.print(table, highlight=False)
        for note in told.notes():
            console.print(f"- {note}", markup=False, highlight=False, soft_wrap=True)
    if told.failures:
        raise AuditFailedError(
            "; ".join(told.failures),
            hint="do not train with privacy on this installation; report it with --json",
        )


def _read(path: Path) -> bytes:
    from motet.audit.errors import BundleError

    try:
        return path.read_bytes()
    except OSError as e:
        raise BundleError(f"{path}: {e.strerror}", hint="check the path") from e


def _json_file(path: Path) -> dict[str, Any]:
    from motet.audit.errors import BundleError

    try:
        value = json.loads(_read(path))
    except ValueError as e:
        raise BundleError(f"{path} is no JSON", hint="see: motet audit canary --json") from e
    if not isinstance(value, dict):
        raise BundleError(f"{path} is no JSON object", hint="see: motet audit canary --json")
    return value


def _write(path: Path, data: bytes) -> None:
    from motet.audit.errors import JournalError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as e:
        raise JournalError(f"{path} can not be written: {e.strerror}", hint="choose another --out") from e
