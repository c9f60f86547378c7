"""Files that change, grow, vanish or turn into something else while ``files`` reads them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resurgam.drivers.base import Blob
from resurgam.drivers.files import FilesDriver
from resurgam.model.point import Finding, Severity
from resurgam.model.system import Component, Consistency
from resurgam.testing.carrying import Taken, read_all, running

APPENDER = """
import select, sys
with open(sys.argv[1], "ab", buffering=0) as log:
    while not select.select([sys.stdin], [], [], 0)[0]:
        log.write(b"%015d\\n" % (log.tell() // 16))
        if log.tell() == 16:
            print("writing", flush=True)
"""


@pytest.fixture
def live(tmp_path: Path) -> Component:
    """Two files, read as those of a large folder are: after the thaw."""
    folder = tmp_path / "live"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/moving").write_bytes(b"before")
    (folder / "still").write_bytes(b"still")
    return Component(name="data", driver="files", location=str(folder), options={"pin": "never"})


def taken_when(live: Component, happens: Callable[[Path], object]) -> Taken:
    """A capture in which ``happens`` lies between the listing and the reading."""
    driver = FilesDriver()
    with driver.freeze(live) as position:
        assert position.earned is Consistency.CRASH
        happens(Path(live.location))
        return read_all(driver, live, position)


def half_read(live: Component, happens: Callable[[Path], object]) -> tuple[bytes, bool, Blob]:
    """The bytes of ``sub/moving``, read half before and half after ``happens``, and whether they were called settled."""
    driver = FilesDriver()
    with driver.freeze(live) as position:
        blob = next(i for i in driver.read(live, position) if isinstance(i, Blob) and i.path == b"sub/moving")
        buffer = memoryview(bytearray(64))
        assert blob.source.read_into(0, buffer[:3]) == 3
        happens(Path(live.location) / "sub/moving")
        end = blob.source.read_into(3, buffer[3:])
        return bytes(buffer[: 3 + end]), blob.source.settled(), blob


def write_in_place(path: Path, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.write(data)
        file.truncate()


def test_changed_before_it_was_read(live: Component) -> None:
    """It is read again, to its new end, and its time of change comes with the new bytes."""
    taken = taken_when(live, lambda folder: (folder / "sub/moving").write_bytes(b"after, and longer"))
    assert taken.blobs[b"sub/moving"] == b"after, and longer"
    assert not taken.restless
    meta = next(i.meta for i in taken.items if isinstance(i, Blob) and i.path == b"sub/moving")
    assert meta["t"] == os.stat(live.location + "/sub/moving").st_mtime_ns


@pytest.mark.parametrize("data", [b"BEFORE", b"longer than before", b"less", b"before"])
def test_changed_while_it_was_read(live: Component, data: bytes) -> None:
    """P12: a tear is seen whatever the new size, and also where the bytes written are the same."""
    _, settled, blob = half_read(live, lambda path: write_in_place(path, data))
    assert not settled
    again = memoryview(bytearray(64))
    size = blob.source.read_into(0, again)
    assert bytes(again[:size]) == data
    assert blob.source.settled()
    blob.source.close()


def test_a_writer_that_sets_the_time_back_is_seen(live: Component) -> None:
    """mtime can be set by anybody; ctime cannot."""
    before = os.stat(live.location + "/sub/moving")

    def happens(path: Path) -> None:
        write_in_place(path, b"BEFORE")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert not half_read(live, happens)[1]


def test_two_writes_within_one_tick_are_seen(live: Component, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the clock of the file system has not ticked since the last write, unchanged times prove nothing."""
    path = live.location + "/sub/moving"
    monkeypatch.setattr("resurgam.drivers.files_reading.time.time_ns", lambda: os.stat(path).st_ctime_ns)
    assert not half_read(live, lambda _: None)[1]


def test_renamed_over_while_it_was_read(live: Component, tmp_path: Path) -> None:
    """A careful writer's rename does not tear: the file that was opened is read to its end."""

    def happens(path: Path) -> None:
        (tmp_path / "new").write_bytes(b"after!")
        os.replace(tmp_path / "new", path)

    data, settled, blob = half_read(live, happens)
    assert data == b"before"
    if not settled:  # the rename took a name from the old file, which changes its ctime: read again, it is the new one
        assert blob.read() == b"after!"
        assert blob.source.settled()
    blob.source.close()


def test_deleted_while_it_was_read(live: Component) -> None:
    """What is open can be read to its end, also a second time."""
    data, _, blob = half_read(live, lambda path: path.unlink())
    assert data == b"before"
    assert blob.read() == b"before"
    assert blob.source.settled()
    blob.source.close()


def test_vanished(live: Component) -> None:
    """P12: what is gone by the time it is read is a finding that names it; the rest is captured."""
    taken = taken_when(live, lambda folder: (folder / "sub/moving").unlink())
    assert sorted(taken.blobs) == [b".", b"still", b"sub"]
    assert_vanished(taken.findings, "sub/moving")


def test_vanished_folder(live: Component, tmp_path: Path) -> None:
    """The folder comes back empty, so that nothing which is still in it lies nowhere."""
    taken = taken_when(live, lambda folder: os.rename(folder / "sub", tmp_path / "elsewhere"))
    assert_vanished(taken.findings, "sub/moving")
    target = live.bound_to(str(tmp_path / "restored"))
    FilesDriver().write(taken.through_memory(), target)
    assert sorted(os.listdir(target.location)) == ["still", "sub"]
    assert not os.listdir(target.location + "/sub")


@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "file in place of the folder"])
def test_became_something_else(live: Component, kind: str) -> None:
    """Never followed, never waited for: a link to a secret or a pipe in a file's place is as good as gone."""

    def happens(folder: Path) -> None:
        path = folder / "sub/moving"
        path.unlink()
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "link":
            path.symlink_to("/etc/passwd")
        elif kind == "folder":
            path.mkdir()
        else:
            path.parent.rmdir()
            path.parent.write_text("now a file")

    taken = taken_when(live, happens)
    assert b"sub/moving" not in taken.blobs
    assert_vanished(taken.findings, "sub/moving")


def test_growing_log(live: Component) -> None:
    """P12: a log that another process never stops appending to is kept without a torn line, or said to be restless."""
    log = live.location + "/growing.log"
    open(log, "wb").close()
    with running([sys.executable, "-c", APPENDER, log]):
        taken = taken_when(live, lambda _: None)
    data = taken.blobs[b"growing.log"]
    whole = [b"%015d" % number for number in range(len(data) // 16)]
    assert data.split(b"\n")[: len(whole)] == whole
    assert taken.restless == [b"growing.log"] or len(data) == 16 * len(whole)


def assert_vanished(findings: list[Finding], path: str) -> None:
    assert [(f.severity, f.keys, f.component) for f in findings] == [(Severity.WARNING, (path,), "data")]
    assert "vanished" in findings[0].what
