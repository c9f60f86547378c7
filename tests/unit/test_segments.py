"""Databases that are compacted: what moved is known again wherever it lies, and what comes back is what was there (P1, P11)."""

from __future__ import annotations

import os
import random
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resurgam.errors import IntegrityError
from resurgam.vault import intake, segmentmemory
from resurgam.vault.blockmemory import BlockMemory
from resurgam.vault.patches import MOST_SOURCES, UNIT, Moved, digests
from resurgam.vault.segments import FINE, Knowing, Lookup, Pages, Segments, Shapes, cut, joined
from resurgam.vault.sink import CodedPiece
from resurgam.vault.snapshots import pieces_of
from resurgam.vault.spans import coded, hand_over
from tests.support import World, stored_bytes

KEY = bytes(range(32))
PAGES = Pages(4096, 4096, 128)
Act = Callable[[sqlite3.Connection], object]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """One empty component."""
    return World(str(tmp_path))


def database(path: Path, *acts: Act, page: int = 4096) -> bytes:
    """The image of a database after ``acts``, each in a transaction of its own; compacted where there are none."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        if not path.exists() or not path.stat().st_size:
            connection.execute(f"PRAGMA page_size = {page}")
        for act in acts:
            connection.execute("BEGIN")
            act(connection)
            connection.execute("COMMIT")
        if not acts:
            connection.execute("VACUUM")
    return path.read_bytes()


def documents(rows: range, text: int, vector: int) -> Act:
    """Adds rows of some text and a vector each."""
    chance = random.Random(rows.start)

    def add(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE IF NOT EXISTS documents (id INTEGER PRIMARY KEY, body TEXT, vector BLOB)")
        for row in rows:
            body = chance.randbytes(chance.randint(text // 2, text)).hex()[:text]
            connection.execute("INSERT INTO documents VALUES (?, ?, ?)", (row, body, chance.randbytes(vector)))

    return add


def without(share: int) -> Act:
    """Deletes every so manyth row."""
    return lambda connection: connection.execute("DELETE FROM documents WHERE id % ? = 0", (share,))


def added(world: World, image: bytes) -> int:
    """What a point over ``image`` adds to the store; it is restored exactly."""
    world.live.files = {b"db": image}
    before = stored_bytes(world.store)
    point = world.capture()
    assert world.restored(point) == world.contents()
    return stored_bytes(world.store) - before


def noted(image: bytes, pages: Pages = PAGES) -> Segments:
    """Those of a whole image."""
    knowing, found = Knowing(KEY), [Segments.frombytes(b"")]

    def note(at: int, shapes: Shapes, made: np.ndarray) -> None:
        found.append(knowing.noted(shapes, made, at))

    for at in range(0, len(image), UNIT):
        shapes = knowing.shapes(np.frombuffer(image[at : at + UNIT], np.uint8), pages)
        digests(KEY, memoryview(image)[at : at + UNIT], 512, partial(note, at, shapes))
    return joined(found)


def found_in(image: bytes, old: Segments, pages: Pages = PAGES) -> list[tuple[int, int, int]]:
    """Where segments begin in ``image``, their lengths, and where they lay."""
    lookup, knowing, every = Lookup(old), Knowing(KEY), []
    for at in range(0, len(image), UNIT):
        unit = np.frombuffer(image[at : at + UNIT], np.uint8)
        starts, lengths, were = knowing.found(knowing.shapes(unit, pages), unit, lookup)
        every += list(zip((starts + at).tolist(), lengths.tolist(), were.tolist(), strict=True))
    return every


# What a compaction costs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [False, True], ids=["threads", "copies of the process"])
@pytest.mark.parametrize(
    ("text", "vector", "page"),
    [(600, 0, 4096), (600, 1536, 4096), (3000, 1536, 4096), (900, 1536, 16384), (200, 0, 1024)],
)
def test_a_compacted_database_costs_little(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: int, vector: int, page: int, *, copies: bool
) -> None:
    """P11: of many rows to a page, of one, and of rows that go on in other pages; P1: all comes back."""
    monkeypatch.setattr(intake, "COPIED_FROM", 0 if copies else 1 << 40)
    rows = (3 << 20) // (text + vector)
    path = tmp_path / "db"
    first = added(world, database(path, documents(range(rows), text, vector), without(31), page=page))
    before = path.read_bytes()
    compacted = database(path)
    assert len(compacted) < len(before)
    assert sum(a == b for a, b in zip(pieces(before), pieces(compacted), strict=False)) < 3, "nearly all moved"
    assert added(world, compacted) < 0.06 * first + 16_000, "some headers, where parts lie, and the records of a point"


def pieces(image: bytes) -> list[bytes]:
    """As an image is cut."""
    return [image[at : at + (64 << 10)] for at in range(0, len(image), 64 << 10)]


def test_compacted_again_and_again(world: World, tmp_path: Path) -> None:
    """P1: what was laid out from parts is laid out from again, and what changed in its place beside what moved."""
    path, rows = tmp_path / "db", 1500
    first = added(world, database(path, documents(range(rows), 600, 1536)))
    for number in range(4):
        start = rows + 40 * number
        changed = database(path, without(17 + number), documents(range(start, start + 40), 600, 1536))
        # 40 new rows, and headers.
        assert added(world, changed) < 0.15 * first
        assert added(world, database(path)) < 0.1 * first
    (entry,) = world.repository().snapshot(world.repository().points()[-1].body, "files").entries()
    laid = list(
        pieces_of(entry, world.repository().chunks(world.repository().points()[-1].body.snapshots[0].domain).get)
    )
    assert max(len({chunk for chunk, _, _ in piece.parts}) for piece in laid) <= MOST_SOURCES + 1, "restores stay quick"


def test_what_is_noted_does_not_depend_on_what_was(world: World, tmp_path: Path) -> None:
    """Where few pieces changed, only those are digested: the host then knows what it would know after a first capture."""
    path = tmp_path / "db"
    first = added(world, database(path, documents(range(2400), 600, 1536)))
    changed = database(path, documents(range(5000, 5010), 600, 1536), touched(7, 1300, 2390))
    assert added(world, changed) < 0.1 * first
    known = [memory_of(world)]
    world.live.files = {b"other": b"small"}
    world.capture()
    added(world, changed)
    known.append(memory_of(world))
    assert known[0] == known[1]
    assert len(known[0][1]) > 2000


def touched(*rows: int) -> Act:
    """Writes some rows anew, as long as they were."""

    def touch(connection: sqlite3.Connection) -> None:
        for row in rows:
            connection.execute("UPDATE documents SET vector = ? WHERE id = ?", (bytes(1536), row))

    return touch


def memory_of(world: World) -> tuple[bytes, list[tuple[int, ...]]]:
    """The digests of blocks that the host remembers of the only database, and the segments."""
    (name,) = Path(world.state).rglob(f"*{segmentmemory.SUFFIX}")
    data = name.with_suffix("").read_bytes()
    (end,) = struct.unpack_from("<Q", data, 8)
    segments = segmentmemory.remembered_segments(str(name), msgspec.msgpack.decode(data[end:])[-1])
    return data[32:end], list(zip(*(column.tolist() for column in segments), strict=True))


def test_memory_of_another_capture_is_none(world: World, tmp_path: Path) -> None:
    """P1: segments count only with the memory of blocks that names their mark, for they tell of its pieces."""
    path = tmp_path / "db"
    added(world, database(path, documents(range(1200), 600, 1536)))
    (memory,) = Path(world.state).rglob(f"*{segmentmemory.SUFFIX}")
    stale = memory.read_bytes()
    path.unlink()
    added(world, database(path, documents(range(5000, 6200), 600, 1536)))
    memory.write_bytes(stale)
    path.unlink()
    added(world, database(path, documents(range(1200), 600, 1536), without(31)))


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "flipped"])
def test_damaged_memory_costs_bytes_and_nothing_else(world: World, tmp_path: Path, damage: str) -> None:
    """P3: what the host remembers can be lost."""
    path = tmp_path / "db"
    first = added(world, database(path, documents(range(1200), 600, 1536), without(31)))
    (memory,) = Path(world.state).rglob(f"*{segmentmemory.SUFFIX}")
    data = bytearray(memory.read_bytes())
    if damage == "gone":
        memory.unlink()
    elif damage == "flipped":
        data[100] ^= 1
        memory.write_bytes(data)
    else:
        memory.write_bytes(data[: len(data) // 2 if damage == "cut" else 0])
    assert added(world, database(path)) > 0.2 * first
    assert added(world, database(path, without(37))) < 0.2 * first, "the next one noted them again"


def test_memory_goes_with_its_file(world: World, tmp_path: Path) -> None:
    """What was noted of a database that is gone is removed, and of one that stays as it is kept."""
    image = database(tmp_path / "db", documents(range(1200), 600, 1536))
    added(world, image)
    added(world, image)
    assert len(list(Path(world.state).rglob(f"*{segmentmemory.SUFFIX}*"))) == 1
    world.live.files = {b"other": b"small"}
    world.capture()
    assert not list(Path(world.state).rglob(f"*{segmentmemory.SUFFIX}*"))


def test_a_false_match_is_never_restored(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P1: a piece is compared with the id of the bytes that the host had read."""
    path = tmp_path / "db"
    added(world, database(path, documents(range(1200), 600, 1536), without(31)))
    whole = Knowing.found

    def blind(self: Knowing, shapes: Shapes, unit: np.ndarray, old: Lookup) -> tuple[np.ndarray, ...]:
        starts, lengths, were = whole(self, shapes, unit, old)
        return starts, lengths, np.roll(were, 1)

    monkeypatch.setattr(Knowing, "found", blind)
    world.live.files = {b"db": database(path)}
    point = world.capture()
    with pytest.raises(IntegrityError, match="cannot be restored"):
        world.restored(point)


# What segments are, and what they are known by --------------------------------------------------------------------------


def test_everything_is_found_where_it_stands(tmp_path: Path) -> None:
    """What is made of new bytes for an old place is what was noted there."""
    image = database(tmp_path / "db", documents(range(1500), 600, 1536), documents(range(5000, 5020), 9000, 9000))
    old = noted(image)
    assert found_in(image, old) == list(zip(*(c.tolist() for c in (old.starts, old.lengths, old.starts)), strict=True))
    assert old.lengths.sum() > 0.99 * (len(image) // 4096 * 4096)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_is_found_is_the_same_bytes(data: st.DataObject) -> None:
    """P1: of any pages, leaves of lying pointers among them, in any order and with any byte changed."""
    chance = random.Random(data.draw(st.integers(0, 1 << 32)))
    old = b"".join(page_of(chance) for _ in range(chance.randint(1, 40)))
    order = [chance.randrange(len(old) // 4096) for _ in range(chance.randint(1, 40))]
    new = bytearray(b"".join(old[n * 4096 : (n + 1) * 4096] for n in order))
    for _ in range(data.draw(st.integers(0, 20))):
        new[chance.randrange(len(new))] ^= 1 << chance.randrange(8)
    for start, length, were in found_in(bytes(new), noted(old)):
        assert new[start : start + length] == old[were : were + length]
    starts, lengths = cut(np.frombuffer(new, np.uint8), PAGES)
    assert all(a + n <= b for (a, n), (b, _) in pairwise(zip(starts.tolist(), lengths.tolist(), strict=True)))
    assert all(PAGES.least <= n <= 4096 for n in lengths.tolist())
    assert all(a // 4096 == (a + n - 1) // 4096 for a, n in zip(starts.tolist(), lengths.tolist(), strict=True))


def page_of(chance: random.Random) -> bytes:
    """A page of anything, often one that calls itself a leaf."""
    page = bytearray(chance.randbytes(4096) if chance.random() < 0.8 else bytes(4096))
    page[0] = chance.choice((0, 2, 5, 10, 13, 13, 13, chance.randrange(256)))
    page[3:5] = chance.choice((0, 1, 5, 30, 65535)).to_bytes(2, "big")
    return bytes(page)


def test_every_changed_byte_of_a_segment_is_seen() -> None:
    """Its edges and its midst, wherever it begins and ends (docs/adr/0024-segments.md)."""
    chance = random.Random(1)
    cell = b"\x50\x01" + chance.randbytes(591)
    old = noted(page_with(cell, 3003) + bytes(4096))
    moved = bytes(4096) + page_with(cell, 2998)
    assert (4096 + 2998, len(cell), 3003) in found_in(moved, old)
    for at in range(len(cell)):
        changed = bytearray(moved)
        changed[4096 + 2998 + at] ^= 1 << chance.randrange(8)
        assert not any(start == 4096 + 2998 for start, _, _ in found_in(bytes(changed), old)), at
    assert not found_in(page_with(cell[:-1], 2998), old), "nor is what is shorter the same"


def page_with(cell: bytes, at: int) -> bytes:
    """A leaf page with ``cell``, and another one that ends where the page ends."""
    page = bytearray(random.Random(at).randbytes(4096))
    page[0], page[3:5] = 13, (2).to_bytes(2, "big")
    page[8:12] = at.to_bytes(2, "big") + (at + len(cell)).to_bytes(2, "big")
    page[at : at + len(cell)] = cell
    return bytes(page)


def test_larger_databases_have_longer_segments() -> None:
    """What is remembered is bounded."""
    head = memoryview(bytes(16) + b"\x10\x00" + bytes(82))
    assert Pages.of(head, FINE) == PAGES
    assert Pages.of(head, 3 * FINE).least == 3 * PAGES.least


@given(st.lists(st.tuples(st.integers(-1, 1 << 50), st.integers(1, 1 << 16)), max_size=40), st.binary(max_size=100))
def test_plans_come_over_from_copies_of_the_process(parts: list[tuple[int, int]], data: bytes) -> None:
    """A plan that a child made is the plan that is taken."""
    table = np.array(parts, np.int64).reshape(-1, 2)
    room = memoryview(bytearray(1 << 12))
    hand_over(7, 1, [CodedPiece(bytes(32), 9, None, Moved(table[:, 0], table[:, 1], data))], room)
    done, (piece,) = (lambda found: (found.done, list(found.pieces)))(coded(room, 512))
    assert done == 7
    assert isinstance(piece.patch, Moved)
    assert [c.tolist() for c in piece.patch[:2]] == [c.tolist() for c in (table[:, 0], table[:, 1])]
    assert bytes(piece.patch.data) == data


def test_nothing_is_half_noted(tmp_path: Path) -> None:
    """A capture that did not end leaves no segments behind."""
    memory = BlockMemory(str(tmp_path / "blocks"), "vault", "domain")
    memory.noting(b"db", 512, segments=True).note_segments(Segments.frombytes(b""))
    memory.close()
    assert os.listdir(tmp_path / "blocks") == []
