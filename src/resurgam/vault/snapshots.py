"""Snapshots in the vault: one component as a tree of pages over its chunks (``docs/format.md`` section 6).

SnapshotRoot --> tree of Entry, one per Blob, in path order      (Kind.TREE)
             |       Entry --> extents: pieces of chunks, when they are few
             |             --> runs: pages of chunk ids, when they are many     (Kind.RUN)
             |                 or of what pieces are patched together from    (``patches``)
             --> Table, one per table --> tree of keys and digests (Kind.ROWS)
LIST pages: the ids of all those chunks, open with the index key, so that a pruner can count without reading.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import msgspec
import numpy as np

from resurgam.errors import IntegrityError
from resurgam.model.codec import from_msgpack, require_format, to_msgpack
from resurgam.vault.pack import ID, Kind
from resurgam.vault.pages import MAX_ENTRIES, Child, Get, Put, Root, TreeBuilder, ends_page, leaves
from resurgam.vault.tables import Table

FORMAT = 1
INLINE = 64  # a blob of more chunks than this has its list in pages of its own
PAGE_BYTES = 1 << 20  # a leaf of large entries ends here at the latest
_RUN_MIN = 32  # groups of chunk ids end at an id with 8 zero bits, but never before this many
_MOST = 1 << 32  # no chunk is as long
_RUN_PARTS = 32 << 10  # a group of patched pieces ends here at the latest

Extent = tuple[bytes, int, int]  # chunk id, start in the chunk, length
Patched = Mapping[bytes, Sequence[Extent]]  # ids of pieces that are no chunks, and what they are made of
_NONE: Patched = {}


class Laid(NamedTuple):
    """A piece of a blob: ``length`` bytes of a chunk from ``start``; or, where it has ``parts``, those one after the other, and
    ``chunk`` is the id that their bytes would have as one. A last part of no length is a delta: what it makes of those before."""

    chunk: bytes
    start: int
    length: int
    parts: Sequence[Extent] = ()


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One Blob. ``digest`` is equal for equal bytes (16 bytes, keyed). Extents follow each other; so do runs, which take
    their place when there are many chunks, each used whole."""

    path: bytes
    size: int
    digest: bytes
    meta: dict[str, Any]
    extents: list[Extent]
    runs: list[bytes]


class Parts(msgspec.Struct, frozen=True, array_like=True):
    """What the pieces of a run are made of. ``counts`` (u16) says of each piece how many parts it has, 0 of one that is a chunk;
    then of each part the number of its chunk in ``sources`` (u16), its start there and its length (u32), all little-endian."""

    counts: bytes
    sources: bytes
    which: bytes
    starts: bytes
    lengths: bytes


class Run(msgspec.Struct, frozen=True, array_like=True):
    """Consecutive pieces of one blob: ids joined, lengths as u32 little-endian. Each is a chunk used whole, where no ``parts`` say
    what it is made of. A reader that knows of no parts asks for a chunk that is not there, and fails (P1)."""

    ids: bytes
    lengths: bytes
    parts: Parts | None = None


class SnapshotRoot(msgspec.Struct, frozen=True, array_like=True):
    """Where a component's snapshot begins."""

    format: int
    component: str
    driver: str
    blobs: Root
    tables: list[Table]


def read_root(page: bytes, get: Get) -> SnapshotRoot:
    """The root page of a snapshot. Raises IntegrityError, NewerFormat."""
    root = from_msgpack(get(page, Kind.TREE), SnapshotRoot, what=f"snapshot {page.hex()[:16]}")
    require_format(root.format, FORMAT, what=f"Snapshot {page.hex()[:16]}")
    return root


def read_entries(child: Child, get: Get) -> list[Entry]:
    """The entries of one leaf page."""
    return from_msgpack(get(child.page, Kind.TREE), list[Entry], what=f"page {child.page.hex()[:16]}")


def entries(root: Root, get: Get) -> Iterator[Entry]:
    """All entries in path order."""
    for child in leaves(root, Kind.TREE, get):
        yield from read_entries(child, get)


def extents_of(entry: Entry, get: Get) -> Iterator[Extent]:
    """The parts of chunks that make up a blob, in order."""
    for piece in pieces_of(entry, get):
        yield from piece.parts or [piece[:3]]


def pieces_of(entry: Entry, get: Get) -> Iterator[Laid]:
    """The pieces that make up a blob, in order. Raises IntegrityError."""
    for chunk, start, length in entry.extents:
        if len(chunk) != ID or not (0 <= start < _MOST and 0 <= length < _MOST):
            raise _unclear(f"The entry {entry.path!r}")
        yield Laid(chunk, start, length)
    for page in entry.runs:
        yield from pieces_in(page, get)


def pieces_in(page: bytes, get: Get) -> Iterator[Laid]:
    """The pieces that a page of a long list names, in order. Raises IntegrityError."""
    run = from_msgpack(get(page, Kind.RUN), Run, what=f"page {page.hex()[:16]}")
    if len(run.ids) * 4 != len(run.lengths) * ID or len(run.ids) % ID:
        raise _unclear(f"The page {page.hex()[:16]}")
    lengths = np.frombuffer(run.lengths, dtype="<u4").tolist()
    parts = _parts_of(run.parts, len(lengths), page) if run.parts else [()] * len(lengths)
    for place, (length, made_of) in enumerate(zip(lengths, parts, strict=True)):
        yield Laid(run.ids[place * ID : (place + 1) * ID], 0, length, made_of)


def _parts_of(parts: Parts, pieces: int, page: bytes) -> list[Sequence[Extent]]:
    """Of each of so many pieces."""
    if any(len(column) % size for column, size in zip(msgspec.structs.astuple(parts), (2, ID, 2, 4, 4), strict=True)):
        raise _unclear(f"The page {page.hex()[:16]}")
    chunks = [parts.sources[at : at + ID] for at in range(0, len(parts.sources), ID)]
    counts, which = (np.frombuffer(column, "<u2").tolist() for column in (parts.counts, parts.which))
    starts, lengths = (np.frombuffer(column, "<u4").tolist() for column in (parts.starts, parts.lengths))
    whole = len(counts) == pieces and sum(counts) == len(which) == len(starts) == len(lengths)
    if not whole or any(number >= len(chunks) for number in which):
        raise _unclear(f"The page {page.hex()[:16]}")
    every = zip((chunks[number] for number in which), starts, lengths, strict=True)
    return [list(islice(every, count)) for count in counts]


def _unclear(what: str) -> IntegrityError:
    return IntegrityError(
        f"{what} does not say what its pieces are made of.",
        untouched="Nothing was restored from it.",
        next_step="Run `resurgam vault check`, and restore from another point.",
    )


class EntryTree:
    """Collects entries in path order into leaves."""

    def __init__(self, put: Put, seed: bytes) -> None:
        self._put = put
        self._seed = seed
        self._builder = TreeBuilder(Kind.TREE, put)
        self._open: list[bytes] = []
        self._first = b""
        self._bytes = 0
        self._last: bytes | None = None

    def add(self, entry: Entry) -> None:
        """The next entry."""
        self.add_encoded(entry.path, to_msgpack(entry), self.ends_after(entry.path))

    def ends_after(self, path: bytes) -> bool:
        """Whether a leaf ends after ``path`` for the path's own sake."""
        return ends_page(path, self._seed)

    def add_encoded(self, path: bytes, entry: bytes, ends: bool) -> None:
        """The next entry as MessagePack; a driver that yields paths out of order or twice breaks its contract."""
        assert self._last is None or path > self._last, "a driver yields paths once, in ascending order"
        self._last = path
        if not self._open:
            self._first = path
        self._open.append(entry)
        self._bytes += len(entry)
        if ends or len(self._open) >= MAX_ENTRIES or self._bytes >= PAGE_BYTES:
            self._close()

    def root(self) -> Root:
        """Close the tree."""
        if self._open:
            self._close()
        return self._builder.root()

    def _close(self) -> None:
        page = self._put(Kind.TREE, _array(self._open))
        self._builder.leaf(self._first, page, len(self._open))
        self._open = []
        self._bytes = 0


def _array(encoded: list[bytes]) -> bytes:
    """The MessagePack array of values that are encoded already; fewer than 65,536 of them."""
    count = len(encoded)
    head = bytes([0x90 | count]) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return b"".join([head, *encoded])


def store_runs(extents: list[Extent], put: Put, patched: Patched = _NONE) -> list[bytes]:
    """Write the chunk list of a large blob as pages that end where the ids say so; returns the pages' ids."""
    pages: list[bytes] = []
    start = parts = 0
    for place, (chunk, _, _) in enumerate(extents, 1):
        count = place - start
        parts += len(patched.get(chunk, ()))
        full = count >= MAX_ENTRIES or parts >= _RUN_PARTS
        if place == len(extents) or full or (count >= _RUN_MIN and chunk[0] == 0):
            pages.append(put(Kind.RUN, _run_of(extents[start:place], patched)))
            start, parts = place, 0
    return pages


def _run_of(group: list[Extent], patched: Patched) -> bytes:
    ids = b"".join(chunk for chunk, _, _ in group)
    lengths = np.fromiter((length for _, _, length in group), dtype="<u4").tobytes()
    made_of = [patched.get(chunk, ()) for chunk, _, _ in group]
    parts = list(chain.from_iterable(made_of))
    if not parts:
        return to_msgpack((ids, lengths))
    numbers = {chunk: number for number, chunk in enumerate(dict.fromkeys(chunk for chunk, _, _ in parts))}
    columns = Parts(
        np.fromiter(map(len, made_of), "<u2").tobytes(),
        b"".join(numbers),
        np.fromiter((numbers[chunk] for chunk, _, _ in parts), "<u2").tobytes(),
        np.fromiter((start for _, start, _ in parts), "<u4").tobytes(),
        np.fromiter((length for _, _, length in parts), "<u4").tobytes(),
    )
    return to_msgpack(Run(ids, lengths, columns))


class ChunkList:
    """The ids of all chunks of one snapshot, in the order of their use, as LIST pages."""

    def __init__(self, put: Put) -> None:
        self._put = put
        self._builder = TreeBuilder(Kind.LIST, put)
        self._open: list[bytes] = []

    def add(self, chunk: bytes) -> None:
        """One more chunk; the same one many times in a row (small files) counts once."""
        if self._open and self._open[-1] == chunk:
            return
        self._open.append(chunk)
        if len(self._open) >= MAX_ENTRIES or (len(self._open) >= _RUN_MIN and chunk[0] == 0):
            self._close()

    def add_all(self, chunks: bytes) -> None:
        """As ``add`` of each of ``chunks``, ids joined. In few steps, for a large blob has tens of thousands."""
        words = np.frombuffer(chunks, np.uint64).reshape(-1, ID // 8)
        first = np.flatnonzero(np.append(True, (words[1:] != words[:-1]).any(axis=1))[: len(words)])
        often = np.diff(first, append=len(words)) > 1
        joined = words[first].tobytes()
        ids = [joined[at : at + ID] for at in range(0, len(joined), ID)]
        start = int(bool(ids) and self._open[-1:] == ids[:1])
        ends = np.flatnonzero(np.frombuffer(joined, np.uint8)[::ID] == 0) + 1  # where a page may end
        while start < len(ids):
            least, most = (start + max(limit - len(self._open), 1) for limit in (_RUN_MIN, MAX_ENTRIES))
            end = min(next(iter(ends[ends.searchsorted(least) :].tolist()), most), most)
            self._open += ids[start:end]
            start = end
            if end <= len(ids):
                self._close()
                start -= int(often[end - 1])  # once more, on the next page

    def root(self) -> bytes:
        """The id of the list's root page: a Root over its leaves."""
        if self._open:
            self._close()
        return self._put(Kind.LIST, to_msgpack(self._builder.root()))

    def _close(self) -> None:
        page = self._put(Kind.LIST, b"".join(self._open))
        self._builder.leaf(b"", page, len(self._open))
        self._open = []


def listed_chunks(page: bytes, get: Get) -> Iterator[bytes]:
    """Every chunk id that a snapshot needs, LIST pages included. Needs the index key only."""
    root = from_msgpack(get(page, Kind.LIST), Root, what=f"chunk list {page.hex()[:16]}")
    yield page
    if root.page:
        yield from _listed(root.page, root.level, get)


def _listed(page: bytes, level: int, get: Get) -> Iterator[bytes]:
    yield page
    data = get(page, Kind.LIST)
    if level == 0:
        for at in range(0, len(data), ID):
            yield data[at : at + ID]
        return
    inner = from_msgpack(data, tuple[int, list[Child]], what=f"chunk list {page.hex()[:16]}")
    for child in inner[1]:
        yield from _listed(child.page, level - 1, get)
