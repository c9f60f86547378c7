"""Reading a vault back: chunk by chunk, each one authenticated, decoded and checked against its id before it is used.

Whatever is wrong with the bytes, the answer is IntegrityError and never a guess; a flipped bit anywhere between the point's
record and the last chunk cannot become a silently wrong restore.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from copy import copy
from typing import Any, Protocol, TypeVar

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from resurgam.drivers.base import Blob, Item, Rows
from resurgam.errors import IntegrityError, NotFound
from resurgam.model.lazily import cached_property
from resurgam.stores.abreast import is_far, timed
from resurgam.stores.base import Several, Store, of_each_copy
from resurgam.vault import deltas
from resurgam.vault.ahead import Ahead, Fetched
from resurgam.vault.around import Around
from resurgam.vault.codecs import Codec, decode
from resurgam.vault.index import Place
from resurgam.vault.pack import FRAME, LARGEST, NO_SESSION, Kind, decrypt, parse_frame, require_bounded
from resurgam.vault.pouring import Rooms
from resurgam.vault.sink import ChunkKeys
from resurgam.vault.snapshots import Entry, Laid, SnapshotRoot, entries, extents_of, read_root
from resurgam.vault.source import VaultSource, lost

RUN = 256 << 10  # bytes that are written into a file at a time: as many as stay in a core's cache beside what is read
AHEAD = 1 << 20  # bytes of a pack that are read at a time where one chunk follows the other
_CACHED = 16  # decoded chunks kept, of those that small files share and of pages; at most a few MB each

T = TypeVar("T")


class Finder(Protocol):
    """Where chunks lie, as :class:`Index` tells it."""

    def find(self, chunk: bytes) -> Place | None:
        """Where ``chunk`` lies, or None."""
        ...

    def places(self, chunk: bytes) -> list[Place]:
        """Everywhere that it lies, as ``find`` first."""
        ...


# Of a pack that is gone and the index that names it: the index to use instead, where a prune took that pack.
Moved = Callable[[str, Any], Finder | None]
OpenSession = Callable[[bytes], AESGCM]  # session id to its cipher; Denied without an identity that opens it


class _Window:
    """What of a pack ``block`` holds."""

    def __init__(self) -> None:
        self.block = memoryview(b"")
        self.pack, self.start, self.end = "", 0, 0


class _Memory(threading.local):
    """What a thread reads packs into, and decrypts into. Fresh memory for every chunk would cost more than the decryption."""

    def __init__(self) -> None:
        # What changed in a file lies in another pack than the rest of it; the one last used stands first.
        self.windows = [_Window(), _Window()]
        self.plain = memoryview(bytearray(AHEAD))
        self.run = memoryview(bytearray(RUN))  # neighbours on their way into a file
        self.patched = memoryview(b"")  # a piece that is laid out from its parts


class ChunkReader:
    """Chunks of one shred domain. Thread-safe. ``index`` finds places; ``open_session`` gives the session keys."""

    def __init__(
        self,
        vault: bytes,
        store: Store,
        index: Finder,
        keys: ChunkKeys,
        open_session: OpenSession,
        moved: Moved = lambda _pack, _index: None,
    ) -> None:
        self._vault, self._store, self._index, self._keys = vault, store, index, keys
        self._open_session, self._moved = open_session, moved
        self.several = isinstance(store, Several)
        self._lock = threading.Lock()
        self._cache: OrderedDict[bytes, bytes] = OrderedDict()
        # Apart, for they are read far ahead of what small files share.
        self._pages: OrderedDict[bytes, bytes] = OrderedDict()
        self._memory = _Memory()
        self.rooms = Rooms()
        self._around = Around(store)
        self._ahead: Fetched | None = None

    @contextmanager
    def ahead(
        self, of: Callable[[], Iterator[T]], chunks: Callable[[T], Iterable[bytes]]
    ) -> Iterator[tuple[ChunkReader, Iterator[T]]]:
        """A reader that fetches beforehand the ``chunks`` that each ``of`` something needs, for as long as somebody goes through
        them; and those things. With a store that answers at once there is nothing to be gained, and all is as it was."""
        ahead = self.look_ahead(of, chunks)
        with closing(ahead) if ahead is not None else nullcontext():
            yield self.with_help_of(ahead), of() if ahead is None else ahead.entries()

    def look_ahead(
        self, of: Callable[[], Iterator[T]], chunks: Callable[[T], Iterable[bytes]], after: Ahead[T] | None = None
    ) -> Ahead[T] | None:
        """What fetches beforehand, to be closed; None where there is nothing to be gained."""
        if not is_far(self._store):
            return None
        return Ahead(self._store, of, chunks, self._index.find, self._open_session, after)

    def with_help_of(self, ahead: Fetched | None) -> ChunkReader:
        """A reader of the same chunks that takes what ``ahead`` has fetched."""
        reader = copy(self)
        reader._ahead = ahead
        return reader

    def chunks_of(self, entry: Entry) -> Iterator[bytes]:
        """The chunks that an entry consists of, in order."""
        return (chunk for chunk, _, _ in extents_of(entry, self.get))

    def get(self, chunk: bytes, kind: Kind) -> bytes:
        """The bytes of ``chunk``, kept for a while since neighbours will want them too."""
        kept = self._cache if kind == Kind.DATA else self._pages
        with self._lock:
            if (data := kept.get(chunk)) is not None:
                kept.move_to_end(chunk)
                return data
        return self._keep(kept, chunk, bytes(self.fetch(chunk, kind)))

    def _keep(self, kept: OrderedDict[bytes, bytes], chunk: bytes, data: bytes) -> bytes:
        with self._lock:
            kept[chunk] = data
            while len(kept) > _CACHED:
                kept.popitem(last=False)
        return data

    def get_piece(self, piece: Laid) -> memoryview:
        """The bytes of a piece, kept for a while. Raises as ``fetch``."""
        if piece.parts:
            with self._lock:
                data = self._cache.get(piece.chunk)
            return memoryview(
                data if data is not None else self._keep(self._cache, piece.chunk, bytes(self.fetch_piece(piece)))
            )
        return memoryview(self.get(piece.chunk, Kind.DATA))[piece.start : piece.start + piece.length]

    def fetch_piece(self, piece: Laid, room: memoryview | None = None) -> memoryview:
        """The bytes of a piece, good until this thread asks for others; or in ``room``, which has its length, where they can be
        made there at once. Raises as ``fetch``."""
        if piece.parts:
            try:
                return self._laid_out(piece)
            except IntegrityError:
                if (whole := self._stored_whole(piece)) is None:
                    raise
                return whole
        # Chunks of that size are used once; smaller pieces share theirs with neighbours.
        large = piece.length >= _BIG
        data = self.fetch(piece.chunk, Kind.DATA, room) if large else self.get(piece.chunk, Kind.DATA)
        return memoryview(data)[piece.start : piece.start + piece.length]

    def _stored_whole(self, piece: Laid) -> memoryview | None:
        """A patched piece as a chunk of its id, as which a capture stores it that finds its parts lost; None where none did."""
        if self._index.find(piece.chunk) is None:
            return None
        data = memoryview(self.fetch(piece.chunk, Kind.DATA))
        return data if len(data) == piece.length else None

    def _laid_out(self, piece: Laid) -> memoryview:
        """A patched piece from its parts: each chunk is decoded once, and those of patches are kept for the pieces beside it."""
        parts: dict[bytes, list[tuple[int, int, int]]] = {}
        end = 0
        delta = piece.parts[-1][0] if not piece.parts[-1][2] else None
        for chunk, start, length in piece.parts[: -1 if delta else None]:
            parts.setdefault(chunk, []).append((end, start, length))
            end += length
        if end != piece.length or not parts or end > LARGEST:
            raise lost(piece.chunk, f"its parts add up to {end} bytes, not {piece.length}")
        if len(self._memory.patched) < end:
            self._memory.patched = memoryview(bytearray(end))
        room = self._memory.patched[:end]
        # Of pages that moved, the next piece needs the rest of each chunk. A large one is kept for nobody.
        base = max(parts, key=lambda chunk: sum(length for _, _, length in parts[chunk])) if end > _BIG else None
        for chunk, places in parts.items():
            data = memoryview((self.fetch if chunk == base else self.get)(chunk, Kind.DATA))
            for at, start, length in places:
                if start + length > len(data):
                    raise lost(chunk, "it is shorter than its entry says")
                room[at : at + length] = data[start : start + length]
        if delta:
            made = deltas.room(end)
            deltas.apply(deltas.read(self.get(delta, Kind.DATA), end), room, made)
            room = made.data
        if self._keys.id_of(Kind.DATA, room) != piece.chunk:  # P1: nothing is silently wrong
            raise lost(piece.chunk, "its parts do not make it up")
        return room

    def fetch(self, chunk: bytes, kind: Kind, room: memoryview | None = None) -> bytes | bytearray | memoryview:
        """The bytes of ``chunk``, which must be of ``kind``; they are good until this thread asks for others, or lie in ``room``.

        Raises IntegrityError, Denied, Unreachable.
        """
        index = self._index
        place = index.find(chunk)
        if place is None:
            raise lost(chunk, "no pack is known to hold it")
        try:
            return self._fetch_at(place, chunk, kind, room)
        except IntegrityError:
            for other in index.places(chunk)[1:]:  # another writer may have stored it too
                with suppress(IntegrityError):
                    return self._fetch_at(other, chunk, kind, room)
            newer = self._moved(place.pack, index)
            if newer is None or newer is index:
                raise
        self._index = newer
        return self.fetch(chunk, kind, room)

    def _fetch_at(
        self, place: Place, chunk: bytes, kind: Kind, room: memoryview | None
    ) -> bytes | bytearray | memoryview:
        try:
            require_bounded(place.kind, place.stored, place.raw)
            return self._opened(self._read(place, chunk), place, chunk, kind, room)
        except IntegrityError:
            if self.several:  # what is spoilt or gone in one copy of the pack, another one may have
                with suppress(NotFound):
                    for frame in self._of_each_copy(place):
                        with suppress(IntegrityError):
                            return self._opened(frame, place, chunk, kind, room)
            raise

    def _of_each_copy(self, place: Place) -> Iterator[memoryview]:
        name, length = f"packs/{place.pack[:2]}/{place.pack}", FRAME + place.stored
        return map(memoryview, of_each_copy(self._store, name, place.offset, length))

    def _opened(
        self, frame_bytes: memoryview, place: Place, chunk: bytes, kind: Kind, room: memoryview | None
    ) -> bytes | bytearray | memoryview:
        frame = parse_frame(frame_bytes)
        if (frame.id, frame.kind, frame.stored, frame.raw) != (chunk, kind, place.stored, place.raw):
            raise lost(chunk, f"another one lies in its place in pack {place.pack[:16]}")
        cipher = self._keys.list_cipher(chunk) if frame.session == NO_SESSION else self._open_session(frame.session)
        memory = self._memory
        if len(memory.plain) < frame.stored:
            memory.plain = memoryview(bytearray(frame.stored))
        into = room if room is not None and len(room) == frame.raw else None
        plain = memory.plain if into is None or frame.codec != Codec.RAW else into
        encoded = decrypt(cipher, self._vault, frame_bytes, frame, plain)
        data = decode(frame.codec, encoded, frame.raw, lasting=False, into=into)
        if self._keys.id_of(kind, data) != chunk:
            raise lost(chunk, "its bytes do not have its id")
        return data

    def run(self) -> memoryview:
        """Memory of this thread, of RUN bytes, in which nothing is kept."""
        return self._memory.run

    def _read(self, place: Place, chunk: bytes) -> memoryview:
        """The frame at ``place``; and what follows it, where this thread is reading a pack from chunk to chunk."""
        memory, length = self._memory, FRAME + place.stored
        if self._ahead is not None:
            with _in_pack(place, chunk):
                fetched = self._ahead.take(place)
            if fetched is not None:
                return fetched
        if place.kind != Kind.DATA and is_far(self._store):
            with _in_pack(place, chunk):
                found = self._around.read(place.pack, place.offset, length)
            return _whole(found, length, place, chunk)
        there = [one for one in memory.windows if one.pack == place.pack and one.start <= place.offset <= one.end]
        window = there[0] if there else memory.windows[-1]
        memory.windows.sort(key=lambda one: one is not window)
        if not there or place.offset + length > window.end:
            wanted = max(length, AHEAD) if there else length
            window.pack = ""
            if len(window.block) < wanted:
                window.block = memoryview(bytearray(max(wanted, AHEAD)))
            with _in_pack(place, chunk), timed(self._store):
                name = f"packs/{place.pack[:2]}/{place.pack}"
                done = self._store.read_into(name, place.offset, window.block[:wanted])
            _whole(window.block[:done], length, place, chunk)
            window.pack, window.start, window.end = place.pack, place.offset, place.offset + done
        return window.block[place.offset - window.start :][:length]


class SnapshotReader:
    """One component's snapshot."""

    def __init__(self, reader: ChunkReader, tree: bytes) -> None:
        self._reader = reader
        self._tree = tree
        self.get = reader.get

    @cached_property
    def root(self) -> SnapshotRoot:
        """Where it begins. Raises IntegrityError, NewerFormat, as all that is asked of it."""
        return read_root(self._tree, self._reader.get)

    def entries(self) -> Iterator[Entry]:
        """All entries in path order."""
        return entries(self.root.blobs, self._reader.get)

    def blob(self, entry: Entry) -> Blob:
        """One entry of this snapshot, to be read."""
        return Blob(entry.path, entry.size, VaultSource(self._reader, entry), entry.meta)

    def items(self) -> Iterator[Item]:
        """What a driver writes back. Tables that are views come with no rows: their image holds them."""
        ahead = self.look_ahead()
        with closing(ahead) if ahead is not None else nullcontext():
            yield from self.items_by(ahead)

    def look_ahead(self, after: Ahead[Entry] | None = None) -> Ahead[Entry] | None:
        """See ``ChunkReader``."""
        return self._reader.look_ahead(self.entries, self._reader.chunks_of, after)

    def items_by(self, ahead: Ahead[Entry] | None) -> Iterator[Item]:
        """As ``items``, with what ``ahead`` fetches, which its maker closes."""
        reader = self._reader.with_help_of(ahead)
        for entry in self.entries() if ahead is None else ahead.entries():
            yield Blob(entry.path, entry.size, VaultSource(reader, entry), entry.meta)
        for table in self.root.tables:
            yield Rows(table.name, tuple(table.columns), tuple(table.key), (), table.view_of)


_BIG = 64 << 10


@contextmanager
def _in_pack(place: Place, chunk: bytes) -> Iterator[None]:
    """A pack that has gone is the loss of ``chunk``."""
    try:
        yield
    except NotFound as error:
        raise lost(chunk, f"pack {place.pack[:16]} is missing") from error


def _whole(found: memoryview, length: int, place: Place, chunk: bytes) -> memoryview:
    """``found`` itself, of which ``length`` bytes were wanted at least."""
    if len(found) < length:
        raise lost(chunk, f"pack {place.pack[:16]} is cut off")
    return found
