"""A vault whose host remembers its index: what it finds is what it would find without, whatever became of vault and file."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import msgspec
import pytest

from resurgam.stores.base import Store
from resurgam.vault import places
from resurgam.vault.check import check
from resurgam.vault.index import Index, Place
from resurgam.vault.indexcache import IndexCache
from resurgam.vault.keyring import Keyring
from resurgam.vault.places import Places
from resurgam.vault.prunes import Prune, PruneEnd, PrunePlan, Prunes, Stage
from resurgam.vault.records import RecordType, Subject
from resurgam.vault.repository import Repository, Sealed
from resurgam.vault.signing import Role
from tests.support import World

Found = dict[bytes, list[Place]]


class Remembering(World):
    """A world whose host remembers the index of its vault."""

    def repository(self, store: Store | None = None, keys: str | None = None) -> Repository:
        """The vault, opened anew by a process of this host."""
        return Repository(store or self.store, Keyring(keys or self.keys), self.notes)

    @property
    def notes(self) -> str:
        """The folder."""
        return f"{self.folder}/notes"

    def capture_and_remember(self) -> Sealed:
        """One capture, and a look into the vault after it."""
        sealed = self.capture()
        assert len(self.repository().index)
        assert remembered(self)
        return sealed

    def change(self, seed: int) -> None:
        """Other files than before, some of them."""
        rng = Random(seed)
        for number in rng.sample(range(12), 4):
            self.live.files[b"%02d" % number] = rng.randbytes(rng.choice((0, 700, 150_000)))

    def place(self, table: object = None, prunes: Prunes | None = None, *, remembering: bool = True) -> Places:
        """What this host knows of where chunks lie; ``table`` are other roles than those in force."""
        opened = self.repository()
        cache = IndexCache(self.notes, opened.vault, opened.secret.host_key()) if remembering else None
        given = prunes if prunes is not None else Prunes()
        roles = opened.roles if table is None else msgspec.convert(table, type(opened.roles))
        return Places(self.store, opened.secret, roles, lambda: given, cache)

    def own(self) -> str:
        """The id of the key that captures."""
        return Keyring(self.keys).signer(Role.CAPTURE).key_id


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remembering:
    """However little there is, it is remembered."""
    monkeypatch.setattr(places, "_FEW", 0)
    made = Remembering(str(tmp_path))
    made.change(0)
    return made


def found(index: Index) -> Found:
    """Every chunk of an index, with its places."""
    ids = {
        entries[at : at + 1].tobytes()[:32]
        for table in index.tables
        for entries in table.counting()
        for at in range(len(entries))
    }
    return {chunk: sorted(index.places(chunk)) for chunk in ids}


def remembered(world: Remembering) -> bool:
    """Whether there is a file."""
    return os.path.exists(f"{world.notes}/chunks")


@pytest.mark.parametrize("seed", range(4))
def test_what_is_remembered_is_what_is_there(world: Remembering, seed: int) -> None:
    """P3: after every capture, evidence and loss, with the file or without: the same chunks in the same places, for a reader
    and for a writer; and every point restores."""
    rng, points = Random(seed), []
    for step in range(7):
        world.change(100 * seed + step)
        sealed = world.capture()
        points.append((sealed, world.contents()))
        if rng.random() < 0.4:
            with world.repository().evidence_writer(sealed.body.id, world.clock, RecordType.VERDICT) as writer:
                writer.document({"answer": rng.randbytes(2000).hex()})
                writer.flush()
        if rng.random() < 0.4:
            world.store.delete(rng.choice(list(world.store.list("index/"))).name)
        if rng.random() < 0.2 and remembered(world):
            os.unlink(f"{world.notes}/chunks")
        for origin in (None, world.own(), "00" * 8):
            with_file, _ = world.place().index(origin)
            without, _ = world.place(remembering=False).index(origin)
            assert found(with_file) == found(without)
    assert remembered(world)
    for sealed, contents in points:
        assert world.restored(sealed) == contents


def test_a_lost_segment_is_written_again(world: Remembering) -> None:
    """P3: what the host remembers of a segment that is gone does not stand in its place for everybody else."""
    world.capture_and_remember()
    for entry in list(world.store.list("index/")):
        world.store.delete(entry.name)
    world.capture()
    named = {pack for segment in world.place(remembering=False).segments() for pack in segment.packs}
    assert named == {entry.name.rpartition("/")[2] for entry in world.store.list("packs/")}


@pytest.mark.parametrize("cut", [0, 3])
def test_a_lost_pack_is_stored_again(world: Remembering, cut: int) -> None:
    """P1: a chunk that is remembered counts only where its pack is there and long enough."""
    first = world.capture_and_remember()
    lost = max(world.store.list("packs/"), key=lambda entry: entry.size)
    data = world.store.get(lost.name)
    world.store.delete(lost.name)
    if cut:
        world.store.put(lost.name, data[: len(data) // cut])
    world.forget()
    second = world.capture()
    assert sum(snapshot.stored for snapshot in second.body.snapshots) > 0
    assert world.restored(second) == world.restored(first) == world.contents()


def test_a_removed_key_takes_with_it_what_it_signed(world: Remembering) -> None:
    """P9: however well its segments are remembered."""
    world.capture_and_remember()
    held = world.repository().roles
    without = msgspec.structs.replace(
        held, roles={name: keys for name, keys in held.roles.items() if name != "capture"}
    )
    trusting = world.place()
    assert found(trusting.index()[0])
    doubting = world.place(without)
    assert found(doubting.index()[0]) == {}
    assert any("no capture or verifier key" in why for why in doubting.refused)


def test_one_file_serves_writers_apart(world: Remembering) -> None:
    """P9: a reader has remembered all chunks; a writer still reuses its own alone."""
    sealed = world.capture()
    value = {"answer": "x" * 5000}
    with world.repository().evidence_writer(sealed.body.id, world.clock, RecordType.VERDICT) as writer:
        one = writer.document(value)
        writer.flush()
    assert world.repository().index.find(bytes.fromhex(one)) is not None
    with world.repository().writer(world.system, world.host(), world.clock) as capturing:
        assert capturing.document(value) == one
        capturing.flush()
        assert capturing.stored > 0


def test_swept_packs_are_passed_over_in_silence(world: Remembering) -> None:
    """A writer also passes over those that are about to be swept."""
    world.capture()
    packs = {place.pack for places_ in found(world.place().index()[0]).values() for place in places_}

    def prunes(stage: Stage, end: PruneEnd | None) -> Prunes:
        plan, subject = PrunePlan(format=1, number=1, remove=tuple(packs)), Subject("prune/1", "00" * 32)
        return Prunes((Prune(plan=plan, subject=subject, made="", signer="", stage=stage, end=end),), 1)

    was_swept = prunes(Stage.SWEPT, PruneEnd(swept=True, gone=tuple(packs)))
    swept, going = world.place(prunes=was_swept), world.place(prunes=prunes(Stage.BEGUN, None))
    assert found(swept.index()[0]) == {} == found(going.index(world.own())[0])
    assert found(going.index()[0])
    assert swept.refused == going.refused == []


def test_a_false_file_is_not_believed(world: Remembering) -> None:
    """P12: whatever bit is set in it, the next capture stores what is not there."""
    world.capture_and_remember()
    rng = Random(5)
    with open(f"{world.notes}/chunks", "rb") as file:
        whole = file.read()
    for offset in rng.sample(range(len(whole)), 25):
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << rng.randrange(8)
        with open(f"{world.notes}/chunks", "wb") as file:
            file.write(damaged)
        world.change(offset)
        world.forget()
        assert world.restored(world.capture()) == world.contents()


def test_an_old_file_says_less_and_nothing_false(world: Remembering) -> None:
    """P12: one that was put back, after packs that it names were lost and others came."""
    world.capture_and_remember()
    with open(f"{world.notes}/chunks", "rb") as file:
        old = file.read()
    for entry in list(world.store.list("packs/")):
        world.store.delete(entry.name)
    world.change(1)
    world.forget()
    world.capture()
    with open(f"{world.notes}/chunks", "wb") as file:
        file.write(old)
    world.change(2)
    world.forget()
    assert world.restored(world.capture()) == world.contents()


def test_a_check_reads_what_lies_in_the_vault(world: Remembering) -> None:
    """A segment that rots after it was remembered is damage all the same."""
    world.capture_and_remember()
    assert check(world.repository()).ok
    entry = max(world.store.list("index/"), key=lambda entry: entry.size)
    data = bytearray(world.store.get(entry.name))
    data[-1] ^= 1
    world.store.delete(entry.name)
    world.store.put(entry.name, data)
    assert any(entry.name in damage.what + damage.object for damage in check(world.repository()).damage)


def test_a_host_that_can_remember_nothing_works(world: Remembering) -> None:
    """P3: the folder is a file; everything is read each time."""
    with open(world.notes, "wb"):
        pass
    first = world.capture()
    world.change(3)
    second = world.capture()
    assert world.restored(second) == world.contents() != world.restored(first)


def test_few_segments_are_read_and_not_remembered(tmp_path: Path) -> None:
    """P11: a small vault writes no file, and reads all it has."""
    small = Remembering(str(tmp_path))
    small.change(0)
    small.capture()
    assert not remembered(small)
    assert small.restored(small.capture()) == small.contents()


def test_segments_since_are_read_until_they_are_many(world: Remembering, monkeypatch: pytest.MonkeyPatch) -> None:
    """P11: what a capture adds does not make a new file each time; what is in neither is found all the same."""
    world.live.files = {b"%03d" % number: Random(number).randbytes(70_000) for number in range(64)}
    world.capture_and_remember()
    written = os.stat(f"{world.notes}/chunks").st_ino
    monkeypatch.setattr(places, "_FEW", 50)
    world.live.files[b"new"] = Random(99).randbytes(70_000)
    second = world.capture()
    assert os.stat(f"{world.notes}/chunks").st_ino == written
    assert world.restored(second) == world.contents()
    monkeypatch.setattr(places, "_FEW_SEGMENTS", 0)
    assert world.restored(second) == world.contents()
    assert os.stat(f"{world.notes}/chunks").st_ino != written
