"""A bucket as it was before somebody overwrote or hid what stands there, on a real S3 server."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from resurgam.clock import SystemClock
from resurgam.errors import Denied, NotFound, UsageError
from resurgam.model.system import LockMode, VaultLock
from resurgam.stores import s3
from resurgam.stores.asof import Originals, originals, past
from resurgam.stores.local import LocalStore
from resurgam.stores.registry import open_store
from tests.stores.seaweed import Seaweed, environment

_numbers = count()
HOUR = VaultLock(mode=LockMode.COMPLIANCE, period=3600)


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment("admin").items():
        monkeypatch.setenv(name, value)


class Harmed:
    """A locked bucket in which somebody overwrote ``points/a``, hid ``points/b`` and wrote ``points/c``, past the store.

    ``before`` is a time at which nothing of that had happened.
    """

    def __init__(self, server: Seaweed) -> None:
        self.prefix = f"asof-{os.getpid()}/{next(_numbers)}"
        opened = open_store(server.url("locked", self.prefix), HOUR)
        assert isinstance(opened, s3.BucketStore)
        self.store, self.client = opened, server.client()
        self.store.put("points/a", b"what it was")
        self.store.put("points/b", b"also")
        self.store.put("points/kept", b"as ever")
        self.before = _a_second_later(self.store)
        self.client.put_object(Bucket="locked", Key=f"{self.prefix}/points/a", Body=b"what somebody made of it")
        self.client.delete_object(Bucket="locked", Key=f"{self.prefix}/points/b")
        self.client.put_object(Bucket="locked", Key=f"{self.prefix}/points/c", Body=b"new")

    def versions(self, name: str) -> list[str]:
        return [version.id for version in self.store.versions(name)]


def _a_second_later(store: s3.BucketStore) -> str:
    """A time after all that was put: the server's times are whole seconds, so the next one has to begin."""
    newest = max(entry.received for entry in store.list())
    deadline = time.monotonic() + 30
    while time.time() < newest + 1.0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return datetime.fromtimestamp(newest, UTC).isoformat()


@pytest.fixture
def harmed(seaweed: Seaweed) -> Harmed:
    return Harmed(seaweed)


def test_what_stood_there_before(harmed: Harmed) -> None:
    """P2: of each name what was there then, in whole and in part; what came later is not there; the present shows the harm."""
    then = past(harmed.store, harmed.before, SystemClock().now())
    assert [entry.name for entry in then.list("points/")] == ["points/a", "points/b", "points/kept"]
    assert [entry.size for entry in then.list("points/")] == [11, 4, 7]
    assert then.get("points/a") == b"what it was"
    assert then.get("points/a", 5, 2) == b"it"
    assert then.get("points/a", 9, 50) == b"as"
    assert then.get("points/a", 11) == b""
    buffer = bytearray(20)
    assert then.read_into("points/b", 1, memoryview(buffer)) == 3
    assert buffer[:3] == b"lso"
    with pytest.raises(NotFound):
        then.get("points/c")
    assert harmed.store.get("points/a") == b"what somebody made of it"
    assert [entry.name for entry in harmed.store.list()] == ["points/a", "points/c", "points/kept"]


def test_a_name_is_read_without_a_listing(harmed: Harmed) -> None:
    """Who knows a name needs not list first."""
    assert past(harmed.store, harmed.before, SystemClock().now()).get("points/b") == b"also"


def test_now_is_the_present(harmed: Harmed) -> None:
    """As of now the harm shows, as in the bucket itself."""
    now = past(harmed.store, (SystemClock().now() - timedelta(seconds=0)).isoformat(), SystemClock().now())
    assert [entry.name for entry in now.list()] == [entry.name for entry in harmed.store.list()]
    assert now.get("points/a") == b"what somebody made of it"
    with pytest.raises(NotFound):
        now.get("points/b")


def test_as_it_was_first_written(harmed: Harmed) -> None:
    """P2: a vault puts no name twice, so the first is the true one, and nobody has to know when the harm was done."""
    first = past(harmed.store, "first", SystemClock().now())
    assert {entry.name: first.get(entry.name) for entry in first.list()} == {
        "points/a": b"what it was",
        "points/b": b"also",
        "points/c": b"new",
        "points/kept": b"as ever",
    }


def test_the_past_is_not_written_to(harmed: Harmed) -> None:
    """P12: a put and a delete are Denied, and nothing is changed."""
    then = past(harmed.store, harmed.before, SystemClock().now())
    before = harmed.versions("points/a")
    with pytest.raises(Denied, match="view of the past"):
        then.put("points/new", b"x")
    with pytest.raises(Denied, match="view of the past"):
        then.delete("points/a")
    assert harmed.versions("points/a") == before


def test_locks_of_originals(harmed: Harmed) -> None:
    """The version that was first put is the one whose lock is told and lengthened, and what lies on top is told."""
    view = originals(harmed.store)
    assert isinstance(view, Originals)
    assert [entry.name for entry in view.list("points/")] == ["points/a", "points/b", "points/c", "points/kept"]
    assert {name: what.split()[0] for name, what in view.covered.items()} == {
        "points/a": "overwritten",
        "points/b": "deleted",
    }
    for name in ("points/a", "points/b"):
        there = view.protected(name)
        assert there is not None
        view.protect(name, there.until + timedelta(hours=1))
        assert view.protected(name) == (LockMode.COMPLIANCE, there.until + timedelta(hours=1))
    assert harmed.store.protected("points/a") is None  # of what lies on top nothing was locked
    assert harmed.store.get("points/a") == b"what somebody made of it"


def test_no_versions_no_past(seaweed: Seaweed, tmp_path: Path) -> None:
    """P12: where versions are not kept, nothing is guessed; nor for what is no time, or a time to come."""
    plain = open_store(seaweed.url("plain", f"asof-{os.getpid()}/{next(_numbers)}"))
    now = SystemClock().now()
    with LocalStore.create(str(tmp_path / "folder")) as folder:
        assert originals(folder) is folder
        for store in (plain, folder):
            with pytest.raises(UsageError, match="keeps no versions"):
                past(store, "2026-01-01T00:00", now)
    locked = open_store(seaweed.url("locked", f"asof-{os.getpid()}/{next(_numbers)}"))
    for words, why in (("yesterday", "no time"), ((now + timedelta(days=1)).isoformat(), "future")):
        with pytest.raises(UsageError, match=why):
            past(locked, words, now)
