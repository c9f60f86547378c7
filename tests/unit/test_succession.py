"""Components one after the other, and pages from far away: fewer requests wait for one another, and nothing else changes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from resurgam.drivers.base import Blob, read_fully
from resurgam.errors import IntegrityError, NotFound
from resurgam.testing.faults import MemoryStore
from resurgam.testing.rounds import RoundStore
from resurgam.vault import ahead, around
from resurgam.vault.around import Around
from resurgam.vault.keys import DEFAULT_DOMAIN
from resurgam.vault.reader import SnapshotReader
from resurgam.vault.repository import Repository
from resurgam.vault.snapshots import Laid
from resurgam.vault.succession import in_turn
from tests.support import World, copied
from tests.threads import begun, none_left

PACK = "ab" * 32
NAME = f"packs/ab/{PACK}"
COUNT, SIZE = 4, 300_000


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Four points with nothing in common: as good as four components."""
    made = World(str(tmp_path_factory.mktemp("turns")))
    for number in range(COUNT):
        made.live.files = {b"only": Random(number).randbytes(SIZE)}
        made.capture()
    return made


def snapshots(repository: Repository) -> list[SnapshotReader]:
    return [repository.snapshot(sealed.body, "files") for sealed in repository.points()]


def contents(readers: list[SnapshotReader]) -> list[bytes]:
    """Of the one file of each, read one after the other."""
    found = []
    with closing(in_turn(readers)) as turns:
        for items in turns:
            found += [_bytes_of(item) for item in items if isinstance(item, Blob)]
    return found


def _bytes_of(blob: Blob) -> bytes:
    buffer = memoryview(bytearray(blob.size))
    return bytes(buffer[: read_fully(blob.source, 0, buffer)])


def test_the_next_one_begins_while_the_one_before_is_read(world: World) -> None:
    """P11: four snapshots in turn take fewer rounds than the same four one by one, at least one for each that follows another."""
    expected = [Random(number).randbytes(SIZE) for number in range(COUNT)]
    rounds = []
    for by_turns in (False, True):
        store = RoundStore(world.store)
        readers = snapshots(world.repository(store))
        before = store.rounds
        found = contents(readers) if by_turns else [data for reader in readers for data in contents([reader])]
        assert found == expected
        rounds.append(store.rounds - before)
    assert rounds[1] <= rounds[0] - (COUNT - 1), rounds


def test_near_stores_have_no_threads_for_it(world: World) -> None:
    """Copies of the process are made only where it has one thread: a store that answers at once is read as before."""
    with none_left() as before, closing(in_turn(snapshots(world.repository()))) as turns:
        next(next(turns))
        assert not begun(before)


def test_one_window_is_all_that_they_hold_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded for all components together: the next one waits where this one's bytes fill the window."""
    monkeypatch.setattr(ahead, "WINDOW", SIZE + SIZE // 2)
    all_of_them, held = set[ahead.Ahead[object]](), [0]
    ask = ahead.Ahead._ask

    def asked(self: ahead.Ahead[object], wanted: ahead.Range) -> None:
        ask(self, wanted)
        all_of_them.add(self)
        with self._changed:
            held.append(sum(one.range.length for some in all_of_them for one in some._held.values()))

    monkeypatch.setattr(ahead.Ahead, "_ask", asked)
    assert len(contents(snapshots(world.repository(RoundStore(world.store, 0.002))))) == COUNT
    assert SIZE <= max(held) <= SIZE + SIZE // 2


def test_who_stops_in_the_middle_or_meets_damage_leaves_nothing_running(world: World) -> None:
    """P12: the threads of the one that is read, and those of the one that was begun, end with whoever goes through them."""
    with none_left() as before, closing(in_turn(snapshots(world.repository(RoundStore(world.store, 0.002))))) as turns:
        next(next(turns))
        assert begun(before)
    twin = copied(world.store)
    largest = max((entry for entry in twin.list("packs/")), key=lambda entry: entry.size)
    readers = snapshots(world.repository(RoundStore(twin, 0.002)))
    twin.delete(largest.name)
    with none_left(), pytest.raises(IntegrityError):
        contents(readers)


# --- pages from far away ----------------------------------------------------------------------------------------------


def pack_of(size: int) -> tuple[MemoryStore, bytes]:
    store, data = MemoryStore(), Random(1).randbytes(size)
    store.put(NAME, data)
    return store, data


def test_pages_wanted_at_the_same_time_are_one_request(tmp_path: Path) -> None:
    """P11: who looks ahead and who follows want the same pages; the second finds them in what the first has brought."""
    store, data = pack_of(around.AROUND)
    far = RoundStore(store)
    pages = Around(far)
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda at: bytes(pages.read(PACK, at, 1000)), range(0, 800_000, 100_000))
        assert [*found] == [data[at : at + 1000] for at in range(0, 800_000, 100_000)]
    assert far.calls == 1


def test_a_pack_is_read_backwards_from_a_root_and_then_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page is what lies there, whatever was read around it; a root brings its leaves, and a page what follows it."""
    monkeypatch.setattr(around, "AROUND", 10_000)
    store, data = pack_of(50_000)
    far = RoundStore(store, 0.002)
    pages = Around(far)
    for at, calls in ((29_000, 1), (21_000, 1), (29_100, 2), (39_000, 2), (39_100, 3), (49_000, 3), (0, 4), (9_000, 4)):
        assert bytes(pages.read(PACK, at, 100)) == data[at : at + 100]
        assert far.calls == calls, at
    rng = Random(2)
    for _ in range(200):
        at, length = rng.randrange(50_000), rng.randrange(1, 25_000)
        assert bytes(pages.read(PACK, at, length)) == data[at : at + length]


def test_a_pack_that_is_cut_off_or_gone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: fewer bytes where a pack ends before, NotFound where it is not there; and no more is kept than so many answers."""
    monkeypatch.setattr(around, "AROUND", 1000)
    store, data = pack_of(50_000)
    pages = Around(store)
    assert bytes(pages.read(PACK, 49_950, 100)) == data[49_950:]
    for at in range(0, 50_000, 2000):
        pages.read(PACK, at, 10)
    assert len(pages._kept) == around.KEPT
    with pytest.raises(NotFound):
        pages.read("cd" * 32, 0, 10)


def test_a_piece_that_is_a_delta_of_nothing_is_told_as_damage(world: World) -> None:
    """P12: a page may say so, whoever wrote it."""
    reader = world.repository().chunks(DEFAULT_DOMAIN)
    with pytest.raises(IntegrityError, match="its parts add up to 0 bytes"):
        reader.fetch_piece(Laid(bytes(32), 0, 0, [(bytes(32), 0, 0)]))
