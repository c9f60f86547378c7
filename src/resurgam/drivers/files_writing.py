"""From items to a folder or a file, built beside its place and put there by one rename (P5).

Items may come from anybody who could write to a vault, so nothing in them is trusted: a path is made only inside a folder that
this very write has made, comes once, and in ascending order, as ``read`` gave it. So no path leads out through ``..``, through a
link written before, or over something already written. A link's own target is content and is written as it is.

Contents are not synced file by file. One ``syncfs`` before the rename makes all of it durable, and a sync of the parent the
rename; where the system has no ``syncfs``, ``sync`` does the same for every file system.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterable
from typing import Literal, NoReturn, Self

import msgspec
from blake3 import blake3

from resurgam.drivers.base import Blob, Item, write_fully
from resurgam.drivers.files_listing import ROOT, failed, scan, shown
from resurgam.errors import IntegrityError, TargetRefused

_PARTIAL = re.compile(rb"\.partial-[0-9a-f]{16}")
_AT_ONCE = 256 << 10  # bytes up to which a file is read whole: looking for a faster way would cost more than it gains
_HOLE = bytes(64 << 10)  # runs of zeros of this size, aligned, become holes
_UNTOUCHED = "Nothing stands at the target; what was begun beside it was removed."
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an item of this driver carries besides its bytes. Names are short since there are many of them.

    ``m`` permission bits, ``t`` mtime in ns, ``o`` owner and group where not 0, ``y`` kind (f file, d folder, l symbolic link,
    h another name of the file ``to``), ``to`` where a link leads, ``x`` extended attributes, ``s`` a sparse file.
    """

    m: int
    t: int
    y: Literal["f", "d", "l", "h"] = "f"
    o: tuple[int, int] = (0, 0)
    to: bytes = b""
    x: tuple[tuple[bytes, bytes], ...] = ()
    s: bool = False


Seen = tuple[
    int, int, int, int, int
]  # device, inode, size, mtime, ctime: while they are the same, so are a file's bytes


def write(items: Iterable[Item], location: str) -> dict[Seen, bytes]:
    """Build the component at ``location``. Returns BLAKE3 digests of large files that were told on their way (``CopiesItself``).
    Raises TargetRefused, IntegrityError, Denied, StoreFull, and what ``items`` raise."""
    place = os.path.abspath(os.fsencode(location))
    refuse_what_stands(place)
    try:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        partial = place + b".partial-" + secrets.token_hex(8).encode()
        try:
            with _Building(partial) as building:
                for item in items:
                    building.add(item)
                building.finish()
            _become(partial, place)
            return {_seen(place if path == ROOT else place + b"/" + path): told for path, told in building.told.items()}
        except BaseException:
            remove(partial)
            raise
    except OSError as error:
        raise failed(error, error.filename if isinstance(error.filename, bytes) else place, _UNTOUCHED) from error


def refuse_what_stands(place: bytes) -> None:
    """Raises TargetRefused unless nothing, or an empty folder, is at ``place``."""
    try:
        found = os.lstat(place)
        if stat.S_ISDIR(found.st_mode) and not os.listdir(place):
            return
    except FileNotFoundError:
        return
    except OSError as error:
        raise failed(error, place, "Nothing was written.") from error
    raise TargetRefused(
        f"{shown(place)} is there already.",
        untouched="Nothing was written, and what stands there was not touched.",
        next_step="Name a place where nothing is, or an empty folder.",
    )


def erase(location: str) -> None:
    """Remove what stands at ``location``, and what a write that was killed left beside it. Links are not followed."""
    place = os.path.abspath(os.fsencode(location))
    parent, name = os.path.split(place)
    try:
        beside = [
            other for other in os.listdir(parent) if other.startswith(name) and _PARTIAL.fullmatch(other[len(name) :])
        ]
    except FileNotFoundError:
        return
    except OSError as error:
        raise failed(error, parent, "Nothing was removed.") from error
    for path in (place, *(os.path.join(parent, other) for other in beside)):
        remove(path)


def remove(path: bytes) -> None:
    """Remove a file or a tree of any depth; repeatable."""
    try:
        if not os.path.lexists(path):
            return
        if os.path.islink(path) or not os.path.isdir(path):
            os.unlink(path)
            return
        _open_up(path)
        for entry in reversed(list(scan(os.fsdecode(path)))):
            where = path if entry.path == ROOT else path + b"/" + entry.path
            if not entry.is_folder:
                os.unlink(where)
            elif entry.path != ROOT:
                os.rmdir(where)
        os.rmdir(path)
    except OSError as error:
        raise failed(error, path, "Some of it may have been removed.") from error


def _open_up(path: bytes) -> None:
    """Let the owner into every folder below, so that it can be removed. For root nothing is closed."""
    if os.geteuid() == 0:
        return
    folders = [path]
    while folders:
        folder = folders.pop()
        os.chmod(folder, 0o700)
        with os.scandir(folder) as listing:
            folders += [entry.path for entry in listing if entry.is_dir(follow_symlinks=False)]


class _Building:
    """A component while it is being built at ``partial``."""

    def __init__(self, partial: bytes) -> None:
        self._partial = partial
        self._folders: dict[bytes, Meta] = {}
        self._last = b""
        self._single = False
        self._handle = -1  # the open partial: its own mode may forbid to open it in the end
        self.told: dict[bytes, bytes] = {}  # digests by path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle >= 0:
            os.close(self._handle)

    def add(self, item: Item) -> None:
        """Write one item. Raises IntegrityError for what ``read`` cannot have given."""
        if not isinstance(item, Blob):
            refuse(b"", f"an item of a kind that a folder cannot hold ({type(item).__name__})")
        path, meta = item.path, self._meta(item)
        if self._single or path <= self._last:
            refuse(path, "comes twice, out of order, or beside a single file")
        self._last = path
        if self._handle < 0:
            self._begin(path, meta)
        where = self._where(path)
        match meta.y:
            case "d":
                self._add_folder(path, where, meta)
            case "l":
                self._add_link(path, where, meta)
            case "h":
                self._add_name(path, where, meta)
            case _:
                self._add_file(item, where, meta)
        item.source.close()

    def finish(self) -> None:
        """Folders get their modes and times, deepest first; then everything is made durable."""
        if self._handle < 0 or not (self._single or ROOT in self._folders):
            refuse(ROOT, "is missing: the items are not complete")
        for path in sorted(self._folders, reverse=True):
            if path != ROOT:
                _apply(self._partial + b"/" + path, self._folders[path])
        if not self._single:
            _apply(self._partial, self._folders[ROOT])
        _sync_file_system(self._handle)

    def _begin(self, path: bytes, meta: Meta) -> None:
        self._single = path == ROOT and meta.y == "f"
        if self._single:
            self._handle = os.open(self._partial, _CREATE, 0o600)
        else:
            os.mkdir(self._partial, 0o700)
            self._handle = os.open(self._partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _where(self, path: bytes) -> bytes:
        """Where to make ``path``: only directly inside a folder that this write has made."""
        if path == ROOT:
            return self._partial
        parent, _, name = path.rpartition(b"/")
        if (
            name in {b"", b".", b".."}
            or b"\0" in path
            or (parent not in self._folders and b"/" in path)
            or parent == ROOT
        ):
            refuse(path, "does not lie in a folder of this component")
        return self._partial + b"/" + path

    @staticmethod
    def _meta(item: Blob) -> Meta:
        try:
            return msgspec.convert(item.meta, Meta)
        except msgspec.ValidationError as error:
            refuse(item.path, f"has meta that this release does not know ({error})")

    def _add_folder(self, path: bytes, where: bytes, meta: Meta) -> None:
        if path != ROOT:
            os.mkdir(where, 0o700)
        self._folders[path] = meta

    def _add_link(self, path: bytes, where: bytes, meta: Meta) -> None:
        if path == ROOT or not meta.to or b"\0" in meta.to:
            refuse(path, "is a symbolic link that leads nowhere")
        os.symlink(meta.to, where)
        _apply(where, meta)

    def _add_name(self, path: bytes, where: bytes, meta: Meta) -> None:
        """Another name of a file: its first name must be one that this write has made."""
        parent, slash, name = meta.to.rpartition(b"/")
        first = self._partial + b"/" + meta.to
        inside = name not in {b"", b".", b".."} and b"\0" not in meta.to and (not slash or parent in self._folders)
        if path == ROOT or not inside or not _is_file(first):
            refuse(path, "is another name of a file that is not there")
        os.link(first, where, follow_symlinks=False)

    def _add_file(self, item: Blob, where: bytes, meta: Meta) -> None:
        if item.path == ROOT and not self._single:
            refuse(item.path, "is a file, and there are others beside it")
        descriptor = os.dup(self._handle) if self._single else os.open(where, _CREATE, 0o600)
        try:
            if meta.s:
                _copy_with_holes(item, descriptor)
            elif item.size > _AT_ONCE:
                digest = blake3()
                if item.copy_to(descriptor, digest.update):
                    self.told[item.path] = digest.digest()
            elif item.size:
                write_fully(descriptor, memoryview(item.read()), 0)
            if os.fstat(descriptor).st_size != item.size:
                refuse(item.path, f"does not have its {item.size} bytes")
            _apply(descriptor, meta)
        finally:
            os.close(descriptor)


def refuse(path: bytes, why: str) -> NoReturn:
    """Raise IntegrityError about ``path``."""
    raise IntegrityError(
        f"{shown(path) or 'The snapshot'}: {why}.",
        untouched=_UNTOUCHED,
        next_step="Run `resurgam vault check`, and restore from another point.",
    )


def _copy_with_holes(item: Blob, descriptor: int) -> None:
    """Write what is not zero; the rest stays a hole."""
    step = memoryview(bytearray(16 * len(_HOLE)))
    offset = 0
    while offset < item.size and (done := item.source.read_into(offset, step[: item.size - offset])):
        for start in range(0, done, len(_HOLE)):
            piece = step[start : min(start + len(_HOLE), done)]
            if bytes(piece) != _HOLE[: len(piece)]:
                write_fully(descriptor, piece, offset + start)
        offset += done
    os.ftruncate(descriptor, offset)


def _apply(at: int | bytes, meta: Meta) -> None:
    """Owner, mode, attributes and time, in the order in which none undoes another.

    The owner is set where this process may (as root). User attributes come before a mode that may forbid them, ACLs after a
    mode that would change them; attributes of other name spaces are set where the system allows it.
    """
    link = meta.y == "l"
    for name, value in meta.x:
        if name.startswith(b"user."):
            os.setxattr(at, name, value, follow_symlinks=isinstance(at, int))
    if os.geteuid() == 0:
        os.chown(at, *meta.o, follow_symlinks=not link) if isinstance(at, bytes) else os.fchown(at, *meta.o)
    if not link:
        os.chmod(at, stat.S_IMODE(meta.m))
    for name, value in meta.x:
        if not name.startswith(b"user."):
            _set_where_allowed(at, name, value)
    if isinstance(at, int):
        os.utime(at, ns=(meta.t, meta.t))
    else:
        os.utime(at, ns=(meta.t, meta.t), follow_symlinks=False)


def _set_where_allowed(at: int | bytes, name: bytes, value: bytes) -> None:
    try:
        os.setxattr(at, name, value, follow_symlinks=isinstance(at, int))
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EINVAL}:
            raise


def _seen(where: bytes) -> Seen:
    found = os.lstat(where)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _is_file(path: bytes) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _sync_file_system(descriptor: int) -> None:
    """Make everything on the file system of ``descriptor`` durable (Linux: syncfs(2); elsewhere sync(2))."""
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        os.sync()
    elif syncfs(ctypes.c_int(descriptor)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _become(partial: bytes, place: bytes) -> None:
    """P5: one rename, last. A folder takes the place of an empty one by itself; a file needs it gone."""
    if os.path.isdir(place) and not os.path.isdir(partial):
        os.rmdir(place)
    elif os.path.lexists(place):
        refuse_what_stands(place)
    os.rename(partial, place)
    parent = os.open(os.path.dirname(place), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
