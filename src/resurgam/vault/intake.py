"""The intake of one component: items from a driver become entries and tables, in order, while threads do the work.

Three ways for the bytes of a blob:

* **unchanged**: the host remembers its stamp and the vault still has its chunks: nothing is read (P11);
* **small** (below ``SMALL``): files share chunks (``sharing``); many of them are read by children (``zones``);
* **large**: cut by its structure or by its content, and handed to the threads span by span; of one that changed in places, those
  are stored (``patches``; of texts ``passages``). Entries wait in a queue until their chunks are known, and leave it in the
  driver's order.

A blob that did not stand still is read again, up to ``ATTEMPTS`` times, then kept as last read; one that is gone before it was
read is left out. Findings name both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate

from blake3 import blake3

from resurgam.drivers.base import Blob, Item, Rows, Source, read_fully
from resurgam.errors import Denied, NotFound
from resurgam.model.codec import to_msgpack
from resurgam.model.point import Finding, Severity
from resurgam.vault.bases import Bases
from resurgam.vault.blockmemory import BlockMemory
from resurgam.vault.buffers import Buffers
from resurgam.vault.chunking import HEAD, Dtype, Piece, cutter_of, structure_of
from resurgam.vault.columnpatching import ColumnPatching, column_patching_of
from resurgam.vault.contents import content_spans
from resurgam.vault.filescache import FilesCache, Known, View, key_of, known_of
from resurgam.vault.index import Index
from resurgam.vault.pace import Pace, Paced
from resurgam.vault.pack import ID, SHORTEST, Kind
from resurgam.vault.patching import Patching, patching_of
from resurgam.vault.rowmemory import RowMemory
from resurgam.vault.sharing import EMPTY_DIGEST, SMALL, Shared, SharedChunks
from resurgam.vault.sink import DomainKeys, Sink
from resurgam.vault.snapshots import FORMAT as SNAPSHOT_FORMAT
from resurgam.vault.snapshots import ChunkList, EntryTree, Extent, Patched, SnapshotRoot
from resurgam.vault.spans import coders, end_of, extents_of, plans_of, read_span, spans_of, take_from
from resurgam.vault.tables import Table
from resurgam.vault.textpatching import TextPatching, text_patching_of
from resurgam.vault.threads import Threads
from resurgam.vault.zones import Reading, ZoneReaders, zone_readers

COPIED_FROM, NUMBERS_COPIED_FROM = 64 << 20, 256 << 20  # databases, tensors: coded by copies of this process
ATTEMPTS = 3
_MAX_WAITING, _MAX_LARGE = 4096, 32  # entries that may wait for their chunks; large ones hold their sources open
_MAX_KEYS = 20

BytesDone = Callable[[int], None]  # bytes taken in since the last call


@dataclass(slots=True)
class _Waiting:
    """A blob on its way. Exactly one of ``known``, ``extents``, ``shared`` and ``spans`` says where its extents come from. With
    ``patching``, those are of its pieces, of which some are ``patched``."""

    blob: Blob
    digest: bytes = b""
    extents: list[Extent] | None = None
    shared: Shared | None = None
    start: int = 0
    spans: list[Future[list[Extent]]] = field(default_factory=list)
    view: View | None = None
    known: Known | None = None
    patching: Patching | TextPatching | ColumnPatching | None = None
    patched: Patched = field(default_factory=dict)

    def read(self) -> list[Extent]:
        """Waits for the spans."""
        return [extent for span in self.spans for extent in span.result()]


@dataclass(frozen=True)
class Taken:
    """A component in the vault: ids of its root page and of its chunk list, and what was counted on the way."""

    tree: bytes
    chunks: bytes
    items: int
    bytes: int
    findings: list[Finding]


class Intake:
    """Takes in one component. ``cache`` is None where everything is to be read (``--paranoid``)."""

    def __init__(
        self,
        sink: Sink,
        index: Index,
        keys: DomainKeys,
        pool: Threads,
        buffers: Buffers,
        cache: FilesCache | None,
        rows: RowMemory,
        blocks: BlockMemory,
        bases: Bases,
        paranoid: bool,
        pace: Pace,
        progress: BytesDone,
    ) -> None:
        self._sink, self._index, self._keys, self._pool, self._buffers = sink, index, keys, pool, buffers
        self._cache, self._rows, self._paranoid, self._pace, self._progress = cache, rows, paranoid, pace, progress
        self._blocks, self._bases = blocks, bases
        self._list = ChunkList(lambda kind, data: sink.put(keys, kind, data))
        self._tree = EntryTree(self._put_page, keys.chunk_ids[Kind.TREE])
        self._tables: list[Table] = []
        self._waiting: deque[_Waiting | Known] = deque()
        self._large = 0
        self._shared = SharedChunks(sink, keys, pool, buffers, progress)
        self._zones: ZoneReaders | None = None
        self._there = b""  # the chunks that were last found in the vault: neighbours share them
        self._findings: list[Finding] = []
        self._view: View | None = None  # of the blob last taken, while it is being decoded
        self._viewed: Blob | None = None  # that blob
        self._restless, self._lost = list[str](), list[str]()
        self._items = self._bytes = 0
        sink.rest(pool)

    def items(self, reading: Reading) -> Iterator[Item | Finding | Known]:
        """What is read where the driver can leave out what this host knows."""
        if not self._pace.limited and self._remembered is None:
            self._zones = zone_readers(self._sink, self._keys, reading, self._tree.ends_after)
        return reading.items(self.known)

    @property
    def _remembered(self) -> FilesCache | None:
        """What the host remembers, as far as there is anything to ask for."""
        return None if self._cache is None or self._paranoid or self._cache.exhausted else self._cache

    def known(self, keys: Sequence[bytes]) -> list[Known | None]:
        """What the host remembers under each key (path, NUL, stamp) and the vault still has all chunks of (P11); or what
        children took in of it."""
        if self._zones is not None:
            found = self._zones.known(keys)
        elif self._remembered is None:
            return [None] * len(keys)
        else:
            found = [known if known and self._is_there(known) else None for known in self._remembered.known(keys)]
        self._progress(sum(known.size for known in found if known))
        return found

    def take(self, component: str, driver: str, items: Iterable[Item | Finding | Known]) -> Taken:
        """Everything that ``items`` yields, stored. Raises what the driver or the store raised."""
        try:
            self._take_all(items)
            self._drain(0)
        finally:
            self._shared.end()
            if self._zones is not None:
                self._zones.end()
        root = SnapshotRoot(SNAPSHOT_FORMAT, component, driver, self._tree.root(), self._tables)
        tree = self._put_page(Kind.TREE, to_msgpack(root))
        return Taken(tree, self._list.root(), self._items, self._bytes, self._findings + self._told())

    def _take_all(self, items: Iterable[Item | Finding | Known]) -> None:
        for item in items:
            if isinstance(item, Known):
                self._view = None
                self._items += 1
                self._queue(item)
            elif isinstance(item, Finding):
                self._take_finding(item)
            elif isinstance(item, Rows):
                self._take_rows(item)
            else:
                self._take_blob(item)
        self._view = None

    def _take_finding(self, finding: Finding) -> None:
        self._findings.append(finding)
        if self._view is not None and self._viewed is not None and self._viewed.view:
            self._view.findings.append(finding)

    def _take_rows(self, rows: Rows) -> None:
        self._items += 1
        pages: list[bytes] = []

        def put(kind: Kind, data: bytes) -> bytes:
            pages.append(self._put_page(kind, data))
            return pages[-1]

        table = self._rows.store(rows, self._keys.row_key, put, lambda: self._extents_so_far(rows.view_of))
        self._tables.append(table)
        if self._view is not None:
            self._view.tables.append(table)
            self._view.pages.extend(pages)

    def _extents_so_far(self, path: bytes | None) -> list[Extent]:
        """Those of a blob of which rows are being decoded; waits until all its chunks are known. None where it is not waiting."""
        for waiting in reversed(self._waiting):
            if isinstance(waiting, _Waiting) and waiting.blob.path == path:
                if waiting.known is not None:
                    return waiting.known.pieces()
                return waiting.extents or waiting.read()
        return []

    def _take_blob(self, blob: Blob) -> None:
        self._view = None
        try:
            waiting = self._start(blob)
        except (NotFound, Denied):
            self._sink.require_shipped()  # P1: where the store refuses, nothing is wrong with the file
            if blob.view:
                raise  # it is the component itself
            self._lost.append(_shown(blob))
            blob.source.close()
            return
        self._items += 1
        if blob.view:
            self._take_view(waiting)
        self._queue(waiting)

    def _queue(self, item: _Waiting | Known) -> None:
        """Its turn comes when its chunks are known and all before it have had theirs."""
        if isinstance(item, Known) and not self._waiting:
            self._keep(item)
            return
        self._waiting.append(item)
        self._large += isinstance(item, _Waiting) and bool(item.spans)
        if len(self._waiting) > _MAX_WAITING or self._large > _MAX_LARGE:
            self._drain(len(self._waiting) // 2)

    def _take_view(self, waiting: _Waiting) -> None:
        """What was decoded from an unchanged blob need not be decoded again, when all its pages are still there."""
        view = waiting.view
        if view is None or not self._index.knows_all(b"".join(view.pages)):
            self._view = waiting.view = View([], [], [])
            self._viewed = waiting.blob
            return
        waiting.blob.known = True
        waiting.view = view
        self._rows.same(waiting.blob.path)
        self._items += len(view.tables)
        self._tables += view.tables
        self._findings += view.findings
        for page in view.pages:
            self._list.add(page)

    def _start(self, blob: Blob) -> _Waiting:
        if blob.stamp is not None and (known := self.known([key_of(blob)])[0]) is not None:
            if not blob.view:
                blob.source.close()
            return _Waiting(blob, view=known.view, known=known)
        return self._start_small(blob) if blob.size < SMALL else self._start_large(blob)

    def _is_there(self, known: Known) -> bool:
        if known.chunks != self._there and self._index.knows_all(known.chunks):
            self._there = known.chunks
        return known.chunks == self._there

    def _start_small(self, blob: Blob) -> _Waiting:
        if not blob.size:
            if end_of(blob.source, 0) or not blob.source.settled():
                return self._read_again(blob)
            blob.source.close()
            return _Waiting(blob, EMPTY_DIGEST, extents=[])
        self._pace.spend(blob.size)
        with self._shared.room(blob.size) as view:
            still = read_fully(blob.source, 0, view) == blob.size and blob.source.settled()
            digest = blake3(view, key=self._keys.chunk_ids[Kind.DATA]).digest(16)
        if not still:
            return self._read_again(blob)
        shared, start = self._shared.keep(blob.size, digest)
        blob.source.close()
        return _Waiting(blob, digest, shared=shared, start=start)

    def _start_large(self, blob: Blob) -> _Waiting:
        waiting = _Waiting(blob)
        waiting.spans += self._spans(waiting)
        return waiting

    def _spans(self, waiting: _Waiting) -> Iterator[Future[list[Extent]]]:
        blob = waiting.blob
        head = bytearray(min(HEAD, blob.size))
        self._pace.spend(len(head))
        done = read_fully(blob.source, 0, memoryview(head))
        begin = memoryview(head)[:done]
        pieces = structure_of(begin, blob.size, blob.source.read_into, in_place=blob.in_place)
        if pieces is None:
            read = Paced(blob.source, self._pace).read_into
            columns = column_patching_of(self._blocks, blob, read, self._sink, self._index, self._keys)
            cutter = columns.cutter if columns else cutter_of(begin, self._keys.cut_seed)
            moving = columns or text_patching_of(self._blocks, blob, begin, self._sink, self._index, self._keys)
            waiting.patching = moving
            store, buffers, pace = moving.store if moving else self._store_contents, self._buffers, self._pace
            yield from content_spans(blob.source, blob.size, cutter, buffers, pace, self._progress, self._pool, store)
        else:
            spans = list(spans_of(pieces))
            patching = patching_of(
                self._blocks, self._bases, blob, begin, spans, waiting.read, self._sink, self._index, self._keys
            )
            waiting.patching = patching
            least = COPIED_FROM if spans[0][0].dtype is Dtype.PAGES else NUMBERS_COPIED_FROM
            copied = blob.size >= least and not self._pace.limited and not (patching and patching.tells)
            work = coders(self._sink, self._keys, blob.source, spans, patching, self._pool) if copied else None
            if work is not None:
                yield from take_from(work, spans, self._sink, self._keys, patching, self._pool, self._progress)
            else:
                yield from (self._pool.submit(self._store_span, blob.source, span, patching) for span in spans)

    def _store_span(self, source: Source, span: list[Piece], patching: Patching | None) -> list[Extent]:
        """In a thread: read one span of a structured blob and store its pieces; fewer when the bytes end early."""
        start, length = span[0].offset, span[0].length
        self._pace.spend(span[-1].offset + span[-1].length - start)
        with memoryview(self._buffers.span()) as whole, read_span(source, span, whole) as view:
            if span[0].dtype is Dtype.PAGES:
                # All are as long as the first, but for the last.
                pieces = self._sink.put_pages(self._keys, view, length, plans_of(patching, span, view))
                extents = extents_of(pieces, span, patching)
            else:
                there = (piece for piece in span if piece.offset - start + piece.length <= len(view))
                extents = [self._store_piece(view[p.offset - start :][: p.length], p, patching) for p in there]
            done = len(view)
        self._progress(done)
        return extents

    def _store_contents(self, _offset: int, view: memoryview, lengths: list[int]) -> list[Extent]:
        """In a thread: store the chunks of such ``lengths`` of which ``view`` consists."""
        ends = accumulate(lengths)
        return [self._store(view[end - length : end], Dtype.BYTES) for length, end in zip(lengths, ends, strict=True)]

    def _store_piece(self, data: memoryview, piece: Piece, patching: Patching | None) -> Extent:
        if patching is None or len(data) < SHORTEST:
            return self._store(data, piece.dtype)
        chunk = self._keys.id_of(Kind.DATA, data)
        (patch,) = patching.plans(piece.offset, data, len(data), [chunk])
        if patch is not None:
            patching.take(piece.offset, chunk, len(data), piece.dtype, patch)
        elif not patching.tell(piece, chunk, data):
            self._sink.put_as(self._keys, Kind.DATA, chunk, data, piece.dtype)
        return chunk, 0, len(data)

    def _store(self, data: memoryview, dtype: Dtype) -> Extent:
        return self._sink.put(self._keys, Kind.DATA, data, dtype), 0, len(data)

    def _drain(self, keep: int) -> None:
        """Turn the blobs that wait longest into entries until ``keep`` are left."""
        while len(self._waiting) > keep:
            if self._view is not None and self._waiting[0].view is self._view:
                return  # it is still being decoded
            waiting = self._waiting.popleft()
            if not isinstance(waiting, Known):
                self._large -= bool(waiting.spans)
                waiting = self._made(waiting)
            self._keep(waiting)

    def _extents_of(self, waiting: _Waiting) -> tuple[list[Extent], bytes, Patched]:
        blob = waiting.blob
        if waiting.extents is not None:
            return waiting.extents, waiting.digest, waiting.patched
        if waiting.shared is not None:
            return [(self._shared.id_of(waiting.shared), waiting.start, blob.size)], waiting.digest, {}
        extents = waiting.read()
        if sum(e[2] for e in extents) != blob.size or not blob.source.settled():
            if waiting.patching:
                waiting.patching.close()
            return self._extents_of(self._read_again(blob))
        blob.source.close()
        patched = waiting.patching.end(extents) if waiting.patching else {}
        return extents, _digest_of(extents, self._keys.chunk_ids[Kind.DATA]), patched

    def _made(self, waiting: _Waiting) -> Known:
        """What there is to know of a blob now that its chunks are."""
        blob = waiting.blob
        if waiting.known is not None:
            made = waiting.known.again(blob, waiting.view)
        else:
            extents, digest, patched = self._extents_of(waiting)
            ends, put = self._tree.ends_after(blob.path), partial(self._sink.put, self._keys)
            made = known_of(blob, digest, extents, patched, ends, waiting.view, put)
        if blob.view:
            self._rows.image(blob.path, made.pieces)
        return made

    def _keep(self, known: Known) -> None:
        """An entry into its place in the tree, its chunks into the list, and both into the host's memory."""
        self._bytes += known.size
        if len(known.chunks) == ID:  # nearly always one
            self._list.add(known.chunks)
        else:
            self._list.add_all(known.chunks)
        path, _, stamp = known.key.partition(b"\0")
        self._tree.add_encoded(path, known.entry, known.ends)
        if stamp and known.chunks and self._cache is not None:
            self._cache.remember(known)
        if known.size >= SMALL:
            self._blocks.seen(path)

    def _read_again(self, blob: Blob) -> _Waiting:
        """Read a blob that did not stand still from its start to wherever it ends now, until it does, or ATTEMPTS times."""
        blob.stamp = None
        for _ in range(ATTEMPTS):
            blob.size = end_of(blob.source, blob.size)
            extents, digest, patched = self._read_once(blob)
            if sum(length for _, _, length in extents) == blob.size and blob.source.settled():
                break
        else:
            self._restless.append(_shown(blob))
        blob.source.close()
        return _Waiting(blob, digest, extents, patched=patched)

    def _read_once(self, blob: Blob) -> tuple[list[Extent], bytes, Patched]:
        """Cut as any blob of its size, so that equal bytes have equal digests however often they had to be read."""
        if blob.size >= SMALL:
            waiting = self._start_large(blob)
            extents = waiting.read()
            patched = waiting.patching.end(extents) if waiting.patching else {}
            return extents, _digest_of(extents, self._keys.chunk_ids[Kind.DATA]), patched
        self._pace.spend(blob.size)
        data = memoryview(bytearray(blob.size))
        data = data[: read_fully(blob.source, 0, data)]
        self._progress(len(data))
        if not data:
            return [], EMPTY_DIGEST, {}
        return [self._store(data, Dtype.BYTES)], blake3(data, key=self._keys.chunk_ids[Kind.DATA]).digest(16), {}

    def _told(self) -> list[Finding]:
        """What happened to single blobs, each kind of trouble in one finding."""
        troubles = (
            (self._restless, f"changed while they were read, {ATTEMPTS} times over; each is kept as last read"),
            (self._lost, "left out: vanished or closed to this process before they were read"),
        )
        return [
            Finding(severity=Severity.WARNING, what=f"{len(names)} {what}", keys=tuple(names[:_MAX_KEYS]))
            for names, what in troubles
            if names
        ]

    def _put_page(self, kind: Kind, data: bytes) -> bytes:
        page = self._sink.put(self._keys, kind, data)
        self._list.add(page)
        return page


def _shown(blob: Blob) -> str:
    return blob.path.decode("utf-8", "backslashreplace")


def _digest_of(extents: list[Extent], key: bytes) -> bytes:
    """Equal bytes are cut alike, so the ids and lengths of the chunks stand for the bytes."""
    return blake3(b"".join(chunk + length.to_bytes(4, "little") for chunk, _, length in extents), key=key).digest(16)
