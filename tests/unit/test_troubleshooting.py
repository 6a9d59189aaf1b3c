"""The page of errors quotes messages that the code has, with the exit codes that they end with."""

import ast
import functools
import importlib
import re
from pathlib import Path

import pytest

from motet.cli.exit_codes import EXIT_CODES
from motet.errors import MotetError

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/troubleshooting.md"
GAP = "\0"


def text_of(node):
    """A text or an f-text as it will be printed, with a gap for what is filled in; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(v.value if isinstance(v, ast.Constant) else GAP for v in node.values)
    if isinstance(node, ast.BinOp):
        return f"{text_of(node.left) or GAP}{text_of(node.right) or GAP}"
    if isinstance(node, ast.Name):
        return GAP
    return None


@functools.cache
def messages():
    """(text, its module, name of the error that is raised with it or "") of all packages, and of make."""
    found = [((ROOT / "Makefile").read_text(), "", "")]
    for package in ("motet", "client", "coordinator"):
        for path in (ROOT / package).rglob("*.py"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    name = node.func.id if isinstance(node.func, ast.Name) else ""
                    given = [*node.args, *(k.value for k in node.keywords)]
                    found += [(text, module, name) for a in given if (text := text_of(a))]
                elif (text := text_of(node)) and len(text) > 8:
                    found.append((text, module, ""))
    return found


def quoted(text=None):
    """(message, exit code or None) of every row of the page."""
    rows = re.findall(r"^\| (.*?) \| (\d+|-) \|", PAGE.read_text() if text is None else text, re.MULTILINE)
    told = []
    for seen, code in rows:
        told += [(m, None if code == "-" else int(code)) for m in re.findall(r"`([^`]+)`", seen)]
    return told


def where_from(message):
    """The messages of the code that a quoted one can be."""
    pattern = re.compile(".*".join(re.escape(part.strip()) for part in message.split("...")), re.DOTALL)
    return [row for row in messages() if pattern.search(row[0])]


def codes_of(rows):
    """The exit codes of the errors that are raised with these messages."""
    found = set()
    for _, module, name in rows:
        if name.endswith("Error"):
            error = getattr(importlib.import_module(module), name, None)
            if isinstance(error, type) and issubclass(error, MotetError):
                found.add(error.exit_code)
    return found


@pytest.mark.parametrize(("message", "code"), [row for row in quoted() if not row[0].startswith("motet ")])
def test_every_quoted_message_is_one_of_the_code_with_that_exit_code(message, code):
    rows = where_from(message)
    assert rows, f"no such message: {message}"
    codes = codes_of(rows)
    assert code is None or not codes or code in codes, (message, code, codes)


def test_a_message_that_the_code_has_no_more_or_with_another_code_is_found():
    text = "| `material ... has gone to sea` | 5 | - | - |\n| `material ... is not on this machine` | 5 | - | - |\n"
    (gone, _), (there, code) = quoted(text)
    assert not where_from(gone)
    assert codes_of(where_from(there)) == {code}


def test_every_exit_code_has_an_entry():
    told = {int(c) for c in re.findall(r"^\|.*?\| (\d+) \|", PAGE.read_text(), re.MULTILINE)}
    assert told == {row.code for row in EXIT_CODES} - {0}
