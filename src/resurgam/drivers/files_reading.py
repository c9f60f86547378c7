"""From a listing to items. The bytes are read later and by others, so each source watches that they stand still meanwhile.

How a file is known to stand still: its size, mtime and ctime are the same before the first and after the last read, seen on
the open file itself; a file that is renamed over or deleted meanwhile therefore still reads as the one that it was. Clocks
of file systems tick, so two writes within one tick leave the same times: a file written less than TICK before it is opened
gets that long to rest first, and is not called settled where it does not.

Written through a shared memory map, a file may change with no sign in its times until the kernel writes it back; no reader of
files can see that.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import IO

from resurgam.drivers.base import COPY_STEP, Blob, K, read_fully
from resurgam.drivers.files_listing import LSTAT, ROOT, Entry, Listing, Troubles, failed, unpacked
from resurgam.errors import NotFound
from resurgam.model.point import Severity
from resurgam.model.system import Component, Json

TICK = 20_000_000  # ns; kernels stamp files at each timer tick, at most 10 ms apart
WHOLE_SECONDS = 2_000_000_000  # ns; FAT keeps times to 2 s, ext3 and HFS+ to 1 s
SAFE_AGE = 2_000_000_000  # ns; younger than this when listed, a file gets no stamp
_WINDOW = 512  # entries about which the reader is asked at a time

_OPEN = (
    os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
)  # a fifo put in a file's place must not hang the capture
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EINVAL}  # nothing there, or something else by now
_HAS_EXTENDED = hasattr(os, "listxattr")
_NOTHING_KEPT = "Nothing of it was kept."


def blobs(
    listing: Listing, troubles: Troubles, known: Callable[[Sequence[bytes]], Sequence[K | None]]
) -> Iterator[Blob | K]:
    """The listing's entries as items, in its order; see ``SkipsKnown`` for ``known``. What cannot be had any more, or at all,
    goes to ``troubles``."""
    items = _Items(listing, all_read=known is not nothing_known)
    for start in range(0, len(listing), _WINDOW):
        keys = listing.packed[start : start + _WINDOW]
        for key, remembered in zip(keys, known(keys), strict=True):
            if remembered is not None:
                yield remembered
            elif (blob := _blob(items, unpacked(key), listing, troubles)) is not None:
                yield blob


def nothing_known(keys: Sequence[bytes]) -> Sequence[None]:
    """For a reader that remembers nothing."""
    return [None] * len(keys)


def _blob(items: _Items, entry: Entry, listing: Listing, troubles: Troubles) -> Blob | None:
    try:
        blob = items.of(entry)
    except PermissionError:
        troubles.unreadable(entry)
        return None
    except OSError as error:
        if error.errno not in _GONE:
            raise failed(error, listing.where(entry.path), _NOTHING_KEPT) from error
        troubles.add(Severity.WARNING, "left out: vanished between the listing and the reading", entry.path)
        return None
    if blob is None:
        troubles.add(Severity.NOTE, "left out: sockets, pipes and devices hold no state", entry.path)
    return blob


class _Items:
    """Makes items of entries; remembers the first name of each file that has several. ``all_read``: whoever gets one reads it."""

    def __init__(self, listing: Listing, all_read: bool) -> None:
        self._listing, self._all_read = listing, all_read
        self._first_name: dict[tuple[int, int], bytes] = {}
        self._rights = _Rights()

    def of(self, entry: Entry) -> Blob | None:
        """The item of one entry; None for what has no bytes to keep. Raises what the operating system raised."""
        where = self._listing.where(entry.path)
        meta: dict[str, Json] = {"m": stat.S_IMODE(entry.mode), "t": entry.mtime}
        if entry.uid or entry.gid:
            meta["o"] = [entry.uid, entry.gid]
        if entry.is_file:
            return self._file(entry, where, meta)
        if entry.is_folder:
            meta["y"] = "d"
            with suppress(FileNotFoundError):  # it was listed, and what was in it may still come
                add_extended(meta, where)
        elif entry.is_link:
            meta["y"], meta["to"] = "l", os.readlink(where)
        else:
            return None
        return Blob(entry.path, 0, _NOTHING, meta)

    def _file(self, entry: Entry, where: bytes, meta: dict[str, Json]) -> Blob:
        inode = entry.device, entry.inode
        if entry.links > 1 and inode in self._first_name:
            os.lstat(where)
            meta["y"], meta["to"] = "h", self._first_name[inode]
            return Blob(entry.path, 0, _NOTHING, meta)
        if entry.blocks * 512 < entry.size:
            meta["s"] = True
        if not self._rights.to_read(entry, where):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), where)
        source = LiveSource(where, entry, meta)
        stamp = stamp_of(entry, self._listing.began)
        if stamp is None or not entry.size or (self._all_read and entry.links == 1):
            source.open()  # it will be read now in any case, and young files are the ones that vanish
            source.add_extended()
        else:
            add_extended(meta, where)
        if entry.links > 1:
            self._first_name[inode] = entry.path
        return Blob(entry.path, entry.size, source, meta, stamp)


def stamp_of(entry: Entry, began: int) -> bytes | None:
    """All that ``lstat`` says: equal stamps promise equal bytes, and equal attributes too, since the kernel sets ctime for those as
    well. None where the file is so young that its next change might leave no trace.

    One name of several says by which names the others stand, in the listing and not in its ``lstat``: its stamp is never the
    listing's own word for it, so that it is always looked at.
    """
    if max(entry.mtime, entry.ctime) > began - SAFE_AGE:
        return None
    return LSTAT.pack(*entry[1:]) + (b"+" if entry.links > 1 else b"")


def extended(where: bytes | int) -> list[list[bytes]]:
    """Extended attributes (ACLs among them) of a path, or of an open file, as sorted pairs of name and value. Labels of SELinux
    are the host's own affair. Tells by FileNotFoundError that a path is gone."""
    follow = isinstance(where, int)
    if not _HAS_EXTENDED:
        os.stat(where, follow_symlinks=follow)
        return []
    try:
        names = os.listxattr(where, follow_symlinks=follow)
    except OSError as error:
        if error.errno in {errno.ENOTSUP, errno.EPERM}:
            return []
        raise
    if not names:
        return []
    pairs = []
    for name in sorted(names):
        if name != "security.selinux":
            try:
                pairs.append([os.fsencode(name), os.getxattr(where, name, follow_symlinks=follow)])
            except OSError as error:
                if error.errno != errno.ENODATA:  # removed since they were listed
                    raise
    return pairs


def add_extended(meta: dict[str, Json], where: bytes | int) -> None:
    """Add to ``meta`` the extended attributes that ``extended`` finds, where there are any."""
    if pairs := extended(where):
        meta["x"] = pairs


class _Rights:
    """Whether this process may open a file, nearly always from its mode alone."""

    def __init__(self) -> None:
        self._uid, self._groups = os.geteuid(), {os.getegid(), *os.getgroups()}
        self._effective = os.access in os.supports_effective_ids

    def to_read(self, entry: Entry, where: bytes) -> bool:
        """True when the mode says so, else what the kernel says: capabilities and ACLs can still allow it."""
        if entry.uid == self._uid:
            granted = entry.mode & stat.S_IRUSR
        else:
            granted = entry.mode & (stat.S_IRGRP if entry.gid in self._groups else stat.S_IROTH)
        return bool(granted) or os.access(where, os.R_OK, effective_ids=self._effective)


class LiveSource:
    """The bytes of a live file: opened at the first read, watched until ``settled`` is asked."""

    __slots__ = ("_descriptor", "_listed", "_lock", "_meta", "_seen", "_unsure", "_where")

    def __init__(self, where: bytes, listed: Entry, meta: dict[str, Json]) -> None:
        self._where, self._meta = where, meta
        self._listed = (listed.size, listed.mtime, listed.ctime, listed.inode, listed.device)
        self._descriptor, self._seen, self._unsure = -1, self._listed, False
        self._lock = threading.Lock()

    def open(self) -> None:
        """Open the file. Raises OSError where it is gone, closed to us, or no file any more."""
        with self._lock:
            if self._descriptor < 0:
                self._descriptor, found = _open_file(self._where)
                self._rest(found)
                if self._seen != self._listed:  # another file, or the same one changed, since it was listed
                    self._unsure = True

    def add_extended(self) -> None:
        """Of the open file, which the system finds sooner than a path."""
        add_extended(self._meta, self._descriptor)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """See ``drivers.base.Source``. Raises NotFound, Denied, Unreachable."""
        try:
            if self._descriptor < 0:
                self.open()
            return os.preadv(self._descriptor, [buffer], offset)
        except OSError as error:
            raise failed(error, self._where, _NOTHING_KEPT) from error

    def settled(self) -> bool:
        """Whether the file stood still since it was opened; where not, the next read is of the file as it is by then."""
        try:
            if self._descriptor < 0:
                self.open()
            calm = not self._unsure and _state(os.fstat(self._descriptor)) == self._seen
            if not calm:
                self._open_again()
        except OSError as error:
            raise failed(error, self._where, _NOTHING_KEPT) from error
        return calm

    def close(self) -> None:
        """Repeatable."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def _open_again(self) -> None:
        with self._lock:
            try:
                descriptor, found = _open_file(self._where)
            except (
                FileNotFoundError
            ):  # deleted by now: the open file is what there is, and nobody finds it to write to it
                found = os.fstat(self._descriptor)
            else:
                os.close(self._descriptor)
                self._descriptor = descriptor
            self._meta.pop("x", None)
            self.add_extended()
            found = self._rest(found)
            self._meta.update(m=stat.S_IMODE(found.st_mode), t=found.st_mtime_ns)

    def _rest(self, found: os.stat_result) -> os.stat_result:
        """Note the file's state, ``found`` just now, at a moment from which on every write shows in it."""
        self._unsure = False
        if abs(time.time_ns() - found.st_ctime_ns) < TICK:
            time.sleep(TICK / 1e9)
            found = os.fstat(self._descriptor)
            self._unsure = abs(time.time_ns() - found.st_ctime_ns) < TICK
        self._seen = _state(found)
        return found


class OpenFile:
    """A Source over a file that is opened at once. Raises OSError: FileNotFoundError also where something else lies there."""

    def __init__(self, where: bytes) -> None:
        self._descriptor, _ = _open_file(where)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """See ``drivers.base.Source``."""
        return os.preadv(self._descriptor, [buffer], offset)

    def settled(self) -> bool:
        """Nobody asks: who reads so, compares."""
        return True

    def close(self) -> None:
        """Repeatable."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def place_of(component: Component, path: bytes) -> bytes:
    """The absolute path of an entry."""
    root = os.path.realpath(os.fsencode(component.location))
    return root if path == ROOT else root + b"/" + path


def _open_file(where: bytes) -> tuple[int, os.stat_result]:
    try:
        descriptor = os.open(where, _OPEN)
    except OSError as error:
        if error.errno in _GONE:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), where) from error
        raise
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode):
        return descriptor, found
    os.close(descriptor)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), where)


def _state(found: os.stat_result) -> tuple[int, int, int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev


class _Nothing:
    """The bytes of what has none."""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        del offset, buffer
        return 0

    def settled(self) -> bool:
        return True

    def close(self) -> None:
        pass


_NOTHING = _Nothing()


class PrivateCopy:
    """The bytes of a small component, copied in the freeze into a file without a name, which dies with the process."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - open until release
        self._end = 0
        self.blobs: list[Blob] = []

    def add(self, blob: Blob) -> bool:
        """Copy all bytes of ``blob``; False where it does not stand still."""
        start, buffer = self._end, memoryview(bytearray(min(COPY_STEP, blob.size)))
        try:
            while self._end - start < blob.size:
                done = read_fully(blob.source, self._end - start, buffer[: blob.size - (self._end - start)])
                if not done:
                    return False
                self._file.write(buffer[:done])
                self._end += done
            if blob.size and not blob.source.settled():
                return False
        except NotFound:
            return False
        finally:
            blob.source.close()
        source = _Part(self._file, start, blob.size)
        self.blobs.append(Blob(blob.path, blob.size, source, blob.meta, blob.stamp))
        return True

    def close(self) -> None:
        """Let the bytes go."""
        self._file.close()


class _Part:
    """A stretch of the private copy."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file, self._start, self._size = file, start, size

    def read_into(self, offset: int, buffer: memoryview) -> int:
        room = max(0, min(len(buffer), self._size - offset))
        return os.preadv(self._file.fileno(), [buffer[:room]], self._start + offset)

    def settled(self) -> bool:
        return True

    def close(self) -> None:
        pass
