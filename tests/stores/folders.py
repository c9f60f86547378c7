"""Looking at a folder behind the store's back, and making the system beneath it ill."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from resurgam.errors import ResurgamError

NOBODY = 65534


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
