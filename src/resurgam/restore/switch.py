"""Putting one path in the place of another, durably, and without a moment in which there is none.

The means is Linux's ``renameat2`` (man 2 renameat2): RENAME_EXCHANGE swaps two names in one step, RENAME_NOREPLACE
renames and never overwrites. Both work within one file system only. After each, the parent folders are fsynced, so
that the order of two switches survives a power cut.

A SQLite database is a *family* of files: beside ``x`` stand ``x-wal``, ``x-shm`` and ``x-journal``. They belong to the
image they were written for and to no other: a database that meets the WAL of another one recovers *that* WAL's pages
into itself. So they travel with their image, always (:func:`siblings`).

Where a file system cannot exchange (:func:`can_exchange`), the caller uses two renames under a journal instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import sys

from resurgam.errors import (
    Busy,
    Denied,
    NotFound,
    ResurgamError,
    StoreFull,
    TargetRefused,
)

SIBLINGS = ("-wal", "-shm", "-journal")

_AT_FDCWD = -100
_NOREPLACE = 1
_EXCHANGE = 2
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def siblings(path: str) -> list[str]:
    """The suffixes of :data:`SIBLINGS` that stand beside ``path`` now (also beside a ``path`` that is lost)."""
    return [suffix for suffix in SIBLINGS if os.path.lexists(path + suffix)]


def family(path: str) -> list[str]:
    """``path`` and every name that a SQLite sibling of it could have, whether it exists or not."""
    return [path, *(path + suffix for suffix in SIBLINGS)]


def exchange(first: str, second: str) -> None:
    """Swap two existing names of one file system in one step, and fsync both folders.

    Raises NotFound (one is missing), TargetRefused (two file systems, or one that cannot exchange), Denied, Busy.
    Nothing has changed when it raises.
    """
    try:
        _renameat2(first, second, _EXCHANGE)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise TargetRefused(
                f"The file system of {first} cannot exchange two names in one step.",
                untouched="Both stand where they stood.",
                next_step="Promotion there uses two journalled renames; this call is for file systems that can exchange.",
            ) from error
        raise outside(error, f"exchange {first} with {second}") from error
    _fsync_parents(first, second)


def move(source: str, destination: str) -> None:
    """Rename ``source`` to a name that is free, on the same file system, and fsync both folders.

    Raises TargetRefused where ``destination`` exists or lies on another file system, NotFound, Denied, Busy. Nothing has
    changed when it raises.
    """
    try:
        try:
            _renameat2(source, destination, _NOREPLACE)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            # Old file systems lack the flag. The names carry a random id of ours, so nobody else takes them meanwhile.
            if os.path.lexists(destination):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), destination) from error
            os.rename(source, destination)
    except OSError as error:
        raise outside(error, f"rename {source} to {destination}") from error
    _fsync_parents(source, destination)


def can_exchange(folder: str) -> bool:
    """Whether two names in ``folder`` can be exchanged: found by exchanging two empty files of our own."""
    stem = os.path.join(folder, f".resurgam-exchange-{secrets.token_hex(6)}")
    first, second = f"{stem}-1", f"{stem}-2"
    try:
        for name in (first, second):
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        _renameat2(first, second, _EXCHANGE)
        return True
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return False
        raise outside(error, f"try an exchange in {folder}") from error
    finally:
        for name in (first, second):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)


def flush(path: str) -> None:
    """Make everything written so far to the file system of ``path`` durable (``syncfs``, else ``sync``)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if syncfs is None:
            os.sync()
        elif syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise outside(OSError(code, os.strerror(code)), f"flush the file system of {path}")
    finally:
        os.close(descriptor)


def fsync_folder(folder: str) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def outside(error: OSError, what: str) -> ResurgamError:
    """The error of the house for what the operating system answered when we tried to ``what``."""
    message = f"Could not {what}: {error.strerror or error}."
    untouched = "What was there is as it was."
    code = error.errno
    if code in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(message, untouched=untouched, next_step="Free some space there and run the same again.")
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Denied(message, untouched=untouched, next_step="Run it as the owner of both folders, or as root.")
    if code in (errno.ENOENT, errno.ENOTDIR):
        return NotFound(message, untouched=untouched, next_step="Check the path; see `resurgam status`.")
    if code == errno.EXDEV:
        return TargetRefused(
            message,
            untouched=untouched,
            next_step="Keep both on one file system: a name can only be switched within one.",
        )
    if code in (errno.EEXIST, errno.ENOTEMPTY):
        return TargetRefused(message, untouched=untouched, next_step="Move away what already has that name.")
    if code == errno.EBUSY:
        return Busy(
            message, untouched=untouched, next_step="It is a mount point or in use: let go of it and run again."
        )
    return ResurgamError(message, untouched=untouched, next_step="See the system's log for the device's own words.")


def _renameat2(source: str, destination: str, flags: int) -> None:
    if not sys.platform.startswith("linux"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # glibc 2.28, musl 1.2.6
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    result = function(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(destination), ctypes.c_uint(flags))
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), source, None, destination)


def _fsync_parents(first: str, second: str) -> None:
    folders = dict.fromkeys((os.path.dirname(first), os.path.dirname(second)))
    for folder in folders:
        try:
            fsync_folder(folder)
        except OSError as error:
            raise outside(error, f"make the names in {folder} durable") from error
