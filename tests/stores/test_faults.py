"""The doubles do what they say, no more and no less: a fault that never happens would make a test that cannot fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from random import Random

import pytest

from resurgam.errors import Denied, NotFound, StoreFull, Unreachable
from resurgam.stores.base import Entry
from resurgam.testing.faults import (
    Crash,
    CrashStore,
    Fault,
    FaultyStore,
    FullStore,
    ManualClock,
    MemoryStore,
    ReadOnlyStore,
    SlowStore,
)


def test_memory_keeps_versions_and_receives_on_its_clock() -> None:
    clock = ManualClock()
    store = MemoryStore(clock)
    start = clock.now().timestamp()
    store.put("a", b"one")
    clock.advance(5)
    store.delete("a")
    clock.advance(5)
    store.put("a", b"two")
    assert list(store.list()) == [Entry("a", 3, start + 10)]
    assert [(v.received - start, v.data) for v in store.versions("a")] == [(0, b"one"), (5, None), (10, b"two")]


def test_faults_before_have_no_effect_and_faults_after_have() -> None:
    """P2: the two kinds of Unreachable that a caller cannot tell apart."""
    inner = MemoryStore()
    before = FaultyStore(inner, Random(1), 1.0, [Fault.BEFORE])
    with pytest.raises(Unreachable):
        before.put("a", b"x")
    with pytest.raises(NotFound):
        inner.get("a")
    after = FaultyStore(inner, Random(1), 1.0, [Fault.AFTER])
    with pytest.raises(Unreachable):
        after.put("a", b"x")
    assert inner.get("a") == b"x"
    with pytest.raises(Unreachable):
        after.delete("a")
    assert list(inner.list()) == []
    assert after.injected == [("put a", Fault.AFTER), ("delete a", Fault.AFTER)]


def test_listing_can_break_off_in_its_midst() -> None:
    inner = MemoryStore()
    for name in "abcd":
        inner.put(name, b"")
    listing = FaultyStore(inner, Random(1), 1.0, [Fault.AFTER]).list()
    assert [next(listing).name, next(listing).name] == ["a", "b"]
    with pytest.raises(Unreachable):
        next(listing)


def test_damage_is_on_the_way_not_in_the_store() -> None:
    """Torn reads are shorter, flipped ones differ in one bit; writes and listings are never damaged."""
    inner = MemoryStore()
    data = bytes(1000)
    flipping = FaultyStore(inner, Random(2), 1.0, [Fault.FLIP])
    tearing = FaultyStore(inner, Random(2), 1.0, [Fault.TORN])
    flipping.put("a", data)
    for _ in range(20):
        assert sum(byte.bit_count() for byte in flipping.get("a")) == 1
        buffer = bytearray(1000)
        assert flipping.read_into("a", 0, memoryview(buffer)) == 1000
        assert sum(byte.bit_count() for byte in buffer) == 1
        assert len(tearing.get("a")) < 1000
        assert tearing.read_into("a", 0, memoryview(buffer)) < 1000
    assert inner.get("a") == data
    assert [entry.name for entry in tearing.list()] == ["a"]


def test_faults_come_at_their_rate_and_again_from_their_seed() -> None:
    def injected(seed: int) -> list[tuple[str, Fault]]:
        store = FaultyStore(MemoryStore(), Random(seed), 0.25)
        for n in range(400):
            try:
                store.put(f"{n}", b"x")
            except Unreachable:
                continue
        return store.injected

    assert injected(3) == injected(3) != injected(4)
    assert 60 < len(injected(3)) < 140
    assert {fault for _, fault in injected(3)} == {Fault.BEFORE, Fault.AFTER}


def test_slow_on_a_clock_and_slow_for_real() -> None:
    clock = ManualClock()
    slow = SlowStore(MemoryStore(clock), 30.0, clock)
    slow.put("a", b"x")
    assert slow.get("a") == b"x"
    assert clock.monotonic() == 60.0
    start = time.monotonic()
    SlowStore(MemoryStore(), 0.02).put("a", b"x")
    assert time.monotonic() - start >= 0.02


def play(store: CrashStore) -> None:
    """Six calls, one of each kind and one that fails by itself."""
    store.put("a", b"1")
    assert [entry.name for entry in store.list()] == ["a"]
    assert store.get("a") == b"1"
    assert store.read_into("a", 0, memoryview(bytearray(1))) == 1
    with pytest.raises(NotFound):
        store.get("missing")
    store.delete("a")


@pytest.mark.parametrize("after", [False, True])
def test_crash_at_every_call(after: bool) -> None:
    """P1: a sweep over 1..calls meets every gap between two effects; the dead stay dead."""
    whole = CrashStore(MemoryStore())
    play(whole)
    assert whole.calls == 6
    assert whole.history == ["put a", "list ", "get a", "read_into a", "get missing", "delete a"]
    for stop_at in range(1, whole.calls + 1):
        inner = MemoryStore()
        store = CrashStore(inner, stop_at, after=after)
        with pytest.raises(Crash):
            play(store)
        assert store.calls == stop_at
        done = stop_at if after else stop_at - 1
        assert [entry.name for entry in inner.list()] == (["a"] if 1 <= done < 6 else [])
        with pytest.raises(Crash):
            store.put("later", b"x")
        with pytest.raises(NotFound):
            inner.get("later")


def test_crash_is_no_exception() -> None:
    """A handler for errors must not outlive the process."""
    assert not issubclass(Crash, Exception)


def test_crash_reaches_every_thread() -> None:
    store = CrashStore(MemoryStore(), 10)
    dead = []

    def work(own: int) -> None:
        try:
            for n in range(10):
                store.put(f"{own}/{n}", b"x")
        except Crash:
            dead.append(own)

    threads = [threading.Thread(target=work, args=(own,)) for own in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(dead) == [0, 1, 2, 3]
    assert len(list(store.inner.list())) == 9


def test_read_only() -> None:
    inner = MemoryStore()
    inner.put("a", b"x")
    store = ReadOnlyStore(inner)
    calls: tuple[Callable[[], None], ...] = (lambda: store.put("b", b"y"), lambda: store.delete("a"))
    for call in calls:
        with pytest.raises(Denied) as caught:
            call()
        assert caught.value.untouched  # P12
        assert caught.value.next_step
    assert store.get("a") == b"x"
    assert len(list(inner.list())) == 1


def test_full_until_there_is_room() -> None:
    """P12: StoreFull changes nothing, and ends when something is deleted or capacity is added."""
    inner = MemoryStore()
    inner.put("there", b"x" * 60)
    store = FullStore(inner, 100)
    store.put("fits", iter([b"x" * 20, b"x" * 20]))
    with pytest.raises(StoreFull):
        store.put("more", b"x")
    assert [entry.name for entry in inner.list()] == ["fits", "there"]
    store.delete("there")
    store.put("more", b"x" * 60)
    store.capacity += 1
    store.put("one", b"x")
