"""Proof on a schedule is cut off at any moment: what is half built goes, and so does the alarm."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from resurgam.errors import LimitExceeded
from resurgam.model.verdict import Judgement, Verdict
from resurgam.restore.run import restore
from resurgam.restore.state import load
from resurgam.restore.unattended import FOLDER, prove
from resurgam.restore.verify import Proof
from resurgam.vault.repository import Sealed
from tests.support import World

ROUNDS = """
import sys
from random import Random
from tests.unit.test_unattended import rounds
rounds(sys.argv[1], Random(int(sys.argv[2])))
"""


def a_world(folder: str) -> World:
    """A component of many files."""
    made = World(folder, ("documents",))
    rng = Random(1)
    made.driver.held["documents"].files = {b"%03d" % n: rng.randbytes(20_000) for n in range(50)}
    return made


def built(world: World, sealed: Sealed, directory: str) -> Proof:
    """The restore is real; of judging it only its end is here."""
    repository = world.repository()
    particulars = repository.particulars(sealed.body)
    done = restore(repository, sealed.body, particulars, directory, lambda _kind: world.driver, world.clock)
    verdict = Verdict(
        point=sealed.body.id,
        judgement=Judgement.IDENTICAL,
        parts=(),
        isolation="isolated",
        first_proof=True,
        seconds=1.0,
    )
    return Proof(verdict=verdict, restored=done, directory=directory)


def rounds(folder: str, rng: Random) -> None:
    """Proofs that are cut off by the real alarm, each at another moment; AssertionError where one leaves what it must not."""
    world, notes = a_world(folder), f"{folder}/notes"
    sealed = world.capture()
    began = time.monotonic()
    prove(sealed, notes, None, lambda directory: built(world, sealed, directory))
    whole, rings = time.monotonic() - began, signal.getsignal(signal.SIGALRM)
    for number in range(60):
        said = ""
        try:
            prove(sealed, notes, rng.uniform(1e-4, whole), lambda directory: built(world, sealed, directory))
        except LimitExceeded as error:
            said = error.untouched
        kept = os.listdir(f"{notes}/{FOLDER}")
        assert kept == ([sealed.body.id] if "its whole copies stay" in said else []), said
        if kept:
            assert load(f"{notes}/{FOLDER}/{sealed.body.id}").point == sealed.body.id
            os.rename(f"{notes}/{FOLDER}/{sealed.body.id}", f"{folder}/kept-{number}")
        assert (signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)) == (rings, (0.0, 0.0))


@pytest.mark.parametrize("seed", [1, 20261122])
def test_p5_cut_off_at_any_moment_it_leaves_whole_copies_or_none(tmp_path: Path, seed: int) -> None:
    """In a process of its own: a file that was being opened at that moment is closed by nobody but the end."""
    command = [sys.executable, "-W", "ignore", "-c", ROUNDS, str(tmp_path), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"


def test_p5_what_was_cut_off_a_second_time_while_it_cleaned_up_is_removed(tmp_path: Path) -> None:
    sealed, notes = a_world(str(tmp_path)).capture(), tmp_path / "notes"

    def left(directory: str) -> Proof:
        os.makedirs(f"{directory}.partial-0123456789abcdef/documents")
        time.sleep(60)
        raise AssertionError("it was not cut off")

    with pytest.raises(LimitExceeded, match=re.escape("could not be judged within 0.05 s")):
        prove(sealed, str(notes), 0.05, left)
    assert os.listdir(notes / FOLDER) == []
