"""Which pages are walked through, in which order, and what of them is not run, each with its reason.

Pages of one walk share a folder, a coordinator and its clients: what one page has made, the next may use. A command
that another page of the walk has run is not run again.
"""

import functools
import json
import random
import re
import shutil
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

from document_commands import ROOT, bare, blocks_of, is_as_shown

WALKS = {
    "readme": (
        "docs/start.md",
        "README.md",
        "docs/troubleshooting.md",
        "docs/operator.md",
        "docs/researcher.md",
        "docs/terminal.md",
        "docs/api.md",
        "docs/recipe.md",
        "docs/merge.md",
        "docs/data-owner.md",
        "docs/auditor.md",
        "docs/audit.md",
        "docs/policy.md",
        "docs/upgrade.md",
        "docs/operations.md",
        "docs/dashboard.md",
        "docs/identity.md",
        "docs/database.md",
        "docs/compose.md",
    ),
}
_POSTGRESQL = "needs a PostgreSQL server; tests/integration/test_postgresql_home.py has one"

_POSTGRESQL_BACKUP = "needs a PostgreSQL server; tests/unit/coordinator/backup/test_backup.py moves both ways"
_ENGINE = "needs a container engine; tests/integration/test_compose_boxes.py runs the same file without one"

_RUNNER = "minutes, and needs to make namespaces; tests/integration/test_compose_boxes.py does it"

# A command that stands in no walk needs a line here; so does one of a page that is walked and can not be run.
NOT_RUN = {
    "make setup": "it makes what runs this; benchmarks/newcomer.py runs it in a fresh clone",
    "make demo": "minutes; tests/e2e/test_simulate_and_export.py runs what it runs",
    "make test": "these are the tests",
    "make demo-causal-lm": "12 minutes of CPU time",
    "python scripts/compose_runner.py up --volume materials=$HOME/.cache/motet": _RUNNER,
    "python scripts/compose_runner.py ps": _RUNNER,
    "python scripts/compose_runner.py down": _RUNNER,
    "motet dashboard --home fed --open": "opens a browser; tests of the dashboard follow its links",
    "motet dashboard --home runs/first": "serves until Ctrl-C; tests of the dashboard have one of a simulation",
    "make demo-deployed": "minutes; its federation is that of tests/integration",
    "kill $(jobs -p)": "the next pages go on with what runs; benchmarks/newcomer.py stops it so",
    "motet simulate recipe.yaml": "half a minute; the README simulates another recipe",
    "motet port adapter --from base-v1 --to base-v2 --out adapter-v2": "needs two versions of a base; tests of porting",
    "motet audit canary": "most of a minute; tests/e2e/test_audit.py attacks with fewer steps",
    "motet audit canary --quick": "half a minute; tests/e2e/test_audit.py attacks with fewer steps",
    'motet inspect RUN --home fed --prompt "Dear" --samples 8 --strength 2': "the walk trains no language model",
    "pip install 'motet[postgres]'": "needs a registry",
    "motet coordinator start --home fed --database postgresql://motet@db.example.org:5432/motet": _POSTGRESQL,
    "motet coordinator start --home /srv/motet/one --database postgresql://motet@db.example.org/motet "
    "--name fed.example.org": _POSTGRESQL,
    "motet coordinator start --home /var/motet/two --shares /srv/motet/one --name fed.example.org": _POSTGRESQL,
    "motet restore fed-move.motet --home fed-pg --passphrase-file backup.pass "
    "--database postgresql://motet@db.example.org:5432/motet": _POSTGRESQL_BACKUP,
    "motet coordinator start --home fed-pg --listen 0.0.0.0:8443 --control 0.0.0.0:8444 --enrolment 0.0.0.0:8445 "
    "--name fed.example.org": _POSTGRESQL,
}

# The same for every command that starts so.
NOT_RUN_STARTS = {"docker ": _ENGINE}

# Blocks that are neither commands nor a language: their first line, and what they are.
OTHER = {
    "motet-reply/1": "bytes that are signed",
    'data_curator = "St. Anne\'s hospital"': "facts of a report",
}

SHOWN_PORTS = ("8443", "8444", "8445", "9464")
RECIPE = """
name: readme
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2, max_length: 24}
data: {path: ward-a.jsonl}
adapter: {lora_rank: 2, targets: [query, value]}
method: {name: flora}
cohort: {clients: [ward-a], minimum: 1}
training: {rounds: 2, local_steps: 2, expected_batch_size: 8}
seed: 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a page takes for granted.

    Attributes:
      files: name -> text, or a path below the repository that is copied.
      before: start of a command -> what the test does first, with the shell.
      codes: start of a command -> the exit code that is right for it.
    """

    files: dict = field(default_factory=dict)
    before: dict = field(default_factory=dict)
    codes: dict = field(default_factory=dict)


def _site_folders(shell):
    for name in ("site-a", "site-b", "site-c"):
        shutil.copytree(shell.folder / "exported", shell.folder / name, dirs_exist_ok=True)


def _until(shell, command, word):
    """Ask until the answer has the word."""
    until = time.monotonic() + 60
    while word not in (printed := shell.run(command).printed):
        assert time.monotonic() < until, printed + shell.logs()
        time.sleep(0.2)
    return printed


def _asked_for_a_decision(shell):
    """A researcher's run that asks ward-a, whose policy wants its owner's word."""
    shell.run("motet run submit examples/recipes/tiny-private.yaml --home fed")
    told = _until(shell, "motet client status --home ward-a --json", '"pending"')
    shell.known["RECIPE"] = next(r for r in json.loads(told)["recipes"] if r["answer"] == "pending")[
        "recipe_sha256"
    ][:12]


def _run_has_ended(shell):
    shell.run("motet run watch RUN --home fed")


def _ledgers_key(shell):
    header = (shell.folder / "audit.jsonl").read_text().split("\n", 1)[0]
    return re.search(r'"key":"([^"]+)"', header)[1]


def _serial(shell):
    told = json.loads(shell.run("motet ca list --home fed --json").printed)["identities"]
    return next(row["serial"] for row in told if row["name"] == "eve")


def _exported_again(shell):
    shell.run("motet audit export RUN --home fed --out new.jsonl")


PRIVATE_POLICY = 'max_epsilon = 20.0\napproval = "manual"\n'


PAGES = {
    "docs/start.md": Page(files={"examples": "examples"}),
    "docs/api.md": Page(
        before={
            "motet audit export": lambda shell: shell.run(
                "motet ca issue --role auditor --name ada --out auditor --home fed"
            ),
            "motet ca token": lambda shell: shell.run(
                "motet ca issue --role operator --name ole --out operator --home fed"
            ),
        }
    ),
    "docs/upgrade.md": Page(files={"ward-c.jsonl": "examples/shards/ward-c.jsonl"}),
    "docs/merge.md": Page(before={"motet merge": _site_folders}),
    "docs/data-owner.md": Page(before={"motet client status": _asked_for_a_decision}),
    "docs/auditor.md": Page(before={"motet audit export": _run_has_ended}),
    "docs/audit.md": Page(
        files={"public.txt": "pain is down to two\nshort of breath at rest\n"},
        before={"motet audit verify new.jsonl": _exported_again},
    ),
    "docs/operations.md": Page(
        files={"study.yaml": RECIPE, "ward-a.toml": PRIVATE_POLICY},
        before={"motet doctor --home ward-a": lambda shell: shell.run("cp ward-a/join.json join.json")},
    ),
    "docs/researcher.md": Page(codes={"motet plan wrong.yaml": 3}),
    "README.md": Page(
        files={
            "examples": "examples",
            "Makefile": "Makefile",
            "ward-a.jsonl": "examples/shards/ward-a.jsonl",
            "recipe.yaml": RECIPE,
            "policy.toml": 'allowed_methods = ["flora"]\n',
        },
        before={"motet merge": _site_folders},
    ),
}


@functools.cache
def _port(shown):
    """A free port for one that a page shows, below those that the kernel gives to connections."""
    for _ in range(100):
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return str(port)
    raise AssertionError(f"no free port for {shown}")


def _with_shown_ports(printed):
    for shown in SHOWN_PORTS:
        printed = printed.replace(f":{_port(shown)}", f":{shown}")
    return printed


def fills():
    """What stands on the pages for addresses of this machine and for the last run."""
    return {
        r"(motet coordinator start(?:(?!--listen).)*)$": lambda shell, found: (
            f"{found[1]} --listen 127.0.0.1:8443"
        ),
        r"\b(0\.0\.0\.0|fed\.example\.org)\b": lambda shell, found: "127.0.0.1",
        rf":({'|'.join(SHOWN_PORTS)})\b": lambda shell, found: ":" + _port(found[1]),
        r"\bRUN\b": lambda shell, found: shell.run_id,
        r"\bRECIPE\b": lambda shell, found: shell.known["RECIPE"],
        r"\bSERIAL\b": lambda shell, found: _serial(shell),
        r"motet/…\+…\+…": lambda shell, found: _ledgers_key(shell),
        r"/run/secrets/": lambda shell, found: f"{shell.home}/",
    }


def is_not_run(command):
    """Whether a list has it."""
    return bare(command) in NOT_RUN or command.startswith(tuple(NOT_RUN_STARTS))


def _key(command):
    """The same for every way to write a command."""
    return bare(command).removeprefix(".venv/bin/")


def runnable(page, text=None):
    """(block, command or None for a block of Python), in the order of the page."""
    for block in blocks_of(page, text):
        if block.language == "python":
            yield block, None
        elif block.has_commands:
            yield from ((block, command) for command in block.commands())


def unlisted(page, text=None):
    """Commands and Python of a page that no walk runs and no list names, each with its line."""
    walked = {p for walk in WALKS.values() for p in walk}
    if page in walked:
        return []
    return [
        f"{page}:{block.line}: {bare(command) if command else 'python'}"
        for block, command in runnable(page, text)
        if command is None or not is_not_run(command)
    ]


def walk(shell, page):
    """Run every command and every piece of Python of the page, and hold what is printed against what is shown."""
    about = PAGES.get(page, Page())
    for name, source in about.files.items():
        _put(shell.folder / name, source)
    for block in blocks_of(page):
        if block.language == "python":
            (shell.folder / "snippet.py").write_text(shell.filled(block.text))
            commands = ["python snippet.py"]
        elif block.has_commands:
            commands = [
                c
                for c in block.commands()
                if not is_not_run(c) and (block.prints or _key(c) not in shell.has_run)
            ]
        else:
            continue
        printed = "".join(_one(shell, about, block, command) for command in commands)
        printed, where = _with_shown_ports(printed), f"{page}:{block.line}"
        assert block.prints is None or is_as_shown(block.prints, printed), (
            f"{where} shows\n{block.prints}\n{printed}"
        )


def _one(shell, about, block, command):
    for start, do in about.before.items():
        if command.startswith(start):
            do(shell)
    _make_room(shell, command)
    done = shell.run(bare(command))
    right = next((code for start, code in about.codes.items() if command.startswith(start)), 0)
    assert done.code == right, f"{block.page}:{block.line}: {command}\n{done.printed[-3000:]}{shell.logs()}"
    shell.has_run.add(_key(command))
    return done.printed


def _make_room(shell, command):
    """A second start of one home: the first one is ended, as its owner would."""
    if re.match(r"motet (coordinator|client) start\b", command) and "--help" not in command:
        found = re.search(r"--home (\S+)", command)
        shell.stop(found[1] if found else command.split()[1] + "-home")


def _put(to, source):
    origin = ROOT / source if "\n" not in source and len(source) < 200 else None
    if origin is None or not origin.exists():
        to.write_text(source)
    elif origin.is_dir():
        shutil.copytree(origin, to, dirs_exist_ok=True)
    else:
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(origin, to)


def missing_paths():
    """Files that the table names and that are not there; pages of lists that have gone."""
    named = [s for page in PAGES.values() for s in page.files.values() if re.fullmatch(r"[\w./-]+", s)]
    return [name for name in named if not Path(ROOT / name).exists()]
