"""The report as one HTML page: no script, no font, no image, nothing fetched; light and dark, from phone to print."""

from __future__ import annotations

from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

from motet.audit.report.plots import Line, line_plot

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_LINES_SHOWN = 8


def render(report: Mapping[str, Any]) -> str:
    """Return the page of a report (see ``motet.audit.report.facts.build_report``); every text in it is escaped."""
    sections = [
        _top(report),
        _section("What it means", [f"<p>{escape(text)}</p>" for text in report["meaning"]]),
        _section("Spent, for each data owner", [_clients(report), _data_sets(report), _growth(report)]),
        _section("How often an attacker can be right", [_attack(report)]),
        _section("What is not protected", [_list(report["unprotected"])]),
        _section("What left the data owners", [_list(report["releases"])]),
        _section("Runs on this ledger", [_runs(report)]),
        _section("The claim in full (after NIST SP 800-226)", [_pairs(report["nist_sp_800_226"])]),
        _section("For the registry of deployments", [_pairs(report["deployment_registry"])]),
        _section("Attacks that were tried", [_empirical(report)]),
        _section("Check it yourself", [_ledger(report)]),
    ]
    title = escape(f"Privacy report: {report['name']}")
    style = resources.files("motet.audit.report").joinpath("style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>{style}</style></head><body><main>{''.join(sections)}</main></body></html>\n"
    )


def _top(report: Mapping[str, Any]) -> str:
    verdict = report["verdict"]
    worst = max((c["epsilon_pld"] for c in report["clients"] if c["epsilon_pld"] is not None), default=None)
    unbounded = not report["is_private"] or any(c["epsilon_pld"] is None for c in report["clients"])
    figure = "no bound" if unbounded or worst is None else f"epsilon {worst:.2f}"
    delta = min((c["target_delta"] for c in report["clients"]), default=None)
    small = "" if unbounded or delta is None else f" at delta {delta:g}, for the data owner who spent most"
    if verdict["ok"]:
        box = '<div class="verdict"><strong>All holds.</strong> Signatures, order of entries and epsilon were checked.'
    else:
        box = (
            '<div class="verdict bad"><strong>It does not hold.</strong> Take no figure on this page for granted.'
            + _list(
                f"{'row ' + str(f['row']) if f['row'] else 'the file'}: {f['message']}"
                for f in verdict["findings"][:20]
            )
        )
    notes = _list(verdict["notes"]) if verdict["notes"] else ""
    return (
        f"<h1>Privacy report: {escape(str(report['name']))}</h1>"
        f'<p class="soft">run <code>{escape(report["run_id"])}</code>, bundle of {escape(report["made_at"])}</p>'
        f'<p><span class="big">{figure}</span>{escape(small)}</p>{box}{notes}</div>'
    )


def _clients(report: Mapping[str, Any]) -> str:
    head = ("data owner", "unit", "epsilon", "by Renyi DP", "delta", "limit", "charges", "of them unanswered")
    rows = [
        (
            client["client_id"],
            client["unit"],
            _number(client["epsilon_pld"]),
            _number(client["epsilon_rdp"]),
            f"{client['target_delta']:g}",
            "none" if client["limit"] is None else f"{client['limit']:g}",
            str(client["charges"]),
            str(client["without_answer"]),
        )
        for client in report["clients"]
    ]
    note = "<p class=soft>A charge without an answer counts in full: the data owner may have trained.</p>"
    return (_table(head, rows, numbers_from=2) + note) if rows else "<p>Nothing was charged.</p>"


def _data_sets(report: Mapping[str, Any]) -> str:
    head = ("data owner", "data set", "unit", "epsilon", "by Renyi DP", "delta", "charges")
    rows = [
        (
            spent["client_id"],
            spent["data_set"][:12],
            spent["unit"],
            _number(spent["epsilon_pld"]),
            _number(spent["epsilon_rdp"]),
            f"{spent['target_delta']:g}",
            str(spent["charges"]),
        )
        for spent in report["data_sets"]
    ]
    note = (
        "<p class=soft>By data set: on each owner's signed word. Limits are held to what the owner spent in all, above."
        "</p>"
    )
    return (_table(head, rows, numbers_from=3) + note) if rows else ""


def _growth(report: Mapping[str, Any]) -> str:
    curves = report["curves"]["by_round"]
    groups: dict[str, tuple[list[str], Mapping[str, Any]]] = {}
    for client_id, curve in curves.items():
        groups.setdefault(repr(curve), ([], curve))[0].append(client_id)
    lines = [Line(label=_names(names), x=curve["x"], y=curve["y"]) for names, curve in groups.values()]
    limits = {client["limit"] for client in report["clients"]} - {None}
    if not lines:
        return ""
    return line_plot(
        "Epsilon after each charge",
        "charges",
        "epsilon",
        lines[:_LINES_SHOWN],
        limit=limits.pop() if len(limits) == 1 else None,
    )


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"


def _attack(report: Mapping[str, Any]) -> str:
    curve = report["curves"]["attack"]
    if curve is None:
        return "<p>Nothing bounds it.</p>"
    at = dict(zip(curve["x"], curve["y"], strict=True))
    words = (
        f"<p>An attack that accuses one example in a hundred wrongly finds at most {100 * at[0.01]:.1f} in a hundred "
        "of those that are there. The curve holds for every attack, known or not.</p>"
    )
    line = Line(label=f"most that any attack can find ({curve['client_id']})", x=curve["x"], y=curve["y"])
    return words + line_plot(
        "Bound on attacks", "examples accused wrongly", "examples found", [line], diagonal=True
    )


def _runs(report: Mapping[str, Any]) -> str:
    head = ("run", "name", "privacy", "rounds", "charges", "answered", "event of a round")
    rows = [
        (
            run["run_id"],
            str(run["name"]),
            "yes" if run["is_private"] else "NONE",
            str(run["rounds"]),
            str(run["charges"]),
            str(run["answered"]),
            "; ".join(run["events"][:3]) + (" ..." if len(run["events"]) > 3 else ""),
        )
        for run in report["runs"]
    ]
    return _table(head, rows)


def _empirical(report: Mapping[str, Any]) -> str:
    told = report["empirical_audit"]
    if told is None:
        return "<p>None for this report; see <code>motet audit canary</code>.</p>"
    parts = [
        f"<p>Single steps: mu at least {told['mechanism']['mu_lower_bound']:.2f}, claimed "
        f"{told['mechanism']['claim']:.2f}.</p>"
    ]
    if "one_run" in told:
        run = told["one_run"]
        parts.append(
            f"<p>One run with {run['canaries']} canaries: epsilon at least {run['epsilon_lower_bound']:.2f} at "
            f"confidence {run['confidence']:g}, claimed {run['claim']:.2f}. This test can refute claims up to "
            f"{run['ceiling']:.2f} and no larger ones; it was run at a small claim for that reason.</p>"
        )
    if told["controls"]:
        parts.append(
            f"<p>False mechanisms that were tried as well: {escape(', '.join(told['controls']))}.</p>"
        )
    parts.append(
        "<p><strong>Nothing was refuted.</strong> That is no proof.</p>"
        if told["ok"]
        else "<p><strong>A claim was refuted, or a false mechanism was not caught.</strong></p>"
    )
    return "".join(parts)


def _ledger(report: Mapping[str, Any]) -> str:
    ledger = report["ledger"]
    rows = {
        "entries": str(ledger["entries"]),
        "signed checkpoints": str(ledger["checkpoints"]),
        "countersignatures": str(ledger["countersignatures"]),
        "root": str(ledger["root"]),
        "public key": str(ledger["key"]),
        "command": ledger["verify"],
        **{f"version of {name}": text for name, text in report["libraries"].items()},
    }
    return _pairs(rows)


def _section(title: str, parts: Iterable[str]) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def _list(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def _pairs(pairs: Mapping[str, str]) -> str:
    rows = "".join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in pairs.items())
    return f'<div class="scroll"><table>{rows}</table></div>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers_from: int | None = None) -> str:
    def mark(i: int) -> str:
        return ' class="n"' if numbers_from is not None and i >= numbers_from else ""

    top = "".join(f'<th scope="col"{mark(i)}>{escape(text)}</th>' for i, text in enumerate(head))
    body = "".join(
        "<tr>" + "".join(f"<td{mark(i)}>{escape(text)}</td>" for i, text in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _number(value: float | None) -> str:
    return "no bound" if value is None else f"{value:.3f}"
