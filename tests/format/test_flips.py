"""P12: a damaged vault restores exactly or says so. Never a silently wrong restore, never an error of another kind.

A real vault of a tiny system is damaged in every way that a disk knows: a bit of any byte, any object cut off at any 64th
length, gone, or exchanged with another one. Each time the point is looked for, its particulars are read, and it is restored.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from random import Random

import pytest

from resurgam.drivers.registry import driver_for
from resurgam.errors import ResurgamError
from resurgam.model.codec import to_json
from resurgam.restore.run import restore
from resurgam.stores.base import Store
from resurgam.testing.faults import ManualClock, MemoryStore
from resurgam.vault.check import check
from resurgam.vault.keyring import Keyring
from resurgam.vault.repository import Repository
from tests.support import Files, TinySystem, replaced, tree

SEED = 20260102
FLIPS = 1000
STEP = 64


class Victim:
    """A vault of two points, what the first restores to, and a place to restore into."""

    def __init__(self, folder: str) -> None:
        self.tiny = TinySystem(folder)
        self.keys = self.tiny.system.vault.keys
        self.store = MemoryStore()
        clock = ManualClock()
        repository, _ = Repository.create(self.store, self.keys, "tiny", clock)
        self.point = self.tiny.capture(repository, clock).body.id
        clock.advance(60)
        with open(f"{self.tiny.files}/1.txt", "ab") as file:
            file.write(b"and one more line")
        self.tiny.capture(Repository(self.store, Keyring(self.keys)), clock)
        self.home = tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else folder)
        self.told = self.refused = 0
        self.whole, self.particulars = self._read(self.store)

    def places(self) -> Iterator[tuple[str, int]]:
        """Every byte of the vault, by object and offset."""
        for entry in self.store.list():
            for offset in range(entry.size):
                yield entry.name, offset

    def judge(self, store: Store, what: str) -> None:
        """Read the point from ``store``: exact or refused."""
        try:
            found, particulars = self._read(store)
        except ResurgamError as error:
            self.refused += 1
            if not (error.message and error.next_step):
                pytest.fail(f"{what}: {error!r} does not say what to do")
            return
        assert found == self.whole, f"{what}: restored wrongly, and nobody said so"
        assert particulars == self.particulars, what
        self.told += 1

    def flip(self, name: str, offset: int, bit: int) -> None:
        """Judge the vault with one bit wrong."""
        data = bytearray(self.store.get(name))
        data[offset] ^= 1 << bit
        self.judge(replaced(self.store, name, bytes(data)), f"bit {bit} of byte {offset} of {name}")

    def close(self) -> None:
        """Remove what was restored."""
        shutil.rmtree(self.home)

    def _read(self, store: Store) -> tuple[Files, bytes]:
        repository = Repository(store, Keyring(self.keys))
        sealed = repository.sealed(self.point)
        particulars = repository.particulars(sealed.body)
        target = f"{self.home}/restored"
        try:
            restored = restore(repository, sealed.body, particulars, target, driver_for, ManualClock())
            found = {path: data for path, data in tree(target).items() if path.split(b"/")[0] in (b"notes", b"prompts")}
            assert len(restored.copies) == 2
        finally:
            shutil.rmtree(target, ignore_errors=True)
            assert os.listdir(self.home) == [], "something half restored was left behind (P5)"
        return found, to_json(particulars)


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """One vault for all: nothing here changes it."""
    made = Victim(str(tmp_path_factory.mktemp("tiny")))
    yield made
    made.close()


def flips(victim: Victim, rng: Random, number: int | None) -> int:
    """Flip one random bit in each of ``number`` bytes, or in every one; returns how many."""
    places = list(victim.places())
    chosen = places if number is None else rng.sample(places, number)
    for name, offset in chosen:
        victim.flip(name, offset, rng.randrange(8))
    return len(chosen)


def truncations(victim: Victim, step: int = STEP) -> int:
    """Cut each object off at every ``step``-th length; returns how many."""
    done = 0
    for entry in list(victim.store.list()):
        data = victim.store.get(entry.name)
        for length in range(0, len(data), step):
            victim.judge(replaced(victim.store, entry.name, data[:length]), f"{entry.name} cut off at {length}")
            done += 1
    return done


def test_flipped_bits(victim: Victim) -> None:
    """P12: a seeded part of all bytes; the soak takes every one."""
    told, refused = victim.told, victim.refused
    assert flips(victim, Random(SEED), FLIPS) == FLIPS
    assert victim.refused - refused > FLIPS // 4, "the flips met nothing that matters"
    assert victim.told - told > 50, "whatever is not needed should not stop a restore"


def test_vault_is_of_the_size_that_was_meant(victim: Victim) -> None:
    """About 64 KiB, of every kind of object."""
    names = {entry.name.partition("/")[0] for entry in victim.store.list()}
    assert names == {"vault.json", "roles", "keys", "packs", "index", "leases", "points", "log"}
    assert 32 << 10 < sum(entry.size for entry in victim.store.list()) < 128 << 10


def test_truncated_objects(victim: Victim) -> None:
    """P12: every object, at every 256th length here and every 64th in the soak."""
    assert truncations(victim, 256) > 100


def test_missing_objects(victim: Victim) -> None:
    """P12: each object in turn. Of the first point, leases, the log and the index are not needed (P3)."""
    for entry in list(victim.store.list()):
        told = victim.told
        victim.judge(replaced(victim.store, entry.name, None), f"{entry.name} is missing")
        if entry.name.startswith(("leases/", "log/", "index/")):
            assert victim.told == told + 1, f"a restore should not need {entry.name}"


def test_exchanged_objects(victim: Victim) -> None:
    """P12: each two objects change places: whatever is signed or sealed is bound to its name and its vault."""
    names = [entry.name for entry in victim.store.list()]
    for one, other in combinations(names, 2):
        store = replaced(victim.store, one, victim.store.get(other))
        store.delete(other)
        store.put(other, victim.store.get(one))
        victim.judge(store, f"{one} and {other} exchanged")


def test_check_finds_what_matters(victim: Victim, tmp_path: Path) -> None:
    """P12: whatever flip makes a restore fail, a check that reads finds too, or refuses the vault as a whole."""
    rng = Random(SEED + 1)
    for name, offset in rng.sample(list(victim.places()), 200):
        data = bytearray(victim.store.get(name))
        data[offset] ^= 1 << rng.randrange(8)
        store = replaced(victim.store, name, bytes(data))
        refused = victim.refused
        victim.judge(store, f"byte {offset} of {name}")
        if victim.refused > refused:
            try:
                damage = check(Repository(store, Keyring(victim.keys)), read=True).damage
            except ResurgamError:
                continue
            assert damage, f"byte {offset} of {name} stops a restore, and check finds nothing"
