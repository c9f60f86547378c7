"""Who plays in ``resurgam demo``: a system from ``examples``, and what befalls it. The story is one (``demo``); a cast is the
data in which systems differ.

The naive checks stand here too, since they are the same everywhere: what a backup job or a health page looks at, over the
files, databases and models that a cast names. Files there and none empty, no rows missing, ``quick_check`` passed, models
that load.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from itertools import takewhile
from typing import NamedTuple
from urllib.parse import quote

from safetensors import SafetensorError, safe_open

from resurgam.cli.demo_stage import Stage
from resurgam.model.system import Json

Shapes = dict[str, tuple[int, ...]]
DETAIL = "      "  # what a line of a diff begins with that says more of the one above


class Watched(NamedTuple):
    """What the naive checks look at, relative to the system's folder. Of ``parts`` that are folders the files in them count, not
    those further down, which Chroma and git name as they like. ``uncounted`` are tables that a store keeps for itself."""

    parts: tuple[str, ...]
    databases: tuple[str, ...]
    models: tuple[str, ...]
    uncounted: tuple[str, ...] = ()


class Check(NamedTuple):
    """One naive check, and what it found."""

    name: str
    ok: bool
    found: str


class Remembered(NamedTuple):
    """What the naive checks know of a healthy system: sizes by path, rows by table, shapes by tensor."""

    sizes: dict[str, int]
    rows: dict[str, int]
    shapes: Shapes


class Trace(NamedTuple):
    """A line that a diff of two points must have: the table or component that it stands under, how it begins, and how many of
    the details below it are shown."""

    heading: str
    line: str
    details: int = 4

    @property
    def component(self) -> str:
        """The component that it is about."""
        return self.heading.partition(" / ")[0]

    def fits(self, heading: str, line: str) -> bool:
        """Whether it is this one; "~ 1" is not "~ 10"."""
        return f"{heading} ".startswith(f"{self.heading} ") and bool(
            re.match(rf"{re.escape(self.line)}(?!\w)", line.strip())
        )


class Act(NamedTuple):
    """Something that happens to a copy of a system.

    ``strike`` does it in the folder that it is given, with the chunks that golden answers cite, and returns what it did.
    ``noticed`` names the naive checks that see it. ``level`` is the lowest at which the verdict catches it; where that is empty,
    nothing may be called different. With ``captured`` it was there before the capture: what is judged is a point of it, and where
    it is a damage the reference alone can tell. ``traces`` are in the diff of that point to the one before. The ``few`` are
    those that the impatient see.
    """

    name: str
    title: str
    strike: Callable[[Stage, str, Iterable[int]], str]
    noticed: tuple[str, ...] = ()
    level: str = ""
    captured: bool = False
    traces: tuple[Trace, ...] = ()
    few: bool = False


class Cast(NamedTuple):
    """A system that the demo can play on. ``name`` is that of its package, its launcher and its folder."""

    name: str
    title: str  # the heading of its building
    needs: tuple[str, ...]  # distributions that it needs beyond Resurgam's own
    build: str  # the word of its package that builds it
    built: Callable[[Json], tuple[str, ...]]  # what is told of what that said
    tickets: str  # the database with the table `tickets`
    question: str
    asked: tuple[str, ...]  # options that make asking leave no trace
    probe: str  # the one whose answers are compared before and after
    case: str  # its case that asks ``question``
    writers: tuple[str, ...]  # words that start customers' work
    ends_by: int  # the signal that ends it; 0: the end of its standard input
    written: Callable[[Json], str]  # what is told of what it wrote
    levels: dict[str, str]  # what each probe asks for: rows, retrieval, model, answers
    watched: Watched
    incidents: tuple[Act, ...]
    harmless: tuple[Act, ...]
    ending: Callable[[Stage, int, str], None] | None = None  # a last act, on the system that was recovered last


def moved(_stage: Stage, home: str, _cited: Iterable[int]) -> str:
    """What befalls every copy, and here nothing else: it is another folder."""
    return f"it is in {os.path.basename(home)} now, and nothing else has happened"


def remember(home: str, watched: Watched) -> Remembered:
    """What the naive checks compare with later. ``home`` is healthy, and nobody writes to it."""
    return Remembered(_sizes(home, watched), _rows(home, watched), _shapes(home, watched))


def naive_checks(home: str, watched: Watched, healthy: Remembered) -> tuple[Check, ...]:
    """Look at the system in ``home`` as a backup job or a health page would."""
    return (
        _files(home, watched, healthy),
        _count(home, watched, healthy),
        _quick_check(home, watched),
        _models(home, watched, healthy),
    )


def traced(lines: list[str], traces: tuple[Trace, ...]) -> dict[Trace, list[str]]:
    """Of the lines of a diff, those that are about each of ``traces``: what changed, and the first details."""
    found: dict[Trace, list[str]] = {}
    heading = ""
    for number, line in enumerate(lines):
        heading = line if line and not line.startswith(" ") else heading
        for trace in traces:
            if trace not in found and trace.fits(heading, line):
                details = lines[number + 1 : number + 1 + trace.details]
                below = takewhile(lambda detail: not detail or detail.startswith(DETAIL), details)
                found[trace] = [f"{heading}: {line.strip()}", *filter(None, below)]
    return found


def _files(home: str, watched: Watched, healthy: Remembered) -> Check:
    sizes = _sizes(home, watched)
    lost = [path for path, size in healthy.sizes.items() if sizes.get(path, 0) <= 0 < size]
    found = f"files missing or empty: {', '.join(lost)}" if lost else f"{len(sizes)} files, none empty"
    return Check("files", not lost, found)


def _count(home: str, watched: Watched, healthy: Remembered) -> Check:
    try:
        rows = _rows(home, watched)
    except sqlite3.Error as error:
        return Check("row counts", False, f"rows: {error}")
    fewer = [table for table, count in healthy.rows.items() if rows.get(table, 0) < count]
    found = f"fewer rows in {', '.join(fewer)}" if fewer else f"{sum(rows.values()):,} rows, in no table fewer"
    return Check("row counts", not fewer, found)


def _quick_check(home: str, watched: Watched) -> Check:
    told = set()
    try:
        for path in watched.databases:
            with closing(_opened(home, path)) as database:
                told |= {row[0] for row in database.execute("PRAGMA quick_check(3)")}
    except sqlite3.Error as error:
        told.add(str(error))
    return Check("quick_check", told == {"ok"}, f"quick_check: {'; '.join(sorted(told - {'ok'} or told))}")


def _models(home: str, watched: Watched, healthy: Remembered) -> Check:
    name = "models load"
    try:
        same = _shapes(home, watched) == healthy.shapes
    except (SafetensorError, OSError) as error:
        return Check(name, False, f"{name}: {error}")
    return Check(name, same, f"{name}, {'same' if same else 'other'} names and shapes")


def _sizes(home: str, watched: Watched) -> dict[str, int]:
    return {
        os.path.relpath(path, home): os.stat(path).st_size
        for part in watched.parts
        for path in _paths(os.path.join(home, part))
        if not path.endswith(("-wal", "-shm"))  # SQLite's own, there only while it is in use
    }


def _paths(part: str) -> list[str]:
    if not os.path.isdir(part):
        return [part] if os.path.isfile(part) else []
    return sorted(entry.path for entry in os.scandir(part) if entry.is_file())


def _rows(home: str, watched: Watched) -> dict[str, int]:
    rows: dict[str, int] = {}
    for path in watched.databases:
        with closing(_opened(home, path)) as database:
            tables = dict(database.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table'"))
            virtual = tuple(name for name, sql in tables.items() if (sql or "").startswith("CREATE VIRTUAL"))
            for table in sorted(tables):
                # an index's own tables, and a store's, which no one counts
                if not table.startswith(virtual) and table not in watched.uncounted:
                    (rows[f"{path}:{table}"],) = database.execute(f'SELECT count(*) FROM "{table}"').fetchone()  # noqa: S608 (our own table names)
    return rows


def _shapes(home: str, watched: Watched) -> Shapes:
    shapes: Shapes = {}
    for path in watched.models:
        with safe_open(os.path.join(home, path), framework="numpy") as file:
            shapes |= {f"{path}:{name}": tuple(file.get_tensor(name).shape) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    return shapes


def _opened(home: str, path: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(os.path.join(os.path.abspath(home), path))}?mode=rw", uri=True, timeout=30)
