"""Several copies pass the exam as far as they promise what a store does: nothing is deleted while they are read together.

What a test puts behind the store's back lies in the last copy, so that reading goes past the first; each double stands round one
copy, and hurts nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from resurgam.clock import SystemClock
from resurgam.errors import Denied
from resurgam.stores.base import Store
from resurgam.stores.local import LocalStore
from resurgam.stores.together import Together
from resurgam.testing.doubles import EventualStore, LockingStore, LostResponseStore
from resurgam.testing.faults import TRANSIENT, FaultyStore, ManualClock, MemoryStore, ReadOnlyStore, SlowStore
from resurgam.testing.store_kit import StoreExam
from tests.stores.test_s3_exam import S3InDouble


class TogetherExam(StoreExam):
    """Two folders."""

    first: Path
    last: Path

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        self.first, self.last = tmp_path / "first", tmp_path / "last"
        with LocalStore.create(str(self.first)) as first, LocalStore.create(str(self.last)) as last:
            yield Together([first, self.wrap(last)], SystemClock())

    def wrap(self, inner: Store) -> Store:
        return inner

    def put_behind(self, name: str, data: bytes) -> None:
        path = self.last / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def get_behind(self, name: str) -> bytes | None:
        found = [path.read_bytes() for path in (self.first / name, self.last / name) if path.exists()]
        assert len(found) < 2, "P2: one name is one object"
        return found[0] if found else None

    def reopen(self) -> Store:
        return Together([LocalStore(str(self.first)), LocalStore(str(self.last))], SystemClock())

    def program(self) -> str | None:
        return (
            "from resurgam.clock import SystemClock\n"
            "from resurgam.stores.local import LocalStore\n"
            "from resurgam.stores.together import Together\n"
            f"store = Together([LocalStore({str(self.first)!r}), LocalStore({str(self.last)!r})], SystemClock())"
        )

    # What is other here: an exam's deletes are refused, loudly, and change nothing.

    def test_delete(self, store: Store) -> None:
        """P10: refused, whether it is there or not."""
        store.put("a/b", b"x")
        for name in ("a/b", "never/there"):
            with pytest.raises(Denied):
                store.delete(name)
        assert store.get("a/b") == b"x"

    def test_list_shows_each_put_and_delete(self, store: Store) -> None:
        """Each put, at once, by whichever copy."""
        names: list[str] = []
        for n in range(12):
            names.append(f"leases/{n:02}")
            if n % 2:
                store.put(names[-1], b"x")
            else:
                self.put_behind(names[-1], b"x")
            assert [entry.name for entry in store.list("leases/")] == names
        assert [entry.name for entry in self.reopen().list("leases/")] == names

    def test_reopen_sees_all(self, store: Store) -> None:
        """P3: nothing that matters is kept in the process."""
        store.put("a/b", b"one")
        self.put_behind("c", b"two")
        again = self.reopen()
        assert [entry.name for entry in again.list()] == ["a/b", "c"]
        assert (again.get("a/b"), again.get("c")) == (b"one", b"two")

    @pytest.mark.parametrize("seed", range(3))
    def test_agrees_with_a_model(self, store: Store, seed: int) -> None:
        """Any sequence of puts, to the store or behind its back, reads as one dictionary would."""
        rng, model = Random(seed), dict[str, bytes]()
        names = ("a/b", "a/c", "a-b", "d/e/f", "d/e/g", "h")
        for _ in range(120):
            name, data = rng.choice(names), rng.randbytes(rng.randrange(200))
            if name not in model:
                store.put(name, data) if rng.random() < 0.5 else self.put_behind(name, data)
                model[name] = data
            start, length = rng.randrange(50), rng.randrange(100)
            assert store.get(name, start, length) == model[name][start : start + length]
            listed = [(entry.name, entry.size) for entry in store.list(name[: len(data) % 4])]
            assert listed == sorted((n, len(d)) for n, d in model.items() if n.startswith(name[: len(data) % 4]))


class TestTogether(TogetherExam):
    """Two folders, whole."""


class InDouble(TogetherExam):
    """Other processes would go past the double, and show again what they show without it."""

    def program(self) -> None:
        return None


class IllExam(InDouble):
    """The last copy is ill, and what stands behind is in the first."""

    def put_behind(self, name: str, data: bytes) -> None:
        path = self.first / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


class TestTogetherFaulty(IllExam):
    """It does not answer now and then."""

    def wrap(self, inner: Store) -> Store:
        return FaultyStore(inner, Random(7), 0.3, TRANSIENT)


class TestTogetherSlow(InDouble):
    """It takes its time, and holds what the first does not."""

    def wrap(self, inner: Store) -> Store:
        return SlowStore(inner, 60.0, ManualClock())


class TestTogetherEventual(IllExam):
    """Its listings lag."""

    def wrap(self, inner: Store) -> Store:
        return EventualStore(inner, ManualClock(), Random(5), 60.0)


class TestTogetherLocking(InDouble):
    """It locks what is put."""

    def wrap(self, inner: Store) -> Store:
        return LockingStore(inner, ManualClock(), 3600.0)


class TestTogetherLostResponses(IllExam):
    """What is put there takes effect, and nobody hears of it."""

    def wrap(self, inner: Store) -> Store:
        return LostResponseStore(inner, Random(3), 0.5)


class TestTogetherWithABucket(S3InDouble):
    """A folder that may not be written to before a bucket that holds everything, as after the loss of the first region's disk."""

    def wrap(self, inner: Store) -> Store:
        return Together([ReadOnlyStore(MemoryStore()), inner], SystemClock())

    test_delete = TogetherExam.test_delete
    test_list_shows_each_put_and_delete = TogetherExam.test_list_shows_each_put_and_delete
    test_agrees_with_a_model = TogetherExam.test_agrees_with_a_model
    test_reopen_sees_all = TogetherExam.test_reopen_sees_all
