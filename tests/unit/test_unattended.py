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

ROOT = Path(__file__).parents[2]
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
    rings, cut, took = signal.getsignal(signal.SIGALRM), 0, []
    for _ in range(3):
        began = time.monotonic()
        prove(sealed, notes, None, lambda directory: built(world, sealed, directory))
        took.append(time.monotonic() - began)
    for number in range(60):
        said = ""
        try:
            prove(sealed, notes, rng.uniform(1e-4, min(took)), lambda directory: built(world, sealed, directory))
        except LimitExceeded as error:
            said, cut = error.untouched, cut + 1
        kept = os.listdir(f"{notes}/{FOLDER}")
        assert kept == ([sealed.body.id] if "its whole copies stay" in said else []), said
        if kept:
            assert load(f"{notes}/{FOLDER}/{sealed.body.id}").point == sealed.body.id
            os.rename(f"{notes}/{FOLDER}/{sealed.body.id}", f"{folder}/kept-{number}")
        assert (signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)) == (rings, (0.0, 0.0))
    assert cut > 10, "few were cut off"


@pytest.mark.parametrize("seed", [1, 20261122])
def test_p5_cut_off_at_any_moment_it_leaves_whole_copies_or_none(tmp_path: Path, seed: int) -> None:
    """In a process of its own: a file that was being opened at that moment is closed by nobody but the end."""
    command = [sys.executable, "-W", "ignore", "-c", ROUNDS, str(tmp_path), str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"


def test_p5_what_could_not_be_cleaned_up_in_time_is_removed(tmp_path: Path) -> None:
    """The alarm rings again where it was not heard, and may do so while what is half built is being removed."""
    sealed, notes = a_world(str(tmp_path)).capture(), tmp_path / "notes"

    def left(directory: str) -> Proof:
        os.makedirs(f"{directory}.partial-0123456789abcdef/documents")
        signal.pause()
        raise AssertionError("it was not cut off")

    with pytest.raises(LimitExceeded, match=re.escape("could not be judged within 0.5 s")):
        prove(sealed, str(notes), 0.5, left)
    assert os.listdir(notes / FOLDER) == []
