"""Every command at the outermost level: where it is, and its first line of help, so that a list reads no other file."""

from __future__ import annotations

from typing import NamedTuple


class Known(NamedTuple):
    """``target``: MODULE:NAME. ``summary``: the first paragraph of its help; a test holds both equal.

    ``panel``: under which heading of the list.
    """

    target: str
    summary: str
    panel: str
    is_group: bool = False


BEGIN, FEDERATION, ADAPTERS = "Try it, plan it", "Run a federation", "Use adapters"
PRIVACY, UPKEEP = "Show what privacy cost", "Look after a home"

COMMANDS = {
    "demo": Known(
        "motet.cli.demo:demo_command",
        "Fine-tune real weights on real data together, and see what it beats and what privacy costs.",
        BEGIN,
    ),
    "simulate": Known(
        "motet.cli.simulate:simulate_command",
        "Run RECIPE in this process group: every client simulated, no servers.",
        BEGIN,
    ),
    "plan": Known(
        "motet.cli.plan:plan_command",
        "Show bytes, trained parameters, epsilon and time of a recipe. Starts nothing, sends nothing.",
        BEGIN,
    ),
    "advise": Known(
        "motet.cli.advise:advise_command",
        "Name the aggregation method for what a federation needs, and say why.",
        BEGIN,
    ),
    "materials": Known(
        "motet.cli.materials:app",
        "Real weights and texts: list them, bring them.",
        BEGIN,
        is_group=True,
    ),
    "run": Known(
        "motet.cli.run:app",
        "Submit runs to a coordinator and follow them.",
        FEDERATION,
        is_group=True,
    ),
    "watch": Known(
        "motet.cli.watch:watch_command",
        "Watch a run: its rounds, clients, bytes, epsilon and time left. Lines where the output is no terminal.",
        FEDERATION,
    ),
    "dashboard": Known(
        "motet.cli.dashboard:dashboard_command",
        "Print a link to the dashboard. It opens one session, within a minute, in your role.",
        FEDERATION,
    ),
    "coordinator": Known(
        "motet.cli.coordinator:app",
        "Run the coordinator and register clients.",
        FEDERATION,
        is_group=True,
    ),
    "client": Known(
        "motet.cli.client:app",
        "Make a key, answer a coordinator's orders, decide on recipes.",
        FEDERATION,
        is_group=True,
    ),
    "ca": Known(
        "motet.cli.ca:app",
        "Admit people and clients to a federation, and take that back.",
        FEDERATION,
        is_group=True,
    ),
    "deal": Known(
        "motet.cli.deal:deal_command",
        "Deal a recipe's data to clients, for a federation that is tried out; real owners have their own.",
        FEDERATION,
    ),
    "export": Known(
        "motet.cli.export:export_command",
        "Write the adapter of RUN so that peft loads it unchanged, heads included.",
        ADAPTERS,
    ),
    "merge": Known(
        "motet.cli.merge:merge_command",
        "Combine PEFT adapters of any ranks into one that peft loads unchanged. No servers, no base weights.",
        ADAPTERS,
    ),
    "port": Known(
        "motet.cli.port:port_command",
        "Carry ADAPTER to a newer version of its base without training, and say how far the base has moved.",
        ADAPTERS,
    ),
    "inspect": Known(
        "motet.cli.inspect:inspect_command",
        "Show what the adapter of RUN makes likelier than the base model does. A look, not a proof.",
        ADAPTERS,
    ),
    "budget": Known(
        "motet.cli.budget:app",
        "Calibrate noise; show what was spent and what is left.",
        PRIVACY,
        is_group=True,
    ),
    "audit": Known(
        "motet.cli.audit:app",
        "Prove what privacy was spent, and check such a proof.",
        PRIVACY,
        is_group=True,
    ),
    "doctor": Known(
        "motet.cli.doctor:doctor_command",
        "Look at this machine and at a home: versions, keys, certificates, clock, disk, database, ledger, processes.",
        UPKEEP,
    ),
    "backup": Known(
        "motet.cli.backup:backup_command",
        "Write one file with a coordinator's database, ledger, artifacts and keys, as of one moment. It may run.",
        UPKEEP,
    ),
    "restore": Known(
        "motet.cli.backup:restore_command",
        "Put a backup into a new home, once all of it was checked. An older ledger than was seen is refused.",
        UPKEEP,
    ),
}
