"""Private copies of stores: nobody else opens them, and no death leaves them behind for good."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from resurgam import private
from resurgam.drivers import copying
from resurgam.drivers.sqlite_open import no_space
from resurgam.errors import StoreFull
from tests.journeys.world import World

HOLD = """
import sys
from resurgam.private import private_file
with private_file() as (descriptor, path):
    open(path, "w").write("personal data")
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, for this process and its children."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


@contextmanager
def holder() -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds a private copy."""
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_copy_is_ours_alone_and_gone_at_the_end(temporary: Path) -> None:
    """Its folder is closed to others, and its name goes while its bytes can still be read."""
    with private.private_file() as (descriptor, path):
        os.write(descriptor, b"words")
        assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    assert os.listdir(temporary) == []
    assert os.pread(descriptor, 9, 0) == b"words"
    os.close(descriptor)


def test_the_copy_of_a_killed_process_goes_and_that_of_a_living_one_stays(temporary: Path) -> None:
    """``kill -9`` in the middle of a copy: the next to clear has it."""
    with holder() as killed, holder():
        before = set(os.listdir(temporary))
        private.clear()
        assert set(os.listdir(temporary)) == before, "both are in use"
        killed.kill()
        killed.wait()
        private.clear()
        assert len(set(os.listdir(temporary)) & before) == 1


def test_a_capture_clears_away_what_another_left(temporary: Path, tmp_path: Path) -> None:
    """What a killed capture left goes with the next one; what only looks alike, or is a link, stays."""
    (tmp_path / "world").mkdir()
    world = World(str(tmp_path / "world")).ready()
    with holder() as process:
        process.kill()
    (temporary / "resurgam-copy-of-mine").mkdir()
    (temporary / "resurgam-copy-abcd1234").symlink_to(tmp_path)
    assert len(os.listdir(temporary)) == 3
    world.capture()
    assert sorted(os.listdir(temporary)) == ["resurgam-copy-abcd1234", "resurgam-copy-of-mine"]
    assert (tmp_path / "world").exists()


def test_a_full_disk_is_the_one_of_the_copies(temporary: Path, tmp_path: Path) -> None:
    """P12: what is said to be full is the folder of temporary files, not the store that is copied."""
    (tmp_path / "store").write_bytes(bytes(1 << 20))
    with (
        open(tmp_path / "store", "rb") as source,
        open("/dev/full", "wb") as full,
        pytest.raises(StoreFull, match=str(temporary)) as told,
    ):
        copying.copy_range(source.fileno(), full.fileno(), 1 << 20, 0, lambda: None)
    assert "TMPDIR" in told.value.next_step
    assert "TMPDIR" not in no_space("/srv/notes.db").next_step, "a full disk of the store is another matter"


def test_a_copy_ends_where_the_source_does(tmp_path: Path) -> None:
    """A store that became shorter meanwhile is no endless loop, and its bytes begin where they were wanted."""
    (tmp_path / "store").write_bytes(b"words")
    with open(tmp_path / "store", "rb") as source, open(tmp_path / "copy", "w+b") as copy:
        copying.copy_range(source.fileno(), copy.fileno(), 100, 3, lambda: None)
        assert copy.read() == b"\0\0\0words"
