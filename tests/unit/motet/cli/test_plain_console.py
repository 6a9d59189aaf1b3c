"""Words of others reach a terminal as words."""

import io

import pytest
from audit_houses import house_at
from rich.console import Console
from rich.table import Table

from motet.audit.verify import verify_bundle
from motet.cli.audit import print_result
from motet.cli.plain_console import PlainConsole
from motet.cli.screen import console

FORGED = "\x1b[2J\x1b[Hall holds\x1b[8m\r\x9b2J\u202e"


def shown(kind, thing, **options):
    out = io.StringIO()
    made = kind(file=out, markup=False, highlight=False, width=100, **options)
    thing(made) if callable(thing) and not isinstance(thing, Table) else made.print(thing)
    return out.getvalue()


def table():
    made = Table(f"head{FORGED}", title=f"title{FORGED}")
    made.add_row(f"cell{FORGED}")
    return made


@pytest.mark.parametrize("thing", [f"line{FORGED}\nnext", table()], ids=["text", "table"])
def test_no_text_moves_the_cursor_and_lines_and_colours_stay(thing):
    plain = shown(PlainConsole, thing)
    assert not set("\x1b\r\x9b\u202e") & set(plain)
    assert "all holds" in plain
    assert plain.count("\n") == shown(Console, thing).count("\n")
    assert "\x1b" in shown(Console, thing)  # control: Rich itself lets them through
    coloured = shown(PlainConsole, lambda made: made.print("red", style="red"), force_terminal=True)
    assert "\x1b[" in coloured


def test_a_ledger_of_a_liar_does_not_write_its_own_verdict_on_the_auditors_terminal(tmp_path):
    house = house_at(tmp_path, clients=("a", f"b{FORGED}"))
    house.declare()
    house.play(range(1), clients=("a", f"b{FORGED}"))
    bundle = house.bundle().replace(b'"entries":', b'"entries" :', 1)
    result = verify_bundle(bundle)
    assert not result.is_ok
    told = shown(PlainConsole, lambda made: print_result(result, made))
    assert not set("\x1b\r\x9b\u202e") & set(told)
    assert "does not hold" in told
    assert "all holds" not in [line.strip() for line in told.splitlines()]
    assert isinstance(console(), PlainConsole)


def test_a_recipe_in_a_ledger_that_is_nested_without_end_is_a_finding(tmp_path):
    house = house_at(tmp_path)
    house.declare()
    whole = house.bundle()
    assert verify_bundle(whole).is_ok  # control
    start = whole.index(b'"recipe_json":"') + len(b'"recipe_json":"')
    end = whole.index(b'","recipe_sha256"', start)
    result = verify_bundle(whole[:start] + b"[" * 100_000 + whole[end:])
    assert "recipe" in {f.code for f in result.findings}
