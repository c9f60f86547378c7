"""A capture that was cut off is gone on with, and nothing that had arrived is sent again: in a folder, and on a real S3 server.

There is no half an object to go on with: each is one conditional put (ADR 20). So what is lost is at most the packs in flight.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from random import Random

import pytest

from resurgam.errors import Unreachable
from resurgam.stores.base import Buffer, Store
from resurgam.stores.local import LocalStore
from resurgam.stores.registry import open_store
from resurgam.testing.faults import Crash, CrashStore, Wrapped
from resurgam.vault.pack import PACK_SIZE
from resurgam.vault.sink import IN_FLIGHT
from tests.stores.seaweed import Seaweed, environment
from tests.support import World

SIZE = 160 << 20  # five packs


class Sent(Wrapped):
    """Counts the bytes of packs that are sent, and after ``arrive`` of them every put of another one dies as ``death``."""

    def __init__(self, inner: Store, arrive: int = 1 << 30, death: type[BaseException] = Crash) -> None:
        super().__init__(inner)
        self._arrive, self._death = arrive, death
        self.packs: list[tuple[str, int]] = []

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """As the inner one, until it dies."""
        if name.startswith("packs/"):
            if len(self.packs) >= self._arrive:
                raise self._death("cut off")
            assert isinstance(data, memoryview)
            self.packs.append((name, len(data)))
        self.inner.put(name, data)

    @property
    def bytes(self) -> int:
        """Of all packs that were sent."""
        return sum(size for _, size in self.packs)


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "folder":
        return LocalStore.create(str(tmp_path / "vault"))
    for name, value in environment("writer").items():
        monkeypatch.setenv(name, value)
    server: Seaweed = request.getfixturevalue("seaweed")
    return open_store(server.url("plain", f"interrupted-{os.getpid()}-{tmp_path.name}"))


@pytest.mark.parametrize("death", [Crash, Unreachable])
def test_what_had_arrived_is_not_sent_again(store: Store, tmp_path: Path, death: type[BaseException]) -> None:
    """P1, P11: the process dies, or the link does, with three of six packs stored and no segment over them. The next capture sends
    the rest and no more than was in flight; no pack has a part of an object; the point is whole."""
    world = World(str(tmp_path), store=store)
    world.live.files = {b"large": Random(1).randbytes(SIZE // 2) + os.urandom(SIZE // 2)}
    cut = Sent(store, arrive=3, death=death)
    with pytest.raises(death):
        world.capture(cut)
    arrived = {entry.name: entry.size for entry in store.list("packs/")}
    assert len(arrived) == 3
    assert not [*store.list("index/")], "what it had stored is found by the packs themselves"
    again = Sent(store)
    sealed = world.capture(again)
    assert not {name for name, _ in again.packs} & set(arrived)
    whole = sum(entry.size for entry in store.list("packs/"))
    assert whole < SIZE + 2 * PACK_SIZE, "something was stored twice"
    assert again.bytes <= whole - sum(arrived.values())
    assert SIZE - sum(arrived.values()) <= again.bytes <= SIZE - sum(arrived.values()) + IN_FLIGHT * PACK_SIZE
    assert world.restored(sealed) == world.contents()


def test_each_object_is_one_put(store: Store, tmp_path: Path) -> None:
    """P2: no name is put twice, and none under another one first: a call that creates is all that a store ever sees."""
    world = World(str(tmp_path), store=store)
    world.live.files = {b"large": os.urandom(40 << 20), b"small": b"x"}
    seen = CrashStore(store)
    world.capture(seen)
    puts = [call.removeprefix("put ") for call in seen.history if call.startswith("put ")]
    assert sorted(puts) == sorted(set(puts))
    there = {entry.name for entry in store.list()}
    assert set(puts) <= there
    assert not [call for call in seen.history if call.startswith("delete ")]
