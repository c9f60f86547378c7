"""Exchanging names, and seeing who holds them."""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from resurgam.errors import NotFound, TargetRefused
from resurgam.restore import switch
from resurgam.restore.holders import holders


def write(path: str, text: str) -> str:
    with open(path, "w") as file:
        file.write(text)
    return path


def read(path: str) -> str:
    with open(path) as file:
        return file.read()


@pytest.fixture
def folder(tmp_path: os.PathLike[str]) -> str:
    return os.path.realpath(tmp_path)


@pytest.fixture
def elsewhere(folder: str) -> Iterator[str]:
    """A folder on another file system."""
    if not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == os.stat(folder).st_dev:
        pytest.skip("there is no second file system to try")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        yield other


def test_p5_two_files_change_names_with_bytes_inodes_and_times(folder: str) -> None:
    a, b = write(f"{folder}/a", "old"), write(f"{folder}/b", "new")
    os.utime(a, ns=(1, 12345))
    was = os.stat(a)
    switch.exchange(a, b)
    assert (read(a), read(b)) == ("new", "old")
    assert (os.stat(b).st_ino, os.stat(b).st_mtime_ns) == (was.st_ino, 12345)


def test_p5_a_folder_that_is_not_empty_changes_names_with_a_file(folder: str) -> None:
    os.mkdir(f"{folder}/a")
    write(f"{folder}/a/inside", "x")
    b = write(f"{folder}/b", "file")
    switch.exchange(f"{folder}/a", b)
    assert read(f"{folder}/a") == "file"
    assert read(f"{folder}/b/inside") == "x"


def test_both_folders_are_made_durable(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        os.mkdir(f"{folder}/{name}")
        write(f"{folder}/{name}/x", name)
    synced: list[int] = []
    real = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    switch.exchange(f"{folder}/one/x", f"{folder}/two/x")
    assert set(synced) == {os.stat(f"{folder}/one").st_ino, os.stat(f"{folder}/two").st_ino}


def test_p12_across_file_systems_it_is_refused_and_nothing_moves(folder: str, elsewhere: str) -> None:
    a, b = write(f"{folder}/a", "here"), write(f"{elsewhere}/b", "there")
    for act in (switch.exchange, switch.move):
        with pytest.raises(TargetRefused) as caught:
            act(a, b if act is switch.exchange else f"{elsewhere}/free")
        assert "one file system" in caught.value.next_step
    assert (read(a), read(b)) == ("here", "there")
    assert os.listdir(elsewhere) == ["b"]


def test_exchange_works_on_a_memory_file_system(elsewhere: str) -> None:
    a, b = write(f"{elsewhere}/a", "1"), write(f"{elsewhere}/b", "2")
    assert switch.can_exchange(elsewhere)
    switch.exchange(a, b)
    assert (read(a), read(b)) == ("2", "1")
    assert sorted(os.listdir(elsewhere)) == ["a", "b"]


def test_a_missing_name_and_a_taken_name_are_refused(folder: str) -> None:
    a, b = write(f"{folder}/a", "1"), write(f"{folder}/b", "2")
    with pytest.raises(NotFound):
        switch.exchange(a, f"{folder}/none")
    with pytest.raises(TargetRefused):
        switch.move(a, b)  # never overwrites
    assert (read(a), read(b)) == ("1", "2")


def test_p12_where_exchange_is_unknown_it_says_so(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on NFS: every flag is answered with EINVAL. The plain rename still never overwrites."""
    import errno

    def unsupported(source: str, destination: str, flags: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    a, b = write(f"{folder}/a", "1"), write(f"{folder}/b", "2")
    monkeypatch.setattr(switch, "_renameat2", unsupported)
    assert not switch.can_exchange(folder)
    with pytest.raises(TargetRefused, match="cannot exchange"):
        switch.exchange(a, b)
    with pytest.raises(TargetRefused):
        switch.move(a, b)
    switch.move(a, f"{folder}/c")
    assert sorted(os.listdir(folder)) == ["b", "c"]


def test_siblings_are_those_of_sqlite(folder: str) -> None:
    for name in ("x", "x-wal", "x-shm", "x-walrus"):
        write(f"{folder}/{name}", "")
    assert switch.siblings(f"{folder}/x") == ["-wal", "-shm"]


# ---- who holds it


@contextlib.contextmanager
def child(code: str, *arguments: str) -> Iterator[int]:
    """A process that runs ``code``, says "ready", and waits for us; yields its id."""
    program = f"import sys, os\n{code}\nprint('ready', flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            assert select.select([process.stdout], [], [], 20)[0], "the child did not get ready"
            assert process.stdout.readline() == b"ready\n"
            yield process.pid
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("open", "f = open(sys.argv[1] + '/data')"),
        ("working folder", "os.chdir(sys.argv[1])"),
        (
            "mapped",
            "import mmap; f = open(sys.argv[1] + '/data', 'rb'); m = mmap.mmap(f.fileno(), 0, prot=1); f.close()",
        ),
        ("deleted", "f = open(sys.argv[1] + '/data'); os.unlink(sys.argv[1] + '/data')"),
        ("other name", "f = open(sys.argv[2])"),
    ],
)
def test_a_process_that_holds_it_is_found(folder: str, how: str, code: str) -> None:
    live = f"{folder}/live"
    os.mkdir(live)
    write(f"{live}/data", "x" * mmap.PAGESIZE)
    os.link(f"{live}/data", f"{folder}/link")
    assert holders([live]) == []
    with child(code, live, f"{folder}/link") as pid:
        found = holders([live])
    assert [holder.pid for holder in found] == [pid], how
    assert found[0].command


def test_the_wal_of_a_database_counts_with_it(folder: str) -> None:
    path = f"{folder}/x.db"
    code = "import sqlite3; c = sqlite3.connect(sys.argv[1]); c.execute('pragma journal_mode=wal'); c.execute('create table t(a)')"
    with child(code, path) as pid:
        assert [holder.pid for holder in holders([path + "-wal"])] == [pid]
        assert [holder.pid for holder in holders(switch.family(path))] == [pid]


def test_this_process_counts_too(folder: str) -> None:
    path = write(f"{folder}/x", "")
    with open(path):
        assert [holder.pid for holder in holders([path])] == [os.getpid()]
    assert holders([path]) == []


def test_a_closed_database_is_held_by_nobody(folder: str) -> None:
    with contextlib.closing(sqlite3.connect(f"{folder}/x.db")) as connection:
        connection.execute("create table t(a)")
    assert holders(switch.family(f"{folder}/x.db")) == []


def test_a_name_that_only_begins_alike_is_not_held(folder: str) -> None:
    other = write(f"{folder}/live2", "")
    with open(other):
        assert holders([f"{folder}/live"]) == []
