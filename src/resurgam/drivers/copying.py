"""Copying a part of an open file into a private copy of it, by the kernel where it can."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from resurgam.drivers.base import write_fully
from resurgam.private import room

_STEP = 32 << 20
_NO_RANGE_COPY = frozenset({errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM})


def copy_range(source: int, target: int, size: int, start: int, still_allowed: Callable[[], None]) -> None:
    """Copy the first ``size`` bytes of ``source`` to ``start`` in ``target``, a private copy; the kernel shares blocks if it can.

    ``still_allowed`` is asked between steps, and raises where it may not go on. A source that became shorter ends the copy: the
    caller looks at what it got. Raises StoreFull, OSError.
    """
    done, by_kernel = 0, hasattr(os, "copy_file_range")
    while done < size:
        still_allowed()
        step = min(_STEP, size - done)
        with room():
            try:
                copied = os.copy_file_range(source, target, step, done, start + done) if by_kernel else -1
            except OSError as error:
                if error.errno not in _NO_RANGE_COPY:
                    raise
                by_kernel, copied = False, -1
            if copied < 0:
                data = os.pread(source, step, done)
                write_fully(target, memoryview(data), start + done)
                copied = len(data)
        if not copied:
            return
        done += copied
