"""Cheap questions for the tables of a database that no probe names: how many rows, and how many of each label.

The highest key is asked for only where it can but grow: an ``AUTOINCREMENT`` key (https://www.sqlite.org/autoinc.html). A
label is a column of text with few values; the rarest of them are told, since a part that is lost or flipped shows there first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from resurgam.capture.discover_sqlite import quoted
from resurgam.capture.discover_text import shown
from resurgam.capture.suggestion import Look, Note, Suggestion
from resurgam.model.system import Json

DRIVERS = ("sqlite",)  # kinds whose tables are the application's own
TABLES = 12  # each costs a process, around every cut
LABELS = 20  # different values of a column of labels
FEW = 5  # rows for each, at the least
RARE = 0.01
LOOKED = 200_000  # rows of a table that are looked at for labels
_KEY = re.compile(r"""["'`\[]?(\w+)["'`\]]?\s+INTEGER\b[^,]*\bAUTOINCREMENT\b""", re.IGNORECASE)


class Table(NamedTuple):
    """A table of the database, with the statement that made it."""

    name: str
    made: str
    rows: int


def tables(look: Look) -> Iterator[Suggestion | Note]:
    """Probes for the tables that no sql probe of this component names."""
    if look.component.driver not in DRIVERS:
        return
    found = sorted(_unprobed(look), key=lambda table: (-table.rows, table.name))
    for table in found[:TABLES]:
        yield _count(look, table)
        yield from _labels(look, table)
    if rest := [shown(table.name) for table in found[TABLES:]]:
        yield look.note(f"{len(rest)} smaller tables were left aside: {', '.join(rest[:20])}")


def _unprobed(look: Look) -> Iterator[Table]:
    made = dict(
        look.rows("SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")
    )
    virtual = [name for name, sql in made.items() if str(sql).upper().startswith("CREATE VIRTUAL")]
    for name, sql in made.items():
        behind = any(name == one or name.startswith(f"{one}_") for one in virtual)
        if not behind and not look.named(name) and name.isprintable():
            ((rows,),) = look.rows(f"SELECT count(*) FROM {quoted(name)}")  # noqa: S608 - quoted
            yield Table(name, str(sql), int(rows))


def _count(look: Look, table: Table) -> Suggestion:
    wanted, why = "count(*)", f"{table.rows} rows of {table.name}"
    if key := _KEY.search(table.made):
        wanted += f", max({quoted(key[1])})"
        why += ", and its highest key, which can but grow"
    return look.suggestion(f"count-{table.name}", why, _sql(look, f"SELECT {wanted} FROM {quoted(table.name)}"))  # noqa: S608 - quoted


def _labels(look: Look, table: Table) -> Iterator[Suggestion]:
    """The columns of ``table`` with few different texts; at most two."""
    given = 0
    for column in look.columns(f"SELECT * FROM {quoted(table.name)} LIMIT 0"):  # noqa: S608 - quoted
        if given == 2 or not table.rows or not column.isprintable():
            return
        name = quoted(column)
        some = f"(SELECT {name} FROM {quoted(table.name)} LIMIT {LOOKED})"  # noqa: S608 - quoted
        ((kinds, texts, rows),) = look.rows(
            f"SELECT count(DISTINCT {name}), sum(typeof({name}) = 'text'), count(*) FROM {some}"  # noqa: S608 - quoted
        )
        if texts == rows and 2 <= kinds <= min(LABELS, rows // FEW):
            given += 1
            yield _label(look, table, column)


def _label(look: Look, table: Table, column: str) -> Suggestion:
    statement = f"SELECT {quoted(column)}, count(*) FROM {quoted(table.name)} GROUP BY 1 ORDER BY 1"  # noqa: S608 - quoted
    found = [(str(label), int(count)) for label, count in look.rows(statement)]
    rare = sorted((count, label) for label, count in found if count < RARE * table.rows)
    why = f"how many of each of {len(found)} labels {table.name}.{column} has"
    if rare:
        why += "; rare: " + ", ".join(f"{label[:40]!r} ({count})" for count, label in rare[:3])
    return look.suggestion(f"labels-{table.name}-{column}", why, _sql(look, statement))


def _sql(look: Look, statement: str) -> dict[str, Json]:
    return {"kind": "sql", "component": look.component.name, "sql": statement, "witness": True}
