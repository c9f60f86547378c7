"""Large files past the page cache: every byte where it belongs, told once and in order, and read no second time."""

from __future__ import annotations

import errno
import io
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resurgam.drivers import files
from resurgam.drivers.base import Blob, write_fully
from resurgam.drivers.files import FilesDriver
from resurgam.drivers.files_listing import Entry
from resurgam.errors import IntegrityError
from resurgam.model.system import Component
from resurgam.stores import disk
from resurgam.testing.rounds import RoundStore
from resurgam.vault import pouring, source
from resurgam.vault.pack import ALIGN, new_buffer
from resurgam.vault.pouring import Pour, Rooms
from resurgam.vault.snapshots import Laid
from resurgam.vault.source import VaultSource
from resurgam.vault.workers import work_on
from tests.support import World, copied
from tests.threads import none_left

LENGTHS = st.lists(st.integers(1, 3 * ALIGN) | st.sampled_from([ALIGN, 5 * ALIGN]), min_size=1, max_size=40)


class Modes:
    """What a file system may know: direct writes, none, or none after all (EINVAL)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def be(self, mode: str) -> None:
        """Behave so from now on."""
        if mode == "none":
            self._patch.setattr(disk, "O_DIRECT", 0)
        if mode == "refused":
            pwrite = os.pwrite

            def refusing(descriptor: int, data: memoryview, at: int) -> int:
                if _is_direct(descriptor):
                    raise OSError(errno.EINVAL, "Invalid argument")
                return pwrite(descriptor, data, at)

            self._patch.setattr(os, "pwrite", refusing)


def _is_direct(descriptor: int) -> bool:
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as info:
        flags = next(line.split()[1] for line in info if line.startswith("flags"))
    return bool(int(flags, 8) & os.O_DIRECT)


@pytest.fixture
def modes(monkeypatch: pytest.MonkeyPatch) -> Modes:
    return Modes(monkeypatch)


def gives(piece: bytes, room: memoryview) -> memoryview:
    """``piece``, sometimes made where it is to be."""
    if len(piece) % 2:
        return memoryview(piece)
    room[:] = piece
    return room


def poured(path: Path, pieces: list[bytes], per_batch: int) -> list[bytes]:
    """What was told when ``pieces`` were poured into the file ``path``, by several threads."""
    begins = [sum(map(len, pieces[:n])) for n in range(len(pieces))]
    parts = [(start, piece) for start, piece in zip(begins, pieces, strict=True)]
    batches = [parts[at : at + per_batch] for at in range(0, len(parts), per_batch)]
    told: list[bytes] = []
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        os.ftruncate(descriptor, sum(map(len, pieces)))
        with closing(Pour(descriptor, Rooms(), lambda data: told.append(bytes(data)))) as pour:

            def write(numbered: tuple[int, list[tuple[int, bytes]]]) -> None:
                number, batch = numbered
                pour.write(number, [(start, len(piece), partial(gives, piece)) for start, piece in batch])

            work_on(list(enumerate(batches)), write, meanwhile=pour.settle)
    finally:
        os.close(descriptor)
    return told


@pytest.mark.parametrize("mode", ["direct", "none", "refused"])
def test_every_byte_is_where_it_belongs_and_told_in_order(tmp_path: Path, modes: Modes, mode: str) -> None:
    """P1: whatever the pieces' lengths, and whatever the file system knows, the file has all bytes, and so has who is told."""
    modes.be(mode)
    rng = Random(1)

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(LENGTHS, st.integers(1, 7))
    def holds(lengths: list[int], per_batch: int) -> None:
        pieces = [bytes(length) if rng.random() < 0.2 else rng.randbytes(length) for length in lengths]
        told = poured(tmp_path / "file", pieces, per_batch)
        assert b"".join(told) == b"".join(pieces)
        assert (tmp_path / "file").read_bytes() == b"".join(pieces)

    holds()


def test_whole_blocks_go_past_the_page_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P11: of a batch only its ends, less than a block each, are copied into the page cache."""
    copied_bytes = [0]

    def counted(descriptor: int, data: memoryview, at: int) -> None:
        copied_bytes[0] += len(data)
        write_fully(descriptor, data, at)

    monkeypatch.setattr(pouring, "write_fully", counted)
    told = poured(tmp_path / "file", [Random(n).randbytes(1_000_001) for n in range(8)], 3)
    with open(tmp_path / "file", "rb") as file:
        if (handle := disk.open_direct(file.fileno())) is None:
            pytest.skip("this file system knows no direct writes")
        os.close(handle)
    assert copied_bytes[0] < 2 * ALIGN * len(told)


def test_zeros_stay_holes(tmp_path: Path) -> None:
    poured(tmp_path / "file", [b"x" * ALIGN, bytes(8 << 20), b"y" * ALIGN], 3)
    assert os.stat(tmp_path / "file").st_blocks * 512 < 1 << 20


def test_who_waits_for_its_turn_is_let_go_when_another_fails(tmp_path: Path) -> None:
    """P12: one batch that cannot be had ends all of them, with its own error and no thread left."""
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    begun = threading.Event()

    def lost(_room: memoryview) -> memoryview:
        assert begun.wait(30)  # the next batch has been written, and waits
        raise IntegrityError("gone", untouched="all", next_step="look")

    def there(_room: memoryview) -> memoryview:
        begun.set()
        return memoryview(b"x" * 100)

    with none_left(), closing(Pour(descriptor, Rooms(), lambda _: None)) as pour, pytest.raises(IntegrityError):
        work_on(
            [(0, lost), (1, there)],
            lambda one: pour.write(one[0], [(one[0] * 100, 100, one[1])]),
            meanwhile=pour.settle,
        )
    os.close(descriptor)


def test_memory_is_used_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Bounded: however many batches, no more rooms than threads."""
    made: list[int] = []

    def counted(size: int) -> mmap.mmap:
        made.append(size)
        return new_buffer(size)

    monkeypatch.setattr(pouring, "new_buffer", counted)
    poured(tmp_path / "file", [Random(n).randbytes(5000) for n in range(200)], 2)
    assert len(made) <= 4


# --- from a vault ------------------------------------------------------------------------------------------------------


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A file that counts as large, of some chunks."""
    monkeypatch.setattr(source, "SHARED_FROM", 1 << 20)
    return Random(3).randbytes(9_000_001) + bytes(3 << 20) + Random(4).randbytes(5_000_000)


def blobs(world: World, store: Any = None) -> Iterator[Blob]:
    repository = world.repository(store or world.store)
    for item in repository.snapshot(repository.resolve("latest").body, "files").items():
        assert isinstance(item, Blob)
        yield item


def test_a_large_file_from_near_or_far_is_poured(tmp_path: Path, large: bytes) -> None:
    """P1: what is told is what the vault holds, and so is what lies in the file."""
    world = World(str(tmp_path / "world"))
    world.live.files = {b"large": large}
    world.capture()
    for store in (world.store, RoundStore(world.store, 0.002)):
        for blob in blobs(world, store):
            digest = blake3()
            with open(tmp_path / "out", "w+b") as file:
                assert blob.copy_to(file.fileno(), digest.update)
                assert digest.digest() == blake3(large).digest()
                assert file.read() == large


def test_who_does_not_ask_to_be_told_finds_the_file_in_the_page_cache(tmp_path: Path, large: bytes) -> None:
    """A driver that reads the file again (a database that is opened and checked) gets it as before."""
    world = World(str(tmp_path / "world"))
    world.live.files = {b"large": large}
    world.capture()
    for blob in blobs(world):
        with open(tmp_path / "out", "w+b") as file:
            assert not blob.copy_to(file.fileno())
            assert file.read() == large


def test_damage_is_told_with_the_files_name(tmp_path: Path, large: bytes) -> None:
    """P1, P12: a flipped bit in a pack ends the pouring; nothing is told as whole."""
    world = World(str(tmp_path / "world"))
    world.live.files = {b"large": large}
    world.capture()
    twin = copied(world.store)
    (pack, *_) = [entry.name for entry in twin.list("packs/") if entry.size > 4 << 20]
    data = bytearray(twin.get(pack))
    data[len(data) // 2] ^= 1
    twin.delete(pack)
    twin.put(pack, bytes(data))
    for blob in blobs(world, twin):
        with open(tmp_path / "out", "w+b") as file, pytest.raises(IntegrityError, match="large cannot be restored"):
            blob.copy_to(file.fileno(), lambda _: None)


# --- what the driver does with it ---------------------------------------------------------------------------------------


def written(tmp_path: Path, large: bytes) -> tuple[FilesDriver, Component]:
    world = World(str(tmp_path / "world"))
    world.live.files = {b"large": large}
    world.capture()
    driver, place = FilesDriver(), Component(name="f", driver="files", location=str(tmp_path / "out"))
    meta = {"m": 0o600, "t": 0}
    folder = Blob(b".", 0, VaultSource.__new__(VaultSource), {"m": 0o700, "t": 0, "y": "d"})
    driver.write([folder, *(Blob(b.path, b.size, b.source, meta) for b in blobs(world))], place)
    return driver, place


def test_the_fingerprint_after_a_restore_reads_no_large_file(
    tmp_path: Path, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P11: the digest is that of the bytes on their way. Asked once more, and by any other, the disk says the same (P1)."""
    driver, place = written(tmp_path, large)
    read: list[bytes] = []
    digest = files._digest

    def counted(where: bytes, entry: Entry) -> bytes:
        read.append(where)
        return digest(where, entry)

    monkeypatch.setattr(files, "_digest", counted)
    first = driver.fingerprint(place)
    assert not read
    assert driver.fingerprint(place) == FilesDriver().fingerprint(place) == first
    assert len(read) == 2


def test_a_file_that_changed_since_it_was_written_is_read(tmp_path: Path, large: bytes) -> None:
    """P1: what was told stands for the very bytes that were written, and for no others, of the same length and time neither."""
    driver, place = written(tmp_path, large)
    path = tmp_path / "out" / "large"
    before = path.stat()
    with open(path, "r+b") as file:
        file.write(b"other")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert driver.fingerprint(place) == FilesDriver().fingerprint(place)


def test_a_disk_that_lies_is_found_by_the_next_look(
    tmp_path: Path, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P1: the first fingerprint is that of what the vault holds; where the disk has something else, the next one is another."""
    write = Pour._write
    monkeypatch.setattr(Pour, "_write", lambda self, data, at: write(self, data, at) if at else None)
    driver, place = written(tmp_path, large)
    assert driver.fingerprint(place) != driver.fingerprint(place)


def test_what_is_large_is_made_in_its_place(tmp_path: Path, large: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """P11: a chunk is decrypted, or its planes are joined, where it goes to the disk from; nothing is copied on the way there."""
    weights = np.random.default_rng(5).standard_normal(2 << 20, np.float32)  # planes
    world = World(str(tmp_path / "world"))
    world.live.files = {b"large": large, b"weights.npy": npy(weights)}
    world.capture()
    made, made_elsewhere = [0], [0]
    gives = VaultSource._piece

    def seen(self: VaultSource, laid: Laid, room: memoryview | None = None) -> memoryview:
        piece = gives(self, laid, room)
        assert room is not None
        (made if piece.obj is room.obj else made_elsewhere)[0] += len(piece)
        return piece

    monkeypatch.setattr(VaultSource, "_piece", seen)
    for blob in blobs(world):
        with open(tmp_path / "out", "w+b") as file:
            assert blob.copy_to(file.fileno(), lambda _: None)
            assert file.read() == world.live.files[blob.path]
    assert made_elsewhere[0] * 2 < made[0], "beginnings, and chunks of zstd: those with zeros"


def npy(floats: NDArray[np.float32]) -> bytes:
    """An array as numpy's own file."""
    file = io.BytesIO()
    np.save(file, floats)
    return file.getvalue()
