"""Files that change in places: what is stored is what changed, and what comes back is what was there (P1, P11)."""

from __future__ import annotations

import io
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resurgam.drivers.base import Blob
from resurgam.errors import IntegrityError
from resurgam.model.codec import to_msgpack
from resurgam.vault import patching
from resurgam.vault.check import check
from resurgam.vault.compare import compare_points
from resurgam.vault.pack import Kind
from resurgam.vault.patches import (
    BLOCK,
    MOST_PARTS,
    MOST_SOURCES,
    NEW,
    SHARE,
    UNIT,
    block_of,
    differing,
    digests,
    digests_of_some,
    laid_out,
    patch_of,
)
from resurgam.vault.reader import ChunkReader
from resurgam.vault.snapshots import Entry, Extent, Laid, Parts, Run, extents_of, pieces_of, store_runs
from tests.patched import added, entry_of, prune_away
from tests.support import CountedSource, World, read_whole, stored_bytes

ROWS, WIDTH = 4000, 384
ROW = 4 * WIDTH
KEY = bytes(range(32))


@pytest.fixture
def world(tmp_path: Path) -> World:
    """One empty component."""
    return World(str(tmp_path))


def vectors(seed: int = 1, rows: int = ROWS) -> np.ndarray:
    """Rows as an embedder makes them."""
    return np.random.default_rng(seed).standard_normal((rows, WIDTH), dtype=np.float32)


def npy(rows: np.ndarray) -> bytes:
    """The bytes of an ``.npy`` file."""
    file = io.BytesIO()
    np.save(file, rows)
    return file.getvalue()


def test_scattered_rows_cost_what_changed_and_clustered_ones_too(world: World) -> None:
    """P11: 1 % of the vectors in places all over adds at most twice their bytes, side by side at most 1.3 times."""
    rows = vectors(rows=8000)
    added(world, {b"v.npy": npy(rows)})
    rng = np.random.default_rng(2)
    some = rng.choice(len(rows), 80, replace=False)
    rows[some] = rng.standard_normal((80, WIDTH), dtype=np.float32)
    point, scattered = added(world, {b"v.npy": npy(rows)})
    assert scattered <= 2 * 80 * ROW
    entry, reader = entry_of(world, point)
    assert sum(bool(piece.parts) for piece in pieces_of(entry, reader.get)) > 9
    rows[5000:5080] = rng.standard_normal((80, WIDTH), dtype=np.float32)
    _, clustered = added(world, {b"v.npy": npy(rows)})
    assert clustered <= 1.3 * 80 * ROW
    assert check(world.repository(), read=True).damage == ()


def test_scattered_rows_of_a_database_cost_what_changed(world: World, tmp_path: Path) -> None:
    """P11: 1 % of the rows of an SQLite image in places all over add at most twice their bytes."""
    rng, place = random.Random(3), tmp_path / "documents.db"
    with closing(sqlite3.connect(place, isolation_level=None)) as db:
        db.execute("CREATE TABLE documents (id INTEGER PRIMARY KEY, text TEXT, vector BLOB)")
        db.execute("BEGIN")
        rows = ((n, " ".join(rng.choices(WORDS, k=60)), rng.randbytes(ROW)) for n in range(ROWS))
        db.executemany("INSERT INTO documents VALUES (?, ?, ?)", rows)
        db.execute("COMMIT")
        added(world, {b"documents.db": place.read_bytes()})
        db.execute("BEGIN")
        for n in rng.sample(range(ROWS), 40):
            db.execute("UPDATE documents SET vector = ? WHERE id = ?", (rng.randbytes(ROW), n))
        db.execute("COMMIT")
    _, scattered = added(world, {b"documents.db": place.read_bytes()})
    assert scattered <= 2 * 40 * ROW


WORDS = [f"{a}{b}" for a in ("re", "sur", "gam", "vault", "point") for b in ("ing", "ed", "s", "able", "")]


def test_patches_fold_back_when_they_add_up(world: World) -> None:
    """P11: however often a file changes, no piece rests on more chunks than a reader keeps; older points may go."""
    rows, rng = vectors(rows=1500), np.random.default_rng(5)
    for _ in range(MOST_SOURCES + 4):
        some = rng.choice(len(rows), 15, replace=False)
        rows[some] += 1
        point, _ = added(world, {b"v.npy": npy(rows)})
        entry, reader = entry_of(world, point)
        sources = [{part[0] for part in piece.parts} for piece in pieces_of(entry, reader.get)]
        assert max(map(len, sources)) <= MOST_SOURCES + 1
    assert max(map(len, sources)) > 1


def test_equal_bytes_have_equal_digests_patched_or_whole(world: World) -> None:
    """P11: a digest says what the bytes are, not how they lie; a diff of two points with the same bytes is empty."""
    rows = vectors(rows=1500)
    added(world, {b"v.npy": npy(rows)})
    rows[1234] = 0
    patched, _ = added(world, {b"v.npy": npy(rows)})
    assert any(piece.parts for piece in pieces_of(*_with_get(entry_of(world, patched))))
    world.live.files = {b"v.npy": npy(rows)}
    whole = world.capture(paranoid=True)
    assert not any(piece.parts for piece in pieces_of(*_with_get(entry_of(world, whole))))
    assert list(compare_points(patched.body, whole.body, world.repository())) == []
    assert world.restored(whole) == world.contents()


def _with_get(found: tuple[Entry, ChunkReader]) -> tuple[Entry, Callable[[bytes, Kind], bytes]]:
    return found[0], found[1].get


def test_a_patched_file_that_stays_as_it_is_costs_nothing(world: World) -> None:
    """P11: also one whose stamp changed is not stored again, though none of its patched pieces is a chunk."""
    rows = vectors(rows=1500)
    added(world, {b"v.npy": npy(rows)})
    rows[::150] += 1
    added(world, {b"v.npy": npy(rows)})
    world.live.stamped = False
    again, size = added(world, {b"v.npy": npy(rows)})
    assert any(piece.parts for piece in pieces_of(*_with_get(entry_of(world, again))))
    assert size < 20_000


def test_what_was_remembered_and_is_gone_is_stored_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """P1: nothing is laid out from chunks that the vault may not have any more."""
    rows = vectors(rows=1500)
    added(world, {b"v.npy": npy(rows)})
    rows[::150] += 1
    monkeypatch.setattr("resurgam.vault.index.Index.knows_all", lambda _self, _chunks: False)
    point, _ = added(world, {b"v.npy": npy(rows)})
    assert not any(piece.parts for piece in pieces_of(*_with_get(entry_of(world, point))))


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign"])
def test_a_damaged_memory_is_none(world: World, damage: str) -> None:
    """P3: what the host remembers is believed only where it is whole, and costs speed where it is not."""
    rows = vectors(rows=1500)
    added(world, {b"v.npy": npy(rows)})
    (place,) = (Path(world.host().path("files.blocks"))).iterdir()
    data = place.read_bytes()
    flipped = data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]
    place.write_bytes({"cut": data[:-9], "flipped": flipped, "foreign": b"RSGBLKS2" + data[8:]}[damage])
    rows[::150] += 1
    point, _ = added(world, {b"v.npy": npy(rows)})
    assert not any(piece.parts for piece in pieces_of(*_with_get(entry_of(world, point))))


def test_a_false_match_is_never_restored(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """P1: were two blocks ever taken for the same that are not, a restore says so instead of giving the old bytes."""
    rows = vectors(rows=1500)
    added(world, {b"v.npy": npy(rows)})
    rows[1234] = 0
    rows[1300] = 0

    def blind(before: object, now: object, count: int) -> np.ndarray:
        flags = differing(before, now, count)  # type: ignore[arg-type]
        flags[np.flatnonzero(flags)[:1]] = False
        return flags

    monkeypatch.setattr(patching, "differing", blind)
    world.live.files = {b"v.npy": npy(rows)}
    point = world.capture()
    with pytest.raises(IntegrityError, match="parts do not make it up"):
        world.restored(point)
    (item,) = world.repository().snapshot(point.body, "files").items()
    assert isinstance(item, Blob)
    with pytest.raises(IntegrityError, match="parts do not make it up"):
        read_whole(item)


def test_older_points_may_be_pruned_from_under_patches(world: World) -> None:
    """P1: what a patched piece is laid out from is listed by the point that needs it."""
    from resurgam.vault.needs import needs_of

    rows = vectors(rows=1500)
    added(world, {b"v.npy": npy(rows)})
    for row in (100, 700, 1499):
        rows[row] += 1
        point, _ = added(world, {b"v.npy": npy(rows)})
    entry, reader = entry_of(world, point)
    needs = needs_of(world.repository(), [(point, ())])
    assert all(needs.domain_of(chunk) is not None for chunk, _, _ in extents_of(entry, reader.get))


@pytest.mark.parametrize("then", ["restore", "unchanged", "touched", "changed", "forgotten"])
def test_what_rests_on_a_pruned_point_stays_whole(world: World, then: str) -> None:
    """P1, P2: the first point is pruned and swept; the patched one restores, and so does what is captured after."""
    rows = vectors(rows=3000)
    first, _ = added(world, {b"gone.npy": npy(vectors(9, 3000)), b"v.npy": npy(rows)})
    rows[::300] += 1
    second, _ = added(world, {b"v.npy": npy(rows)})
    assert any(piece.parts for piece in pieces_of(*_with_get(entry_of(world, second))))
    expected, before = world.contents(), stored_bytes(world.store)
    prune_away(world, first)
    assert stored_bytes(world.store) < before - 3_000_000
    assert world.restored(second) == expected
    if then == "touched":
        world.live.stamped = False
    elif then == "changed":
        rows[7::300] += 1
    elif then == "forgotten":
        world.forget()
        world.live.stamped = False
    if then != "restore":
        third, _ = added(world, {b"v.npy": npy(rows)})
        prune_away(world, second)
        assert world.restored(third) == world.contents()
    assert check(world.repository(), read=True).damage == ()


class Gap(CountedSource):
    """Never stands still, and lacks half a megabyte in its midst whenever it is read."""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """As if cut off where the gap begins; behind it, as it is."""
        end = 5 << 19 if offset < 5 << 19 else offset if offset < 3 << 20 else 1 << 62
        return super().read_into(offset, buffer[: max(0, end - offset)])

    def settled(self) -> bool:
        """Never."""
        return False


def test_a_file_that_was_read_with_a_gap_is_no_base_for_patches(world: World) -> None:
    """P1: where bytes were missing, blocks lie elsewhere than they were noted, and nothing is laid out by them."""
    rows = vectors(rows=7000)
    world.live.files = {b"v.npy": npy(rows)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.support.CountedSource", Gap)
        torn = world.capture()
    (entry,) = world.repository().snapshot(torn.body, "files").entries()
    assert 0 < entry.size < len(npy(rows))
    rows[10::600] += 1
    added(world, {b"v.npy": npy(rows)})


ZEROS = bytes(32)
HOSTILE = {
    "a delta of nothing": Run(ZEROS, bytes(4), Parts(b"\1\0", ZEROS, bytes(2), bytes(4), bytes(4))),
    "half a length": Run(ZEROS, bytes(3)),
    "more lengths than ids": Run(ZEROS, bytes(8)),
    "half an id": Run(ZEROS + b"x", bytes(8)),
    "half a count": Run(ZEROS, bytes(4), Parts(b"\1", ZEROS, bytes(2), bytes(4), bytes(4))),
    "half a source": Run(ZEROS, bytes(4), Parts(b"\1\0", ZEROS[:9], bytes(2), bytes(4), bytes(4))),
    "half a start": Run(ZEROS, bytes(4), Parts(b"\1\0", ZEROS, bytes(2), bytes(3), bytes(4))),
    "no such source": Run(ZEROS, bytes(4), Parts(b"\1\0", ZEROS, b"\1\0", bytes(4), bytes(4))),
    "more parts than counted": Run(ZEROS, bytes(4), Parts(b"\1\0", ZEROS, bytes(4), bytes(8), bytes(8))),
}


@pytest.mark.parametrize("run", HOSTILE.values(), ids=HOSTILE)
def test_a_page_that_lies_about_its_pieces_is_refused(world: World, run: Run) -> None:
    """P1: whatever a stolen capture host writes into a run, a reader answers with an IntegrityError."""
    added(world, {b"f": b"x"})
    reader = world.repository().chunks("default")
    entry = Entry(b"f", 0, b"", {}, [], [ZEROS])
    with pytest.raises(IntegrityError):
        list(map(reader.fetch_piece, pieces_of(entry, lambda _page, _kind: to_msgpack(run))))


@pytest.mark.parametrize("extent", [(b"short", 0, 1), (ZEROS, -1, 1), (ZEROS, 0, -1), (ZEROS, 1 << 40, 1)], ids=str)
def test_an_entry_that_lies_about_its_extents_is_refused(extent: Extent) -> None:
    """P1: as a page does."""
    with pytest.raises(IntegrityError, match="made of"):
        list(pieces_of(Entry(b"f", 1, b"", {}, [extent], []), lambda _page, _kind: b""))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_edits_come_out_as_they_were(data: st.DataObject) -> None:
    """P1: over generations of edits, a piece laid out from what is there is the piece; and it is folded when it must be."""
    length = data.draw(st.integers(1, 40 * BLOCK))
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    chunks = {b"base": rng.randbytes(length)}
    parts: list[Extent] = [(b"base", 0, length)]
    content = chunks[b"base"]
    for generation in range(14):
        edited = bytearray(content)
        for _ in range(rng.choice((1, 2, 5))):
            edited[rng.randrange(length)] ^= 1 + rng.randrange(255)
        view = memoryview(bytes(edited))
        count = -(-length // BLOCK)
        changed = differing(digests(KEY, memoryview(content), BLOCK), digests(KEY, view, BLOCK), count)
        patch = patch_of(parts, changed, view, BLOCK)
        name = b"%d" % generation
        if patch is None:
            chunks[name], parts = bytes(edited), [(name, 0, length)]
        else:
            assert patch.taken.sum() * BLOCK <= SHARE * length
            chunks[name] = bytes(patch.data)
            parts = [
                (name if c == NEW else c, start, size) for c, start, size in laid_out(parts, patch.taken, BLOCK, length)
            ]
        assert len(parts) <= MOST_PARTS
        assert len({chunk for chunk, _, _ in parts}) <= MOST_SOURCES + 1
        content = b"".join(chunks[chunk][start : start + size] for chunk, start, size in parts)
        assert content == bytes(edited)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_pages_of_patched_pieces_read_back(data: st.DataObject) -> None:
    """P1: what a run says of its pieces is what was stored of them."""
    ids = data.draw(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=40, unique=True))
    extents = [(chunk, 0, 1000 + n) for n, chunk in enumerate(ids)]
    patched = {
        chunk: [(data.draw(st.sampled_from(ids)), n, 500), (ids[0], 7, 500 + n)]
        for n, chunk in enumerate(ids)
        if data.draw(st.booleans())
    }
    pages: dict[bytes, bytes] = {}

    def put(kind: Kind, page: bytes) -> bytes:
        assert kind is Kind.RUN
        pages[name := b"%032d" % len(pages)] = page
        return name

    entry = Entry(b"f", sum(e[2] for e in extents), b"", {}, [], store_runs(extents, put, patched))
    found = [piece._replace(parts=[*piece.parts]) for piece in pieces_of(entry, lambda page, _kind: pages[page])]
    assert found == [Laid(chunk, 0, length, patched.get(chunk, [])) for chunk, _, length in extents]


def test_every_flipped_bit_changes_its_digest_and_no_other() -> None:
    """P1: also the highest bit of a word, which sums of products modulo 2^64 lose (docs/adr/0021-patches.md)."""
    data = bytearray(random.Random(1).randbytes(8 * BLOCK + 100))
    before = digests(KEY, memoryview(data), BLOCK)
    for bit in (0, 7, 31, 63, 8 * BLOCK - 1):
        data[2 * BLOCK + bit // 8] ^= 1 << bit % 8
        after = digests(KEY, memoryview(data), BLOCK)
        assert np.flatnonzero(before != after).tolist() == [2]
        data[2 * BLOCK + bit // 8] ^= 1 << bit % 8
    swapped = data[BLOCK : 2 * BLOCK] + data[:BLOCK] + data[2 * BLOCK :]
    assert (before != digests(KEY, memoryview(swapped), BLOCK)).sum() == 2
    assert (before != digests(KEY[::-1], memoryview(data), BLOCK)).all()


def test_digests_of_some_pieces_are_those_of_all() -> None:
    """Whichever of a unit's pieces are digested, wherever they lie."""
    chance = random.Random(3)
    unit, key = np.frombuffer(chance.randbytes(UNIT), np.uint8), bytes(range(32))
    for length, block in ((64 << 10, 512), (64 << 10, 64 << 10), (256 << 10, 4096)):
        made: list[int] = []
        every = digests(key, unit.data, block).reshape(UNIT // length, -1)
        some = sorted(chance.sample(range(UNIT // length), 3))
        pieces = np.ascontiguousarray(unit.reshape(-1, length)[some])
        found = digests_of_some(key, pieces, some, block, lambda words: made.append(words.nbytes))  # noqa: B023
        assert np.array_equal(found.reshape(3, -1), every[some])
        assert made == [3 * length + 16]


def test_blocks_are_as_many_as_a_host_can_remember() -> None:
    """P11: the memory of a file of any size is bounded, by longer blocks."""
    assert block_of(1) == block_of(8 << 30) == BLOCK
    assert block_of((8 << 30) + 1) == 2 * BLOCK
    assert block_of(1 << 50) == 64 << 10
