"""Requests abreast: which stores are far, order, errors, and that nobody waits for a folder's threads."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from resurgam.errors import NotFound, Unreachable
from resurgam.stores.abreast import QUICK, TOGETHER, each, is_far, read_each, timed
from resurgam.stores.local import LocalStore
from resurgam.testing.faults import MemoryStore, Wrapped
from resurgam.testing.rounds import RoundStore
from tests.threads import none_left

NAMES = [f"points/{n:03d}" for n in range(40)]


def filled() -> MemoryStore:
    store = MemoryStore()
    for name in NAMES:
        store.put(name, name.encode())
    return store


def test_a_folder_is_never_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What answers at once is asked in the caller's own thread, one request after the other. (By a clock that stands: a machine
    that is busy may well keep the first answer back for longer than ``QUICK``.)"""
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    store = LocalStore.create(str(tmp_path / "vault"))
    for name in NAMES:
        store.put(name, b"x")
    threads = set()

    def work(name: str) -> bytes:
        threads.add(threading.current_thread())
        return store.get(name)

    assert [*each(store, work, NAMES)] == [b"x"] * 40
    assert not is_far(store)
    assert threads == {threading.current_thread()}


def test_a_distant_store_answers_many_in_one_round() -> None:
    """P11: forty objects are read in four rounds or a few more, not in forty: the first finds out, then sixteen go together."""
    store = RoundStore(filled())
    assert [*read_each(store, NAMES)] == [name.encode() for name in NAMES]
    assert is_far(store)
    assert store.calls == 40
    assert store.rounds <= 12
    assert TOGETHER // 2 <= store.most <= TOGETHER
    before = store.rounds
    assert [*read_each(store, NAMES[:TOGETHER])] == [name.encode() for name in NAMES[:TOGETHER]]
    assert store.rounds - before <= 5, "once it is known to be far, not even the first goes alone"


def test_one_quick_answer_makes_a_store_near_again() -> None:
    """Any disk is slow once in a while: the quickest answer counts."""
    store = RoundStore(filled())
    with timed(store):
        store.get(NAMES[0])
    assert is_far(store)
    with timed(store):
        pass
    assert not is_far(store)


def test_a_folder_that_answered_late_once_is_near_again_after_some_requests_abreast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P11: what one cold answer made far is not read with threads, and in ranges ahead, for the rest of the session."""
    store = LocalStore.create(str(tmp_path / "vault"))
    for name in NAMES:
        store.put(name, b"x")
    with monkeypatch.context() as late:
        times = iter((0.0, 2 * QUICK))
        late.setattr(time, "monotonic", lambda: next(times))
        with timed(store):
            store.get(NAMES[0])
    assert is_far(store)
    assert [*read_each(store, NAMES)] == [b"x"] * 40
    assert not is_far(store)


def test_what_is_not_there_is_none_and_what_fails_is_raised_in_its_turn() -> None:
    store = RoundStore(filled())
    assert [*read_each(store, ["points/none", *NAMES[:3], "points/neither"])][::4] == [None, None]
    read = each(store, store.get, [*NAMES[:5], "points/none", *NAMES[5:]])
    assert [next(read) for _ in range(5)] == [name.encode() for name in NAMES[:5]]
    with pytest.raises(NotFound):
        next(read)


def test_who_stops_asking_stops_the_requests() -> None:
    """At most TOGETHER more than were asked for, and no thread stays behind."""
    store = RoundStore(filled())
    with none_left():
        read = read_each(store, NAMES)
        next(read)
        next(read)
        del read
        assert store.calls <= TOGETHER + 2


def test_a_store_that_stops_answering_ends_it() -> None:
    """P12: what one request hears all of them hear: nothing hangs."""

    class Gone(Wrapped):
        def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
            if name == NAMES[7]:
                raise Unreachable("gone", untouched="nothing", next_step="again")
            return self.inner.get(name, offset, length)

    store = RoundStore(Gone(filled()))
    with pytest.raises(Unreachable):
        [*read_each(store, NAMES)]
