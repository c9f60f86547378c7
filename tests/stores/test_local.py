"""What a folder must do beyond the exam: sync in the right order, survive a full, failing or forbidding file system."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from resurgam.errors import Denied, IntegrityError, NotFound, ResurgamError, StoreFull, TargetRefused, Unreachable
from resurgam.stores import disk
from resurgam.stores.base import AlreadyThere
from resurgam.stores.local import ABANDONED, LocalStore
from resurgam.testing.faults import ManualClock

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small file system")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "vault"


@pytest.fixture
def store(root: Path) -> Iterator[LocalStore]:
    with LocalStore.create(str(root)) as opened:
        yield opened


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 4 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=40", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("may not mount a small file system here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def assert_told(error: ResurgamError) -> None:
    """P12: what was wrong, what was left untouched, what to do next."""
    assert error.message
    assert error.untouched
    assert error.next_step


def files(root: Path) -> list[str]:
    """Every file below ``root``, also temporary ones."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


def failing(code: int) -> Callable[..., None]:
    """A system call that fails."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@contextmanager
def without_privileges() -> Iterator[None]:
    """This thread's file accesses are nobody's: root's right to pass every permission is gone (setfsuid(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0:
        yield
        return
    libc.setfsgid(NOBODY)
    libc.setfsuid(NOBODY)
    try:
        yield
    finally:
        libc.setfsuid(0)
        libc.setfsgid(0)


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


def record(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Let the real calls happen and write down which came when, and on what."""
    seen: list[tuple[str, str]] = []
    fsync, link, unlink, mkdir = os.fsync, os.link, os.unlink, os.mkdir

    def path_of(descriptor: int) -> str:
        return os.readlink(f"/proc/self/fd/{descriptor}")

    def on_fsync(descriptor: int) -> None:
        fsync(descriptor)
        seen.append(("fsync", path_of(descriptor)))

    def on_link(src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int, follow_symlinks: bool) -> None:
        link(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=follow_symlinks)
        seen.append(("link", f"{path_of(dst_dir_fd)}/{dst}"))

    def on_unlink(path: str, *, dir_fd: int) -> None:
        unlink(path, dir_fd=dir_fd)
        seen.append(("unlink", f"{path_of(dir_fd)}/{path}"))

    def on_mkdir(path: str, mode: int, *, dir_fd: int | None = None) -> None:
        mkdir(path, mode, dir_fd=dir_fd)
        seen.append(("mkdir", path if dir_fd is None else f"{path_of(dir_fd)}/{path}"))

    for name, call in (("fsync", on_fsync), ("link", on_link), ("unlink", on_unlink), ("mkdir", on_mkdir)):
        monkeypatch.setattr(os, name, call)
    return seen


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


# --- a file system that says no ---------------------------------------------------------------------------------------


@as_root
@pytest.mark.parametrize("direct", [True, False])
def test_disk_full(small: Path, direct: bool) -> None:
    """P12: StoreFull leaves nothing behind, touches nothing that is there, and is over once there is room."""
    with LocalStore.create(str(small), not_empty=True, direct=direct) as store:
        store.put("points/sealed", b"s" * (1 << 20))
        for data in (b"x" * (6 << 20), iter([b"x" * (1 << 20)] * 6)):
            with pytest.raises(StoreFull) as caught:
                store.put("packs/big", data)
            assert_told(caught.value)
            assert files(small) == ["points/sealed"]
        store.put("packs/fits", b"x" * (2 << 20))
        assert store.get("points/sealed") == b"s" * (1 << 20)


@as_root
def test_no_inodes_left(small: Path) -> None:
    """A file system can be full of names as well."""
    with LocalStore.create(str(small), not_empty=True) as store:

        def fill() -> None:
            for n in range(60):
                store.put(f"{n:02}/a", b"x")

        with pytest.raises(StoreFull) as caught:
            fill()
        assert_told(caught.value)
        there = [entry.name for entry in store.list()]
        assert there
        assert there == [f"{n:02}/a" for n in range(len(there))]


@as_root
def test_mounted_read_only(small: Path) -> None:
    """What can only be read can still be read, and AlreadyThere is still true."""
    with LocalStore.create(str(small), not_empty=True) as store:
        store.put("a/b", b"x")
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    with LocalStore(str(small)) as store:
        calls: tuple[Callable[[], None], ...] = (
            lambda: store.put("a/c", b"y"),
            lambda: store.put("d/e", b"y"),
            lambda: store.delete("a/b"),
        )
        for call in calls:
            with pytest.raises(Denied) as caught:
                call()
            assert_told(caught.value)
        with pytest.raises(AlreadyThere):
            store.put("a/b", b"y")
        assert store.get("a/b") == b"x"


def test_permissions_revoked(store: LocalStore, root: Path) -> None:
    """Denied for each verb, never an empty answer: a listing that leaves out what it may not see would be a lie."""
    store.put("a/b", b"x")
    store.put("c/d", b"y")
    for path in (root / "a", root / "c", root / "tmp"):
        path.chmod(0o700 if os.geteuid() == 0 else 0)
    (root / "c" / "d").chmod(0)
    calls: tuple[Callable[[], object], ...] = (
        lambda: store.get("a/b"),
        lambda: store.get("c/d"),
        lambda: store.put("a/e", b"z"),
        lambda: store.put("f", b"z"),
        lambda: store.delete("a/b"),
        lambda: list(store.list()),
        lambda: list(store.list("c/")),
        store.strays,
    )
    with without_privileges():
        for call in calls:
            with pytest.raises(Denied) as caught:
                call()
            assert_told(caught.value)
    for path in (root / "a", root / "c", root / "tmp"):
        path.chmod(0o700)
    assert files(root) == ["a/b", "c/d"]


@pytest.mark.parametrize("call", ["write", "fsync", "link"])
@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.EIO, Unreachable), (errno.ESTALE, Unreachable), (errno.EDQUOT, StoreFull), (errno.EACCES, Denied)],
)
def test_any_step_can_fail(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, kind: type[ResurgamError]
) -> None:
    """P1: wherever a put fails before its name exists, nothing is left and the next try works."""
    store.put("packs/before", b"x")
    with monkeypatch.context() as failed:
        failed.setattr(os, call, failing(code))
        with pytest.raises(kind) as caught:
            store.put("packs/pack", b"y" * 5000)
    assert_told(caught.value)
    assert caught.value.transient is (kind is Unreachable)
    assert files(root) == ["packs/before"]
    store.put("packs/pack", b"y" * 5000)


def test_last_sync_fails(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """P1: a put whose name may not be durable says so; trying again ends in a true AlreadyThere."""
    store.put("packs/before", b"x")
    fsync = os.fsync

    def on_folder(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "lost")
        fsync(descriptor)

    with monkeypatch.context() as failed:
        failed.setattr(os, "fsync", on_folder)
        with pytest.raises(Unreachable):
            store.put("packs/pack", b"y")
        with pytest.raises(Unreachable):  # nor is AlreadyThere said of a name that cannot be made durable
            store.put("packs/pack", b"y")
    with pytest.raises(AlreadyThere):
        store.put("packs/pack", b"y")


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
