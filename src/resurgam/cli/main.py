"""The command line: one function per verb, no logic of its own. Exit codes are in ``resurgam.errors``.

Loading all verbs takes longer than a capture of a system that did not change. So the verb that is called is loaded, and the
rest only where all are to be shown.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from typing import Annotated, Any

import typer

from resurgam import __version__
from resurgam.cli import output
from resurgam.errors import EXIT_INTERRUPTED, ResurgamError
from resurgam.private import keep_memory

EPILOG = (
    "Exit codes: 0 done; 2 wrong words; 3 wrong manifest; 4 not found, 5 ambiguous; 6 a key or permission is missing; "
    "7 no answer; 8 damaged bytes; 9 newer format; 10 busy; 11 a limit was reached; 12 no space; 13 target refused; "
    "14 a library is missing; 16 asleep in a cold class; 20 different or not proven; 21 inconclusive; "
    "22 sealed with findings; 23 not fresh; 130 interrupted. See docs/cli.md."
)

# Each verb, or group of verbs, in the order of the help: the module where it is, and its name there.
_VERBS = {
    "init": ("preflight", "init"),
    "preflight": ("preflight", "preflight"),
    "drivers": ("drivers", "drivers"),
    "probes": ("probes", "app"),
    "capture": ("capture", "capture"),
    "coverage": ("environment", "coverage"),
    "points": ("points", "points"),
    "show": ("points", "show"),
    "diff": ("diff", "diff"),
    "restore": ("restore", "restore"),
    "open": ("look", "open_"),
    "export": ("look", "export"),
    "rebuild-env": ("environment", "rebuild_env"),
    "verify": ("verify", "verify"),
    "report": ("report", "report"),
    "promote": ("restore", "promote"),
    "recover": ("recover", "recover"),
    "status": ("status", "status"),
    "replicate": ("replicate", "app"),
    "detach": ("look", "detach"),
    "demo": ("demo", "demo"),
    "vault": ("vault", "app"),
    "audit": ("audit", "app"),
    "reference": ("restore", "reference_app"),
    "retention": ("retention", "app"),
    "hold": ("holds", "app"),
    "quarantine": ("holds", "quarantine"),
}

# What typer raises for wrong words. Found through its public names: newer releases bring their own copy of click.
_WRONG_WORDS: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


_SELDOM = 20_000  # new objects between two looks for garbage: of what a capture makes, most stays until it ends
_HELP = "See `--help` of this command."
_KEPT = "what was sealed before stands, the rest will be reused or removed"
_THEN = "`resurgam status` tells what stands half way, and what ends it; else run it again."


def _show_version(wanted: bool) -> None:
    if wanted:
        output.line(f"resurgam {__version__}")
        raise typer.Exit


def common(
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
    passphrase_file: Annotated[
        str | None,
        typer.Option(
            "--passphrase-file",
            help="A file with the passphrase of key files here; RESURGAM_PASSPHRASE_FILE names it too.",
        ),
    ] = None,
) -> None:
    """Back up an AI system as a system, bring it back, and prove that it behaves the same."""
    if passphrase_file is not None:
        os.environ["RESURGAM_PASSPHRASE_FILE"] = os.path.abspath(passphrase_file)


def command_line(words: Sequence[str] = ()) -> typer.Typer:
    """The verb that ``words`` call; all verbs where they call none."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        epilog=EPILOG,
        help="Back up an AI system as a system, bring it back, and prove that it behaves the same.",
    )
    app.callback()(common)
    for verb in _called(words):
        module, name = _VERBS[verb]
        found = getattr(import_module(f"resurgam.cli.{module}"), name)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=verb)
        else:
            app.command(verb)(found)
    return app


def _called(words: Sequence[str]) -> Collection[str]:
    """The verb after the options that all verbs share; none where only the version is asked for, else all of them."""
    rest = iter(words)
    for word in rest:
        if word == "--version":
            return ()
        if word == "--passphrase-file":
            next(rest, None)
        elif not word.startswith("--passphrase-file="):
            return (word,) if word in _VERBS else _VERBS
    return _VERBS


@contextmanager
def _loading() -> Iterator[None]:
    """What loading makes, stays: looking through it for garbage takes a tenth of the time of a start. And numpy's library of
    linear algebra, which nothing here uses, starts threads that would spin for a while, but for this variable."""
    ours = "OPENBLAS_NUM_THREADS" not in os.environ
    if ours:
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(_SELDOM)
        gc.enable()
        if ours:
            del os.environ["OPENBLAS_NUM_THREADS"]  # the commands that a manifest names are none of its business


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code. Nothing escapes as a traceback but a defect of ours."""
    words = sys.argv[1:] if arguments is None else arguments
    if arguments is None:
        keep_memory()  # before any key is loaded
    try:
        return _run(words, arguments is None)
    finally:
        output.end()


def _run(words: Sequence[str], once: bool) -> int:
    """``once``: this process does nothing else."""
    json = "--json" in words
    try:
        with _loading() if once else nullcontext():
            app = command_line(words)
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
            output.error_as_json("Interrupted", code, "It was interrupted.", _KEPT, _THEN, transient=True)
        output.note(f"interrupted: {_KEPT}\n  next: {_THEN}")
    return code if isinstance(code, int) else 0
