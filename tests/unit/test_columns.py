"""Stores of vectors that are compacted: rows that moved are known again, and what comes back is what was there (P1, P11)."""

from __future__ import annotations

import random
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resurgam.errors import IntegrityError
from resurgam.vault import columnmemory
from resurgam.vault.check import check
from resurgam.vault.chunking import MAX_CHUNK, MIN_CHUNK, Dtype
from resurgam.vault.columnmemory import RememberedColumns, RememberedFile
from resurgam.vault.columnpatching import of_few
from resurgam.vault.columns import Column, ColumnCutter, RowReader
from resurgam.vault.patches import MOST_SOURCES
from resurgam.vault.repository import Sealed
from resurgam.vault.snapshots import Extent, extents_of, pieces_of
from tests.lance_files import Page, lance_file, table, vectors
from tests.patched import added, entry_of, prune_away
from tests.support import Files, World
from tests.unit.test_lance import ROWS as ROWS_KEPT
from tests.unit.test_lance import VERSIONS, WIDTH, kept

KEY = bytes(range(32))
ROWS = vectors(3_000)  # 4.6 MB
Floats = NDArray[np.float32]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """One empty component."""
    return World(str(tmp_path))


def fragments(rows: Floats, count: int = 5) -> Files:
    """A table of so many files, as appends leave it."""
    size = -(-len(rows) // count)
    return {f"data/{n}.lance".encode(): table(rows[n * size :][:size], size) for n in range(count)}


def without(rows: Floats, share: float = 0.03, seed: int = 2) -> Floats:
    """Some rows deleted, in places all over."""
    gone = np.random.default_rng(seed).choice(len(rows), round(len(rows) * share), replace=False)
    return np.delete(rows, gone, axis=0)


def compacted(rows: Floats, page: int = 1_000, name: bytes = b"data/one.lance") -> Files:
    """What a compaction leaves: one file, of another name and other pages."""
    return {name: table(rows, page)}


def sources(world: World, sealed: Sealed) -> list[int]:
    """Of each piece of a point's only entry that is laid out, of how many chunks."""
    entry, reader = entry_of(world, sealed)
    return [len({part[0] for part in piece.parts}) for piece in pieces_of(entry, reader.get) if piece.parts]


# What a compaction costs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0, 0.03], ids=["nothing deleted", "3 % deleted"])
def test_a_compaction_stores_next_to_nothing(world: World, share: float) -> None:
    """P11: rows go to another file, of other pages; P1: all comes back."""
    _, first = added(world, fragments(ROWS))
    point, size = added(world, compacted(without(ROWS, share)))
    assert size < 0.005 * first + 12_000, "where parts lie, and the records of a point"
    assert max(sources(world, point), default=0) <= 6, "of two to four: a restore decodes little more than it writes"
    assert check(world.repository(), read=True).damage == ()


def test_pages_that_are_copied_as_they_are_cost_nothing(world: World) -> None:
    """P11: texts, too, whatever stands before them in their file."""
    texts = [random.Random(n).randbytes(200_000 + n) for n in range(4)]
    files = {f"data/{n}.lance".encode(): table(ROWS[n * 300 :][:300], 300, texts[n]) for n in range(4)}
    _, first = added(world, files)
    pages = [(Page(300, [text]), Page(300, [ROWS[n * 300 :][:300].tobytes()])) for n, text in enumerate(texts)]
    numbers = [Page(300, [bytes(1_000 + n)]) for n in range(4)]
    _, size = added(world, {b"data/one.lance": lance_file([numbers, *map(list, zip(*pages, strict=True))])})
    assert size < 0.005 * first + 12_000


@pytest.mark.parametrize("version", VERSIONS)
def test_what_lancedb_compacted_is_known_again(world: World, version: str) -> None:
    """P11: real files of each version of the format; all but texts and numbers, which are packed by pages."""
    before, _ = added(
        world, {name: kept(f"{version}/{name.decode()}") for name in (b"before-0.lance", b"before-1.lance")}
    )
    after, _ = added(world, {b"after.lance": kept(f"{version}/after.lance")})
    repository = world.repository()
    reader = repository.chunks(before.body.snapshots[0].domain)
    there = {
        chunk for entry in repository.snapshot(before.body, "files").entries() for chunk in reader.chunks_of(entry)
    }
    (entry,) = repository.snapshot(after.body, "files").entries()
    known = sum(length for chunk, _, length in extents_of(entry, reader.get) if chunk in there)
    assert known >= (2 * ROWS_KEPT - 42) * WIDTH - MIN_CHUNK


def test_compacted_again_and_again(world: World) -> None:
    """P11: what was laid out is laid out again, of the chunks that hold it."""
    _, first = added(world, fragments(ROWS))
    rows = ROWS
    for turn in range(4):
        rows = without(rows, seed=turn)
        point, size = added(world, compacted(rows, 700 + turn, b"data/%d.lance" % (turn + 10)))
        assert size < 0.005 * first + 16_000
        assert max(sources(world, point), default=0) <= MOST_SOURCES


def test_rows_that_come_among_others_are_stored_alone(world: World) -> None:
    """P11: a compaction of old fragments and one that no capture had seen."""
    _, first = added(world, fragments(ROWS))
    fresh = vectors(150, seed=3)
    _, size = added(world, compacted(np.concatenate([ROWS[:2000], fresh, ROWS[2000:]])))
    assert 0.8 * fresh.nbytes < size < 0.06 * first


def test_rows_of_everywhere_are_stored_anew(world: World) -> None:
    """A piece that would be made of too many chunks is made of those that have most of it: a restore stays quick."""
    many = {f"data/{n}.lance".encode(): table(ROWS[n::15], 200) for n in range(15)}
    _, first = added(world, many)
    point, size = added(world, compacted(ROWS))
    assert size > 0.3 * first
    assert all(number <= MOST_SOURCES + 1 for number in sources(world, point))


def test_most_of_what_lies_in_many_chunks_is_kept() -> None:
    """Those eight chunks in which most of a piece lies; a run of rows that is in two is kept where both are."""
    names = [bytes([n]) * 32 for n in range(MOST_SOURCES + 2)]
    known: list[list[Extent]] = [[(name, 0, 1536 * (n + 1))] for n, name in enumerate(names)]
    known += [[], [(names[0], 0, 1536), (names[-1], 0, 1536)]]
    assert of_few(known) == [[], [], *known[2:-2], [], []]
    assert of_few(known[2:-1]) == known[2:-1]


def test_equal_bytes_have_equal_digests_laid_out_or_whole(world: World) -> None:
    """A diff of two points compares digests of entries."""
    added(world, fragments(ROWS))
    point, _ = added(world, compacted(without(ROWS)))
    world.forget()
    again, _ = added(world, {**compacted(without(ROWS)), b"other": b"x"})
    one, two = (
        next(iter(world.repository().snapshot(sealed.body, "files").entries())).digest for sealed in (point, again)
    )
    assert one == two


# What the host remembers ------------------------------------------------------------------------------------------------


def notes(world: World) -> list[Path]:
    """The files in which rows are noted."""
    found = Path(world.host().path("files.blocks")).iterdir()
    return [path for path in found if path.read_bytes().startswith(b"RSGROWS1")]


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "head", "record", "foreign"])
def test_damaged_memory_costs_bytes_and_nothing_else(world: World, damage: str) -> None:
    """P3: what the host remembers can be lost, and of one file without the others."""
    _, first = added(world, fragments(ROWS, 3))
    for memory in notes(world)[:2]:
        data = bytearray(memory.read_bytes())
        if damage == "gone":
            memory.unlink()
            continue
        if damage in ("head", "record"):
            data[9 if damage == "head" else -20] ^= 1
        cut = {"empty": 0, "cut": len(data) // 2}.get(damage, len(data))
        memory.write_bytes(b"RSGROWS2" + data[8:] if damage == "foreign" else data[:cut])
    _, size = added(world, compacted(without(ROWS)))
    assert 0.5 * first < size < 0.8 * first, "what lay in the third file is known again"
    assert added(world, compacted(without(ROWS, 0.06), name=b"data/two.lance"))[1] < 0.06 * first, "noted anew"


def test_digests_that_fell_over_are_those_of_no_row(world: World) -> None:
    """P1: only the record has a digest of its own; any bit of the others costs a row."""
    added(world, fragments(ROWS, 1))
    (memory,) = notes(world)
    data = bytearray(memory.read_bytes())
    for at in range(40, 32 + 16 * len(ROWS), 160):
        data[at] ^= 1 << at % 8
    memory.write_bytes(data)
    _, size = added(world, compacted(without(ROWS)))
    assert size < 0.2 * ROWS.nbytes, "a row of ten"


def test_memory_of_another_domain_or_vault_is_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in a domain has its keys; chunks of another are none of its own."""
    added(world, fragments(ROWS, 1))
    (memory,) = notes(world)
    assert columnmemory.remembered_file(str(memory), "another vault and domain") is None


def test_memory_goes_with_its_file(world: World) -> None:
    """What was noted of a file that is gone is removed, and of one that stays as it is kept."""
    files = fragments(ROWS, 4)
    added(world, files)
    added(world, files)
    assert len(notes(world)) == 4
    del files[b"data/2.lance"]
    added(world, files)
    assert len(notes(world)) == 3
    added(world, {b"other": b"small"})
    assert not notes(world)


def test_more_rows_than_are_looked_through_cost_bytes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: of one file, and of all."""
    monkeypatch.setattr(columnmemory, "MOST_ROWS", 1_300)
    _, first = added(world, fragments(ROWS, 5))
    _, size = added(world, compacted(without(ROWS)))
    assert 0.5 * first < size < 0.8 * first, "two files of 600 rows are"
    assert sum(len(memory.read_bytes()) for memory in notes(world)) < 16 * 1_300 + 4_000


def test_small_files_are_looked_through_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compaction puts small files together, and leaves large ones as they are."""
    monkeypatch.setattr(columnmemory, "MOST_ROWS", 1_000)
    old = RememberedColumns([remembered(name, ROWS[: 100 * size]) for name, size in ((b"a", 8), (b"b", 3), (b"c", 4))])
    assert [old.rows(name * 32) is not None for name in (b"a", b"b", b"c")] == [False, True, True]


def remembered(name: bytes, rows: Floats) -> RememberedFile:
    """A file of one chunk of that name."""
    digests = RowReader(KEY).digests(memoryview(rows.tobytes()), 1536)
    count, width = np.array([len(rows)], "<u4"), np.array([1536], "<u4")
    return RememberedFile(columnmemory._Record("", name * 32, count.tobytes(), width.tobytes(), {}), digests)


@pytest.mark.parametrize("then", ["unchanged", "touched", "compacted", "forgotten"])
def test_what_rests_on_a_pruned_point_stays_whole(world: World, then: str) -> None:
    """P1, P2: the point of the fragments is pruned and swept; the compacted one restores, and so does what is captured after."""
    rows = without(ROWS)
    first, _ = added(world, fragments(ROWS))
    second, _ = added(world, compacted(rows))
    assert sources(world, second)
    expected = world.contents()
    prune_away(world, first)
    assert world.restored(second) == expected
    files = compacted(rows)
    if then == "compacted":
        files = compacted(without(rows), name=b"data/two.lance")
    elif then == "forgotten":
        world.forget()
    world.live.stamped = then == "unchanged"
    third, _ = added(world, files)
    prune_away(world, second)
    assert world.restored(third) == world.contents()
    assert check(world.repository(), read=True).damage == ()


def test_what_was_remembered_and_is_gone_is_stored_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """P1: nothing is laid out from chunks that the vault may not have any more."""
    added(world, fragments(ROWS))
    monkeypatch.setattr("resurgam.vault.index.Index.knows_all", lambda _self, _chunks: False)
    point, _ = added(world, compacted(without(ROWS)))
    assert not sources(world, point)


def test_a_false_match_is_never_restored(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """P1: a piece is compared with the id of the bytes that the host had read."""
    added(world, fragments(ROWS))
    find = RememberedColumns.find

    def blind(self: RememberedColumns, digests: NDArray[np.uint64]) -> NDArray[np.int64]:
        found = find(self, digests)
        return np.concatenate([found[1:], found[:1]])

    monkeypatch.setattr(RememberedColumns, "find", blind)
    world.live.files = compacted(without(ROWS))
    point = world.capture()
    with pytest.raises(IntegrityError, match="parts do not make it up"):
        world.restored(point)


# How columns are cut, and what rows are known by ------------------------------------------------------------------------


def cut(cutter: ColumnCutter, data: bytes, steps: list[int]) -> list[int]:
    """The lengths of the chunks of ``data``, given in windows of the lengths ``steps`` by turns."""
    lengths: list[int] = []
    at = turn = 0
    while at < len(data):
        end = min(at + MAX_CHUNK + steps[turn % len(steps)], len(data))
        some = cutter.cut(memoryview(data)[at:end], final=end == len(data))
        lengths += some
        at, turn = at + sum(some), turn + 1
    return lengths


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_chunks_tile_and_no_row_is_cut_apart(data: st.DataObject) -> None:
    """Whatever the columns and the windows in which bytes come: the same chunks, none too long, each of a column or of none."""
    at = 0
    columns: list[Column] = []
    for _ in range(data.draw(st.integers(1, 4))):
        at += data.draw(st.sampled_from([0, 1, 5_000, 700_000]))
        width = data.draw(st.sampled_from([128, 129, 1536, 20_000, 65_536]))
        columns.append(Column(at, width * data.draw(st.integers(1, 3_000_000 // width)), width, Dtype.F32))
        at += columns[-1].length
    size = at + data.draw(st.sampled_from([0, 1, 300_000]))
    contents = random.Random(size).randbytes(size)
    found = [
        cut(ColumnCutter(columns, size, 12_345), contents, steps)
        for steps in ([1 << 22], data.draw(st.lists(st.integers(0, 100_000), min_size=1, max_size=3)))
    ]
    assert found[0] == found[1]
    assert sum(found[0]) == size
    assert 0 < min(found[0]) <= max(found[0]) <= MAX_CHUNK
    ends = [0, *accumulate(found[0])]
    for column in columns:
        assert {column.offset, column.offset + column.length} <= set(ends), "a column begins a chunk and ends one"
        inside = [end for end in ends if column.offset <= end <= column.offset + column.length]
        assert all((end - column.offset) % column.width == 0 for end in inside)


def test_a_column_that_ends_early_is_cut_to_its_end() -> None:
    """The file became shorter while it was read: nothing is left out."""
    column = Column(100, 1536 * 2_000, 1536, Dtype.F32)
    data = random.Random(1).randbytes(1_000_001)
    assert sum(cut(ColumnCutter([column], 100 + column.length, 77), data, [0])) == len(data)


def test_rows_that_stay_together_are_cut_as_they_were() -> None:
    """Whatever stands before them, in their file or in another."""
    rows, seed = vectors(6_000), 12_345
    one = accumulate(
        cut(ColumnCutter([Column(0, rows.nbytes, 1536, Dtype.F32)], rows.nbytes, seed), rows.tobytes(), [0])
    )
    rest, size = bytes(64) + rows[2_345:].tobytes(), rows.nbytes - 2_345 * 1536
    two = accumulate(cut(ColumnCutter([Column(64, size, 1536, Dtype.F32)], len(rest), seed), rest, [0]))
    first, second = {end // 1536 for end in one}, {2_345 + (end - 64) // 1536 for end in two}
    assert {end for end in first if end > 2_345 + 2 * MAX_CHUNK // 1536} <= second
    assert 4 < len(first) < rows.nbytes / MIN_CHUNK


@pytest.mark.parametrize("final", [False, True], ids=["more comes", "the file ends there"])
@pytest.mark.parametrize("there", [1, 700, 767, 768, 1_535])
def test_a_window_may_end_within_the_first_row_of_a_column(there: int, *, final: bool) -> None:
    """P12: nobody says where windows end; and a file that shrank is read again, and no crash."""
    cutter = ColumnCutter([Column(MAX_CHUNK, 3 * 1536, 1536, Dtype.F32)], MAX_CHUNK + 3 * 1536, 5)
    data = random.Random(1).randbytes(MAX_CHUNK + there)
    assert sum(cutter.cut(memoryview(data), final=final)) == MAX_CHUNK + (there if final else 0)


def test_rows_of_however_many_widths_take_little_memory() -> None:
    """P12: what a file says of its columns makes no capture keep masks of tens of thousands of widths."""
    reader = RowReader(KEY)
    for width in range(128, 328):
        assert len(reader.digests(memoryview(bytes(3 * width)), width)) == 3
    assert reader._under.cache_info().currsize <= 64


@settings(max_examples=100, deadline=None)
@given(st.integers(128, 3_000), st.integers(1, 40), st.randoms(use_true_random=False))
def test_a_digest_is_of_every_byte_of_a_row_and_of_the_key(width: int, count: int, chance: random.Random) -> None:
    """Of whole rows, wherever they lie, whatever their width; 128 bits of each."""
    reader = RowReader(KEY)
    data = bytearray(chance.randbytes(width * count + chance.randrange(width)))
    before = reader.digests(memoryview(data), width)
    assert before.shape == (count, 2)
    one = reader.digests(memoryview(data)[(count - 1) * width :], width)
    assert np.array_equal(one[0], before[-1])
    data[chance.randrange(width * (count - 1), width * count)] ^= 1 << chance.randrange(8)
    after = reader.digests(memoryview(data), width)
    assert np.array_equal(before[:-1], after[:-1])
    assert (before[-1] != after[-1]).all()
    assert (RowReader(bytes(32)).digests(memoryview(data), width) != after).all()


def test_halves_that_change_places_make_another_digest() -> None:
    """A sum does not tell in which order its terms came: the masks do."""
    row = np.arange(192, dtype=np.uint64)
    rows = np.stack([row, np.roll(row, 2), row.reshape(-1, 2)[:, ::-1].ravel(), row[::-1]])
    found = RowReader(KEY).digests(memoryview(rows.tobytes()), 1536)
    assert len({tuple(one) for one in found.tolist()}) == 4


def test_equal_rows_are_found_together() -> None:
    """Of rows that are there many times each is the one behind that found for the row before: one part instead of many."""
    rows = np.concatenate(
        [ROWS[:50], np.zeros((3, 384), np.float32), ROWS[50:99], np.zeros((1, 384), np.float32), ROWS[99:150]]
    )
    one = remembered(b"a", rows)
    digests, old = one.digests, RememberedColumns([one])
    found = old.find(digests[101:])
    assert found.tolist() == [1536 * number for number in range(101, len(rows))]
    assert old.find(digests[:0]).tolist() == []
    assert RememberedColumns([]).find(digests[:2]).tolist() == [-1, -1]
