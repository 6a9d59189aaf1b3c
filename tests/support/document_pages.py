"""Which pages are walked through, in which order, and what of them is not run, each with its reason.

Pages of one walk share a folder, a coordinator and its clients: what one page has made, the next may use. A command
that another page of the walk has run is not run again.
"""

import functools
import random
import re
import shutil
import socket
from dataclasses import dataclass, field
from pathlib import Path

from document_commands import ROOT, bare, blocks_of, is_as_shown

WALKS = {
    "readme": ("README.md",),
}

# A command that stands in no walk needs a line here; so does one of a page that is walked and can not be run.
NOT_RUN = {
    "make demo": "minutes; tests/e2e/test_simulate_and_export.py runs what it runs",
    "make test": "these are the tests",
    "make demo-causal-lm": "12 minutes of CPU time",
    "docker compose up": "needs a container engine; tests/e2e/test_compose_demo.py runs the same file without one",
    "make demo-deployed": "minutes; its federation is that of tests/integration",
}

# Pages whose commands no walk runs yet.
LATER = {
    "docs/api.md": "to be walked",
    "docs/audit.md": "to be walked",
    "docs/compose.md": "to be walked",
    "docs/dashboard.md": "to be walked",
    "docs/database.md": "to be walked",
    "docs/identity.md": "to be walked",
    "docs/merge.md": "to be walked",
    "docs/operations.md": "to be walked",
    "docs/policy.md": "to be walked",
    "docs/recipe.md": "to be walked",
    "docs/rounds.md": "to be walked",
    "docs/terminal.md": "to be walked",
    "docs/trackers.md": "to be walked",
}

# Blocks that are neither commands nor a language: their first line, and what they are.
OTHER = {
    "motet-reply/1": "bytes that are signed",
    'data_curator = "St. Anne\'s hospital"': "facts of a report",
}

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
    for name in ("site-a", "site-b"):
        shutil.copytree(shell.folder / "exported", shell.folder / name)


PAGES = {
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


def fills():
    """What stands on the pages for addresses of this machine and for the last run."""
    return {
        r"(motet coordinator start(?:(?!--listen).)*)$": lambda shell, found: (
            f"{found[1]} --listen 127.0.0.1:8443"
        ),
        r"\b(0\.0\.0\.0|fed\.example\.org)\b": lambda shell, found: "127.0.0.1",
        r":(844[345]|9464)\b": lambda shell, found: ":" + _port(found[1]),
        r"\bRUN\b": lambda shell, found: shell.run_id,
    }


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
    if page in walked or page in LATER:
        return []
    return [
        f"{page}:{block.line}: {bare(command) if command else 'python'}"
        for block, command in runnable(page, text)
        if command is None or bare(command) not in NOT_RUN
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
                if bare(c) not in NOT_RUN and (block.prints or bare(c) not in shell.has_run)
            ]
        else:
            continue
        printed = "".join(_one(shell, about, block, command) for command in commands)
        where = f"{page}:{block.line}"
        assert block.prints is None or is_as_shown(block.prints, printed), (
            f"{where} shows\n{block.prints}\n{printed}"
        )


def _one(shell, about, block, command):
    for start, do in about.before.items():
        if command.startswith(start):
            do(shell)
    _make_room(shell, command)
    done = shell.run(command)
    right = next((code for start, code in about.codes.items() if command.startswith(start)), 0)
    assert done.code == right, f"{block.page}:{block.line}: {command}\n{done.printed[-3000:]}{shell.logs()}"
    shell.has_run.add(bare(command))
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
