"""What S3 alone can get wrong, on a real server: many pages, large objects, wrong keys, lost buckets and servers, locks."""

from __future__ import annotations

import os
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import count
from random import Random
from typing import Any, cast

import obstore
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from resurgam.clock import SystemClock
from resurgam.errors import Denied, NotFound, ResurgamError, Unreachable
from resurgam.model.system import LockMode, VaultLock
from resurgam.stores import objects, s3
from resurgam.stores.base import AlreadyThere, put_once
from resurgam.stores.lock import Bucket, Locks, Retention
from resurgam.stores.promises import WRITERS, examine, is_empty, require
from resurgam.stores.registry import open_store
from tests.stores.seaweed import SECRET, Seaweed, environment

_numbers = count()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    become(monkeypatch, "admin")


def become(monkeypatch: pytest.MonkeyPatch, identity: str, secret: str = SECRET) -> None:
    for name, value in environment(identity, secret).items():
        monkeypatch.setenv(name, value)


def opened(server: Seaweed, bucket: str = "plain", prefix: str = "", lock: VaultLock | None = None) -> s3.BucketStore:
    """The store under a prefix of its own, or under ``prefix``."""
    store = open_store(server.url(bucket, prefix or f"s3-{os.getpid()}/{next(_numbers)}"), lock)
    assert isinstance(store, s3.BucketStore)
    return store


def key(store: s3.BucketStore, name: str) -> str:
    return store.describe().partition(" at ")[0].removeprefix("s3://").partition("/")[2] + "/" + name


# --- size ------------------------------------------------------------------------------------------------------------


def test_more_than_one_page_is_listed(seaweed: Seaweed) -> None:
    """P1: a listing goes through all pages (a thousand objects each), also in one folder, also from its middle."""
    store = opened(seaweed)
    names = [f"packs/{n:04}" for n in range(1150)] + ["packs-a", "packs.a", "packs0"]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: store.put(name, b"x"), names))
    assert [entry.name for entry in store.list()] == sorted(names)
    assert len(list(store.list("packs/"))) == 1150
    assert [entry.name for entry in store.list("packs/11")] == [f"packs/11{n:02}" for n in range(50)]


def test_large_objects_have_one_winner(seaweed: Seaweed) -> None:
    """P2: packs too large for one part of an upload are created by one request, of which one wins; no parts are left over."""
    store = opened(seaweed)
    packs = [bytes([own]) * (20 << 20) for own in range(3)]
    start = threading.Barrier(3)

    def write(own: int) -> int | None:
        start.wait(timeout=60)
        try:
            store.put("packs/a", packs[own])
        except AlreadyThere:
            return None
        return own

    with ThreadPoolExecutor(3) as pool:
        won = [own for own in pool.map(write, range(3)) if own is not None]
    assert len(won) == 1
    assert store.get("packs/a") == packs[won[0]]
    assert not seaweed.client().list_multipart_uploads(Bucket="plain").get("Uploads")


def test_long_reads_are_made_of_ranges(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is longer than a step is read in steps side by side, from any place, to the byte; one request is enough for less."""
    store, data = opened(seaweed), Random(1).randbytes(1_000_003)
    store.put("a", data)
    monkeypatch.setattr(objects, "STEP", 64 << 10)
    for offset, length in ((0, None), (1, 999_000), (65_536, 131_072), (1_000_000, 50), (1_000_003, 5), (5, 65_530)):
        expected = data[offset : None if length is None else offset + length]
        assert store.get("a", offset, length) == expected
        buffer = bytearray(length or 1_100_000)
        assert store.read_into("a", offset, memoryview(buffer)) == len(expected)
        assert buffer[: len(expected)] == expected


def test_what_is_too_large_for_one_request_is_not_sent(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    """P2 P12: an object that could only be created in parts is refused, with a next step."""
    store = opened(seaweed)
    monkeypatch.setattr(objects, "LARGEST", 1000)
    with pytest.raises(Denied, match="one request") as caught:
        store.put("a", b"x" * 1001)
    assert caught.value.next_step
    assert list(store.list()) == []


@pytest.mark.parametrize("locked", [False, True])
def test_memory_may_be_used_again_at_once(seaweed: Seaweed, locked: bool) -> None:
    """P1: a pack's memory, which is sent from without a copy, holds the next pack as soon as ``put`` has returned; none of it is
    copied in Python on the way, also where boto3 sends it, under a lock."""
    lock = VaultLock(mode=LockMode.GOVERNANCE, period=60.0) if locked else None
    store, memory = opened(seaweed, "locked" if locked else "plain", lock=lock), memoryview(bytearray(8 << 20))
    store.put("first", bytes(2 << 20))  # what is made once is made
    tracemalloc.start()
    for own in range(6):
        memory[:] = bytes([own]) * len(memory)
        tracemalloc.reset_peak()
        store.put(f"packs/{own}", memory)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < len(memory) // 2
    memory[:] = bytes(len(memory))
    for own in range(6):
        assert store.get(f"packs/{own}") == bytes([own]) * len(memory)


def test_a_range_is_read_in_one_request_into_the_memory_that_is_given(
    seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P11: an answer of 8 MiB lies in the reader's memory, and of it no more than some pieces of 256 KiB elsewhere; it ends
    with the object, and what lies behind it in that memory stays."""
    store, data = opened(seaweed), Random(2).randbytes(objects.STEP)
    store.put("a", data)
    monkeypatch.setattr(objects, "READERS", 0)  # no pool can be made, so that none is used
    size, memory = len(data), bytearray(b"." * len(data))
    for offset, length in ((5, 200_000), (size - 10, 50), (size, 5), (0, size)):
        tracemalloc.start()
        done = store.read_into("a", offset, memoryview(memory)[:length])
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert done == min(length, size - offset)
        assert memory[:done] == data[offset : offset + done]
        assert memory[done : done + 5] == b"." * len(memory[done : done + 5])
        assert most < 8 * objects.PIECE
        memory[:] = b"." * size
    with pytest.raises(NotFound):
        store.read_into("b", 0, memoryview(memory)[:5])


def test_memory_that_is_a_store_keeps_no_memory_of_others() -> None:
    """P2: the store in memory has a copy of what it is given, since the caller uses that again."""
    store, memory = objects.ObjectStore(obstore.store.MemoryStore(), "memory"), bytearray(b"a" * 100)
    store.put("a", memory)
    memory[:] = b"b" * 100
    assert store.get("a") == b"a" * 100


class Generous:
    """An answer of more than was asked for, as a server may give that knows no ranges."""

    def stream(self, min_chunk_size: int) -> Iterator[bytes]:
        """In pieces, of which the last lies beyond the end."""
        assert min_chunk_size == objects.PIECE
        yield from (b"a" * 6, b"b" * 6, b"c" * 6)


def test_an_answer_of_more_than_was_asked_for_is_refused_in_words() -> None:
    """P12: and nothing is written beyond the memory that was given."""
    store, memory = objects.ObjectStore(obstore.store.MemoryStore(), "memory"), bytearray(20)
    with pytest.raises(Unreachable, match="answered 18 of 10 bytes of a"):
        store._poured(cast("Any", Generous()), "a", memoryview(memory)[:10])
    assert memory[10:] == bytes(10)


# --- refusals --------------------------------------------------------------------------------------------------------


def every_call(store: s3.BucketStore) -> list[ResurgamError]:
    """The error of each verb that has to find its object."""
    found = []
    for call in (
        lambda: store.put("a", b"x"),
        lambda: store.get("a"),
        lambda: store.read_into("a", 0, memoryview(bytearray(5))),
        lambda: list(store.list()),
    ):
        with pytest.raises(ResurgamError) as caught:
            call()
        found.append(caught.value)
    return found


def test_wrong_secret(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: each verb is Denied, says that it is the keys, and shows no credential anywhere."""
    become(monkeypatch, "writer", "another-secret-0123456789")
    store = opened(seaweed)
    with pytest.raises(Denied):
        store.delete("a")
    for error in every_call(store):
        assert isinstance(error, Denied)
        told = f"{error} {error!r} {error.__cause__!r} {store!r} {store.describe()}"
        assert "another-secret" not in told
        assert SECRET not in told
        assert error.next_step
    assert "secret key is wrong" in str(every_call(store)[0])


def test_no_credentials(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: told when the store is opened."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(Denied, match="no credentials"):
        opened(seaweed)


def test_bucket_that_is_not_there(seaweed: Seaweed) -> None:
    """A reader hears NotFound, a writer Denied; nothing is made."""
    store = opened(seaweed, "never-made")
    put, get, read, listed = every_call(store)
    assert {type(error) for error in (get, read, listed)} == {NotFound}
    assert type(put) is Denied
    assert "never-made" in str(put)
    assert "never-made" not in {bucket["Name"] for bucket in seaweed.client().list_buckets()["Buckets"]}


def test_who_may_only_read(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    """P9: a forbidden put and a forbidden delete fail loudly, and the object is as it was."""
    store = opened(seaweed, prefix="shared")
    store.put("a", b"x")
    become(monkeypatch, "reader")
    reader = opened(seaweed, prefix="shared")
    calls: list[Callable[[], None]] = [lambda: reader.put("b", b"y"), lambda: reader.delete("a")]
    for call in calls:
        with pytest.raises(Denied):
            call()
    assert reader.get("a") == b"x"
    assert [entry.name for entry in store.list()] == ["a"]


def test_who_may_list_below_a_prefix_only(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS answers 403 for what is not there to who may list below a prefix only: a listing tells the two apart, and what is there
    and may not be read stays Denied."""
    store = opened(seaweed)
    store.put("packs/a", b"x")

    def forbidden(*_words: Any, **_options: Any) -> Any:
        raise obstore.exceptions.PermissionDeniedError("status code: 403, <Code>AccessDenied</Code>")

    def forbidden_head(**_options: Any) -> Any:
        raise ClientError({"Error": {"Code": "403"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, "HeadObject")

    monkeypatch.setattr(obstore, "get", forbidden)
    monkeypatch.setattr(store._client, "head_object", forbidden_head)
    with pytest.raises(NotFound):
        store.get("log/0000000001")
    with pytest.raises(Denied, match="packs/a"):
        store.get("packs/a")
    store.delete("log/0000000001")
    with pytest.raises(Denied):
        store.delete("packs/a")


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is away is Unreachable (transient), after tries whose time is bounded."""
    monkeypatch.setitem(objects.RETRY, "max_retries", 1)
    monkeypatch.setattr(s3, "_CLIENT", s3._CLIENT.merge(Config(retries={"total_max_attempts": 1})))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"s3://plain/x?region=us-east-1&endpoint=http://127.0.0.1:{free.getsockname()[1]}"
    store = open_store(url)
    assert isinstance(store, s3.BucketStore)
    with pytest.raises(Unreachable):
        store.delete("a")
    for error in every_call(store):
        assert isinstance(error, Unreachable)
        assert error.transient


def test_what_others_put_there_is_no_object(seaweed: Seaweed) -> None:
    """A name that no vault has is left out of listings, and told."""
    store = opened(seaweed)
    store.put("a", b"x")
    seaweed.client().put_object(Bucket="plain", Key=key(store, "Holiday Photo.JPG"), Body=b"x")
    assert [entry.name for entry in store.list()] == ["a"]
    assert store.strays() == ["Holiday Photo.JPG"]


def test_put_once_after_an_own_lost_try(seaweed: Seaweed) -> None:
    """P2: what a first try has put unheard is found to be one's own; another's is not."""
    store = opened(seaweed)
    store.put("points/a", b"mine")
    put_once(store, "points/a", b"mine")
    with pytest.raises(AlreadyThere):
        put_once(store, "points/a", b"another's")


# --- locks and versions ----------------------------------------------------------------------------------------------

HOUR = VaultLock(mode=LockMode.COMPLIANCE, period=3600)


def test_what_is_written_is_locked(seaweed: Seaweed) -> None:
    """P2: a delete is Denied and says until when; nothing is hidden by a marker; a shorter lock is refused, a longer one taken."""
    store = opened(seaweed, "locked", lock=HOUR)
    store.put("points/a", b"x")
    retention = store.protected("points/a")
    assert retention is not None
    assert retention.mode is LockMode.COMPLIANCE
    assert abs((retention.until - SystemClock().now()).total_seconds() - 3600) < 60
    with pytest.raises(Denied, match="locked until") as caught:
        store.delete("points/a")
    assert caught.value.untouched
    assert store.get("points/a") == b"x"
    assert [version.deleted for version in store.versions("points/a")] == [False]
    with pytest.raises(Denied, match="never shortened"):
        store.protect("points/a", retention.until - timedelta(minutes=30))
    with pytest.raises(AlreadyThere):
        store.put("points/a", b"other")
    store.protect("points/a", retention.until + timedelta(hours=1))
    longer = store.protected("points/a")
    assert longer is not None
    assert longer.until - retention.until == timedelta(hours=1)


def test_the_server_itself_refuses_to_shorten(seaweed: Seaweed) -> None:
    """The lock is the server's, not this code's: past the store and with all rights it is not shortened, downgraded or deleted."""
    store = opened(seaweed, "locked", lock=HOUR)
    store.put("a", b"x")
    (version,) = store.versions("a")
    retention, client, at = store.protected("a"), seaweed.client(), {"Bucket": "locked", "Key": key(store, "a")}
    assert retention is not None
    tries: list[tuple[Any, dict[str, Any]]] = [
        (client.put_object_retention, {"Retention": {"Mode": "COMPLIANCE", "RetainUntilDate": SystemClock().now()}}),
        (client.put_object_retention, {"Retention": {"Mode": "GOVERNANCE", "RetainUntilDate": retention.until}}),
        (client.delete_object, {"VersionId": version.id}),
        (client.delete_object, {"VersionId": version.id, "BypassGovernanceRetention": True}),
    ]
    for call, arguments in tries:
        with pytest.raises(client.exceptions.ClientError):
            call(**at, **arguments)
    assert store.get("a") == b"x"


def test_versions_show_what_stood_there(seaweed: Seaweed) -> None:
    """What somebody overwrote or hid past the store can be looked at; a delete takes every version, and puts no marker."""
    store = opened(seaweed, "locked")
    store.put("points/a", b"first")
    client, at = seaweed.client(), {"Bucket": "locked", "Key": key(store, "points/a")}
    client.put_object(**at, Body=b"overwritten")
    client.delete_object(**at)
    with pytest.raises(NotFound):
        store.get("points/a")
    assert [(version.size, version.deleted) for version in store.versions("points/a")] == [
        (5, False), (11, False), (0, True)]  # fmt: skip
    store.put("points/b", b"x")
    client.put_object(Bucket="locked", Key=key(store, "points/b"), Body=b"over")
    store.delete("points/b")
    assert store.versions("points/b") == []


def test_a_bucket_without_locks(seaweed: Seaweed) -> None:
    """P12: a lock that the bucket cannot give is refused at the first put; where none is asked for, none is there."""
    store = opened(seaweed, lock=HOUR)
    with pytest.raises(Denied):
        store.put("a", b"x")
    plain = opened(seaweed)
    plain.put("a", b"x")
    assert isinstance(plain, Locks)
    assert plain.protected("a") is None
    assert plain.facts == (False, False)


# --- promises --------------------------------------------------------------------------------------------------------


def kept(store: s3.BucketStore, lock: VaultLock | None = None) -> dict[str, bool]:
    promises = examine(store, lock, SystemClock())
    require(promises, store.describe())
    return {promise.name: promise.kept for promise in promises}


def test_what_the_server_promises(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found out, not believed; asking leaves nothing, or only an object under a short lock."""
    store = opened(seaweed)
    every = ("create-only", "one winner", "reads", "listings", "deletes", "versions", "checksums", "locks")
    assert kept(store) == {name: name not in ("versions", "locks") for name in every}
    assert list(store.list()) == []
    locked = opened(seaweed, "locked")
    assert kept(locked, HOUR) == dict.fromkeys(every, True)
    (left,) = locked.list()
    retention = locked.protected(left.name)
    assert retention is not None
    assert retention.until - SystemClock().now() < timedelta(minutes=2)
    assert is_empty(locked)
    with pytest.raises(Denied, match="cannot lock"):
        kept(store, HOUR)
    become(monkeypatch, "writer")
    assert kept(opened(seaweed)) == {name: name not in ("versions", "locks") for name in every}


class IgnoresConditions(s3.BucketStore):
    """As servers are that take ``If-None-Match`` and do not look at it."""

    def put(self, name: str, data: Any) -> None:
        self._client.put_object(Bucket=self._name, Key=self._key(name), Body=bytes(data))


class LooksThenPuts(s3.BucketStore):
    """As servers are that look whether a name is free, and then put: of those who look at one moment everyone wins."""

    looked = threading.Barrier(WRITERS)

    def put(self, name: str, data: Any) -> None:
        if any(True for _ in self.list(name)):
            raise AlreadyThere("It is there.")
        if name.endswith("/race"):
            self.looked.wait(timeout=60)
        self._client.put_object(Bucket=self._name, Key=self._key(name), Body=bytes(data))


class ForgetsLocks(s3.BucketStore):
    """As servers are that tell of a lock, and delete what is under it."""

    def put_locked(self, name: str, data: Any, retention: Retention) -> None:
        self.put(name, data)
        self.told = retention

    def protected(self, name: str, version: str = "") -> Retention | None:
        return self.told


class KeepsNoLock(s3.BucketStore):
    """As servers are that take a lock and do not look at it."""

    def put_locked(self, name: str, data: Any, retention: Retention) -> None:
        self.put(name, data)


class ChangesRanges(s3.BucketStore):
    """As servers are that answer a range with another."""

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        return super().get(name, offset and offset - 1, length)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (IgnoresConditions, "conditional puts"),
        (LooksThenPuts, "not exactly one wins"),
        (KeepsNoLock, "do not hold"),
        (ForgetsLocks, "do not hold"),
        (ChangesRanges, "what was put is not"),
    ],
)
def test_a_store_that_breaks_its_promise_is_refused(seaweed: Seaweed, kind: type[s3.BucketStore], why: str) -> None:
    """P2 P12: no vault is made where one could be overwritten, unlocked or misread."""
    store = opened(seaweed, "locked")
    store.__class__ = kind
    assert isinstance(store, Bucket)
    promises = examine(store, HOUR, SystemClock())
    with pytest.raises(Denied, match=why) as caught:
        require(promises, store.describe())
    assert caught.value.next_step
