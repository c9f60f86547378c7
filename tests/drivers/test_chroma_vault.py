"""``chroma`` through a real vault: vectors are stored once, and what did not change is not stored again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from resurgam.capture.run import capture
from resurgam.clock import SystemClock
from resurgam.drivers import chroma_view
from resurgam.drivers.chroma import ChromaDriver
from resurgam.drivers.registry import driver_for
from resurgam.model.system import Component, System, VaultPlace
from resurgam.stores.local import LocalStore
from resurgam.vault.host import HostState
from resurgam.vault.repository import Repository
from tests.drivers.chroma_client import Client

FILL = """
import numpy as np
rng = np.random.default_rng(1)
made = create(client, "help", sync=1000)
vectors = rng.normal(size=(3000, 256)).astype("f4")
for at in range(0, 3000, 500):
    ids = range(at, at + 500)
    made.add(ids=[f"{n:06}" for n in ids], embeddings=vectors[at : at + 500], metadatas=[{"n": n} for n in ids],
        documents=[" ".join(map(str, rng.integers(0, 10**6, 40))) for n in ids])
"""
CHANGE = "client.get_collection('help', embedding_function=None).update(ids=['000007'], metadatas=[{'n': -7}])"
GROW = """
import numpy as np
rng = np.random.default_rng(2)
found = client.get_collection("help", embedding_function=None)
found.add(ids=[f"new {n}" for n in range(100)], embeddings=rng.normal(size=(100, 256)).astype("f4"))
"""


def size_of(folder: Path | str) -> int:
    """Bytes of all files below."""
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


@pytest.fixture
def client() -> Iterator[Client]:
    """A process for the acts of one test."""
    client = Client()
    yield client
    client.close()


class Captured:
    """A folder of Chroma's, and a vault for it."""

    def __init__(self, folder: Path) -> None:
        self.live = Component(name="index", driver="chroma", location=str(folder / "live"))
        os.mkdir(folder / "vault")
        self.place = VaultPlace(path=str(folder / "vault"), keys=str(folder / "keys"))
        self._system = System(name="index", vault=self.place, components=(self.live,))
        self.repository, _ = Repository.create(LocalStore(self.place.path), self.place.keys, "tests", SystemClock())
        self._host = HostState(self.repository.identity.vault, self._system.name, str(folder / "state"))

    def capture(self) -> str:
        """The id of a new point."""
        return capture(self._system, driver_for, lambda _: (), self.repository, self._host, SystemClock()).body.id

    def restored(self, point: str, to: Path) -> Component:
        """The point in a folder of its own."""
        body = self.repository.sealed(point).body
        assert not body.findings.get("broken")
        target = self.live.bound_to(str(to))
        ChromaDriver().write(self.repository.snapshot(body, "index").items(), target)
        return target


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Captured:
    """All files count as old: what has its time and size is not read again."""
    monkeypatch.setattr("resurgam.drivers.chroma_pin.SETTLED", -1e9)
    monkeypatch.setattr("resurgam.drivers.chroma.SETTLED", -1e9)
    monkeypatch.setattr("resurgam.drivers.sqlite_pin._SETTLE_SECONDS", -1e9)
    return Captured(tmp_path)


def test_vectors_are_stored_once(
    client: Client, world: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P11: all that the vault holds is at most 1.15 times the image, view included; a change costs little; both come back."""
    live, place, captured = world.live, world.place, world.capture
    client("run", live.location, code=FILL)
    first = captured()
    image, stored = size_of(live.location), size_of(place.path)
    print(f"\nimage {image:,} bytes, vault {stored:,}: {stored / image:.3f}")
    assert stored <= 1.15 * image
    with monkeypatch.context() as patch:
        patch.setattr(chroma_view.View, "items", None)  # an unchanged view is not decoded again
        second = captured()
    assert size_of(place.path) - stored < 100_000
    old = ChromaDriver().fingerprint(live)
    before = size_of(place.path)
    client("run", live.location, code=CHANGE)
    third = captured()
    print(f"one value changed: {size_of(place.path) - before:,} bytes more")
    assert size_of(place.path) - before < 0.1 * image
    for point, fingerprint in ((first, old), (second, old), (third, ChromaDriver().fingerprint(live))):
        target = world.restored(point, tmp_path / f"restored-{point}")
        assert ChromaDriver().fingerprint(target) == fingerprint
        shutil.rmtree(target.location)


def test_a_graph_that_grows_costs_what_grew(client: Client, world: Captured, tmp_path: Path) -> None:
    """P11: elements stay where they are in the graph's files, so new ones, and links to them, are what is stored."""
    client("run", world.live.location, code=FILL.replace("sync=1000", "sync=100"))
    world.capture()
    graph = sum(file.stat().st_size for file in Path(world.live.location).rglob("data_level0.bin"))
    before = size_of(world.place.path)
    client("run", world.live.location, code=GROW)
    point = world.capture()
    grown = size_of(world.place.path) - before
    print(f"\n100 of 3,000 more: {grown:,} bytes of {graph:,}")
    assert grown < 0.5 * graph
    target = world.restored(point, tmp_path / "restored")
    assert ChromaDriver().fingerprint(target) == ChromaDriver().fingerprint(world.live)
