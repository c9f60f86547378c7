"""The doubles of remote stores do what they say; the exam tells which of them break the contract."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from random import Random

import pytest

from resurgam.errors import Denied, NotFound, Unreachable
from resurgam.stores.base import AlreadyThere, Store, put_once, require_listed
from resurgam.testing.doubles import EventualStore, LockingStore, Lost, LostResponseStore
from resurgam.testing.faults import Crash, ManualClock, MemoryStore
from resurgam.testing.interleave import Interleaver, Session
from resurgam.vault.signing import Role
from tests.enforced import EnforcedStore


def names(store: Store, prefix: str = "") -> list[str]:
    return [entry.name for entry in store.list(prefix)]


def test_listings_lag_and_reads_do_not() -> None:
    """Puts and deletes are listed late, each with a delay of its own; a known name is read at once."""
    clock = ManualClock()
    store = EventualStore(MemoryStore(clock), clock, Random(5), 10.0)
    for n in range(20):
        store.put(f"a/{n:02}", b"x")
    assert store.get("a/07") == b"x"
    few = len(names(store))
    clock.advance(5)
    some = len(names(store, "a/"))
    clock.advance(5)
    assert few < some < len(names(store)) == 20
    store.delete("a/07")
    with pytest.raises(NotFound):
        store.get("a/07")
    assert "a/07" in names(store)
    clock.advance(10)
    assert "a/07" not in names(store)


def test_a_store_that_lists_late_is_told() -> None:
    """P12: who needs a listing right after a put hears that this store has none, and what to do."""
    clock = ManualClock()
    late = EventualStore(MemoryStore(clock), clock, Random(5), 10.0)
    late.put("leases/a", b"x")
    with pytest.raises(Denied, match="listings lag") as caught:
        require_listed(late, "leases/a")
    assert caught.value.next_step
    clock.advance(10)
    require_listed(late, "leases/a")


def test_responses_are_lost_in_three_ways() -> None:
    """P2: whatever the caller hears, the put takes effect; late ones after others' calls, and never over an object."""
    memory = MemoryStore()
    for way in Lost:
        store = LostResponseStore(memory, Random(1), 1.0, [way])
        with pytest.raises(AlreadyThere if way is Lost.RETRIED else Unreachable):
            store.put(f"a/{way}", b"x")
        assert store.lost == [(f"a/{way}", way)]
        assert (f"a/{way}" in names(memory)) is (way is not Lost.LATE)
        memory.put("a/taken", b"first")
        with pytest.raises((Unreachable, AlreadyThere)):
            store.put("a/taken", b"second")
        store.arrive()
        assert store.get(f"a/{way}") == b"x"
        assert store.get("a/taken") == b"first"
        memory.delete("a/taken")


def test_put_once_is_sure_of_what_it_says() -> None:
    """P2: success after a lost response is what was read back; another's object and an unknown end are never one."""
    for way in (Lost.UNANSWERED, Lost.RETRIED):
        memory = MemoryStore()
        put_once(LostResponseStore(memory, Random(1), 1.0, [way]), "points/a", b"mine")
        assert memory.get("points/a") == b"mine"
    memory = MemoryStore()
    memory.put("points/b", b"theirs")
    stores: list[Store] = [memory, LostResponseStore(memory, Random(1), 1.0, [Lost.RETRIED])]
    for store in stores:
        with pytest.raises(AlreadyThere):
            put_once(store, "points/b", b"mine")
    late = LostResponseStore(memory, Random(2), 1.0, [Lost.LATE])
    with pytest.raises(Unreachable):
        put_once(late, "points/c", b"mine")
    late.arrive()
    assert memory.get("points/c") == b"mine"


@pytest.mark.parametrize("way", [Lost.UNANSWERED, Lost.RETRIED])
def test_put_once_where_nothing_may_be_read_back(way: Lost) -> None:
    """P2 P9: a pack that may not be read back is one's own where its name, a digest of it, is listed in its size; any other object
    is not known to be, and of another size neither."""
    memory = MemoryStore()
    capture = EnforcedStore(LostResponseStore(memory, Random(1), 1.0, [way]), [Role.CAPTURE])
    put_once(capture, "packs/00/a", b"mine", by_digest=True)
    assert memory.get("packs/00/a") == b"mine"
    with pytest.raises(Denied):
        put_once(capture, "packs/00/b", b"mine")
    memory.put("packs/00/c", b"cut")
    with pytest.raises(AlreadyThere):
        put_once(EnforcedStore(memory, [Role.CAPTURE]), "packs/00/c", b"mine", by_digest=True)


def test_locked_until_its_time() -> None:
    """A forbidden delete fails loudly and changes nothing (P12); later it is an ordinary one."""
    clock = ManualClock()
    store = LockingStore(MemoryStore(clock), clock, 100.0)
    store.put("packs/a", b"x")
    with pytest.raises(Denied) as caught:
        store.delete("packs/a")
    assert caught.value.untouched
    assert caught.value.next_step
    assert store.get("packs/a") == b"x"
    assert store.refused == ["packs/a"]
    clock.advance(100)
    store.delete("packs/a")
    store.delete("packs/a")
    assert names(store) == []


def counting(own: str, calls: int = 6) -> Session:
    def session(store: Store) -> str:
        for n in range(calls):
            store.put(f"{own}/{n}", b"x")
        return own

    return session


def test_turns_are_those_of_the_seed() -> None:
    """A race can be run again: the same seed gives the same order of calls, other seeds others."""

    def order(seed: int) -> list[tuple[int, str]]:
        interleaver = Interleaver(MemoryStore(), Random(seed))
        ended = interleaver.run([counting("a"), counting("b"), counting("c")])
        assert [end.value for end in ended] == ["a", "b", "c"]
        return interleaver.history

    orders = {tuple(order(seed)) for seed in range(20)}
    assert order(3) == order(3)
    assert len(orders) > 10
    switches = [sum(a[0] != b[0] for a, b in pairwise(one)) for one in orders]
    assert max(switches) > 3, "nobody is interrupted in its midst"


def test_a_session_can_sleep_through_another() -> None:
    """What fair turns would hardly ever show: one makes a call, another lives its whole life, the first goes on."""

    def slept(seed: int) -> bool:
        interleaver = Interleaver(MemoryStore(), Random(seed))
        interleaver.run([counting("a"), counting("b")])
        callers = "".join("ab"[number] for number, _ in interleaver.history)
        return any(callers == f"{'a' * n}{'b' * 7}{'a' * (7 - n)}" for n in range(2, 7))

    assert sum(map(slept, range(60))) > 5


def test_the_dead_and_the_failed_let_others_go_on() -> None:
    """A session that is killed at a call makes none after it; an error is handed back; the others end."""
    store = MemoryStore()

    def failing(_: Store) -> None:
        raise ValueError("its own")

    ended = Interleaver(store, Random(1)).run([counting("a"), counting("b"), failing], dies={0: 3})
    assert isinstance(ended[0].error, Crash)
    assert ended[1].value == "b"
    assert isinstance(ended[2].error, ValueError)
    assert names(store, "a/") == ["a/0", "a/1"]


def test_threads_of_a_session_share_its_turn() -> None:
    """A session that waits for its own threads is not stuck, and the other one still gets its turn."""

    def many(store: Store) -> int:
        def put(n: int) -> int:
            store.put(f"many/{n}", b"x")
            return threading.get_ident()

        with ThreadPoolExecutor(3) as pool:
            return len(list(pool.map(put, range(12))))

    for seed in range(20):
        ended = Interleaver(MemoryStore(), Random(seed)).run([many, counting("a")])
        assert [end.value for end in ended] == [12, "a"]
