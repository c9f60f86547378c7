"""Stores that are ill as remote stores are: they answer late, not at all, or refuse to forget.

    EventualStore       its listings lag behind puts and deletes; the port forbids that
    LostResponseStore   a put takes effect, now or later, and its caller does not hear so
    LockingStore        an object cannot be deleted before its lock ends

Each wraps any store, as those of ``faults`` do. What a vault still promises on them, and the tests that show it:
on a store that loses responses, everything; on one that locks, everything but the deletions of a prune, which are put off loudly;
on one whose listings lag, that what is listed is whole (P1): captures and prunes are refused there, as soon as it shows.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from random import Random

from resurgam.clock import Clock
from resurgam.errors import Denied, Unreachable
from resurgam.model.system import LockMode
from resurgam.stores.base import AlreadyThere, Buffer, Entry, Store
from resurgam.stores.lock import Retention
from resurgam.testing.faults import Wrapped, as_bytes


class EventualStore(Wrapped):
    """Each put and each delete is seen by ``list`` only after a delay of up to ``lag`` seconds of ``clock``; ``get`` sees it at
    once. All clients see the same, as those of one region do, so share one among the sessions of a test."""

    def __init__(self, inner: Store, clock: Clock, rng: Random, lag: float) -> None:
        super().__init__(inner)
        self.lag = lag
        self._clock, self._rng = clock, rng
        self._lock = threading.Lock()
        self._unseen: dict[str, float] = {}  # put: listed from then on
        self._ghosts: dict[str, tuple[float, Entry]] = {}  # deleted: listed until then

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """As the inner one; listed later."""
        self.inner.put(name, data)
        with self._lock:
            self._unseen[name] = self._then()
            self._ghosts.pop(name, None)

    def delete(self, name: str) -> None:
        """As the inner one; listed for a while yet, where it was listed before."""
        seen = {entry.name: entry for entry in self.list(name)}
        self.inner.delete(name)
        with self._lock:
            self._unseen.pop(name, None)
            if name in seen:
                self._ghosts[name] = (self._then(), seen[name])

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """What the inner one listed some time ago, each name with a delay of its own."""
        there = list(self.inner.list(prefix))
        now = self._clock.monotonic()
        with self._lock:
            listed = {entry.name: entry for entry in there if self._unseen.get(entry.name, 0.0) <= now}
            ghosts = {name: entry for name, (until, entry) in self._ghosts.items() if now < until}
        listed |= {name: entry for name, entry in ghosts.items() if name.startswith(prefix)}
        yield from (listed[name] for name in sorted(listed))

    def _then(self) -> float:
        return self._clock.monotonic() + self._rng.uniform(0.0, self.lag)


class Lost(StrEnum):
    """How the response to a put is lost."""

    UNANSWERED = "unanswered"  # it took effect, and the caller hears Unreachable
    RETRIED = "retried"  # it took effect, and the caller's own client tried again and hears AlreadyThere
    LATE = (
        "late"  # the caller hears Unreachable, and it takes effect some calls later, unless the name is taken by then
    )


class LostResponseStore(Wrapped):
    """The response to each put is lost with probability ``rate``, in one of ``ways``; ``lost`` tells. Reads are as they are."""

    def __init__(self, inner: Store, rng: Random, rate: float, ways: Sequence[Lost] = tuple(Lost)) -> None:
        super().__init__(inner)
        self._rng, self._rate, self._ways = rng, rate, ways
        self._lock = threading.Lock()
        self._under_way: list[tuple[int, str, bytes]] = []  # after how many more calls, what
        self.lost: list[tuple[str, Lost]] = []

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """As the inner one, now or later, whatever the caller is told. Raises Unreachable, AlreadyThere."""
        self._arrive()
        way = self._draw(name)
        if way is Lost.LATE:
            with self._lock:
                self._under_way.append((self._rng.randrange(1, 12), name, as_bytes(data)))
        else:
            self.inner.put(name, data)
        if way is Lost.RETRIED:
            raise AlreadyThere(
                f"{name} exists already in {self.describe()}.",
                untouched="It was left as it is.",
                next_step="Read it back to see whether it holds the same bytes.",
            )
        if way is not None:
            raise Unreachable(
                f"{self.describe()} did not answer.",
                untouched="Whether the call took effect is not known.",
                next_step="Try again.",
            )

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """As the inner one."""
        self._arrive()
        return self.inner.get(name, offset, length)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """As the inner one."""
        self._arrive()
        return self.inner.list(prefix)

    def arrive(self) -> None:
        """Let every put that is still under way take effect."""
        self._arrive(calls=1 << 30)

    def _draw(self, name: str) -> Lost | None:
        with self._lock:
            if not self._ways or self._rng.random() >= self._rate:
                return None
            way = self._rng.choice(self._ways)
            self.lost.append((name, way))
            return way

    def _arrive(self, calls: int = 1) -> None:
        with self._lock:
            later = [(left - calls, name, data) for left, name, data in self._under_way]
            self._under_way = [put for put in later if put[0] > 0]
            due = [put for put in later if put[0] <= 0]
        for _, name, data in due:
            try:
                self.inner.put(name, data)
            except AlreadyThere:
                continue  # another was first, or the caller's own second try: create-only says who


class LockingStore(Wrapped):
    """No object can be deleted for ``seconds`` of ``clock`` after it was put, as under S3's object lock; locks can be made longer.
    ``asked`` and ``lengthened`` tell of what, by name."""

    def __init__(self, inner: Store, clock: Clock, seconds: float, mode: LockMode = LockMode.COMPLIANCE) -> None:
        super().__init__(inner)
        self._clock, self._seconds, self._mode = clock, seconds, mode
        self._until: dict[str, datetime] = {}
        self.refused: list[str] = []
        self.asked: list[str] = []
        self.lengthened: list[str] = []

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """As the inner one, and locked from now on."""
        self.inner.put(name, data)
        self._until[name] = self._clock.now() + timedelta(seconds=self._seconds)

    def delete(self, name: str) -> None:
        """As the inner one, once the lock has ended. Raises Denied before."""
        left = self._until.get(name, self._clock.now()) - self._clock.now()
        if left > timedelta():
            self.refused.append(name)
            raise Denied(
                f"{name} is locked in {self.describe()} for another {left.total_seconds():.0f} seconds.",
                untouched="It is as it was.",
                next_step="Delete it when its lock has ended.",
            )
        self.inner.delete(name)
        self._until.pop(name, None)

    def protected(self, name: str) -> Retention | None:
        """See ``stores.lock.Locks``; a lock that has ended is told of too, as S3 does."""
        self.asked.append(name)
        self.inner.get(name, 0, 1)
        return Retention(self._mode, self._until[name]) if name in self._until else None

    def protect(self, name: str, until: datetime) -> None:
        """See ``stores.lock.Locks``."""
        there = self.protected(name)
        if there is not None and until < there.until:
            raise Denied(
                f"{name} is locked until {there.until:%Y-%m-%d %H:%M} in {self.describe()}.",
                untouched="Its lock is as it was.",
                next_step="Give a later time.",
            )
        self._until[name] = until
        self.lengthened.append(name)

    def unlock(self, name: str) -> None:
        """As if ``name`` had been put without a lock."""
        self._until.pop(name, None)
