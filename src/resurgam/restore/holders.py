"""Who holds a path open: asked of ``/proc`` before anything live is switched.

A process holds a path when it has it, or something below it, open, mapped, as its working folder, its root or its
program. It is found by name *and* by (device, inode): a container or a bind mount knows the same file by another name.

What cannot be seen: without root, the processes of other users; clients of a network file system on other machines.
Nobody is left out, this process included.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from resurgam.errors import Busy, Denied

_DELETED = " (deleted)"
_MAPPING = re.compile(  # proc_pid_maps(5): address perms offset major:minor inode path
    rb"^[0-9a-f]+-[0-9a-f]+ \S+ [0-9a-f]+ ([0-9a-f]+):([0-9a-f]+) ([0-9]+) +(/.*)$", re.MULTILINE
)


class Holder(NamedTuple):
    """A process, its program's name, and the path it holds."""

    pid: int
    command: str
    path: str


def holders(paths: Iterable[str]) -> list[Holder]:
    """The processes that hold any of ``paths`` or what lies below them, each once, by process id.

    Paths that do not exist are compared by name only. Costs one walk over the paths and one over ``/proc``. Raises Denied
    where there is no ``/proc`` to ask.
    """
    names = tuple(os.path.realpath(path) for path in paths)
    inodes = set(_inodes(names))
    found = []
    for pid in _processes():
        held = next((path for path, inode in _held(pid) if inode in inodes or _below(path, names)), None)
        if held is not None:
            found.append(Holder(pid, _command(pid), held))
    return found


def require_idle(paths: Iterable[str]) -> None:
    """Raises Busy where any process holds one of ``paths``, and what :func:`holders` raises."""
    found = holders(paths)
    if found:
        shown = "; ".join(f"{holder.command} (pid {holder.pid}) holds {holder.path}" for holder in found[:5])
        more = f", and {len(found) - 5} more" if len(found) > 5 else ""
        raise Busy(
            f"The live system is in use: {shown}{more}.",
            untouched="Nothing was switched.",
            next_step="Stop them, or let `promotion: fence` in resurgam.yaml do it, and run again.",
        )


def _below(path: str, names: tuple[str, ...]) -> bool:
    bare = path.removesuffix(_DELETED)
    return any(bare == name or bare.startswith(name + "/") for name in names)


def _inodes(names: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    for name in names:
        try:
            status = os.lstat(name)
        except FileNotFoundError:
            continue
        yield status.st_dev, status.st_ino
        for folder, folders, files in os.walk(name):
            for entry in folders + files:
                try:
                    status = os.lstat(os.path.join(folder, entry))
                except FileNotFoundError:
                    continue  # gone while we walked: nobody can be handed it any more
                yield status.st_dev, status.st_ino


def _processes() -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    except FileNotFoundError as error:  # P12: not to know is not the same as nobody
        raise Denied(
            "This system has no /proc, so nobody can tell who holds the live files.",
            untouched="Nothing was switched.",
            next_step="Promote on Linux, with /proc mounted.",
        ) from error


def _held(pid: int) -> Iterator[tuple[str, tuple[int, int] | None]]:
    """Every path of ``pid`` with its inode. A process that ends meanwhile, or is another user's, yields what was seen."""
    links = [f"/proc/{pid}/{name}" for name in ("cwd", "root", "exe")]
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        links += [f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd")]
    for link in links:
        try:
            path = os.readlink(link)
            if not path.startswith("/"):
                continue  # a socket, a pipe: most of what a service has open, and clients wait while we look
            status = os.stat(link)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        yield path, (status.st_dev, status.st_ino)
    yield from _mapped(pid)


def _mapped(pid: int) -> Iterator[tuple[str, tuple[int, int] | None]]:
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            found = set(_MAPPING.findall(file.read()))  # a library is mapped in many pieces
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return
    for major, minor, inode, path in found:
        yield os.fsdecode(path), (os.makedev(int(major, 16), int(minor, 16)), int(inode))


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return os.fsdecode(file.read().strip())
    except (FileNotFoundError, ProcessLookupError):
        return "(ended)"
