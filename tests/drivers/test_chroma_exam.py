"""The driver chroma sits the exam of all drivers, on the real library in another process."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from resurgam.drivers.base import Driver
from resurgam.drivers.chroma import ChromaDriver
from resurgam.model.system import Component
from resurgam.testing.driver_kit import DriverExam
from tests.drivers.chroma_client import Client, script


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """One process for all hooks."""
    client = Client()
    yield client
    client.close()


class TestChroma(DriverExam):
    """One collection; a value is a record's metadata, and decides its vector and its document."""

    @pytest.fixture(autouse=True)
    def _use(self, client: Client) -> None:
        self.client = client

    @pytest.fixture
    def driver(self) -> Driver:
        """A new one for each test: pins live in it."""
        return ChromaDriver()

    @pytest.fixture
    def live(self, tmp_path: Path) -> Component:
        """Where the exam seeds its source."""
        return Component(name="index", driver="chroma", location=str(tmp_path / "live"))

    @pytest.fixture
    def target(self, tmp_path: Path) -> Component:
        """Where it restores to."""
        return Component(name="index", driver="chroma", location=str(tmp_path / "restored" / "copy"))

    def seed(self, component: Component, data: dict[str, bytes]) -> None:
        """Through the library."""
        told = {key: base64.b64encode(value).decode() for key, value in data.items()}
        self.client("seed", component.location, data=told)

    def peek(self, component: Component) -> dict[str, bytes]:
        """Through the library, vectors and documents checked."""
        return {k: base64.b64decode(v) for k, v in self.client("peek", component.location).items()}

    def change(self, component: Component, key: str, value: bytes | None) -> None:
        """Through the library."""
        told = None if value is None else base64.b64encode(value).decode()
        self.client("change", component.location, key=key, value=told)

    def pair_writer(self, component: Component) -> list[str]:
        """Both keys in one call."""
        return [*script(), "pair", component.location]
