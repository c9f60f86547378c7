"""Reading ahead: what a restore will need next is fetched while it works on what it has.

Chunks are small and requests to a distant store are slow, so nobody who reads chunk by chunk ever restores at the speed of the
line. What comes next is known, though: the entries of a snapshot in their order, and of each its chunks.

    entries --> their chunks, LOOK bytes of them at a time --> where they lie --> neighbours together --> ranges, read side by side

A pack's neighbours become one range of up to ``RANGE`` bytes, with what lies between them where that is less than ``GAP``: reading
it costs less than another request. Two threads have filled two packs by turns, so chunks that follow each other lie in turns in
both; therefore many are looked at before anything is asked for.

Of several snapshots one is begun when all of the one before it has been asked for (``after``), so that nobody waits at its
beginning.

No more than ``WINDOW`` bytes are held, on their way or not used yet; one look more where the reader waits for it. Whoever needs a
chunk takes it out (:meth:`Ahead.take`); what was not foreseen is simply not here, and is read as if there were no reading ahead. So
nothing rests on this but speed: a range that fails fails its own reader, and bytes are believed no sooner than any others.
"""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from resurgam.errors import ResurgamError
from resurgam.stores.base import Store, lent
from resurgam.vault.index import Place
from resurgam.vault.pack import FRAME, LARGEST_PAGE, NO_SESSION, Kind, parse_frame

# Bytes of one request at most, but for a chunk that is larger. With 8 MiB both sides work a twentieth longer, with 4 a tenth more:
# a server keeps objects in parts of 8 MiB or so, and whoever begins in the middle of one has it opened twice.
RANGE = 16 << 20
GAP = 128 << 10  # bytes that are read for nothing rather than asked around
LOOK = 32 << 20  # bytes of chunks that are put together into ranges at a time
WINDOW = 48 << 20  # bytes held at most
READS = 16  # requests under way
_ENTRIES = 4096  # entries that wait for their reader
_RECENT = 512  # chunks that are not asked for again so soon: their readers keep them

T = TypeVar("T")  # an entry
Key = tuple[str, int]  # pack, offset


class Fetched(Protocol):
    """What was fetched before anybody asked for it, as :class:`Ahead` has it."""

    def take(self, place: Place) -> memoryview | None:
        """The frame at ``place``, or None."""
        ...


@dataclass(slots=True)
class Range:
    """``length`` bytes of ``pack`` from ``start``, and the frames in them that are wanted, by their offsets."""

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
    left: set[int] = field(default_factory=set)


class _Room:
    """What all who read ahead for one restore hold together, in bytes; and where they wait for each other."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.bytes = 0


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
        self._where: dict[Key, _Held] = {}
        self._asked = self._look = 0
        self._all_asked = False
        self._idle = False  # the reader has used all that it was given, and waits for more
        self._coming: set[Key] = set()  # what is about to be asked for
        self._waiting = 0  # readers that wait until it has been
        self._passed: set[Key] = set()  # read before they were asked for
        self._stopping = False
        self._sessions: set[bytes] = set()
        self._entries: queue.Queue[T | _End] = queue.Queue(_ENTRIES)
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
                self._waiting += 1
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._stopping or key not in self._coming)
                self._waiting -= 1
            held = self._where.pop(key, None)
            if held is None:
                self._passed |= {key} if place.kind == Kind.DATA else set()
                return None
            held.left.discard(place.offset)
            if not held.left:
                self._let_go(held)
            self._forget_before(held.at - WINDOW // 2)
        start = place.offset - held.range.start
        return held.data.result()[start : start + FRAME + place.stored]

    def close(self) -> None:
        """Stop, and hold nothing; repeatable."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        with suppress(queue.Empty):
            while True:  # so that who waits for room in the queue goes on, and stops
                self._entries.get_nowait()
        self._thread.join()
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._changed:
            for held in [*self._held.values()]:
                self._let_go(held)
            self._where.clear()

    # In the thread that looks ahead ---------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._wait_for_those_before()
            for entries, places in self._looks():
                self._look = self._asked
                ranges = ranges_of(places)
                with self._changed:
                    self._coming = {(wanted.pack, offset) for wanted in ranges for offset in wanted.wanted}
                for wanted in ranges:
                    self._ask(wanted)
                for entry in entries:
                    self._hand_over(entry)
                if self._stopping:
                    return
            self._let_others_begin()
        except Exception as error:  # noqa: BLE001 - raised by ``entries``, in its turn
            self._hand_over(_End(error))
        else:
            self._hand_over(_End())
        finally:
            self._let_others_begin()

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

    def _hand_over(self, entry: T | _End) -> None:
        while not self._stopping:
            with suppress(queue.Full):
                self._entries.put(entry, timeout=1.0)
                return

    def _ask(self, wanted: Range) -> None:
        """Send a request when there is room for its answer, or when nobody is left to make room."""
        room = self._room
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._stopping
                    or self._idle
                    or self._waiting
                    or not room.bytes
                    or room.bytes + wanted.length <= WINDOW
                )
            )
            self._coming -= {(wanted.pack, offset) for offset in wanted.wanted}
            if self._waiting:
                self._changed.notify_all()
            passed = {offset for offset in wanted.wanted if (wanted.pack, offset) in self._passed}
            self._passed -= {(wanted.pack, offset) for offset in passed}
            wanted.wanted = [offset for offset in wanted.wanted if offset not in passed]
            if self._stopping or not wanted.wanted:
                return
            held = _Held(wanted, self._asked, self._pool.submit(self._read, wanted), set(wanted.wanted))
            self._held[id(held)] = held
            self._where |= {(wanted.pack, offset): held for offset in wanted.wanted}
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
        data = lent(self._store, f"packs/{wanted.pack[:2]}/{wanted.pack}", wanted.start, wanted.length)
        for offset in wanted.wanted:
            header = data[offset - wanted.start :][:FRAME]
            with suppress(ResurgamError):  # whoever reads the chunk meets it again, and says so
                self._get_ready(parse_frame(header).session)
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
        packs.setdefault(place.pack, []).append((place.offset, FRAME + place.stored, turn))
    found: list[tuple[int, Range]] = []
    for pack, frames in packs.items():
        last: Range | None = None
        first = 0
        for offset, length, turn in sorted(frames):
            end = offset + length
            if last is not None and offset - (last.start + last.length) <= GAP and end - last.start <= RANGE:
                last.length, first = max(last.length, end - last.start), min(first, turn)
                if last.wanted[-1] != offset:
                    last.wanted.append(offset)
                found[-1] = (first, last)
                continue
            last, first = Range(pack, offset, length, [offset]), turn
            found.append((first, last))
    return [wanted for _, wanted in sorted(found, key=lambda one: one[0])]
