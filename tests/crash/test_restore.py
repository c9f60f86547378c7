"""P5: a restore is stopped at every call to the store, and by a target that fails; what is half never has the target's name."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import pytest

from resurgam.drivers.base import Blob, Item
from resurgam.errors import IntegrityError, NotFound, StoreFull, TargetRefused
from resurgam.model.system import Component
from resurgam.restore import run
from resurgam.restore.run import claimed, restore
from resurgam.restore.state import Restored, load
from resurgam.testing.faults import Crash, CrashStore
from resurgam.vault.repository import Repository, Sealed
from tests.support import MemoryDriver, World, stored_bytes


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two components with blobs of several ways."""
    made = World(str(tmp_path), ("documents", "prompts"))
    rng = Random(1)
    made.driver.held["documents"].files = {b"big": rng.randbytes(3_000_000), b"small": b"words", b"none": b""}
    made.driver.held["prompts"].files = {b"%02d" % n: rng.randbytes(500) for n in range(30)}
    return made


def into(world: World, sealed: Sealed, target: str, repository: Repository | None = None) -> Restored:
    """Restore with the double driver."""
    repository = repository or world.repository()
    particulars = repository.particulars(sealed.body)
    return restore(repository, sealed.body, particulars, target, lambda _kind: world.driver, world.clock)


def test_restore_stopped_anywhere(world: World) -> None:
    """P5: the target is whole or not there, the vault is not written to, and the next restore into the same place works."""
    sealed = world.capture()
    before = stored_bytes(world.store)
    target = f"{world.folder}/target"
    counting = CrashStore(world.store)
    into(world, sealed, f"{world.folder}/count", world.repository(counting))
    assert not [call for call in counting.history if call.startswith(("put", "delete"))]
    for stop in range(1, counting.calls + 1):
        with pytest.raises(Crash):
            into(world, sealed, target, world.repository(CrashStore(world.store, stop)))
        assert not os.path.lexists(target)
        assert not [name for name in os.listdir(world.folder) if ".partial-" in name]
    assert into(world, sealed, target) == load(target)
    assert world.restored(sealed) == world.contents()
    assert stored_bytes(world.store) == before


def test_what_a_killed_restore_left_is_swept(world: World) -> None:
    """P5: a dead restore's folder goes; one that still runs, another target's, and a link stay."""
    sealed = world.capture()
    target = f"{world.folder}/target"
    dead, alive = f"{target}.partial-{'0' * 16}", f"{target}.partial-{'1' * 16}"
    other, foreign = f"{world.folder}/target2.partial-{'0' * 16}", f"{target}.partial-mine"
    for folder in (dead, alive, other, foreign):
        os.makedirs(f"{folder}/something")
    os.symlink(world.folder, f"{target}.partial-{'2' * 16}")
    lock = os.open(alive, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        into(world, sealed, target)
    finally:
        os.close(lock)
    assert not os.path.exists(dead)
    assert all(os.path.exists(folder) for folder in (alive, other, foreign, f"{target}.partial-{'2' * 16}"))
    assert load(target).point == sealed.body.id


def test_restores_into_one_target_at_once(world: World) -> None:
    """P5: one of them becomes the target and is whole; the others say that it is not empty, and leave nothing."""
    sealed = world.capture()
    for round_ in range(5):
        target = f"{world.folder}/target-{round_}"

        def attempt(_: int, target: str = target) -> bool:
            try:
                into(world, sealed, target)
            except TargetRefused:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(attempt, range(4))) == 1
        assert load(target).point == sealed.body.id
        assert sorted(os.listdir(target))[-2:] == ["documents", "prompts"]
        assert not [name for name in os.listdir(world.folder) if ".partial-" in name]


class Failing(MemoryDriver):
    """Fails while it writes the second component."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def write(self, items: Iterator[Item], target: Component) -> Component:  # type: ignore[override]
        """As the inner one, but for prompts."""
        if target.name == "prompts":
            next(iter(items))
            raise self.error
        return super().write(items, target)


@pytest.mark.parametrize(
    "error", [StoreFull("no space", untouched="all", next_step="free some"), KeyboardInterrupt(), OSError(5, "broken")]
)
def test_a_target_that_fails(world: World, error: BaseException) -> None:
    """P5: what a driver raises comes out as it is, Ctrl-C too, and nothing is left."""
    sealed = world.capture()
    world.driver = Failing(error)
    with pytest.raises(type(error)) as caught:
        into(world, sealed, f"{world.folder}/target")
    assert caught.value is error
    assert not [name for name in os.listdir(world.folder) if name.startswith("target")]


def test_ctrl_c_at_any_line_leaves_a_whole_target_or_nothing(world: World) -> None:
    """P5: between making the folder and locking it, between that and the first byte, while it is given its name."""
    sealed = world.capture()
    repository = world.repository()
    target = f"{world.folder}/target"
    for line in count(1):
        interrupt = Interrupt(line)
        sys.settrace(interrupt.calls)
        try:
            into(world, sealed, target, repository)
        except KeyboardInterrupt:
            if interrupt.at is None:  # the developer's own
                raise
        finally:
            sys.settrace(None)
        names = [name for name in os.listdir(world.folder) if name.startswith("target")]
        assert names in ([], ["target"]), interrupt.at
        if names:
            assert load(target).point == sealed.body.id, interrupt.at
            shutil.rmtree(target)
        if interrupt.at is None:
            break
    assert line > 40, "the restore's lines were not seen"


HOLDS = """
import sys
from resurgam.restore.run import claimed
with claimed(sys.argv[1]):
    open(sys.argv[1] + "/half", "x").close()
    print("held", flush=True)
    sys.stdin.read()
"""


def test_ctrl_c_while_another_one_works_leaves_its_folder_alone(tmp_path: Path) -> None:
    """P5: two that add to one restore build in one folder; the second waits, and what ends its waiting does not end the first."""
    partial = f"{tmp_path}/target.partial-{'0' * 16}"
    argv = [sys.executable, "-c", HOLDS, partial]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(TimeoutError), alarmed(0.2), claimed(partial):
            raise AssertionError("it was had by two")
        assert os.listdir(partial) == ["half"]
        holder.communicate()
    assert (holder.returncode, os.listdir(tmp_path)) == (0, [])


@contextmanager
def alarmed(seconds: float) -> Iterator[None]:
    """TimeoutError in the block, by a signal as Ctrl-C is one."""

    def over(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Interrupt:
    """Raises KeyboardInterrupt at one of the lines that ``restore.run`` passes, as the interpreter does between any two steps."""

    def __init__(self, line: int) -> None:
        self._left = line
        self.at: str | None = None

    def calls(self, frame: FrameType, event: str, _argument: object) -> Callable[..., Any] | None:
        """For ``sys.settrace``: the lines of that module alone."""
        return self._lines if frame.f_code.co_filename == run.__file__ else None

    def _lines(self, frame: FrameType, event: str, _argument: object) -> Callable[..., Any]:
        if event == "line" and self.at is None:
            self._left -= 1
            if self._left == 0:
                self.at = f"line {frame.f_lineno} of {frame.f_code.co_name}"
                raise KeyboardInterrupt
        return self._lines


@pytest.mark.parametrize("kind", ["file", "full", "live", "inside", "around", "link"])
def test_targets_that_are_refused(world: World, kind: str) -> None:
    """P12: what is there stays as it is: files, full folders, the live system, what holds it or lies in it."""
    sealed = world.capture()
    live = f"{world.folder}/live/documents"
    os.makedirs(f"{world.folder}/full/x")
    os.makedirs(live)
    os.symlink(live, f"{world.folder}/link")
    Path(f"{world.folder}/file").write_bytes(b"mine")
    places = {"live": live, "inside": f"{live}/deeper", "around": f"{world.folder}/live"}
    with pytest.raises(TargetRefused) as caught:
        into(world, sealed, places.get(kind, f"{world.folder}/{kind}"))
    assert caught.value.next_step
    assert Path(f"{world.folder}/file").read_bytes() == b"mine"
    assert os.listdir(f"{world.folder}/full") == ["x"]
    assert os.listdir(live) == []


def test_empty_target_and_deep_target(world: World) -> None:
    """An empty folder gives way, and missing parents are made."""
    sealed = world.capture()
    os.mkdir(f"{world.folder}/empty")
    for name in ("empty", "a/b/c"):
        assert into(world, sealed, f"{world.folder}/{name}").point == sealed.body.id


def test_chosen_components(world: World) -> None:
    """Only what is named is built; what there is not is named in the error."""
    sealed = world.capture()
    repository = world.repository()
    particulars = repository.particulars(sealed.body)
    told: list[tuple[str, int]] = []
    done = restore(
        repository,
        sealed.body,
        particulars,
        f"{world.folder}/some",
        lambda _kind: world.driver,
        world.clock,
        components=("prompts",),
        progress=lambda name, size: told.append((name, size)),
    )
    assert set(done.copies) == {"prompts"}
    assert sum(size for _, size in told) == 15_000
    with pytest.raises(NotFound, match="nonsense"):
        restore(
            repository,
            sealed.body,
            particulars,
            f"{world.folder}/none",
            lambda _kind: world.driver,
            world.clock,
            components=("nonsense",),
        )
    assert not os.path.exists(f"{world.folder}/none")


def test_bytes_that_a_driver_gets_are_checked(world: World) -> None:
    """P12: a chunk that is damaged stops the restore before the target has its name."""
    sealed = world.capture()
    repository = world.repository()
    particulars = repository.particulars(sealed.body)
    packs = sorted(world.store.list("packs/"), key=lambda entry: entry.size)
    data = bytearray(world.store.get(packs[-1].name))
    data[len(data) // 2] ^= 1
    world.store.delete(packs[-1].name)
    world.store.put(packs[-1].name, bytes(data))
    with pytest.raises(IntegrityError):
        restore(repository, sealed.body, particulars, f"{world.folder}/t", lambda _kind: world.driver, world.clock)
    assert not os.path.exists(f"{world.folder}/t")
    items = repository.snapshot(sealed.body, "prompts").items()
    assert sum(isinstance(item, Blob) for item in items) == 30
