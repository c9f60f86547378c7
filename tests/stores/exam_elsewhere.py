"""The exam of every store on servers that are no Python packages, Ceph's gateway and Azurite: ``tests.soak --only servers``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from random import Random

import obstore
import pytest

from resurgam.clock import SystemClock
from resurgam.errors import Denied
from resurgam.stores.base import Store
from resurgam.stores.promises import examine, require
from resurgam.stores.registry import open_store
from resurgam.testing.doubles import Lost, LostResponseStore
from resurgam.testing.faults import FaultyStore, ManualClock, SlowStore
from resurgam.testing.store_kit import StoreExam
from tests.stores.azurite import ACCOUNT, KEY, Azurite
from tests.stores.ceph import Ceph
from tests.stores.s3_server import serving
from tests.stores.seaweed import environment
from tests.stores.test_exam import RetryingCaller
from tests.stores.test_s3_exam import S3Exam

_numbers = count()


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """A gateway with the buckets ``plain`` and ``locked``, as the S3 server of the other tests."""
    yield from serving(Ceph(str(tmp_path_factory.mktemp("ceph"))))


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """An Azurite with a container."""
    server = Azurite(str(tmp_path_factory.mktemp("azurite")))
    try:
        server.start()
        yield server
    finally:
        server.kill()


class TestCeph(S3Exam):
    """Ceph's gateway, which knows one user here."""

    identity = "admin"

    @pytest.fixture
    def seaweed(self, ceph: Ceph) -> Ceph:
        """The server that the exam of S3 asks for."""
        return ceph


class TestCephFaulty(TestCeph):
    """Every third call fails, before or after its effect."""

    def wrap(self, inner: Store) -> Store:
        return RetryingCaller(FaultyStore(inner, Random(7), 0.3))


class TestAzurite(StoreExam):
    """Azure Blob Storage, looked at with obstore past the store."""

    server: Azurite
    prefix: str

    @pytest.fixture
    def store(self, azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> Store:
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
        self.server, self.prefix = azurite, f"exam/{next(_numbers)}"
        return self.wrap(self.reopen())

    def wrap(self, inner: Store) -> Store:
        return inner

    def put_behind(self, name: str, data: bytes) -> None:
        obstore.put(self.server.bucket(self.prefix), name, data)

    def get_behind(self, name: str) -> bytes | None:
        try:
            return bytes(obstore.get(self.server.bucket(self.prefix), name).bytes())
        except FileNotFoundError:
            return None

    def reopen(self) -> Store:
        return open_store(self.server.url(self.prefix))

    def program(self) -> str | None:
        return f"from resurgam.stores.registry import open_store\nstore = open_store({self.server.url(self.prefix)!r})"


class TestAzuriteSlow(TestAzurite):
    """On a store that takes its time."""

    def wrap(self, inner: Store) -> Store:
        return SlowStore(inner, 0.0002)


class TestAzuriteFaulty(TestAzurite):
    """Every third call fails, before or after its effect."""

    def wrap(self, inner: Store) -> Store:
        return RetryingCaller(FaultyStore(inner, Random(7), 0.3))


class TestAzuriteUnanswered(TestAzurite):
    """Every third put takes effect unheard."""

    def wrap(self, inner: Store) -> Store:
        return RetryingCaller(LostResponseStore(inner, Random(13), 0.3, [Lost.UNANSWERED]))


def test_ceph_with_versions_is_refused(ceph: Ceph, monkeypatch: pytest.MonkeyPatch) -> None:
    """P2: where it keeps versions, Ceph 16 takes a second put of a name. `vault init` finds that out and makes no vault."""
    for name, value in environment("admin").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Denied, match="cannot hold a vault"):
        require(examine(open_store(ceph.url("locked", "promises")), None, SystemClock()), "it")
    require(examine(open_store(ceph.url("plain", "promises")), None, SystemClock()), "it")


def test_what_azurite_promises(azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    """`vault init` finds nothing to refuse."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    told = {
        promise.words: promise.kept for promise in examine(open_store(azurite.url("promises")), None, ManualClock())
    }
    assert all(told.values()), told
