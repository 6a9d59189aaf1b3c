"""``motet ca``: who belongs to a federation."""

from __future__ import annotations

import datetime
import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from motet.cli.completing import client_ids
from motet.cli.homes import coordinators_home
from motet.cli.reach import Coordinator, WhoAmI, reached
from motet.cli.reach import Home as ReachedHome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from motet.connection.connection import Connection
    from motet.wire.control import RevokeIdentityResponse

app = typer.Typer(no_args_is_help=True, help="Admit people and clients to a federation, and take that back.")
Home = Annotated[
    Path, typer.Option("--home", help="The coordinator's state folder.", callback=coordinators_home)
]
DEFAULT_HOME = Path("coordinator-home")
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("init")
def init_command(
    home: Home = DEFAULT_HOME,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="Host name or IP that others use; goes into the server's certificate."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make the federation's authority, unless the home has one; it is never replaced. On this machine only.

    Example: motet ca init --home coordinator-home --name fed.example.org
    """
    from coordinator.authority import ensure_authority

    authority = ensure_authority(home, names=tuple(name or ()))
    told = {"federation": authority.federation, "pin": authority.pin}
    _say(told, f"federation {authority.federation}; pin of its authority {authority.pin}", as_json)


@app.command("show")
def show_command(home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Show the federation's id, its authority and the addresses of its control API. On this machine only.

    Example: motet ca show --home coordinator-home
    """
    from coordinator.authority.authority import open_authority
    from motet.addresses import known_addresses

    authority, addresses = open_authority(home), known_addresses(home)
    told = {
        "federation": authority.federation,
        "pin": authority.pin,
        "not_after": authority.certificate.not_valid_after_utc.timestamp(),
        "certificate": str(home / "tls" / "ca.crt"),
        "control": addresses.control,
        "enrolment": addresses.enrolment,
    }
    words = [
        f"federation   {authority.federation}",
        f"pin          {authority.pin}",
        f"certificate  {told['certificate']}, until {_day(authority.certificate.not_valid_after_utc.timestamp())}",
        f"control API  {addresses.control or 'not started yet'}",
        f"enrolment    {addresses.enrolment or 'not started yet'}",
    ]
    _say(told, "\n".join(words), as_json)


@app.command("token")
def token_command(
    client: Annotated[str, typer.Option("--client", help="The client's name in recipes.")],
    home: ReachedHome = None,
    coordinator: Coordinator = None,
    identity: WhoAmI = None,
    capacity_class: Annotated[str, typer.Option("--class", help="Capacity class, for ranks by class.")] = "",
    lifetime: Annotated[
        str, typer.Option("--lifetime", help="How long it can be used: 30m, 24h, 7d.")
    ] = "24h",
    address: Annotated[
        str | None,
        typer.Option("--address", help="Where to enrol, HOST:PORT; default: where this one listens."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write the token to a file (mode 0600) instead of printing it."),
    ] = None,
    unless_known: Annotated[
        bool, typer.Option("--unless-known", help="Make none for a client that is registered already.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a token that admits one client once. It is shown once; hand it over as you would a password.

    Example: motet ca token --client ward-a --lifetime 24h --out ward-a.token
    """
    from coordinator.tls import write_private
    from motet.cli.words import check_address, parse_duration

    seconds = parse_duration("--lifetime", lifetime)
    if address:
        check_address(address, option="--address")
    if out is not None:
        _check_replaced(out, client)
    with _authority(home, coordinator, identity) as connection:
        if unless_known and any(row.client_id == client for row in connection.clients.list()):
            _say({"client_id": client, "known": True}, f"{client} is registered already; no token", as_json)
            return
        made = connection.identities.token(
            client, lifetime_s=seconds, capacity_class=capacity_class, address=address or ""
        )
    token, ends, where = made.token, made.not_after, made.enrol_address
    told: dict[str, Any] = {"client_id": client, "not_after": ends, "address": where}
    if out is not None:
        write_private(out, token.encode("ascii") + b"\n")
        _say({**told, "file": str(out)}, f"token for {client}, once, until {_day(ends)}: {out}", as_json)
        return
    if as_json:
        print(json.dumps({**told, "token": token}))
        return
    typer.echo(f"token for {client}, once, until {_day(ends)}; it is not shown again", err=True)
    print(token)


def _check_replaced(out: Path, client: str) -> None:
    """A file that is there is replaced only where it is an earlier token of the client, or one that a crash cut."""
    from motet.cli.words import UsageError
    from motet.enrolment import TokenError, parse_token

    if not out.exists():
        return
    text = ""
    try:
        with out.open(encoding="ascii") as file:
            text = file.read(4096)
        is_ours = parse_token(text).name == client
    except TokenError:
        is_ours = text.strip() == "" or text.startswith("mt1.")
    except (OSError, ValueError):
        is_ours = False
    if not is_ours:
        raise UsageError(
            f"--out: {out} is there and holds no token of {client}",
            hint="name a new file; it is not replaced",
        )


@app.command("issue")
def issue_command(
    role: Annotated[str, typer.Option("--role", help="One of operator, researcher, auditor.")],
    name: Annotated[str, typer.Option("--name", help="Of the person or the machine.")],
    out: Annotated[
        Path, typer.Option("--out", help="Folder to write and hand over; it holds a private key.")
    ],
    home: ReachedHome = None,
    coordinator: Coordinator = None,
    identity: WhoAmI = None,
    lifetime: Annotated[str, typer.Option("--lifetime", help="Of the certificate: 12h, 30d.")] = "30d",
    as_json: AsJson = False,
) -> None:
    """Make an identity for a person: key, certificate and where to go, in one folder.

    Example: motet ca issue --role researcher --name ann --out ann
    """
    from motet.cli.words import check_choice, parse_duration

    if role != "client":
        check_choice("--role", role, ("operator", "researcher", "auditor"))
    life = parse_duration("--lifetime", lifetime)
    with _authority(home, coordinator, identity) as connection:
        made = connection.identities.issue(role, name, out, lifetime_s=life)
    told = {"federation": made.federation, "role": role, "name": name, "folder": str(out)}
    _say(told, f"{role} {name} of federation {made.federation}: {out}", as_json)


@app.command("revoke")
def revoke_command(
    who: Annotated[
        str,
        typer.Argument(
            help="A name, or the serial of one certificate.", metavar="NAME|SERIAL", autocompletion=client_ids
        ),
    ],
    home: ReachedHome = None,
    coordinator: Coordinator = None,
    identity: WhoAmI = None,
    role: Annotated[str, typer.Option("--role", help="Where several roles have the name.")] = "",
    reason: Annotated[str, typer.Option("--reason", help="Kept with the record.")] = "",
    as_json: AsJson = False,
) -> None:
    """Take back all that somebody has, at once; by serial, one certificate alone.

    A client that is named is out of every run: its orders and answers are refused from now on.

    Example: motet ca revoke ward-a --reason "laptop stolen"
    """
    from motet.cli.words import check_choice
    from motet.connection.errors import BadRequestError
    from motet.errors import NotFoundError
    from motet.identity import ROLES

    if role:
        check_choice("--role", role, ROLES)
    with reached(home, coordinator, identity) as connection:
        try:
            revoked = connection.identities.revoke(who, role=role, reason=reason)
        except NotFoundError as unknown:
            if role:
                raise
            try:
                revoked = connection.identities.revoke(serial=who, reason=reason)
            except BadRequestError:
                raise unknown from None
    told = {
        "name": revoked.name,
        "role": revoked.role,
        "serials": list(revoked.serials),
        "is_client_out": revoked.is_client_out,
    }
    _say(told, _revoked_words(revoked), as_json)


@app.command("list")
def list_command(
    home: ReachedHome = None,
    coordinator: Coordinator = None,
    identity: WhoAmI = None,
    role: Annotated[str, typer.Option("--role", help="Only this role.")] = "",
    as_json: AsJson = False,
) -> None:
    """List certificates: serial, who, until when, and whether they were taken back.

    Example: motet ca list --role client
    """
    with reached(home, coordinator, identity) as connection:
        rows = [row for row in connection.identities.list() if role in {"", row.role}]
    found = [
        {
            "serial": row.serial,
            "role": row.role,
            "name": row.name,
            "fingerprint": row.fingerprint,
            "issued_at": row.issued_at,
            "not_after": row.not_after,
            "revoked_at": row.revoked_at,
            "reason": row.revocation_reason,
        }
        for row in rows
    ]
    if as_json:
        print(json.dumps({"identities": found}))
        return
    if not rows:
        print("no certificates yet; motet ca issue and motet ca token make them")
        return
    from rich.table import Table

    from motet.cli.screen import console

    table = Table(box=None)
    for title in ("role", "name", "until", "revoked", "serial"):
        table.add_column(title, overflow="fold")
    for row in rows:
        revoked = f"{_day(row.revoked_at)} {row.revocation_reason}".strip() if row.revoked_at else ""
        table.add_row(row.role, row.name, _day(row.not_after), revoked, row.serial)
    console().print(table)


@contextmanager
def _authority(home: Path | None, coordinator: str | None, identity: Path | None) -> Iterator[Connection]:
    """The connection that options name; the authority of a new home is made first, here, where its key stays."""
    if coordinator is None and identity is None:
        from coordinator.authority import ensure_authority

        ensure_authority(home or DEFAULT_HOME)
    with reached(home, coordinator, identity, create=True) as connection:
        yield connection


def _say(told: dict[str, Any], words: str, as_json: bool) -> None:
    print(json.dumps(told) if as_json else words)


def _revoked_words(revoked: RevokeIdentityResponse) -> str:
    count = len(revoked.serials)
    words = f"{revoked.role} {revoked.name}: {count} certificate{'' if count == 1 else 's'} revoked"
    return words + ("; the client is out, its key is refused" if revoked.is_client_out else "")


def _day(at: float) -> str:
    return f"{datetime.datetime.fromtimestamp(at, datetime.UTC):%Y-%m-%d %H:%M} UTC"
