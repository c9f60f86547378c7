"""The refs and the index of a git repository, noted so quickly that they stood still meanwhile.

Layout: gitrepository-layout(5).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from resurgam.drivers.base import Blob, InMemory
from resurgam.drivers.files_listing import failed
from resurgam.drivers.files_reading import add_extended
from resurgam.model.system import Json

_REFS = frozenset({b"HEAD", b"ORIG_HEAD", b"index", b"packed-refs"})
_REF_FOLDERS = (b"refs", b"reftable")


State = tuple[object, ...]


class Noted(NamedTuple):
    """A ref, or the index: its item, and what ``lstat`` said; None for a folder."""

    blob: Blob
    state: State | None


def is_ref(path: bytes, prefix: bytes) -> bool:
    """Whether a path is of what is noted first."""
    name = path.removeprefix(prefix)
    return path.startswith(prefix) and (name in _REFS or name.startswith(_REF_FOLDERS))


def note(root: bytes, prefix: bytes) -> dict[bytes, Noted] | None:
    """Refs and index with their bytes, in some hundred microseconds; None where one of them changed meanwhile.

    Git renames each of them into place, so what one reads is whole. Raises Denied, and what else ``failed`` makes of errors.
    """
    noted: dict[bytes, Noted] = {}
    try:
        for path in _paths(root, prefix):
            where = root + b"/" + path
            found = os.lstat(where)
            data = b"" if stat.S_ISDIR(found.st_mode) else _data(where, found)
            noted[path] = Noted(_blob(path, where, found, data), None if stat.S_ISDIR(found.st_mode) else _seen(found))
        stood = all(n.state is None or _seen(os.lstat(root + b"/" + path)) == n.state for path, n in noted.items())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise failed(error, root, "Nothing was held.") from error
    return noted if stood and set(_paths(root, prefix)) == set(noted) else None


def _paths(root: bytes, prefix: bytes) -> Iterator[bytes]:
    for name in sorted(_REFS):
        if os.path.lexists(root + b"/" + prefix + name):
            yield prefix + name
    folders = [prefix + name for name in _REF_FOLDERS if os.path.isdir(root + b"/" + prefix + name)]
    while folders:
        folder = folders.pop()
        yield folder
        with os.scandir(root + b"/" + folder) as entries:
            for entry in entries:
                path = folder + b"/" + entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif not entry.name.endswith(b".lock"):
                    yield path


def _data(where: bytes, found: os.stat_result) -> bytes:
    if stat.S_ISLNK(found.st_mode):
        return b""
    with open(os.open(where, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        return file.read()


def _seen(found: os.stat_result) -> State:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_mode


def _blob(path: bytes, where: bytes, found: os.stat_result, data: bytes) -> Blob:
    """The item, as ``files`` makes it."""
    meta: dict[str, Json] = {"m": stat.S_IMODE(found.st_mode), "t": found.st_mtime_ns}
    if found.st_uid or found.st_gid:
        meta["o"] = [found.st_uid, found.st_gid]
    if stat.S_ISDIR(found.st_mode):
        meta["y"] = "d"
    elif stat.S_ISLNK(found.st_mode):
        meta["y"], meta["to"] = "l", os.readlink(where)
    if not stat.S_ISLNK(found.st_mode):
        add_extended(meta, where)
    return Blob(path, len(data), InMemory(data), meta)
