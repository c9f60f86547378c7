"""A region is lost: the vault's bucket with its server, the keys, this host's notes and all data of the helpdesk. What is left is a
replica in another place, a file from the safe, and the application, which is code and kept elsewhere. One command brings it back.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.helpdesk import places
from resurgam.model.verdict import Judgement
from tests.journeys.test_first_path import needs_isolation
from tests.journeys.test_helpdesk import PATIENCE, make, probed
from tests.stores.seaweed import Seaweed, environment

pytest.importorskip("chromadb", reason="the extra helpdesk is not installed")
pytest.importorskip("langgraph.checkpoint.sqlite", reason="the extra helpdesk is not installed")

BUCKET = "vaults"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Seaweed]:
    """The region: it will be killed."""
    made = Seaweed(str(tmp_path / "server"))
    for name, value in (environment("writer") | {"XDG_STATE_HOME": str(tmp_path / "state")}).items():
        monkeypatch.setenv(name, value)
    try:
        made.start()
        made.client().create_bucket(Bucket=BUCKET)
        yield made
    finally:
        made.kill()


def command(home: Path, *words: str) -> tuple[int, Any, str]:
    """A command of Resurgam on the desk: its exit code, its JSON, and what it said beside."""
    called = [sys.executable, "-m", "resurgam", *words, "--json"]
    done = subprocess.run(called, cwd=home, capture_output=True, text=True, timeout=4 * PATIENCE, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def in_the_safe(keys: Path, path: Path) -> Path:
    """One file with the identities of the recovery key and of the answers."""
    path.write_text("".join((keys / file).read_text() for file in ("recovery.agekey", "evidence.agekey")))
    path.chmod(0o600)
    return path


def halved(first: Path, second: Path) -> int:
    """Each object of two replicas is lost or spoilt in one of them; how many."""
    rng, hurt = random.Random(11), 0
    for path in sorted(path for path in first.rglob("*") if path.is_file()):
        name = path.relative_to(first)
        if str(name).startswith("replica/"):
            continue  # what each place has for itself
        one = rng.choice((first, second)) / name
        data = bytearray(one.read_bytes())
        one.unlink()
        hurt += 1
        if rng.random() < 0.5:
            data[rng.randrange(len(data))] ^= 1
            one.write_bytes(data)
    return hurt


@needs_isolation
def test_p3_p4_a_lost_region_is_recovered_from_two_half_lost_replicas(
    server: Seaweed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Judged by the witness in isolation, live, and answering as before; nothing is written to any replica."""
    home, keys = tmp_path / "desk", tmp_path / "keys"
    make(home)
    manifest = home / "resurgam.yaml"
    url = server.url(BUCKET, "desk")
    manifest.write_text(manifest.read_text().replace("path: ../vault", f'path: "{url}"'))
    assert command(home, "vault", "init")[0] == 0
    code, point, _ = command(home, "capture")
    assert code == 0, point
    before = probed(home, "answer")
    west, north = tmp_path / "west", tmp_path / "north"
    for name in ("west", "north"):
        assert command(home, "replicate", "add", name, str(tmp_path / name))[0] == 0
    code, copied, beside = command(home, "replicate", "run", "--verify")
    assert code == 0, (copied, beside)
    safe = in_the_safe(keys, tmp_path / "safe.agekey")

    server.kill()
    began = time.monotonic()
    code, told, _ = command(home, "verify", point["id"])
    waited = time.monotonic() - began
    assert code == 7, told
    assert f"`resurgam recover --vault {west}`" in told["error"]["next_step"], told  # P12

    for lost in ("keys", "state", *(f"desk/{place}" for place in places.PLACES.values())):
        path = tmp_path / lost
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    hurt = halved(west, north)
    kept = {path: path.read_bytes() for place in (west, north) for path in place.rglob("*") if path.is_file()}
    copies = ("--vault", url, "--vault", str(west), "--vault", str(north), "--keys", str(safe))
    began = time.monotonic()
    code, done, beside = command(home, "recover", *copies, "--unrecorded", "--yes")
    took = time.monotonic() - began
    assert (code, done["live"]) == (0, True), (done, beside)
    assert Judgement(done["recovered"]["verdict"]["judgement"]) in (Judgement.IDENTICAL, Judgement.EQUIVALENT)
    assert probed(home, "answer") == before
    assert {path: path.read_bytes() for path in kept} == kept
    assert "came from it" in beside
    with capsys.disabled():
        print(
            f"\n{hurt} objects lost or spoilt in one of two replicas; "
            f"the error came after {waited:.1f} s, live {took:.1f} s after the command; the verdict took "
            f"{done['recovered']['verdict']['seconds']:.1f} s"
        )
        print(beside)
    assert os.listdir(home / "index")
