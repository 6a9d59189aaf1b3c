"""Exit codes are one table, and every error of the product uses it."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import client
import coordinator
import motet
from motet.cli.exit_codes import EXIT_CODES
from motet.errors import MotetError

ROOT = Path(__file__).resolve().parents[4]


def _all_errors() -> set[type[MotetError]]:
    for package in (motet, coordinator, client):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if module.name.rpartition(".")[2].endswith("errors"):
                importlib.import_module(module.name)
    found: set[type[MotetError]] = set()
    stack = [MotetError]
    while stack:
        stack += (children := stack.pop().__subclasses__())
        found |= set(children)
    return found


def test_every_error_leaves_with_a_code_of_the_table():
    known = {row.code for row in EXIT_CODES}
    errors = _all_errors()
    assert len(errors) > 5
    assert not {error.__name__: error.exit_code for error in errors if error.exit_code not in known}


def test_codes_and_names_are_unique():
    assert len({row.code for row in EXIT_CODES}) == len({row.name for row in EXIT_CODES}) == len(EXIT_CODES)


def test_the_pages_written_from_code_are_current():
    for script in ("gen_exit_codes.py", "gen_recipe_reference.py"):
        done = subprocess.run(
            [sys.executable, str(ROOT / "scripts" / script), "--check"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_an_error_says_its_message_and_keeps_its_hint():
    error = MotetError("what happened", hint="what to do")
    assert (str(error), error.message, error.hint, error.exit_code) == (
        "what happened",
        "what happened",
        "what to do",
        1,
    )
