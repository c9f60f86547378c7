"""Moves on a file system that still hold after a power cut, and that no symbolic link can lead astray.

What ``local.py`` is made of. Everything takes open folders and single names, never paths (but ``make_folders``), and raises
OSError as the kernel gave it. The rules are those of POSIX and Linux: bytes are on disk after ``fsync`` of the file, a name
after ``fsync`` of its folder (fsync(2)); ``link`` and ``renameat2`` with RENAME_NOREPLACE never replace (link(2), rename(2));
``O_DIRECT`` asks for aligned memory, place and length, else EINVAL (open(2), notes).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Sequence

STEP = 8 << 20  # bytes handed to the kernel at a time
FOLDER_MODE = 0o750
OPEN_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
O_DIRECT = getattr(os, "O_DIRECT", 0)  # 0 where the system has none

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_OPEN_FILE = os.O_RDONLY | _NO_FOLLOW | getattr(os, "O_NONBLOCK", 0)  # never waits at a planted pipe
_RENAME_NOREPLACE = 1  # linux/fs.h
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV}
_NO_RENAME = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV}


def open_folder(part: str, parent: int) -> int:
    """A descriptor of the folder ``part`` of ``parent``; a symbolic link is not one."""
    return os.open(part, OPEN_FOLDER | _NO_FOLLOW, dir_fd=parent)


def open_file(root: int, parts: Sequence[str]) -> tuple[int, int]:
    """A descriptor for reading of the regular file ``parts`` below ``root``, walked part by part, and its size."""
    *folders, last = parts
    here = root
    try:
        for part in folders:
            below = open_folder(part, here)
            if here != root:
                os.close(here)
            here = below
        descriptor = os.open(last, _OPEN_FILE, dir_fd=here)
    finally:
        if here != root:
            os.close(here)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "it is not a file")
    return descriptor, status.st_size


def entries(folder: int, beginning: str = "") -> list[tuple[str, os.stat_result]]:
    """What stands in a folder under a name of that ``beginning``, links not followed; what is removed meanwhile is left out."""
    found = []
    own = open_folder(".", folder)  # a place in the listing of its own: other threads list the same folder
    try:
        with os.scandir(own) as scan:
            for entry in scan:
                if not entry.name.startswith(beginning):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    found.append((entry.name, entry.stat(follow_symlinks=False)))
    finally:
        os.close(own)
    return found


def make_folders(path: str) -> None:
    """Make the folder ``path`` and those above it that are missing, each synced into its parent."""
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, FOLDER_MODE)
        parent = os.open(os.path.dirname(folder), os.O_RDONLY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)


def write(descriptor: int, data: memoryview) -> None:
    """Write all of ``data`` at the file's place, in steps."""
    done = 0
    while done < len(data):
        done += os.write(descriptor, data[done : done + STEP])


def write_direct(descriptor: int, data: memoryview) -> int:
    """Write ``data`` past the page cache; returns the bytes written, which may be few or none where the memory, the place
    in the file or the file system is not fit for it."""
    if not _set_direct(descriptor, on=True):
        return 0
    start = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        write(descriptor, data)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        _set_direct(descriptor, on=False)
    return os.lseek(descriptor, 0, os.SEEK_CUR) - start


def open_direct(descriptor: int) -> int | None:
    """Another handle of the same file, by which whole blocks are written past the page cache; None where that cannot be had."""
    if not O_DIRECT:
        return None
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | O_DIRECT | os.O_CLOEXEC)
    except (
        OSError
    ):  # another system, or a file system that knows no such thing: whoever writes does it through the page cache
        return None


def _set_direct(descriptor: int, *, on: bool) -> bool:
    """Whether the file now takes (``on``) or no longer takes direct writes."""
    import fcntl  # not on every system; only reached where O_DIRECT exists

    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | O_DIRECT if on else flags & ~O_DIRECT)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return True


def read(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Fill ``buffer`` from ``offset``; returns the bytes read, fewer only at the end."""
    done = 0
    while done < len(buffer):
        step = os.preadv(descriptor, [buffer[done:]], offset + done)
        if not step:
            break
        done += step
    return done


def name_once(waiting: int, temporary: str, folder: int, last: str) -> None:
    """Give a finished file its final name; FileExistsError where that is taken, ENOTSUP where the system cannot do this."""
    try:
        os.link(temporary, last, src_dir_fd=waiting, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _rename_once(waiting, temporary, folder, last)


def _rename_once(waiting: int, temporary: str, folder: int, last: str) -> None:
    """``renameat2(2)`` with RENAME_NOREPLACE, for file systems without hard links."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        code = errno.ENOSYS
    else:
        failed = renameat2(waiting, temporary.encode(), folder, last.encode(), ctypes.c_uint(_RENAME_NOREPLACE))
        code = ctypes.get_errno() if failed else 0
    if code in _NO_RENAME:
        raise OSError(errno.ENOTSUP, "the file system can neither link a file nor rename it without replacing another")
    if code:
        raise OSError(code, os.strerror(code))


def same_file(waiting: int, temporary: str, folder: int, last: str) -> bool:
    """Whether both names show one file (a link whose answer was lost, as NFS may lose it)."""
    ours = os.stat(temporary, dir_fd=waiting, follow_symlinks=False)
    return os.path.samestat(ours, os.stat(last, dir_fd=folder, follow_symlinks=False))
