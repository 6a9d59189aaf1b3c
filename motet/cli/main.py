"""The ``motet`` command: one sub-command a file, one place that turns errors into words and exit codes."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from typing import TYPE_CHECKING

from motet.cli.commands import COMMANDS

if TYPE_CHECKING:
    from rich.console import Console

    from motet.errors import MotetError

# Before any dependency is imported: no telemetry, no update checks, no look-ups on a model hub.
QUIET_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}

NAME = "motet"
HELP = """Fine-tune one transformer together, with no example leaving its owner.

Start with: motet demo
"""


def _load(target: str) -> object:
    module, name = target.split(":")
    return getattr(importlib.import_module(module), name)


def _unread() -> None:
    """In the place of a command that was not asked for."""


def build_app(argv: list[str]) -> object:
    """The typer application, with what ``argv`` needs: all commands where it is empty.

    Only the command that it names is imported; where it names none, names and summaries are enough.
    """
    import typer

    app = typer.Typer(
        help=HELP,
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        suggest_commands=False,  # click names the nearest one itself, and would do so twice
        rich_markup_mode="rich",
    )
    named = next((a for a in argv if not a.startswith("-")), None)
    for name, known in COMMANDS.items():
        if argv and name != named and named in COMMANDS:
            continue
        if argv and name != named:
            app.command(name, help=known.summary, rich_help_panel=known.panel)(_unread)
        elif known.is_group:
            app.add_typer(_load(known.target), name=name, rich_help_panel=known.panel)  # type: ignore[arg-type]
        else:
            app.command(name, rich_help_panel=known.panel)(_load(known.target))  # type: ignore[type-var]

    def version(value: bool) -> None:
        if value:
            from importlib.metadata import PackageNotFoundError
            from importlib.metadata import version as installed

            try:
                typer.echo(f"motet {installed('motet')}")
            except PackageNotFoundError:
                typer.echo("motet, run from a source tree that is not installed")
            raise typer.Exit

    @app.callback()
    def root(
        _version: bool = typer.Option(
            False, "--version", callback=version, is_eager=True, help="Print the version."
        ),
    ) -> None:
        """Fine-tune one transformer together, with no example leaving its owner."""

    return app


def main(argv: list[str] | None = None) -> None:
    """Entry point of the ``motet`` script; never prints a traceback for an error that a person can mend."""
    for key, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    arguments = sys.argv[1:] if argv is None else argv
    from rich.console import Console

    from motet.cli.screen import bear_every_letter
    from motet.errors import MotetError

    bear_every_letter()
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    # Opacus hooks inputs that need no gradient; that is what we want of a frozen base.
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    try:
        _call(arguments)
    except MotetError as error:
        _tell(console, error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        console.print("stopped")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:  # noqa: BLE001 - a fault of ours: told in words, kept whole in a file
        from motet.cli.faults import keep_traceback, of_the_machine

        known = of_the_machine(error)
        if known is not None:
            _tell(console, known)
            sys.exit(known.exit_code)
        words = f"Motet met a fault of its own: {type(error).__name__}: {error}"
        _tell(console, MotetError(words, hint=keep_traceback()))
        sys.exit(1)


def _tell(console: Console, error: MotetError) -> None:
    """What happened, and what to do next."""
    console.print("[bold red]error:[/] ", end="")
    console.print(_safe(error.message), markup=False)
    if error.hint:
        console.print("[bold]next:[/] ", end="")
        console.print(_safe(error.hint), markup=False)


def _safe(words: str) -> str:
    """Lines without control characters: an error may quote another machine's words, or a file's."""
    from motet.cli.screen import printable

    return "\n".join(printable(line) for line in words.split("\n"))


def _call(arguments: list[str]) -> None:
    if f"_{NAME.upper()}_COMPLETE" not in os.environ:
        build_app(arguments or ["--help"])(args=arguments, prog_name=NAME)  # type: ignore[operator]
        return
    import typer

    from motet.cli.completing import leave_paths_to_the_shell, words_so_far

    command = typer.main.get_command(build_app(words_so_far()))  # type: ignore[arg-type]
    leave_paths_to_the_shell(command)
    command(args=arguments, prog_name=NAME)


if __name__ == "__main__":
    main()
