"""Less than others: the priority of work that nobody waits for, on the processors (nice) and on the disks (I/O priority).

Nothing lowers it during a freeze: writers wait then, and on a busy machine they would wait for whoever had to stand back. And
nothing takes it back, which a plain user may not: so it is done once, where the work begins that is to be gentle.

A captured system's machine is never asked for real privileges: both are given up freely by anybody (setpriority(2),
ioprio_set(2)). Linux knows them per thread; those that are started later, and children, have them from their maker.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from contextlib import suppress

NICE = 10  # a tenth of the share of a process of 0, where both want the same processor
# Not the idle class: on a busy disk a capture would never end, and its snapshot grow old.
_LOWEST_BEST_EFFORT = 2 << 13 | 7
_WHO_PROCESS = 1
_IDLE = 3  # the class that only ``ionice -c 3`` gives
# The system call, on Linux; the next number is that of ioprio_get.
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}
_TASKS = "/proc/self/task"


def lower(*, processor: bool = True) -> None:
    """Stand back behind others from now on, repeatable; on the disks alone unless ``processor``. What a system does not know is
    left out, and what was lower already stays so."""
    threads = [0]
    with suppress(OSError):  # no such folder: another system, or not mounted
        threads = [int(name) for name in os.listdir(_TASKS)]
    for thread in threads:
        with suppress(OSError):  # it has ended meanwhile
            if processor:
                os.setpriority(os.PRIO_PROCESS, thread, max(NICE, os.getpriority(os.PRIO_PROCESS, thread)))
        _lower_on_disks(thread)


def unattended() -> bool:
    """Whether no terminal controls this process: cron, a timer or another program has started it, and nobody waits before it."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return True
    return False


def _lower_on_disks(thread: int) -> None:
    number = _IOPRIO_SET.get(platform.machine())
    if sys.platform == "linux" and number is not None and sys.maxsize > 1 << 32:
        call = ctypes.CDLL(None).syscall
        if call(number + 1, _WHO_PROCESS, thread) >> 13 != _IDLE:
            call(number, _WHO_PROCESS, thread, _LOWEST_BEST_EFFORT)  # refused: as it was, which is no harm
