"""A promotion that is stopped at any moment is taken back or finished, never left mixed without its journal saying so (P1, P5)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from resurgam.errors import Busy, IntegrityError
from resurgam.restore import switch
from resurgam.restore.intent import Phase
from resurgam.restore.promote import pending
from resurgam.restore.state import State
from tests.crash.promotion_world import ID, World, tree, without

SEED = int(os.environ.get("SEED", "20261121"))
KILLS = int(os.environ.get("KILLS", "8"))  # of each kind; `make soak` asks for more
MANY = 10_000


class Crash(BaseException):
    """The machine stops: no handler of ours may clean up after it."""


class Countdown:
    """Counts the places where a promotion could stop (each step it tells of, each fsync), and stops it at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop: Callable[[], None]) -> None:
        self.left = MANY
        self._stop = stop
        real = os.fsync

        def fsync(descriptor: int) -> None:
            self.tick()
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)

    def tick(self, _: str = "") -> None:
        self.left -= 1
        if self.left == 0:
            self._stop()


def crash() -> None:
    raise Crash


def places_to_stop(countdown: Countdown, act: Callable[[], object]) -> int:
    countdown.left = MANY
    act()
    return MANY - countdown.left


def chosen(count: int, *, all_of_them: bool = False) -> range:
    """Every place to stop; of the lesser variants every third, from one that the seed chooses, unless KILLS asks for more."""
    if all_of_them or KILLS > 8:
        return range(1, count + 1)
    print(f"SEED={SEED}")
    return range(1 + random.Random(SEED).randrange(3), count + 1, 3)


def each_world(tmp_path: os.PathLike[str], **how: Any) -> Callable[[int], World]:
    return lambda number: World(_made(f"{os.fspath(tmp_path)}/{number}"), **how)


def require_settled(world: World, before: dict[str, Any], copies: dict[str, Any]) -> str:
    """After ``resume_or_undo``: all old, exactly, with the restore whole; or all new, with the old one kept whole."""
    assert pending(world.journals) == []
    if world.state() is State.PROMOTED:
        assert world.is_of_the_point() == [True] * 3
        for name in (path for path in before if path.endswith((".env", "run.log"))):
            assert tree(world.root)[name][1:] == before[name][1:]  # left out of the point, and carried along
        assert [word for word, _ in world.records][-1:] == ["promoted"]
        return "new"
    assert world.state() is State.JUDGED
    assert world.live() == before
    assert world.restore() == copies
    return "old"


@pytest.mark.parametrize("exchanges", [True, False], ids=["exchange", "two renames"])
@pytest.mark.parametrize("lost", [False, True], ids=["live", "lost"])
def test_p1_stopped_at_every_step_it_is_all_old_or_all_new(
    tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch, exchanges: bool, lost: bool
) -> None:
    if not exchanges:
        monkeypatch.setattr(switch, "can_exchange", lambda _: False)
    new_world = each_world(tmp_path, lost=lost)
    countdown = Countdown(monkeypatch, crash)
    whole = new_world(0)
    count = places_to_stop(countdown, lambda: whole.promoter(countdown.tick).promote(whole.directory))
    assert count > 30
    ends, mixed = [], 0
    for stop in chosen(count, all_of_them=exchanges and not lost):
        countdown.left = MANY
        world = new_world(stop)
        before, copies = world.live(), world.restore()
        countdown.left = stop
        with pytest.raises(Crash):
            world.promoter(countdown.tick).promote(world.directory)
        countdown.left = MANY
        if len(set(world.is_of_the_point())) == 2:  # mixed: never without its journal saying so
            assert [intent.phase for intent in pending(world.journals)] == [Phase.SWITCHING]
            mixed += 1
        world.promoter().resume_or_undo()
        ends.append(require_settled(world, before, copies))
        if ends[-1] == "old":
            assert world.promoter().promote(world.directory).id == ID  # and it can be promoted now
            assert world.is_of_the_point() == [True] * 3
    assert ends == sorted(ends, reverse=True)  # old, old, …, new, new: one moment decides
    assert set(ends) == {"old", "new"}
    assert mixed > 0


def test_p1_stopped_at_every_step_an_undo_is_taken_back_or_finished(
    tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    new_world = each_world(tmp_path)
    countdown = Countdown(monkeypatch, crash)
    whole = new_world(0)
    whole.promoter().promote(whole.directory)
    count = places_to_stop(countdown, lambda: whole.promoter(countdown.tick).undo(ID))
    ends = set()
    for stop in chosen(count):
        countdown.left = MANY
        world = new_world(stop)
        before = world.live()
        world.promoter().promote(world.directory)
        promoted = world.live()
        countdown.left = stop
        with pytest.raises(Crash):
            world.promoter(countdown.tick).undo(ID)
        countdown.left = MANY
        world.promoter().resume_or_undo()
        assert pending(world.journals) == []
        ends.add(world.state())
        if world.state() is State.PROMOTED:
            assert world.live() == promoted
            world.promoter().undo(ID)
        assert without(world.live(), ".undone-") == before
    assert ends == {State.PROMOTED, State.UNDONE}


def test_p1_the_way_back_can_be_stopped_as_well(tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A second crash, while the first one is being mended."""
    choice = random.Random(SEED)
    print(f"SEED={SEED}")
    new_world = each_world(tmp_path)
    countdown = Countdown(monkeypatch, crash)
    whole = new_world(0)
    count = places_to_stop(countdown, lambda: whole.promoter(countdown.tick).promote(whole.directory))
    for number in range(1, 3 * KILLS):
        countdown.left = MANY
        world = new_world(number)
        before, copies = world.live(), world.restore()
        countdown.left = choice.randint(count // 3, count)
        with pytest.raises(Crash):
            world.promoter(countdown.tick).promote(world.directory)
        for _ in range(3):
            countdown.left = choice.randint(1, count)
            try:
                world.promoter(countdown.tick).resume_or_undo()
            except Crash:
                continue
        countdown.left = MANY
        world.promoter().resume_or_undo()
        require_settled(world, before, copies)


def promote_and_die(folder: str, stop: int) -> None:
    """The life of the child process below."""
    countdown = Countdown(pytest.MonkeyPatch(), lambda: os.kill(os.getpid(), signal.SIGKILL))
    world = World(folder, fresh=False)
    countdown.left = stop
    world.promoter(countdown.tick).promote(world.directory)


@pytest.mark.parametrize("number", range(KILLS))
def test_p1_killed_for_real_it_is_all_old_or_all_new(tmp_path: os.PathLike[str], number: int) -> None:
    """kill -9 of the promoting process, at a step that the seed chooses."""
    choice = random.Random(f"{SEED}/{number}")
    stop = choice.randint(1, 60)
    print(f"SEED={SEED} stop={stop}")
    world = World(_made(f"{os.fspath(tmp_path)}/world"))
    before, copies = world.live(), world.restore()
    program = f"from tests.crash.test_promote import promote_and_die; promote_and_die({world.folder!r}, {stop})"
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, cwd=_ROOT)
    assert done.returncode in (-signal.SIGKILL, 0), done.stderr.decode()
    world.promoter().resume_or_undo()
    if world.state() is State.PROMOTED and not world.records:
        world.records.append(("promoted", {}))  # the child itself had recorded it
    require_settled(world, before, copies)


@pytest.mark.parametrize("stop_at", ["stage", "fence", "exchange"])
def test_p12_ctrl_c_takes_everything_back(tmp_path: os.PathLike[str], stop_at: str) -> None:
    world = World(_made(f"{os.fspath(tmp_path)}/world"))
    before, copies = world.live(), world.restore()

    def tell(step: str) -> None:
        if step.startswith(stop_at):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.promoter(tell).promote(world.directory)
    assert require_settled(world, before, copies) == "old"


def stopped_amid(world: World) -> None:
    """A promotion of which one component is switched and the others are not."""
    steps = []

    def tell(step: str) -> None:
        steps.append(step)
        if len([step for step in steps if step.startswith("exchange")]) == 2:
            raise Crash

    with pytest.raises(Crash):
        world.promoter(tell).promote(world.directory)
    assert sorted(world.is_of_the_point()) == [False, False, True]


def test_p1_a_mixed_state_is_told_and_blocks_the_next_promotion(tmp_path: os.PathLike[str]) -> None:
    world = World(_made(f"{os.fspath(tmp_path)}/world"))
    stopped_amid(world)
    assert [(intent.id, intent.phase) for intent in pending(world.journals)] == [(ID, Phase.SWITCHING)]
    with pytest.raises(Busy, match="cut off while switching"):
        world.promoter().promote(world.directory)
    with pytest.raises(Busy, match="cut off while switching"):
        world.promoter().undo("ffff")


def test_p12_what_a_stranger_changed_meanwhile_is_not_guessed_over(tmp_path: os.PathLike[str]) -> None:
    """A service that came up on the mixed state began a WAL: bringing the old image under it would corrupt it."""
    world = World(_made(f"{os.fspath(tmp_path)}/world"))
    before = world.live()
    stopped_amid(world)
    stranger = f"{world.places['documents']}-wal"
    with open(stranger, "w") as file:
        file.write("pages of the new image")
    amid = world.live()
    with pytest.raises(IntegrityError, match=r"handbook[.]db-wal") as caught:
        world.promoter().resume_or_undo()
    assert "Nothing was moved" in caught.value.untouched
    assert world.live() == amid
    assert len(pending(world.journals)) == 1
    os.unlink(stranger)
    world.promoter().resume_or_undo()
    assert world.live() == before


def test_a_held_file_stops_the_way_back_too(tmp_path: os.PathLike[str]) -> None:
    world = World(_made(f"{os.fspath(tmp_path)}/world"))
    before = world.live()
    stopped_amid(world)
    with open(world.places["documents"]), pytest.raises(Busy):
        world.promoter().resume_or_undo()
    world.promoter().resume_or_undo()
    assert world.live() == before


_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def _made(folder: str) -> str:
    os.mkdir(folder)
    return folder
