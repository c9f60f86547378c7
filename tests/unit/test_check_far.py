"""check of a vault that is far away: packs and pages are fetched ahead, and that changes nothing of what is found."""

from __future__ import annotations

from random import Random

import pytest

from resurgam.testing.faults import ManualClock
from resurgam.testing.rounds import RoundStore
from resurgam.vault import around
from resurgam.vault.check import Check, check
from resurgam.vault.checked import Depth
from resurgam.vault.checkorder import Wish
from resurgam.vault.lookup import Lookup
from resurgam.vault.pack import Kind
from resurgam.vault.packreading import AHEAD, PackReader, Reading
from resurgam.vault.trees import TreeWalk
from tests.support import World
from tests.unit.test_check import flipped, packs


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Three points of 9,000 files, which take several pages of entries, and of larger ones."""
    made, rng = World(str(tmp_path_factory.mktemp("far"))), Random(5)
    made.live.files = {f"{n:05d}-{rng.randbytes(450).hex()}".encode(): rng.randbytes(40) for n in range(9000)}
    for number in range(3):
        made.live.files[b"large-%d" % number] = rng.randbytes(3 << 20)
        made.capture()
    return made


def test_what_is_read_from_far_away_is_fetched_ahead_and_no_more_than_that(world: World) -> None:
    """P11: while one pack is looked into the next two are on their way, and no more."""
    store = RoundStore(world.store)
    report = check(world.repository(store), read=True)
    assert report.ok
    assert report.packs_read == report.packs == len(packs(world)) >= 5
    reads = [[call for call in calls if call.startswith("read packs/")] for calls in store.history]
    assert max(len({call.split()[1] for call in calls}) for calls in reads) == AHEAD


def test_a_tree_far_away_is_walked_in_few_rounds(world: World) -> None:
    """P11: the pages below a page come in ranges side by side: a round for each level, not for each page."""
    store = RoundStore(world.store)
    repository = world.repository(store)
    needs = Lookup(repository).needs
    assert needs is not None
    (snapshot,) = repository.resolve("latest").body.snapshots
    before = store.rounds
    assert TreeWalk(repository, needs).walk(snapshot) == ()
    walked = store.history[before:]
    assert len(walked) <= 6, walked


def test_pages_longer_than_what_is_read_around_them_are_read_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P12: long names make pages that are longer than what is read at a time from far away; they are no damage."""
    monkeypatch.setattr(around, "AROUND", 256 << 10)
    repository = world.repository(RoundStore(world.store, 0.002))
    body = repository.resolve("latest").body
    found = {entry.path for entry in repository.snapshot(body, "files").entries()}
    assert found == set(world.live.files)
    needs = Lookup(repository).needs
    assert needs is not None
    assert needs.entries["stored"][needs.entries["kind"] == Kind.TREE].max() > around.AROUND


def test_memory_of_packs_that_were_read_is_used_again(world: World) -> None:
    """P11: a far store's packs are read into three pieces of memory by turns, a folder's into one, however many there are."""
    for store, most in ((RoundStore(world.store, 0.002), AHEAD + 1), (world.store, 1)):
        repository = world.repository(store)
        reader = PackReader(repository, None, Depth.DIGEST)
        sizes = [(entry.name[-64:], entry.size) for entry in world.store.list("packs/")] * 3
        found = [(name, reading) for name, reading in reader.read_each(sizes)]
        assert [name for name, _ in found] == [name for name, _ in sizes]
        assert all(isinstance(reading, Reading) and not reading.trouble for _, reading in found)
        assert 1 <= reader._free.qsize() <= most


def test_damage_far_away_is_told_of_the_pack_and_the_page_that_have_it(world: World) -> None:
    """P12: packs that were fetched ahead are not taken for each other, and a page that is spoilt is found by the walk."""
    near = [check(world.repository(flipped(world, name)), read=True).damage for name in packs(world)]
    far = [check(world.repository(RoundStore(flipped(world, name), 0.002)), read=True).damage for name in packs(world)]
    assert all(near)
    assert far == near


def test_time_is_kept_far_away_too(world: World) -> None:
    """``--max-duration``: what was under way when time was up is still looked into, and nothing else is begun."""
    clock = world.clock
    assert isinstance(clock, ManualClock)

    class Slow(RoundStore):
        def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
            """As the inner one, ten minutes later."""
            clock.advance(600 if slow else 0)
            return super().read_into(name, offset, buffer)

    slow = False
    checking = Check(world.repository(Slow(world.store, 0.002)), Wish(everything=True, max_duration=300.0), clock)
    slow = True
    report = checking.run()
    assert 1 <= report.packs_read <= AHEAD
    assert report.left == report.packs - report.packs_read
