"""The bytes of a pinned SQLite database: exactly the file that a full checkpoint at that moment would have produced.

In WAL mode a database is its file with the newest committed frame of each page in ``-wal`` laid over it. Which frames
are committed, and how many of them a checkpoint has already copied back ("backfilled"), stands in the wal-index, ``-shm``
(sqlite.org/walformat.html). While a read transaction R is open, SQLite itself guarantees one of two things, and
nothing has to be copied to keep the image:

* **All frames were backfilled when R began.** The file alone is the image. R either holds read lock 0, which stops
  every later backfill, or a read mark that stops it at R's last frame; so the file does not change at all.
* **Some were not.** Then R holds a read mark above 0. The WAL cannot be restarted, so its frames stay where they are; a
  checkpoint may copy frames up to R's last one into the file, and each such page is one that we take from the WAL
  anyhow, so a torn read of it does not matter. No other page of the file changes.

:meth:`Image.settled` checks afterwards that this held, for one way to lose it remains: other code of the same process that
closes a descriptor of the file drops R's locks (see ``sqlite_open``).

Layouts read here, all from sqlite.org/walformat.html and fileformat2.html section 4:

    wal-index header  +0 version 3007000 · +12 initialised · +13 big-endian sums · +16 frames committed · +24 running
    (native order)    checksum, two words · +32 salts, 8 bytes as in the WAL · +48 a second copy · +96 frames backfilled
    WAL header        magic 0x377f0682, or ...83 for big-endian sums · version · page size · sequence · salts · checksum
    (big-endian)      32 bytes in all
    frame             page number · pages after commit, else 0 · salts · running checksum; 24 bytes, then the page
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from resurgam.errors import IntegrityError

WAL_VERSION = 3007000
WAL_HEADER = 32
FRAME_HEADER = 24
LOCK_BYTE = 0x40000000  # the page that holds this offset is never written (fileformat2.html section 1.4)
_INDEX_BYTES = 136
_WORD = 0xFFFFFFFF
_STEP = 4 << 20  # bytes of WAL verified at a time

Words = npt.NDArray[np.uint32]


class WalIndex(NamedTuple):
    """What ``-shm`` says: ``frames`` committed, of which ``backfilled`` are already in the database file."""

    salts: bytes
    frames: int
    backfilled: int
    checksum: tuple[int, int]


def read_wal_index(descriptor: int) -> WalIndex:
    """The wal-index as it stands; exact while the writers are held. Raises IntegrityError where it is not one."""
    data = os.pread(descriptor, _INDEX_BYTES, 0)
    if len(data) < _INDEX_BYTES or data[:48] != data[48:96] or struct.unpack_from("=I", data)[0] != WAL_VERSION:
        raise IntegrityError(
            "The wal-index (-shm) beside the database is not of a kind this release knows.",
            untouched="The source was let go unchanged.",
            next_step="Checkpoint the database (`PRAGMA wal_checkpoint(TRUNCATE)`) and capture again.",
        )
    frames, first, second = (struct.unpack_from("=I", data, at)[0] for at in (16, 24, 28))
    return WalIndex(data[32:40], frames, struct.unpack_from("=I", data, 96)[0], (first, second))


def read_progress(descriptor: int) -> tuple[bytes, int]:
    """(salts, frames backfilled) now, with writers at work: both are single stores, and salts change at a restart only."""
    return os.pread(descriptor, 8, 32), struct.unpack("=I", os.pread(descriptor, 4, 96))[0]


class Overlay(NamedTuple):
    """The newest committed frame of each page: sorted page numbers, and where each page's bytes begin in the WAL."""

    pages: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]

    def between(self, first: int, last: int) -> list[tuple[int, int]]:
        """(page, offset) for pages ``first`` to ``last``, both included."""
        if not len(self.pages):
            return []
        low, high = np.searchsorted(self.pages, (first, last + 1))
        return list(zip(self.pages[low:high].tolist(), self.offsets[low:high].tolist(), strict=True))


NOTHING = Overlay(np.empty(0, np.int64), np.empty(0, np.int64))


def read_overlay(descriptor: int, index: WalIndex, page_size: int) -> Overlay:
    """Read the committed frames, proving each by its salts and checksum. Raises IntegrityError where one does not hold."""
    magic, version, size, _, salts, *_ = struct.unpack(">4I8s2I", _pread(descriptor, WAL_HEADER, 0))
    if magic not in {0x377F0682, 0x377F0683} or version != WAL_VERSION or size != page_size or salts != index.salts:
        raise _bad_wal("Its header does not belong to this database")
    order = ">u4" if magic & 1 else "<u4"
    frame_size = FRAME_HEADER + page_size
    per_step = max(1, _STEP // frame_size)
    weights = _weights((8 + page_size) // 8)
    sums = _wal_header_sums(descriptor, order)
    pages = np.empty(index.frames, np.int64)
    for start in range(0, index.frames, per_step):
        count = min(per_step, index.frames - start)
        data = _pread(descriptor, count * frame_size, WAL_HEADER + start * frame_size)
        frames = np.frombuffer(data, np.uint8).reshape(count, frame_size)
        heads = frames[:, :FRAME_HEADER].copy().view(">u4").astype(np.uint32)
        _prove(frames, heads, order, weights, sums, index, start)
        sums = heads[-1, 4:6]
        pages[start : start + count] = heads[:, 0]
    if (int(sums[0]), int(sums[1])) != index.checksum:
        raise _bad_wal("Its last frame is not the one that the wal-index names")
    newest, back = np.unique(pages[::-1], return_index=True)
    return Overlay(newest, WAL_HEADER + (index.frames - 1 - back) * frame_size + FRAME_HEADER)


def _prove(
    frames: npt.NDArray[np.uint8],
    heads: Words,
    order: str,
    weights: Words,
    before: Words,
    index: WalIndex,
    start: int,
) -> None:
    """Each frame's running checksum must follow from the one before it; ``before`` is the one before the first."""
    if not (heads[:, 2:4] == np.frombuffer(index.salts, ">u4")).all():
        raise _bad_wal("A frame belongs to an older generation")
    words = np.concatenate([frames[:, :8], frames[:, FRAME_HEADER:]], axis=1).view(order).astype(np.uint32, copy=False)
    chain = np.concatenate([before.reshape(1, 2), heads[:-1, 4:6]])
    right = (_sums(words, chain, weights) == heads[:, 4:6]).all(axis=1)
    if not right.all():
        raise _bad_wal(f"Frame {start + int(np.argmin(right)) + 1} does not match its checksum")


def _wal_header_sums(descriptor: int, order: str) -> Words:
    """The header's own checksum, proven; the first frame's goes on from it."""
    data = np.frombuffer(_pread(descriptor, WAL_HEADER, 0), np.uint8)
    words = data[:24].view(order).astype(np.uint32).reshape(1, 6)
    stated = data[24:].view(">u4").astype(np.uint32)
    if not (_sums(words, np.zeros((1, 2), np.uint32), _weights(3))[0] == stated).all():
        raise _bad_wal("Its header does not match its checksum")
    return stated


def _sums(words: Words, before: Words, weights: Words) -> Words:
    """The running checksum after each row of ``words``, had it been ``before`` ahead of that row.

    The algorithm (fileformat2.html section 4.2) is, modulo 2^32 and for each pair x, y: ``s1 += x + s2; s2 += y + s1``. That
    is linear, so a whole row is one weighted sum plus the state before it times the weight of its distance.
    """
    result = np.empty_like(before)
    for half in (0, 1):
        result[:, half] = (words * weights[half, 2:]).sum(axis=1, dtype=np.uint32)
        result[:, half] += before[:, 0] * weights[half, 0] + before[:, 1] * weights[half, 1]
    return result


def _weights(pairs: int) -> Words:
    """For s1 and s2: the weights of s1 and s2 before the row, then of each word in a row of ``pairs`` pairs.

    One pair takes the state (s1, s2) to (s1 + s2 + x, s1 + 2 s2 + x + y); these are that matrix's powers.
    """
    first, second = (1, 0), (0, 1)  # how s1 and s2 at the row's end depend on (s1, s2) here
    words: list[tuple[int, int]] = []  # from the row's last word to its first
    for _ in range(pairs):
        (a, b), (c, d) = first, second
        words += [(b, d), ((a + b) & _WORD, (c + d) & _WORD)]  # y enters s2 alone; x enters s1 and, through it, s2
        first = (a + b) & _WORD, (a + 2 * b) & _WORD
        second = (c + d) & _WORD, (c + 2 * d) & _WORD
    result = np.empty((2, 2 + 2 * pairs), np.uint32)
    result[0, :2], result[1, :2] = first, second
    result[:, 2:] = np.array(words[::-1], np.uint32).T
    return result


def _pread(descriptor: int, size: int, offset: int) -> bytes:
    data = os.pread(descriptor, size, offset)
    if len(data) < size:
        raise _bad_wal("It is shorter than the wal-index says")
    return data


def _bad_wal(why: str) -> IntegrityError:
    return IntegrityError(
        f"The write-ahead log (-wal) cannot be trusted. {why}.",
        untouched="The source was let go unchanged.",
        next_step="Run `PRAGMA integrity_check` on the database, checkpoint it, and capture again.",
    )


class Image:
    """A Source: the database file with the WAL's frames laid over it. Threads may read at once.

    ``held`` is asked after the last read whether the pin really held; ``wal`` is None where the file alone is the image.
    """

    def __init__(
        self, descriptor: int, size: int, page_size: int, wal: tuple[int, WalIndex] | None, held: Callable[[], bool]
    ) -> None:
        self.size = size
        self.page_size = page_size
        self._descriptor = descriptor
        self._wal = wal
        self._held = held
        self._overlay: Overlay | None = None if wal else NOTHING
        self._lock = threading.Lock()

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill ``buffer`` from ``offset``. Raises IntegrityError where a page is in neither file."""
        view = buffer[: max(0, min(len(buffer), self.size - offset))]
        if not view:
            return 0
        overlay = self._overlay_now()
        done = 0
        while done < len(view):
            step = os.preadv(self._descriptor, [view[done:]], offset + done)
            if not step:
                break
            done += step
        first, last = offset // self.page_size + 1, (offset + len(view) - 1) // self.page_size + 1
        patches = overlay.between(first, last)
        if done < len(view):
            self._require_pages((offset + done) // self.page_size + 1, last, overlay)
            view[done:] = bytes(len(view) - done)
        for page, at in patches:
            self._lay_over(view, offset, page, at)
        return len(view)

    def settled(self) -> bool:
        """Whether the snapshot was still pinned after the last read. Raises IntegrityError where it was not."""
        if not self._held():
            raise IntegrityError(
                "The pinned state of the database was lost while it was read.",
                untouched="The source is unharmed; what was read of it is not used.",
                next_step="Capture again, in a process of its own: other code that opens and closes the file drops its locks.",
            )
        return True

    def close(self) -> None:
        """Nothing to do: the pin owns the descriptors."""

    def forget(self) -> None:
        """The pin is gone: later reads fail instead of reading whatever has taken the descriptors' numbers."""
        self._descriptor = -1
        self._wal = None

    def _overlay_now(self) -> Overlay:
        """The overlay, read on first use: after the thaw, so that no writer waits for it."""
        with self._lock:
            if self._overlay is None:
                assert self._wal is not None, "read after release"
                self._overlay = read_overlay(*self._wal, self.page_size)
            return self._overlay

    def _require_pages(self, first: int, last: int, overlay: Overlay) -> None:
        """Pages beyond the end of the file must come from the WAL, but for the one that is never written."""
        lock_page = LOCK_BYTE // self.page_size + 1
        missing = last - first + 1 - len(overlay.between(first, last)) - (first <= lock_page <= last)
        if missing > 0:
            raise IntegrityError(
                f"The database file ends {missing} pages too early.",
                untouched="Nothing was changed.",
                next_step="Restore it from an earlier point, or save what is left with `sqlite3 FILE .recover`.",
            )

    def _lay_over(self, view: memoryview, offset: int, page: int, at: int) -> None:
        """Write the part of ``page`` (its bytes begin at ``at`` in the WAL) that falls into ``view``."""
        assert self._wal is not None, "read after release"
        start = (page - 1) * self.page_size - offset
        skip = max(0, -start)
        target = view[start + skip : start + self.page_size]
        if os.preadv(self._wal[0], [target], at + skip) != len(target):
            raise _bad_wal("It became shorter while it was read")
