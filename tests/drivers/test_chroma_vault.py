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


def size_of(folder: Path | str) -> int:
    """Bytes of all files below."""
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


@pytest.fixture
def client() -> Iterator[Client]:
    """A process for the acts of one test."""
    client = Client()
    yield client
    client.close()


def test_vectors_are_stored_once(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P11: all that the vault holds is at most 1.15 times the image, view included; a change costs little; both come back."""
    live = Component(name="index", driver="chroma", location=str(tmp_path / "live"))
    client("run", live.location, code=FILL)
    os.mkdir(tmp_path / "vault")
    place = VaultPlace(path=str(tmp_path / "vault"), keys=str(tmp_path / "keys"))
    system = System(name="index", vault=place, components=(live,))
    repository, _ = Repository.create(LocalStore(place.path), place.keys, "tests", SystemClock())
    host = HostState(repository.identity.vault, system.name, str(tmp_path / "state"))
    monkeypatch.setattr("resurgam.drivers.chroma_pin.SETTLED", -1e9)  # as if all files were old
    monkeypatch.setattr("resurgam.drivers.chroma.SETTLED", -1e9)
    monkeypatch.setattr("resurgam.drivers.sqlite_pin._SETTLE_SECONDS", -1e9)

    def captured() -> str:
        return capture(system, driver_for, lambda _: (), repository, host, SystemClock()).body.id

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
        body = repository.sealed(point).body
        assert not body.findings.get("broken")
        target = live.bound_to(str(tmp_path / f"restored-{point}"))
        ChromaDriver().write(repository.snapshot(body, "index").items(), target)
        assert ChromaDriver().fingerprint(target) == fingerprint
        shutil.rmtree(target.location)
