"""``motet coordinator``: the operator's side."""

from __future__ import annotations

import datetime
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from motet.cli import reach
from motet.cli.completing import client_ids
from motet.cli.homes import coordinators_home
from motet.cli.storage import ArtifactKey, gc_command, rotate_keys_command
from motet.cli.words import LogFormat  # noqa: TC001 - typer looks at it

if TYPE_CHECKING:
    from coordinator.control import ControlAddress
    from coordinator.storage.leases import Leader
    from motet.wire.control import Client

app = typer.Typer(no_args_is_help=True, help="Run the coordinator and register clients.")
Home = Annotated[
    Path, typer.Option("--home", help="The coordinator's state folder.", callback=coordinators_home)
]
DEFAULT_HOME = Path("coordinator-home")
Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        help="PostgreSQL instead of a file in the home: postgresql://user@host:5432/name; it is remembered.",
    ),
]


def _remember(home: Path, database: str | None) -> None:
    if database is not None:
        from coordinator.storage.where import remember

        remember(home, database)


@app.command("start")
def start_command(
    home: Home = DEFAULT_HOME,
    listen: Annotated[
        str, typer.Option("--listen", help="Where clients connect, HOST:PORT.")
    ] = "127.0.0.1:8443",
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="Host name or IP that clients use; goes into the certificate."),
    ] = None,
    link_state: Annotated[
        str,
        typer.Option("--link-state", help="As disk messages survive a crash, as memory rounds are faster."),
    ] = "disk",
    until_idle: Annotated[bool, typer.Option("--until-idle", help="End when no run is left.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log every round.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="When clients can connect, say so as one JSON object.")
    ] = False,
    database: Database = None,
    artifact_key: ArtifactKey = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics", metavar="HOST:PORT", help="Answer /metrics and /healthz there, in plain HTTP."
        ),
    ] = None,
    log_format: LogFormat = "text",
    lease_s: Annotated[
        float,
        typer.Option(
            "--lease", help="Seconds after which a standby takes the place of a coordinator that vanished."
        ),
    ] = 15.0,
    shares: Annotated[
        Path | None,
        typer.Option(
            "--shares",
            metavar="HOME",
            help="Stand by for the coordinator of this home: same database, artifacts, ledger and certificates.",
        ),
    ] = None,
    max_runs: Annotated[
        int,
        typer.Option(
            "--max-runs",
            min=1,
            max=64,
            help="Runs worked on at once; a client works for one of them at a time, unless its owner allows more.",
        ),
    ] = 1,
    control: Annotated[
        str,
        typer.Option(
            "--control", metavar="HOST:PORT", help="Where the control API listens; port 0 takes a free one."
        ),
    ] = "127.0.0.1:0",
    enrolment: Annotated[
        str,
        typer.Option(
            "--enrolment",
            metavar="HOST:PORT",
            help="Where clients enrol with a token; port 0 takes a free one.",
        ),
    ] = "127.0.0.1:0",
    approves_runs: Annotated[
        bool,
        typer.Option("--approve-runs", help="A researcher's run waits for an operator: motet run approve."),
    ] = False,
    dashboard: Annotated[
        str,
        typer.Option(
            "--dashboard",
            metavar="HOST:PORT",
            help="Where the dashboard is served, over TLS unless on loopback; port 0 takes a free one.",
        ),
    ] = "127.0.0.1:0",
    no_dashboard: Annotated[bool, typer.Option("--no-dashboard", help="Serve no dashboard.")] = False,
    reflection: Annotated[
        bool, typer.Option("--reflection", help="Let operators read the API's contract from the server.")
    ] = False,
) -> None:
    """Start the coordinator: SuperLink, gateway and the round engine. Stop it with Ctrl-C.

    Example: motet coordinator start --home coordinator-home --listen 0.0.0.0:8443 --name fed.example.org
    """
    from coordinator.leadership import LEAST_LEASE_S
    from coordinator.service import ServiceConfig, serve
    from motet.cli.words import check_address, check_at_least, check_choice
    from motet.logs import FORMATS, configure

    check_address(listen)
    check_address(control, "--control", least_port=0)
    if metrics is not None:
        check_address(metrics, option="--metrics")
    check_choice("--log-format", log_format, FORMATS)
    check_address(enrolment, "--enrolment", least_port=0)
    check_address(dashboard, "--dashboard", least_port=0)
    _remember(home, database)
    if shares is not None:
        from coordinator.storage.sharing import share

        share(home, shares)
    check_at_least("--lease", lease_s, LEAST_LEASE_S)
    check_choice("--link-state", link_state, ("disk", "memory"))
    configure(verbose=verbose, log_format=log_format)
    config = ServiceConfig(
        home=home,
        listen=listen,
        names=tuple(name or ()),
        in_memory_link_state=link_state == "memory",
        artifact_key=artifact_key,
        lease_s=lease_s,
        control=control,
        enrolment=enrolment,
        reflection=reflection,
        metrics=metrics,
        max_runs=max_runs,
        approves_runs=approves_runs,
        dashboard=None if no_dashboard else dashboard,
    )

    def ready(api: ControlAddress) -> None:
        join = home / "join.json"
        told = {
            "ready": True,
            "listen": listen,
            "join": str(join),
            "control": api.control,
            "federation": api.federation,
            "dashboard": api.dashboard,
        }
        words = f"coordinator ready on {listen}; admit a client: motet ca token --client NAME --home {home}"
        print(json.dumps(told) if as_json else words, flush=True)

    def standby(leader: Leader) -> None:
        told = {"ready": False, "leader": {"home": leader.home, "host": leader.host, "left_s": leader.left_s}}
        words = f"standing by: {leader.in_words()}; only then, or when it is given back, this one takes over"
        print(json.dumps(told) if as_json else words, flush=True)

    serve(config, on_ready=ready, on_standby=standby, until_idle=until_idle)


@app.command("register")
def register_command(
    client_id: Annotated[
        str, typer.Argument(help="The client's name in recipes.", metavar="CLIENT", autocompletion=client_ids)
    ],
    public_key: Annotated[Path, typer.Option("--public-key", help="client.pub, which the client made.")],
    home: reach.Home = None,
    coordinator: reach.Coordinator = None,
    identity: reach.WhoAmI = None,
    capacity_class: Annotated[str, typer.Option("--class", help="Capacity class, for ranks by class.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    database: Database = None,
) -> None:
    """Admit a client by its public key; a running coordinator takes it up at once.

    Example: motet coordinator register ward-a --public-key ward-a/client.pub
    """
    from coordinator.registration import read_public_key

    pem = read_public_key(public_key).decode("ascii", "replace")
    _remember(home or DEFAULT_HOME, database)
    with reach.reached(home, coordinator, identity, create=True) as connection:
        client = connection.clients.register(client_id, pem, capacity_class=capacity_class)
    told = {"client_id": client.client_id, "registered": True}
    print(json.dumps(told) if as_json else f"{client_id} is registered")


@app.command("clients")
def clients_command(
    home: reach.Home = None,
    coordinator: reach.Coordinator = None,
    identity: reach.WhoAmI = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """The clients that are registered: name, class, and when each was last there.

    Example: motet coordinator clients --home coordinator-home
    """
    with reach.reached(home, coordinator, identity) as connection:
        clients = connection.clients.list()
    if as_json:
        print(json.dumps([asdict(client) for client in clients]))
        return
    for client in clients:
        print(" ".join(filter(None, (client.client_id, client.capacity_class, _presence(client)))))
    if not clients:
        print("no clients yet; give one a token: motet ca token --client NAME")


def _presence(client: Client) -> str:
    if client.is_online:
        return "(online)"
    if not client.last_seen_at:
        return "(never seen)"
    seen = datetime.datetime.fromtimestamp(client.last_seen_at, datetime.UTC)
    return f"(last seen {seen:%Y-%m-%d %H:%M} UTC)"


@app.command("status")
def status_command(
    home: reach.Home = None,
    coordinator: reach.Coordinator = None,
    identity: reach.WhoAmI = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Who answers, who it takes you for, and which calls it has refused since it started.

    Example: motet coordinator status --coordinator fed.example.org:8444 --identity me
    """
    with reach.reached(home, coordinator, identity) as connection:
        info, refused = connection.system.info(), connection.system.refused_calls()
    if as_json:
        print(json.dumps({**asdict(info), "refused_calls": refused}))
        return
    is_served = info.federation != "local"
    print(f"federation {info.federation}" if is_served else "no coordinator serves this home now")
    print(f"you are {info.role}/{info.name}")
    for kind, count in sorted(refused.items()):
        print(f"refused {count}: {kind}")


app.command("rotate-keys")(rotate_keys_command)
app.command("gc")(gc_command)
