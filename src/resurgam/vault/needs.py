"""What points need: every chunk, once, with its shred domain and where it lies. Found with the index key alone.

A point names the pages that list its chunks (``snapshots.ChunkList``). Points share most of those pages, and a page that was
walked for one point is not walked again for the next: the cost is that of the pages that differ (P11). What is found is kept as
arrays sorted by id, at 33 bytes a chunk.

Damage does not end the walk: it is told with the points that it affects, and what can still be listed is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from resurgam.errors import IntegrityError
from resurgam.model.codec import from_msgpack
from resurgam.vault.index import Entries
from resurgam.vault.keys import DEFAULT_DOMAIN
from resurgam.vault.naming import Sealed
from resurgam.vault.pack import ID, Kind
from resurgam.vault.pages import Get, Inner, Root
from resurgam.vault.records import Record
from resurgam.vault.repository import Repository

Ids = NDArray[np.uint8]  # n times 32 bytes


class Unlisted(msgspec.Struct, frozen=True):
    """A list of chunks that cannot be read whole: of which component of which point, and why."""

    point: str
    component: str
    why: str


class Needs(NamedTuple):
    """Chunks that points need. ``ids`` are sorted, each once; ``domain`` counts in ``domains``. ``known`` says which the index
    knows, and ``entries`` are the places of those, in their order, with ordinals in ``packs``. ``unlisted`` could not be walked."""

    ids: Ids
    domain: NDArray[np.uint8]
    domains: tuple[str, ...]
    known: NDArray[np.bool_]
    entries: Entries
    packs: tuple[str, ...]
    unlisted: tuple[Unlisted, ...]

    def rows(self, ids: Ids) -> NDArray[np.int64]:
        """The row of each of ``ids``, -1 for what no point needs."""
        if not len(self.ids):
            return np.full(len(ids), -1, np.int64)
        rows = _sortable(self.ids).searchsorted(_sortable(ids)).astype(np.int64)
        rows[rows == len(self.ids)] = 0
        rows[(self.ids[rows] != ids).any(axis=1)] = -1
        return rows

    def domain_of(self, chunk: bytes) -> str | None:
        """The shred domain of ``chunk``; None where no point needs it."""
        (row,) = self.rows(as_ids(chunk)).tolist()
        return None if row < 0 else self.domains[int(self.domain[row])]


class _Documented(msgspec.Struct, frozen=True):
    """So much of any record's body as names documents in the vault: chunk ids in hex, in the domain ``evidence``."""

    document: str = ""
    observed: str = ""
    baseline: str = ""
    reference: str = ""
    exchanges: str = ""
    evidence: str = DEFAULT_DOMAIN


def as_ids(joined: bytes) -> Ids:
    """Chunk ids, joined, as rows."""
    return np.frombuffer(joined, np.uint8).reshape(-1, ID)


def documents_of(sealed: Sealed, records: Iterable[Record] = ()) -> Iterator[tuple[str, bytes]]:
    """Domain and id of every document that a point, and what became known of it, rests on."""
    yield DEFAULT_DOMAIN, bytes.fromhex(sealed.body.particulars)
    if sealed.body.answers:
        yield sealed.body.evidence, bytes.fromhex(sealed.body.answers)
    for record in records:
        yield from documents_in(record)


def documents_in(record: Record) -> Iterator[tuple[str, bytes]]:
    """Domain and id of every document that ``record`` names."""
    named = record.read(_Documented)
    for chunk in (named.document, named.observed, named.baseline, named.reference, named.exchanges):
        if chunk:
            yield named.evidence, bytes.fromhex(chunk)


def needs_of(repository: Repository, points: Iterable[tuple[Sealed, Iterable[Record]]]) -> Needs:
    """What ``points``, each with the records about it, need. Raises Denied without the index key, Unreachable."""
    listed: dict[str, list[bytes]] = {}
    walks = _Walks(repository, lambda domain, ids: listed.setdefault(domain, []).append(ids))
    unlisted = []
    for sealed, records in points:
        for domain, chunk in documents_of(sealed, records):
            listed.setdefault(domain, []).append(chunk)
        for snapshot in sealed.body.snapshots:
            trouble = walks.walk(snapshot.domain, bytes.fromhex(snapshot.chunks))
            unlisted += [Unlisted(sealed.body.id, snapshot.component, why) for why in trouble]
    ids, domains = _sorted_once([as_ids(b"".join(parts)) for parts in listed.values()])
    index = repository.index  # one and the same: a prune that ends meanwhile gives another
    known, entries = index.find_all(ids)
    return Needs(ids, domains, tuple(listed), known, entries, tuple(index.packs), tuple(unlisted))


class Wanting(msgspec.Struct, frozen=True):
    """A chunk that a point needs: of which component, empty for the point's own documents."""

    point: str
    component: str
    chunk: bytes


def wanting(
    repository: Repository, points: Iterable[tuple[Sealed, Iterable[Record]]], lost: Iterable[bytes]
) -> Iterator[Wanting]:
    """Which points need which of the ``lost`` chunks. Pages that cannot be read are passed over: ``needs_of`` tells of them."""
    wanted = frozenset(lost)
    if not wanted:
        return
    below: dict[bytes, frozenset[bytes]] = {}
    for sealed, records in points:
        for _, chunk in documents_of(sealed, records):
            if chunk in wanted:
                yield Wanting(sealed.body.id, "", chunk)
        for snapshot in sealed.body.snapshots:
            get = repository.chunks(snapshot.domain).get
            for chunk in sorted(_lost_below(bytes.fromhex(snapshot.chunks), -1, get, wanted, below)):
                yield Wanting(sealed.body.id, snapshot.component, chunk)


class _Walks:
    """Walks over lists of chunks, each page once. ``found`` is told the ids of the pages and of what they list."""

    def __init__(self, repository: Repository, found: Callable[[str, bytes], object]) -> None:
        self._repository, self._found = repository, found
        self._done: dict[bytes, tuple[str, ...]] = {}

    def walk(self, domain: str, root: bytes) -> tuple[str, ...]:
        """Walk one list from its root page; returns what could not be read, and why."""
        get = self._repository.chunks(domain).get
        return self._below(domain, root, -1, get)

    def _below(self, domain: str, page: bytes, level: int, get: Get) -> tuple[str, ...]:
        if page not in self._done:
            self._found(domain, page)
            try:
                children, ids = read_list(page, level, get)
            except IntegrityError as error:
                self._done[page] = (error.message,)
                return self._done[page]
            self._found(domain, ids)
            below = (self._below(domain, child, deeper, get) for child, deeper in children)
            self._done[page] = tuple(dict.fromkeys(why for told in below for why in told))
        return self._done[page]


def read_list(page: bytes, level: int, get: Get) -> tuple[list[tuple[bytes, int]], bytes]:
    """A page of a chunk list: pages below it with their levels, and the ids that it lists, joined. ``level`` is -1 for a list's
    root page, 0 for a leaf. Raises IntegrityError."""
    what = f"chunk list {page.hex()[:16]}"
    data = get(page, Kind.LIST)
    if level < 0:
        root = from_msgpack(data, Root, what=what)
        return ([(root.page, root.level)] if root.page else []), b""
    if level > 0:
        return [(child.page, level - 1) for child in from_msgpack(data, Inner, what=what).children], b""
    if len(data) % ID:
        raise IntegrityError(
            f"The {what} is no list of ids.",
            untouched="Nothing was changed.",
            next_step="Run `resurgam vault repair` to see what can be brought back.",
        )
    return [], data


def _lost_below(
    page: bytes, level: int, get: Get, lost: frozenset[bytes], done: dict[bytes, frozenset[bytes]]
) -> frozenset[bytes]:
    if page not in done:
        found = lost & {page}
        try:
            children, ids = read_list(page, level, get)
        except IntegrityError:
            children, ids = [], b""
        found |= lost.intersection(ids[at : at + ID] for at in range(0, len(ids), ID))
        done[page] = found.union(*(_lost_below(child, deeper, get, lost, done) for child, deeper in children))
    return done[page]


def _sorted_once(parts: list[Ids]) -> tuple[Ids, NDArray[np.uint8]]:
    """All rows of ``parts`` sorted, each once, with the number of the part it came from."""
    ids = np.concatenate(parts) if parts else np.empty((0, ID), np.uint8)
    if not len(ids):
        return ids, np.empty(0, np.uint8)
    domain = np.repeat(np.arange(len(parts), dtype=np.uint8), [len(part) for part in parts])
    order = np.argsort(_sortable(ids), kind="stable")
    ids, domain = ids[order], domain[order]
    first = np.ones(len(ids), np.bool_)
    first[1:] = (ids[1:] != ids[:-1]).any(axis=1)
    return np.ascontiguousarray(ids[first]), domain[first]


def _sortable(ids: Ids) -> NDArray[np.bytes_]:
    """Rows as values that compare as their bytes do."""
    return np.ascontiguousarray(ids).view("S32").ravel()
