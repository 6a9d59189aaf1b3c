"""The documents show nothing that is not tried: every command, option, link, sample and piece of code in them."""

import functools
import json
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml
from document_commands import bare, blocks_of, inline_commands, is_as_shown, pages, shown_commands
from document_pages import NOT_RUN, OTHER, PAGES, WALKS, unlisted

from motet.cli.main import build_app

ROOT = Path(__file__).resolve().parents[2]
WALKED = [page for walk in WALKS.values() for page in walk]


def test_every_command_in_the_documents_is_run_by_a_walk_or_listed_with_a_reason():
    assert not [line for page in pages() for line in unlisted(page)]


def test_a_new_command_or_piece_of_python_on_a_page_without_a_walk_is_found():
    text = (
        "# New\n\n    motet run list --home fed     # all\n\n```python\nimport motet\n```\n\n    make demo\n"
    )
    assert unlisted("docs/new.md", text) == [
        "docs/new.md:3: motet run list --home fed",
        "docs/new.md:6: python",
    ]


def test_the_lists_of_what_is_not_run_name_only_what_is_shown_and_why():
    shown = {command for page in pages() for command in shown_commands(page)}
    assert not set(NOT_RUN) - shown
    assert all(len(reason) > 10 for reason in NOT_RUN.values())
    assert set(WALKED) <= set(pages())
    assert set(PAGES) <= set(WALKED)
    assert len(WALKED) == len(set(WALKED))


def test_the_reader_of_pages_sees_what_a_person_sees():
    text = (
        "Text.\n\n    for ward in a b; do\n      motet client start --home $ward &\n    done\n"
        "    cat > recipe.yaml <<'END'\n    name: x\n    END\n    motet run list   # why # so\n\n"
        "```text\nnothing\n```\n\n- a list\n\n        motet --version\n\n```yaml\na: 1\n```\n"
    )
    first, second, third = blocks_of("docs/new.md", text)
    assert (first.line, first.prints) == (3, "nothing\n")
    assert [bare(c) for c in first.commands()] == [
        "for ward in a b; do\n  motet client start --home $ward &\ndone",
        "cat > recipe.yaml <<'END'\nname: x\nEND",
        "motet run list",
    ]
    assert second.commands() == ["motet --version"]
    assert (third.language, third.text) == ("yaml", "a: 1\n")


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("r-3f9a1c is queued\n", "r-0123456789ab is queued\n", True),
        ("4 of 4 rounds closed", "3 of 4 rounds closed", False),
        ("first\n...\nlast", "first\nb\nc\nlast\n", True),
        ("first\n...\nlast", "first\nb\nlost\n", False),
        ("took 3 s, error 2.2e-08", "took  41 s, error 7.5e-11", True),
        ("until 2026-11-22 21:10 UTC: ...", "until 2027-01-01 00:00 UTC: a b", True),
        ("a\nb", "a", False),
    ],
)
def test_output_is_compared_but_for_what_differs_from_run_to_run(shown, printed, same):
    assert is_as_shown(shown, printed) is same


# -- what commands are made of -------------------------------------------------------------------------------


@functools.cache
def commands_of_motet():
    return typer.main.get_command(build_app([]))


def problem_of(command):
    """What of a command does not exist: a subcommand or an option; empty where all does."""
    words = [w for w in shlex.split(command, comments=True) if not w.startswith("...")][1:]
    node = commands_of_motet()
    while words and getattr(node, "commands", None) is not None and not words[0].startswith("-"):
        if words[0] not in node.commands:
            return f"{command}: no {words[0]}"
        node = node.commands[words.pop(0)]
    known = {name for parameter in node.params for name in (*parameter.opts, *parameter.secondary_opts)}
    known |= {"--help", "--version"}
    unknown = [w for w in words if w.startswith("--") and w.split("=")[0].rstrip(",.;") not in known]
    return f"{command}: no {unknown}" if unknown else ""


@pytest.mark.parametrize("page", pages())
def test_every_subcommand_and_option_that_a_page_names_exists(page):
    shown = [c for c in shown_commands(page) if re.match(r"(\.venv/bin/)?motet ", c) and "\n" not in c]
    assert not [problem for c in [*shown, *inline_commands(page)] if (problem := problem_of(c))]


def test_a_subcommand_or_an_option_that_does_not_exist_is_found():
    assert problem_of("motet run list --home fed") == ""
    assert problem_of("motet run begin --home fed") == "motet run begin --home fed: no begin"
    assert problem_of("motet run list --hom fed") == "motet run list --hom fed: no ['--hom']"


def test_every_make_target_that_a_page_names_exists():
    text = "".join((ROOT / page).read_text() for page in [*pages(), "CONTRIBUTING.md"])
    named = set(re.findall(r"(?:^    |`)make ([a-z-]+)", text, re.MULTILINE))
    assert {"demo", "test", "help"} <= named
    assert named <= set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


# -- blocks that are no commands -----------------------------------------------------------------------------


def what_is_wrong_with(block, folder):
    """Why a block of a page can not be used; empty where it can."""
    if block.has_commands or block.language in {"python", "mermaid", "text"} or block.lines[0] in OTHER:
        return ""
    try:
        if block.language == "yaml":
            check_yaml(block.text)
        elif block.language == "jsonl":
            [json.loads(line) for line in block.lines]
        elif block.language == "toml":
            check_policy(block.text, folder)
        else:
            return f"{block.page}:{block.line}: neither commands nor a language: {block.lines[0]}"
    except Exception as error:  # noqa: BLE001 - whatever a reader of the sample would meet
        return f"{block.page}:{block.line}: {error}"
    return ""


def check_yaml(text):
    """A recipe, or keys of one, which a whole one is given; anything else is YAML that stands on its own."""
    from motet.recipe import parse_recipe
    from motet.recipe.model import Recipe

    told = yaml.safe_load(text)
    if set(told) <= set(Recipe.model_fields):
        whole = yaml.safe_load((ROOT / "examples/recipes/tiny.yaml").read_text())
        parse_recipe(yaml.safe_dump(whole | told))


def check_policy(text, folder):
    """A policy, with every clause known."""
    from client.policy import load_policy

    (folder / "policy.toml").write_text(text)
    load_policy(folder / "policy.toml")


@pytest.mark.parametrize("page", pages())
def test_every_block_of_a_page_is_commands_or_parses(page, tmp_path):
    assert not [wrong for block in blocks_of(page) if (wrong := what_is_wrong_with(block, tmp_path))]


def test_a_block_that_is_nothing_is_found(tmp_path):
    text = "\n    gobble --home fed\n\n```yaml\nname: x\nbase_model: {tiny: nobody}\n```\n"
    text += "\n```toml\nmax_epsilom = 3\n```\n"
    text += "\n```yaml\ntrackers: [ticker]\n```\n"
    found = [what_is_wrong_with(block, tmp_path) for block in blocks_of("docs/new.md", text)]
    assert "ticker" in found[3]
    assert "gobble" in found[0]
    assert "nobody" in found[1]
    assert "max_epsilom" in found[2]


def test_the_list_of_other_blocks_names_only_what_is_shown():
    assert set(OTHER) <= {block.lines[0] for page in pages() for block in blocks_of(page)}


# -- links ---------------------------------------------------------------------------------------------------


def anchors(path):
    """The anchors of a page, as GitHub makes them of its headings."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    found, made = re.findall(r"^#+ +(.*?) *$", text, re.MULTILINE), []
    for heading in found:
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        base = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        made.append(base + (f"-{made.count(base)}" if base in made else ""))
    return set(made) | set(re.findall(r'<a (?:id|name)="([^"]+)"', text))


def broken_links(page, text=None):
    """Links and images of a page that lead nowhere in the tree, anchors included."""
    text = (ROOT / page).read_text() if text is None else text
    text = re.sub(r"`[^`\n]*`", "", text)
    broken = []
    for target in re.findall(r"\]\(<?([^)>\s]+)>?(?: \"[^\"]*\")?\)", text) + re.findall(
        r'(?:src|href)="([^"]+)"', text
    ):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            broken.append(f"{page} -> {target}")
    return broken


def test_every_link_anchor_and_image_in_the_documents_resolves():
    every = [*pages(), "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "benchmarks/README.md"]
    every += [str(p.relative_to(ROOT)) for p in (ROOT / "docs/adr").glob("*.md")]
    assert not [link for page in every for link in broken_links(page)]


def test_a_link_an_anchor_or_an_image_that_leads_nowhere_is_found():
    text = "[a](gone.md) [b](api.md#gone) ![c](gone.png) [d](api.md#the-server) [e](https://motet.example/gone.md)"
    assert broken_links("docs/new.md", text) == [
        "docs/new.md -> gone.md",
        "docs/new.md -> api.md#gone",
        "docs/new.md -> gone.png",
    ]


def test_every_page_is_reached_from_the_readme():
    seen, left = set(), ["README.md"]
    while left:
        page = left.pop()
        if page in seen:
            continue
        seen.add(page)
        for target in re.findall(r"\]\(([^)#\s]+\.md)(?:#[^)]*)?\)", (ROOT / page).read_text()):
            path = ((ROOT / page).parent / target).resolve()
            if path.is_relative_to(ROOT) and path.exists():
                left.append(str(path.relative_to(ROOT)))
    assert not set(pages()) - seen
