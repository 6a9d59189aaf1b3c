"""What a tired operator types: each is told what is wrong, where, and what to do next, and no traceback comes."""

import contextlib
import errno
import resource
import shlex

import click
import pytest
import typer

from client.keys import init_key
from coordinator.storage.store import Store
from motet.cli import main as cli
from motet.cli.commands import COMMANDS
from motet.cli.faults import of_the_machine
from motet.recipe import parse_recipe

RECIPE = """
name: x
base_model: {tiny: tiny-bert}
task: {kind: sequence-classification, num_labels: 2}
data: {path: none.jsonl}
adapter: {lora_rank: 4}
method: {name: flora}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a coordinator's home ``fed``, which has a run, a client's ``ward`` and a file ``recipe.yaml``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    store = Store.open(tmp_path / "fed/motet.db")
    store.submit_run(parse_recipe(RECIPE), run_id="r-3f9a1c00aa11")
    store.close()
    init_key(tmp_path / "ward")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    for name, url in (("mysql", "mysql://h/d"), ("down", "postgresql://me@127.0.0.1:1/m")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "database.url").write_text(url)
    return tmp_path


@pytest.fixture
def motet(capsys):
    def typed(line):
        code = 0
        try:
            cli.main(shlex.split(line))
        except SystemExit as e:
            code = int(e.code or 0)
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return code, told.out, " ".join(told.err.split())

    return typed


WRONG = {
    # what is typed: (exit code, what is wrong and where, what to do next)
    "run list --home nowhere": (8, "nowhere/motet.db: no such database", "check --home"),
    "run list --home ward": (2, "ward is the home of a client, not of a coordinator", "motet client --help"),
    "ca list --home ward": (2, "ward is the home of a client", "motet client --help"),
    "coordinator start --home ward": (2, "ward is the home of a client", "motet client --help"),
    "client status --home fed": (2, "fed is the home of a coordinator", "motet coordinator --help"),
    "client init --home fed": (2, "fed is the home of a coordinator", "motet coordinator --help"),
    "client start --home fed --data d --name a --join j": (2, "fed is the home of a coordinator", "give"),
    "audit receipts a --home fed --out x": (2, "fed is the home of a coordinator", "give"),
    "backup --home ward --out x --without-keys": (2, "ward is the home of a client", "give"),
    "coordinator gc --home ward": (2, "ward is the home of a client", "give"),
    "client status --home nowhere": (2, "nowhere: no such folder", "check --home"),
    "client recipes --home nowhere": (2, "nowhere: no such folder", "check --home"),
    "run submit recipe.yaml --home recipe.yaml": (2, "recipe.yaml is a file", "give the coordinator's folder"),
    "run show r-3f9 --home fed": (2, "no run 'r-3f9'", "with that begin: r-3f9a1c00aa11"),
    "run priority r-3f9 1 --home fed": (2, "no run 'r-3f9'", "with that begin: r-3f9a1c00aa11"),
    "run resume r-4 --home fed": (2, "no run 'r-4'", "newest runs: r-3f9a1c00aa11"),
    "run list --coordinator somewhere --identity ward": (2, "'somewhere' is not HOST:PORT", "for example"),
    "run list --coordinator 127.0.0.1:1": (2, "--coordinator needs --identity", "motet ca issue"),
    "run list --coordinator 127.0.0.1:1 --identity ward": (7, "ward holds no whole identity", "motet client enrol"),
    "run list --identity recipe.yaml": (7, "recipe.yaml/identity.json: no such file", "motet ca issue"),
    "restore missing.tar --home new": (8, "missing.tar: No such file or directory", "check the path"),
    "restore ward --home new": (8, "ward: Is a directory", "check the path"),
    "budget calibrate --epsilon 8 --sampling-rate 2 --steps 9": (2, "--sampling-rate: 2", "for example"),
    "run submit missing.yaml --home fed": (3, "missing.yaml: there is no such file", "examples/recipes"),
    "audit verify missing.jsonl": (2, "missing.jsonl: No such file", "check the path"),
    "run list --home mysql": (8, "mysql/database.url: a database of kind mysql", "postgresql://user@host:5432/name"),
    "run list --home down": (8, "database postgresql+psycopg://me@127.0.0.1:1/m", "start the database server"),
}  # fmt: skip


@pytest.mark.parametrize("line", WRONG)
def test_wrong_usage_is_told_with_what_where_and_what_next(place, motet, line):
    code, what, following = WRONG[line]
    found = motet(line)
    assert found[:2] == (code, ""), found
    told, _, remedy = found[2].partition("next: ")
    assert what in told
    assert following in remedy or following in told
    assert not (place / "fed/client.key").exists()
    assert not (place / "ward/motet.db").exists()


@pytest.mark.parametrize("line", ["run show r-none --home fed --json", "client status --home nowhere --json"])
def test_an_error_leaves_standard_output_clean_for_json(place, motet, line):
    code, out, err = motet(line)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")


@pytest.mark.parametrize(
    ("line", "nearest"),
    [
        ("rn list", "run"),
        ("run lst", "list"),
        ("client aprove x", "approve"),
        ("coordinater start", "coordinator"),
    ],
)
def test_a_misspelt_command_is_told_the_nearest_once(motet, line, nearest):
    code, _, err = motet(line)
    assert code == 2
    assert err.count(f"Did you mean '{nearest}'?") == err.count("Did you mean") == 1


@pytest.mark.parametrize(("number", "remedy"), [(errno.ENOSPC, "make room"), (errno.EACCES, "rights")])
def test_a_machine_that_refuses_a_file_is_no_fault_of_motet(monkeypatch, motet, number, remedy):
    def full(_argv):
        raise OSError(number, "as the system says it", "/data/x")

    monkeypatch.setattr(cli, "build_app", full)
    code, _, err = motet("plan x")
    assert (code, "error: /data/x can not be used: as the system says it" in err, remedy in err) == (
        8,
        True,
        True,
    )
    assert of_the_machine(OSError(errno.EBADF, "a mistake of ours")) is None  # positive controls
    assert of_the_machine(ValueError("x")) is None


@contextlib.contextmanager
def no_file_longer_than(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "line", ["ca init --home new", "run submit recipe.yaml --home fed", "client init --home w"]
)
def test_a_disk_that_is_full_is_told_in_words(place, motet, line):
    with no_file_longer_than(16):
        code, _, err = motet(line)
    assert (code, err.startswith("error: ")) == (8, True), err
    assert "next: " in err
    assert "fault of its own" not in err
    assert motet(line)[0] == 0  # positive control


def test_where_a_traceback_can_not_be_kept_the_fault_is_told_all_the_same(monkeypatch, motet):
    def broken(_argv):
        raise ZeroDivisionError("an inner matter")

    monkeypatch.setattr(cli, "build_app", broken)
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    code, _, err = motet("plan x")
    assert (code, "ZeroDivisionError: an inner matter" in err, "set TMPDIR" in err) == (1, True, True)


def leaves(command, path=()):
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, below in command.commands.items():
        yield from leaves(below, (*path, name))


def examples():
    """(path, command, line) of every example in every help."""
    for path, command in leaves(typer.main.get_command(cli.build_app([]))):
        _, _, text = command.help.partition("Example")
        for line in text.splitlines():
            found = line.removeprefix("s:").removeprefix(":").strip()
            if found.startswith("motet "):
                yield path, command, found


def test_every_example_of_a_help_is_a_line_that_parses():
    seen = set()
    for path, command, line in examples():
        words = shlex.split(line)[1:]
        assert tuple(words[: len(path)]) == path, line
        context = click.Context(command, info_name=path[-1], resilient_parsing=False)
        parsed = {name: option for option in command.params for name in option.opts}
        missing = [
            w for w in words[len(path) :] if w.startswith("--") and w.split("=")[0] not in known(parsed)
        ]
        assert not missing, line
        parse(command, context, words[len(path) :])
        seen.add(path)
    assert len(seen) >= 40
    assert seen == {path for path, _ in leaves(typer.main.get_command(cli.build_app([])))}


def parse(command, context, words):
    """As the shell would; files and folders of an example need not be here."""
    for option in command.params:
        if isinstance(option.type, click.Path):
            option.type.exists = False
    command.parse_args(context, words)


def known(parsed):
    return {*parsed, *(f"--no-{name[2:]}" for name in parsed)}


def test_an_example_that_no_longer_parses_is_found():
    """Positive control."""
    _, command, line = next(it for it in examples() if it[0] == ("run", "priority"))
    with pytest.raises(click.UsageError):
        command.parse_args(click.Context(command), [*shlex.split(line)[3:], "--higher"])


def test_every_help_is_a_sentence_and_so_is_what_it_says_of_each_option():
    for path, command in leaves(typer.main.get_command(cli.build_app([]))):
        paragraph = " ".join(command.help.split("\n\n")[0].split())
        assert (paragraph[0].isupper(), paragraph[-1]) == (True, "."), path
        for option in command.params:
            words = getattr(option, "help", None) or "Help."
            first = words.split()[0]
            assert words[0].isupper() or "." in first, (path, option.name, words)  # or the name of a file
            assert words.endswith("."), (path, option.name, words)


def test_the_first_list_of_commands_is_in_groups():
    groups = {known.panel for known in COMMANDS.values()}
    assert 3 <= len(groups) <= 6
    listed = typer.main.get_command(cli.build_app(["--help"])).commands
    assert {name: below.rich_help_panel for name, below in listed.items()} == {
        name: known.panel for name, known in COMMANDS.items()
    }
