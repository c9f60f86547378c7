"""Every store, alone and wrapped in every double that keeps the contract, passes the exam."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import TypeVar

import pytest

from resurgam.errors import Unreachable
from resurgam.stores.base import AlreadyThere, Buffer, Entry, Store
from resurgam.stores.local import LocalStore
from resurgam.testing.doubles import EventualStore, LockingStore, Lost, LostResponseStore
from resurgam.testing.faults import (
    CrashStore,
    FaultyStore,
    FullStore,
    ManualClock,
    MemoryStore,
    SlowStore,
    Wrapped,
    as_bytes,
)
from resurgam.testing.store_kit import StoreExam

T = TypeVar("T")


class RetryingCaller(Wrapped):
    """What a caller does about transient errors: try again, and after a lost response read back whose object it is."""

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        whole = as_bytes(data)
        unanswered = False
        while True:
            try:
                return self.inner.put(name, whole)
            except Unreachable:
                unanswered = True
            except AlreadyThere:
                if unanswered and self.get(name) == whole:
                    return None
                raise

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        return _until_answered(lambda: self.inner.get(name, offset, length))

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        return _until_answered(lambda: self.inner.read_into(name, offset, buffer))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        return iter(_until_answered(lambda: list(self.inner.list(prefix))))

    def delete(self, name: str) -> None:
        _until_answered(lambda: self.inner.delete(name))


def _until_answered(call: Callable[[], T]) -> T:
    while True:
        try:
            return call()
        except Unreachable:
            continue


class LocalExam(StoreExam):
    """A folder, looked at with plain file calls."""

    direct = True
    root: Path

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        self.root = tmp_path / "vault"
        with LocalStore.create(str(self.root), direct=self.direct) as local:
            yield self.wrap(local)

    def wrap(self, local: LocalStore) -> Store:
        return local

    def put_behind(self, name: str, data: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def get_behind(self, name: str) -> bytes | None:
        path = self.root / name
        return path.read_bytes() if path.exists() else None

    def reopen(self) -> Store:
        return LocalStore(str(self.root))

    def program(self) -> str | None:
        return (
            "from resurgam.stores.local import LocalStore\n"
            f"store = LocalStore({str(self.root)!r}, direct={self.direct})"
        )


class TestLocal(LocalExam):
    """Big buffers past the page cache."""


class TestLocalBuffered(LocalExam):
    """Everything through the page cache."""

    direct = False


class LocalInDouble(LocalExam):
    """Other processes would go past the double, and show again what they show without it."""

    def program(self) -> None:
        return None


class TestLocalSlow(LocalInDouble):
    """On a store that takes its time."""

    def wrap(self, local: LocalStore) -> Store:
        return SlowStore(local, 0.0002)


class TestLocalNotYetCrashed(LocalInDouble):
    """A store that never crashes only counts."""

    def wrap(self, local: LocalStore) -> Store:
        return CrashStore(local)


class TestLocalWithRoom(LocalInDouble):
    """A store that is not yet full."""

    def wrap(self, local: LocalStore) -> Store:
        return FullStore(local, 1 << 30)


class TestLocalFaulty(LocalInDouble):
    """Every third call fails, before or after its effect: a caller who retries and reads back keeps the contract."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        self.root = tmp_path / "vault"
        with LocalStore.create(str(self.root)) as local:
            yield RetryingCaller(FaultyStore(local, Random(7), 0.3))


class TestMemory(StoreExam):
    """A dict, on a clock that stands still."""

    memory: MemoryStore

    @pytest.fixture
    def store(self) -> Store:
        self.memory = MemoryStore(ManualClock())
        return self.wrap(self.memory)

    def wrap(self, memory: MemoryStore) -> Store:
        return memory

    def put_behind(self, name: str, data: bytes) -> None:
        self.memory.put(name, data)

    def get_behind(self, name: str) -> bytes | None:
        versions = self.memory.versions(name)
        return versions[-1].data if versions else None

    def reopen(self) -> Store:
        return self.memory


class TestMemoryFaulty(TestMemory):
    """The same faults over memory."""

    def wrap(self, memory: MemoryStore) -> Store:
        return RetryingCaller(FaultyStore(memory, Random(11), 0.3))


class TestMemoryUnanswered(TestMemory):
    """Every third put takes effect unheard: a caller who reads back keeps the contract."""

    def wrap(self, memory: MemoryStore) -> Store:
        return RetryingCaller(LostResponseStore(memory, Random(13), 0.3, [Lost.UNANSWERED]))


class TestMemoryLocking(TestMemory):
    """Object lock whose time has passed."""

    def wrap(self, memory: MemoryStore) -> Store:
        return LockingStore(memory, ManualClock(), 0.0)


class TestMemoryListingAtOnce(TestMemory):
    """The double of a store that lists late, without the lag."""

    def wrap(self, memory: MemoryStore) -> Store:
        return EventualStore(memory, ManualClock(), Random(1), 0.0)


class TestLate:
    """The exam finds a store whose listings lag: it would lose what a prune did not see."""

    def test_is_found(self) -> None:
        """The point for it fails, and so does the one that compares with a model."""
        clock = ManualClock()
        exam = TestMemory()
        for point in (
            exam.test_list_shows_each_put_and_delete,
            lambda store: exam.test_agrees_with_a_model(store, 0),
            exam.test_list_is_sorted_and_complete,
        ):
            with pytest.raises(AssertionError):
                point(EventualStore(MemoryStore(clock), clock, Random(2), 60.0))
