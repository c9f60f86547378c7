"""What a host remembers of a vault's index, so that opening ten million chunks takes a listing and no sorting (P3).

One file per vault, mapped into memory: what nearly all segments say, merged and sorted. Segments are named by their own digest and
never change, so what was once read of one stays true; what may change is asked of the vault at each opening: is the
segment still there, does the role table still believe its signer, are its packs there and long enough? So the file is a
superset, in which rows of packs that do not count have no ``room`` (``vault.index``). It serves readers and writers: a writer
gives room only to packs of its own origin.

    offset  bytes   what
    0       8       ``RSGMINDX``
    8       2       format = 1; then 2 zero bytes
    12      4       number of segments s
    16      8       number of packs p
    24      8       number of entries n
    32      32      BLAKE3 of the whole file with these 32 bytes zero, keyed from the index secret
    64      64 s    segments: name (16), signer's public key (32), origin's key id (8), u32 packs, u32 entries
    ...     32 p    digests of the packs, segment by segment
    ...     8 n     first eight bytes of each id, as u64; little-endian, as all numbers
    ...     52 n    entries sorted by them (``vault.pack.ENTRY``), ``pack`` counted over all packs

**What a false file could do.** A writer that believes a chunk stored which is not loses data at its next capture. So all bytes
are authenticated when the file is opened, with a key that only holders of the index secret have; a file that is damaged, cut, of
another vault or of a newer form is as good as none. An old file that was put back says less, never something false. Who can
run as this user can do more than any of that. The file tells chunk ids and sizes, as packs tell them to whoever sees the
store; it is readable by its owner only.

**Growing.** Segments since the file was made are read at each opening. When they are many, a new file is written from the old
one and them: runs of sorted entries in a file without a name, merged range by range of ids, in memory that does not grow with
the vault. Who holds the lock publishes its file by one rename; who comes meanwhile works on one of its own without a name.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import BinaryIO, NamedTuple

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from resurgam.vault.index import Entries, Prefixes, Table, in_order
from resurgam.vault.pack import ENTRY, ID

FORMAT = 1
_MAGIC = b"RSGMINDX"
_HEAD = struct.Struct("<8sH2xIQQ32s")
_SEGMENT = struct.Struct("<16s32s8sII")
assert (_HEAD.size, _SEGMENT.size) == (64, 64)
_RUN = 1 << 19  # entries sorted at once: 27 MB, and three times that while they are
_EDGES = np.arange(256, dtype=np.uint64) << np.uint64(56)  # where ranges of ids begin
_PIECE = 4 << 20


class Source(NamedTuple):
    """A segment that the file covers: its ``name`` (hex), the public key that signed it, the key id (hex) of its origin, and how
    many packs and entries it has."""

    name: str
    signer: bytes
    origin: str
    packs: int
    entries: int


class Addition(NamedTuple):
    """A segment to be covered from now on; ``packs`` are digests, joined."""

    source: Source
    packs: bytes
    entries: Entries


class Base:
    """An opened file."""

    def __init__(self, sources: Sequence[Source], packs: bytes, prefixes: Prefixes, entries: Entries) -> None:
        self.sources = sources
        self.packs = packs
        self._prefixes, self._entries = prefixes, entries

    def __len__(self) -> int:
        return len(self._entries)

    def names(self) -> list[str]:
        """The packs in hex."""
        joined = self.packs.hex()
        return [joined[at : at + 2 * ID] for at in range(0, len(joined), 2 * ID)]

    def table(self, room: NDArray[np.uint64]) -> Table:
        """Its entries where they fit into the ``room`` that each pack has."""
        return Table(self.packs, self._prefixes, self._entries, room)

    def of_packs(self, flags: Sequence[bool]) -> NDArray[np.bool_]:
        """What holds of each source, for each of its packs."""
        return np.repeat(np.array(flags, np.bool_), np.array([source.packs for source in self.sources], np.int64))

    def runs(self, kept: Sequence[bool]) -> Iterator[Entries]:
        """The entries of the sources that are kept, range by range, with their packs counted over those alone."""
        of_packs = self.of_packs(kept)
        moved = np.cumsum(of_packs) - 1
        for start, end in _ranges(self._prefixes):
            entries = self._entries[start:end]
            part = entries[of_packs[entries["pack"]]]
            part["pack"] = moved[part["pack"]]
            yield part


class IndexCache:
    """The file of one vault in ``folder``; ``key`` authenticates it. Not thread-safe."""

    def __init__(self, folder: str, vault: bytes, key: bytes) -> None:
        self._path = os.path.join(folder, "chunks")
        self._key = blake3(vault, key=key).digest()

    def open(self) -> Base | None:
        """What is remembered; None where there is nothing that can be believed."""
        with suppress(OSError), open(self._path, "rb", opener=_no_link) as file:
            return self._loaded(file)
        return None

    def rebuilt(self, base: Base | None, kept: Sequence[bool], added: Iterable[Addition]) -> Base:
        """A file that covers the ``kept`` ones of ``base`` and what is ``added``, in place of the one before. Raises OSError."""
        with self._new_file() as (file, publish):
            sources = [source for source, stays in zip(base.sources if base else (), kept, strict=True) if stays]
            packs = bytearray()
            if base is not None:
                flags = base.of_packs(kept)
                packs += np.frombuffer(base.packs, np.uint8).reshape(-1, ID)[flags].tobytes()
            with tempfile.TemporaryFile(dir=os.path.dirname(self._path)) as spill:
                runs = _Runs(spill)
                for source, names, entries in added:
                    runs.add(entries, len(packs) // ID)
                    packs += names
                    sources.append(source)
                ranges = _merged([*([base.runs(kept)] if base else []), *runs.all()])
                self._write(file, sources, bytes(packs), ranges)
            made = _mapped(file)
            publish()
        return made

    def _write(self, file: BinaryIO, sources: list[Source], packs: bytes, ranges: Iterator[Entries]) -> None:
        count = sum(source.entries for source in sources)
        file.write(bytes(_HEAD.size))
        file.writelines(map(_packed, sources))
        file.write(packs)
        file.flush()
        prefixes_at = _HEAD.size + len(sources) * _SEGMENT.size + len(packs)
        entries_at = prefixes_at + 8 * count
        done = 0
        for part in ranges:
            prefixes, ordered = in_order(part)
            _write_at(file, prefixes, prefixes_at + 8 * done)
            _write_at(file, ordered, entries_at + ENTRY.itemsize * done)
            done += len(part)
        assert done == count, "a segment has the entries that it was said to have"
        head = (_MAGIC, FORMAT, len(sources), len(packs) // ID, count)
        os.pwrite(file.fileno(), _HEAD.pack(*head, bytes(32)), 0)
        os.pwrite(file.fileno(), _HEAD.pack(*head, self._check(file)), 0)

    def _loaded(self, file: BinaryIO) -> Base | None:
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size or head[:8] != _MAGIC or self._check(file) != head[-32:]:
            return None
        return _mapped(file) if _HEAD.unpack(head)[1] == FORMAT else None

    def _check(self, file: BinaryIO) -> bytes:
        """The digest of the file, read past the mapping so that it takes no memory."""
        digest, buffer = blake3(key=self._key, max_threads=blake3.AUTO), bytearray(_PIECE)
        file.seek(0)
        digest.update(file.read(_HEAD.size - 32) + bytes(32))
        file.seek(_HEAD.size)
        while got := file.readinto(buffer):  # type: ignore[attr-defined]
            digest.update(memoryview(buffer)[:got])
        return digest.digest()

    @contextmanager
    def _new_file(self) -> Iterator[tuple[BinaryIO, Callable[[], None]]]:
        """A file to write, and what makes it the file; which does nothing where another process is at that now."""
        folder = os.path.dirname(self._path)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with open(f"{self._path}.lock", "ab", opener=_no_link) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with tempfile.TemporaryFile(dir=folder) as file:
                    yield file, lambda: None
                return
            new = f"{self._path}.new"
            with suppress(FileNotFoundError):
                os.unlink(new)  # of a process that was killed
            try:
                with open(new, "x+b", opener=_no_link) as file:
                    yield file, lambda: os.replace(new, self._path)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(new)


class _Runs:
    """Sorted runs of what is added, in the file ``spill``."""

    def __init__(self, spill: BinaryIO) -> None:
        self._spill = spill
        self._open: list[Entries] = []
        self._count = 0
        self._done: list[tuple[int, list[tuple[int, int]]]] = []  # where each run lies, and its ranges

    def add(self, entries: Entries, first: int) -> None:
        """The entries of a segment, whose packs are counted from ``first``."""
        part = entries.copy()
        part["pack"] += first
        self._open.append(part)
        self._count += len(part)
        if self._count >= _RUN:
            self._close()

    def all(self) -> list[Iterator[Entries]]:
        """The runs, each range by range."""
        if self._open:
            self._close()
        return [self._read(start, ranges) for start, ranges in self._done]

    def _close(self) -> None:
        prefixes, entries = in_order(np.concatenate(self._open))
        self._done.append((self._spill.tell(), list(_ranges(prefixes))))
        self._spill.write(entries.data.cast("B"))
        self._spill.flush()
        self._open, self._count = [], 0

    def _read(self, start: int, ranges: list[tuple[int, int]]) -> Iterator[Entries]:
        for first, end in ranges:
            data = os.pread(self._spill.fileno(), (end - first) * ENTRY.itemsize, start + first * ENTRY.itemsize)
            yield np.frombuffer(data, ENTRY)


def _merged(runs: list[Iterator[Entries]]) -> Iterator[Entries]:
    """All runs, range by range."""
    for parts in zip(*runs, strict=True):
        yield np.concatenate(parts)


def _ranges(prefixes: Prefixes) -> Iterator[tuple[int, int]]:
    """Rows by the first byte of their ids: where each range begins and ends."""
    starts = [*prefixes.searchsorted(_EDGES).tolist(), len(prefixes)]
    return pairwise(starts)


def _mapped(file: BinaryIO) -> Base:
    """The file, which was checked or has just been written."""
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _, _, segments, packs, count, _ = _HEAD.unpack_from(data)
    at = _HEAD.size + segments * _SEGMENT.size
    sources = [
        Source(name.hex(), signer, origin.hex(), numbers, entries)
        for name, signer, origin, numbers, entries in _SEGMENT.iter_unpack(data[_HEAD.size : at])
    ]
    names, at = data[at : at + packs * ID], at + packs * ID
    prefixes = np.frombuffer(data, "<u8", count, at)
    return Base(sources, names, prefixes, np.frombuffer(data, ENTRY, count, at + prefixes.nbytes))


def _packed(source: Source) -> bytes:
    name, signer, origin, packs, entries = source
    return _SEGMENT.pack(bytes.fromhex(name), signer, bytes.fromhex(origin), packs, entries)


def _write_at(file: BinaryIO, array: NDArray[np.void] | Prefixes, offset: int) -> None:
    data = array.view(np.uint8).data
    while data:
        done = os.pwrite(file.fileno(), data, offset)
        data, offset = data[done:], offset + done


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
