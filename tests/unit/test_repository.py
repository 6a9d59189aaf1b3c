"""What a reader may take for granted about the tree itself."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("privacy", "aggregation", "client", "coordinator", "motet")


def tracked(*patterns: str) -> list[Path]:
    """Files that git knows or would add."""
    out = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [ROOT / line for line in out.splitlines() if (ROOT / line).is_file()]


def test_no_source_file_is_longer_than_600_lines():
    long = {
        str(p.relative_to(ROOT)): n for p in tracked("*.py") if (n := len(p.read_text().splitlines())) > 600
    }
    assert not {k: v for k, v in long.items() if "_pb2" not in k}


def test_every_relative_link_in_the_documents_resolves():
    broken = []
    for page in tracked("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" in target or target.startswith("mailto:"):
                continue
            if not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)} -> {target}")
    assert not broken


def test_every_path_in_back_quotes_in_the_readme_exists():
    text = (ROOT / "README.md").read_text()
    named = re.findall(
        r"`((?:docs|examples|benchmarks|scripts|proto|privacy|aggregation|client|coordinator|fab)/[\w./-]*)`",
        text,
    )
    assert not [p for p in named if not (ROOT / p).exists()]


def test_no_pickle_no_torch_load_no_eval_in_the_packages():
    banned = re.compile(
        r"(^|[^.\w])(pickle\.|torch\.load\(|yaml\.load\(|eval\(|exec\(|add_insecure_port)|allow_pickle\s*=\s*True|verify\s*=\s*False"
    )
    found = []
    for package in PACKAGES:
        for path in tracked(f"{package}/*.py"):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                code = line.split("#")[0]
                if (
                    banned.search(code)
                    and "model.eval(" not in code
                    and '"""' not in code
                    and "`" not in code
                ):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found


def test_the_import_rules_hold():
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_generated_stubs_are_those_of_proto():
    done = subprocess.run(
        [sys.executable, "scripts/gen_proto.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [["check", "."], ["format", "--check", "."]])
def test_the_linter_and_the_formatter_are_content(arguments):
    ruff = Path(sys.executable).parent / "ruff"
    done = subprocess.run([str(ruff), *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_constraints_pin_every_direct_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {
        re.split(r"==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().split()
    }
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + extras["dev"] + extras["trackers"]
    missing = [d for d in wanted if re.split(r"[<>=\[; ]", d)[0].lower().replace("_", "-") not in pinned]
    assert not missing


def undeclared(sources, declared):
    """Distributions that sources import and ``declared`` (normal names) does not name."""
    by_import = importlib.metadata.packages_distributions()
    own = {*PACKAGES, *sys.stdlib_module_names}
    found = {}
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += (
                [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            )
            for top in {module.split(".")[0] for module in modules} - own:
                made_by = {name.lower().replace("_", "-") for name in by_import.get(top, [top])}
                if not made_by & declared:
                    found[top] = made_by
    return found


def test_every_library_that_the_packages_import_is_a_dependency_of_their_own():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = project["dependencies"] + extras["postgres"] + extras["trackers"]
    declared = {re.split(r"[<>=\[; ]", d)[0].lower().replace("_", "-") for d in named}
    declared |= {"pydantic-core", "mlflow"}  # halves of pydantic, which pins it, and of mlflow-skinny
    sources = [p.read_text() for package in PACKAGES for p in tracked(f"{package}/*.py")]
    assert not undeclared(sources, declared)
    assert undeclared(sources, declared - {"httpx"}) == {"httpx": {"httpx"}}  # positive control


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE"])
def test_the_usual_documents_are_there(name):
    assert (ROOT / name).stat().st_size > 300


@pytest.mark.xdist_group("together")
def test_tests_of_one_group_stay_on_one_worker(request):
    """Pages of the documents, and tests that share a federation or a server, follow one another."""
    if not request.config.getoption("loadgroup", default=False):
        pytest.skip("not distributed by groups")
    assert request.node.nodeid.endswith("@together")
