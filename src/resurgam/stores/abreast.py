"""Several requests abreast, where they take long.

A folder answers in tens of microseconds, and handing a request to a thread costs as much; a bucket answers in tens of milliseconds,
and a hundred requests one after the other are seconds of waiting. No store is asked which of the two it is: requests are timed, and
a store is *far* whose quickest answer took longer than ``QUICK``. The quickest, since any disk is slow once in a while, and no
distant store is ever quick. Those abreast are timed as well, so that a folder whose first answer waited for a cold disk is not
taken for a bucket for long.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar
from weakref import WeakKeyDictionary

from resurgam.errors import IntegrityError, NotFound
from resurgam.stores.base import Store

# Seconds; a request that takes longer is worth a thread. A folder's quickest of a few takes 10 to 60 us, also on a busy machine,
# that of a server for buckets on the same machine 540 us: between the two.
QUICK = 0.0003
TOGETHER = 16  # requests under way at a time

T = TypeVar("T")
R = TypeVar("R")

_quickest: WeakKeyDictionary[Store, float] = WeakKeyDictionary()  # seconds, of the answers of each store


@contextmanager
def timed(store: Store) -> Iterator[None]:
    """Note how long ``store`` took for the one request that is made within."""
    began = time.monotonic()
    yield
    _quickest[store] = min(time.monotonic() - began, _quickest.get(store, float("inf")))


def is_far(store: Store) -> bool:
    """Whether every answer that ``store`` has given took long; False where it was not asked yet."""
    return _quickest.get(store, 0.0) > QUICK


def each(store: Store, work: Callable[[T], R], parts: Iterable[T], together: int = TOGETHER) -> Iterator[R]:
    """``work`` of each of ``parts``, which makes a request or a few to ``store``, in their order: one after the other as they are
    asked for; or, where the store is far, ``together`` at a time. What one raises is raised when its turn comes."""
    waiting = iter(parts)
    if not is_far(store):
        for part in waiting:
            with timed(store):
                done = work(part)
            yield done
            if is_far(store):
                break

    def one(part: T) -> R:
        with timed(store):
            return work(part)

    yield from _abreast(one, waiting, together)


def or_refusal(work: Callable[[T], R]) -> Callable[[T], R | IntegrityError]:
    """``work`` that gives back why an object is not believed: what one of many is like does not stop the others."""

    def tried(part: T) -> R | IntegrityError:
        try:
            return work(part)
        except IntegrityError as error:
            return error

    return tried


def read_each(store: Store, names: Iterable[str]) -> Iterator[bytes | None]:
    """The bytes of each object, in the order of ``names``; None for one that is not there. Raises Denied, Unreachable."""

    def read(name: str) -> bytes | None:
        try:
            return store.get(name)
        except NotFound:
            return None

    return each(store, read, names)


@contextmanager
def alongside(store: Store, *works: Callable[[], object]) -> Iterator[None]:
    """Each of ``works``, which gets something ready by requests to ``store``, at the same time as what is within, where the store
    is far; else none of them. What one raises it raises again when what it gets ready is asked for, and not here."""
    if not is_far(store):
        yield
        return
    with ThreadPoolExecutor(len(works), thread_name_prefix="alongside") as pool:
        for work in works:
            pool.submit(work)
        yield


def _abreast(work: Callable[[T], R], parts: Iterator[T], together: int) -> Iterator[R]:
    if not (first := [*islice(parts, together)]):
        return
    with ThreadPoolExecutor(len(first), thread_name_prefix="abreast") as pool:
        going: deque[Future[R]] = deque(pool.submit(work, part) for part in first)
        try:
            while going:
                done = going.popleft().result()
                going.extend(pool.submit(work, part) for part in islice(parts, 1))
                yield done
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
