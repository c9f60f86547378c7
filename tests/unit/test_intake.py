"""Blobs on their way in: every size at which another way begins, and bytes that do not stand still (P1, P11)."""

from __future__ import annotations

import queue
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from resurgam.drivers.base import Blob
from resurgam.errors import Denied
from resurgam.stores.base import Buffer
from resurgam.testing.faults import Wrapped
from resurgam.vault import buffers, intake, sink, snapshots
from resurgam.vault.buffers import SHARED_MAX, SPAN, WINDOW
from resurgam.vault.chunking import MAX_CHUNK, PAGE_STEP
from resurgam.vault.compare import compare_points
from resurgam.vault.intake import ATTEMPTS
from resurgam.vault.repository import Sealed
from resurgam.vault.sharing import SMALL
from resurgam.vault.snapshots import Entry
from resurgam.vault.source import VaultSource
from tests.support import CountedSource, Table, World, read_whole


@pytest.fixture
def world(tmp_path: Path) -> World:
    """One empty component."""
    return World(str(tmp_path))


def entries(world: World, sealed: Sealed) -> dict[bytes, Entry]:
    """The entries of a point's only component."""
    return {entry.path: entry for entry in world.repository().snapshot(sealed.body, "files").entries()}


def warnings(world: World, sealed: Sealed) -> list[tuple[str, tuple[str, ...]]]:
    """What the point's findings say."""
    return [(f.what, f.keys) for f in world.repository().particulars(sealed.body).findings]


@pytest.mark.parametrize("edge", [0, 1, SMALL, SHARED_MAX, MAX_CHUNK, SPAN, WINDOW, WINDOW + SPAN], ids=str)
def test_sizes_at_every_edge(world: World, edge: int) -> None:
    """P1: one byte less, exactly, and one more than each size that the code knows; by content and by structure."""
    rng = Random(edge)
    for delta in (-1, 0, 1):
        if edge + delta >= 0:
            world.live.files[b"random%d" % delta] = rng.randbytes(edge + delta)
            world.live.files[b"zeros%d" % delta] = bytes(edge + delta)
            image = b"SQLite format 3\0" + (4096).to_bytes(2, "big") + rng.randbytes(max(0, edge + delta - 18))
            world.live.files[b"image%d" % delta] = image[: edge + delta]
    point = world.capture()
    assert world.restored(point) == world.contents()
    assert {path: entry.size for path, entry in entries(world, point).items()} == {
        path: len(data) for path, data in world.live.files.items()
    }
    assert all(source.closed for source in world.driver.sources)


def test_many_chunks_go_into_runs(world: World) -> None:
    """P11: a blob of more than INLINE chunks keeps its list in pages; one changed chunk changes one page of them."""
    data = bytearray(b"SQLite format 3\0" + (4096).to_bytes(2, "big") + Random(1).randbytes(150 * PAGE_STEP))
    world.live.files[b"image"] = bytes(data)
    first = world.capture()
    data[75 * PAGE_STEP] ^= 1
    world.live.files[b"image"] = bytes(data)
    second = world.capture()
    one, other = (entries(world, point)[b"image"] for point in (first, second))
    assert one.extents == []
    assert len(one.runs) >= 1
    assert len(other.runs) == len(one.runs)
    assert sum(s.stored for s in second.body.snapshots) < 2 * PAGE_STEP
    assert world.restored(first) != world.restored(second) == world.contents()


def test_read_anywhere(world: World) -> None:
    """A restored blob is read by position, across chunks and past its end."""
    data = Random(2).randbytes(3_000_000)
    world.live.files = {b"big": data, b"small": b"0123456789"}
    point = world.capture()
    reader = world.repository().chunks("default")
    for path, entry in entries(world, point).items():
        whole, source = world.live.files[path], VaultSource(reader, entry)
        assert read_whole(Blob(path, entry.size, source)) == whole
        rng = Random(3)
        for _ in range(50):
            offset, length = rng.randrange(len(whole) + 10), rng.randrange(1, 200_000)
            buffer = bytearray(length)
            done = source.read_into(offset, memoryview(buffer))
            assert buffer[:done] == whole[offset : offset + done]
            assert done > 0 or offset >= len(whole)


@pytest.mark.parametrize("times", range(ATTEMPTS + 3))
@pytest.mark.parametrize(
    "sizes",
    [(100, 100), (100, 5000), (5000, 100), (5000, 0), (0, 400), (SMALL - 1, SMALL), (SMALL, SMALL - 1), (900_000, 90)],
    ids=str,
)
def test_bytes_that_move(world: World, sizes: tuple[int, int], times: int) -> None:
    """P1: a file that changes while it is read is read again; when it never stands still it is kept as last read, and named.

    It is never a mixture that nobody warned of.
    """
    rng = Random(times)
    moves = [rng.randbytes(sizes[(n + 1) % 2]) for n in range(times)]
    world.live.files = {b"a": b"calm", b"moving": rng.randbytes(sizes[0]), b"z": b"calm too"}
    world.live.moves[b"moving"] = moves
    point = world.capture()
    restored = world.restored(point)["files"]
    assert (restored[b"a"], restored[b"z"]) == (b"calm", b"calm too")
    told = warnings(world, point)
    if times <= ATTEMPTS:
        assert restored[b"moving"] == (moves[-1] if moves else world.live.files[b"moving"])
        assert told == []
    else:
        assert [keys for _, keys in told] == [("moving",)]
        assert point.body.findings["warning"] == 1
    assert all(source.closed for source in world.driver.sources)


@pytest.mark.parametrize("size", [0, 10, 200_000, SMALL, 2_000_000])
@pytest.mark.parametrize("head", [b"", b"SQLite format 3\0\x10\0"])
def test_read_twice_is_the_same_as_read_once(world: World, size: int, head: bytes) -> None:
    """P11: equal bytes have equal digests, also when they had to be read again: a diff names what differs and nothing else."""
    data = head + Random(size).randbytes(size)
    world.live.files = {b"f": b"something else"}
    world.live.moves = {b"f": [data]}
    first = world.capture()
    world.live.files, world.live.moves = {b"f": data}, {}
    second = world.capture()
    assert world.restored(first) == world.restored(second)
    assert list(compare_points(first.body, second.body, world.repository())) == []


def test_what_moved_is_not_remembered(world: World) -> None:
    """P1: a stamp that was taken before the bytes moved promises nothing."""
    world.live.files = {b"f": b"before"}
    world.live.moves = {b"f": [b"after!"]}
    world.capture()
    world.live.moves = {}
    world.driver.read_bytes = 0
    point = world.capture()
    assert world.driver.read_bytes == len(b"before")
    assert world.restored(point)["files"] == {b"f": b"before"}


def test_more_entries_than_may_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Order is the driver's however long the large ones take, and trees of many leaves have levels."""
    monkeypatch.setattr(intake, "_MAX_WAITING", 16)
    monkeypatch.setattr(intake, "_MAX_LARGE", 3)
    monkeypatch.setattr(snapshots, "MAX_ENTRIES", 8)
    rng = Random(4)
    sizes = (0, 5, 700, SMALL, 600_000)
    world.live.files = {b"%03d" % n: rng.randbytes(sizes[n % 5] if n % 7 else 3) for n in range(120)}
    point = world.capture()
    assert world.restored(point) == world.contents()
    root = world.repository().snapshot(point.body, "files").root
    assert root.blobs.count == 120
    assert root.blobs.level >= 1


def test_ten_thousand_entries(world: World) -> None:
    """P11: more entries than a page holds; adding one to them stores the pages around it."""
    world.live.files = {b"%05d" % n: b"%d" % (n % 50) for n in range(10_000)}
    world.capture()
    world.live.files[b"05000a"] = b"one more"
    point = world.capture()
    assert world.restored(point) == world.contents()
    assert point.body.snapshots[0].items == 10_001
    assert point.body.snapshots[0].stored < 200_000


def test_one_more_small_file_does_not_shift_the_rest(world: World) -> None:
    """P11: small files share chunks that end where the content says so: without caches, the other chunks are found again."""
    rng = Random(5)
    world.live.files = {b"%04d" % n: rng.randbytes(20_000) for n in range(1500)}
    world.capture()
    world.live.files[b"0000a"] = rng.randbytes(20_000)
    world.forget()
    point = world.capture()
    assert point.body.snapshots[0].stored < 4 << 20
    assert world.restored(point) == world.contents()


def test_paths_that_begin_each_other(world: World) -> None:
    """Paths are bytes: prefixes of each other, separators, and what is not UTF-8."""
    paths = (
        b"a",
        b"a/b",
        b"a.b",
        b"a\x01",
        b"a/b/c",
        b"ab",
        b"\xff\xfe",
        "ü".encode(),
        b"new\nline",
        b" ",
        b"a" * 4000,
    )
    world.live.files = {path: path * 3 for path in paths}
    point = world.capture()
    assert world.restored(point) == world.contents()


def test_views_are_decoded_once(world: World) -> None:
    """P11: what is decoded from an unchanged image is not decoded again, and its tables are in the point all the same."""
    world.live.files = {b"a": b"1", b"image": Random(6).randbytes(400_000), b"z": b"2"}
    world.live.tables = {
        "rows": Table(("id", "v"), ("id",), [(n, str(n)) for n in range(5000)], b"image"),
        "free": Table(("v",), (), [(n % 3,) for n in range(100)]),
    }
    first = world.capture()
    world.driver.decoded = 0
    second = world.capture()
    assert world.driver.decoded == 100
    tables = world.repository().snapshot(second.body, "files").root.tables
    assert {table.name: table.root.count for table in tables} == {"rows": 5000, "free": 100}
    assert list(compare_points(first.body, second.body, world.repository())) == []
    world.live.files[b"image"] = Random(7).randbytes(400_000)
    world.live.tables["rows"].rows[10] = (10, "changed")
    world.live.tables["free"].rows.append((1,))
    third = world.capture()
    found = [(d.sign, d.kind, d.where, d.key) for d in compare_points(second.body, third.body, world.repository())]
    assert found == [("+", "row", "free", "(a row of a table without key)"), ("~", "row", "rows", "10")]
    fourth = world.capture()
    assert list(compare_points(third.body, fourth.body, world.repository())) == []


def test_ten_thousand_tables(world: World) -> None:
    """Their description is larger than a page, and unchanged ones cost nothing."""
    world.live.tables = {
        f"table {n}": Table((f"id {n}", "v"), (f"id {n}",), [(1, n)] if n % 2 else []) for n in range(10_000)
    }
    first = world.capture()
    tables = world.repository().snapshot(first.body, "files").root.tables
    assert len(tables) == 10_000
    world.live.tables["table 7"].rows.append((2, 2))
    second = world.capture()
    (only,) = compare_points(first.body, second.body, world.repository())
    assert (only.sign, only.where, only.key) == ("+", "table 7", "2")


def test_keys_that_are_null_or_twice(world: World) -> None:
    """P11: rows whose keys are NULL or equal are told by their digests."""
    world.live.tables["t"] = Table(("k", "v"), ("k",), [(None, 1), (None, 1), (None, 2), ("a", 1), ("a", 2)])
    first = world.capture()
    world.live.tables["t"].rows[:] = [(None, 1), (None, 2), ("a", 1), ("a", 3)]
    second = world.capture()
    found = [(d.sign, d.key) for d in compare_points(first.body, second.body, world.repository())]
    assert found == [("-", "None"), ("~", "a")]


def test_a_database_grows_by_its_pages(world: World, tmp_path: Path) -> None:
    """P11: a row more in a database of 3 MB stores the pages that it touched."""
    path = str(tmp_path / "d.db")
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
        database.executemany("INSERT INTO t VALUES (?, ?)", [(n, "x" * 300) for n in range(9000)])
    for number, expected in ((10_000, 10 << 20), (10_001, 400_000)):
        world.live.files[b"image"] = Path(path).read_bytes()
        point = world.capture()
        assert point.body.snapshots[0].stored < expected
        database.execute("INSERT INTO t VALUES (?, ?)", (number, "one more"))
        database.commit()
    database.close()


def test_p1_a_store_that_refuses_is_no_file_that_vanished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that moves is stored by whoever reads it, and hears there what the store said: the capture ends at once."""
    monkeypatch.setattr(sink, "PACK_SIZE", 1 << 20)
    world = World(str(tmp_path))
    rng = Random(1)
    world.live.files = {b"m%03d" % n: rng.randbytes(100_000) for n in range(300)}
    world.live.moves = {path: [rng.randbytes(100_000)] for path in world.live.files}
    world.store = Refusing(world.store)
    with pytest.raises(Denied, match="may not be put"):
        world.capture()
    assert world.driver.read_bytes < 300 * 100_000  # each of them is read twice


def test_p1_large_files_that_close_while_they_are_read_are_left_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than there is memory for reading, all of which comes back: else the capture would wait for ever."""
    read, asked = CountedSource.read_into, set[CountedSource]()

    def closing(self: CountedSource, offset: int, buffer: memoryview) -> int:
        if self._data[:4] == b"gone" and self in asked:
            raise Denied("The file closed.", untouched="Nothing was written.", next_step="Open it.")
        asked.add(self)
        return read(self, offset, buffer)

    monkeypatch.setattr(CountedSource, "read_into", closing)
    monkeypatch.setattr(buffers, "queue", Impatient)
    rng = Random(1)
    world.live.files = {b"%02d" % n: b"gone" + rng.randbytes(SMALL) for n in range(9)} | {
        b"whole": rng.randbytes(SMALL)
    }
    point = world.capture()
    assert list(entries(world, point)) == [b"whole"]
    assert [len(keys) for _, keys in warnings(world, point)] == [9]


@pytest.mark.parametrize("page", [0, 3, 512, 40_000], ids=str)
def test_p1_a_database_that_becomes_something_else_after_its_first_look(
    world: World, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """What was seen of its head is believed all through one reading; then it did not stand still, and is read again."""
    read, rng = CountedSource.read_into, Random(1)
    image = b"SQLite format 3\0" + (4096).to_bytes(2, "big") + rng.randbytes(3_000_000)
    other = image[:16] + page.to_bytes(2, "big") + image[18:]

    def turning(self: CountedSource, offset: int, buffer: memoryview) -> int:
        done = read(self, offset, buffer)
        self._data = other
        return done

    monkeypatch.setattr(CountedSource, "read_into", turning)
    world.live.files, world.live.moves = {b"image": image}, {b"image": [other]}
    point = world.capture()
    assert world.restored(point) == {"files": {b"image": other}}


def test_p1_a_database_that_was_cut_off_in_its_head(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listed as large, and when it is looked at there are so many bytes that its magic is there, and no more."""
    read, image = CountedSource.read_into, b"SQLite format 3\0" + (4096).to_bytes(2, "big") + bytes(3_000_000)

    def cut(self: CountedSource, offset: int, buffer: memoryview) -> int:
        self._data = self._data[:19]
        return read(self, offset, buffer)

    monkeypatch.setattr(CountedSource, "read_into", cut)
    world.live.files = {b"image": image}
    point = world.capture()
    assert world.restored(point) == {"files": {b"image": image[:19]}}


@pytest.mark.parametrize("kept", [SPAN, SPAN + 70_001, SPAN + (2 << 16)])
def test_p1_a_database_that_ends_spans_before_its_listed_end(
    world: World, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """Compacted meanwhile: whole spans of what was listed are not there, at the first capture and at the next."""
    read, rng = CountedSource.read_into, Random(1)
    image = b"SQLite format 3\0" + (4096).to_bytes(2, "big") + rng.randbytes(3 * SPAN)

    def cut(self: CountedSource, offset: int, buffer: memoryview) -> int:
        self._data = self._data[:kept]
        return read(self, offset, buffer)

    monkeypatch.setattr(CountedSource, "read_into", cut)
    for _ in range(2):
        world.live.files = {b"image": image}
        point = world.capture()
        assert world.restored(point) == {"files": {b"image": image[:kept]}}


class Impatient:
    """Queues in which nobody waits: what is not there does not come."""

    class SimpleQueue(queue.SimpleQueue[Any]):
        """As any, but for that."""

        def get(self, block: bool = True, timeout: float | None = None) -> object:
            """Raises Empty after some seconds."""
            return super().get(block, timeout or 30)


class Refusing(Wrapped):
    """Takes no packs."""

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """As the inner one, but for packs."""
        if name.startswith("packs/"):
            raise Denied(f"{name} may not be put.", untouched="Nothing was written.", next_step="Ask for the right.")
        self.inner.put(name, data)
