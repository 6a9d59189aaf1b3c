"""What a page of the documents shows: blocks of code, the commands in them, and what these are said to print.

A block is indented by four spaces or more, or fenced. A block of commands begins with one (``COMMANDS``). A fenced
block of ``text`` after a block of commands is what they print; see ``is_as_shown``.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {
    "motet",
    ".venv/bin/motet",
    "make",
    "python",
    "pip",
    "git",
    "docker",
    "openssl",
    "curl",
    "kill",
    "for",
}
COMMANDS |= {"cd", "cat", "cp", "mv", "rm", "ls", "export", ".", "sha256sum", "mkdir", "echo", "sed", "chmod"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Lines of code on a page, without their indentation.

    Attributes:
      page: below the repository.
      line: of its first line, from 1.
      language: of a fence; empty where there is none.
      lines: whole.
      prints: what is shown as its output; None where nothing is.
    """

    page: str
    line: int
    language: str
    lines: tuple[str, ...]
    prints: str | None = None

    @property
    def text(self):
        return "\n".join(self.lines) + "\n"

    @property
    def has_commands(self):
        words = self.lines[0].split()
        return self.language in {"", "sh", "bash"} and (
            words[0] in COMMANDS or bool(re.match(r"[A-Z_]+=", words[0]))
        )

    def commands(self):
        """Its commands, one text each: a line, or as many as a loop, a here-document or a backslash take."""
        found, pending, end = [], [], None
        for line in self.lines:
            if not pending and not line.strip():
                continue
            pending.append(line)
            if end is None and (opened := re.search(r"<<-?\s*['\"]?(\w+)['\"]?", line)):
                end = opened[1]
                continue
            if end is not None and line.strip() != end:
                continue
            end = None
            words = re.findall(r"(?:^|;)\s*(for|while|done)\b", "\n".join(pending), re.MULTILINE)
            is_open = sum(-1 if word == "done" else 1 for word in words) > 0
            if not line.strip() or is_open or line.endswith("\\"):
                continue
            found.append("\n".join(pending))
            pending = []
        assert not any(line.strip() for line in pending), f"{self.page}:{self.line}: {pending} has no end"
        return found


def pages():
    """The README and docs/*.md, below the repository."""
    return ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))]


def blocks_of(page, text=None):
    """The page's blocks of code, in order."""
    lines = ((ROOT / page).read_text() if text is None else text).split("\n")
    found, at = [], 0
    while at < len(lines):
        start = at
        if fence := re.match(r"( *)```([\w-]*)\s*$", lines[at]):
            at += 1
            while lines[at].strip() != "```":
                at += 1
            body, number, language = lines[start + 1 : at], start + 2, fence[2]
            at += 1
        elif lines[at].startswith("    ") and lines[at].strip():
            while at < len(lines) and (lines[at].startswith("    ") or not lines[at].strip()):
                at += 1
            body, number, language = lines[start:at], start + 1, ""
            while not body[-1].strip():
                body.pop()
        else:
            at += 1
            continue
        margin = min(len(x) - len(x.lstrip()) for x in body if x.strip())
        block = Block(page=page, line=number, language=language, lines=tuple(x[margin:] for x in body))
        if language == "text" and found and found[-1].has_commands and found[-1].prints is None:
            last = found.pop()
            block = Block(
                page=page, line=last.line, language=last.language, lines=last.lines, prints=block.text
            )
        found.append(block)
    return found


def bare(command):
    """A command without its comment and with single spaces: the same command on two pages is equal here."""
    if "\n" in command:
        return command
    lexer = shlex.shlex(command, posix=False, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, "#"
    return " ".join(lexer)


def shown_commands(page, text=None):
    """``bare`` commands of a page's blocks, in order."""
    return [bare(c) for block in blocks_of(page, text) if block.has_commands for c in block.commands()]


def inline_commands(page):
    """``motet ...`` in back quotes in the page's prose, and in its tables."""
    prose = re.sub(r"^ *```.*?^ *```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(found.split()) for found in re.findall(r"`(motet [^`]+)`", prose)]


def _settled(line):
    """A line without what differs from run to run or between machines: ids, hashes, times, decimals, ports."""
    line = re.sub(r"\br-[0-9a-f]{6,16}\b", "r-ID", line)
    line = re.sub(r"\b[0-9a-f]{8,64}\b", "HEX", line)
    line = re.sub(r"\b20\d\d-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?(?!\d)", "TIME", line)
    line = re.sub(r"\b\d+(\.\d+)? (s|ms|MB|kB)\b", r"# \2", line)
    line = re.sub(r"-?\b\d+\.\d+(e[+-]?\d+)?\b", "#.#", line)
    return " ".join(line.split())


def is_as_shown(shown, printed):
    """Is what was printed what the page shows?

    Line by line, with ids, hashes, times and decimal numbers left out; ``...`` stands for anything within a line, and
    on a line of its own for any lines.
    """
    pattern = []
    for line in shown.strip().split("\n"):
        settled = _settled(line)
        if settled == "...":
            pattern.append(r"(?:.*\n)*")
        else:
            pattern.append(re.escape(settled).replace(re.escape("..."), ".*") + r"\n")
    lines = [_settled(line) for line in printed.strip().split("\n")]
    return re.fullmatch("".join(pattern), "".join(line + "\n" for line in lines)) is not None
