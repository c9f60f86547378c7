"""P1, P2: a capture is stopped at every call to its store, before the call's effect and after it.

Whatever was listed before is listed and whole afterwards, nothing else is listed unless it is whole too, and the next capture
goes on from there.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from resurgam.errors import NotFound, StoreFull, TargetRefused
from resurgam.model.system import Json
from resurgam.model.verdict import Judgement
from resurgam.stores.base import Store
from resurgam.testing.faults import Crash, CrashStore, FullStore, ManualClock, MemoryStore
from resurgam.vault.check import check
from resurgam.vault.keyring import Keyring
from resurgam.vault.records import RecordType, read_record
from resurgam.vault.repository import Repository, Sealed
from tests.support import Files, Table, World, copied, stored_bytes

SEED = 20260101
Points = list[tuple[Sealed, dict[str, Files]]]

SLACK = 200  # bytes by which two equal captures may differ, since ids compress as they fall; less than a record has


def a_world(folder: Path, rng: Random) -> World:
    """Two components, one with a table, and one point that is sealed already."""
    world = World(str(folder), ("documents", "prompts"))
    world.driver.held["documents"].files = {b"image": rng.randbytes(600_000), b"small": b"a few words", b"none": b""}
    rows = [(n, f"row {n}") for n in range(500)]
    world.driver.held["documents"].tables["rows"] = Table(("id", "words"), ("id",), list(rows), b"image")
    world.driver.held["prompts"].files = {f"{n:02}.txt".encode(): rng.randbytes(900) for n in range(20)}
    return world


def change(world: World, rng: Random) -> None:
    """What happens between two captures."""
    world.driver.held["documents"].files[b"image"] = rng.randbytes(600_000)
    world.driver.held["documents"].tables["rows"].rows.append((1000, "another"))
    world.driver.held["prompts"].files[b"05.txt"] = b"changed"


def all_stand(world: World, points: Points) -> None:
    """P1: every listed point is one of ``points`` and restores exactly; the vault is clean."""
    repository = world.repository()
    listed = [sealed.body.id for sealed in repository.points()]
    assert set(listed) == {sealed.body.id for sealed, _ in points}
    for sealed, contents in points:
        assert world.restored(repository.sealed(sealed.body.id), repository) == contents
    assert check(repository, read=True).damage == ()
    for entry in world.store.list("log/"):
        record = read_record(world.store.get(entry.name), repository.roles, repository.vault, what=entry.name)
        named = str(record.read(dict[str, Json])["object"])
        assert [e.name for e in world.store.list(named)] == [named], "what is announced is there (P1)"


def stopped_at(folder: Path, stop: int, after: bool, *, seed: int = SEED, twice: bool = False) -> bool:
    """Capture once whole, once stopped, once whole again, and look at everything. False when nothing was left to stop."""
    rng = Random(seed + stop)
    world = a_world(folder, rng)
    points: Points = [(world.capture(), world.contents())]
    change(world, rng)
    before = stored_bytes(world.store)
    dying = CrashStore(world.store, stop, after=after)
    try:
        world.capture(dying)
        died = False
    except Crash:
        died = True
    known = {sealed.body.id for sealed, _ in points}
    for sealed in world.repository().points():  # sealed although the process died before it could say so
        if sealed.body.id not in known:
            points.append((sealed, world.contents()))
    all_stand(world, points)
    wrote = stored_bytes(world.store) - before
    if twice:
        with pytest.raises(Crash):
            world.capture(CrashStore(world.store, 1 + stop // 2))
    again = world.capture()
    points.append((again, world.contents()))
    all_stand(world, points)
    if wrote > 500_000:  # the image was durable: it is not stored a second time
        assert sum(snapshot.stored for snapshot in again.body.snapshots) < 300_000
    revoked(world)
    return died


def revoked(world: World) -> None:
    """No lease is left whose name could still become a point: each is sealed or revoked (P1)."""
    repository = world.repository()
    for lease in world.store.list("leases/"):
        name = f"points/{lease.name.rpartition('/')[2]}"
        about = name.replace("points/", "point/")
        record = read_record(
            world.store.get(name),
            repository.roles,
            repository.vault,
            {RecordType.POINT, RecordType.REVOCATION},
            about=about,
            what=name,
        )
        assert record.type in {RecordType.POINT, RecordType.REVOCATION}


def calls_of_a_capture(folder: Path) -> int:
    """How many calls the second capture of a world makes."""
    rng = Random(0)
    world = a_world(folder, rng)
    world.capture()
    change(world, rng)
    counting = CrashStore(world.store)
    world.capture(counting)
    return counting.calls


def sweep(folder: Path, seed: int, *, twice: bool = False) -> int:
    """Every stop, with contents of ``seed``; returns how many. ``twice`` stops the capture after each, too."""
    calls = calls_of_a_capture(folder / "count")
    stops = [(stop, after) for stop in range(1, calls + 1) for after in (False, True)]
    for stop, after in stops:
        died = stopped_at(folder / f"{stop}-{after}", stop, after, seed=seed, twice=twice)
        assert died or stop >= calls - 2, f"nothing stopped at call {stop} of {calls}"
    return len(stops)


def test_capture_stopped_anywhere(tmp_path: Path) -> None:
    """P1: the whole sweep, once; the soak repeats it with other contents and stops twice in a row."""
    assert sweep(tmp_path, SEED) > 30


@pytest.mark.parametrize("after", [False, True])
def test_point_is_whole_before_it_is_listed(tmp_path: Path, after: bool) -> None:
    """P1: the point's record is the last thing it needs; stopped before it there is no point, after it there is."""
    world = a_world(tmp_path, Random(1))
    counting = CrashStore(copied(world.store))
    world.capture(counting)
    world.forget()
    seal = next(n for n, call in enumerate(counting.history, 1) if call.startswith("put points/"))
    later = [call for call in counting.history[seal:] if call.startswith("put ")]
    assert all(call.startswith("put log/") for call in later), "something was written behind the seal that it may need"
    with pytest.raises(Crash):
        world.capture(CrashStore(world.store, seal, after=after))
    assert len(world.repository().points()) == after


def test_two_failures_in_a_row(tmp_path: Path) -> None:
    """P1: the capture after a stopped capture is stopped too, and the third seals."""
    for stop in (9, 11, 13):
        stopped_at(tmp_path / str(stop), stop, after=True, twice=True)


def test_packs_of_a_stopped_capture_are_reused_without_host_state(tmp_path: Path) -> None:
    """P3: what an interrupted capture stored is found by its trailers, not by the host's memory."""
    world = a_world(tmp_path, Random(2))
    counting = CrashStore(copied(world.store))
    world.capture(counting)
    segment = next(n for n, call in enumerate(counting.history, 1) if call.startswith("put index/"))
    world.forget()
    with pytest.raises(Crash):
        world.capture(CrashStore(world.store, segment))
    world.forget()
    again = world.capture()
    assert sum(snapshot.stored for snapshot in again.body.snapshots) < 5_000
    assert world.restored(again) == world.contents()


def test_every_put_meets_a_full_store(tmp_path: Path) -> None:
    """P1, P12: no space at any put up to the point is StoreFull with a next step; listed points stand, and with room the next
    one seals."""
    rng = Random(3)
    world = a_world(tmp_path, rng)
    points: Points = [(world.capture(), world.contents())]
    change(world, rng)
    start = stored_bytes(world.store)
    sizes = _sizes_put(world)[:-1]  # the last announces a point that exists
    refused = 0
    for room in sizes:
        world.forget()
        full = FullStore(copied(world.store), start + room - SLACK)
        with pytest.raises(StoreFull) as caught:
            world.capture(full)
        refused += 1
        assert caught.value.untouched
        assert caught.value.next_step
        known = {sealed.body.id for sealed, _ in points}
        for sealed in world.repository(full).points():
            contents = world.contents() if sealed.body.id not in known else points[0][1]
            assert world.restored(sealed, world.repository(full)) == contents
        full.capacity = 10 * start + (50 << 20)
        again = world.capture(full)
        assert world.restored(again, world.repository(full)) == world.contents()
        assert check(world.repository(full), read=True).ok
    assert refused == len(sizes) >= 6


def test_no_room_to_announce_a_point_that_is_sealed(tmp_path: Path) -> None:
    """P1, P12: the point exists by its record; that the log does not say so is told, and is no failure."""
    world = a_world(tmp_path, Random(5))
    start = stored_bytes(world.store)
    full = FullStore(copied(world.store), start + _sizes_put(world)[-2] + SLACK)
    world.forget()
    told: list[str] = []
    sealed = world.capture(full, tell=told.append)
    assert [f"point {sealed.body.id} is sealed" in one and "no room for log/" in one for one in told] == [True]
    assert world.restored(sealed, world.repository(full)) == world.contents()
    full.capacity *= 2
    assert world.capture(full).body.previous == sealed.body.id


def _sizes_put(world: World) -> list[int]:
    """Bytes that the next capture has written after each of its puts."""
    written: list[int] = []

    class Watching(MemoryStore):
        def put(self, name: str, data: object) -> None:
            super().put(name, data)  # type: ignore[arg-type]
            written.append(len(self.get(name)))

    watching = Watching()
    for entry in world.store.list():
        watching.put(entry.name, world.store.get(entry.name))
    del written[:]
    world.capture(watching)
    return [sum(written[: n + 1]) for n in range(len(written))]


def test_evidence_stopped_anywhere(tmp_path: Path) -> None:
    """P1, P2: a document and its record, stopped at every call: the point stands, and no record names what is not there."""
    world = a_world(tmp_path, Random(4))
    point = world.capture()
    contents = world.contents()
    counting = CrashStore(copied(world.store))
    _write_evidence(world, counting, point)
    for stop in range(1, counting.calls + 1):
        for after in (False, True):
            store = copied(world.store)
            with suppress(Crash):
                _write_evidence(world, CrashStore(store, stop, after=after), point)
            repository = world.repository(store)
            for record in repository.records(point.body.id):
                named = str(record.read(dict[str, Json])["document"])
                assert repository.document(named, dict[str, str], what="evidence") == {"seen": "this"}
            assert world.restored(point, repository) == contents
            assert check(repository, read=True).ok
            _write_evidence(world, store, point)
            assert world.repository(store).state(point).verdict is not None


def _write_evidence(world: World, store: Store, point: Sealed) -> None:
    repository = world.repository(store)
    with repository.evidence_writer(point.body.id, world.clock, RecordType.BASELINE, RecordType.VERDICT) as writer:
        document = writer.document({"seen": "this"})
        writer.flush()
        body = {"document": document}
        writer.put(RecordType.BASELINE, body)
        writer.put(RecordType.VERDICT, {**body, "judgement": Judgement.IDENTICAL})


def test_vault_init_stopped_anywhere(tmp_path: Path) -> None:
    """P1: an interrupted init is no vault and is refused by name; a whole one opens. No key of a vault is ever replaced."""
    counting = CrashStore(MemoryStore())
    Repository.create(counting, str(tmp_path / "keys"), "test", ManualClock())
    for stop in range(1, counting.calls + 1):
        for after in (False, True):
            store, keys = MemoryStore(), str(tmp_path / f"keys-{stop}-{after}")
            with suppress(Crash):
                Repository.create(CrashStore(store, stop, after=after), keys, "test", ManualClock())
            if any(True for _ in store.list("vault.json")):
                assert Repository(store, Keyring(keys)).points() == []
                continue
            with pytest.raises(NotFound):
                Repository(store, Keyring(keys))
            begun = os.path.exists(keys) or any(True for _ in store.list())
            if begun:
                with pytest.raises(TargetRefused) as caught:
                    Repository.create(store, keys, "test", ManualClock())
                assert caught.value.next_step
            else:
                Repository.create(store, keys, "test", ManualClock())
