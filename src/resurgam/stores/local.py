"""A folder as a store: every object is one read-only file, named as it is, that appears whole or not at all.

    <root>/tmp/<pid>-<random>      an object while it is being written; never read, never listed
    <root>/<part>/<part>/...       the objects

The life of a ``put``::

    temporary file -> all bytes -> fsync            nothing but garbage can be left until here
                   -> link to the final name        create-only: it fails where the name exists (P2)
                   -> fsync of the folder           the name is durable too: only now does ``put`` return (P1)
                   -> unlink the temporary name

A folder met for the first time is made durable the same way, up to the root. ``put`` also syncs the folder before it says
AlreadyThere: who relies on another writer's object relies on a name that has survived a power cut, not only on one that
he saw. Most libraries leave both syncs out, and then a sealed point can name objects that a power cut has taken away.

Where the file system has no hard links, ``renameat2(RENAME_NOREPLACE)`` takes the place of link and unlink; where it has
neither, ``put`` is refused, for nothing else is both create-only and whole.

Big buffers go past the page cache (``O_DIRECT``), which on bulk data is twice as fast as writing and then flushing; what
the kernel will not take that way goes through the cache. Reading opens the file each time: walking there costs 6 µs
beside 40 µs for decoding the smallest chunk, and no descriptor outlives what it shows.

A pack that would leave too little room is refused before a byte of it is written. Packs are what fills a disk; records, plans
and segments are what a prune writes before it can give room back, so these may use what packs have to leave.

No path is ever resolved as a whole: each part is opened below the one before and symbolic links are refused, so neither a
name nor a planted link leads out of the root.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import os
import re
import secrets
import stat
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from resurgam.clock import Clock, SystemClock
from resurgam.errors import Denied, IntegrityError, NotFound, ResurgamError, StoreFull, TargetRefused, Unreachable
from resurgam.stores import disk
from resurgam.stores.base import AlreadyThere, Buffer, Entry, checked_name

TEMPORARY = "tmp"  # the one folder that holds no objects
ABANDONED = 3600.0  # seconds after its last write when a temporary file counts as left behind by a writer that died
DIRECT_FROM = 1 << 20  # bytes of one buffer from which writing past the page cache pays
RESERVE = 16 << 20  # bytes that packs leave free, at most a tenth of the file system, so that a prune can be written
PACKS = "packs"
ALIGN = 4096  # what direct writes must be a multiple of, on every common block size

_OBJECT_MODE = 0o440  # nobody writes an object again (P2)
_TEMPORARY_NAME = re.compile(r"[0-9]+-[0-9a-f]{16}")

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP}
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}


class LocalStore:
    """See the module's docstring; the contract is that of ``stores.base``. Safe from several threads and processes.

    ``direct=False`` writes everything through the page cache.
    """

    def __init__(self, path: str, *, direct: bool = True, clock: Clock | None = None) -> None:
        """Open the folder ``path``. Raises NotFound, Denied, Unreachable."""
        self._path = os.path.abspath(path)
        self._direct = direct and bool(disk.O_DIRECT)
        self._clock = clock or SystemClock()
        with self._told("opened", "the vault's folder"):
            self._root = os.open(self._path, disk.OPEN_FOLDER)
        self._closer = weakref.finalize(self, os.close, self._root)
        self._durable: set[str] = set()  # folders whose own names this process knows to be on disk
        self._swept = False

    @classmethod
    def create(
        cls, path: str, *, not_empty: bool = False, direct: bool = True, clock: Clock | None = None
    ) -> LocalStore:
        """Make the folder ``path`` and open it. Raises TargetRefused where it holds something, unless ``not_empty``."""
        path = os.path.abspath(path)
        try:
            disk.make_folders(path)
            occupied = bool(os.listdir(path))
        except OSError as error:
            raise _error(error, "made", "the vault's folder", path, reading=False) from error
        if occupied and not not_empty:
            raise TargetRefused(
                f"{path} is not empty.",
                untouched="Nothing was changed in it.",
                next_step="Name a new or an empty folder for the vault.",
            )
        return cls(path, direct=direct, clock=clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder; repeatable."""
        self._closer()

    def describe(self) -> str:
        """The folder's path."""
        return f"the folder {self._path}"

    # --- writing ------------------------------------------------------------------------------------------------------

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """Create ``name`` durably. Raises AlreadyThere, StoreFull, Denied, Unreachable."""
        *folders, last = _parts(name)
        with self._folder(folders, name, make=True) as folder:
            with self._told("written", name, reading=False):
                self._refuse_existing(folder, last, name)
            with self._temporary(name) as (waiting, temporary, descriptor):
                for piece in _pieces(data):  # an error of the source's own passes through as it is
                    with self._told("written", name, reading=False):
                        buffer = memoryview(piece).cast("B")
                        if folders[:1] == [PACKS]:
                            self._leave_reserve(name, len(buffer))
                        self._append(descriptor, buffer)
                with self._told("written", name, reading=False):
                    os.fsync(descriptor)  # P1: bytes are durable before any name shows them
                self._publish(waiting, temporary, folder, last, name)

    def delete(self, name: str) -> None:
        """Remove ``name`` durably; no error where it is gone already. Raises Denied, Unreachable."""
        *folders, last = _parts(name)
        with contextlib.suppress(NotFound), self._folder(folders, name) as folder, self._told("deleted", name):
            os.unlink(last, dir_fd=folder)
            os.fsync(folder)

    def _leave_reserve(self, name: str, size: int) -> None:
        """Raise StoreFull where ``size`` bytes more would leave less free than a prune may need (P12)."""
        there = os.statvfs(self._root)
        free, reserve = there.f_bavail * there.f_frsize, min(RESERVE, there.f_blocks * there.f_frsize // 10)
        if reserve and free - size < reserve:  # a file system that tells no size keeps no reserve
            raise StoreFull(
                f"{name} was not written to the folder {self._path}: it has {size:,} bytes, {free:,} are free, and {reserve:,} "
                "of these are kept so that a prune can still be written.",
                untouched="No other object was touched.",
                next_step="Give room back with `resurgam vault prune`, or free some on the file system; then run it again.",
            )

    def _append(self, descriptor: int, data: memoryview) -> None:
        """Write ``data`` at the end: the aligned part of a big buffer past the page cache, the rest through it."""
        done = 0
        if self._direct and len(data) >= DIRECT_FROM:
            done = disk.write_direct(descriptor, data[: len(data) - len(data) % ALIGN])
        disk.write(descriptor, data[done:])

    def _refuse_existing(self, folder: int, last: str, name: str) -> None:
        """Raise FileExistsError (AlreadyThere to the caller) where an object of that name stands, Denied where a folder
        does."""
        try:
            there = os.stat(last, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(there.st_mode):
            raise Denied(
                f"{name} is a folder in {self.describe()}, so it cannot be an object there.",
                untouched="Nothing was written.",
                next_step="Choose a name under which no other object stands.",
            )
        os.fsync(folder)  # P1: who hears AlreadyThere may rely on the name
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def _publish(self, waiting: int, temporary: str, folder: int, last: str, name: str) -> None:
        """Give the finished temporary file its final name, if that is free, and make the name durable."""
        with self._told("written", name, reading=False):
            try:
                disk.name_once(waiting, temporary, folder, last)  # P2: never over an existing object
            except FileExistsError:
                # One and the same file is our own link, whose answer was lost (NFS); another's bytes are never a success.
                if not disk.same_file(waiting, temporary, folder, last):
                    self._refuse_existing(folder, last, name)
                    raise
            os.fsync(folder)  # P1: the name is durable before anybody is told

    @contextmanager
    def _temporary(self, name: str) -> Iterator[tuple[int, str, int]]:
        """An empty file in ``tmp/``: (descriptor of that folder, its name there, descriptor). Its name is gone afterwards."""
        temporary = f"{os.getpid()}-{secrets.token_hex(8)}"
        with self._folder([TEMPORARY], name, make=True) as waiting:
            self._sweep(waiting)
            with self._told("written", name, reading=False):
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                descriptor = os.open(temporary, flags, _OBJECT_MODE, dir_fd=waiting)
            try:
                yield waiting, temporary, descriptor
            finally:
                with contextlib.suppress(OSError):  # its bytes are synced by now, or not wanted
                    os.close(descriptor)
                with contextlib.suppress(OSError):  # what stays is garbage: `strays` shows it, a later writer sweeps it
                    os.unlink(temporary, dir_fd=waiting)

    def _sweep(self, waiting: int) -> None:
        """Once per store: remove what killed writers left in ``tmp/``, or kills would fill the disk."""
        if self._swept:
            return
        self._swept = True
        with contextlib.suppress(OSError):  # no reason to refuse a backup: `strays` shows what is left
            for name in filter(_TEMPORARY_NAME.fullmatch, self._abandoned(waiting)):
                os.unlink(name, dir_fd=waiting)

    # --- reading ------------------------------------------------------------------------------------------------------

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of ``name`` from ``offset``; fewer than ``length`` only at its end. Raises NotFound."""
        assert min(offset, length or 0) >= 0
        descriptor, size = self._open(name)
        try:
            rest = max(size - offset, 0)
            buffer = memoryview(bytearray(rest if length is None else min(rest, length)))
            with self._told("read", name):
                return bytes(buffer[: disk.read(descriptor, buffer, offset)])
        finally:
            os.close(descriptor)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """As ``get``, into ``buffer``; returns the number of bytes read. Safe from several threads. Raises NotFound."""
        assert offset >= 0
        descriptor, _ = self._open(name)
        try:
            with self._told("read", name):
                return disk.read(descriptor, buffer.cast("B"), offset)
        finally:
            os.close(descriptor)

    def _open(self, name: str) -> tuple[int, int]:
        """A descriptor of the object and its size."""
        parts = _parts(name)
        assert self._closer.alive, "the store is closed"
        with self._told("read", name):
            return disk.open_file(self._root, parts)

    def entry(self, name: str) -> Entry:
        """What a listing would tell of ``name``. Raises NotFound."""
        descriptor, size = self._open(name)
        try:
            return Entry(name, size, os.fstat(descriptor).st_mtime)
        finally:
            os.close(descriptor)

    def free(self) -> int:
        """Bytes that may still be written on the file system."""
        there = os.statvfs(self._root)
        return there.f_bavail * there.f_frsize

    def list(self, prefix: str = "", after: str = "") -> Iterator[Entry]:
        """All objects whose names begin with ``prefix`` and come after ``after``, sorted by name. Opens only folders that can hold
        such, and asks only for entries that can be such: one point among ten thousand is one."""
        base = prefix[: prefix.rfind("/") + 1]
        if base and not _is_name(base[:-1]):
            return
        for name, status in self._walk(base, prefix[len(base) :], after):
            if status is not None and name > after:
                yield Entry(name, status.st_size, status.st_mtime)

    def strays(self) -> builtins.list[str]:
        """What stands in the folder and is no object: foreign files and folders, links, temporary files left behind."""
        found = [name for name, status in self._walk("") if status is None]
        with (
            contextlib.suppress(NotFound),
            self._folder([TEMPORARY], TEMPORARY) as waiting,
            self._told("listed", TEMPORARY),
        ):
            found += [f"{TEMPORARY}/{entry}" for entry in self._abandoned(waiting)]
        return sorted(os.fsencode(name).decode("utf-8", "backslashreplace") for name in found)

    def _abandoned(self, waiting: int) -> builtins.list[str]:
        """The names in ``tmp/`` that nobody has written to for long."""
        oldest = self._clock.now().timestamp() - ABANDONED
        return [name for name, status in disk.entries(waiting) if status.st_mtime < oldest]

    def _walk(self, base: str, beginning: str = "", after: str = "") -> Iterator[tuple[str, os.stat_result | None]]:
        """Names below the folder ``base`` of which the next part has that ``beginning``, sorted; with their status, or None for a
        stray. Folders of which every name comes before ``after`` are not opened."""
        try:
            with self._folder(base.split("/")[:-1], base) as folder, self._told("listed", base or "the vault's folder"):
                entries = disk.entries(folder, beginning)
        except NotFound:  # removed since its name was read: nothing of it is left to list
            return
        # A folder stands where its objects do: "a-b" < "a.b" < "a/b" < "a0".
        names = {base + entry + "/" * stat.S_ISDIR(status.st_mode): status for entry, status in entries}
        for name, status in sorted(names.items()):
            is_folder = name.endswith("/")
            if name == f"{TEMPORARY}/":
                continue
            if not _is_name(name.removesuffix("/")) or not (is_folder or stat.S_ISREG(status.st_mode)):
                yield name, None
            elif is_folder:
                if name > after or after.startswith(name):
                    yield from self._walk(name, after=after)
            else:
                yield name, status

    # --- folders and errors -------------------------------------------------------------------------------------------

    @contextmanager
    def _folder(self, parts: Sequence[str], name: str, *, make: bool = False) -> Iterator[int]:
        """The folder ``parts`` below the root, opened one by one; ``name`` is for the error. Raises NotFound, or where it
        is to be made StoreFull, Denied, Unreachable."""
        assert self._closer.alive, "the store is closed"
        with contextlib.ExitStack() as opened:
            here = self._root
            for depth, part in enumerate(parts, start=1):
                with self._told("written" if make else "read", name, reading=not make):
                    below = self._make("/".join(parts[:depth]), part, here) if make else disk.open_folder(part, here)
                opened.callback(os.close, below)
                here = below
            yield here

    def _make(self, path: str, part: str, parent: int) -> int:
        """Open the folder ``part`` of ``parent``, made if need be, its name durable in any case."""
        if path not in self._durable:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, disk.FOLDER_MODE, dir_fd=parent)
            os.fsync(parent)  # P1: also where another writer has made it just now
            self._durable.add(path)
        try:
            return disk.open_folder(part, parent)
        except FileNotFoundError:
            self._durable.discard(path)  # somebody has removed it: the next try makes it again
            raise

    @contextmanager
    def _told(self, done: str, name: str, *, reading: bool = True) -> Iterator[None]:
        """Turn what the operating system says into an error of the port."""
        try:
            yield
        except OSError as error:
            raise _error(error, done, name, self._path, reading=reading) from error


def _parts(name: str) -> list[str]:
    """The parts of an object's name. Raises IntegrityError where it is not one."""
    parts = checked_name(name).split("/")
    if parts[0] == TEMPORARY:
        raise IntegrityError(
            f"{name} cannot be an object's name: a local vault keeps {TEMPORARY}/ for itself.",
            untouched="Nothing was read or written under it.",
            next_step="Choose another name.",
        )
    return parts


def _is_name(name: str) -> bool:
    try:
        _parts(name)
    except IntegrityError:
        return False
    return True


def _pieces(data: Buffer | Iterable[Buffer]) -> Iterable[Buffer]:
    return (data,) if isinstance(data, bytes | bytearray | memoryview) else data


def _error(error: OSError, done: str, name: str, path: str, *, reading: bool) -> ResurgamError:
    """The port's word for ``error``: ``name`` in the folder ``path`` could not be ``done``."""
    message = f"{name} could not be {done} in the folder {path}: {error.strerror}."
    untouched = "No other object was touched."
    if error.errno == errno.EEXIST:
        return AlreadyThere(
            message,
            untouched="The object that is there was left as it is.",
            next_step="Read it back to see whether it holds the same bytes.",
        )
    if error.errno in _NO_SPACE:
        next_step = f"Free space (or raise the quota) on the file system of {path} and run the same command again."
        return StoreFull(message, untouched=untouched, next_step=next_step)
    if error.errno in _REFUSED:
        next_step = f"Check who owns {path} and that it is mounted for writing; `ls -ld` and `findmnt -T` on it tell."
        return Denied(message, untouched=untouched, next_step=next_step)
    if reading and error.errno in _ABSENT:
        return NotFound(
            message, untouched=untouched, next_step=f"Check that {path} is the vault that was meant, and mounted."
        )
    if error.errno == errno.ENOTSUP:
        next_step = "Put the vault on a file system such as ext4, XFS, Btrfs or ZFS."
        return Denied(message, untouched=untouched, next_step=next_step)
    if error.errno == errno.ENOTDIR:
        next_step = f"Something that is no folder stands where one should be in {path}: move it away."
        return Denied(message, untouched=untouched, next_step=next_step)
    return Unreachable(
        message, untouched=untouched, next_step=f"Check that the disk of {path} is there and well, then run again."
    )
