"""P1, P5: a recovery that is killed at any step leaves live wholly old or wholly new, or its journal says so; the same command,
given again, ends it, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.journeys.world import World, partial_folders, tree

SEED = int(os.environ.get("SEED", "20261121"))
KILLS = int(os.environ.get("KILLS", "5"))  # `make soak` asks for more
ROOT = Path(__file__).parents[2]
MANY = 1_000_000
GUARDED = ("isolation: required", "isolation: required\npromotion: {fence: [env], reload: [env], watch: 100ms}")


class Countdown:
    """Counts every fsync, and does ``stop`` at one of them: between two of them nothing becomes durable."""

    def __init__(self, patch: pytest.MonkeyPatch, stop: Callable[[], None]) -> None:
        self.left = MANY
        real = os.fsync

        def fsync(descriptor: int) -> None:
            self.left -= 1
            if self.left == 0:
                stop()
            real(descriptor)

        patch.setattr(os, "fsync", fsync)


def recover_and_die(home: str, stop: int) -> None:
    """The life of a child process: a recovery that is killed at its fsync number ``stop``."""
    countdown = Countdown(pytest.MonkeyPatch(), lambda: os.kill(os.getpid(), signal.SIGKILL))
    countdown.left = stop
    result = World(home).run("recover", "--yes")
    sys.exit(result.code)


def broken(folder: Path) -> tuple[World, dict[str, str], dict[str, str]]:
    """A system with a point, since when its prompt and its router changed; what it answered then, and its files now."""
    world = World(str(folder)).ready()
    world.manifest(GUARDED)
    answers = world.system.ask()
    world.capture()
    world.system.change_prompt()
    world.system.swap_model()
    return world, answers, tree(world.system.root)


def components(files: dict[str, str]) -> dict[str, str]:
    """The files of the components at their live places."""
    places = ("data/handbook.db", "models", "prompts", "config")
    return {path: what for path, what in files.items() if path.partition("/")[0] in places or path in places}


def require_recovered(world: World, answers: dict[str, str]) -> None:
    assert world.system.ask() == answers
    assert partial_folders(world.home) == []
    assert [name for name in os.listdir(world.home) if ".recover-" in name] == []
    assert [name for _, _, names in os.walk(world.path("state")) for name in names if name == "recovering.json"] == []
    assert json.loads(world.run("status", "--json").out)["promotions"] == []


def count_of(folder: Path, patch: pytest.MonkeyPatch) -> int:
    """How many places there are to be killed at."""
    world, answers, _ = broken(folder)
    with patch.context() as within:
        countdown = Countdown(within, lambda: None)
        assert world.run("recover", "--yes").code == 0
        count = MANY - countdown.left
    require_recovered(world, answers)
    return count


def test_p1_killed_anywhere_the_same_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice in a row, sometimes: the way on can be killed as well. Once over, an undo brings the old state back exactly."""
    choice = random.Random(SEED)
    count = count_of(tmp_path / "whole", monkeypatch)
    assert count > 40
    stops = sorted(choice.sample(range(1, count + 1), min(KILLS, count)))
    print(f"SEED={SEED} stops={stops} of {count}")
    for stop in stops:
        world, answers, old = broken(tmp_path / str(stop))
        for again in (stop, choice.randint(1, count)):
            program = f"from tests.crash.test_recover import recover_and_die; recover_and_die({world.home!r}, {again})"
            done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, cwd=ROOT)
            assert done.returncode in (-signal.SIGKILL, 0), done.stderr.decode()
        told = json.loads(world.run("status", "--json").out)["promotions"]
        now = components(tree(world.system.root))
        assert told or now == components(old) or world.system.ask() == answers, f"mixed, and nobody says so: {stop}"
        result = world.run("recover", "--yes")
        assert result.code == 0, result
        require_recovered(world, answers)
        while json.loads(world.run("status", "--json").out)["undoable"]:
            assert world.run("promote", "--undo", "latest").code == 0
        assert components(tree(world.system.root)) == components(old)


def test_two_recoveries_at_once_are_refused(tmp_path: Path) -> None:
    from resurgam.restore import stage

    world, _, _ = broken(tmp_path)
    folder = next(
        os.path.join(where, "handbook") for where, names, _ in os.walk(world.path("state")) if "handbook" in names
    )
    with stage.locked(folder, "recover"):
        assert world.run("recover", "--yes").code == 10


def test_a_recovery_to_another_point_gives_the_unfinished_one_up(tmp_path: Path) -> None:
    """Its copies go, and what is live was never touched by it."""
    world, answers, _ = broken(tmp_path)
    later = world.capture()
    program = f"from tests.crash.test_recover import recover_and_die; recover_and_die({world.home!r}, 3)"
    subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, cwd=ROOT)
    first, _ = world.points()
    plan = json.loads(world.run("recover", "--dry-run", "--json").out)
    assert (plan["point"], bool(plan["resumes"])) == (later, True)
    other = json.loads(world.run("recover", "--to", first, "--dry-run", "--json").out)
    assert (other["point"], other["resumes"]) == (first, "")
    assert world.run("recover", "--to", first, "--yes").code == 0
    require_recovered(world, answers)
