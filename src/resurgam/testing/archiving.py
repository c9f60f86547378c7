"""A store whose cold classes sleep, as S3's do, on a manual clock; and one that counts what is asked of it.

ArchivingStore   GLACIER and DEEP_ARCHIVE refuse to be read until they were woken and their hours have passed
CountingStore    counts requests as S3 charges for them
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from resurgam.clock import Clock
from resurgam.errors import Denied, NotFound
from resurgam.stores.archive import COLD, HOURS, SLEEPING, STANDARD, Speed, Stored, Wakefulness, asleep
from resurgam.stores.base import Buffer, Entry, Store
from resurgam.testing.faults import Wrapped
from resurgam.vault.requests import PAGE, Requests

_HOUR, _DAY = 3600.0, 86_400.0


class ArchivingStore(Wrapped):
    """Objects have classes; what sleeps is read only while a copy is awake. ``asked`` are the names that were asked to be woken."""

    def __init__(self, inner: Store, clock: Clock) -> None:
        super().__init__(inner)
        self._clock = clock
        self._classes: dict[str, str] = {}
        self._awake: dict[str, tuple[float, float]] = {}  # from then, until then
        self.asked: list[str] = []
        self.reads: list[str] = []  # names of objects of cold classes that were read

    def put_as(self, name: str, data: Buffer, storage_class: str) -> None:
        """See Archives."""
        if storage_class not in (STANDARD, *COLD):
            raise Denied(f"{storage_class} is no class.", untouched="Nothing was written.", next_step="Name another.")
        self.inner.put(name, data)
        self._classes[name] = storage_class

    def classes(self, prefix: str = "") -> Iterator[tuple[Entry, str]]:
        """See Archives."""
        return ((entry, self._classes.get(entry.name, STANDARD)) for entry in self.inner.list(prefix))

    def state(self, name: str) -> Stored:
        """See Archives."""
        if not any(entry.name == name for entry in self.inner.list(name)):
            raise NotFound(f"There is no {name}.", untouched="Nothing was changed.", next_step="List what is there.")
        storage_class, now = self._classes.get(name, STANDARD), self._clock.now().timestamp()
        if storage_class not in SLEEPING:
            return Stored(storage_class, Wakefulness.READY)
        since, until = self._awake.get(name, (0.0, 0.0))
        if now >= until:
            return Stored(storage_class, Wakefulness.ASLEEP)
        if now < since:
            return Stored(storage_class, Wakefulness.WAKING)
        return Stored(storage_class, Wakefulness.READY, datetime.fromtimestamp(until, UTC))

    def warm(self, name: str, days: int, speed: Speed) -> None:
        """See Archives."""
        if self.state(name).state is Wakefulness.ASLEEP:
            self.asked.append(name)
            since = self._clock.now().timestamp() + HOURS[self._classes[name], speed] * _HOUR
            self._awake[name] = (since, since + days * _DAY)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """As the inner one. Raises Archived."""
        self._require_awake(name)
        return self.inner.get(name, offset, length)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """As the inner one. Raises Archived."""
        self._require_awake(name)
        return self.inner.read_into(name, offset, buffer)

    def _require_awake(self, name: str) -> None:
        storage_class = self._classes.get(name, STANDARD)
        if storage_class in SLEEPING and self.state(name).state is not Wakefulness.READY:
            raise asleep(name, self.describe())
        if storage_class != STANDARD:
            self.reads.append(name)


class CountingStore(Wrapped):
    """Counts: a put, a get and a delete are one request each, a listing one for each thousand objects."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self._lock = threading.Lock()
        self.counted = Requests()

    def taken(self) -> Requests:
        """What was asked since this was last called."""
        with self._lock:
            counted, self.counted = self.counted, Requests()
        return counted

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """As the inner one."""
        self._count(Requests(put=1))
        self.inner.put(name, data)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """As the inner one."""
        self._count(Requests(get=1))
        return self.inner.get(name, offset, length)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """As the inner one."""
        self._count(Requests(get=1))
        return self.inner.read_into(name, offset, buffer)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """As the inner one."""
        found = list(self.inner.list(prefix))
        self._count(Requests(list=max(-(-len(found) // PAGE), 1)))
        return iter(found)

    def delete(self, name: str) -> None:
        """As the inner one."""
        self._count(Requests(delete=1))
        self.inner.delete(name)

    def _count(self, one: Requests) -> None:
        with self._lock:
            self.counted += one
