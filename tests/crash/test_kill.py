"""P1, P5: real processes of the command line, killed without warning at random moments, lose nothing.

Each round kills one ``capture``, ``restore`` or ``promote`` and looks at everything: listed points restore exactly and the
vault is clean; a restore's target is whole or not there; the live system is wholly the old or wholly the new, and `promote
--resume` ends what was cut off. The tests run a seeded part, the soak all.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from resurgam.drivers.registry import driver_for
from resurgam.restore.run import restore
from resurgam.stores.local import LocalStore
from resurgam.testing.faults import ManualClock
from resurgam.vault.check import check
from resurgam.vault.keyring import Keyring
from resurgam.vault.repository import Repository, Sealed
from tests.support import Files, tree

SEED = 20260103
ROUNDS, MOST_ROUNDS = 8, 40
AT_WORK = (0.35, 0.95)  # the part of a process's life in which it is killed: before, it only loads itself

MANIFEST = """\
resurgam: 1
system: tiny
vault: {path: ../vault, keys: ../keys}
components:
  prompts: {driver: files, location: prompts}
  notes: {driver: sqlite, location: notes.db, consistency: transaction}
probes:
  all: {kind: command, run: [PYTHON, ask.py], reads: [prompts, notes], witness: true}
isolation: best-effort
limits: {freeze: 30s}
"""
ASK = """\
import json, os, sqlite3, sys
places = json.load(sys.stdin)["components"]
rows = sqlite3.connect("file:" + places["notes"] + "?immutable=1", uri=True).execute("SELECT count(*) FROM note").fetchone()[0]
print(json.dumps({"answers": {"rows": rows, "files": sorted(os.listdir(places["prompts"]))}}))
"""


class Killed:
    """A system on disk with its vault, and the processes that are killed over it."""

    def __init__(self, folder: str, rng: Random) -> None:
        self.folder, self.rng = os.path.realpath(folder), rng
        self.live = f"{self.folder}/live"
        self.points: dict[str, Files] = {}
        self.durations: dict[str, float] = {}
        self.killed = 0
        os.makedirs(f"{self.live}/prompts")
        self._write("resurgam.yaml", MANIFEST.replace("PYTHON", sys.executable).encode())
        self._write("ask.py", ASK.encode())
        with sqlite3.connect(f"{self.live}/notes.db") as database:
            database.execute("CREATE TABLE note (id INTEGER PRIMARY KEY, words TEXT)")
        database.close()
        self.change()
        self.run("vault", "init")
        began = time.monotonic()
        self.run("capture", codes=(0, 22))
        self.durations = dict.fromkeys(
            ("capture", "restore", "promote"), time.monotonic() - began
        )  # on this machine, now
        self._note_points(self.contents())

    def change(self) -> None:
        """What the system's users do between two rounds."""
        with sqlite3.connect(f"{self.live}/notes.db") as database:
            words = [(self.rng.randbytes(300).hex(),) for _ in range(200)]
            database.executemany("INSERT INTO note (words) VALUES (?)", words)
        database.close()
        for _ in range(8):
            self._write(
                f"prompts/{self.rng.randrange(40)}.txt", self.rng.randbytes(self.rng.choice((9, 4000, 700_000)))
            )

    def contents(self) -> Files:
        """The live components, a database by its rows."""
        return _meaning(f"{self.live}/prompts", f"{self.live}/notes.db")

    def run(self, *words: str, codes: tuple[int, ...] = (0,)) -> str:
        """A command that is let live."""
        done = subprocess.run(
            self._argv(words), cwd=self.live, env=self._env(), capture_output=True, timeout=120, check=False, text=True
        )
        assert done.returncode in codes, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def kill(self, verb: str, *words: str) -> bool:
        """Start a command and kill it, with its children, at a random moment; False when it had ended before."""
        process = subprocess.Popen(
            self._argv((verb, *words)),
            cwd=self.live,
            env=self._env(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(timeout=self.rng.uniform(*AT_WORK) * self.durations[verb])
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self.killed += 1
            return True
        self.durations[verb] *= 0.8  # fewer kills shall come too late
        return False

    def round(self, verb: str) -> None:
        """One kill and a look at everything."""
        {"capture": self.capture, "restore": self.restore, "promote": self.promote}[verb]()

    def capture(self) -> None:
        """P1: nothing that is listed is half, and the next capture seals."""
        self.change()
        before = self.contents()
        self.kill("capture")
        self._note_points(before)
        self.all_stand()
        self.run("capture", codes=(0, 22))
        self._note_points(before)
        self.run("status", codes=(0, 23))
        self.all_stand()

    def restore(self) -> None:
        """P5: the target is whole or not there, and the next restore into it works and sweeps up."""
        target = f"{self.folder}/target"
        point = self.rng.choice(sorted(self.points))
        self.kill("restore", point, "--into", target)
        if not os.path.exists(target):
            self.run("restore", point, "--into", target)
        assert _meaning(f"{target}/prompts/prompts", f"{target}/notes/notes.db") == self.points[point]
        assert not [name for name in os.listdir(self.folder) if ".partial-" in name]
        shutil.rmtree(target)

    def promote(self) -> None:
        """P5: live is wholly the old or wholly the point; what was cut off is ended, and can be taken back."""
        target = f"{self.folder}/judged"
        shutil.rmtree(target, ignore_errors=True)
        self.run("capture", codes=(0, 22))  # so that there is a point whose witness agrees with the probes
        self._note_points(self.contents())
        point = self._repository().points()[-1].body.id
        self.run("verify", point, "--into", target)
        self.change()
        old, new = self.contents(), self.points[point]
        assert old != new
        self.kill("promote", target, "--yes")
        self.run("promote", "--resume", codes=(0, 4))
        assert self.contents() in (old, new), "the live system is neither the old nor the point"
        self.run("capture", codes=(0, 22))
        self._note_points(self.contents())
        self.all_stand()

    def all_stand(self) -> None:
        """P1: every listed point is known, whole, and what the system was; the newest four are restored and compared."""
        repository = self._repository()
        points = repository.points()
        assert set(self.points) == {sealed.body.id for sealed in points}, "a point was lost"
        for sealed in points[-4:]:
            assert self._restored(repository, sealed) == self.points[sealed.body.id]
        assert check(repository, read=True).damage == ()

    def _note_points(self, contents: Files) -> None:
        for sealed in self._repository().points():
            self.points.setdefault(sealed.body.id, contents)

    def _repository(self) -> Repository:
        return Repository(LocalStore(f"{self.folder}/vault"), Keyring(f"{self.folder}/keys"))

    def _restored(self, repository: Repository, sealed: Sealed) -> Files:
        home = tempfile.mkdtemp(dir=self.folder)
        try:
            particulars = repository.particulars(sealed.body)
            restore(repository, sealed.body, particulars, f"{home}/r", driver_for, ManualClock())
            return _meaning(f"{home}/r/prompts/prompts", f"{home}/r/notes/notes.db")
        finally:
            shutil.rmtree(home)

    def _argv(self, words: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "resurgam", *words]

    def _env(self) -> dict[str, str]:
        return {**os.environ, "RESURGAM_STATE": f"{self.folder}/state", "HOME": self.folder}

    def _write(self, name: str, data: bytes) -> None:
        with open(f"{self.live}/{name}", "wb") as file:
            file.write(data)


def _meaning(folder: str, database: str) -> Files:
    connection = sqlite3.connect(database)
    rows = connection.execute("SELECT * FROM note ORDER BY id").fetchall()
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    return {**tree(folder), b"rows": repr(rows).encode()}


def test_killed_processes_lose_nothing(tmp_path: Path) -> None:
    """P1, P5: a seeded part of what the soak does. On a machine whose speed jumps about more rounds are needed."""
    killed = Killed(str(tmp_path), Random(SEED))
    number = 0
    while number < ROUNDS or (killed.killed < ROUNDS // 3 and number < MOST_ROUNDS):
        killed.round(("capture", "restore", "promote")[number % 3])
        number += 1
    assert killed.killed >= ROUNDS // 3, "most processes had ended before they were killed"
