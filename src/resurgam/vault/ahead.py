"""Reading ahead: what a restore will need next is fetched while it works on what it has.

Chunks are small and requests to a distant store are slow, so nobody who reads chunk by chunk ever restores at the speed of the
line. What comes next is known, though: the entries of a snapshot in their order, and of each its chunks.

    entries --> their chunks, LOOK bytes of them at a time --> where they lie --> neighbours together --> ranges, read side by side

A pack's neighbours are asked for together, with what lies between them where that is less than ``GAP``: reading it costs less than
another request. What is longer than ``RANGE`` is cut where a server cuts an object that it keeps, so that it opens no part of it
twice; a chunk on both sides of a cut is put together from two answers. Two threads have filled two packs by turns, so chunks that
follow each other lie in turns in both; therefore many are looked at before anything is asked for.

Of several snapshots one is begun when all of the one before it has been asked for (``after``), so that nobody waits at its
beginning.

No more than ``WINDOW`` bytes are held, on their way or not used yet, and more only where the reader waits for what comes behind
them; they lie in memory that is used again (``arena``). Whoever needs a chunk takes it out (:meth:`Ahead.take`); what was not
foreseen is simply not here, and is read as if there were no reading ahead. So nothing rests on this but speed: a range that fails
fails its own reader, and bytes are believed no sooner than any others.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import Any, Generic, Protocol, TypeVar

from resurgam.errors import ResurgamError
from resurgam.stores.base import Store
from resurgam.vault.arena import Arena
from resurgam.vault.index import Place
from resurgam.vault.pack import FRAME, LARGEST_PAGE, NO_SESSION, Kind, parse_frame

# Bytes of one request at most. Servers keep objects in parts of 8 MiB or so (SeaweedFS does, and so do clients of S3 that upload
# in parts), and whoever begins in the middle of one has it opened twice. Longer ones leave less of the window for what comes next.
RANGE = 8 << 20
GAP = 128 << 10  # bytes that are read for nothing rather than asked around
LOOK = 128 << 20  # bytes of chunks that are put together into ranges at a time
WINDOW = 48 << 20  # bytes held at most
READS = 16  # requests under way
_ENTRIES = 4096  # entries that wait for their reader; four looks
_RECENT = 512  # chunks that are not asked for again so soon: their readers keep them

T = TypeVar("T")  # an entry
Key = tuple[str, int]  # pack, offset
Lying = tuple[int, int, int]  # where in its pack a frame begins and ends, and its turn


class Fetched(Protocol):
    """What was fetched before anybody asked for it, as :class:`Ahead` has it."""

    def take(self, place: Place) -> memoryview | None:
        """The frame at ``place``, or None."""
        ...


@dataclass(slots=True)
class Range:
    """``length`` bytes of ``pack`` from ``start``, and the offsets of the frames that are wanted and lie in them, or in part."""

    pack: str
    start: int
    length: int
    wanted: list[int]


@dataclass(slots=True)
class _Held:
    """A range on its way or here; ``at`` counts the bytes that were asked for before it, ``left`` the frames not taken yet."""

    range: Range
    at: int
    data: Future[memoryview]
    left: set[int]

    def share_of(self, place: Place) -> int:
        """How many bytes of the frame at ``place`` lie in it."""
        begin, start = place.offset, self.range.start
        return min(begin + FRAME + place.stored, start + self.range.length) - max(begin, start)

    def part_of(self, place: Place) -> memoryview:
        """What of the frame at ``place`` lies in it, waited for. Raises what the store raised."""
        begin, start = place.offset, self.range.start
        return self.data.result()[max(begin - start, 0) : max(begin + FRAME + place.stored - start, 0)]


class _Room:
    """What all who read ahead for one restore hold together, in bytes; and where they wait for each other."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.bytes = 0
        self.memory = Arena(WINDOW + 3 * RANGE, 1 << 20)  # what was let go is looked at a moment longer


class _End:
    """What comes after the last entry: nothing, or what stopped the reading ahead."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error


class Ahead(Generic[T]):
    """Reads ahead of whoever goes through :meth:`entries`; within its ``with`` only. Safe from several threads."""

    def __init__(
        self,
        store: Store,
        entries: Callable[[], Iterator[T]],
        chunks: Callable[[T], Iterable[bytes]],
        find: Callable[[bytes], Place | None],
        warm: Callable[[bytes], object],
        after: Ahead[Any] | None = None,
    ) -> None:
        """``entries`` in order, the ``chunks`` of one, where to ``find`` a chunk; ``warm`` gets the key of a session ready.
        Nothing is read before all has been asked for that is to be read ``after``; the window is then one of both."""
        self._store, self._source, self._chunks, self._find, self._warm = store, entries, chunks, find, warm
        self._after = after
        self._room: _Room = after._room if after is not None else _Room()
        self._changed = self._room.changed
        self._held: OrderedDict[int, _Held] = OrderedDict()
        self._where: dict[Key, list[_Held]] = {}
        self._asked = self._look = 0
        self._all_asked = False
        self._idle = False  # the reader has used all that it was given, and waits for more
        self._coming: Counter[Key] = Counter()  # what is about to be asked for, and in how many requests
        self._awaited: list[Key] = []  # what readers wait for until it has been
        self._passed: set[Key] = set()  # read before they were asked for
        self._stopping = False
        self._sessions: set[bytes] = set()
        self._entries: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
        self._places_free = threading.Semaphore(_ENTRIES)  # for entries
        self._pool = ThreadPoolExecutor(READS, thread_name_prefix="ahead")
        self._thread = threading.Thread(target=self._run, name="look-ahead", daemon=True)
        self._thread.start()

    def entries(self) -> Iterator[T]:
        """All entries, each when what comes first of it is on its way. Raises what reading them raised."""
        while not isinstance(entry := self._next(), _End):
            yield entry
        if entry.error is not None:
            raise entry.error

    def _next(self) -> T | _End:
        self._places_free.release()
        with suppress(queue.Empty):
            return self._entries.get_nowait()
        with self._changed:
            self._idle = True
            if self._entries.empty():
                self._forget_before(self._look)
            self._changed.notify_all()
        try:
            return self._entries.get()
        finally:
            self._idle = False

    def take(self, place: Place) -> memoryview | None:
        """The frame at ``place``, waited for where it is on its way; None where it was not foreseen, or was taken already.
        Raises what the store raised."""
        key = (place.pack, place.offset)
        with self._changed:
            if key in self._coming:
                self._awaited.append(key)
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._stopping or key not in self._coming)
                self._awaited.remove(key)
            ranges = self._where.pop(key, [])
            for held in ranges:
                held.left.discard(place.offset)
                if not held.left:
                    self._let_go(held)
            if not ranges:
                self._passed |= {key} if place.kind == Kind.DATA else set()
            if sum(held.share_of(place) for held in ranges) < FRAME + place.stored:
                return None  # not foreseen, or one side of a cut was forgotten before the other was asked for
            self._forget_before(ranges[0].at - WINDOW // 2)
        return _joined([held.part_of(place) for held in sorted(ranges, key=lambda held: held.range.start)])

    def close(self) -> None:
        """Stop, and hold nothing; repeatable."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._places_free.release(_ENTRIES)  # so that who waits for one goes on, and stops
        self._thread.join()
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._changed:
            for held in [*self._held.values()]:
                self._let_go(held)
            self._where.clear()

    # In the thread that looks ahead ---------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            for entries, places in self._looks():
                self._wait_for_those_before()
                self._ask_for(entries, places)
                if self._stopping:
                    return
            self._let_others_begin()
        except Exception as error:  # noqa: BLE001 - raised by ``entries``, in its turn
            self._entries.put(_End(error))
        else:
            self._entries.put(_End())
        finally:
            self._let_others_begin()

    def _ask_for(self, entries: list[T], places: list[Place]) -> None:
        """Send the requests of a look, and hand its entries over when the first is on its way: whoever needs more waits for it, and
        is not given chunk by chunk what is about to come anyway."""
        self._look = self._asked
        with self._changed:
            wanted = {(place.pack, place.offset): place for place in places}
            known = [key for key in wanted if key in self._passed or key in self._where]
            self._passed.difference_update(known)
            for key in known:
                del wanted[key]
            ranges = ranges_of(wanted.values())
            self._coming = Counter((one.pack, offset) for one in ranges for offset in one.wanted)
        for one in ranges[:1]:
            self._ask(one)
        if entries:
            with self._changed:
                self._idle = False  # from now on, however late it wakes up
        for entry in entries:
            self._entries.put(entry)
        for one in ranges[1:]:
            self._ask(one)

    def _wait_for_those_before(self) -> None:
        if (before := self._after) is not None:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or before._all_asked)
            self._after = None

    def _let_others_begin(self) -> None:
        with self._changed:
            self._all_asked = True
            self._coming.clear()
            self._changed.notify_all()

    def _looks(self) -> Iterator[tuple[list[T], list[Place]]]:
        """Entries that begin, and where chunks of theirs and of those before lie: LOOK bytes, and the rest."""
        begun: list[T] = []
        places: list[Place] = []
        size, recent = 0, OrderedDict[bytes, None]()
        for entry in self._source():
            self._places_free.acquire()
            begun.append(entry)
            for chunk in self._chunks(entry):
                if chunk in recent or (place := self._find(chunk)) is None:
                    continue
                if place.stored > LARGEST_PAGE:
                    continue  # whoever reads it refuses it
                recent[chunk] = None
                if len(recent) > _RECENT:
                    recent.popitem(last=False)
                places.append(place)
                size += place.stored
                if size >= LOOK:
                    yield begun, places
                    begun, places, size = [], [], 0
            if len(begun) >= _ENTRIES // 4:
                yield begun, places
                begun, places, size = [], [], 0
        yield begun, places

    def _ask(self, wanted: Range) -> None:
        """Send a request when there is room for its answer, or when nobody is left to make room."""
        room = self._room
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._stopping
                    or self._idle
                    or any(key in self._coming for key in self._awaited)
                    or not room.bytes
                    or room.bytes + wanted.length <= WINDOW
                )
            )
            if self._stopping:
                return
            held = _Held(wanted, self._asked, self._pool.submit(self._read, wanted), set(wanted.wanted))
            self._held[id(held)] = held
            for key in [(wanted.pack, offset) for offset in wanted.wanted]:
                self._where.setdefault(key, []).append(held)
                self._coming[key] -= 1
                if not self._coming[key]:
                    del self._coming[key]
            if self._awaited:
                self._changed.notify_all()
            room.bytes += wanted.length
            self._asked += wanted.length

    def _let_go(self, held: _Held) -> None:
        if self._held.pop(id(held), None) is not None:
            self._room.bytes -= held.range.length
            self._changed.notify_all()

    def _forget_before(self, at: int) -> None:
        """What readers have passed by as a whole they will not come back for."""
        for held in [one for one in self._held.values() if one.at + one.range.length <= at]:
            for offset in held.left:
                self._where.pop((held.range.pack, offset), None)
            self._let_go(held)

    # In the threads that read ---------------------------------------------------------------------------------------

    def _read(self, wanted: Range) -> memoryview:
        room = self._room.memory.lend(wanted.length)
        name = f"packs/{wanted.pack[:2]}/{wanted.pack}"
        data = room[: self._store.read_into(name, wanted.start, room)]
        for at in [offset - wanted.start for offset in wanted.wanted if offset >= wanted.start]:
            with suppress(ResurgamError):  # whoever reads the chunk meets it again, and says so
                self._get_ready(parse_frame(data[at : at + FRAME]).session)
        return data

    def _get_ready(self, session: bytes) -> None:
        with self._changed:
            if session == NO_SESSION or session in self._sessions:
                return
            self._sessions.add(session)
        self._warm(session)


def ranges_of(places: Iterable[Place]) -> list[Range]:
    """The ranges in which chunks lie, in the order in which the first of each is needed."""
    packs: dict[str, list[tuple[int, int, int]]] = {}
    for turn, place in enumerate(places):
        packs.setdefault(place.pack, []).append((place.offset, place.offset + FRAME + place.stored, turn))
    found = [
        one
        for pack, frames in packs.items()
        for together in _neighbours(sorted(frames))
        for one in _cut(pack, together)
    ]
    return [wanted for _, wanted in sorted(found, key=itemgetter(0))]


def _neighbours(frames: list[Lying]) -> Iterator[list[Lying]]:
    """``frames`` in the order in which they lie, in groups that are asked for together."""
    group: list[Lying] = []
    end = 0
    for frame in frames:
        if group and frame[0] - end > GAP:
            yield group
            group = []
        group.append(frame)
        end = max(end, frame[1])
    if group:
        yield group


def _cut(pack: str, frames: list[Lying]) -> Iterator[tuple[int, Range]]:
    """The ranges of neighbours, each with the turn of its first frame."""
    start, end = frames[0][0], max(frame[1] for frame in frames)
    cuts = [start, *range(start - start % RANGE + RANGE, end, RANGE), end] if end - start > RANGE else [start, end]
    for begin, stop in pairwise(cuts):
        inside = [frame for frame in frames if frame[0] < stop and frame[1] > begin]
        if inside:
            first = max(begin, inside[0][0])
            last = min(stop, max(frame[1] for frame in inside))
            wanted = [*dict.fromkeys(frame[0] for frame in inside)]
            yield min(frame[2] for frame in inside), Range(pack, first, last - first, wanted)


def _joined(parts: list[memoryview]) -> memoryview:
    return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
