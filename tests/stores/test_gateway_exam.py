"""A gateway passes the exam of every store over a real TLS connection, alone and in each fitting double."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from random import Random

import pytest

from resurgam.stores.base import Store
from resurgam.stores.registry import open_store
from resurgam.testing.doubles import EventualStore, LockingStore, Lost, LostResponseStore
from resurgam.testing.faults import CrashStore, FaultyStore, FullStore, ManualClock, SlowStore
from resurgam.testing.store_kit import StoreExam
from tests.stores.gateways import Shared
from tests.stores.test_exam import RetryingCaller

_numbers = count()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    server = Shared(str(tmp_path_factory.mktemp("gateways") / "folders"))
    server.start()
    try:
        yield server
    finally:
        server.kill()


class GatewayExam(StoreExam):
    """Each test has a folder of its own, which is looked at past the gateway."""

    server: Shared
    own: str

    @pytest.fixture
    def store(self, shared: Shared, monkeypatch: pytest.MonkeyPatch) -> Store:
        monkeypatch.setenv("RESURGAM_VAULT_TOKEN", shared.token)
        self.server, self.own = shared, f"exam-{next(_numbers)}"
        return self.wrap(open_store(shared.url_of(self.own)))

    def wrap(self, inner: Store) -> Store:
        return inner

    def put_behind(self, name: str, data: bytes) -> None:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def get_behind(self, name: str) -> bytes | None:
        path = self._path(name)
        return path.read_bytes() if path.is_file() else None

    def reopen(self) -> Store:
        return open_store(self.server.url_of(self.own))

    def program(self) -> str | None:
        return f"from resurgam.stores.registry import open_store\nstore = open_store({self.server.url_of(self.own)!r})"

    def _path(self, name: str) -> Path:
        return Path(self.server.folder) / self.own / name


class TestGateway(GatewayExam):
    """Alone."""


class GatewayInDouble(GatewayExam):
    """Other processes would go past the double, and show again what they show without it."""

    def program(self) -> None:
        return None


class TestGatewaySlow(GatewayInDouble):
    """On a store that takes its time."""

    def wrap(self, inner: Store) -> Store:
        return SlowStore(inner, 0.0002)


class TestGatewayNotYetCrashed(GatewayInDouble):
    """A store that never crashes only counts."""

    def wrap(self, inner: Store) -> Store:
        return CrashStore(inner)


class TestGatewayWithRoom(GatewayInDouble):
    """A store that is not yet full."""

    def wrap(self, inner: Store) -> Store:
        return FullStore(inner, 1 << 30)


class TestGatewayFaulty(GatewayInDouble):
    """Every third call fails, before or after its effect: a caller who retries and reads back keeps the contract."""

    def wrap(self, inner: Store) -> Store:
        return RetryingCaller(FaultyStore(inner, Random(7), 0.3))


class TestGatewayUnanswered(GatewayInDouble):
    """Every third put takes effect unheard: a caller who reads back keeps the contract."""

    def wrap(self, inner: Store) -> Store:
        return RetryingCaller(LostResponseStore(inner, Random(13), 0.3, [Lost.UNANSWERED]))


class TestGatewayLocking(GatewayInDouble):
    """Object lock whose time has passed."""

    def wrap(self, inner: Store) -> Store:
        return LockingStore(inner, ManualClock(), 0.0)


class TestGatewayListingAtOnce(GatewayInDouble):
    """The double of a store that lists late, without the lag."""

    def wrap(self, inner: Store) -> Store:
        return EventualStore(inner, ManualClock(), Random(1), 0.0)
