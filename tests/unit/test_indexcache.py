"""What a host remembers of the index: as true as the vault's segments, or as good as absent (P3, P12)."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest

from resurgam.vault import indexcache
from resurgam.vault.index import Index
from resurgam.vault.indexcache import Addition, Base, IndexCache, Source
from resurgam.vault.pack import ENTRY, FRAME, ID

VAULT, KEY = bytes(16), bytes(range(32))
ORIGIN = "00" * 8
LENGTH = 100  # of each frame's encrypted bytes


class Written:
    """Segments of a vault, drawn from a seed, and what a dict would know of them."""

    def __init__(self, seed: int, segments: int, each: int) -> None:
        rng = Random(seed)
        heads = [rng.randbytes(8) for _ in range(20)]
        self.additions: list[Addition] = []
        self.known: dict[bytes, list[tuple[str, int]]] = {}
        for _ in range(segments):
            packs = [rng.randbytes(ID) for _ in range(2)]
            rows = []
            for place in range(each):
                head = rng.choice(heads) if rng.random() < 0.3 else rng.randbytes(8)
                chunk, pack = head + rng.randbytes(ID - 8), rng.randrange(2)
                if self.known and rng.random() < 0.1:
                    chunk = rng.choice(list(self.known))  # stored twice, by two sessions
                rows.append((chunk, pack, 64 + place * (FRAME + LENGTH), LENGTH, 200, 1, 0, 0))
                self.known.setdefault(chunk, []).append((packs[pack].hex(), rows[-1][2]))
            source = Source(rng.randbytes(16).hex(), bytes(32), ORIGIN, 2, each)
            self.additions.append(Addition(source, b"".join(packs), np.array(rows, ENTRY)))

    def all_there(self, base: Base) -> Index:
        """The index of a vault in which every pack is whole."""
        return Index(base.table(np.full(len(base.packs) // ID, 1 << 40, np.uint64)))


def cache_in(folder: Path, key: bytes = KEY, vault: bytes = VAULT) -> IndexCache:
    """The cache of a host."""
    return IndexCache(str(folder), vault, key)


def all_kept(base: Base | None) -> list[bool]:
    """None of its segments has vanished."""
    return [True] * len(base.sources) if base is not None else []


@pytest.fixture
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of few entries, so that many are merged."""
    monkeypatch.setattr(indexcache, "_RUN", 100)


@pytest.mark.usefixtures("short_runs")
@pytest.mark.parametrize("seed", range(5))
def test_it_knows_what_a_dict_knows(tmp_path: Path, seed: int) -> None:
    """Made at once, or grown in steps, or made by another opening: the same chunks in the same places."""
    written = Written(seed, 12, 60)
    cache, base = cache_in(tmp_path), None
    for start in range(0, 12, 1 + seed):
        base = cache.rebuilt(base, all_kept(base), written.additions[start : start + 1 + seed])
    assert base is not None
    for opened in (base, cache.open()):
        assert opened is not None
        index = written.all_there(opened)
        for chunk, places in written.known.items():
            assert [(place.pack, place.offset) for place in index.places(chunk)] == places
            assert not index.knows(chunk[:8] + bytes(ID - 8))
        asked = list(written.known)
        known, entries = index.find_all(np.frombuffer(b"".join(asked), np.uint8).reshape(-1, ID))
        assert known.all()
        assert [index.packs[int(entry["pack"])] for entry in entries] == [written.known[chunk][0][0] for chunk in asked]


@pytest.mark.usefixtures("short_runs")
def test_what_is_not_kept_is_gone(tmp_path: Path) -> None:
    """A segment that vanished takes its rows with it when the file is made anew; the packs of the others keep their rows."""
    written, cache = Written(1, 6, 50), cache_in(tmp_path)
    base = cache.rebuilt(None, [], written.additions[:4])
    base = cache.rebuilt(base, [True, False, True, False], written.additions[4:])
    kept = [written.additions[number] for number in (0, 2, 4, 5)]
    assert list(base.sources) == [addition.source for addition in kept]
    packs = {addition.packs[at : at + ID].hex() for addition in kept for at in (0, ID)}
    index = written.all_there(base)
    for chunk, places in written.known.items():
        here = [place for place in places if place[0] in packs]
        assert [(place.pack, place.offset) for place in index.places(chunk)] == here


def test_a_chunk_counts_where_its_pack_is_long_enough(tmp_path: Path) -> None:
    """P1: of a pack that is cut, what is still there counts; of one that is gone, nothing; found one by one or at once."""
    written = Written(2, 3, 80)
    base = cache_in(tmp_path).rebuilt(None, [], written.additions)
    names = [base.packs[at : at + ID].hex() for at in range(0, len(base.packs), ID)]
    rng = Random(3)
    sizes = {name: rng.choice((0, 3000, 1 << 40)) for name in names}
    index = Index(base.table(np.array([sizes[name] for name in names], np.uint64)))
    for chunk, places in written.known.items():
        here = [(pack, offset) for pack, offset in places if offset + FRAME + LENGTH <= sizes[pack]]
        assert [(place.pack, place.offset) for place in index.places(chunk)] == here
        known, _ = index.find_all(np.frombuffer(chunk, np.uint8).reshape(1, ID))
        assert bool(known[0]) == index.knows(chunk) == index.knows_all(chunk * 20) == bool(here)
    count = sum(offset + FRAME + LENGTH <= sizes[pack] for places in written.known.values() for pack, offset in places)
    assert index.totals() == (count, 200 * count, LENGTH * count)


def test_a_file_that_was_changed_is_none(tmp_path: Path) -> None:
    """P12: any bit, any cut, and anything appended: a writer that believed it would not store a chunk that nobody has."""
    cache = cache_in(tmp_path)
    cache.rebuilt(None, [], Written(4, 4, 30).additions)
    path = tmp_path / "chunks"
    whole, rng = path.read_bytes(), Random(5)
    assert cache.open() is not None
    for offset in [*range(64), *rng.sample(range(64, len(whole)), 200)]:
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        assert cache.open() is None, offset
    for wrong in (b"", whole[:10], whole[:64], whole[: len(whole) // 2], whole[:-1], whole + b"\0"):
        path.write_bytes(wrong)
        assert cache.open() is None
    path.write_bytes(whole)
    assert cache.open() is not None


def test_a_file_of_another_vault_or_key_is_none(tmp_path: Path) -> None:
    """P12: what another vault's host remembers says nothing of this one, also where both have one index secret."""
    cache_in(tmp_path).rebuilt(None, [], Written(6, 2, 30).additions)
    assert cache_in(tmp_path, key=bytes(32)).open() is None
    assert cache_in(tmp_path, vault=bytes(15) + b"\1").open() is None
    assert cache_in(tmp_path).open() is not None


def test_it_is_its_owners_alone(tmp_path: Path) -> None:
    """The folder and the files; a link in its place is not followed."""
    cache = cache_in(tmp_path / "index")
    cache.rebuilt(None, [], Written(7, 1, 9).additions)
    assert stat.S_IMODE(os.stat(tmp_path / "index").st_mode) == 0o700
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(tmp_path / "index")} == {0o600}
    os.rename(tmp_path / "index/chunks", tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", tmp_path / "index/chunks")
    assert cache.open() is None


def test_two_at_once_do_not_meet(tmp_path: Path) -> None:
    """While one process writes the file another builds its own, without a name; what a killed one left is swept."""
    written = Written(8, 4, 50)
    with open(tmp_path / "chunks.lock", "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        (tmp_path / "chunks.new").write_bytes(b"half")
        base = cache_in(tmp_path).rebuilt(None, [], written.additions)
        assert len(base) == 200
        assert all(written.all_there(base).knows(chunk) for chunk in written.known)
        assert (tmp_path / "chunks.new").read_bytes() == b"half", "the other one's"
        assert cache_in(tmp_path).open() is None
    cache_in(tmp_path).rebuilt(None, [], written.additions)
    assert sorted(os.listdir(tmp_path)) == ["chunks", "chunks.lock"]


def test_a_file_in_use_can_be_deleted_and_replaced(tmp_path: Path) -> None:
    """P3: who has opened it goes on; who comes after begins anew."""
    written, cache = Written(9, 4, 50), cache_in(tmp_path)
    base = cache.rebuilt(None, [], written.additions)
    os.unlink(tmp_path / "chunks")
    assert cache.open() is None
    cache.rebuilt(None, [], Written(10, 1, 5).additions)
    assert all(written.all_there(base).knows(chunk) for chunk in written.known)


def test_what_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """A segment that cannot be read stops the making of a new file, and the old one stands."""
    written, cache = Written(11, 3, 40), cache_in(tmp_path)
    cache.rebuilt(None, [], written.additions[:2])

    def failing() -> Iterator[Addition]:
        yield written.additions[2]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        cache.rebuilt(cache.open(), [True, True], failing())
    opened = cache.open()
    assert opened is not None
    assert len(opened.sources) == 2
    assert sorted(os.listdir(tmp_path)) == ["chunks", "chunks.lock"]
