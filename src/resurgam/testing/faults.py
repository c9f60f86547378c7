"""Stores that are ill in one known way each: doubles instead of mocks, so that tests meet the real contract and its ends.

    MemoryStore      a whole store in memory; what is deleted stays among its versions
    FaultyStore      fails now and then: before the effect, after it (a lost response), or by wrong reads
    SlowStore        takes its time, on a manual clock or a real one
    CrashStore       the process dies at the n-th call, before or after its effect, and stays dead
    ReadOnlyStore    refuses to write
    FullStore        has no more room than it is given

Each but the first wraps any store and adds nothing else. Chance comes from a ``random.Random`` of the test's own seed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from random import Random

from resurgam.clock import Clock, SystemClock
from resurgam.errors import Denied, NotFound, StoreFull, Unreachable
from resurgam.stores.base import AlreadyThere, Buffer, Entry, Store, checked_name


class ManualClock:
    """A clock that stands still until it is told to go on."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._seconds = 0.0

    def now(self) -> datetime:
        """The present instant, aware, in UTC."""
        return self._start + timedelta(seconds=self._seconds)

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self._seconds

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        self._seconds += seconds


@dataclass(frozen=True, slots=True)
class Version:
    """What a name meant from ``received`` on; no ``data`` is a deletion."""

    received: float
    data: bytes | None


class MemoryStore:
    """The whole contract of ``stores.base`` in memory."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._versions: dict[str, list[Version]] = {}
        self._lock = threading.Lock()

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """See Store."""
        checked_name(name)
        whole = as_bytes(data)
        with self._lock:
            if self._current(name) is not None:
                raise AlreadyThere(
                    f"{name} exists already in {self.describe()}.",
                    untouched="It was left as it is.",
                    next_step="Read it back to see whether it holds the same bytes.",
                )
            self._append(name, whole)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See Store."""
        checked_name(name)
        with self._lock:
            version = self._current(name)
        if version is None or version.data is None:
            raise NotFound(
                f"There is no {name} in {self.describe()}.",
                untouched="Nothing was changed.",
                next_step="List what is there.",
            )
        return version.data[offset : None if length is None else offset + length]

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """See Store."""
        data = self.get(name, offset, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """See Store."""
        with self._lock:
            current = {name: self._current(name) for name in sorted(self._versions) if name.startswith(prefix)}
        for name, version in current.items():
            if version is not None and version.data is not None:
                yield Entry(name, len(version.data), version.received)

    def delete(self, name: str) -> None:
        """See Store."""
        checked_name(name)
        with self._lock:
            if self._current(name) is not None:
                self._append(name, None)

    def describe(self) -> str:
        """See Store."""
        return "a store in memory"

    def versions(self, name: str) -> Sequence[Version]:
        """All that ``name`` ever was, oldest first."""
        with self._lock:
            return tuple(self._versions.get(name, ()))

    def _current(self, name: str) -> Version | None:
        versions = self._versions.get(name)
        return versions[-1] if versions and versions[-1].data is not None else None

    def _append(self, name: str, data: bytes | None) -> None:
        self._versions.setdefault(name, []).append(Version(self._clock.now().timestamp(), data))


class Wrapped:
    """A store around a store, changing nothing: what the doubles below have in common."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """See Store."""
        self.inner.put(name, data)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See Store."""
        return self.inner.get(name, offset, length)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """See Store."""
        return self.inner.read_into(name, offset, buffer)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """See Store."""
        return self.inner.list(prefix)

    def delete(self, name: str) -> None:
        """See Store."""
        self.inner.delete(name)

    def describe(self) -> str:
        """See Store."""
        return self.inner.describe()


class Fault(StrEnum):
    """What can befall one call of a FaultyStore."""

    BEFORE = "before"  # Unreachable, and nothing was done
    AFTER = "after"  # Unreachable, but it was done: the response was lost
    TORN = "torn"  # a read ends early
    FLIP = "flip"  # one bit of a read is wrong


TRANSIENT = (Fault.BEFORE, Fault.AFTER)  # what a caller who tries again gets over; the other two are damage


class FaultyStore(Wrapped):
    """Each call fails with probability ``rate`` in one of ``kinds``, as far as that applies to it; ``injected`` tells."""

    def __init__(self, inner: Store, rng: Random, rate: float, kinds: Sequence[Fault] = TRANSIENT) -> None:
        super().__init__(inner)
        self._rng = rng
        self._rate = rate
        self._kinds = kinds
        self._lock = threading.Lock()
        self.injected: list[tuple[str, Fault]] = []

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """As the inner one, or Unreachable before or after it."""
        fault = self._draw(f"put {name}", TRANSIENT)
        self._fail_if(fault is Fault.BEFORE)
        self.inner.put(name, data)
        self._fail_if(fault is Fault.AFTER)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """As the inner one, or Unreachable, or less, or wrong."""
        fault = self._draw(f"get {name}", tuple(Fault))
        self._fail_if(fault is Fault.BEFORE)
        data = bytearray(self.inner.get(name, offset, length))
        self._fail_if(fault is Fault.AFTER)
        return bytes(data[: self._spoil(fault, memoryview(data))])

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """As the inner one, or Unreachable (with the buffer written or not), or less, or wrong."""
        fault = self._draw(f"read_into {name}", tuple(Fault))
        self._fail_if(fault is Fault.BEFORE)
        done = self.inner.read_into(name, offset, buffer)
        self._fail_if(fault is Fault.AFTER)
        return self._spoil(fault, buffer[:done])

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """As the inner one, or Unreachable at its start or in its midst."""
        fault = self._draw(f"list {prefix}", TRANSIENT)
        self._fail_if(fault is Fault.BEFORE)
        entries = list(self.inner.list(prefix))
        yield from entries[: len(entries) // 2]
        self._fail_if(fault is Fault.AFTER)
        yield from entries[len(entries) // 2 :]

    def delete(self, name: str) -> None:
        """As the inner one, or Unreachable before or after it."""
        fault = self._draw(f"delete {name}", TRANSIENT)
        self._fail_if(fault is Fault.BEFORE)
        self.inner.delete(name)
        self._fail_if(fault is Fault.AFTER)

    def _draw(self, call: str, applicable: Sequence[Fault]) -> Fault | None:
        kinds = [kind for kind in self._kinds if kind in applicable]
        with self._lock:
            if not kinds or self._rng.random() >= self._rate:
                return None
            fault = self._rng.choice(kinds)
            self.injected.append((call, fault))
            return fault

    def _fail_if(self, failing: bool) -> None:
        if failing:
            raise Unreachable(
                f"{self.describe()} did not answer.",
                untouched="Whether the call took effect is not known.",
                next_step="Try again.",
            )

    def _spoil(self, fault: Fault | None, data: memoryview) -> int:
        """Damage ``data`` in place as ``fault`` says; returns how much of it to give."""
        if not data or fault not in (Fault.TORN, Fault.FLIP):
            return len(data)
        with self._lock:
            at = self._rng.randrange(len(data))
            if fault is Fault.TORN:
                return at
            data[at] ^= 1 << self._rng.randrange(8)
            return len(data)


class SlowStore(Wrapped):
    """Every call takes ``seconds`` more: on ``clock`` if one is given, which nobody waits for, else really."""

    def __init__(self, inner: Store, seconds: float, clock: ManualClock | None = None) -> None:
        super().__init__(inner)
        self._seconds = seconds
        self._clock = clock
        self._never = threading.Event()

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """As the inner one, later."""
        self._wait()
        self.inner.put(name, data)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """As the inner one, later."""
        self._wait()
        return self.inner.get(name, offset, length)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """As the inner one, later."""
        self._wait()
        return self.inner.read_into(name, offset, buffer)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """As the inner one, later."""
        self._wait()
        return self.inner.list(prefix)

    def delete(self, name: str) -> None:
        """As the inner one, later."""
        self._wait()
        self.inner.delete(name)

    def _wait(self) -> None:
        if self._clock is not None:
            self._clock.advance(self._seconds)
        else:
            self._never.wait(self._seconds)


class Crash(BaseException):
    """The process died here. Not an Exception, so that no handler survives its own death."""


class CrashStore(Wrapped):
    """Dies at call number ``stop_at`` (from 1; 0 is never), before its effect or ``after`` it; later calls die too.

    Run once with ``stop_at=0``, then once for every number up to ``calls``: that is every place where a crash can fall
    between two effects. ``history`` names the calls.
    """

    def __init__(self, inner: Store, stop_at: int = 0, *, after: bool = False) -> None:
        super().__init__(inner)
        self._stop_at = stop_at
        self._after = after
        self._lock = threading.Lock()
        self.history: list[str] = []

    @property
    def calls(self) -> int:
        """How many calls were made, also those that died."""
        return len(self.history)

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """As the inner one, unless this is the moment."""
        with self._moment(f"put {name}"):
            self.inner.put(name, data)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """As the inner one, unless this is the moment."""
        with self._moment(f"get {name}"):
            return self.inner.get(name, offset, length)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """As the inner one, unless this is the moment."""
        with self._moment(f"read_into {name}"):
            return self.inner.read_into(name, offset, buffer)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """As the inner one, unless this is the moment; counted when called, not when iterated."""
        with self._moment(f"list {prefix}"):
            return iter(list(self.inner.list(prefix)))

    def delete(self, name: str) -> None:
        """As the inner one, unless this is the moment."""
        with self._moment(f"delete {name}"):
            self.inner.delete(name)

    @contextmanager
    def _moment(self, call: str) -> Iterator[None]:
        with self._lock:
            self.history.append(call)
            number = len(self.history)
        if self._stop_at and number >= self._stop_at + self._after:
            raise Crash(call)
        try:
            yield
        finally:
            if self._stop_at and number >= self._stop_at:
                raise Crash(call)  # whatever the call said, nobody lived to hear it


class ReadOnlyStore(Wrapped):
    """Refuses to write."""

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:  # noqa: ARG002 (the port's signature)
        """Raises Denied."""
        raise self._denied(name)

    def delete(self, name: str) -> None:
        """Raises Denied."""
        raise self._denied(name)

    def _denied(self, name: str) -> Denied:
        return Denied(
            f"{self.describe()} may only be read.",
            untouched=f"{name} is as it was.",
            next_step="Use a role that may write.",
        )


class FullStore(Wrapped):
    """Holds at most ``capacity`` bytes, counting what is there already; raise ``capacity`` to make room."""

    def __init__(self, inner: Store, capacity: int) -> None:
        super().__init__(inner)
        self.capacity = capacity
        self._lock = threading.Lock()

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """As the inner one, while it has room, else StoreFull and no effect."""
        whole = as_bytes(data)
        with self._lock:
            sizes = {entry.name: entry.size for entry in self.inner.list()}
            if name not in sizes and sum(sizes.values()) + len(whole) > self.capacity:
                raise StoreFull(
                    f"{self.describe()} has no room for {name}.",
                    untouched="No object was touched.",
                    next_step="Free space and run again.",
                )
            self.inner.put(name, whole)


def as_bytes(data: Buffer | Iterable[Buffer]) -> bytes:
    """What ``put`` was given, as one string of bytes."""
    return bytes(data) if isinstance(data, bytes | bytearray | memoryview) else b"".join(data)
