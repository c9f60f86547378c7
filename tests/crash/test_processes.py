"""P1, P10: two writers, a pruner and a checker, real processes on one folder, are killed at random moments and started again.

No chunk is lost: every point that was sealed is promised and restores exactly, or expired by a plan; the checker, which reads
everything all the time beside captures and prunes, finds no damage.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

from resurgam.vault.check import check
from resurgam.vault.prunes import Stage
from tests.vault_workers import ROLES, contents_stand, opened, prune, settle

SEED = 20260104
SECONDS = 8.0
KILLS, POINTS = 4, 3  # at least; a busy machine is given more seconds for them
PATIENCE = 20  # times as many
ROOT = str(Path(__file__).parents[2])


class Workers:
    """A process for each role, killed and started again."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng = str(folder), Random(seed)
        self.killed = 0
        self.running: dict[str, subprocess.Popen[str]] = {}

    def run(self, seconds: float) -> None:
        """Kill one after the other, until the time is over and enough has come about."""
        try:
            for role in ROLES:
                self._start(role)
            began = time.monotonic()
            while (passed := time.monotonic() - began) < seconds or (
                self._too_little() and passed < seconds * PATIENCE
            ):
                self._look(self.rng.uniform(0.1, 2.0))
                self._kill(self.rng.choice(ROLES))
        finally:
            for process in self.running.values():
                process.kill()
                process.wait()
                if process.stderr is not None:
                    process.stderr.close()

    def _too_little(self) -> bool:
        with open(f"{self.folder}/sealed", "rb") as file:
            return self.killed < KILLS or len(file.readlines()) < POINTS

    def _start(self, role: str) -> None:
        argv = [sys.executable, "-m", "tests.vault_workers", role, self.folder, str(self.rng.random())]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((ROOT, *filter(None, [os.environ.get("PYTHONPATH")]))),
        }
        self.running[role] = subprocess.Popen(argv, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)

    def _look(self, seconds: float) -> None:
        """Wait, and find out who has ended without being killed: nobody may."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            for role, process in self.running.items():
                try:
                    process.wait(timeout=min(left, 0.02))
                except subprocess.TimeoutExpired:
                    continue
                raise AssertionError(f"{role} ended with {process.returncode}: {process.communicate()[1]}")

    def _kill(self, role: str) -> None:
        process = self.running[role]
        os.kill(process.pid, signal.SIGKILL)
        said = process.communicate()[1]
        assert process.returncode == -signal.SIGKILL, f"{role} ended with {process.returncode}: {said}"
        self.killed += 1
        self._start(role)


def killed_at_random(folder: Path, seed: int, seconds: float) -> dict[str, int]:
    """Let them work, then finish what is open, and look at everything."""
    folder.mkdir(exist_ok=True)
    settle(str(folder))
    (folder / "sealed").touch()
    workers = Workers(folder, seed)
    workers.run(seconds)
    promised, expired = contents_stand(str(folder))
    for _ in range(3):
        prune(str(folder), Random(seed))
    assert contents_stand(str(folder))[0] <= promised
    repository = opened(str(folder))
    assert check(repository, read=True).damage == ()
    swept = [one for one in repository.prunes().all if one.stage is Stage.SWEPT]
    gone = sum(len(one.end.gone) for one in swept if one.end is not None)
    return {"kills": workers.killed, "points": promised + expired, "sweeps": len(swept), "packs removed": gone}


def test_killed_processes_lose_no_chunk(tmp_path: Path) -> None:
    """P1, P10: a few seconds of what the soak does for minutes."""
    done = killed_at_random(tmp_path / "vault", SEED, SECONDS)
    print(done)
    assert done["kills"] >= KILLS
    assert done["points"] >= POINTS
