"""The components to be: each found part under a name, looked into as far as its form is known, without its library.

Of a store the **fields** are taken whose values may be keys of another one: the ids and the metadata of Chroma's collections, what
memories of an agent name, columns that sound like references. At most ``LOOKED`` rows of each are read; what rests on fewer than
all says so.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import NamedTuple

from resurgam.capture.discover_kinds import Kind
from resurgam.capture.discover_sqlite import Column, Database, look_into, opened, quoted
from resurgam.capture.discover_text import Names, shown
from resurgam.capture.survey import Found, Survey
from resurgam.drivers.chroma_store import DOCUMENT, Collection, read_collections
from resurgam.errors import ResurgamError

LOOKED = 100_000  # rows of a field that are read
_SIMPLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # a JSON member that can be named in a path without quotes
_REFERS = re.compile(r"(?<=.)_?(id|ids|key|ref)$", re.IGNORECASE)

Value = str | int


class Role(StrEnum):
    """What a field is to its store."""

    IDS = "ids"
    METADATA = "metadata"
    MEMORY = "memory"
    CITATIONS = "citations"
    COLUMN = "column"


class Field(NamedTuple):
    """Values that may be keys elsewhere, all text or all integers. ``query`` asks the component's driver for them, ``name`` is
    what they are called there; ``whole``: all of them were read."""

    component: str
    role: Role
    name: str
    what: str
    query: str
    values: frozenset[Value]
    whole: bool


@dataclass(slots=True)
class Part:
    """A component to be: what was found, under which name, and what is known of it."""

    name: str
    found: Found
    place: str
    database: Database | None = None
    collections: list[Collection] = field(default_factory=list)
    fields: list[Field] = field(default_factory=list)
    relations: list[tuple[str, str, str]] = field(default_factory=list)  # word, component, why
    notes: list[str] = field(default_factory=list)

    @property
    def kind(self) -> Kind:
        """What was found."""
        return self.found.kind


def parts_of(seen: Survey) -> list[Part]:
    """Every part that was found, named and looked into. What cannot be looked into is noted at the part."""
    names = Names()
    parts = [Part(names.give(_stem(found)), found, seen.place(found)) for found in seen.found]
    for part in parts:
        try:
            if part.kind in {Kind.DATABASE, Kind.AGENT}:
                part.database = look_into(part.place)
                part.fields = list(_fields_of_database(part, part.database))
            elif part.kind is Kind.VECTORS:
                part.fields = list(_fields_of_vectors(part))
        except (sqlite3.Error, OSError) as error:
            part.notes.append(f"could not be looked into: {shown(str(error))}")
        except ResurgamError as error:
            part.notes.append(f"could not be looked into: {shown(error.message)}")
    return parts


def _stem(found: Found) -> str:
    name = os.path.basename(found.path)
    if found.kind is Kind.ENVIRONMENT:
        return "environment"
    return os.path.splitext(name)[0] if found.kind in {Kind.DATABASE, Kind.AGENT} or "." in name else name


def _fields_of_database(part: Part, database: Database) -> Iterator[Field]:
    declared = {(key.table, column) for key in database.foreign_keys for column in key.columns}
    with opened(part.place) as db:
        if part.kind is Kind.AGENT:
            yield from _memories(part, db)
        for column in database.columns:
            known = column.is_key or (column.table, column.name) in declared
            if known or not _REFERS.search(column.name) or not (column.table + column.name).isprintable():
                continue
            there = f"{quoted(column.name)} FROM {quoted(column.table)}"
            rows = db.execute(f"SELECT {there} LIMIT {LOOKED + 1}")
            query = f"SELECT {there} WHERE {quoted(column.name)} IS NOT NULL"
            what = f"values of {column.table}.{column.name}"
            yield from _field(part, Role.COLUMN, column.name, what, query, (value for (value,) in rows))


def _memories(part: Part, db: sqlite3.Connection) -> Iterator[Field]:
    """What the members of memories hold: one value each, or a list of them."""
    if part.database is None or "store" not in part.database.tables:
        return
    single: dict[str, list[object]] = {}
    several: dict[str, list[object]] = {}
    for (text,) in db.execute("SELECT value FROM store LIMIT ?", (LOOKED + 1,)):
        for name, value in _members(text):
            if isinstance(value, list):
                several.setdefault(name, []).extend(value)
            else:
                single.setdefault(name, []).append(value)
    for name, values in several.items():
        query = f"SELECT c.value FROM store, json_each(CAST(store.value AS TEXT), '$.{name}') AS c"  # noqa: S608
        yield from _field(part, Role.CITATIONS, name, f"values that memories list under {name}", query, values)
    for name, values in single.items():
        value = f"json_extract(CAST(value AS TEXT), '$.{name}')"
        query = f"SELECT {value} FROM store WHERE {value} IS NOT NULL"  # noqa: S608 - a simple word
        yield from _field(part, Role.MEMORY, name, f"values that memories have under {name}", query, values)


def _members(text: object) -> list[tuple[str, object]]:
    try:
        found = json.loads(text) if isinstance(text, str | bytes) else None
    except (ValueError, RecursionError):
        return []
    return (
        [(name, value) for name, value in found.items() if _SIMPLE.fullmatch(name)] if isinstance(found, dict) else []
    )


def _fields_of_vectors(part: Part) -> Iterator[Field]:
    with opened(os.path.join(part.place, "chroma.sqlite3")) as db:
        part.collections = read_collections(db)
        for collection in part.collections:
            if not collection.table.isprintable():
                continue
            table, owner = quoted(collection.table), (collection.metadata_segment,)
            ids = db.execute("SELECT embedding_id FROM embeddings WHERE segment_id = ? LIMIT ?", (*owner, LOOKED + 1))
            what, query = f"ids of collection {collection.name}", f"SELECT id FROM {table}"  # noqa: S608
            yield from _field(part, Role.IDS, collection.name, what, query, (key for (key,) in ids))
            for name, values in _metadata(db, owner).items():
                value = f"json_extract(metadata, '$.{name}')"
                query = f"SELECT {value} FROM {table} WHERE {value} IS NOT NULL"  # noqa: S608 - a simple word
                what = f"values of {name} in the metadata of collection {collection.name}"
                yield from _field(part, Role.METADATA, name, what, query, values)


def _metadata(db: sqlite3.Connection, owner: tuple[str]) -> dict[str, list[object]]:
    found: dict[str, list[object]] = {}
    rows = db.execute(
        "SELECT m.key, coalesce(m.string_value, m.int_value, m.float_value) FROM embedding_metadata m "
        "JOIN (SELECT id FROM embeddings WHERE segment_id = ? LIMIT ?) e ON e.id = m.id WHERE m.key <> ?",
        (*owner, LOOKED + 1, DOCUMENT),
    )
    for name, value in rows:
        if _SIMPLE.fullmatch(name):
            found.setdefault(name, []).append(value)
    return found


def _field(part: Part, role: Role, name: str, what: str, query: str, values: Iterable[object]) -> Iterator[Field]:
    """The field, where its values can be keys: all text, or all integers."""
    read = list(islice(values, LOOKED + 1))
    there = [value for value in read[:LOOKED] if value is not None]
    for form in (str, int):
        if there and all(type(value) is form for value in there):
            kept = frozenset(value for value in there if isinstance(value, str | int))
            yield Field(part.name, role, name, what, query, kept, len(read) <= LOOKED)


def keys_of(database: Database) -> list[Column]:
    """The columns that alone are a table's primary key, of tables that can be named in a manifest."""
    return [column for column in database.columns if column.is_key and (column.table + column.name).isprintable()]
