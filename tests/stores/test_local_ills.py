"""A folder on a file system that is full, failing, forbidding or read-only: nothing half, nothing lost, and it says so."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from resurgam.errors import Denied, ResurgamError, StoreFull, Unreachable
from resurgam.stores.base import AlreadyThere
from resurgam.stores.local import LocalStore
from tests.stores.folders import assert_told, failing, files, without_privileges

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small file system")


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
@pytest.mark.parametrize("direct", [True, False])
def test_packs_leave_room_for_a_prune(small: Path, direct: bool) -> None:
    """P12: packs never take the last tenth of a small disk; what a prune writes may, and a pack that goes makes room again."""
    with LocalStore.create(str(small), not_empty=True, direct=direct) as store:
        store.put("packs/aa/first", b"x" * (3 << 20))
        for data in (b"x" * (700 << 10), iter([b"x" * (350 << 10)] * 2)):
            with pytest.raises(StoreFull) as caught:
                store.put("packs/aa/second", data)
            assert_told(caught.value)
            assert "resurgam vault prune" in caught.value.next_step
            assert files(small) == ["packs/aa/first"]
        store.put("prune/00000001/plan", b"x" * (700 << 10))
        store.delete("packs/aa/first")
        store.put("packs/aa/second", b"x" * (700 << 10))


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
    (root / "c" / "d").chmod(0)
    for path in (root / "a", root / "c", root / "tmp"):
        path.chmod(0o700 if os.geteuid() == 0 else 0)
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
