"""The barrier between real processes: no freeze falls between two writes, nobody waits for ever, the dead hold nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from resurgam import barrier as module
from resurgam.barrier import ENVIRONMENT, exclusive, remove, traces
from resurgam.errors import Denied, LimitExceeded, NotFound
from resurgam.sdk import barrier

DEADLINE = 30.0
WRITER = """
import os, sys, time
from resurgam.sdk import barrier
work, inside = sys.argv[1], float(sys.argv[2])
stores = [open(os.path.join(work, name), "ab", buffering=0) for name in ("a", "b")]
print("at work", flush=True)
while True:
    with barrier():
        stores[0].write(b".")
        time.sleep(inside)
        stores[1].write(b".")
"""
HOLDER = """
import sys
from resurgam.barrier import barrier, exclusive
with (barrier(sys.argv[1]) if sys.argv[2] == "shared" else exclusive(sys.argv[1], 5)):
    print("inside", flush=True)
    sys.stdin.read()
"""
FORKER = """
import os, sys
from resurgam.barrier import barrier
with barrier(sys.argv[1]):
    child = os.fork()
    if child == 0:                     # it lives on, and must neither keep the lock nor drop its parent's
        os.read(0, 1)
        os._exit(0)
    print("inside", flush=True)
    os.read(int(sys.argv[2]), 1)
print("outside", flush=True)
os.read(int(sys.argv[2]), 1)
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where a barrier can be."""
    return str(tmp_path / "barrier.lock")


@contextmanager
def process(script: str, *words: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has said its first word; killed at the end."""
    argv = [sys.executable, "-c", script, *words]
    started = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **(env or {})})
    with started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline()
            yield started
        finally:
            started.kill()


@contextmanager
def writers(folder: Path, count: int, inside: float, path: str) -> Iterator[None]:
    """Processes that write to two stores all the time; without a barrier where ``path`` is empty."""
    with ExitStack() as all_of_them:
        for _ in range(count):
            words = (str(folder), str(inside))
            all_of_them.enter_context(process(WRITER, *words, env={ENVIRONMENT: path}))
        yield


def sizes(folder: Path) -> tuple[int, int]:
    """How often each store was written to; the second is looked at first, so a lag is never an illusion."""
    b = (folder / "b").stat().st_size
    return (folder / "a").stat().st_size, b


def until(condition: Callable[[], bool]) -> None:
    """Wait for ``condition``, and fail where it never comes."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_no_freeze_falls_between_two_writes(tmp_path: Path, path: str) -> None:
    """Three processes write to two stores; whoever holds the barrier sees both equal, and they go on in between."""
    before = 0
    with writers(tmp_path, 3, 0.0005, path):
        for _ in range(40):
            until(lambda: sizes(tmp_path)[0] > before)  # noqa: B023 - writers go on between two freezes
            with exclusive(path, DEADLINE) as held:
                before, b = sizes(tmp_path)
                assert before == b
                assert not held.passed()


def test_without_the_barrier_it_does(tmp_path: Path, path: str) -> None:
    """The counter-proof: the same writers, who do not take it, are caught between two writes."""

    def torn() -> bool:
        with exclusive(path, DEADLINE):
            b = (tmp_path / "b").stat().st_size
            return (tmp_path / "a").stat().st_size - b > 0

    with writers(tmp_path, 3, 0.0005, ""):
        until(torn)


def test_writers_that_never_leave_the_room_empty_cannot_keep_a_freeze_out(tmp_path: Path, path: str) -> None:
    """No starvation: those who come later queue at the gate behind the freeze that waits."""
    with writers(tmp_path, 4, 0.02, path):
        for written in range(20, 120, 20):
            until(lambda: sizes(tmp_path)[0] > written)  # noqa: B023 - all are at work again
            with exclusive(path, 2.0):
                a, b = sizes(tmp_path)
                assert a == b


def test_a_writer_waits_out_a_freeze(tmp_path: Path, path: str) -> None:
    with ExitStack() as frozen:
        frozen.enter_context(exclusive(path, 1.0))
        entered: list[bool] = []
        thread = threading.Thread(target=lambda: entered.append(entered_in_a_thread(path, DEADLINE)))
        thread.start()
        thread.join(0.1)
        assert not entered
        frozen.close()
        thread.join()
        assert entered == [True]


@pytest.mark.parametrize("how", ["shared", "exclusive"])
def test_the_dead_hold_nothing(path: str, how: str) -> None:
    """``kill -9`` of a writer lets a freeze in, ``kill -9`` of a capture lets writers in."""
    with process(HOLDER, path, how) as holder:
        with pytest.raises(LimitExceeded), exclusive(path, 0.05):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with exclusive(path, 1.0):
            pass
        with barrier(path, timeout=1.0) as passage:
            assert passage.held


def test_a_freeze_that_is_not_had_in_time_leaves_writers_alone(path: str) -> None:
    """P12: nothing was frozen, the error says so, and the gate is open again."""
    with barrier(path) as first:
        with pytest.raises(LimitExceeded) as caught, exclusive(path, 0.05):
            pass
        assert first.held
        assert "barrier.timeout" in caught.value.next_step
        assert entered_in_a_thread(path, 0.5)


def test_a_writer_that_waits_too_long_goes_on_and_says_so(path: str) -> None:
    """The application is not harmed; the capture that kept it waiting knows, and so does one that comes while it still writes."""
    go_on, gone = threading.Event(), threading.Event()
    passed: list[bool] = []

    def impatient() -> None:
        with barrier(path, timeout=0.05) as passage:
            passed.append(not passage.held)
            gone.set()
            go_on.wait(DEADLINE)

    thread = threading.Thread(target=impatient)
    with exclusive(path, 1.0) as held:
        assert not held.passed()
        thread.start()
        assert gone.wait(DEADLINE)
        assert passed == [True]
        assert held.passed()
    with exclusive(path, 1.0) as held:
        assert held.passed(), "it still writes"
    go_on.set()
    thread.join()
    with exclusive(path, 1.0) as held:
        assert not held.passed(), "that was another freeze"


def test_a_capture_that_waits_at_the_gate_tears_no_page_from_anothers_book(path: str) -> None:
    with exclusive(path, 1.0) as held:
        assert not entered_in_a_thread(path, 0.01)
        with pytest.raises(LimitExceeded), exclusive(path, 0.02):
            pass
        assert held.passed()


def test_a_passage_within_a_passage_is_joined(path: str) -> None:
    """Else a writer would wait for the freeze that waits for it."""
    with barrier(path):

        def freeze() -> None:
            with exclusive(path, DEADLINE):
                pass

        waiting = threading.Thread(target=freeze)
        waiting.start()
        until(lambda: not entered_in_a_thread(path, 0.0))  # the gate is shut
        with barrier(path, timeout=0.0) as inner:
            assert inner.held
        assert waiting.is_alive(), "leaving the inner one lets nobody in"
    waiting.join(DEADLINE)
    assert not waiting.is_alive()


def test_tasks_wait_without_holding_up_their_loop(path: str) -> None:
    """``async with``: the loop turns while a task waits; a task that outlives its maker's passage keeps it."""

    async def work() -> None:
        ticks = 0
        with ExitStack() as frozen:
            frozen.enter_context(exclusive(path, 1.0))
            task = asyncio.create_task(enter())
            while ticks < 20:
                await asyncio.sleep(0.001)
                ticks += 1
            assert not task.done()
        assert await task

    async def enter() -> bool:
        async with barrier(path, timeout=DEADLINE) as passage:
            assert asyncio.create_task(inner()) is not None
            return passage.held

    async def inner() -> None:
        async with barrier(path) as passage:
            assert passage.held

    asyncio.run(work())
    with exclusive(path, 1.0):
        pass


def test_a_task_that_outlives_the_passage_it_joined_keeps_it(path: str) -> None:
    async def work() -> None:
        inside, leave = asyncio.Event(), asyncio.Event()

        async def joins() -> None:
            async with barrier(path):
                inside.set()
                await leave.wait()

        async with barrier(path):
            task = asyncio.create_task(joins())
            await inside.wait()
        with pytest.raises(LimitExceeded), exclusive(path, 0.02):
            pass
        leave.set()
        await task

    asyncio.run(work())
    with exclusive(path, 1.0):
        pass


def test_a_cancelled_wait_leaves_nothing_open(path: str) -> None:
    async def work() -> None:
        with exclusive(path, 1.0):
            before = len(os.listdir("/proc/self/fd"))
            task = asyncio.create_task(barrier(path).__aenter__())
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(work())


def test_a_forked_child_neither_keeps_nor_drops_the_lock(path: str) -> None:
    """The kernel's lock belongs to the open file, which a fork shares."""
    told, tell = os.pipe()
    try:
        argv = [sys.executable, "-c", FORKER, path, str(told)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[told]) as parent:
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"inside\n"
            with pytest.raises(LimitExceeded), exclusive(path, 0.05):
                pass
            parent.kill()  # its child lives
            parent.wait()
            with exclusive(path, 1.0):
                pass
    finally:
        os.close(told)
        os.close(tell)


def test_what_is_started_inside_inherits_nothing(path: str) -> None:
    with barrier(path):
        child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    with child:
        with exclusive(path, 1.0):
            pass
        child.kill()


def test_without_a_barrier_an_application_runs_as_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """It must not need Resurgam: unset, or set to a place that cannot be used, it goes on and hears of it once."""
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setattr(module, "_told", set())
    with caplog.at_level(logging.INFO, "resurgam.barrier"):
        for _ in range(3):
            with barrier() as passage:
                assert not passage.held
        assert len(caplog.records) == 1
        monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "no/such/folder/barrier.lock"))
        for _ in range(3):
            with barrier() as passage:
                assert not passage.held
    assert [record.levelno for record in caplog.records] == [logging.INFO, logging.WARNING]


def test_an_error_inside_is_the_applications_own_and_frees_the_barrier(path: str) -> None:
    with pytest.raises(ZeroDivisionError), barrier(path):
        raise ZeroDivisionError
    with exclusive(path, 1.0):
        pass


@pytest.mark.parametrize(("name", "error"), [("none/barrier.lock", NotFound), ("", Denied)])
def test_a_capture_fails_closed(tmp_path: Path, name: str, error: type[Exception]) -> None:
    """P12: what the application shrugs at, a capture does not."""
    (tmp_path / "folder").mkdir()
    place = tmp_path / name if name else tmp_path / "link"
    if not name:
        place.with_name("link.gate").symlink_to("link.gate")
    with pytest.raises(error), exclusive(str(place), 0.1):
        pass


def test_its_files_are_known_and_removed(tmp_path: Path, path: str) -> None:
    """What is put on a source can be taken away; whoever still uses the barrier makes it anew."""
    with barrier(path):
        pass
    with exclusive(path, 1.0):
        pass
    assert {str(file) for file in tmp_path.iterdir()} == set(traces(path))
    remove(path, 1.0)
    assert list(tmp_path.iterdir()) == []
    with barrier(path) as passage:
        assert passage.held


def test_it_starts_fast_and_needs_nothing() -> None:
    """An application pays for the lock only: none of Resurgam's libraries is loaded with it."""
    code = "import sys, resurgam.sdk; print(*sorted({name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)))"
    loaded = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, check=False, text=True, env={
        **os.environ, "PYTHONPATH": str(Path(module.__file__).parents[1])})  # fmt: skip
    assert set(loaded.stdout.split()) <= {"__main__", "resurgam"}, loaded.stderr
    assert loaded.stdout


def entered_in_a_thread(path: str, timeout: float) -> bool:
    """Whether a writer of another context gets in."""
    held: list[bool] = []

    def enter() -> None:
        with barrier(path, timeout=timeout) as passage:
            held.append(passage.held)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return held[0]


def test_a_book_that_is_a_link_is_refused_and_what_it_names_stays_whole(path: str, tmp_path: Path) -> None:
    """Whoever may write in the barrier's folder could else have a capture empty any file that it may write to."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"not to be emptied")
    Path(f"{path}.passed").symlink_to(precious)
    with pytest.raises(Denied), exclusive(path, 1.0):
        pass
    assert precious.read_bytes() == b"not to be emptied"
