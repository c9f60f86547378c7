"""P1: a run to a replica is stopped at every call to the replica's store, and at every call to the primary's, before the call's
effect and after it. At every moment the replica is a sound vault for the points that it shows, and the next run ends it and sends
nothing twice.
"""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from resurgam.stores.base import Store
from resurgam.testing.faults import Crash, CrashStore, MemoryStore
from resurgam.vault.audit import audit
from resurgam.vault.check import check
from resurgam.vault.repository import Repository
from tests.replication import Later, Replicated, objects, replicated
from tests.support import copied
from tests.unit.test_prune import pruned

SEED = int(os.environ.get("SEED", "20260301"))
STOPS = int(os.environ.get("RUNS", "12")) * 4  # of each sweep; `make soak` asks for more


def a_pair(folder: Path) -> Replicated:
    """A primary of three points, one of which expired, and a replica that knows of the first two only."""
    folder.mkdir()
    pair = replicated(folder, SEED)
    pair.add("frankfurt", "eu")
    pair.run("frankfurt")
    pair.change(Random(SEED))
    pruned(pair.world, pair.origin.points()[:1])
    return pair


def sound(pair: Replicated, store: Store) -> None:
    """What the replica shows is there, to the byte, and its records are those of the primary."""
    there = Repository(store, pair.origin.keyring)
    assert check(there, read=True).damage == ()
    for sealed in there.points():
        assert pair.world.restored(sealed, there) == pair.told[sealed.body.id]


def stops(history: list[str]) -> list[int]:
    """Every write, and as many other calls as there is time for."""
    writes = [number for number, call in enumerate(history, 1) if call.startswith(("put", "delete"))]
    others = Random(SEED).sample(range(1, len(history) + 1), min(STOPS, len(history)))
    return sorted({*writes, *others})


@pytest.mark.parametrize("after", [False, True])
def test_a_run_stopped_at_any_call_of_the_replica(tmp_path: Path, after: bool) -> None:
    """P1 P2: killed anywhere; the replica is sound at once, the next run ends it, and no object is put twice."""
    pair = a_pair(tmp_path / "world")
    start = pair.stores["frankfurt"]
    counting = CrashStore(copied_later(start))
    pair.run("frankfurt", far=counting)
    died = 0
    for stop in stops(counting.history):
        store = copied_later(start)
        crashing = CrashStore(store, stop, after=after)
        try:
            pair.run("frankfurt", far=crashing)
        except Crash:
            died += 1
        sound(pair, store)
        again = CrashStore(store)
        pair.run("frankfurt", far=again)
        sound(pair, store)
        assert objects(pair.world.store).items() <= objects(store).items()
        assert audit(Repository(store, pair.origin.keyring)).ok
        put_before = {call for call in crashing.history[: stop - (not after)] if call.startswith("put")}
        assert not put_before & {call for call in again.history if call.startswith("put")}
    assert died > 20


@pytest.mark.parametrize("after", [False, True])
def test_a_run_stopped_at_any_call_of_the_primary(tmp_path: Path, after: bool) -> None:
    """P1: the primary goes away in the midst; what came is sound, and the primary is as it was."""
    pair = a_pair(tmp_path / "world")
    start, before = pair.stores["frankfurt"], objects(pair.world.store)
    counting = CrashStore(pair.world.store)
    pair.run("frankfurt", counting, copied_later(start))
    died = 0
    for stop in stops(counting.history)[::2]:
        store = copied_later(start)
        try:
            pair.run("frankfurt", CrashStore(pair.world.store, stop, after=after), store)
        except Crash:
            died += 1
        sound(pair, store)
        pair.run("frankfurt", far=store)
        assert objects(pair.world.store).items() <= objects(store).items()
    assert objects(pair.world.store) == before
    assert died > 15


def test_a_first_run_stopped_at_any_write(tmp_path: Path) -> None:
    """P1: into an empty place. Until its identity is there it is no vault; from then on it is a replica, and a sound one."""
    (tmp_path / "world").mkdir()
    pair = replicated(tmp_path / "world", SEED)
    pair.add("frankfurt", "eu")
    counting = CrashStore(MemoryStore(Later()))
    pair.run("frankfurt", far=counting)
    for stop in [number for number, call in enumerate(counting.history, 1) if call.startswith("put")]:
        store = MemoryStore(Later())
        with pytest.raises(Crash):
            pair.run("frankfurt", far=CrashStore(store, stop))
        if list(store.list("vault.json")):
            sound(pair, store)
            assert Repository(store, pair.origin.keyring).here.place == "frankfurt"
        pair.run("frankfurt", far=store)
        assert objects(store) == objects(pair.world.store)


def copied_later(store: Store) -> MemoryStore:
    """Another replica like it."""
    twin = MemoryStore(Later())
    for entry in copied(store).list():
        twin.put(entry.name, store.get(entry.name))
    return twin
