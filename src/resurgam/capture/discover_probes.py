"""Probes of a proposed manifest: how many rows each table has, and a few rows that should stay as they are.

Both are necessary and never sufficient (P4), so the text says what is still unprobed, and shows how the system itself is
asked. A **golden** query names rows by their keys, spread over the table, so that what is added later does not move it. Tables of
people are left alone: a probe's answers are kept in every point.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import suppress

from resurgam.capture.discover_kinds import DRIVERS, Kind
from resurgam.capture.discover_links import Link
from resurgam.capture.discover_parts import Part, Value, keys_of
from resurgam.capture.discover_sqlite import Column, opened, quoted
from resurgam.capture.discover_text import Names, listed, scalar, shown
from resurgam.drivers.registry import answers
from resurgam.model.question import Question

MAX_COUNTS = 12  # probes of counts per database; more tables share them, since each probe costs a process
MAX_GOLDEN = 3  # golden queries per database
_PROSE = 60  # mean letters of a column that is worth a golden query
_LONGEST = 4000  # letters of a value that a golden answer holds
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}")  # a key that can stand in a manifest
_PERSONAL = re.compile(
    r"e?mail|phone|passw|secret|token|birth|address|customer|user|person|ssn|iban|salary", re.IGNORECASE
)


def probes(parts: list[Part], links: list[Link], questions: list[str]) -> list[str]:
    """The lines of ``probes``, with what is to be added by hand in comments."""
    names = Names()
    lines: list[str] = []
    probed = set()
    for part in parts:
        asked = [*_golden(part, links, names), *_counts(part, names)]
        lines += asked
        if asked:
            probed.add(part.name)
    unprobed = [part.name for part in parts if part.name not in probed]
    advice = ["", *_advice(parts, questions)]
    if unprobed:
        advice.append(
            f"# Until then nothing asks {', '.join(unprobed)}: a restore of it is judged inconclusive (unprobed)."
        )
    return [*advice, *(["probes:", *lines] if lines else [])]


def _advice(parts: list[Part], questions: list[str]) -> Iterator[str]:
    asked = questions[0] if questions else "golden.json"
    every = [part.name for part in parts if part.kind is not Kind.ENVIRONMENT] or [part.name for part in parts]
    yield "# Counts tell little: add a command that asks the system itself, so that a restore is judged by how it behaves."
    yield from _command("golden", "answer", every, asked, [])
    for part in parts:
        if part.kind is Kind.VECTORS:
            yield f"# And one that searches {part.name}, so that another ranking shows as such:"
            reads = list(
                dict.fromkeys([part.name, *(name for word, name, _ in part.relations if word == "derived_from")])
            )
            more = ["#     tolerance: {overlap: {k: 10, at_least: 0.9, by: 0}}"]
            yield from _command(f"search-{part.name}", "search", reads, asked, more)
    if len(questions) > 1:
        yield f"# More questions were seen: {', '.join(map(shown, questions[1:]))}."


def _command(name: str, verb: str, reads: list[str], asked: str, more: list[str]) -> list[str]:
    return [
        f"#   {name}:",
        "#     kind: command",
        f'#     run: [python, -m, my_system, {verb}, --data, "{{{reads[0]}}}"]',
        f"#     ask: {{file: {scalar(asked)}}}",
        f"#     reads: {listed(reads)}",
        "#     witness: true",
        *more,
    ]


def _counts(part: Part, names: Names) -> Iterator[str]:
    if part.database is None or Question.SQL not in answers(DRIVERS[part.kind]):
        return
    tables = [table for table in part.database.tables if table.isprintable()]
    for group in (tables[first::MAX_COUNTS] for first in range(min(MAX_COUNTS, len(tables)))):
        query = " UNION ALL ".join(map(_count, group))
        yield from _sql(names.give("count", part.name, group[0]), part, query)


def _count(table: str) -> str:
    name = table.replace("'", "''")
    return f"SELECT '{name}', count(*) FROM {quoted(table)}"  # noqa: S608 - both are quoted


def _golden(part: Part, links: list[Link], names: Names) -> Iterator[str]:
    """Queries for rows of tables that hold text to be found: first those that other stores name."""
    if part.kind is not Kind.DATABASE or part.database is None:
        return
    named = {link.column.table for link in links if link.there == part.name}
    keys = sorted(keys_of(part.database), key=lambda key: (key.table not in named, key.table))
    given = 0
    with suppress(sqlite3.Error, OSError), opened(part.place) as db:
        for key in keys:
            columns = part.database.columns_of(key.table)
            if given < MAX_GOLDEN and not any(map(_is_personal, columns)) and (query := _rows(db, key, columns)):
                given += 1
                lines = _sql(names.give("golden", part.name, key.table), part, query)
                yield f"  # Rows that are there now and should stay as they are; take others where {shown(key.table)} is edited."
                yield from lines


def _rows(db: sqlite3.Connection, key: Column, columns: list[Column]) -> str | None:
    """A query for a first, a middle and a last row with its texts; None where there is no text worth it."""
    texts = [column for column in columns if not column.is_key and column.name.isprintable() and _has_text(db, column)]
    count = db.execute(f"SELECT count(*) FROM {quoted(key.table)}").fetchone()[0]  # noqa: S608 - quoted
    if not texts or not count or max(_mean(db, column) for column in texts) < _PROSE:
        return None
    query = f"SELECT {quoted(key.name)} FROM {quoted(key.table)} ORDER BY 1 LIMIT 1 OFFSET ?"  # noqa: S608 - quoted
    rows = [db.execute(query, (place,)).fetchone() for place in sorted({0, count // 2, count - 1})]
    found: list[Value] = [row[0] for row in rows if row is not None]
    if not all(isinstance(value, int) or (isinstance(value, str) and _PLAIN.fullmatch(value)) for value in found):
        return None
    there = ", ".join(str(value) if isinstance(value, int) else f"'{value}'" for value in found)
    wanted = ", ".join([quoted(key.name), *(f"substr({quoted(column.name)}, 1, {_LONGEST})" for column in texts)])
    name, table = quoted(key.name), quoted(key.table)
    return f"SELECT {wanted} FROM {table} WHERE {name} IN ({there}) ORDER BY {name}"  # noqa: S608 - quoted, and plain keys


def _has_text(db: sqlite3.Connection, column: Column) -> bool:
    query = f"SELECT typeof({quoted(column.name)}) FROM {quoted(column.table)} LIMIT 100"  # noqa: S608 - quoted
    return {form for (form,) in db.execute(query)} == {"text"}


def _mean(db: sqlite3.Connection, column: Column) -> float:
    name, table = quoted(column.name), quoted(column.table)
    query = f"SELECT avg(length({name})) FROM (SELECT {name} FROM {table} LIMIT 1000)"  # noqa: S608 - quoted
    return float(db.execute(query).fetchone()[0] or 0)


def _is_personal(column: Column) -> bool:
    return bool(_PERSONAL.search(column.name) or _PERSONAL.search(column.table))


def _sql(name: str, part: Part, query: str) -> list[str]:
    return [
        f"  {name}:",
        "    kind: sql",
        f"    component: {scalar(part.name)}",
        f"    sql: {scalar(query)}",
        f"    reads: {listed([part.name])}",
        "    witness: true",
    ]
