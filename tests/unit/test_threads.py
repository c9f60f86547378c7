"""Threads that end in between: all that was submitted is done, none is left, and there are new ones for what comes."""

from __future__ import annotations

import threading

import pytest

from resurgam.vault.threads import Threads


def named(prefix: str) -> list[threading.Thread]:
    """The living threads of a pool."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(prefix)]


def test_none_is_left_and_new_ones_come() -> None:
    """P1: work that was submitted is never dropped by a rest."""
    pool, done = Threads(3, "resting"), list[int]()
    for turn in range(3):
        futures = [pool.submit(done.append, turn) for _ in range(50)]
        assert named("resting")
        pool.rest()
        assert not named("resting")
        assert all(future.done() for future in futures)
        assert done == [each for each in range(turn + 1) for _ in range(50)]
    pool.shutdown()
    with pytest.raises(RuntimeError):
        pool.submit(done.append, 0)


def test_an_error_is_its_own_future_s() -> None:
    """And no rest raises it."""

    def fail() -> None:
        raise OSError(28, "full")

    pool = Threads(2, "failing")
    future = pool.submit(fail)
    pool.rest()
    with pytest.raises(OSError, match="full"):
        future.result()
    pool.shutdown()


def test_others_submit_while_it_rests() -> None:
    """The thread of a crew stores chunks, and ships packs, while a large file waits for what is under way."""
    pool, come = Threads(1, "beside"), threading.Event()
    pool.submit(come.wait)
    resting = threading.Thread(target=pool.rest)
    resting.start()
    try:
        while not come.wait(0.001):
            pool.submit(come.set)
    finally:
        come.set()
        resting.join()
        pool.shutdown()
    assert not named("beside")
