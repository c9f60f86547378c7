"""Buckets pass the exam of every store: a real S3 server, and obstore's memory, each alone and in each fitting double."""

from __future__ import annotations

import os
from itertools import count
from random import Random

import obstore
import pytest

from resurgam.stores.base import Store
from resurgam.stores.objects import ObjectStore
from resurgam.stores.registry import open_store
from resurgam.testing.doubles import EventualStore, LockingStore, Lost, LostResponseStore
from resurgam.testing.faults import CrashStore, FaultyStore, FullStore, ManualClock, SlowStore
from resurgam.testing.store_kit import StoreExam
from tests.stores.seaweed import Seaweed, environment
from tests.stores.test_exam import RetryingCaller

_numbers = count()


class S3Exam(StoreExam):
    """A bucket, looked at with boto3; each test has a prefix of its own."""

    races = 3
    bucket = "plain"
    identity: str | None = None  # the one who puts: a mere writer where the bucket locks nothing
    server: Seaweed
    prefix: str

    @pytest.fixture
    def store(self, seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Store:
        for name, value in environment(self.identity or ("writer" if self.bucket == "plain" else "admin")).items():
            monkeypatch.setenv(name, value)
        self.server, self.prefix = seaweed, f"exam-{os.getpid()}/{next(_numbers)}"
        return self.wrap(open_store(seaweed.url(self.bucket, self.prefix)))

    def wrap(self, inner: Store) -> Store:
        return inner

    def put_behind(self, name: str, data: bytes) -> None:
        self.server.client().put_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}", Body=data)

    def get_behind(self, name: str) -> bytes | None:
        client = self.server.client()
        try:
            found = client.get_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}")
        except client.exceptions.NoSuchKey:
            return None
        whole: bytes = found["Body"].read()
        return whole

    def reopen(self) -> Store:
        return open_store(self.server.url(self.bucket, self.prefix))

    def program(self) -> str | None:
        url = self.server.url(self.bucket, self.prefix)
        return f"from resurgam.stores.registry import open_store\nstore = open_store({url!r})"


class TestS3(S3Exam):
    """As a writer without further rights."""


class TestS3WithVersions(S3Exam):
    """A bucket that keeps versions and can lock objects, where a delete names versions."""

    bucket = "locked"


class S3InDouble(S3Exam):
    """Other processes would go past the double, and show again what they show without it."""

    def program(self) -> None:
        return None


class TestS3Slow(S3InDouble):
    """On a store that takes its time."""

    def wrap(self, inner: Store) -> Store:
        return SlowStore(inner, 0.0002)


class TestS3NotYetCrashed(S3InDouble):
    """A store that never crashes only counts."""

    def wrap(self, inner: Store) -> Store:
        return CrashStore(inner)


class TestS3WithRoom(S3InDouble):
    """A store that is not yet full."""

    def wrap(self, inner: Store) -> Store:
        return FullStore(inner, 1 << 30)


class TestS3Faulty(S3InDouble):
    """Every third call fails, before or after its effect: a caller who retries and reads back keeps the contract."""

    def wrap(self, inner: Store) -> Store:
        return RetryingCaller(FaultyStore(inner, Random(7), 0.3))


class TestS3Unanswered(S3InDouble):
    """Every third put takes effect unheard: a caller who reads back keeps the contract."""

    def wrap(self, inner: Store) -> Store:
        return RetryingCaller(LostResponseStore(inner, Random(13), 0.3, [Lost.UNANSWERED]))


class TestS3Locking(S3InDouble):
    """Object lock whose time has passed."""

    def wrap(self, inner: Store) -> Store:
        return LockingStore(inner, ManualClock(), 0.0)


class TestS3ListingAtOnce(S3InDouble):
    """The double of a store that lists late, without the lag."""

    def wrap(self, inner: Store) -> Store:
        return EventualStore(inner, ManualClock(), Random(1), 0.0)


class TestObstoreMemory(StoreExam):
    """The same code over obstore's memory, looked at with obstore."""

    memory: obstore.store.MemoryStore

    @pytest.fixture
    def store(self) -> Store:
        self.memory = obstore.store.MemoryStore()
        return self.wrap(self.reopen())

    def wrap(self, inner: Store) -> Store:
        return inner

    def put_behind(self, name: str, data: bytes) -> None:
        obstore.put(self.memory, name, data)

    def get_behind(self, name: str) -> bytes | None:
        try:
            return bytes(obstore.get(self.memory, name).bytes())
        except FileNotFoundError:
            return None

    def reopen(self) -> Store:
        return ObjectStore(self.memory, "obstore's memory")


class TestObstoreMemoryFaulty(TestObstoreMemory):
    """Faults over memory."""

    def wrap(self, inner: Store) -> Store:
        return RetryingCaller(FaultyStore(inner, Random(11), 0.3))


class TestObstoreMemoryUnanswered(TestObstoreMemory):
    """Unheard puts over memory."""

    def wrap(self, inner: Store) -> Store:
        return RetryingCaller(LostResponseStore(inner, Random(13), 0.3, [Lost.UNANSWERED]))


class TestObstoreMemoryLocking(TestObstoreMemory):
    """Locks that have ended over memory."""

    def wrap(self, inner: Store) -> Store:
        return LockingStore(inner, ManualClock(), 0.0)
