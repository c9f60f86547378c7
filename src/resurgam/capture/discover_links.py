"""How the stores belong together, inferred from their data and checked on it before it is proposed.

Numbers are cheap evidence: the ids 1 to 50 stand among the keys of any table that has 50 rows. So a field is linked to a key
only where every value of it is such a key *and* something else speaks for it:

    the names        ``chunk_id`` and the key of ``chunks``
    the whole set    the ids of a collection are exactly the keys of a table
    the text         three or more texts that are no numbers
    what is cited    a list in memories, and the very key that a collection is linked to

Of several that fit, the nearest in name and size is taken. An embedder is linked to the collection whose metadata holds the digest
of its file, or its name.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from resurgam.capture.discover_kinds import Kind
from resurgam.capture.discover_parts import Field, Part, Role, Value, keys_of
from resurgam.capture.discover_sqlite import Column, opened, quoted

LARGEST = 4 << 30  # bytes of a model file whose digest is taken
_SAMPLE = 50  # values that are tried first
_FEW = 3
_WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SUFFIX = re.compile(r"_?(ids?|keys?|refs?)$")


class Link(NamedTuple):
    """Every value of ``field`` is a key in ``column`` of the component ``there``, as text where one side has only text. ``same``:
    and every key is a value of it."""

    field: Field
    there: str
    column: Column
    as_text: bool
    same: bool

    @property
    def exists_in(self) -> str:
        """The query for the keys."""
        name = quoted(self.column.name)
        return f"SELECT {f'CAST({name} AS TEXT)' if self.as_text else name} FROM {quoted(self.column.table)}"  # noqa: S608


class Builder(NamedTuple):
    """The model that a collection's metadata names under ``key``. ``path`` is its file within the component where the digest is
    what is named, else empty."""

    vectors: str
    collection: str
    key: str
    model: str
    path: str


class _Keys(NamedTuple):
    part: Part
    column: Column
    rows: int
    is_integer: bool
    db: sqlite3.Connection


def links_between(parts: list[Part]) -> list[Link]:
    """The links that hold now, at most one for each field. Databases that cannot be read have none."""
    links: list[Link] = []
    order = [Role.IDS, Role.METADATA, Role.COLUMN, Role.CITATIONS, Role.MEMORY]  # what is cited is known by then
    fields = sorted((f for part in parts for f in part.fields), key=lambda f: order.index(f.role))
    databases = [part for part in parts if part.kind is Kind.DATABASE and part.database is not None]
    found: dict[Field, list[tuple[tuple[bool, int], Link]]] = {}
    for part in databases:  # one open at a time
        with suppress(sqlite3.Error, OSError), opened(part.place) as db:
            keys = list(_keys(part, db))
            for field in fields:
                found.setdefault(field, []).extend(_fitting(field, keys))
    for field in fields:
        cited = {(link.there, link.column) for link in links if link.field.role in {Role.IDS, Role.METADATA}}
        fitting = [(rank, link) for rank, link in found.get(field, []) if _convinces(field, link, rank[0], cited)]
        if fitting:
            links.append(min(fitting, key=lambda each: each[0])[1])
    return links


def builders(parts: list[Part]) -> list[Builder]:
    """The models that built collections, as the collections' metadata say."""
    models = [part for part in parts if part.kind is Kind.MODEL]
    found = []
    for part in parts:
        for collection in part.collections:
            said = {
                key: value
                for key, value in collection.metadata.items()
                if isinstance(value, str) and key.isidentifier()
            }
            for key, value in said.items():
                for model in models:
                    path = _file_with(model, value) if _DIGEST.fullmatch(value) else ""
                    if path or (len(value) > _FEW and value in _names(model)):
                        found.append(Builder(part.name, collection.name, key, model.name, path or ""))
    return found


def _keys(part: Part, db: sqlite3.Connection) -> Iterator[_Keys]:
    assert part.database is not None
    for column in keys_of(part.database):
        name, table = quoted(column.name), quoted(column.table)
        count, form = db.execute(f"SELECT count(*), min(typeof({name})) FROM {table}").fetchone()  # noqa: S608
        if count:
            yield _Keys(part, column, count, form == "integer", db)


def _fitting(field: Field, keys: Iterable[_Keys]) -> Iterator[tuple[tuple[bool, int], Link]]:
    """The keys that hold every value of ``field``, each with how far off it is in name and size."""
    for key in keys:
        is_own = key.part.name == field.component and field.name == key.column.name
        as_text = key.is_integer and isinstance(next(iter(field.values)), str)
        if is_own or not _all_there(field, key, as_text):
            continue
        same = field.whole and len(field.values) == key.rows
        rank = (not _named_alike(field, key.column), abs(key.rows - len(field.values)))
        yield rank, Link(field, key.part.name, key.column, as_text, same)


def _all_there(field: Field, key: _Keys, as_text: bool) -> bool:
    values = sorted(field.values, key=str)
    if isinstance(values[0], int) != key.is_integer and not as_text:
        return False
    if as_text and not all(_WHOLE_NUMBER.fullmatch(str(value)) for value in values):
        return False
    query = f"SELECT 1 FROM {quoted(key.column.table)} WHERE {quoted(key.column.name)} = ?"  # noqa: S608
    asked = [int(value) if as_text else value for value in values]
    sample = asked[:: max(1, len(asked) // _SAMPLE)]
    return all(_is_there(key.db, query, value) for value in (*sample, *asked))


def _is_there(db: sqlite3.Connection, query: str, value: Value) -> bool:
    try:
        return db.execute(query, (value,)).fetchone() is not None
    except (OverflowError, UnicodeEncodeError):  # no value that this database could hold
        return False


def _convinces(field: Field, link: Link, stranger: bool, cited: set[tuple[str, Column]]) -> bool:
    """Whether more than the mere inclusion speaks for it; see the module's docstring."""
    if not stranger:
        return True
    if field.role is Role.COLUMN or len(field.values) < _FEW:
        return False
    if field.role is Role.CITATIONS and (link.there, link.column) in cited:
        return True
    numbers = all(isinstance(value, int) or _WHOLE_NUMBER.fullmatch(value) for value in field.values)
    return field.role in {Role.IDS, Role.METADATA} and (link.same if numbers else True)


def _named_alike(field: Field, column: Column) -> bool:
    """``chunk_id``, ``chunk`` and ``chunks`` go with the key of ``chunks``; so does a column of one unusual name in both."""
    said = _SUFFIX.sub("", field.name.lower())
    table, key = column.table.lower(), column.name.lower()
    if not said:
        return False
    return _singular(said) == _singular(table) or (key == field.name.lower() and bool(_SUFFIX.sub("", key)))


def _singular(word: str) -> str:
    return word[:-3] + "y" if word.endswith("ies") else word.removesuffix("s")


def _file_with(model: Part, digest: str) -> str | None:
    """The path, within the component, of the file with this SHA-256; the driver ``models`` calls a single file ``.``."""
    for where, path in _files(model):
        with suppress(OSError), open(where, "rb") as file:
            if os.fstat(file.fileno()).st_size <= LARGEST and hashlib.file_digest(file, "sha256").hexdigest() == digest:
                return path
    return None


def _files(model: Part) -> Iterator[tuple[str, str]]:
    if os.path.isfile(model.place):
        yield model.place, "."
    for folder, _, names in os.walk(model.place):
        for name in sorted(names):
            where = os.path.join(folder, name)
            if os.path.isfile(where) and not os.path.islink(where) and where.isprintable():
                yield where, os.path.relpath(where, model.place)


def _names(model: Part) -> set[str]:
    """What the model may be called: its folder, its files, with and without their suffixes."""
    files = {os.path.basename(where) for where, _ in _files(model)} | {os.path.basename(model.place)}
    return files | {os.path.splitext(name)[0] for name in files}
