"""Items that ``read`` never gave, targets that are not empty, disks that are full, and a kill: ``files`` writing under attack."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resurgam.drivers import files_writing
from resurgam.drivers.base import Blob, InMemory, Item, Rows
from resurgam.drivers.files import FilesDriver
from resurgam.errors import Denied, IntegrityError, NotFound, StoreFull, TargetRefused, Unreachable
from resurgam.model.system import Component
from resurgam.testing.driver_kit import assert_says_what_next


def item(path: bytes, data: bytes = b"", **meta: Any) -> Blob:
    return Blob(path, len(data), InMemory(data), {"m": 0o644, "t": 1, **meta})


def folder(path: bytes) -> Blob:
    return item(path, y="d", m=0o755)


def link(path: bytes, to: bytes, kind: str = "l") -> Blob:
    return item(path, y=kind, to=to)


ROOT = folder(b".")
HOSTILE: dict[str, list[Item]] = {
    "nothing at all": [],
    "no root": [item(b"a")],
    "absolute path": [ROOT, item(b"/etc/evil")],
    "parent folder": [ROOT, item(b"../evil")],
    "parent folder itself": [ROOT, folder(b"..")],
    "parent folder inside": [ROOT, folder(b"a"), item(b"a/../../evil")],
    "dot inside": [ROOT, folder(b"a"), item(b"a/./evil")],
    "child of the dot": [ROOT, item(b"./evil")],
    "empty path": [item(b"", b"x"), ROOT],
    "empty part": [ROOT, folder(b"a"), item(b"a//evil")],
    "trailing slash": [ROOT, folder(b"a"), item(b"a/")],
    "NUL": [ROOT, item(b"a\0b")],
    "folder missing": [ROOT, item(b"a/b")],
    "below a file": [ROOT, item(b"a"), item(b"a/b")],
    "through a link": [ROOT, link(b"a", b"../outside"), item(b"a/evil", b"x")],
    "folder over a link": [ROOT, link(b"a", b"../outside"), folder(b"a")],
    "file over a link": [ROOT, link(b"a", b"../outside/victim"), item(b"a", b"x")],
    "twice": [ROOT, item(b"a"), item(b"a")],
    "out of order": [ROOT, item(b"b"), item(b"a")],
    "hard link to outside": [ROOT, link(b"a", b"../outside/victim", "h")],
    "hard link to an absolute path": [ROOT, link(b"a", b"/etc/passwd", "h")],
    "hard link through a link": [ROOT, link(b"a", b"../outside"), link(b"b", b"a/victim", "h")],
    "hard link to a link": [ROOT, link(b"a", b"../outside/victim"), link(b"b", b"a", "h")],
    "hard link to a folder": [ROOT, folder(b"a"), link(b"b", b"a", "h")],
    "hard link to nothing": [ROOT, link(b"b", b"a", "h")],
    "hard link to itself": [ROOT, link(b"a", b"a", "h")],
    "hard link as root": [link(b".", b"a", "h")],
    "link as root": [link(b".", b"../outside")],
    "link to nowhere": [ROOT, link(b"a", b"")],
    "link with NUL": [ROOT, link(b"a", b"x\0y")],
    "file as root with others": [item(b"!"), item(b".", b"x")],
    "others after a single file": [item(b".", b"x"), item(b"a")],
    "unknown kind": [ROOT, item(b"a", y="w")],
    "unknown meta": [ROOT, item(b"a", encrypted=True)],
    "meta of a wrong type": [ROOT, item(b"a", m="rw")],
    "meta missing": [ROOT, Blob(b"a", 0, InMemory(b""), {})],
    "rows": [ROOT, Rows("table", ("a",), ("a",), [])],
    "too few bytes": [ROOT, Blob(b"a", 10, InMemory(b"123"), {"m": 0o644, "t": 1})],
    "too few bytes of a large one": [ROOT, Blob(b"a", 1 << 20, InMemory(b"123"), {"m": 0o644, "t": 1})],
    "too few bytes of a sparse one": [ROOT, Blob(b"a", 1 << 20, InMemory(b"123"), {"m": 0o644, "t": 1, "s": True})],
}


@pytest.fixture
def target(tmp_path: Path) -> Component:
    """A place beside a folder that an attacker would like to reach."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/victim").write_text("untouched")
    return Component(name="data", driver="files", location=str(tmp_path / "target"))


def assert_nothing_happened(tmp_path: Path) -> None:
    assert sorted(os.listdir(tmp_path)) == ["outside"]
    assert os.listdir(tmp_path / "outside") == ["victim"]
    assert (tmp_path / "outside/victim").read_text() == "untouched"


@pytest.mark.parametrize("items", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_items(target: Component, tmp_path: Path, items: list[Item]) -> None:
    """P12: refused, with nothing written outside and nothing left inside."""
    with pytest.raises(IntegrityError) as error:
        FilesDriver().write(items, target)
    assert_says_what_next(error.value)
    assert_nothing_happened(tmp_path)


def test_links_are_content(target: Component, tmp_path: Path) -> None:
    """A link that leads out is restored as it is, since it may be right; nothing is ever written through it."""
    FilesDriver().write([ROOT, link(b"a", b"../outside/victim")], target)
    assert os.readlink(target.location + "/a") == "../outside/victim"
    assert (tmp_path / "outside/victim").read_text() == "untouched"


def test_attributes_of_a_link_do_not_reach_its_target(target: Component, tmp_path: Path) -> None:
    """A link's attributes are put on the link, or not at all."""
    victim = tmp_path / "outside/victim"
    hostile = item(b"a", y="l", to=b"../outside/victim", x=[[b"user.evil", b"1"], [b"trusted.evil", b"1"]])
    with pytest.raises(Denied):
        FilesDriver().write([ROOT, hostile], target)
    assert_nothing_happened(tmp_path)
    hostile = item(b"a", y="l", to=b"../outside/victim", x=[[b"trusted.evil", b"1"]], m=0o777, o=[12345, 12345])
    FilesDriver().write([ROOT, hostile], target)
    assert os.listxattr(victim) == []
    assert os.stat(victim).st_uid == os.geteuid()


@pytest.mark.parametrize("there", ["file", "folder", "link to a folder", "dangling link"])
@pytest.mark.parametrize("items", [[ROOT], [item(b".", b"single")]], ids=["folder", "single file"])
def test_targets_that_are_not_empty(target: Component, tmp_path: Path, there: str, items: list[Item]) -> None:
    """P10: whatever stands there stays; a link counts as something."""
    place = tmp_path / "target"
    if there == "file":
        place.write_text("mine")
    elif there == "folder":
        place.mkdir()
        (place / "mine").touch()
    else:
        place.symlink_to("outside" if there == "link to a folder" else "nowhere")
    before = os.lstat(place)
    with pytest.raises(TargetRefused) as error:
        FilesDriver().write(items, target)
    assert_says_what_next(error.value)
    assert os.lstat(place) == before
    assert sorted(os.listdir(tmp_path)) == ["outside", "target"]


@pytest.mark.parametrize("items", [[ROOT], [item(b".", b"single")]], ids=["folder", "single file"])
def test_an_empty_folder_is_taken(target: Component, tmp_path: Path, items: list[Item]) -> None:
    """An empty folder is an empty target; so is a place whose parents are still to be made."""
    (tmp_path / "target").mkdir()
    FilesDriver().write(items, target)
    FilesDriver().write(items, target.bound_to(str(tmp_path / "new/and newer/target")))
    assert os.listdir(tmp_path / "new/and newer") == ["target"]


def test_a_target_that_fills_up_meanwhile(target: Component, tmp_path: Path) -> None:
    """P5: what came to stand there during the write is not replaced by the last rename."""

    def folder_of_mine() -> Iterator[Item]:
        yield ROOT
        (tmp_path / "target").mkdir()
        (tmp_path / "target/mine").touch()

    def file_of_mine() -> Iterator[Item]:
        yield item(b".", b"single")
        (tmp_path / "target").write_text("mine")

    with pytest.raises(TargetRefused):
        FilesDriver().write(folder_of_mine(), target)
    assert os.listdir(tmp_path / "target") == ["mine"]
    FilesDriver().erase(target)
    with pytest.raises(TargetRefused):
        FilesDriver().write(file_of_mine(), target)
    assert (tmp_path / "target").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["outside", "target"]


@pytest.mark.parametrize("size", [200_000, 2_000_000])
def test_no_room(target: Component, tmp_path: Path, size: int) -> None:
    """P12: a full disk is StoreFull, and what was begun is removed. The kernel refuses at a size limit as at a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StoreFull) as error:
            FilesDriver().write([ROOT, item(b"a", b"x" * size)], target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_says_what_next(error.value)
    assert_nothing_happened(tmp_path)


def test_durable_before_it_is_named(target: Component, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P5: everything is on the disk before the rename, so that a power cut leaves no named half; where it cannot be, nothing is."""
    sync, seen = files_writing._sync_file_system, []

    def watched(descriptor: int) -> None:
        seen.append(sorted(os.listdir(descriptor)))
        assert not os.path.lexists(target.location)
        sync(descriptor)

    monkeypatch.setattr(files_writing, "_sync_file_system", watched)
    FilesDriver().write([ROOT, item(b"a", b"1"), item(b"b", b"2")], target)
    assert seen == [["a", "b"]]
    FilesDriver().erase(target)

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(files_writing, "_sync_file_system", broken)
    with pytest.raises(Unreachable):
        FilesDriver().write([ROOT, item(b"a", b"1")], target)
    assert_nothing_happened(tmp_path)


KILLED = """
import sys, time
from resurgam.drivers.files import FilesDriver
from resurgam.model.system import Component
from tests.drivers.test_files_hostile import ROOT, item
def items():
    yield ROOT
    yield item(b"a", b"half of it")
    print("half", flush=True)
    sys.stdin.read()
FilesDriver().write(items(), Component(name="data", driver="files", location=sys.argv[1]))
"""


def test_killed_while_writing(target: Component, tmp_path: Path) -> None:
    """P5: a kill leaves nothing under the target's name, and erase finds what it left beside it."""
    argv = [sys.executable, "-c", KILLED, target.location]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"half\n"
        writer.send_signal(signal.SIGKILL)
    assert not os.path.lexists(target.location)
    assert len(os.listdir(tmp_path)) == 2
    (tmp_path / "target.partial-notes").touch()
    (tmp_path / "target.partial-0123456789abcdef-mine").touch()
    FilesDriver().erase(target)
    assert sorted(os.listdir(tmp_path)) == ["outside", "target.partial-0123456789abcdef-mine", "target.partial-notes"]


def test_erase_follows_no_link(target: Component, tmp_path: Path) -> None:
    """Links are removed, what they lead to is not; also where the target itself is one."""
    FilesDriver().write([ROOT, link(b"a", b"../outside"), folder(b"b"), link(b"b/c", b"../../outside/victim")], target)
    FilesDriver().erase(target)
    assert_nothing_happened(tmp_path)
    (tmp_path / "target").symlink_to("outside")
    FilesDriver().erase(target)
    assert_nothing_happened(tmp_path)


def test_a_device_or_a_pipe_is_no_component(tmp_path: Path) -> None:
    """It would be captured as nothing at all, and nothing would be restored."""
    os.mkfifo(tmp_path / "pipe")
    for place in ("/dev/zero", str(tmp_path / "pipe")):
        component = Component(name="config", driver="files", location=place)
        with pytest.raises(NotFound, match="holds no state") as refused:
            FilesDriver().inspect(component)
        assert_says_what_next(refused.value)
        with pytest.raises(NotFound), FilesDriver().freeze(component):
            pass


@pytest.mark.parametrize("there", ["nothing", "link", "folder", "pipe"])
def test_what_is_no_file_any_more_is_not_reopened(tmp_path: Path, there: str) -> None:
    """P1: where a file became a link, a folder or a pipe, it is as good as gone to whoever wants its bytes once more."""
    place, outside = tmp_path / "data", tmp_path / "outside"
    place.mkdir()
    outside.write_bytes(b"x" * 100)
    if there == "link":
        (place / "model").symlink_to(outside)
    elif there == "folder":
        (place / "model").mkdir()
    elif there == "pipe":
        os.mkfifo(place / "model")
    component = Component(name="data", driver="files", location=str(place), options={"pin": "never"})
    driver = FilesDriver()
    with driver.freeze(component) as at:
        with pytest.raises(NotFound):
            driver.reopen(component, at, b"model")
        driver.release(component, at)
