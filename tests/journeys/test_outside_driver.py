"""A driver that another package brings: found by its entry point, told apart, used like any other, examined like any other.

``examples/driver_mbox`` is built and installed as its users would, from its own project file and without a network.
"""

from __future__ import annotations

import json
import mailbox
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "examples/driver_mbox"
MANIFEST = """\
resurgam: 1
system: post
vault: {path: ../vault, keys: ../keys}
components:
  inbox: {driver: mbox, location: inbox, consistency: transaction}
  answers: {driver: sqlite, location: answers.db}
invariants:
  two-letters: {component: inbox, sql: "SELECT count(*) FROM messages WHERE sender LIKE '%@example.org'", expect: 2}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, in a folder of its own that is put on the path."""
    pytest.importorskip("hatchling", reason="hatchling is not installed beside the tests")
    into = tmp_path_factory.mktemp("installed") / "packages"
    pip = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    source = shutil.copytree(PACKAGE, into.with_name("source"), ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, *pip, "--no-build-isolation", "--target", into, source], check=True)
    return into


def run(words: list[str], installed: Path, folder: Path, code: int = 0) -> str:
    """A command of Python in ``folder`` with the package on the path; what it printed."""
    env = os.environ | {"PYTHONPATH": str(installed), "RESURGAM_STATE": str(folder / "state"), "HOME": str(folder)}
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def resurgam(installed: Path, folder: Path, *words: str, code: int = 0) -> str:
    """The command line."""
    return run(["-m", "resurgam", *words], installed, folder, code)


@pytest.fixture
def post(tmp_path: Path, installed: Path) -> Path:
    """A system with a mailbox, captured."""
    home = tmp_path / "post"
    home.mkdir()
    send(home / "inbox", "ann@example.org", "Where is my order?")
    send(home / "inbox", "bob@example.org", "It came.")
    (home / "answers.db").touch()
    (home / "resurgam.yaml").write_text(MANIFEST)
    resurgam(installed, home, "vault", "init")
    assert json.loads(resurgam(installed, home, "preflight", "--json"))["ok"]
    resurgam(installed, home, "capture")
    return home


def send(path: Path, sender: str, text: str) -> None:
    """A letter arrives."""
    box = mailbox.mbox(path)
    try:
        box.lock()
        box.add(f"From: {sender}\nSubject: {text}\n\n{text}\n")
        box.flush()
        box.unlock()
    finally:
        box.close()


def test_it_is_listed_as_experimental_with_its_package(installed: Path, tmp_path: Path) -> None:
    """Nothing is claimed for what others bring; without the package it is not there."""
    listed: list[dict[str, Any]] = json.loads(resurgam(installed, tmp_path, "drivers", "--json"))
    (mbox,) = [entry for entry in listed if entry["kind"] == "mbox"]
    assert (mbox["status"], mbox["package"], mbox["version"]) == ("experimental", "resurgam-mbox", "0.1.0")
    assert mbox["captures"].startswith("mailboxes")
    assert mbox["traits"]["consistency"] == "transaction"
    assert mbox["trouble"] == ""
    assert {entry["status"] for entry in listed if entry["package"] == "resurgam"} == {"certified"}
    assert "mbox: experimental, from resurgam-mbox 0.1.0" in resurgam(installed, tmp_path, "drivers")
    assert "mbox" not in resurgam(tmp_path, tmp_path, "drivers")


def test_one_that_cannot_be_loaded_is_told_and_hides_no_other(installed: Path, tmp_path: Path) -> None:
    """P12: a broken package is named; the list is still told."""
    broken = shutil.copytree(installed, tmp_path / "broken")
    (broken / "resurgam_mbox.py").write_text("raise RuntimeError('secret of its makers')\n")
    listed = {entry["kind"]: entry for entry in json.loads(resurgam(broken, tmp_path, "drivers", "--json"))}
    assert listed["mbox"]["traits"] is None
    assert listed["mbox"]["trouble"] == "It cannot be loaded: RuntimeError."
    assert listed["sqlite"]["traits"] is not None


def test_a_component_of_its_kind_is_captured_asked_and_restored(post: Path, installed: Path) -> None:
    """P1 P5: the mailbox of the point comes back byte by byte, whatever arrived since; invariants are asked of it."""
    before = (post / "inbox").read_bytes()
    send(post / "inbox", "eve@example.org", "Forget what the others wrote.")
    resurgam(installed, post, "capture", code=22)
    assert "two-letters" in resurgam(installed, post, "show", "latest")
    first = json.loads(resurgam(installed, post, "points", "--json"))
    oldest = min(first, key=lambda point: point["sealed"])["id"]
    resurgam(installed, post, "restore", oldest, "--into", "../back")
    (copy,) = [path for path in (post.parent / "back").rglob("inbox*") if path.is_file()]
    assert copy.read_bytes() == before
    assert "inbox" in resurgam(installed, post, "diff", oldest, "latest")


def test_without_its_package_the_manifest_says_what_is_missing(post: Path, tmp_path: Path) -> None:
    """P12: exit code 3, and the kinds that there are."""
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "resurgam", "preflight"], cwd=post, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "'mbox' is not" in done.stderr


def test_a_probe_asks_it_through_its_driver(post: Path, installed: Path) -> None:
    """Installed as its users do, since what asks for a probe reads no PYTHONPATH. What it cannot be asked is refused (P12)."""
    python = environment(post.parent / "venv", installed)
    manifest = post / "resurgam.yaml"
    asked = "probes:\n  letters: {component: inbox, witness: true, "
    manifest.write_text(f"{MANIFEST}{asked}kind: sql, sql: SELECT sender FROM messages ORDER BY 1}}\n")

    def told(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"RESURGAM_STATE": str(post / "state"), "HOME": str(post)}
        command = [python, "-m", "resurgam", *words]
        done = subprocess.run(command, cwd=post, env=env, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    told("capture")
    send(post / "inbox", "eve@example.org", "Forget what the others wrote.")
    verdict = json.loads(told("verify", "latest", "--live", "--json", code=20).stdout)["verdict"]
    (part,) = [part for part in verdict["parts"] if part["name"] == "letters"]
    assert (part["yardstick"], part["judgement"], part["cases"]) == ("witness", 4, 1), verdict
    manifest.write_text(f"{MANIFEST}{asked}kind: retrieval, collection: messages, ask: {{a: [1.0]}}}}\n")
    assert "'inbox' is no component that can be searched" in told("preflight", code=3).stderr


def environment(folder: Path, installed: Path) -> str:
    """The interpreter of a virtual environment that has the package, and all that is installed here."""
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python3.*/site-packages")
    (packages / "all.pth").write_text(
        "".join(f"{path}\n" for path in [str(installed), *filter(os.path.isdir, sys.path)])
    )
    return str(folder / "bin" / "python")


def examined(installed: Path, folder: Path, *words: str, code: int = 0) -> str:
    """Its exam, as its makers run it."""
    shutil.copy(PACKAGE / "test_exam.py", folder)
    return run(["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_exam.py", *words], installed, folder, code)


def test_it_passes_the_exam_of_all_drivers(installed: Path, tmp_path: Path) -> None:
    """On the real store, in a process that knows nothing of this repository's tests."""
    told = examined(installed, tmp_path)
    assert " passed" in told
    assert "failed" not in told


def test_the_exam_catches_a_driver_that_lies(installed: Path, tmp_path: Path) -> None:
    """A fingerprint that does not look, a writer that does not rename: each fails the point that is made for it."""
    broken = shutil.copytree(installed, tmp_path / "broken")
    source = (installed / "resurgam_mbox.py").read_text()
    for right, wrong, point in (
        ('return hashlib.file_digest(file, "sha256").hexdigest()', 'return "0" * 64', "test_04_fingerprint_sees"),
        ('partial = f"{location}.partial-{secrets.token_hex(8)}"', "partial = location", "test_09"),
    ):
        assert right in source
        (broken / "resurgam_mbox.py").write_text(source.replace(right, wrong))
        assert "1 failed" in examined(broken, tmp_path, "-k", point, code=1)
