"""Append-only folders: what a local vault has in place of object lock, where the file system and its administrator give it.

On ext4, XFS, Btrfs and others an administrator (CAP_LINUX_IMMUTABLE) can mark

    each folder *append-only*    names can be added; none can be removed, renamed or replaced
    each object *immutable*      its bytes, its mode and its name stay as they are

and then nobody else can take that away, whoever owns the files. Captures go on: an object is built in ``tmp/``, which stays
unmarked, and then gets a name. New objects and folders have no mark until the next run, so it belongs on a timer. A prune is
refused loudly until an administrator has lifted the marks.

**What it is not.** No time ends it, and no vendor vouches for it: whoever becomes root, or has the disk, lifts it.

An object with a second name is left alone, and told: a mark would bind a file of somebody else's.
Facts: ioctl_iflags(2), chattr(1); the numbers are those of linux/fs.h on 64-bit machines.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from typing import NamedTuple

from resurgam.errors import Denied, NotFound, ResurgamError, Unreachable
from resurgam.stores.local import TEMPORARY

_GET, _SET = 0x80086601, 0x40086602  # FS_IOC_GETFLAGS, FS_IOC_SETFLAGS
_IMMUTABLE, _APPEND = 0x10, 0x20  # FS_IMMUTABLE_FL, FS_APPEND_FL
_UNKNOWN = {errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Marks(NamedTuple):
    """What is in a folder: how many objects and folders are ``marked``, the names of those that are ``bare``, and of what is
    ``strange`` and left alone."""

    marked: int
    bare: tuple[str, ...]
    strange: tuple[str, ...]


def marks(path: str) -> Marks:
    """How the vault in the folder ``path`` is marked. Raises NotFound, Denied, also where the file system knows no such marks."""
    marked, bare, strange = 0, [], []
    for name, descriptor, wanted in _entries(path):
        if not wanted:
            strange.append(name)
        elif _flags(descriptor, path) & wanted:
            marked += 1
        else:
            bare.append(name)
    return Marks(marked, tuple(bare), tuple(strange))


def mark(path: str) -> int:
    """Mark all that is not; returns how much that was. Raises Denied where this user may not. Given again it goes on."""
    done = 0
    for _, descriptor, wanted in _entries(path):
        flags = _flags(descriptor, path)
        if wanted and not flags & wanted:
            _set_flags(descriptor, flags | wanted, path)
            done += 1
    return done


def lift(path: str) -> int:
    """Take all marks away; returns how many there were. Raises Denied where this user may not."""
    done = 0
    for _, descriptor, _ in _entries(path):
        flags = _flags(descriptor, path)
        if flags & (_IMMUTABLE | _APPEND):
            _set_flags(descriptor, flags & ~(_IMMUTABLE | _APPEND), path)
            done += 1
    return done


def _entries(path: str) -> Iterator[tuple[str, int, int]]:
    """Each folder and file of the vault but what is in ``tmp/``: its name in it, a descriptor that is good until the next, and the
    mark that it is to have; 0 for what is no object's own file."""
    try:
        root = os.open(path, _READ | os.O_DIRECTORY)
    except OSError as error:
        raise _error(error, path) from error
    try:
        for folder, folders, files, here in os.fwalk(".", dir_fd=root, follow_symlinks=False):
            below = os.path.normpath(folder)
            if below == ".":
                folders[:] = [name for name in folders if name != TEMPORARY]
            folders.sort()
            yield below, here, _APPEND
            for name in sorted(files):
                yield from _file(os.path.normpath(os.path.join(below, name)), name, here, path)
    finally:
        os.close(root)


def _file(shown: str, name: str, folder: int, path: str) -> Iterator[tuple[str, int, int]]:
    try:
        descriptor = os.open(name, _READ, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            return
        if error.errno == errno.ENOENT:  # a prune took it
            return
        raise _error(error, path) from error
    try:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            yield shown, descriptor, _IMMUTABLE if status.st_nlink == 1 else 0
    finally:
        os.close(descriptor)


def _flags(descriptor: int, path: str) -> int:
    try:
        (flags,) = struct.unpack("l", fcntl.ioctl(descriptor, _GET, b"\0" * struct.calcsize("l")))
    except OSError as error:
        raise _error(error, path) from error
    return int(flags)


def _set_flags(descriptor: int, flags: int, path: str) -> None:
    try:
        fcntl.ioctl(descriptor, _SET, struct.pack("l", flags))
    except OSError as error:
        raise _error(error, path) from error


def _error(error: OSError, path: str) -> ResurgamError:
    message = f"The marks of {path} cannot be seen or changed: {error.strerror}."
    done = "What was marked before stays so."
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFound(message, untouched=done, next_step="Name the folder of a vault.")
    if error.errno in _UNKNOWN:
        return Denied(
            f"The file system of {path} knows no append-only folders.",
            untouched=done,
            next_step="Put the vault on ext4, XFS or Btrfs, or into a bucket with object lock.",
        )
    if error.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
        step = "Run it as root on the machine that has the disk: only who may set these marks may lift them."
        return Denied(message, untouched=done, next_step=step)
    return Unreachable(message, untouched=done, next_step="Check that the disk is there and well, then run again.")
