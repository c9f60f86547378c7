"""What differs between two points: files by path and digest, rows by key. Reads only the pages that differ (P11).

Two readings of the same walk: :func:`compare_points` is for whoever wants names; :class:`Compared` hands out what the names stand
for (entries of files, digests of rows), for whoever goes on to fetch the values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from resurgam.model.point import PointBody
from resurgam.vault.pack import Kind
from resurgam.vault.pages import EMPTY, Child, Get, Root, differing
from resurgam.vault.reader import SnapshotReader
from resurgam.vault.repository import Repository
from resurgam.vault.snapshots import Entry, read_entries
from resurgam.vault.tables import Pair, Table, decode_key, differing_pairs, keys_of


class Difference(NamedTuple):
    """One thing that differs: ``sign`` is ``+`` (only in the second), ``-`` (only in the first) or ``~`` (in both, changed).
    ``kind`` is ``file`` or ``row``; ``where`` the table of a row, empty for a file."""

    component: str
    kind: str
    where: str
    sign: str
    key: str


class FileChange(NamedTuple):
    """A file that differs; None where a side has none."""

    path: bytes
    before: Entry | None
    after: Entry | None

    @property
    def sign(self) -> str:
        """See ``Difference``."""
        return "-" if self.after is None else "+" if self.before is None else "~"


class RowChange(NamedTuple):
    """A row that differs, as each side's key and digest; None where a side has none."""

    sign: str
    key: bytes
    before: Pair | None
    after: Pair | None

    @property
    def pair(self) -> Pair:
        """That of the second point, where it has the row."""
        pair = self.after or self.before
        assert pair is not None, "a row that differs stands on one side at least"
        return pair


class TableChange(NamedTuple):
    """A table that differs: its description (of the second point where both have it), and the rows that one side alone has."""

    table: Table
    removed: Counter[Pair]
    added: Counter[Pair]

    def rows(self) -> Iterator[RowChange]:
        """Removed rows, added ones, changed ones; each by key."""
        gone, new, changed = keys_of(self.removed, self.added)
        before, after = _by_key(self.removed), _by_key(self.added)
        for key in gone:
            yield RowChange("-", key, before[key].pop(), None)
        for key in new:
            yield RowChange("+", key, None, after[key].pop())
        for key in changed:
            yield RowChange("~", key, before[key].pop(), after[key].pop())


class Compared:
    """One component in two points. Raises Denied without an identity."""

    def __init__(self, name: str, before: SnapshotReader, after: SnapshotReader) -> None:
        self.name, self.before, self.after = name, before, after
        tables = (*before.root.tables, *after.root.tables)
        self._images = {table.view_of for table in tables if table.view_of is not None}

    def files(self) -> Iterator[FileChange]:
        """Files that differ, by path. An image whose rows are known is told by its rows."""
        return (change for change in self._all_files() if change.path not in self._images)

    def images(self) -> Iterator[FileChange]:
        """The other ones: files from which tables are decoded."""
        return (change for change in self._all_files() if change.path in self._images)

    def tables(self) -> Iterator[TableChange]:
        """Tables of which rows differ, by name."""
        before, after = ({table.name: table for table in side.root.tables} for side in (self.before, self.after))
        for name in sorted(before.keys() | after.keys()):
            left, right = (side[name].root if name in side else EMPTY for side in (before, after))
            removed, added = differing_pairs(left, right, self.after.get)
            if removed or added:
                yield TableChange(after.get(name) or before[name], removed, added)

    def _all_files(self) -> Iterator[FileChange]:
        return _files(self.before.root.blobs, self.after.root.blobs, self.after.get)


def compare_points(a: PointBody, b: PointBody, repository: Repository) -> Iterable[Difference]:
    """All differences, component by component. Raises Denied without an identity."""
    for name, sign in components_of(a, b):
        if sign:
            yield Difference(name, "component", "", sign, name)
            continue
        compared = Compared(name, repository.snapshot(a, name), repository.snapshot(b, name))
        for file in compared.files():
            yield Difference(name, "file", "", file.sign, shown_path(file.path))
        for table in compared.tables():
            for row in table.rows():
                yield Difference(name, "row", table.table.name, row.sign, shown_key(row.key))


def components_of(a: PointBody, b: PointBody) -> Iterator[tuple[str, str]]:
    """Names of the components of both points, sorted, each with the sign of one that only one point has, else empty."""
    first, second = {s.component for s in a.snapshots}, {s.component for s in b.snapshots}
    for name in sorted(first | second):
        yield name, "-" if name not in second else "+" if name not in first else ""


def shown_path(path: bytes) -> str:
    """A path for people."""
    return path.decode("utf-8", "backslashreplace")


def shown_key(key: bytes) -> str:
    """A row's key for people."""
    if not key:
        return "(a row of a table without key)"
    return ", ".join(repr(value) if isinstance(value, bytes) else str(value) for value in decode_key(key))


def _files(a: Root, b: Root, get: Get) -> Iterator[FileChange]:
    left, right = (_entries(children, get) for children in differing(a, b, Kind.TREE, get))
    for path in sorted(left.keys() | right.keys()):
        before, after = left.get(path), right.get(path)
        if before is None or after is None or (before.digest, _kept(before)) != (after.digest, _kept(after)):
            yield FileChange(path, before, after)


def _entries(children: Iterable[Child], get: Get) -> dict[bytes, Entry]:
    return {entry.path: entry for child in children for entry in read_entries(child, get)}


def _kept(entry: Entry) -> dict[str, object]:
    """What makes two files differ beside their bytes: anything but the time."""
    return {word: value for word, value in entry.meta.items() if word != "t"}


def _by_key(pairs: Counter[Pair]) -> dict[bytes, list[Pair]]:
    found: dict[bytes, list[Pair]] = {}
    for pair in sorted(pairs.elements()):
        found.setdefault(pair[0], []).append(pair)
    return found
