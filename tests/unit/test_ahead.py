"""Reading ahead: which ranges, in which order, how much of it, and that nothing but speed rests on it."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resurgam.errors import IntegrityError, Unreachable
from resurgam.restore.run import restore
from resurgam.stores.base import Buffer, Entry
from resurgam.testing.faults import MemoryStore, Wrapped
from resurgam.testing.rounds import RoundStore
from resurgam.vault import ahead
from resurgam.vault.ahead import Ahead, ranges_of
from resurgam.vault.arena import Arena
from resurgam.vault.around import AROUND
from resurgam.vault.buffers import WINDOW
from resurgam.vault.chunking import HEAD
from resurgam.vault.index import Place
from resurgam.vault.pack import FRAME, PACK_SIZE, Kind
from resurgam.vault.sink import IN_FLIGHT
from resurgam.vault.snapshots import Entry as Item
from resurgam.vault.writer import THREADS
from tests.support import World, copied
from tests.threads import none_left

PLACES = st.lists(
    st.builds(
        lambda pack, at, size: Place(pack * 64, at * 4096, size, size, Kind.DATA),
        st.sampled_from("abc"),
        st.integers(0, 4000),
        st.integers(1, 4000),
    ),
    max_size=60,
)


# --- which ranges ----------------------------------------------------------------------------------------------------


@given(PLACES)
def test_every_place_lies_in_a_range_and_ranges_are_bounded(places: list[Place]) -> None:
    """Whatever lies where: each frame is in exactly one range of its pack, in full, where none is long enough to be cut."""
    ranges = ranges_of(places)
    for place in places:
        (found,) = [one for one in ranges if one.pack == place.pack and place.offset in one.wanted]
        assert found.start <= place.offset
        assert place.offset + FRAME <= found.start + found.length
    for one in ranges:
        assert one.wanted == sorted(set(one.wanted))
        assert one.length <= ahead.RANGE
        assert all(b - a <= ahead.GAP + 4096 + 4000 for a, b in pairwise(one.wanted))


@given(st.integers(0, 40 << 20), st.lists(st.integers(1, 12 << 20), min_size=1, max_size=30))
def test_long_neighbours_are_cut_where_servers_cut_objects_and_nothing_is_asked_for_twice(
    begin: int, sizes: list[int]
) -> None:
    """P11: what lies together is asked for once, in ranges of at most RANGE bytes that begin and end where parts of a stored object
    do; each frame is wanted in just the ranges in which some of it lies."""
    places, at = [], begin
    for size in sizes:
        places.append(Place("a" * 64, at, size, size, Kind.DATA))
        at += FRAME + size
    ranges = sorted(ranges_of(places), key=lambda one: one.start)
    assert ranges[0].start == begin
    assert all(one.start + one.length == following.start for one, following in pairwise(ranges)), "no gap, no overlap"
    assert ranges[-1].start + ranges[-1].length == at
    assert all(one.start % ahead.RANGE == 0 for one in ranges[1:])
    for one in ranges:
        assert 0 < one.length <= ahead.RANGE
        end = one.start + one.length
        assert one.wanted == [p.offset for p in places if p.offset < end and p.offset + FRAME + p.stored > one.start]


def test_chunks_that_two_threads_stored_by_turns_are_two_ranges() -> None:
    """Two threads fill two packs by turns: what follows each other in a file lies in turns in both; that is one request each."""
    places = [Place("ab"[n % 2] * 64, 64 + (n // 2) * 1080, 1000, 1000, Kind.DATA) for n in range(1000)]
    ranges = ranges_of(places)
    assert [one.pack[0] for one in ranges] == ["a", "b"], "in the order in which they are needed"
    assert [len(one.wanted) for one in ranges] == [500, 500]


def test_what_lies_far_apart_is_not_read_in_between() -> None:
    far = 10 * ahead.GAP
    ranges = ranges_of([Place("a" * 64, 64, 100, 100, 1), Place("a" * 64, far, 100, 100, 1)])
    assert sum(one.length for one in ranges) == 2 * (FRAME + 100)


# --- a whole restore ---------------------------------------------------------------------------------------------------


def world_of(tmp_path: Path, files: dict[bytes, bytes]) -> World:
    world = World(str(tmp_path))
    world.live.files = files
    world.capture()
    return world


def large_and_small(rng: Random) -> dict[bytes, bytes]:
    """40 MB in two files, and 3,000 small ones in between."""
    files = {f"{n:04d}".encode(): rng.randbytes(rng.randrange(1, 6000)) for n in range(3000)}
    return files | {b"0500-large": rng.randbytes(30 << 20), b"1500-large": rng.randbytes(10 << 20)}


def test_a_restore_takes_few_rounds_however_many_files(tmp_path: Path) -> None:
    """P11: 3,002 files of 50 MB in some hundred chunks of several packs come back in at most 30 rounds of requests (14 where
    nothing else runs); read chunk by chunk it would be over two hundred."""
    files = large_and_small(Random(1))
    world = world_of(tmp_path, files)
    store = RoundStore(world.store, quiet=0.1)
    repository = world.repository(store)
    assert world.restored(repository.resolve("latest", to_read=True), repository) == {"files": files}
    assert store.rounds <= 30, [(len(calls), calls[0]) for calls in store.history]
    assert store.most >= 4  # of 16 MiB each


def test_what_contents_are_found_by_is_got_ready_while_points_are_read(tmp_path: Path) -> None:
    """P11: the index is listed after the points (a point that is listed is found whole), and with them read; asked for in vain,
    nothing is lost: the error comes where the index is asked for (P12)."""
    world = world_of(tmp_path, {b"a": b"x"})
    store = RoundStore(world.store, 0.05)
    repository = world.repository(store)
    before = store.rounds
    sealed = repository.resolve("latest", to_read=True)
    when = {
        call.split("/")[0]: n for n, calls in reversed([*enumerate(store.history)]) for call in calls if n >= before
    }
    assert when["list points"] < when["get points"]
    assert when["list points"] < when["list index"] <= when["get points"] + 1
    assert {"index", "here"} <= vars(repository).keys()
    asked = store.calls
    repository.index  # noqa: B018
    assert store.calls == asked
    near = world.repository()
    assert near.resolve("latest", to_read=True) == sealed
    assert "index" not in vars(near), "a store that answers at once is asked for what is needed, when it is"


def test_a_capture_takes_few_rounds_however_many_packs_and_points(tmp_path: Path) -> None:
    """P11, format section 2: packs go abreast and before the segment, that before the point; history is read abreast."""
    world = world_of(tmp_path, {b"first": b"x"})
    for n in range(12):
        world.live.files[b"more"] = os.urandom(1000 + n)
        world.capture()
    world.live.files[b"large"] = os.urandom(120 << 20)
    store = RoundStore(world.store)
    world.capture(store)
    assert store.rounds <= 40, [(len(calls), calls[0]) for calls in store.history]
    when = {what: [n for n, calls in enumerate(store.history) if any(c.startswith(f"put {what}") for c in calls)]
            for what in ("leases/", "keys/", "packs/", "index/", "points/", "log/")}  # fmt: skip
    assert max(sum(call.startswith("put packs/") for call in calls) for calls in store.history) >= 2
    assert when["leases/"][-1] < when["keys/"][0] <= when["keys/"][-1] < when["packs/"][0]
    assert when["packs/"][-1] < when["index/"][0] <= when["index/"][-1] < when["points/"][0] < when["log/"][0]


def test_memory_is_bounded_by_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far the reading ahead could run, also where it knows more than fits, no more than its window is on its way or waiting
    to be used: a file is begun when the first of it is on its way, and not when all is that was looked at."""
    monkeypatch.setattr(ahead, "WINDOW", 6 << 20)
    monkeypatch.setattr(ahead, "RANGE", 1 << 20)
    monkeypatch.setattr(ahead, "LOOK", 32 << 20)
    held: list[int] = []
    ask = Ahead._ask

    def asked(self: Ahead[Any], wanted: ahead.Range) -> None:
        ask(self, wanted)
        held.append(self._room.bytes)

    monkeypatch.setattr(Ahead, "_ask", asked)
    files = {b"large": Random(2).randbytes(40 << 20)}
    world = world_of(tmp_path, files)
    repository = world.repository(RoundStore(world.store, 0.002))
    assert world.restored(repository.resolve("latest"), repository) == {"files": files}
    assert len(held) > 5
    assert max(held) <= 6 << 20


def wait_until(so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def ahead_of(sizes: list[int]) -> tuple[Ahead[Item], list[list[Place]]]:
    """Reading ahead of one entry whose chunks lie by twos in packs of those sizes, each of which is a range."""
    store, places = MemoryStore(), []
    for number, size in enumerate(sizes):
        pack, half = f"{number:02d}" * 32, size // 2 - FRAME
        store.put(f"packs/{pack[:2]}/{pack}", Random(number).randbytes(size))
        places.append([Place(pack, at, half, half, Kind.DATA) for at in (0, half + FRAME)])
    every = {f"{n:032d}".encode(): place for n, place in enumerate(place for two in places for place in two)}
    entry = Item(b"a", 0, b"", {}, [], [])
    return Ahead(store, lambda: iter([entry]), lambda _: every, every.get, lambda _: None), places


def test_what_is_about_to_be_asked_for_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """P11: a reader that is further than the window allows has the window stretched, and does not read chunk by chunk instead."""
    monkeypatch.setattr(ahead, "WINDOW", 1 << 20)
    reading, places = ahead_of([1 << 20] * 3)
    try:
        wait_until(lambda: reading._asked > 0)  # as whoever is given an entry finds it
        for place in (places[0][0], places[2][1], places[1][0]):
            assert reading.take(place) is not None
    finally:
        reading.close()


class Late(queue.SimpleQueue[Any]):
    """Whoever has got something does not notice before it is told to."""

    def __init__(self) -> None:
        self.noticed = threading.Event()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """As there, and later."""
        found = super().get(block, timeout)
        assert self.noticed.wait(30)
        return found


def test_a_reader_that_wakes_up_late_does_not_stretch_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """P11: who was given an entry has something to do, and waits for nothing, however busy the machine."""
    monkeypatch.setattr(ahead, "WINDOW", 1 << 20)
    begin, looks, late = threading.Event(), Ahead._looks, Late()

    def looked(self: Ahead[Item]) -> Iterator[tuple[list[Item], list[Place]]]:
        assert begin.wait(30)
        yield from looks(self)

    monkeypatch.setattr(Ahead, "_looks", looked)
    reading, _ = ahead_of([1 << 20] * 5)
    reading._entries = late
    reader = threading.Thread(target=lambda: next(reading.entries()))
    try:
        reader.start()
        wait_until(lambda: reading._idle)
        begin.set()
        wait_until(lambda: reading._asked == 5 << 20 or bool(vars(reading._changed)["_waiters"]))
        assert reading._asked == 1 << 20
    finally:
        begin.set()
        late.noticed.set()
        reader.join()
        reading.close()


def test_a_slow_reader_finds_the_rest_of_its_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """P11: a range is forgotten when all of it lies half a window behind, and not when its beginning does."""
    monkeypatch.setattr(ahead, "WINDOW", 8 << 20)
    reading, places = ahead_of([2_600_000] * 3)
    try:
        wait_until(lambda: reading._asked > 6_000_000)
        assert reading.take(places[0][0]) is not None
        assert reading.take(places[2][0]) is not None
        assert reading.take(places[0][1]) is not None
    finally:
        reading.close()


def test_packs_are_read_once_and_along_the_parts_of_their_objects(tmp_path: Path) -> None:
    """P11: of packs that are wanted whole, no byte is asked for twice, and nearly all are asked for along the parts of 8 MiB in
    which a server keeps them, each of which it then opens once. What lies across two answers comes back."""
    files = {b"large": Random(8).randbytes(100 << 20)}
    world = world_of(tmp_path, files)
    store = RoundStore(world.store, 0.002)
    repository = world.repository(store)
    assert world.restored(repository.resolve("latest"), repository) == {"files": files}
    asked = [call.split()[1:] for calls in store.history for call in calls if call.startswith("read packs/")]
    long = [(pack, int(at), int(length)) for pack, at, length in asked if int(length) > AROUND]
    read: dict[str, list[tuple[int, int]]] = {}
    for pack, at, length in sorted(long):
        read.setdefault(pack, []).append((at, at + length))
    assert all(one[1] <= following[0] for ranges in read.values() for one, following in pairwise(ranges))
    parts = sum((at + length - 1) // ahead.RANGE - at // ahead.RANGE + 1 for _, at, length in long)
    most = sum(-(-len(world.store.get(pack)) // ahead.RANGE) for pack in read)
    assert parts <= 1.25 * most, f"{parts} parts were opened of {most}"
    short = AROUND * len({pack for pack, _, _ in asked})  # the last answer of each may be no longer than those of pages
    assert sum(length for _, _, length in long) >= (100 << 20) - short


def test_answers_lie_in_memory_that_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P11: of 100 MB that are read ahead, nearly all come in the same 72 MiB, and all of it is given back."""
    arenas: list[Arena] = []
    lend = Arena.lend

    def noted(self: Arena, length: int) -> memoryview:
        given = lend(self, length)
        arenas.append(self)
        fresh.append(length if isinstance(given.obj, bytearray) else 0)
        return given

    fresh: list[int] = []
    monkeypatch.setattr(Arena, "lend", noted)
    files = {b"large": Random(9).randbytes(100 << 20)}
    world = world_of(tmp_path, files)
    repository = world.repository(RoundStore(world.store, 0.002))
    assert world.restored(repository.resolve("latest"), repository) == {"files": files}
    assert len(fresh) >= 100 // 8
    assert sum(fresh) <= 3 * ahead.RANGE
    assert {arena.lent for arena in arenas} == {0}


def test_chunks_that_come_again_are_read_again_or_kept(tmp_path: Path) -> None:
    """Equal files share chunks: what is needed a second time is there, whatever was let go."""
    block = Random(3).randbytes(3 << 20)
    files = {f"{n:02d}".encode(): block if n % 2 else Random(n).randbytes(2 << 20) for n in range(24)}
    world = world_of(tmp_path, files)
    repository = world.repository(RoundStore(world.store, 0.002))
    assert world.restored(repository.resolve("latest"), repository) == {"files": files}


def test_a_damaged_or_missing_pack_is_told_and_no_thread_stays(tmp_path: Path) -> None:
    """P12: what was read ahead is believed no sooner than anything else."""
    world = world_of(tmp_path, {b"large": Random(4).randbytes(20 << 20), b"small": b"x" * 100})
    packs = [entry.name for entry in world.store.list("packs/") if entry.size > 10 << 20]
    for spoil in (lambda data: None, lambda data: data[: len(data) // 2], flipped):
        twin = copied(world.store)
        data = twin.get(packs[0])
        twin.delete(packs[0])
        if (spoilt := spoil(data)) is not None:
            twin.put(packs[0], spoilt)
        repository = world.repository(RoundStore(twin, 0.002))
        with none_left(), pytest.raises(IntegrityError):
            world.restored(repository.resolve("latest"), repository)


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def test_an_error_while_entries_are_read_is_raised_to_who_asks_for_them() -> None:
    """P12: what stops the walk over the entries, in its own thread, is not the end of them."""

    def entries() -> Iterator[Item]:
        yield Item(b"a", 0, b"", {}, [], [])
        raise Unreachable("gone", untouched="nothing", next_step="again")

    reading = Ahead(MemoryStore(), entries, lambda _entry: (), lambda _chunk: None, lambda _session: None)
    try:
        with pytest.raises(Unreachable):
            [*reading.entries()]
    finally:
        reading.close()


def test_who_stops_early_leaves_nothing_running(tmp_path: Path) -> None:
    world = world_of(tmp_path, large_and_small(Random(5)))
    repository = world.repository(RoundStore(world.store, 0.002))
    with none_left():
        items = repository.snapshot(repository.resolve("latest").body, "files").items()
        next(items)
        items.close()  # type: ignore[attr-defined]


# --- links that stall ------------------------------------------------------------------------------------------------


class Stalled(Wrapped):
    """Answers nothing once it is told to stall, until it is given up: then every call that waits, and every later one, is
    Unreachable. What waits meanwhile is counted."""

    def __init__(self, inner: MemoryStore, what: str) -> None:
        super().__init__(inner)
        self._what = what
        self._given_up, self._lock = threading.Event(), threading.Lock()
        self.waiting = self.most = 0
        self.said = (0, 0)  # how many waited when it was given up, and what ``still`` said

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """As the inner one, if it ever is."""
        self._stall(name)
        self.inner.put(name, data)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """As the inner one, if it ever is."""
        self._stall(name)
        return self.inner.get(name, offset, length)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """As the inner one, if it ever is; pages of trees always."""
        if len(buffer) > AROUND:
            self._stall(name)
        return self.inner.read_into(name, offset, buffer)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """As the inner one."""
        return self.inner.list(prefix)

    def give_up_when(self, still: Callable[[], int]) -> threading.Thread:
        """Give up when calls wait and ``still`` has said the same for a while: what a client does at the end of its patience."""

        def wait() -> None:
            times = 0
            while times < 30 and not self._given_up.wait(0.01):
                before, self.said = self.said, (self.waiting, still())
                times = times + 1 if self.waiting and self.said == before else 0
            self._given_up.set()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return thread

    def _stall(self, name: str) -> None:
        if not name.startswith(self._what):
            return
        with self._lock:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
        try:
            assert self._given_up.wait(60), "nobody gave up"
        finally:
            with self._lock:
                self.waiting -= 1
        raise Unreachable("no answer", untouched="nothing", next_step="Run the same command again.")


def test_a_link_that_stalls_ends_a_capture_with_packs_in_flight_and_no_more(tmp_path: Path) -> None:
    """P12: while nothing answers, three packs wait and whoever fills others waits for their memory; then one error says what is
    next, and the next capture, over a link that works, is whole."""
    world = World(str(tmp_path))
    world.live.files = {b"large": os.urandom(260 << 20)}
    assert isinstance(world.store, MemoryStore)
    store = Stalled(world.store, "packs/")
    giving_up = store.give_up_when(lambda: world.driver.read_bytes)
    with pytest.raises(Unreachable) as error:
        world.capture(RoundStore(store, 0.002))
    giving_up.join(timeout=60)
    assert error.value.next_step
    assert store.most == IN_FLIGHT
    # What fills packs, the windows that are read into, and the file's beginning, which is read once more to see what it is.
    most = (IN_FLIGHT + THREADS) * PACK_SIZE + 4 * WINDOW + HEAD
    assert store.said[1] <= most, "reading went on although nothing could be stored"
    assert not [*world.store.list("points/")]
    sealed = world.capture()
    assert world.restored(sealed) == world.contents()


def test_a_link_that_stalls_ends_a_restore(tmp_path: Path) -> None:
    """P5, P12: sixteen requests wait and no more; the error says what is next, and nothing stands at the target."""
    world = world_of(tmp_path, {b"large": Random(7).randbytes(90 << 20)})
    assert isinstance(world.store, MemoryStore)
    store = Stalled(world.store, "packs/")
    repository = world.repository(RoundStore(store, 0.002))
    body = repository.resolve("latest").body
    particulars = repository.particulars(body)
    giving_up = store.give_up_when(lambda: 0)
    with pytest.raises(Unreachable) as error:
        restore(repository, body, particulars, f"{tmp_path}/out", lambda _kind: world.driver, world.clock)
    giving_up.join(timeout=60)
    assert error.value.next_step
    assert store.most <= ahead.READS
    assert not [name for name in os.listdir(tmp_path) if name.startswith("out")]
