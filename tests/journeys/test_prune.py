"""Prune as people and timers run it: the commands, on a folder, with a real process that is frozen and wakes up."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from random import Random
from typing import Any

import pytest

from resurgam.cli.main import main
from tests.support import copy_keys, tree

MANIFEST = """\
resurgam: 1
system: notes
vault: {path: %(vault)s, keys: %(keys)s}
components:
  notes: {driver: files, location: live}
retention: {last: 1}
"""
LARGE = 400_000
DAY = 86_400


class Host:
    """A system of files, a vault on disk, and the command line."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rng = folder, Random(4)
        self.vault, self.keys, self.live = folder / "vault", folder / "keys", folder / "live"
        self.live.mkdir(parents=True)
        self.manifest = folder / "resurgam.yaml"
        self.manifest.write_text(MANIFEST % {"vault": self.vault, "keys": self.keys}, encoding="utf-8")
        for number in range(6):
            self.change(number)
        assert self.run("vault", "init")[0] == 0

    def change(self, number: int) -> None:
        """One of the files becomes another."""
        (self.live / f"{number}").write_bytes(self.rng.randbytes(LARGE))

    def run(self, *words: str, keys: Path | None = None) -> tuple[int, Any]:
        """Exit code and what was answered in JSON."""
        said = io.StringIO()
        with redirect_stdout(said):
            code = main([*words, "--manifest", str(self.manifest), "--json", *(["--keys", str(keys)] if keys else [])])
        return code, json.loads(said.getvalue())

    def captured(self) -> str:
        """The id of a new point."""
        code, said = self.run("capture")
        assert code == 0, said
        return str(said["id"])

    def weeks_pass(self) -> None:
        """The store received everything twenty days before it did."""
        for path in self.vault.rglob("*"):
            if path.is_file():
                status = path.stat()
                os.utime(path, (status.st_atime - 20 * DAY, status.st_mtime - 20 * DAY))

    def with_policy(self) -> list[str]:
        """Three points under a policy that keeps the last, which has come to be in force."""
        points = [self.captured()]
        assert self.run("retention", "set", "--yes")[0] == 0
        for number in (0, 1):
            self.change(number)
            self.weeks_pass()
            points.append(self.captured())
        return points

    def restored(self, point: str) -> dict[bytes, bytes]:
        """What a point restores to."""
        into = self.folder / "out"
        code, said = self.run("restore", point, "--into", str(into))
        assert code == 0, said
        try:
            return {os.path.basename(path): data for path, data in tree(str(into / "notes")).items()}
        finally:
            shutil.rmtree(into)


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[None]:
    """A real file system of 8 MiB where the vault will be."""
    place = tmp_path / "vault"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("may not mount a small file system here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """With notes of its own."""
    monkeypatch.setenv("RESURGAM_STATE", str(tmp_path / "state"))
    return Host(tmp_path)


def held(host: Host) -> int:
    """Bytes of packs in the vault."""
    return sum(path.stat().st_size for path in (host.vault / "packs").rglob("*") if path.is_file())


def test_from_the_plan_to_the_sweep(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """P10: the plan is printed and nothing is done; then with two files of keys it is done, and what is kept restores exactly."""
    points = host.with_policy()
    keys = Path(copy_keys(str(host.keys), str(host.folder / "pruner"), ("trust.json", "pruner.json")))
    before, now = held(host), tree(str(host.live))
    before_it = shutil.copytree(host.vault, host.folder / "copy")
    code, said = host.run("vault", "prune", keys=keys)
    assert (code, sorted(said["plan"]["expire"])) == (0, sorted(points[:2]))
    assert held(host) == before
    assert [point["id"] for point in host.run("points")[1]] == points
    assert main(["vault", "prune", "--manifest", str(host.manifest), "--keys", str(keys)]) == 0
    printed = capsys.readouterr().out
    assert f"expire: {points[0]}: no rule keeps it" in printed
    assert "nothing was changed: --yes does it" in printed
    code, said = host.run("vault", "prune", "--yes", keys=keys)
    assert (code, said["stage"]) == (0, "swept")
    assert before - held(host) > 2 * LARGE - 50_000
    assert [point["id"] for point in host.run("points")[1]] == points[2:]
    assert {point["id"] for point in host.run("points", "--expired")[1]} == set(points[:2])
    assert host.restored(points[2]) == {os.path.basename(path): data for path, data in now.items()}
    code, said = host.run("show", points[0])
    assert (code, said["id"]) == (0, points[0])
    code, said = host.run("restore", points[0], "--into", str(host.folder / "out"))
    assert code == 4
    assert "expired with prune 1" in said["error"]["message"]
    assert host.run("vault", "check", "--read")[0] == 0
    assert host.run("vault", "prune", "--yes", keys=keys)[1]["plan"]["expire"] == {}
    code, said = host.run("vault", "prune", "--undo", "1", "--yes", keys=keys)
    assert (code, "that the prune has not reached" in said["error"]["next_step"]) == (10, True)
    _, restored = host.run("restore", points[0], "--into", str(host.folder / "old"), "--vault", str(before_it))
    assert restored["point"] == points[0], "P12: what it says helps"


@pytest.mark.usefixtures("crowded")
def test_a_full_disk_does_not_lock_prune_out(host: Host) -> None:
    """P1, P12: captures fill a real disk, down to the smallest that finds no room; a prune gives room back; the next one seals."""
    points = host.with_policy()
    for large in (LARGE, 40_000, 4_000, 1):
        code = 0
        while code == 0:
            (host.live / "0").write_bytes(host.rng.randbytes(large))
            code, said = host.run("capture")
            points += [said["id"]] if code == 0 else []
        assert (code, said["error"]["kind"]) == (12, "StoreFull")
        assert "resurgam vault prune" in said["error"]["next_step"]
    host.weeks_pass()
    assert [point["id"] for point in host.run("points")[1]] == points
    before = host.restored(points[-1])
    code, said = host.run("vault", "prune", "--yes", "--revoke-older", "1h")
    assert (code, said["stage"], len(said["plan"]["expire"])) == (0, "swept", len(points) - 1)
    assert host.restored(points[-1]) == before
    host.change(0)
    assert host.restored(host.captured())
    assert host.run("vault", "check", "--read")[0] == 0


def test_a_time_of_the_future_ends_nothing(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """P12: who dates one log entry a month ahead ends no cooling period; it is named, and nothing is put."""
    points = [host.captured()]
    assert host.run("retention", "set", "--yes")[0] == 0
    for number in (0, 1):
        host.change(number)
        points.append(host.captured())
    entry = max((host.vault / "log").rglob("[0-9]*"))
    os.utime(entry, (time.time() + 30 * DAY,) * 2)
    capsys.readouterr()
    for words in (["vault", "prune"], ["retention", "show"], ["retention", "explain", points[0]]):
        assert host.run(*words)[0] == 0
        assert str(entry.relative_to(host.vault)) in capsys.readouterr().err
    assert len(host.run("vault", "prune")[1]["plan"]["expire"]) == 2, "what it would do, were the time right"
    code, said = host.run("vault", "prune", "--yes", "--revoke-older", "1h")
    assert (code, said["error"]["kind"]) == (8, "IntegrityError")
    assert str(entry.relative_to(host.vault)) in said["error"]["message"]
    assert "whichever clock is wrong" in said["error"]["next_step"]
    assert host.run("vault", "prune", "--list")[1] == []
    os.utime(entry)
    assert host.run("vault", "prune", "--yes")[1]["plan"]["expire"] == {}
    assert [point["id"] for point in host.run("points")[1]] == points


def test_two_must_say_yes(host: Host) -> None:
    """Four eyes: the plan is put and not begun until an approver has said yes to exactly this one, by its file."""
    points = host.with_policy()
    assert host.run("vault", "roles", "--require", "prune=1", "--yes")[0] == 0
    code, said = host.run("vault", "prune", "--yes")
    assert (code, said["error"]["kind"]) == (6, "Denied")
    assert len(host.run("points")[1]) == 3
    _, shown = host.run("vault", "prune")
    file = host.folder / "plan.json"
    file.write_text(json.dumps(shown), encoding="utf-8")
    assert sorted(shown["plan"]["expire"]) == sorted(points[:2])
    assert host.run("vault", "approve", str(file))[0] == 0
    assert host.run("vault", "prune", "--yes")[1]["stage"] == "swept"


def test_a_capture_that_is_frozen_and_wakes_up_revoked(host: Host) -> None:
    """P1: a real process, stopped before its seal; a prune waits for it, it is revoked, and what it had built on goes. It wakes up,
    is told, and nothing of it is there; between the phases all can be taken back."""
    points = host.with_policy()
    host.change(5)
    with frozen(host) as capturing:
        code, said = host.run("vault", "prune", "--yes")
        assert (code, said["stage"], len(said["waits_for"])) == (10, "begun", 1)
        assert len(host.run("points")[1]) == 1
        assert host.run("status")[1]["prune"].startswith("prune 1 is begun since ")
        code, said = host.run("hold", "add", points[1], "--reason", "a court", "--owner", "legal")
        assert (code, said["error"]["kind"]) == (4, "NotFound")
        code, said = host.run("vault", "prune", "--undo", "1", "--why", "a drill", "--yes")
        assert (code, said["stage"]) == (0, "undone")
        assert len(host.run("points")[1]) == 3
        assert host.run("vault", "prune", "--yes")[0] == 10
        (lease,) = host.run("vault", "leases")[1]
        assert lease["system"] == "notes"
        code, said = host.run("vault", "leases", "--revoke", lease["id"], "--yes")
        assert (code, said["revoked"]) == (0, lease["names"])
        assert host.run("vault", "prune", "--yes")[1]["stage"] == "swept"
        capturing.send_signal(signal.SIGCONT)
        said, _ = capturing.communicate(timeout=60)
        assert capturing.returncode == 10, said
        assert "was revoked" in json.loads(said)["error"]["message"]
    assert [point["id"] for point in host.run("points")[1]] == points[2:]
    after = host.captured()
    assert host.restored(after) == {os.path.basename(path): data for path, data in tree(str(host.live)).items()}
    assert host.run("vault", "check", "--read")[0] == 0


@contextmanager
def frozen(host: Host) -> Iterator[subprocess.Popen[str]]:
    """A capture that is stopped between its lease and its seal. It reads slowly, so that there is time to stop it."""
    slow = host.manifest.read_text(encoding="utf-8") + "limits: {read_mb_s: 0.4}\n"
    host.manifest.write_text(slow, encoding="utf-8")
    there = {path.name for path in (host.vault / "leases").iterdir()}
    command = [sys.executable, "-m", "resurgam", "capture", "--manifest", str(host.manifest), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as capturing:
        try:
            until = time.monotonic() + 30
            while {path.name for path in (host.vault / "leases").iterdir()} == there:
                assert capturing.poll() is None, capturing.communicate()
                assert time.monotonic() < until, "no lease was put"
                time.sleep(0.002)
            capturing.send_signal(signal.SIGSTOP)
            yield capturing
        finally:
            capturing.kill()


def test_dead_leases_are_revoked_by_age(host: Host) -> None:
    """A prune that is told how old is dead revokes what it would wait for, and nothing younger."""
    host.with_policy()
    with frozen(host) as capturing:
        capturing.kill()
    assert host.run("vault", "prune", "--yes", "--revoke-older", "7d")[0] == 10
    host.weeks_pass()
    (host.vault / "log").touch()
    code, said = host.run(
        "hold", "add", "latest", "--reason", "a clock", "--owner", "us"
    )  # the store receives something now
    assert code == 0, said
    code, said = host.run("vault", "prune", "--yes", "--revoke-older", "7d")
    assert (code, said["stage"]) == (0, "swept")
