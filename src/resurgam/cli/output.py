"""How the command line speaks: lines and tables for people, one JSON value for programs, progress on a terminal only.

With ``--json`` exactly one JSON value goes to standard output, also for an error: ``{"error": {...}}``. Everything that is
not an answer (progress, warnings, errors for people) goes to standard error. Colours are for terminals, and not where
NO_COLOR is set. rich is loaded for what only it can do: in a pipe it would be a tenth of a short command's time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from resurgam.errors import ResurgamError
from resurgam.model.codec import to_json, to_plain

_STYLES = {  # ECMA-48, SGR
    "bold": "1",
    "dim": "2",
    "red": "31",
    "yellow": "33",
    "bold red": "1;31",
    "bold cyan": "1;36",
}


def line(text: str = "", style: str | None = None) -> None:
    """One line of an answer."""
    sys.stdout.write(_styled(harmless(text), style, sys.stdout) + "\n")


def note(text: str) -> None:
    """One line beside the answer."""
    _beside(harmless(text), "dim")


def warning(text: str) -> None:
    """One line beside the answer that must not be overlooked."""
    _beside(harmless(text), "yellow")


def watched() -> bool:
    """Whether somebody at a terminal sees what is said beside the answer."""
    return sys.stderr.isatty()


_ENDING: list[Callable[[], None]] = []


def at_end(tell: Callable[[], None]) -> None:
    """Have ``tell`` called when the command has ended, well or not: what it says is about all of it."""
    _ENDING.append(tell)


def end() -> None:
    """The command has ended."""
    while _ENDING:
        _ENDING.pop(0)()


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[str] = ()) -> None:
    """Rows under headings, nothing cut off: in a pipe a table is as wide as it must be. ``right`` names columns of numbers."""
    from rich.cells import cell_len

    cells = [list(columns), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    for number, row in enumerate(cells):
        padded = [
            " " * (width - cell_len(cell)) + cell if name in right else cell + " " * (width - cell_len(cell))
            for name, cell, width in zip(columns, row, widths, strict=True)
        ]
        line("  ".join(padded).rstrip(), style=None if number else "bold")


def as_json(value: object) -> None:
    """The one JSON value of an answer."""
    sys.stdout.write(to_json(to_plain(value)).decode() + "\n")


def error(problem: ResurgamError, json: bool) -> None:
    """What was wrong, what was left untouched, what to do next (P12)."""
    if json:
        error_as_json(
            type(problem).__name__,
            problem.exit_code,
            problem.message,
            problem.untouched,
            problem.next_step,
            transient=problem.transient,
        )
    _beside(f"{_styled('error:', 'bold red', sys.stderr)} {harmless(problem.message)}")
    if problem.untouched:
        _beside(f"  {harmless(problem.untouched)}")
    if problem.next_step:
        _beside(f"  {_styled('next:', 'bold', sys.stderr)} {harmless(problem.next_step)}")


def error_as_json(
    kind: str, exit_code: int, message: str, untouched: str, next_step: str, *, transient: bool = False
) -> None:
    """The one JSON value in place of an answer."""
    told = {"kind": kind, "exit_code": exit_code, "transient": transient}
    as_json({"error": told | {"message": message, "untouched": untouched, "next_step": next_step}})


@contextmanager
def progress(
    what: str, total: int | None, json: bool, *, objects: bool = False
) -> Iterator[Callable[[int], None] | None]:
    """A bar over bytes, or ``objects``, on a terminal; None where nobody watches."""
    if json or not watched():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    amount: list[Any] = [MofNCompleteColumn()] if objects else [DownloadColumn(), TransferSpeedColumn()]
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), *amount]
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda size: bar.update(task, advance=size)


def harmless(text: str) -> str:
    """Text in which nothing commands a terminal: names of files and rows are anybody's. What is not printable is shown escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def on_one_line(words: str) -> str:
    """Words that somebody gave, as a terminal may print them ever after."""
    return " ".join("".join(c if c.isprintable() else " " for c in words).split())


def size(number: float) -> str:
    """Bytes for people, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(number) < 1000 or unit == "TB":
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError


def seconds(number: float) -> str:
    """A duration for people."""
    if number < 0:
        return f"-{seconds(-number)}"
    if number < 1:
        return f"{number * 1000:.0f} ms"
    if number < 120:
        return f"{number:.1f} s"
    if number < 7200:
        return f"{number / 60:.0f} min"
    return f"{number / 3600:.1f} h" if number < 172_800 else f"{number / 86_400:.1f} days"


def _beside(text: str, style: str | None = None) -> None:
    sys.stderr.write(_styled(text, style, sys.stderr) + "\n")


def _styled(text: str, style: str | None, stream: TextIO) -> str:
    if style is None or not stream.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"
