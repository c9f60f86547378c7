"""What differs between two points: files by path and digest, rows by key. Reads only the pages that differ (P11)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from resurgam.model.point import PointBody
from resurgam.vault.pack import Kind
from resurgam.vault.pages import EMPTY, Child, Get, Root, differing
from resurgam.vault.repository import Repository
from resurgam.vault.snapshots import Entry, SnapshotRoot, read_entries
from resurgam.vault.tables import Table, decode_key, differing_keys


class Difference(NamedTuple):
    """One thing that differs: ``sign`` is ``+`` (only in the second), ``-`` (only in the first) or ``~`` (in both, changed).
    ``kind`` is ``file`` or ``row``; ``where`` the table of a row, empty for a file."""

    component: str
    kind: str
    where: str
    sign: str
    key: str


def compare_points(a: PointBody, b: PointBody, repository: Repository) -> Iterable[Difference]:
    """All differences, component by component. Raises Denied without an identity."""
    first, second = {s.component for s in a.snapshots}, {s.component for s in b.snapshots}
    for name in sorted(first | second):
        if name not in second:
            yield Difference(name, "component", "", "-", name)
        elif name not in first:
            yield Difference(name, "component", "", "+", name)
        else:
            left, right = repository.snapshot(a, name), repository.snapshot(b, name)
            yield from _components(name, left.root, right.root, right.get)


def _components(name: str, a: SnapshotRoot, b: SnapshotRoot, get: Get) -> Iterable[Difference]:
    views = {table.view_of for table in (*a.tables, *b.tables) if table.view_of is not None}
    for sign, path in _files(a.blobs, b.blobs, get):
        if path not in views:  # an image whose rows are known is told by its rows
            yield Difference(name, "file", "", sign, path.decode("utf-8", "backslashreplace"))
    tables_a, tables_b = ({table.name: table for table in root.tables} for root in (a, b))
    for table in sorted(tables_a.keys() | tables_b.keys()):
        yield from _tables(name, table, tables_a.get(table), tables_b.get(table), get)


def _files(a: Root, b: Root, get: Get) -> Iterable[tuple[str, bytes]]:
    left, right = (_entries(children, get) for children in differing(a, b, Kind.TREE, get))
    for path in sorted(left.keys() | right.keys()):
        if path not in right:
            yield "-", path
        elif path not in left:
            yield "+", path
        elif (left[path].digest, _kept(left[path])) != (right[path].digest, _kept(right[path])):
            yield "~", path


def _entries(children: Iterable[Child], get: Get) -> dict[bytes, Entry]:
    return {entry.path: entry for child in children for entry in read_entries(child, get)}


def _kept(entry: Entry) -> dict[str, object]:
    """What makes two files differ beside their bytes: anything but the time."""
    return {word: value for word, value in entry.meta.items() if word != "t"}


def _tables(component: str, name: str, a: Table | None, b: Table | None, get: Get) -> Iterable[Difference]:
    gone, new, changed = differing_keys(a.root if a else EMPTY, b.root if b else EMPTY, get)
    for sign, keys in (("-", gone), ("+", new), ("~", changed)):
        for key in keys:
            yield Difference(component, "row", name, sign, _shown(key))


def _shown(key: bytes) -> str:
    if not key:
        return "(a row of a table without key)"
    return ", ".join(repr(value) if isinstance(value, bytes) else str(value) for value in decode_key(key))
