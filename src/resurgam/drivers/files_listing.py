"""What lies in a folder, as one sorted listing: every path with what ``lstat`` says of it. Nothing is opened.

An entry is kept as one bytes object, ``path NUL packed-lstat``, some 150 bytes for a common path, so that a million files
fit; NUL sorts before every other byte, so that sorting these objects sorts the paths, parents before their children. Paths are
bytes from the first to the last: names need not be UTF-8. The component itself is the entry ``.``: a folder, or the only
entry and a file.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
from collections.abc import Callable, Iterator
from time import monotonic, time_ns
from typing import NamedTuple

from resurgam.errors import Denied, LimitExceeded, NotFound, ResurgamError, StoreFull, TargetRefused, Unreachable
from resurgam.model.point import Finding, Severity

ROOT = b"."
MAX_KEYS = 20  # examples in a finding

LSTAT = struct.Struct("<qqqQQIIIIQ")  # the fields of an Entry after its path
_TAIL = LSTAT.size + 1
_SILENT = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENODEV}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Entry(NamedTuple):
    """One path with its ``lstat``: sizes in bytes, times in nanoseconds since 1970, ``blocks`` of 512 bytes."""

    path: bytes
    size: int
    mtime: int
    ctime: int
    inode: int
    device: int
    mode: int
    uid: int
    gid: int
    links: int
    blocks: int

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)


class Troubles:
    """What could not be taken as wished, gathered into one finding per reason."""

    def __init__(self) -> None:
        self._seen: dict[tuple[Severity, str], tuple[int, list[str]]] = {}

    def add(self, severity: Severity, what: str, path: bytes) -> None:
        """``what`` happened to ``path``."""
        count, keys = self._seen.get((severity, what), (0, []))
        if count < MAX_KEYS:
            keys.append(shown(path))
        self._seen[severity, what] = count + 1, keys

    def unreadable(self, entry: Entry) -> None:
        """This process may not read ``entry``; says which permission is missing, and the command that grants it."""
        user, right = os.geteuid(), "rx" if entry.is_folder else "r"
        what = (
            f"left out: not readable by user {user} (mode {stat.S_IMODE(entry.mode):04o}, owner {entry.uid}:{entry.gid}); "
            f"grant it with `setfacl -m u:{user}:{right} PATH`"
        )
        self.add(Severity.WARNING, what, entry.path)

    @property
    def incomplete(self) -> bool:
        """Whether anything with state was left out."""
        return any(severity is not Severity.NOTE for severity, _ in self._seen)

    def findings(self, component: str) -> Iterator[Finding]:
        """One finding per reason, naming some paths."""
        for (severity, what), (count, keys) in self._seen.items():
            yield Finding(severity=severity, what=f"{count} {what}", component=component, keys=tuple(keys))


class Listing:
    """All entries below ``root`` as they were between ``began`` and ``ended`` (nanoseconds since 1970)."""

    def __init__(self, root: bytes, packed: list[bytes], began: int, troubles: Troubles) -> None:
        self.root, self.packed, self.began, self.troubles = root, packed, began, troubles
        self.ended = time_ns()

    def __len__(self) -> int:
        return len(self.packed)

    def __iter__(self) -> Iterator[Entry]:
        return map(unpacked, self.packed)

    def where(self, path: bytes) -> bytes:
        """The absolute path of an entry."""
        return self.root if path == ROOT else self.root + b"/" + path


Excluded = Callable[[bytes], object]  # truthy where a path is to be left out


def excluded_by(globs: tuple[str, ...]) -> Excluded | None:
    """A test for the paths that ``globs`` leave out; None where there are none.

    ``*`` and ``?`` stay within one name, ``**`` crosses folders, all else stands for itself. A glob without ``/`` is about
    names at any depth, one with ``/`` about paths from the component's root. What is below an excluded folder goes with it.
    """
    if not globs:
        return None
    parts = []
    for glob in globs:
        pattern = glob.strip("/")
        body = re.sub(rb"\*\*/|\*\*|\*|\?|[^*?]+", _translate, os.fsencode(pattern))
        parts.append(body if "/" in glob.rstrip("/") else b"(?:.*/)?" + body)
    return re.compile(b"|".join(b"(?:" + part + b")" for part in parts), re.DOTALL).fullmatch


def _translate(token: re.Match[bytes]) -> bytes:
    wild = {b"**/": b"(?:.*/)?", b"**": b".*", b"*": b"[^/]*", b"?": b"[^/]"}
    return wild.get(token[0]) or re.escape(token[0])


def scan(location: str, excluded: Excluded | None = None, limit: float | None = None) -> Listing:
    """List what lies at ``location``, following no link but ``location`` itself.

    Raises NotFound and Denied for the location, Unreachable, and LimitExceeded after ``limit`` seconds. Folders further
    down that may not be entered are troubles of the listing.
    """
    began, deadline = time_ns(), None if limit is None else monotonic() + limit
    root, troubles, closed = os.path.realpath(os.fsencode(location)), Troubles(), set[bytes]()
    try:
        found = os.stat(root)
        if not stat.S_ISDIR(found.st_mode):
            if not stat.S_ISREG(found.st_mode):
                raise NotFound(
                    f"{shown(root)} is a device, a pipe or a socket, which holds no state.",
                    untouched="Nothing was read or changed.",
                    next_step="Name a folder or a file in the component's location.",
                )
            return Listing(root, [_packed(ROOT, found)], began, troubles)
        entries = [_packed(ROOT, found)]
        folders = _list_folder(root, b"", entries, excluded)
    except OSError as error:
        raise failed(error, root, "Nothing was read or changed.") from error
    while folders:
        path = folders.pop()
        if deadline is not None and monotonic() > deadline:
            raise _too_slow(root, len(entries), limit)
        try:
            folders += _list_folder(root + b"/" + path, path + b"/", entries, excluded)
        except FileNotFoundError:
            continue  # removed since its parent was listed: it comes as the empty folder that it last was
        except PermissionError:
            closed.add(path)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise failed(error, root + b"/" + path, "Nothing was read or changed.") from error
            troubles.add(Severity.WARNING, "left out: the path is longer than the system allows", path)
    entries.sort()
    for entry in filter(lambda entry: entry.path in closed, map(unpacked, entries if closed else ())):
        troubles.unreadable(entry)
    return Listing(root, entries, began, troubles)


def named(location: str, excluded: Excluded | None) -> list[bytes]:
    """What :func:`scan` passes over because of ``excluded``, sorted; of a folder only itself. Raises NotFound, Denied."""
    root = os.path.realpath(os.fsencode(location))
    found: list[bytes] = []
    folders = [b""] if excluded is not None and os.path.isdir(root) else []
    while folders:
        prefix = folders.pop()
        try:
            with os.scandir(root + b"/" + prefix) as listing:
                for entry in listing:
                    path = prefix + entry.name
                    if excluded is not None and excluded(path):
                        found.append(path)
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(path + b"/")
        except OSError as error:
            raise failed(error, root + b"/" + prefix, "Nothing was read or changed.") from error
    return sorted(found)


def _list_folder(where: bytes, prefix: bytes, entries: list[bytes], excluded: Excluded | None) -> list[bytes]:
    """Append what lies in one folder to ``entries``; returns the paths of the folders among it."""
    folders = []
    with os.scandir(where) as listing:
        for entry in listing:
            path = prefix + entry.name
            if excluded is not None and excluded(path):
                continue
            try:
                entries.append(_packed(path, entry.stat(follow_symlinks=False)))
            except FileNotFoundError:
                continue  # removed while the folder was being listed, so it is not in the listing
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
    return folders


def _packed(path: bytes, s: os.stat_result) -> bytes:
    return b"%b\0%b" % (
        path,
        LSTAT.pack(
            s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev,
            s.st_mode, s.st_uid, s.st_gid, s.st_nlink, s.st_blocks,
        ),
    )  # fmt: skip


def unpacked(packed: bytes) -> Entry:
    """The entry of what ``Listing.packed`` holds."""
    return Entry(packed[:-_TAIL], *LSTAT.unpack_from(packed, len(packed) - LSTAT.size))


def _too_slow(root: bytes, seen: int, limit: float | None) -> LimitExceeded:
    return LimitExceeded(
        f"Listing {shown(root)} took longer than {limit:g} s; {seen} entries were seen by then.",
        untouched="Nothing was held, and nothing was read.",
        next_step="Split the folder into several components, or leave parts out with options.exclude.",
    )


def shown(path: bytes) -> str:
    """A path for people: bytes that are not UTF-8 as ``\\xNN``."""
    return path.decode("utf-8", "backslashreplace")


def failed(error: OSError, where: bytes, untouched: str) -> ResurgamError:
    """What the operating system said about ``where``, as the error of this project that tells the caller what to do."""
    what = f"{shown(where)}: {(error.strerror or str(error)).lower()}."
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotFound(what, untouched=untouched, next_step="Check the component's location in resurgam.yaml.")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        step = f"Give user {os.geteuid()} the right to it (chmod, setfacl), or run as its owner."
        return Denied(what, untouched=untouched, next_step=step)
    if error.errno in _FULL:
        return StoreFull(what, untouched=untouched, next_step="Free some space there and run the same command again.")
    if error.errno in {errno.ENAMETOOLONG, errno.ENOTEMPTY, errno.EEXIST}:
        return TargetRefused(what, untouched=untouched, next_step="Choose another, shorter and empty place.")
    if error.errno in _SILENT:
        return Unreachable(what, untouched=untouched, next_step="Look after the disk or mount, and run it again.")
    return ResurgamError(what, untouched=untouched, next_step="Mend this at the operating system and run it again.")
