"""Work on many parts, shared among copies of this process where that can be, else among threads.

Threads of Python meet at the interpreter's lock at each call into a library that lets go of it. Where such calls take tens of
microseconds, as for chunks of a database, they wait for each other longer than they work: two threads restored one slower
than one did. So large work goes to children that ``fork`` made, which share nothing but what was there before.

A fork copies one thread, and whatever lock another one held stays locked in the copy for ever. So it is done only while this
process has a single thread, of any library; and a child does the work, tells how it ended, and leaves without another word.
Children end with their parent: they look for it before each part.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import selectors
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from typing import NoReturn, TypeVar

from resurgam import errors
from resurgam.errors import ResurgamError

THREADS = 4
PROCESSES = 4  # at most; one for each processor
_LINGERING = 1.0  # seconds
TICK = 0.05  # seconds between two calls of ``meanwhile``
_TASKS = "/proc/self/task"
_ENDED = "A process that shared the work was ended"

T = TypeVar("T")
_strangers = 0  # threads that were no Python's, and stayed
_at_work: set[int] = set()  # the children that were not waited for


def work_on(
    parts: Sequence[T], work: Callable[[T], None], *, meanwhile: Callable[[], None], processes: bool = False
) -> None:
    """Call ``work`` on each of ``parts``, several at a time and in no order, and ``meanwhile`` now and then in this thread.

    With ``processes`` it may be done in copies of this process: what it changes in memory is lost then. Raises the first error
    that was raised, after all have stopped.
    """
    count = min(PROCESSES, len(parts), processors())
    children = _forked(parts, work, count) if processes and count > 1 and shares() else {}
    if children:
        try:
            _attend(children, meanwhile)
        finally:
            end(children)
    else:
        _in_threads(parts, work, meanwhile)


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_seconds() -> float:
    """Processor seconds, user and system, that this process and all its threads have used, and its children: those at work, and all
    that were waited for, whoever made them."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime + sum(map(_used_by, list(_at_work)))


def _used_by(process: int) -> float:
    """By a child so far. Linux names the clock of each process by its number (clock_getcpuclockid(3)); elsewhere it counts when it
    has ended."""
    if sys.platform == "linux":
        with suppress(OSError):  # it has ended meanwhile
            return time.clock_gettime(~process << 3 | 2)
    return 0.0


def shares() -> bool:
    """Whether copies of this process can be made, and gain anything."""
    return processors() > 1 and alone()


def alone() -> bool:
    """Whether this process has no other thread, be it Python's or a library's."""
    return threading.active_count() == 1 and not strangers()


def strangers() -> bool:
    """Whether this process has threads of a library's; True where that cannot be seen.

    One that has ended for Python is there for the system a moment longer: that long is waited, and no second time for as many."""
    global _strangers
    deadline = time.monotonic() + _LINGERING
    try:
        while (more := len(os.listdir(_TASKS)) - threading.active_count()) > 0:
            if more == _strangers:
                return True
            if time.monotonic() > deadline:
                _strangers = more
            time.sleep(_LINGERING / 2000)
    except OSError:  # no such folder: another system, or not mounted
        return True
    return False


def _in_threads(parts: Sequence[T], work: Callable[[T], None], meanwhile: Callable[[], None]) -> None:
    """Parts are begun in their order, each by the next thread that is free."""
    waiting, lock = iter(parts), threading.Lock()
    ended = threading.Event()

    def share() -> None:
        while not ended.is_set():
            with lock:
                try:
                    part = next(waiting)
                except StopIteration:
                    return
            work(part)

    with ThreadPoolExecutor(THREADS, thread_name_prefix="share") as pool:
        try:
            going = {pool.submit(share) for _ in range(THREADS)}
            while going:
                done, going = wait(going, TICK, FIRST_EXCEPTION)
                for one in done:
                    one.result()
                meanwhile()
        finally:
            ended.set()


def _forked(parts: Sequence[T], work: Callable[[T], None], count: int) -> dict[int, int]:
    """Children at work, by the pipe in which each will tell how it ended; none where this host allows no more processes."""
    parent, children = os.getpid(), dict[int, int]()

    def share(number: int) -> None:
        for part in parts[number::count]:
            if os.getppid() != parent:
                os._exit(1)
            work(part)

    try:
        for number in range(count):
            pipe, child = fork(partial(share, number))
            children[pipe] = child
    except OSError:
        end(children)
        return {}
    return children


def fork(work: Callable[[], None]) -> tuple[int, int]:
    """A child that does ``work``, and the pipe in which it will tell how that ended. Raises OSError."""
    ours, theirs = os.pipe()
    try:
        child = os.fork()
        if not child:
            _be_child(work, theirs)
        _at_work.add(child)
    except OSError:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return ours, child


def end(children: dict[int, int]) -> None:
    """End those that are still at work, and leave nothing of any."""
    for pipe, child in children.items():
        os.close(pipe)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        _at_work.discard(child)


def _attend(children: dict[int, int], meanwhile: Callable[[], None]) -> None:
    """Wait until all children ended well. Raises what the first one raised that did not."""
    with selectors.DefaultSelector() as waiting:
        for pipe in children:
            waiting.register(pipe, selectors.EVENT_READ)
        said = dict.fromkeys(children, b"")
        while waiting.get_map():
            for key, _ in waiting.select(TICK):
                if piece := os.read(key.fd, 1 << 16):
                    said[key.fd] += piece
                    continue
                waiting.unregister(key.fd)
                require_well(said[key.fd])
            meanwhile()


def require_well(said: bytes) -> None:
    """Raise what a child has said, unless that is that it ended well."""
    if said == b"{}":
        return
    if not said:
        raise ResurgamError(
            f"{_ENDED} from outside.",
            untouched="What it was making is not used.",
            next_step="Run the same command again.",
        )
    told = json.loads(said)
    kind = getattr(errors, told["kind"], None)
    if kind is None:
        raise RuntimeError(told["trace"])
    raise kind(told["message"], untouched=told["untouched"], next_step=told["next_step"])


def _be_child(work: Callable[[], None], pipe: int) -> NoReturn:
    """Do the work and tell how it ended; returns to nobody, so that nothing of the parent's is done twice."""
    said: dict[str, str] = {}
    gc.freeze()  # else the collector would write to all that was there before, and so copy it
    try:
        work()
    except ResurgamError as error:
        said = {"kind": type(error).__name__, "message": error.message}
        said |= {"untouched": error.untouched, "next_step": error.next_step}
    except BaseException:  # noqa: BLE001 - told to the parent, which raises it
        said = {"kind": "", "trace": traceback.format_exc()}
    finally:
        with suppress(OSError):  # the parent is gone
            os.write(pipe, json.dumps(said).encode())
        os._exit(0)
