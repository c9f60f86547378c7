"""The way on a disk: nothing is believed of it, nothing is put before all is verified, and what is put makes whole points (P1)."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from resurgam.errors import IntegrityError, NotFound, TargetRefused
from resurgam.model.placement import Placement
from resurgam.stores.base import Entry, Store
from resurgam.testing.faults import Crash, CrashStore, MemoryStore
from resurgam.vault import keyadmin
from resurgam.vault.carried import LIST, export, import_, read_list, received_before, sealed
from resurgam.vault.check import check
from resurgam.vault.keyring import Keyring
from resurgam.vault.pack import placement_of
from resurgam.vault.signing import Role, SigningKey
from tests.replication import Later, Replicated, objects, replicated
from tests.support import copied


@pytest.fixture
def far(tmp_path: Path) -> Replicated:
    """A vault with a replica behind an air gap, ``bunker``, in the EU."""
    found = replicated(tmp_path)
    found.add("bunker", "eu")
    return found


def exported(far: Replicated, disk: Store, there: list[Entry] | None = None, name: str = "bunker") -> int:
    """Export as a new process would, signed by the capture host; returns how many objects are carried."""
    repository = far.origin
    signer = repository.keyring.signer(Role.CAPTURE)
    _, body = export(repository, disk, far.place(name), signer, far.world.clock, there=there or ())
    return sum(bool(one.digest) for one in body.objects)


def imported(far: Replicated, disk: Store, name: str = "bunker") -> int:
    """Import as a new process would, with nothing but what pins the vault; returns the new points."""
    keys = Keyring(far.world.keys_with("trust.json"))
    done, _ = import_(disk, far.stores[name], keys, far.world.clock)
    assert done.ok
    return done.points


def test_everything_goes_over_on_a_disk(far: Replicated) -> None:
    """P1 P3: the replica is the vault byte for byte, and restores."""
    disk = MemoryStore()
    exported(far, disk)
    assert imported(far, disk) == 2
    assert objects(far.stores["bunker"]) == objects(far.world.store)
    assert check(far.at("bunker"), read=True).ok
    for point in far.at("bunker").points():
        assert far.world.restored(point, far.at("bunker")) == far.told[point.body.id]
    assert imported(far, disk) == 0


@pytest.mark.parametrize("asked", [True, False])
def test_only_what_is_new_is_carried(far: Replicated, asked: bool) -> None:
    """Whether the replica can be asked, or somebody says since when: P11."""
    first, second = MemoryStore(), MemoryStore()
    whole = exported(far, first)
    imported(far, first)
    since = far.world.clock.now().timestamp() + 0.5
    far.world.clock.advance(10)
    far.change(Random(4))
    there = list(far.stores["bunker"].list()) if asked else received_before(far.origin, far.place("bunker"), since)
    assert exported(far, second, there) < whole
    assert imported(far, second) == 1
    assert objects(far.stores["bunker"]) == objects(far.world.store)


def test_what_was_taken_for_there_and_is_not_stops_the_import(far: Replicated) -> None:
    """P1: no point is shown over packs that never came; nothing at all is put."""
    disk = MemoryStore()
    since = far.world.clock.now().timestamp() + 0.5
    far.world.clock.advance(10)
    far.change(Random(4))
    exported(far, disk, received_before(far.origin, far.place("bunker"), since))
    with pytest.raises(NotFound, match="that the export takes for there"):
        imported(far, disk)
    assert list(far.stores["bunker"].list()) == []


@pytest.mark.parametrize("what", ["packs/", "points/", "keys/session-", "vault.json", LIST])
@pytest.mark.parametrize("how", ["flip", "gone", "swapped"])
def test_a_disk_that_was_tampered_with_puts_nothing(far: Replicated, what: str, how: str) -> None:
    """A courier: one bit, one object less, or another's bytes; told before anything is put."""
    disk = MemoryStore()
    exported(far, disk)
    name = next(e.name for e in disk.list(what))
    data = bytearray(disk.get(name))
    data[len(data) // 2] ^= 1
    disk.delete(name)
    if how != "gone":
        disk.put(name, bytes(data) if how == "flip" else b"x" * len(data))
    with pytest.raises((IntegrityError, NotFound)):
        imported(far, disk)
    assert list(far.stores["bunker"].list()) == []


def test_a_list_counts_that_a_key_of_the_vault_has_signed(far: Replicated) -> None:
    """P9: not a stranger's, and not that of a key that was removed meanwhile."""
    disk = MemoryStore()
    exported(far, disk)
    keys = Keyring(far.world.keys)
    body = read_list(disk, far.stores["bunker"], keys)
    forged = copied(disk)
    forged.delete(LIST)
    forged.put(LIST, sealed(body, SigningKey.generate("capture")))
    with pytest.raises(IntegrityError, match="no key that counts"):
        import_(forged, far.stores["bunker"], keys, far.world.clock)
    assert list(far.stores["bunker"].list()) == []
    imported(far, disk)
    keyadmin.rotate(far.origin, "capture", far.world.clock)
    late = MemoryStore()
    exported(far, late, list(far.stores["bunker"].list()))
    imported(far, late)  # the new role table went over
    old = copied(disk)
    with pytest.raises(IntegrityError, match="no key that counts"):
        imported(far, old)


def test_what_may_not_go_there_is_not_on_the_disk(far: Replicated) -> None:
    """The disk is lost on the way: nothing restricted is on it, neither packs nor their keys."""
    far.add("ohio", "us")
    disk = MemoryStore()
    exported(far, disk, name="ohio")
    vault = far.origin.vault
    kept = {
        e.name
        for e in far.world.store.list("packs/")
        if placement_of(far.world.store.get(e.name), vault) != Placement()
    }
    assert kept
    assert not kept & {e.name for e in disk.list()}
    assert imported(far, disk, "ohio") == 2
    assert check(far.at("ohio"), read=True).ok


def test_an_export_that_was_stopped_goes_on(far: Replicated) -> None:
    """At every write: what is on the disk is not written again, and no half export can be taken for a whole one."""
    counting = CrashStore(MemoryStore())
    exported(far, counting)
    writes = [number for number, call in enumerate(counting.history, 1) if call.startswith("put")]
    for stop in writes[:: max(1, len(writes) // 12)]:
        disk = MemoryStore()
        with pytest.raises(Crash):
            exported(far, CrashStore(disk, stop))
        with pytest.raises(NotFound):
            imported(far, disk)
        exported(far, disk)
        far.stores["bunker"] = MemoryStore(Later())
        assert imported(far, disk) == 2


def test_an_import_that_was_stopped_goes_on(far: Replicated) -> None:
    """At every write: the replica is sound at each, and whole in the end (P1)."""
    disk = MemoryStore()
    exported(far, disk)
    counting = CrashStore(MemoryStore(Later()))
    far.stores["bunker"] = counting
    imported(far, disk)
    writes = [number for number, call in enumerate(counting.history, 1) if call.startswith("put")]
    for stop in writes[:: max(1, len(writes) // 12)]:
        store = MemoryStore(Later())
        far.stores["bunker"] = CrashStore(store, stop)
        with pytest.raises(Crash):
            imported(far, disk)
        far.stores["bunker"] = store
        if list(store.list("vault.json")):
            assert check(far.at("bunker")).damage == ()
        imported(far, disk)
        assert objects(store) == objects(far.world.store)


def test_a_whole_export_is_not_written_over(far: Replicated) -> None:
    """P2."""
    disk = MemoryStore()
    exported(far, disk)
    with pytest.raises(TargetRefused, match="a whole export already"):
        exported(far, disk)
