"""Our reader of SQLite's write-ahead log, against the format's own words (sqlite.org/fileformat2.html, section 4)."""

from __future__ import annotations

import os
import random
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from resurgam.drivers.base import Blob
from resurgam.drivers.sqlite import SqliteDriver
from resurgam.drivers.sqlite_image import LOCK_BYTE, Image, WalIndex, read_overlay, read_wal_index
from resurgam.errors import IntegrityError
from resurgam.model.system import Component

PAGE = 512
SALTS = bytes(range(8))


def running_sum(data: bytes, order: str, start: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    """Section 4.2, word for word."""
    first, second = start
    for x, y in struct.iter_unpack(f"{order}2I", data):
        first = (first + x + second) & 0xFFFFFFFF
        second = (second + y + first) & 0xFFFFFFFF
    return first, second


def write_log(path: Path, frames: list[tuple[int, int, bytes]], big_endian: bool) -> WalIndex:
    """A log of (page, pages after commit, bytes) at ``path``; returns the wal-index that would go with it."""
    order = ">" if big_endian else "<"
    head = struct.pack(">4I", 0x377F0683 if big_endian else 0x377F0682, 3007000, PAGE, 1) + SALTS
    sums = running_sum(head, order)
    data = bytearray(head + struct.pack(">2I", *sums))
    for page, commit, body in frames:
        start = struct.pack(">2I", page, commit)
        sums = running_sum(start + body, order, sums)
        data += start + SALTS + struct.pack(">2I", *sums) + body
    path.write_bytes(data)
    return WalIndex(SALTS, len(frames), 0, sums)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor that is closed."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def some_frames(count: int) -> list[tuple[int, int, bytes]]:
    """Frames of seeded noise over few pages, so that pages come again."""
    rng = random.Random(7)
    return [(rng.randrange(1, 30), 30 * (n % 3 == 2), rng.randbytes(PAGE)) for n in range(count)]


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("count", [1, 2, 50, 9000])
def test_the_newest_frame_of_each_page_wins(tmp_path: Path, big_endian: bool, count: int) -> None:
    """Both byte orders of the checksum; more frames than are verified in one step."""
    frames = some_frames(count)
    index = write_log(tmp_path / "log", frames, big_endian)
    newest = {page: body for page, _, body in frames}
    with opened(tmp_path / "log") as log:
        overlay = read_overlay(log, index, PAGE)
        assert overlay.pages.tolist() == sorted(newest)
        assert {page: os.pread(log, PAGE, at) for page, at in overlay.between(1, 30)} == newest


def test_frames_after_the_last_committed_one_do_not_count(tmp_path: Path) -> None:
    """What a rolled-back or a later transaction appended stays out."""
    frames = some_frames(9)
    index = write_log(tmp_path / "log", frames[:6], big_endian=False)
    write_log(tmp_path / "log", frames, big_endian=False)
    with opened(tmp_path / "log") as log:
        overlay = read_overlay(log, index, PAGE)
        newest = {page: body for page, _, body in frames[:6]}
        assert {page: os.pread(log, PAGE, at) for page, at in overlay.between(1, 30)} == newest


def test_no_flipped_bit_in_the_log_passes(tmp_path: Path) -> None:
    """P12: in the header, a frame's header or a page: IntegrityError, never a wrong page."""
    log = tmp_path / "log"
    index = write_log(log, some_frames(3), big_endian=False)
    whole = log.read_bytes()
    rng = random.Random(3)
    for at in range(len(whole)):
        broken = bytearray(whole)
        broken[at] ^= 1 << rng.randrange(8)
        log.write_bytes(broken)
        with opened(log) as descriptor:
            with pytest.raises(IntegrityError) as caught:
                read_overlay(descriptor, index, PAGE)
            assert caught.value.next_step
    for length in (0, 20, 32, len(whole) - 1):
        log.write_bytes(whole[:length])
        with opened(log) as descriptor, pytest.raises(IntegrityError):
            read_overlay(descriptor, index, PAGE)


def test_a_damaged_log_of_a_real_database_is_refused(tmp_path: Path) -> None:
    """SQLite itself reads frames without looking at their checksums again; a capture does look."""
    path = tmp_path / "a.db"
    what, driver = Component(name="a", driver="sqlite", location=str(path)), SqliteDriver()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (a)")
        db.execute("INSERT INTO t VALUES (randomblob(20000))")
        with (tmp_path / "a.db-wal").open("r+b") as log:
            log.seek(-100, os.SEEK_END)
            byte = log.read(1)[0]
            log.seek(-100, os.SEEK_END)
            log.write(bytes([byte ^ 1]))
        with driver.freeze(what) as at:
            pass
        blob = next(item for item in driver.read(what, at) if isinstance(item, Blob))
        with pytest.raises(IntegrityError, match="checksum"):
            blob.read()
        driver.release(what, at)


def test_an_unknown_wal_index_is_refused(tmp_path: Path) -> None:
    """A future version, two copies that differ, too short."""
    for data in (b"", bytes(136), struct.pack("=I", 3007000) + bytes(44) + bytes(88)):
        (tmp_path / "shm").write_bytes(data)
        with opened(tmp_path / "shm") as descriptor, pytest.raises(IntegrityError):
            read_wal_index(descriptor)


def test_pages_beyond_the_file_come_from_the_log_or_not_at_all(tmp_path: Path) -> None:
    """Zeros are made for the lock page alone, which SQLite never writes."""
    index = write_log(tmp_path / "log", [(2, 0, b"2" * PAGE), (4, 4, b"4" * PAGE)], big_endian=False)
    (tmp_path / "db").write_bytes(b"1" * PAGE)
    with opened(tmp_path / "db") as db, opened(tmp_path / "log") as log:
        image = Image(db, 2 * PAGE, PAGE, (log, index), lambda: True)
        assert Blob(b"database", image.size, image).read() == b"1" * PAGE + b"2" * PAGE
        hole = Image(db, 4 * PAGE, PAGE, (log, index), lambda: True)
        with pytest.raises(IntegrityError, match="1 pages too early"):
            Blob(b"database", hole.size, hole).read()
        lock_page = LOCK_BYTE // PAGE
        far = Image(db, (lock_page + 1) * PAGE, PAGE, (log, index), lambda: True)
        buffer = bytearray(b"x" * PAGE)
        assert far.read_into(lock_page * PAGE, memoryview(buffer)) == PAGE
        assert buffer == bytes(PAGE)
        assert far.read_into(far.size, memoryview(buffer)) == 0
