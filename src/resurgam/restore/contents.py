"""What differs between two points, with what it said before and what it says now.

    files      from the vault, only those that differ; text as a unified diff, all else by size
    rows       from private copies of the components concerned (``values``), column by column (``differences``)
    tensors    a driver that ``Tells`` reads both versions of the file from the vault; nothing is restored

Names cost a few pages (P11). Values cost the components concerned: none is restored that did not change, no side that nothing is
asked of, and none of more than ``AT_MOST`` bytes unless it was named. ``Contents.cost`` says what was read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from resurgam.drivers.base import Drivers, Tells
from resurgam.errors import MissingExtra, NotFound
from resurgam.model.point import PointBody
from resurgam.model.system import Json
from resurgam.restore import differences
from resurgam.restore.differences import Mask, Value
from resurgam.restore.values import Cost, Found, Side, fetch
from resurgam.vault.compare import (
    Compared,
    Difference,
    FileChange,
    RowChange,
    TableChange,
    components_of,
    shown_key,
    shown_path,
)
from resurgam.vault.reader import SnapshotReader
from resurgam.vault.repository import Repository
from resurgam.vault.snapshots import Entry
from resurgam.vault.tables import Pair, decode_key, key_of

TEXT_MOST = 256 << 10  # bytes of a file that is shown as text
AT_MOST = 2 << 30  # bytes of a component that is restored without having been named
_META = {"m": "mode", "o": "owner", "y": "kind", "to": "leads to", "x": "attributes", "s": "sparse"}


class Change(NamedTuple):
    """One difference with its values; ``unread`` says why there are none."""

    difference: Difference
    values: tuple[Value, ...] = ()
    unread: str = ""


class _Line(NamedTuple):
    """A row that differs, as it is told: two versions of one thing are one line, though their keys differ."""

    row: RowChange
    shown: str


class Contents:
    """The differences between two points. ``named`` are the only components to look at (all where there are none), ``limit`` how
    many differences per table, and how many files per component, come with their values (0: all).

    Raises NotFound where neither point has a component of that name.
    """

    def __init__(
        self,
        repository: Repository,
        points: tuple[PointBody, PointBody],
        drivers: Drivers,
        mask: Mask,
        *,
        named: Sequence[str] = (),
        limit: int = 0,
    ) -> None:
        self.cost = Cost()
        self._repository, self._points = repository, points
        self._drivers, self._mask = drivers, mask
        self._named, self._limit = named, limit or None
        require_components(points, named)

    def changes(self) -> Iterator[Change]:
        """All differences, component by component. Raises Denied without an identity, StoreFull, and what drivers raise."""
        for name, sign in components_of(*self._points):
            if self._named and name not in self._named:
                continue
            if sign:
                yield Change(Difference(name, "component", "", sign, name))
                continue
            before, after = (Side(self._repository, body, name) for body in self._points)
            compared = Compared(name, before.reader, after.reader)
            for number, file in enumerate(compared.files()):
                difference = Difference(name, "file", "", file.sign, shown_path(file.path))
                wanted = self._limit is None or number < self._limit
                yield Change(difference, tuple(self._file(compared, file)) if wanted else ())
            yield from self._rows(compared, before, after)

    # Files ----------------------------------------------------------------------------------------------------------

    def _file(self, compared: Compared, file: FileChange) -> Iterator[Value]:
        before, after = file.before, file.after
        if before and after:
            yield from self._metas(before, after)
            if before.digest == after.digest:
                return
        old, new = self._text(compared.before, before), self._text(compared.after, after)
        if old is None or new is None:
            sizes = " -> ".join(f"{entry.size:,} bytes" for entry in (before, after) if entry)
            yield Value(name="content", said=f"not shown as text: {sizes}")
        elif old != new:
            yield Value(name="content", lines=differences.unified(old, new))
        elif before and after:
            yield differences.text("content", old, new)

    def _metas(self, before: Entry, after: Entry) -> Iterator[Value]:
        for word in sorted((before.meta.keys() | after.meta.keys()) - {"t"}):
            if word not in _META and isinstance(after.meta.get(word), bytes):
                continue  # a driver's own digest of the same bytes: no word for people
            old, new = (self._meta(word, entry.meta.get(word)) for entry in (before, after))
            yield from differences.changed(_META.get(word, word), old, new, self._mask)

    def _meta(self, word: str, value: Json) -> Json:
        if word == "m" and isinstance(value, int):
            return f"{value:04o}"
        return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value

    def _text(self, side: SnapshotReader, entry: Entry | None) -> str | None:
        """The entry as text that may be seen, empty where there is none; None where it is no text, or a long one."""
        if entry is None:
            return ""
        if entry.size > TEXT_MOST:
            return None
        data = side.blob(entry).read()
        self.cost.bytes += len(data)
        try:
            return None if b"\0" in data else self._mask(data.decode(), "")
        except UnicodeDecodeError:
            return None

    # Rows -----------------------------------------------------------------------------------------------------------

    def _rows(self, compared: Compared, before: Side, after: Side) -> Iterator[Change]:
        tables = [(change, _lines(change)) for change in compared.tables()]
        asked = [(change, lines[: self._limit]) for change, lines in tables]
        told: dict[tuple[str, Pair], str] = {}
        found: tuple[Found, Found] = {}, {}
        unread = ""
        try:
            told = self._told(compared, [change for change, _ in tables], before, after)
            found = self._fetched(asked, told, before, after)
        except _Unread as why:
            unread = str(why)
        for change, lines in tables:
            name = change.table.name
            for number, line in enumerate(lines):
                difference = Difference(compared.name, "row", name, line.row.sign, line.shown)
                if self._limit is not None and number >= self._limit:
                    yield Change(difference)
                elif (said := told.get((name, line.row.pair))) is not None:
                    yield Change(difference, (Value(name="", said=said),))
                elif unread:
                    yield Change(difference, (), unread)
                else:
                    yield self._row(difference, change, line, found)

    def _row(self, difference: Difference, change: TableChange, line: _Line, found: tuple[Found, Found]) -> Change:
        name, mask = change.table.name, self._mask
        old, new = (
            side.get((name, pair)) if pair else None
            for side, pair in zip(found, (line.row.before, line.row.after), strict=True)
        )
        if (line.row.before and old is None) or (line.row.after and new is None):
            return Change(difference, (), "a restored copy does not hold this row as it was captured")
        if old is not None and new is not None:
            columns = dict.fromkeys([*old, *new])
            values = [v for c in columns for v in differences.changed(c, old.get(c), new.get(c), mask)]
        else:
            row, side = (new, "after") if old is None else (old, "before")
            rest = {column: value for column, value in (row or {}).items() if column not in change.table.key}
            values = list(differences.only(list(rest), list(rest.values()), side, mask))
        return Change(difference, tuple(values))

    def _told(
        self, compared: Compared, tables: list[TableChange], before: Side, after: Side
    ) -> dict[tuple[str, Pair], str]:
        """What the driver itself says of rows that differ, by table and pair. Raises _Unread."""
        try:
            driver = self._drivers(after.component.driver)
        except MissingExtra:
            return {}  # ``_fetched`` meets it too, and says so
        if not isinstance(driver, Tells) or before.component.driver != after.component.driver:
            return {}
        words: dict[tuple[str, bytes], str] = {}
        images = list(compared.images()) if tables else []
        self._require_asked(after.name, sum(entry.size for image in images for entry in image[1:] if entry))
        for image in images:
            old = compared.before.blob(image.before) if image.before else None
            new = compared.after.blob(image.after) if image.after else None
            self.cost.bytes += sum(blob.size for blob in (old, new) if blob is not None)
            for said in driver.tell(after.component, old, new):
                words[said.table, key_of(said.key, after.row_key)] = self._mask(said.said, said.under)
        rows = ((change.table.name, row) for change in tables for row in change.rows())
        return {(name, row.pair): words[name, row.key] for name, row in rows if (name, row.key) in words}

    def _fetched(
        self,
        asked: list[tuple[TableChange, list[_Line]]],
        told: dict[tuple[str, Pair], str],
        before: Side,
        after: Side,
    ) -> tuple[Found, Found]:
        """The rows of both sides that are to be told. Raises _Unread where they cannot be had, or cost too much unasked."""
        wanted: tuple[dict[str, set[Pair]], dict[str, set[Pair]]] = ({}, {})
        for change, lines in asked:
            name = change.table.name
            rest = [line for line in lines if (name, line.row.pair) not in told]
            wanted[0][name] = {line.row.before for line in rest if line.row.before}
            wanted[1][name] = {line.row.after for line in rest if line.row.after}
        cost = sum(
            side.snapshot.bytes for side, rows in zip((before, after), wanted, strict=True) if any(rows.values())
        )
        self._require_asked(after.name, cost)
        try:
            left, right = (
                fetch(side, rows, self._drivers, self.cost) for side, rows in zip((before, after), wanted, strict=True)
            )
        except MissingExtra as error:
            raise _Unread(f"values were not read: {error.message} {error.next_step}") from error
        return left, right

    def _require_asked(self, name: str, cost: int) -> None:
        """P11: nobody pays for more than a diff is worth without having asked. Raises _Unread."""
        if cost > AT_MOST and name not in self._named:
            raise _Unread(f"values would be read from copies of {cost:,} bytes: ask for them with --component {name}")


class _Unread(Exception):
    """Why values are not told; for people."""


def require_components(points: tuple[PointBody, PointBody], named: Sequence[str]) -> None:
    """Raises NotFound where neither point has a component of one of these names."""
    known = [name for name, _ in components_of(*points)]
    if unknown := [name for name in named if name not in known]:
        raise NotFound(
            f"Neither point has a component {', '.join(unknown)}.",
            untouched="Nothing was read.",
            next_step=f"They have: {', '.join(known)}.",
        )


def _lines(change: TableChange) -> list[_Line]:
    """The rows of a table that differ. Where the last column of the key is a version (packages), a version that went and the only
    one that came are one line."""
    rows = list(change.rows())
    if len(change.table.key) < 2 or change.table.key[-1] != "version":
        return [_Line(row, shown_key(row.key)) for row in rows]
    sides: dict[tuple[Json, ...], list[RowChange]] = {}
    for row in rows:
        sides.setdefault(decode_key(row.key)[:-1], []).append(row)
    lines: list[_Line] = []
    for key, found in sides.items():
        if [row.sign for row in found] == ["-", "+"]:
            upgraded = RowChange("~", found[1].key, found[0].before, found[1].after)
            lines.append(_Line(upgraded, ", ".join(map(str, key))))
        else:
            lines += [_Line(row, shown_key(row.key)) for row in found]
    return sorted(lines, key=lambda line: ("-+~".index(line.row.sign), line.shown))
