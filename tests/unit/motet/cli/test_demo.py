"""What the demo says when it is done: commands that exist, typed as they stand there."""

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from motet.cli.demo import DemoTask, _next_commands, demo_recipe_path
from motet.cli.main import build_app


@pytest.mark.parametrize("deployed", [False, True])
@pytest.mark.parametrize("task", list(DemoTask))
def test_the_demo_names_three_next_commands_that_exist(task, deployed, monkeypatch):
    monkeypatch.setattr("sys.argv", [".venv/bin/motet", "demo"])
    monkeypatch.setattr("shutil.which", lambda name: None)
    path = demo_recipe_path(task)
    lines = _next_commands(task, path, Path("demo-out/x"), "r-1", deployed=deployed)
    assert len(set(lines)) == 3
    for line in lines:
        program, *words = shlex.split(line)
        assert program == ".venv/bin/motet"  # what was typed to come here, where no motet is on the path
        group = words[: 2 if words[0] == "audit" else 1]
        shown = CliRunner().invoke(build_app([]), [*group, "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0, line
        assert all(word in shown.output for word in words if word.startswith("--")), line
    assert any("demo-out/x/audit.jsonl" in line for line in lines) == deployed
