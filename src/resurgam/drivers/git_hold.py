"""One state of a git repository, held while its writers go on.

Git has no lock that a reader may hold without giving writers errors. What helps instead: objects are never changed, and a ref or
an index is renamed into place after the objects that it needs are there. So these are noted first, and objects are listed and
copied last: whatever a noted ref names is among them. Packs are held open instead of being copied: an open file outlives a
``git gc`` that replaces it.

    note refs and index, until they stood still -> list and copy all else -> list everything -> copy loose objects, open packs

*Steady*: nothing but objects changed between the note and the last listing, so all of it stood together at one moment. Else the
history is whole all the same, and each working file is as it was at some moment. Where the refs never stand still for as long
as it takes to read them, there is an error, at the limit.

Left out: lock files, unfinished objects, packs and lists, and the sockets of file-system monitors: they belong to running commands.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from typing import IO, Self

from blake3 import blake3

from resurgam.drivers import files_reading
from resurgam.drivers.base import Blob
from resurgam.drivers.files_listing import Entry, Excluded, Listing, Troubles, excluded_by, failed, scan
from resurgam.drivers.files_reading import PrivateCopy, blobs, nothing_known
from resurgam.drivers.git_note import Noted, State, is_ref, note
from resurgam.errors import LimitExceeded, NotFound

COPIED = 64 << 20  # bytes of everything but objects that are copied; what is beyond is read live
COPIED_OBJECTS = 256 << 20
PINNED_PACKS = 256  # files held open
STEADY_ATTEMPTS = 5
_WAIT = 0.01
_LEAST = 0.5  # seconds that are left to a listing once it began


class Pinned:
    """A Source over a file held open until ``let_go``: packs never change, and outlive their name this way."""

    def __init__(self, where: bytes) -> None:
        self._descriptor = os.open(where, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """See ``drivers.base.Source``."""
        return os.preadv(self._descriptor, [buffer], offset)

    def settled(self) -> bool:
        """Packs never change."""
        return True

    def close(self) -> None:
        """It stays open for whoever reads it next."""

    def file(self) -> IO[bytes]:
        """The same file for a library, with a position of its own; the caller closes it."""
        return open(os.dup(self._descriptor), "rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()

    def let_go(self) -> None:
        """Close it; repeatable."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Held:
    """What a position stands for. ``prefix`` is where the repository's own files are: ``.git/``, or nothing for a bare one."""

    def __init__(self, root: bytes, prefix: bytes, items: list[Blob], troubles: list[Troubles]) -> None:
        self.root, self.prefix, self.blobs, self.troubles = root, prefix, items, troubles
        self.steady = False
        self.stamp: bytes | None = None
        self._undo = ExitStack()

    def close_with(self, undo: ExitStack) -> None:
        """Take over what is to be let go in the end."""
        self._undo = undo.pop_all()

    def close(self) -> None:
        """Let go; repeatable."""
        self._undo.close()


def left_out(prefix: str) -> tuple[str, ...]:
    """Globs of what belongs to running commands."""
    names = (
        "**/*.lock", "gc.pid", "fsmonitor--daemon*", "fsmonitor--daemon*/**", "objects/**/tmp_*", "objects/incoming-*",
        "objects/tmp_objdir-*", "objects/pack/.tmp-*", "objects/info/packs_*", "info/refs_*", "packed-refs.new", "sharedindex_*",
        "shallow_*",
    )  # fmt: skip
    return tuple(prefix + name if prefix else "/" + name for name in names)


def git_folder(location: str) -> str | None:
    """``.git/`` in a working tree, nothing in a bare repository; None where the repository is elsewhere (a file ``.git``)."""
    place = os.path.realpath(location)
    if os.path.isdir(os.path.join(place, ".git")):
        return ".git/"
    if os.path.lexists(os.path.join(place, ".git")):
        return None
    if all(os.path.lexists(os.path.join(place, name)) for name in ("HEAD", "objects", "refs")):
        return ""
    scan(place)  # says that it is not there, or closed to us
    raise NotFound(
        f"{location} is no git repository.",
        untouched="Nothing was read or changed.",
        next_step="Name the folder that holds .git, or a bare repository; for any other folder use the driver files.",
    )


def hold(location: str, exclude: tuple[str, ...], limit: float) -> Held:
    """One state of the repository. Raises NotFound, Denied, Unreachable, LimitExceeded."""
    deadline = time.monotonic() + limit
    found = git_folder(location)
    folder = ".git/" if found is None else found
    excluded = excluded_by((*exclude, *left_out(folder)))
    left = STEADY_ATTEMPTS
    while True:
        held = _attempt(location, os.fsencode(folder), excluded, deadline)
        late = time.monotonic() > deadline
        if held is not None:
            left -= 1
            if held.steady or not left or late:
                return held
            held.close()
        elif late:
            raise _restless(location, limit)
        time.sleep(_WAIT)


def _restless(location: str, limit: float) -> LimitExceeded:
    return LimitExceeded(
        f"The refs and objects of {location} did not stand still within {limit:g} s.",
        untouched="Nothing was held, and nothing was read.",
        next_step="Capture while fewer commits are made, or allow a longer freeze (limits.freeze).",
    )


def _attempt(location: str, prefix: bytes, excluded: Excluded | None, deadline: float) -> Held | None:
    """One try; None where an object was gone before it could be held, as after a ``git gc``."""
    began = time.monotonic()
    noted = None
    while noted is None:
        noted = note(os.path.realpath(os.fsencode(location)), prefix)
        if noted is None and time.monotonic() > deadline:
            raise _restless(location, deadline - began)
    objects = prefix + b"objects"

    def not_here(path: bytes) -> object:
        return path == objects or is_ref(path, prefix) or (excluded is not None and excluded(path))

    limit = max(deadline - time.monotonic(), _LEAST)
    first = scan(location, not_here, limit)
    with ExitStack() as undo:
        try:
            copy = PrivateCopy()
            undo.callback(copy.close)
            troubles = Troubles()
            items, moved = _copied(first, copy, troubles, COPIED)
            second = scan(location, excluded, limit)
            kept, gone = _kept(_within(second, objects), copy, undo)
        except OSError as error:
            raise failed(error, first.root, "Nothing was held.") from error
        if gone:
            return None
        whole = sorted([*(n.blob for n in noted.values()), *items, *kept], key=lambda blob: blob.path)
        held = Held(first.root, prefix, whole, [second.troubles, troubles])
        held.steady = not moved and _same(first, second, objects, noted, prefix)
        held.stamp = _stamp(second) if held.steady else None
        held.close_with(undo)
    return held


def _copied(listing: Listing, copy: PrivateCopy, troubles: Troubles, room: int) -> tuple[list[Blob], bool]:
    """The items of a listing with their bytes copied, and whether one of them moved, or was too large to be copied."""
    items, moved = [], False
    for blob in blobs(listing, troubles, nothing_known):
        if blob.size <= room and copy.add(blob):  # empty files too: what is written to one later is not of this moment
            room -= blob.size
            items.append(copy.blobs[-1])
        else:
            moved = True
            items.append(blob)
    return items, moved or troubles.incomplete


def _kept(listing: Listing, copy: PrivateCopy, undo: ExitStack) -> tuple[list[Blob], bool]:
    """The objects: packs pinned, all else copied while there is room; and whether one was gone, as after a ``git gc``."""
    troubles, packs, room, items = Troubles(), PINNED_PACKS, COPIED_OBJECTS, []
    for blob in blobs(listing, troubles, nothing_known):
        if not blob.size:
            items.append(blob)
            continue
        blob.source.close()  # it would watch whether the file stands still; objects are never written to
        try:
            pinned = Pinned(listing.where(blob.path))
        except FileNotFoundError:
            return [], True
        if packs and blob.path.endswith(b".pack"):
            packs -= 1
            undo.callback(pinned.let_go)
            items.append(Blob(blob.path, blob.size, pinned, blob.meta, blob.stamp))
            continue
        with pinned:
            whole = blob.size <= room and copy.add(Blob(blob.path, blob.size, pinned, blob.meta, blob.stamp))
        room -= blob.size if whole else 0
        items.append(copy.blobs[-1] if whole else blob)
    return items, troubles.incomplete


def _within(listing: Listing, folder: bytes) -> Listing:
    """The part of a listing at and below ``folder``."""
    packed = [entry for entry in listing.packed if entry.startswith((folder + b"\0", folder + b"/"))]
    return Listing(listing.root, packed, listing.began, Troubles())


def _same(first: Listing, second: Listing, objects: bytes, noted: dict[bytes, Noted], prefix: bytes) -> bool:
    """Whether nothing but objects changed. The times of folders say that lock files came and went, and do not count."""
    others, refs = [], {}
    for entry in second:
        if is_ref(entry.path, prefix):
            refs[entry.path] = None if entry.is_folder else _state(entry)
        elif entry.path != objects and not entry.path.startswith(objects + b"/"):
            others.append(_state(entry))
    return others == [_state(entry) for entry in first] and refs == {path: n.state for path, n in noted.items()}


def _state(entry: Entry) -> State:
    if entry.is_folder:
        return entry.path, entry.mode
    return entry.size, entry.mtime, entry.ctime, entry.inode, entry.mode


def _stamp(listing: Listing) -> bytes | None:
    """Equal where nothing in the repository changed, so that what is decoded from it need not be decoded again. None where
    something is so young that its next change might leave no trace."""
    digest = blake3()
    for entry in listing:
        if max(entry.mtime, entry.ctime) > listing.began - files_reading.SAFE_AGE and not entry.is_folder:
            return None
        if not entry.is_folder:
            digest.update(repr((entry.path, entry.mode, entry.size, entry.mtime, entry.ctime, entry.inode)).encode())
    return digest.digest()
