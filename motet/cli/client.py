"""``motet client``: the data owner's side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from motet.cli.homes import clients_home
from motet.cli.owner import register_on
from motet.cli.words import LogFormat  # noqa: TC001 - typer looks at it

app = typer.Typer(no_args_is_help=True, help="Make a key, answer a coordinator's orders, decide on recipes.")
register_on(app)
Home = Annotated[
    Path,
    typer.Option(
        "--home", help="This client's own folder: key, ledger, finished replies.", callback=clients_home
    ),
]
DEFAULT_HOME = Path("client-home")


@app.command("init")
def init_command(
    home: Home = DEFAULT_HOME,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make this client's key. The private half never leaves --home; give client.pub to the operator.

    Example: motet client init --home ward-a
    """
    from client.keys import init_key

    public = init_key(home)
    print(json.dumps({"public_key": str(public)}) if as_json else f"give this file to the operator: {public}")


@app.command("enrol")
def enrol_command(
    home: Home = DEFAULT_HOME,
    token: Annotated[
        str | None,
        typer.Option("--token", help="From the operator; a file keeps it out of the shell's history."),
    ] = None,
    token_file: Annotated[
        str | None, typer.Option("--token-file", help="File that holds the token; - reads standard input.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Join a federation with a token: make keys here, check the coordinator, get certificate and addresses.

    The private keys never leave --home. Killed anywhere, the same command with the same token goes on.

    Example: motet client enrol --token-file ward-a.token --home ward-a
    """
    from client.enrolment import enrol
    from motet.cli.words import read_secret

    identity = enrol(home, read_secret("--token", token, token_file))
    told = {"client_id": identity.name, "federation": identity.federation, "control": identity.control}
    words = f"{identity.name} belongs to federation {identity.federation}"
    start = f"next: motet client start --data FILE --home {home}"
    print(json.dumps(told) if as_json else f"{words}\n{start}")


@app.command("renew")
def renew_command(
    home: Home = DEFAULT_HOME,
    address: Annotated[
        str,
        typer.Option(
            "--address", help="Where enrolment is, HOST:PORT; remembered. By default as the token said."
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Get the next certificate for the same name now; a running client does so by itself in time.

    Where the control API is not reached, the enrolment address is asked. That one gives a certificate again which has
    two thirds of its life left.

    Example: motet client renew --home ward-a
    """
    from client.enrolment import certificate_end, renew

    identity = renew(home, address=address)
    ends = certificate_end(identity)
    told = {"client_id": identity.name, "not_after": ends.timestamp()}
    print(
        json.dumps(told)
        if as_json
        else f"the certificate of {identity.name} is good until {ends:%Y-%m-%d %H:%M} UTC"
    )


@app.command("export")
def export_command(
    run_id: Annotated[str, typer.Argument(help="The run.", metavar="RUN")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; must be new, or an earlier export.")],
    home: Home = DEFAULT_HOME,
    merged: Annotated[bool, typer.Option("--merged", help="A whole model instead of an adapter.")] = False,
    lora_rank: Annotated[
        int | None,
        typer.Option("--lora-rank", min=1, help="The most that the adapter's server takes; the cut is told."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write this client's own model of a run whose method keeps a part of it here (fedsa).

    Example: motet client export r-3f9a1c --home ward-a --out ward-a-adapter
    """
    from motet.cli.export import cut_words
    from motet.exporting import export_personal

    result = export_personal(home, run_id, out, merged=merged, lora_rank=lora_rank)
    if as_json:
        print(json.dumps(result))
        return
    print(f"written to {result['out_dir']}")
    if result["learned_rank"]:
        print(cut_words(result))


@app.command("data")
def data_command(
    data: Annotated[Path, typer.Option("--data", help="File or folder of examples; it is only read.")],
    home: Home = DEFAULT_HOME,
    person_column: Annotated[
        str | None, typer.Option("--person-column", help="Column of persons, where runs protect persons.")
    ] = None,
    delta: Annotated[
        float, typer.Option("--delta", min=1e-15, max=0.5, help="Delta of the epsilons.")
    ] = 1e-5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell which data set a file is to this client's ledger, and what was spent on it. Nothing is written.

    A copy, a longer version or another format of a file is the data set it was.

    Example: motet client data --data ward-a.jsonl --home ward-a
    """
    from motet.cli.data_sets import data_set_facts, print_facts

    facts = data_set_facts(home, data, person_column=person_column, target_delta=delta)
    if as_json:
        print(json.dumps(facts))
        return
    print_facts(facts)


@app.command("start")
def start_command(
    data: Annotated[
        Path,
        typer.Option(
            "--data", help="JSONL or CSV file of examples, or a folder of pictures by class; it never leaves."
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="This client's name in recipes; an enrolled client has one.")
    ] = None,
    join: Annotated[
        Path | None,
        typer.Option("--join", help="join.json from the coordinator; an enrolled client has one."),
    ] = None,
    home: Home = DEFAULT_HOME,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", help="Enrol with the token in this file first, unless that was done."),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option("--policy", help="TOML file: what this data owner allows; see docs/policy.md."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log every order.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="When connected, say so as one JSON object.")
    ] = False,
    log_format: LogFormat = "text",
) -> None:
    """Answer the coordinator's orders with one process that keeps the model loaded. Stop it with Ctrl-C.

    Example: motet client start --data ward-a.jsonl --home ward-a --policy policy.toml
    """
    from client.service import SetupError, load_join_file, serve
    from motet.cli.words import check_choice
    from motet.logs import FORMATS, configure

    check_choice("--log-format", log_format, FORMATS)
    configure(verbose=verbose, log_format=log_format)
    if token_file is not None:
        _enrol_once(home, token_file)
    name = name or _enrolled_name(home)
    joined = load_join_file(join or home / "join.json")
    if not data.exists():
        raise SetupError(
            f"{data}: no such file", hint="give --data a JSONL or CSV file, or a folder of pictures"
        )
    import torch

    from client.policy_file import PolicyFile
    from client.whoami import remember
    from client.worker import ClientWorker
    from motet.cli.training_bars import training_bars

    torch.set_num_threads(1)
    bars = training_bars(is_wanted=not as_json)
    worker = ClientWorker(name, data, home, PolicyFile(policy), on_step=bars)
    remember(home, name, policy)

    def connected() -> None:
        told = {"connected": True, "client_id": name, "address": joined.address}
        print(json.dumps(told) if as_json else f"client {name} is connected to {joined.address}", flush=True)

    serve(home, joined, worker.handle, on_ready=connected)


def _enrol_once(home: Path, token_file: Path) -> None:
    """Spend the token, unless this home has an identity; a token that was spent is then never read."""
    from motet.cli.words import read_secret
    from motet.identity import CERTIFICATE

    if (home / "identity" / CERTIFICATE).exists():  # it is written last
        return
    from client.enrolment import enrol

    enrol(home, read_secret("--token", None, str(token_file)))


def _enrolled_name(home: Path) -> str:
    from motet.cli.words import UsageError
    from motet.identity import IdentityError, read_facts

    try:
        return str(read_facts(home / "identity")["name"])
    except (IdentityError, KeyError):
        raise UsageError(
            f"{home} is not enrolled", hint="motet client enrol --token-file FILE, or give --name and --join"
        ) from None
