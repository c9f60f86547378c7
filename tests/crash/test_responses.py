"""P1, P2: the response to a put is lost, at each put of a capture, of evidence and of a new vault, in every way that it can be.

A caller who hears nothing, or hears of its own first try that somebody was before it, may believe neither success nor failure
without looking. So: what was said to be sealed is there and whole; what was said to have failed is there whole or not at all; and
the next capture works.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from resurgam.errors import Unreachable
from resurgam.stores.base import Buffer
from resurgam.testing.doubles import Lost, LostResponseStore
from resurgam.testing.faults import ManualClock, MemoryStore
from resurgam.vault.check import check
from resurgam.vault.keyring import Keyring
from resurgam.vault.records import RecordType
from resurgam.vault.repository import Repository
from tests.support import Files, World, copied


class LosesOne(LostResponseStore):
    """Loses the response to put number ``number`` (from 1) and to no other."""

    def __init__(self, inner: MemoryStore, number: int, way: Lost, seed: int = 1) -> None:
        super().__init__(inner, Random(seed), 0.0, [way])
        self.number, self.puts = number, 0

    def put(self, name: str, data: Buffer | object) -> None:
        self.puts += 1
        self._rate = float(self.puts == self.number)
        super().put(name, data)  # type: ignore[arg-type]


def a_world(folder: Path) -> World:
    world = World(str(folder))
    world.live.files = {b"a": Random(1).randbytes(9000), b"b": b"few"}
    return world


def puts_of_a_capture(world: World) -> int:
    counting = LosesOne(copied(world.store), 0, Lost.LATE)
    world.capture(counting)
    world.forget()
    return counting.puts


@pytest.mark.parametrize("way", list(Lost))
def test_capture(tmp_path: Path, way: Lost) -> None:
    """P1: a capture seals where its put is known to have taken effect, and says so; no point is lost and none is half."""
    world = a_world(tmp_path)
    first, held = world.capture(), world.contents()
    world.live.files[b"a"] = Random(2).randbytes(9000)
    world.forget()
    for number in range(1, puts_of_a_capture(world) + 1):
        memory = copied(world.store)
        store = LosesOne(memory, number, way)
        points: dict[str, dict[str, Files]] = {first.body.id: held}
        try:
            points[world.capture(store).body.id] = world.contents()
        except Unreachable:
            assert way is Lost.LATE, "the store could be asked, and was not"
        store.arrive()
        points[world.capture(memory).body.id] = world.contents()
        assert len(store.lost) == 1
        repository = world.repository(memory)
        for sealed in repository.points():  # also one that landed after its capture had given up
            assert world.restored(sealed, repository) == points.get(sealed.body.id, world.contents())
        assert points.keys() <= {sealed.body.id for sealed in repository.points()}
        assert check(repository, read=True).damage == ()
        world.forget()


def test_evidence(tmp_path: Path) -> None:
    """P2: a record is there when it was said to be, and announced under one number."""
    world = a_world(tmp_path)
    point = world.capture()
    for way in (Lost.UNANSWERED, Lost.RETRIED):
        for number in range(1, 6):
            memory = copied(world.store)
            store = LosesOne(memory, number, way)
            repository = world.repository(store)
            with repository.evidence_writer(point.body.id, world.clock, RecordType.BASELINE) as writer:
                body = {"document": writer.document({"seen": "this"})}
                writer.flush()
                writer.put(RecordType.BASELINE, body)
            (record,) = world.repository(memory).records(point.body.id)
            assert record.read(dict[str, str]) == body
            assert len(list(memory.list("log/"))) == len(list(world.store.list("log/"))) + 1


def test_new_vault(tmp_path: Path) -> None:
    """P1: a vault is there when ``init`` says so, and opens."""
    for way in (Lost.UNANSWERED, Lost.RETRIED):
        for number in range(1, 4):
            keys = str(tmp_path / f"{way}-{number}")
            memory = MemoryStore()
            Repository.create(LosesOne(memory, number, way), keys, "test", ManualClock())
            assert Repository(memory, Keyring(keys)).points() == []
