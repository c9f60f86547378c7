"""What lost chunks mean for people: per point, component and item, what is gone and what still restores.

With a reader's key trees are walked and items named: a path, a table, or, where a page of the tree itself is lost, how many items
stood on it and after which name. A piece of which a part is lost is whole where a later capture stored it as a chunk (``salvage``).
Without that key there are counts: of chunks, of all that the component needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from resurgam.errors import Denied, IntegrityError, NewerFormat
from resurgam.model.codec import from_msgpack
from resurgam.model.point import Snapshot
from resurgam.vault.index import Index
from resurgam.vault.needs import documents_of, wanting
from resurgam.vault.pack import Kind
from resurgam.vault.pages import Child, Get, Inner, Root
from resurgam.vault.records import Record
from resurgam.vault.repository import Repository, Sealed
from resurgam.vault.snapshots import Entry, Laid, pieces_of, read_entries, read_root

Wanted = frozenset[bytes]


class ComponentLoss(msgspec.Struct, frozen=True, kw_only=True):
    """What one component of a point lost: ``chunks`` of its own; ``items`` by name, None where no key here tells names; and how
    many items of how many bytes are whole."""

    component: str
    chunks: int
    items: tuple[str, ...] | None = None
    whole: int | None = None
    whole_bytes: int | None = None

    @property
    def restores(self) -> bool:
        """Whether every item is whole: then what is lost is a list of chunks, or a view, which no restore needs."""
        return self.items == ()


class PointLoss(msgspec.Struct, frozen=True, kw_only=True):
    """What one point lost. Without its ``particulars`` nothing of it restores by itself; ``evidence`` are documents of what was
    answered and judged, which no restore needs."""

    point: str
    system: str
    particulars: bool
    evidence: int
    components: tuple[ComponentLoss, ...]
    intact: tuple[str, ...]

    @property
    def restores(self) -> bool:
        """Whether all of it restores: what it lost is evidence, lists of chunks, or views."""
        return not self.particulars and all(component.restores for component in self.components)


def losses(
    repository: Repository,
    points: Iterable[tuple[Sealed, list[Record]]],
    lost: Iterable[bytes],
    unlisted: Iterable[tuple[str, str]],
) -> list[PointLoss]:
    """What each of ``points`` loses with the chunks ``lost``; ``unlisted`` are points and components whose lists are cut off."""
    wanted, points = frozenset(lost), list(points)
    by_point: dict[str, dict[str, set[bytes]]] = {}
    for found in wanting(repository, points, wanted):
        by_point.setdefault(found.point, {}).setdefault(found.component, set()).add(found.chunk)
    for point, component in unlisted:
        by_point.setdefault(point, {}).setdefault(component, set())
    return [
        _of_point(repository, sealed, records, by_point[sealed.body.id], wanted)
        for sealed, records in points
        if sealed.body.id in by_point
    ]


def _of_point(
    repository: Repository, sealed: Sealed, records: list[Record], lost: dict[str, set[bytes]], wanted: Wanted
) -> PointLoss:
    body = sealed.body
    particulars = bytes.fromhex(body.particulars) in wanted
    documents = {chunk for _, chunk in documents_of(sealed, records)} & wanted
    hit = [snapshot for snapshot in body.snapshots if snapshot.component in lost]
    return PointLoss(
        point=body.id,
        system=body.system,
        particulars=particulars,
        evidence=len(documents) - particulars,
        components=tuple(_of_component(repository, one, len(lost[one.component]), wanted) for one in hit),
        intact=tuple(one.component for one in body.snapshots if one.component not in lost),
    )


def _of_component(repository: Repository, snapshot: Snapshot, chunks: int, wanted: Wanted) -> ComponentLoss:
    if not repository.opens(snapshot.domain):
        return ComponentLoss(component=snapshot.component, chunks=chunks)
    walk = _Names(repository.chunks(snapshot.domain).get, wanted, repository.index)
    walk.snapshot(bytes.fromhex(snapshot.tree))
    return ComponentLoss(
        component=snapshot.component,
        chunks=chunks,
        items=tuple(walk.lost),
        whole=walk.whole,
        whole_bytes=walk.whole_bytes,
    )


class _Names:
    """Walks one snapshot and sorts its items into lost and whole."""

    def __init__(self, get: Get, wanted: Wanted, index: Index) -> None:
        self._get, self._wanted, self._index = get, wanted, index
        self.lost: list[str] = []
        self.whole = self.whole_bytes = 0

    def snapshot(self, tree: bytes) -> None:
        """All items of a snapshot."""
        try:
            root = read_root(tree, self._get)
        except (IntegrityError, NewerFormat, Denied):
            self.lost.append("all of it: the root of its tree is lost")
            return
        self._leaves(root.blobs, Kind.TREE, self._entries, "items")
        for table in root.tables:
            if table.view_of is not None:
                continue  # what is restored is its image; its rows only tell differences
            before = len(self.lost)
            self._leaves(table.root, Kind.ROWS, self._rows, f"rows of the table {table.name}")
            self.whole += len(self.lost) == before

    def _leaves(self, root: Root, kind: Kind, leaf: Callable[[Child], None], what: str) -> None:
        if root.page:
            self._below(Child(b"", root.page, root.count), root.level, kind, leaf, what)

    def _below(self, child: Child, level: int, kind: Kind, leaf: Callable[[Child], None], what: str) -> None:
        try:
            if level == 0:
                leaf(child)
                return
            page = f"page {child.page.hex()[:16]}"
            below = from_msgpack(self._get(child.page, kind), Inner, what=page).children
        except (IntegrityError, NewerFormat):
            after = f", from {_shown(child.first)} on" if child.first and kind is Kind.TREE else ""
            self.lost.append(f"{child.count} {what}{after}")
            return
        for inner in below:
            self._below(inner, level - 1, kind, leaf, what)

    def _rows(self, child: Child) -> None:
        self._get(child.page, Kind.ROWS)

    def _entries(self, child: Child) -> None:
        for entry in read_entries(child, self._get):
            if self._is_lost(entry):
                self.lost.append(_shown(entry.path))
            else:
                self.whole += 1
                self.whole_bytes += entry.size

    def _is_lost(self, entry: Entry) -> bool:
        try:
            return any(map(self._is_piece_lost, pieces_of(entry, self._get)))
        except (IntegrityError, NewerFormat):
            return True  # the page that lists its chunks

    def _is_piece_lost(self, piece: Laid) -> bool:
        if not any(chunk in self._wanted for chunk, _, _ in piece.parts):
            return not piece.parts and piece.chunk in self._wanted
        return piece.chunk in self._wanted or not self._index.knows(piece.chunk)


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
