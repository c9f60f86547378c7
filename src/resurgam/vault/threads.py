"""Threads that can be ended in between: a process that has none but its first can be copied (``workers``)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads(Executor):
    """At most ``count`` threads, begun when there is work for them."""

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name = count, name
        self._lock = threading.Lock()
        self._pool = self._new()

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See Executor."""
        with self._lock:
            return self._pool.submit(work, *args, **kwargs)

    def rest(self) -> None:
        """Wait for all that was submitted, and leave no thread until there is more: what others submit meanwhile is done by new
        ones, beside those that are waited for."""
        with self._lock:
            resting, self._pool = self._pool, self._new()
        resting.shutdown(wait=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See Executor."""
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def _new(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._count, self._name)
