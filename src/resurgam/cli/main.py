"""The command line: one function per verb, no logic of its own. Exit codes are in ``resurgam.errors``."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from resurgam import __version__
from resurgam.cli import capture, demo, output, points, restore, status, vault
from resurgam.errors import EXIT_INTERRUPTED, ResurgamError

EPILOG = (
    "Exit codes: 0 done; 2 wrong words; 3 wrong manifest; 4 not found, 5 ambiguous; 6 a key or permission is missing; "
    "7 no answer; 8 damaged bytes; 9 newer format; 10 busy; 11 a limit was reached; 12 no space; 13 target refused; "
    "14 a library is missing; 20 different or not proven; 21 inconclusive; 22 sealed with findings; 23 not fresh; "
    "130 interrupted. See docs/cli.md."
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog=EPILOG,
    help="Back up an AI system as a system, bring it back, and prove that it behaves the same.",
)


# What typer raises for wrong words. Found through its public names: newer releases bring their own copy of click.
_WRONG_WORDS: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


_HELP = "See `--help` of this command."
_KEPT = "what was sealed before stands, the rest will be reused or removed"


def _show_version(wanted: bool) -> None:
    if wanted:
        output.line(f"resurgam {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Back up an AI system as a system, bring it back, and prove that it behaves the same."""


for verb in (
    capture.init,
    capture.preflight,
    capture.capture,
    points.points,
    points.show,
    points.diff,
    restore.restore,
    restore.verify,
    restore.promote,
    status.status,
    demo.demo,
):
    app.command()(verb)
app.add_typer(vault.app, name="vault")
app.add_typer(restore.reference_app, name="reference")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code. Nothing escapes as a traceback but a defect of ours."""
    words = sys.argv[1:] if arguments is None else arguments
    json = "--json" in words
    try:
        code = app(words, standalone_mode=False)
    except _WRONG_WORDS as wrong:
        if json:
            output.error_as_json("UsageError", wrong.exit_code, wrong.format_message(), "Nothing was done.", _HELP)
        wrong.show()
        return int(wrong.exit_code)
    except ResurgamError as problem:
        output.error(problem, json)
        return problem.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    if code == EXIT_INTERRUPTED:  # newer releases of typer answer Ctrl-C with this code themselves
        if json:
            output.error_as_json("Interrupted", code, "It was interrupted.", _KEPT, "Run it again.", transient=True)
        output.err.print(f"interrupted: {_KEPT}")
    return code if isinstance(code, int) else 0
