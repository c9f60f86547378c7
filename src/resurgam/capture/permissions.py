"""Which permission is missing on a path, and the exact command that grants it to the user who runs this process.

Asked of the kernel (``faccessat`` with the effective ids), so that groups and access lists count; nothing is opened. The
command is the narrowest that helps: the owner's own bit where the file is ours, else an access list for this user, else the
user's group. Where many files of one folder are closed, one command for the folder stands for all.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from shlex import quote

import msgspec

_FEW = 3  # up to so many closed files get a command each
_SUPPORTED = os.access in os.supports_effective_ids


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """``need`` (read, search, write) is not allowed on ``path``; ``grant`` is the command that allows it."""

    path: str
    need: str
    grant: str


@dataclass(frozen=True, slots=True)
class User:
    """Who needs the permission. ``lists``: whether this system has access lists (``setfacl``)."""

    uid: int
    name: str
    group: str
    lists: bool


def current_user() -> User:
    """The user that this process acts as."""
    uid, gid = os.geteuid(), os.getegid()
    return User(uid, _user_name(uid), _group_name(gid), shutil.which("setfacl") is not None)


Excluded = Callable[[bytes], object]  # whether a path, relative to the one that is asked about, is left out


def missing(
    path: str, *, write: bool = False, excluded: Excluded | None = None, user: User | None = None
) -> list[Missing]:
    """What keeps this process from reading all of ``path`` (or, with ``write``, from writing to it too), parents first.

    Where a parent folder cannot be searched nothing below is known, and only that is told. A path that does not exist is
    missing no permission.
    """
    user = user or current_user()
    closed = [parent for parent in _parents(path) if os.path.isdir(parent) and not _may(parent, os.X_OK)]
    if closed:
        return [Missing(path=closed[0], need="search", grant=grant(closed[0], "x", user))]
    found = [Missing(path=path, need="write", grant=grant(path, "w", user))] if write and _closed(path, os.W_OK) else []
    unreadable = list(_unreadable(path, path, excluded))
    if len(unreadable) > _FEW:
        return [Missing(path=path, need="read", grant=grant(path, "rX", user, deep=True)), *found]
    return [
        Missing(path=p, need="read", grant=grant(p, "rx" if os.path.isdir(p) else "r", user)) for p in unreadable
    ] + found


def grant(path: str, bits: str, user: User, *, deep: bool = False) -> str:
    """The command that gives ``user`` the permission ``bits`` on ``path`` (on all below it with ``deep``)."""
    everything = "-R " if deep else ""
    if os.lstat(path).st_uid == user.uid:
        return f"chmod {everything}u+{bits} {quote(path)}"
    if user.lists:
        return f"sudo setfacl {everything}-m u:{user.name}:{bits} {quote(path)}"
    of_group = "" if os.lstat(path).st_gid in _groups() else f"sudo chgrp {everything}{user.group} {quote(path)} && "
    return f"{of_group}sudo chmod {everything}g+{bits} {quote(path)}"


def _unreadable(path: str, root: str, excluded: Excluded | None) -> Iterator[str]:
    """Every file and folder from ``path`` down that cannot be read; links are not followed."""
    if os.path.isdir(path) and not os.path.islink(path):
        if not _may(path, os.R_OK | os.X_OK):
            yield path
            return
        try:
            with os.scandir(path) as listing:
                entries = list(listing)
        except (
            PermissionError
        ):  # modes are not all that decides: capabilities, security modules, a server's squashed root
            yield path
            return
        except FileNotFoundError:
            return  # gone meanwhile
        for entry in entries:
            if excluded and excluded(os.fsencode(os.path.relpath(entry.path, root))):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _unreadable(entry.path, root, excluded)
            elif entry.is_file(follow_symlinks=False) and not _may(entry.path, os.R_OK):
                yield entry.path
    elif _closed(path, os.R_OK):
        yield path


def _closed(path: str, mode: int) -> bool:
    return os.path.exists(path) and not _may(path, mode)


def _may(path: str, mode: int) -> bool:
    return os.access(path, mode, effective_ids=_SUPPORTED)


def _parents(path: str) -> list[str]:
    """The folders on the way to ``path``, from the root."""
    parents = [os.path.dirname(os.path.abspath(path))]
    while parents[-1] != (above := os.path.dirname(parents[-1])):
        parents.append(above)
    return parents[::-1]


def _groups() -> set[int]:
    return {os.getegid(), *os.getgroups()}


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a user without an entry (containers): its number is as good to chmod and setfacl
        return str(uid)


def _group_name(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
