"""The barrier: a lock around an application's writes to several stores, so that no freeze falls between two of them.

    application    with barrier(): write to one store; write to the other        shared: any number at a time
    capture        with exclusive(path, 2.0): freeze all, note all, thaw all     alone

Three files take part, each locked by flock(2), whose locks the kernel drops when their process dies, by ``kill -9`` too:

    PATH          the room: shared by writers at work, exclusive in a freeze
    PATH.gate     writers go through it into the room (shared, for an instant). A capture shuts it before it waits for the
                  room to empty, so writers that come later queue behind it and cannot keep it out (a turnstile)
    PATH.passed   the book of writers that waited longer than they would and went on without: a line each, and a shared
                  lock as long as they write. So the capture that kept them waiting knows that it earned less

The application matters more than its backup: it waits for at most ``timeout`` and then goes on; where there is no barrier or
its files cannot be used, it goes on at once, and the logger ``resurgam.barrier`` says so, once. A capture fails closed (P12).
A passage is joined, not made, inside of one that the same context (thread, task, or what was started in it) has open: a
writer that waited for a capture that waits for it would be a deadlock.

Locks are polled, never waited for in the kernel: that alone keeps a time limit in every thread. They hold on one host, on a
local file system.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from contextvars import ContextVar
from types import TracebackType
from typing import Self

from resurgam.errors import Denied, LimitExceeded, NotFound

try:
    import fcntl
except ImportError:  # not a POSIX system: the application runs as if there were no barrier
    fcntl = None  # type: ignore[assignment]

ENVIRONMENT = "RESURGAM_BARRIER"  # the variable that tells an application where the barrier is
TIMEOUT = 10.0  # seconds: more than a capture waits (2) and freezes (5) together, unless its manifest says otherwise
GATE, PASSED = ".gate", ".passed"

_FIRST_NAP, _LONGEST_NAP = 0.0003, 0.003  # seconds between two tries: short beside a freeze, cheap beside a write
_MARKING = 1.0  # seconds that a writer tries to lock the book; a capture locks it for an instant only

_log = logging.getLogger("resurgam.barrier")
_told: set[str] = set()
_guard = threading.Lock()
_live: set[_Hold] = set()


def barrier(path: str | None = None, *, timeout: float = TIMEOUT) -> Shared:
    """Around one piece of work that writes to more than one store: ``with barrier(): …`` or ``async with barrier(): …``.

    ``path`` is the file that the manifest names under ``barrier``; without it, that in ``RESURGAM_BARRIER``; without that,
    nothing is done. ``timeout`` is in seconds. Raises nothing of its own.
    """
    return Shared(os.environ.get(ENVIRONMENT) if path is None else path, timeout)


class Shared:
    """One passage of a writer, for one ``with``. ``held`` says in it whether the barrier really is held."""

    def __init__(self, path: str | None, timeout: float) -> None:
        self._path = os.path.abspath(path) if path else ""
        self._timeout = timeout
        self._hold: _Hold | None = None

    @property
    def held(self) -> bool:
        """False where there is no barrier, or it was passed."""
        return self._hold is not None and self._hold.held

    def __enter__(self) -> Self:
        assert self._hold is None, "a barrier() is for one `with`; call barrier() again"
        with closing(self._going_in()) as naps:
            for nap in naps:
                time.sleep(nap)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.leave()

    async def __aenter__(self) -> Self:
        import asyncio  # only where it is loaded already

        assert self._hold is None, "a barrier() is for one `with`; call barrier() again"
        with closing(self._going_in()) as naps:
            for nap in naps:
                await asyncio.sleep(nap)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def _going_in(self) -> Generator[float, None, None]:
        """Yields the naps to take until ``_hold`` is set, or there is nothing to hold."""
        if not self._path or fcntl is None:
            _tell_once("", f"No barrier: {ENVIRONMENT} is not set. Nothing is held.", logging.INFO)
            return
        outer = _mine.get().get(self._path)
        if outer is not None and outer.join():
            self._hold = outer
            return
        try:
            until = time.monotonic() + self._timeout
            for nap in _naps():
                hold = _go_in(self._path)
                if hold is None and time.monotonic() >= until:
                    hold = yield from _pass_by(self._path, self._timeout)
                if hold is not None:
                    self._hold = hold
                    _mine.set({**_mine.get(), self._path: hold})
                    return
                yield nap
        except OSError as error:
            _tell_once(self._path, f"The barrier {self._path} cannot be used ({error.strerror}). Nothing is held.")


@contextmanager
def exclusive(path: str, timeout: float) -> Iterator[Exclusive]:
    """Hold the barrier alone: every writer that was inside has left, later ones wait. ``timeout`` is in seconds.

    Raises LimitExceeded where writers did not leave in time, NotFound and Denied where the files cannot be used.
    """
    path = os.path.abspath(path)
    until = time.monotonic() + timeout
    with ExitStack() as opened:
        hold = _Hold()
        opened.callback(hold.leave)
        try:
            _lock_alone(hold, path + GATE, until)
            book = hold.open(path + PASSED, 0o666, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW)
            turned = _turn_page(book)
            _lock_alone(hold, path, until)
        except TimeoutError as error:
            raise LimitExceeded(
                f"The barrier {path} was not free within {timeout:g} s: a writer stayed inside, or another capture.",
                untouched="Nothing was frozen or captured; writers that waited for it go on.",
                next_step="Put less work into one `with barrier()`, or raise barrier.timeout in resurgam.yaml.",
            ) from error
        except OSError as error:
            raise _unusable(path, error) from error
        yield Exclusive(book, at_work=not turned)


class Exclusive:
    """The barrier, held alone."""

    def __init__(self, book: int, at_work: bool) -> None:
        self._book, self._at_work = book, at_work

    def passed(self) -> bool:
        """Whether a writer has gone on without the barrier since it was asked for, or was still at work so at that time."""
        return self._at_work or os.fstat(self._book).st_size > 0


def traces(path: str) -> tuple[str, ...]:
    """Every file that a barrier at ``path`` may leave behind."""
    return path, path + GATE, path + PASSED


def remove(path: str, timeout: float) -> None:
    """Remove the barrier's files while nobody is inside; a writer that still uses it makes it anew. Raises as ``exclusive``."""
    with exclusive(path, timeout):
        for trace in traces(path):
            with suppress(FileNotFoundError):
                os.unlink(trace)


class _Hold:
    """Locked files, held until everyone who joined has left. The descriptors are private to this process: no program that
    is started inherits them, and a forked child closes its copies."""

    def __init__(self, held: bool = True) -> None:
        self.held = held
        self._descriptors: list[int] = []
        self._depth = 1
        with _guard:
            _live.add(self)

    def open(self, path: str, mode: int = 0o644, flags: int = os.O_RDONLY) -> int:
        """A descriptor of ``path``, which is made where it is missing; closed with the hold."""
        descriptor = _open(path, mode, flags)
        self._descriptors.append(descriptor)
        return descriptor

    def join(self) -> bool:
        """Hold it too; False where it was let go already."""
        with _guard:
            self._depth += self._depth > 0
            return self._depth > 0

    def leave(self) -> None:
        """Let go; the last one to leave unlocks."""
        with _guard:
            self._depth -= 1
            if self._depth > 0:
                return
            _live.discard(self)
            while self._descriptors:
                descriptor = self._descriptors.pop()
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # also for copies that a fork beyond our sight has made
                os.close(descriptor)

    def forget(self) -> None:
        """In a forked child: close the copies, and leave the parent's locks as they are."""
        self._depth = 0
        while self._descriptors:
            os.close(self._descriptors.pop())


_mine: ContextVar[Mapping[str, _Hold]] = ContextVar("resurgam_barrier", default={})  # noqa: B039 - never changed in place


def _go_in(path: str) -> _Hold | None:
    """One try of a writer: through the gate into the room; None where a capture has shut it."""
    with ExitStack() as undone:
        gate, hold = _Hold(), _Hold()
        undone.callback(hold.leave)
        try:
            if not _locked(gate.open(path + GATE), fcntl.LOCK_SH):
                return None
            room = hold.open(path)
            if not _locked(room, fcntl.LOCK_SH) or not _stands_at(room, path):
                return None
        finally:
            gate.leave()
        undone.pop_all()
        return hold


def _pass_by(path: str, timeout: float) -> Generator[float, None, _Hold]:
    """Go on without the barrier, and leave word of it. First the lock, then the line: a page is turned only where nobody has
    the book, so no line is lost."""
    hold = _Hold(held=False)
    try:
        book = hold.open(path + PASSED, 0o666, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
        until = time.monotonic() + _MARKING
        for nap in _naps():
            if _locked(book, fcntl.LOCK_SH) or time.monotonic() >= until:
                break
            yield nap
        os.write(book, f"{os.getpid()} {time.time():.3f}\n".encode())
    except BaseException:
        hold.leave()
        raise
    _log.warning("Waited %g s for the barrier %s, and went on without it. The capture will know.", timeout, path)
    return hold


def _lock_alone(hold: _Hold, path: str, until: float) -> None:
    """Lock the file at ``path`` exclusively. Raises TimeoutError where that was not had by ``until``."""
    descriptor = hold.open(path)
    for nap in _naps():
        if _locked(descriptor, fcntl.LOCK_EX):
            return
        if time.monotonic() >= until:
            raise TimeoutError
        time.sleep(nap)


def _turn_page(book: int) -> bool:
    """Empty the book; False where a writer that passed is still at work."""
    if not _locked(book, fcntl.LOCK_EX):
        return False
    os.ftruncate(book, 0)
    fcntl.flock(book, fcntl.LOCK_UN)
    return True


def _naps() -> Iterator[float]:
    nap = _FIRST_NAP
    while True:
        yield nap
        nap = min(2 * nap, _LONGEST_NAP)


def _locked(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _stands_at(descriptor: int, path: str) -> bool:
    """Whether the open file is still the one at ``path``: a lock on one that was removed holds nobody."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _open(path: str, mode: int, flags: int) -> int:
    """Open, or make with exactly ``mode``: a book that only its maker may write in is none."""
    flags |= os.O_CLOEXEC | os.O_NONBLOCK  # whatever stands there, opening it never waits
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        try:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, mode)
        except FileExistsError:  # another one was faster; a link that leads nowhere stays an error
            return os.open(path, flags)
        os.fchmod(descriptor, mode)
        return descriptor


def _unusable(path: str, error: OSError) -> Denied | NotFound:
    missing = isinstance(error, FileNotFoundError)
    step = f"Make its folder: mkdir -p {os.path.dirname(path)}" if missing else "Let this user open it and its folder"
    return (NotFound if missing else Denied)(
        f"The barrier {path} cannot be used: {error.strerror}.",
        untouched="Nothing was frozen or captured.",
        next_step=f"{step}, or name another file under `barrier` in resurgam.yaml.",
    )


def _tell_once(about: str, text: str, level: int = logging.WARNING) -> None:
    if about not in _told:
        _told.add(about)
        _log.log(level, text)


def _in_forked_child() -> None:
    global _guard
    _guard = threading.Lock()  # another thread of the parent may have held the old one
    for hold in _live:
        hold.forget()
    _live.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)
