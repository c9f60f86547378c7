"""What a folder must do beyond the exam: sync in the right order, name once, and let no stranger lead it astray."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from resurgam.errors import Denied, IntegrityError, NotFound, TargetRefused, Unreachable
from resurgam.stores import disk
from resurgam.stores.base import AlreadyThere
from resurgam.stores.local import ABANDONED, LocalStore
from resurgam.testing.faults import ManualClock
from tests.stores.folders import assert_told, failing, files, record, without_privileges

# --- opening ----------------------------------------------------------------------------------------------------------


def test_create_makes_missing_folders_and_syncs_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P1: the vault's own folder outlives a power cut too."""
    seen = record(monkeypatch)
    with LocalStore.create(str(tmp_path / "a" / "b" / "vault")):
        pass
    assert [event for event in seen if event[0] == "fsync"] == [
        ("fsync", str(tmp_path)),
        ("fsync", str(tmp_path / "a")),
        ("fsync", str(tmp_path / "a" / "b")),
    ]


def test_create_refuses_what_is_not_empty_unless_told(root: Path) -> None:
    """P10: a folder with something in it becomes a vault only where its owner says so."""
    root.mkdir()
    (root / "lost+found").mkdir()
    with pytest.raises(TargetRefused) as caught:
        LocalStore.create(str(root))
    assert_told(caught.value)
    with LocalStore.create(str(root), not_empty=True) as store:
        store.put("a", b"x")
        assert [entry.name for entry in store.list()] == ["a"]


def test_open_what_is_no_folder(tmp_path: Path) -> None:
    """A missing folder is NotFound, not an empty vault; a file in its place is never replaced."""
    (tmp_path / "file").write_bytes(b"mine")
    for path in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(NotFound) as caught:
            LocalStore(str(path))
        assert_told(caught.value)
    with pytest.raises(Denied) as denied:
        LocalStore.create(str(tmp_path / "file"))
    assert_told(denied.value)
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_closed_is_closed(root: Path) -> None:
    """Closing twice is no error; using it afterwards is a programmer's mistake."""
    store = LocalStore.create(str(root))
    store.close()
    store.close()
    with pytest.raises(AssertionError):
        store.get("a")


# --- durable, in this order -------------------------------------------------------------------------------------------


def test_bytes_before_name_before_answer(store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P1: file synced, then named, then the folder synced; new folders synced into their parents up to the root."""
    seen = record(monkeypatch)
    store.put("packs/ab/one", b"x" * 5000)
    temporary = next(path for call, path in seen if call == "unlink")
    assert temporary.startswith(f"{root}/tmp/{os.getpid()}-")
    assert seen == [
        ("mkdir", f"{root}/packs"),
        ("fsync", f"{root}"),
        ("mkdir", f"{root}/packs/ab"),
        ("fsync", f"{root}/packs"),
        ("mkdir", f"{root}/tmp"),
        ("fsync", f"{root}"),
        ("fsync", temporary),
        ("link", f"{root}/packs/ab/one"),
        ("fsync", f"{root}/packs/ab"),
        ("unlink", temporary),
    ]


def test_known_folders_cost_nothing_again(store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P11: a put into a folder met before syncs the file and the folder, and no more."""
    store.put("packs/ab/one", b"x")
    seen = record(monkeypatch)
    store.put("packs/ab/two", b"y")
    assert [call for call, _ in seen] == ["fsync", "link", "fsync", "unlink"]


def test_folders_of_others_are_synced_too(store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P1: who made a folder may die before he syncs it; who uses it first must."""
    (root / "packs" / "ab").mkdir(parents=True)
    seen = record(monkeypatch)
    store.put("packs/ab/one", b"x")
    assert [path for call, path in seen if call == "fsync"][:2] == [str(root), str(root / "packs")]


def test_already_there_means_durably_there(store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P1: who hears AlreadyThere may build upon the name, even if its writer died before syncing the folder."""
    (root / "packs").mkdir()
    (root / "packs" / "one").write_bytes(b"theirs")
    seen = record(monkeypatch)
    with pytest.raises(AlreadyThere):
        store.put("packs/one", b"ours")
    assert seen[-1] == ("fsync", str(root / "packs"))


def test_delete_is_durable(store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was erased does not come back with the power."""
    store.put("a/b", b"x")
    seen = record(monkeypatch)
    store.delete("a/b")
    assert seen == [("unlink", f"{root}/a/b"), ("fsync", f"{root}/a")]


def test_objects_are_read_only(store: LocalStore, root: Path) -> None:
    """P2: no accident writes into an object."""
    store.put("a", b"x")
    assert stat.S_IMODE((root / "a").stat().st_mode) & 0o222 == 0
    with without_privileges(), pytest.raises(PermissionError):
        os.open("a", os.O_WRONLY, dir_fd=store._root)


def test_folders_removed_meanwhile_are_made_again(store: LocalStore, root: Path) -> None:
    """Unreachable promises that trying again may help; here it does."""
    store.put("a/b", b"x")
    store.delete("a/b")
    (root / "a").rmdir()
    with pytest.raises(Unreachable):
        store.put("a/b", b"y")
    store.put("a/b", b"y")
    assert store.get("a/b") == b"y"


# --- past the page cache ----------------------------------------------------------------------------------------------


def written_how(monkeypatch: pytest.MonkeyPatch) -> dict[bool, int]:
    """Bytes written directly (True) and through the cache (False)."""
    sums = {True: 0, False: 0}
    write = os.write

    def on_write(descriptor: int, data: memoryview) -> int:
        done = write(descriptor, data)
        sums[bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)] += done
        return done

    monkeypatch.setattr(os, "write", on_write)
    return sums


@pytest.fixture
def page_aligned() -> Iterator[memoryview]:
    with mmap.mmap(-1, 10 << 20) as memory:
        memory[:] = os.urandom(10 << 20)
        with memoryview(memory) as view:
            yield view


@pytest.mark.parametrize(
    ("start", "end", "direct"),
    [
        (0, 10 << 20, 10 << 20),  # a pack
        (4096, 2 << 20, (2 << 20) - 4096),
        (0, (1 << 20) + 5, 1 << 20),  # the tail goes through the cache
        (0, (1 << 20) - 4096, 0),  # too small to pay
        (1, (3 << 20) + 1, 0),  # memory that is not aligned: the kernel refuses, the cache takes it
    ],
)
def test_direct_writes(
    store: LocalStore, page_aligned: memoryview, monkeypatch: pytest.MonkeyPatch, start: int, end: int, direct: int
) -> None:
    """P11: bulk goes past the page cache where the kernel takes it, and all bytes arrive in any case."""
    store.put("probe", page_aligned[: 1 << 20])
    sums = written_how(monkeypatch)
    if not _takes_direct(store):
        pytest.skip("this file system takes no direct writes")
    with page_aligned[start:end] as data:
        store.put("pack", data)
        assert sums == {True: direct, False: end - start - direct}
        assert store.get("pack") == data


def test_direct_can_be_switched_off(root: Path, page_aligned: memoryview, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = written_how(monkeypatch)
    with LocalStore.create(str(root), direct=False) as store:
        store.put("pack", page_aligned)
        assert sums == {True: 0, False: len(page_aligned)}
        assert store.get("pack") == page_aligned


def test_direct_write_refused_midway(
    store: LocalStore, page_aligned: memoryview, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel has taken before it refuses is neither lost nor written twice."""
    write = os.write

    def refuse_second_step(descriptor: int, data: memoryview) -> int:
        if os.lseek(descriptor, 0, os.SEEK_CUR) and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "not here")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", refuse_second_step)
    store.put("pack", page_aligned)
    assert store.get("pack") == page_aligned


def test_direct_flag_refused(store: LocalStore, page_aligned: memoryview, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without direct writes gets them through the cache."""
    monkeypatch.setattr(disk, "_set_direct", lambda descriptor, *, on: False)
    store.put("pack", page_aligned)
    assert store.get("pack") == page_aligned


def _takes_direct(store: LocalStore) -> bool:
    descriptor = os.open("probe", os.O_RDONLY, dir_fd=store._root)
    try:
        return disk._set_direct(descriptor, on=True)
    finally:
        os.close(descriptor)


# --- one name, once ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.EXDEV])
def test_without_hard_links_it_renames(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """P2: where files cannot be linked, renaming without replacing does the same."""
    monkeypatch.setattr(os, "link", failing(code))
    store.put("a/b", b"ours")
    assert files(root) == ["a/b"]

    def overtaken() -> Iterator[bytes]:
        yield b"late"
        (root / "a" / "c").write_bytes(b"theirs")

    with pytest.raises(AlreadyThere):
        store.put("a/c", overtaken())
    assert (root / "a" / "c").read_bytes() == b"theirs"
    assert files(root) == ["a/b", "a/c"]


def test_with_neither_it_refuses(store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: what can be neither create-only nor whole is not written at all."""
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    with pytest.raises(Denied, match="neither link") as caught:
        store.put("a", b"x")
    assert_told(caught.value)
    assert files(root) == []


def test_own_link_whose_answer_was_lost(store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that says EEXIST because it was done already (NFS) is a success; the file itself proves it."""
    link = os.link

    def done_twice(src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int, follow_symlinks: bool) -> None:
        for _ in range(2):
            link(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(os, "link", done_twice)
    store.put("a", b"x")
    assert files(root) == ["a"]


def test_overtaken_between_writing_and_naming(store: LocalStore, root: Path) -> None:
    """P2: equal bytes of another writer are still another's object."""

    def overtaken() -> Iterator[bytes]:
        yield b"same"
        (root / "a").write_bytes(b"same")

    with pytest.raises(AlreadyThere) as caught:
        store.put("a", overtaken())
    assert_told(caught.value)
    assert files(root) == ["a"]


def test_the_winner_is_deleted_at_once(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """P2: a put that has not made the object never says that it has, even where the one who did has vanished."""
    monkeypatch.setattr(os, "link", failing(errno.EEXIST))
    with pytest.raises(Unreachable):
        store.put("a", b"x")
    monkeypatch.setattr(disk, "same_file", lambda *_: False)
    with pytest.raises(AlreadyThere):
        store.put("a", b"x")


def test_object_and_folder_of_one_name(store: LocalStore) -> None:
    """A folder cannot hold both; the second is refused and the first stays."""
    store.put("a/b", b"x")
    store.put("c", b"y")
    for name in ("a", "c/d"):
        with pytest.raises(Denied) as caught:
            store.put(name, b"z")
        assert_told(caught.value)
    assert [entry.name for entry in store.list()] == ["a/b", "c"]


@pytest.mark.parametrize("name", ["tmp", "tmp/a"])
def test_the_temporary_folder_holds_no_objects(store: LocalStore, name: str) -> None:
    calls: tuple[Callable[[], object], ...] = (
        lambda: store.put(name, b"x"),
        lambda: store.get(name),
        lambda: store.delete(name),
    )
    for call in calls:
        with pytest.raises(IntegrityError):
            call()


# --- strangers in the folder ------------------------------------------------------------------------------------------


def test_links_lead_nowhere(store: LocalStore, root: Path, tmp_path: Path) -> None:
    """P12: neither a file nor a folder outside is read, listed, written or deleted through a planted link."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "file").symlink_to(outside / "secret")
    (root / "folder").symlink_to(outside)
    for name in ("file", "folder/secret"):
        with pytest.raises((Denied, NotFound)):
            store.get(name)
    with pytest.raises(Denied):
        store.put("folder/new", b"x")
    with pytest.raises(AlreadyThere):
        store.put("file", b"x")
    store.delete("folder/secret")
    assert list(store.list()) == []
    assert store.strays() == ["file", "folder"]
    assert files(outside) == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"


def test_temporary_folder_behind_a_link(store: LocalStore, root: Path, tmp_path: Path) -> None:
    """Nothing is ever written outside the root, not even for a moment."""
    (root / "tmp").symlink_to(tmp_path)
    with pytest.raises(Denied):
        store.put("a", b"x")
    assert store.strays() == ["tmp"]


def test_strays(store: LocalStore, root: Path) -> None:
    """What is no object is left out of listings and told apart, whatever it is."""
    store.put("a/b", b"x")
    for name in ("Thumbs.db", ".hidden", "a/UPPER", "a/sp ace", "lost+found/x", "n" * 201):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"?")
    with open(os.fsencode(root) + b"/a/b\xff", "wb"):
        pass
    os.mkfifo(root / "a" / "pipe")
    assert [entry.name for entry in store.list()] == ["a/b"]
    assert store.strays() == sorted(
        (".hidden", "Thumbs.db", "a/UPPER", "a/b\\xff", "a/pipe", "a/sp ace", "lost+found/", "n" * 201)
    )
    with pytest.raises(NotFound):
        store.get("a/pipe")  # and does not wait for a writer


def test_abandoned_temporary_files(root: Path) -> None:
    """What a killed writer left shows after an hour, and the next writer sweeps it; young ones and others' stay."""
    now = ManualClock(datetime.now(UTC))
    with LocalStore.create(str(root)) as first:
        first.put("a", b"x")
    for name in ("123-0123456789abcdef", "456-0123456789abcdef", "by hand"):
        (root / "tmp" / name).write_bytes(b"half")
    young = now.now().timestamp() + 60
    os.utime(root / "tmp" / "456-0123456789abcdef", (young, young))
    with LocalStore(str(root), clock=now) as store:
        assert store.strays() == []
        now.advance(ABANDONED + 30)
        assert store.strays() == ["tmp/123-0123456789abcdef", "tmp/by hand"]
        store.put("b", b"y")
        assert files(root) == ["a", "b", "tmp/456-0123456789abcdef", "tmp/by hand"]


def test_received_is_when_it_was_written(store: LocalStore, root: Path) -> None:
    store.put("a", b"x")
    assert [entry.received for entry in store.list()] == [(root / "a").stat().st_mtime]


def test_list_opens_only_folders_that_can_match(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """P11: listing the log does not walk the packs."""
    for name in ("packs/ab/1", "packs/cd/2", "log/1", "logs/2"):
        store.put(name, b"x")
    opened: list[str] = []
    open_folder = disk.open_folder

    def on_open(part: str, parent: int) -> int:
        opened.append(part)
        return open_folder(part, parent)

    monkeypatch.setattr(disk, "open_folder", on_open)
    assert [entry.name for entry in store.list("log/")] == ["log/1"]
    assert {"packs", "ab", "cd", "logs"}.isdisjoint(opened)


def test_list_asks_only_for_what_can_match(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """P11: one record among ten thousand costs one question, not ten thousand."""
    for name in ("points/aa", "points/ab", "points/b", "records/aa/1", "records/ab/1"):
        store.put(name, b"x")
    asked: list[str] = []
    entries = disk.entries

    def on_entries(folder: int, beginning: str = "") -> list[tuple[str, os.stat_result]]:
        found = entries(folder, beginning)
        asked.extend(name for name, _ in found)
        return found

    monkeypatch.setattr(disk, "entries", on_entries)
    assert [entry.name for entry in store.list("points/aa")] == ["points/aa"]
    assert [entry.name for entry in store.list("records/ab/")] == ["records/ab/1"]
    assert asked == ["aa", "1"]


def test_list_below_what_is_no_folder(store: LocalStore, tmp_path: Path) -> None:
    """A prefix that goes through an object, through a link, upwards, or into what stands aside finds nothing."""
    store.put("x", b"1")
    store.put("a/b", b"1")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/q").write_bytes(b"foreign")
    os.symlink(tmp_path / "elsewhere", tmp_path / "vault/link")
    for prefix in ("x/", "x/y", "link/", "link/q", "../", "a/../x", "tmp/", "a//", "nothing/z", "a/b/c/", "/"):
        assert list(store.list(prefix)) == [], prefix
    assert [entry.name for entry in store.list("a/")] == ["a/b"]
