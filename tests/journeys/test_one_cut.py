"""One cut through a whole system: captures of the helpdesk while processes of its own write into documents, index, agent and
prompts together. Under the barrier no point holds half of what belonged together; without it the same test finds points that do.

``make soak`` takes 300 points (``CAPTURES``), the tests a slice of them.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from resurgam.capture.manifest import load_manifest
from resurgam.capture.run import capture
from resurgam.clock import SystemClock
from resurgam.drivers.registry import driver_for
from resurgam.model.point import Severity
from resurgam.model.system import System
from resurgam.restore.run import restore
from resurgam.stores.local import LocalStore
from resurgam.vault.host import HostState
from resurgam.vault.keyring import Keyring
from resurgam.vault.repository import Repository, Sealed
from tests.support import no_witness

ROOT = Path(__file__).parents[2]
SLICE = 20
RATE = 60  # acts a second of all writers together: some are at work in every freeze
LONG_RATE = 20  # in the long run, where what they write adds up
WRITERS = 3
UNPAIRED = 200  # captures at most until one without the barrier is caught broken; it takes some five
PATIENCE = 60.0


class Cuts:
    """A helpdesk with a vault of its own, and what captures of it were like."""

    def __init__(self, folder: Path) -> None:
        self.home, self._folder = folder / "desk", folder
        make = [sys.executable, "-m", "examples.helpdesk", "make", str(self.home)]
        subprocess.run(make, cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE)
        self.system: System = load_manifest(str(self.home / "resurgam.yaml"))
        self._clock = SystemClock()
        self._store = LocalStore.create(str(folder / "vault"))
        made, _ = Repository.create(self._store, str(folder / "keys"), self.system.name, self._clock)
        self._host = HostState(made.vault.hex(), self.system.name, str(folder / "state"))
        self.freezes: list[float] = []
        self.broken: list[str] = []

    def repository(self) -> Repository:
        """The vault, opened anew, as each command does."""
        return Repository(self._store, Keyring(str(self._folder / "keys")))

    def capture(self, system: System) -> Sealed:
        """One point; notes its freeze, and every invariant that it found broken."""
        sealed = capture(system, driver_for, no_witness, self.repository(), self._host, self._clock)
        self.freezes.append(sealed.body.freeze)
        found = self.repository().particulars(sealed.body).findings
        self.broken += [f"{sealed.body.id}: {f.what} {f.keys}" for f in found if f.severity is Severity.BROKEN]
        return sealed

    def disagreements(self, sealed: Sealed) -> list[str]:
        """What the parts of a restored copy say differently, as the application itself sees it: every vector is fetched."""
        repository, into = self.repository(), str(self._folder / sealed.body.id)
        details = repository.particulars(sealed.body)
        restored = restore(repository, sealed.body, details, into, driver_for, self._clock)
        asked = {"components": {name: f"{into}/{copy.place}" for name, copy in restored.copies.items()}}
        command = [sys.executable, "bin/helpdesk", "agree", "--probe"]
        said = subprocess.run(
            command,
            cwd=self.home,
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE,
        )
        answers: dict[str, Any] = json.loads(said.stdout)["answers"]
        return list(answers["disagreements"])

    @contextmanager
    def written_to(self, seed: int, *more: str, rate: int = RATE) -> Iterator[None]:
        """Processes of the desk's own write to all its stores."""
        words = ["--rate", str(rate), "--seconds", "3600", "--writers", str(WRITERS), "--seed", str(seed), *more]
        command = [sys.executable, "bin/helpdesk", "load", *words]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=self.home, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as load:
            assert load.stderr is not None
            assert load.stderr.readline() == "ready\n"
            try:
                yield
                assert load.poll() is None, "the writers ended by themselves"
                done = json.loads(load.communicate(timeout=PATIENCE)[0])
                assert done["notes"] > 0
                assert done["tickets"] > 0
            finally:
                if load.poll() is None:
                    load.kill()


def under_the_barrier(folder: Path, seed: int, captures: int, *, copies: int) -> dict[str, int]:
    """``captures`` points beside writers: none with a broken invariant, and of ``copies`` the restored parts agree."""
    cuts = Cuts(folder)
    kept = [number * captures // copies for number in range(copies)]
    with cuts.written_to(seed, rate=RATE if captures <= SLICE else LONG_RATE):
        sealed = [(number, cuts.capture(cuts.system)) for number in range(captures)]
    assert cuts.broken == []
    for _, point in (sealed[number] for number in kept):
        assert cuts.disagreements(point) == []
    freezes = sorted(cuts.freezes)
    assert freezes[-1] <= cuts.system.limits.freeze
    return {
        "points": captures,
        "peak freeze ms": round(1000 * freezes[-1]),
        "peak p99 freeze ms": round(1000 * freezes[int(0.99 * (captures - 1))]),
        "peak median freeze ms": round(1000 * statistics.median(freezes)),
    }


def test_every_point_holds_together(tmp_path: Path) -> None:
    """P1: documents, vectors, memories and prompts that were written together are captured together."""
    under_the_barrier(tmp_path, seed=1, captures=SLICE, copies=2)


def test_without_the_barrier_a_point_is_caught_broken(tmp_path: Path) -> None:
    """The counter-proof: the same writers without it, and the invariants name what is torn."""
    cuts = Cuts(tmp_path)
    without = msgspec.structs.replace(cuts.system, barrier=None)
    with cuts.written_to(2, "--no-barrier"):
        for _ in range(UNPAIRED):
            cuts.capture(without)
            if cuts.broken:
                return
    pytest.fail(f"{UNPAIRED} points, and not one was torn: this test would not see a broken cut")
