"""The application's code beside its environment: which revision ran, and what in the working tree differs from it.

git itself is asked where a folder is in a working tree: read-only, without optional locks, and without the commands that a
repository's configuration can name (hooks, file monitors, filters), since those would run with the rights of a capture. Submodules
are compared by their commit. All else, and whatever differs from the revision, is named by a digest over paths and bytes. The code
is described here and not kept: name it as a component of its own (``files``, ``git``) to get it back.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Iterable, Iterator

from resurgam.drivers.environment_form import Code
from resurgam.errors import NotFound

GIT_TIME = 60.0  # seconds for git to look through a working tree
_GIT = ("git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-C")
_SKIPPED = frozenset(
    {".git", "__pycache__", "node_modules", ".venv", "venv", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
)


def describe(path: str) -> Code:
    """The folder or file ``path`` as it is now. Raises NotFound, and OSError for what may not be read."""
    if not os.path.lexists(path):
        raise NotFound(
            f"There is no code at {path}.",
            untouched="Nothing was changed.",
            next_step="Correct options.code; it is read from the folder in which the environment lies.",
        )
    revision = _git(path, "rev-parse", "--verify", "HEAD")
    words = ("status", "--porcelain=v1", "-z", "--no-renames", "--untracked-files=all", "--ignore-submodules=dirty")
    status = _git(path, *words, "--", path, settings=_without_filters(path))
    top = _git(path, "rev-parse", "--show-toplevel")
    if revision is None or status is None or top is None:
        return Code(path=path, digest=digest(path, _files(path)))
    root, changes = os.fsdecode(top.rstrip(b"\n")), [os.fsdecode(line) for line in status.split(b"\0") if line]
    dirty = [os.path.join(root, change[3:]) for change in changes]
    return Code(
        path=path,
        revision=revision.decode().strip(),
        changes=tuple(_shown(change) for change in sorted(changes)),
        digest=digest(root, sorted(dirty)) if dirty else "",
    )


def digest(root: str, paths: Iterable[str]) -> str:
    """SHA-256 over relative paths and what they hold; a path that is gone counts as that."""
    whole = hashlib.sha256()
    for path in paths:
        held = _held(path)
        name = os.fsencode(os.path.relpath(path, root))
        whole.update(len(name).to_bytes(8, "little") + name + held)
    return whole.hexdigest()


def _held(path: str) -> bytes:
    try:
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            return b"l" + hashlib.sha256(os.fsencode(os.readlink(path))).digest()
        if not stat.S_ISREG(found.st_mode):
            return b"-"
        with open(path, "rb") as file:
            return b"f" + hashlib.file_digest(file, "sha256").digest()
    except FileNotFoundError:
        return b"gone"


def _files(path: str) -> Iterator[str]:
    """Every file below ``path`` in order, without what is made from others; a file is itself."""
    if not os.path.isdir(path):
        yield path
        return
    for where, folders, names in os.walk(path, onerror=_raise):
        folders[:] = sorted(f for f in folders if f not in _SKIPPED and not _is_environment(where, f))
        yield from (os.path.join(where, name) for name in sorted(names) if not name.endswith(".pyc"))


def _is_environment(where: str, folder: str) -> bool:
    return os.path.exists(os.path.join(where, folder, "pyvenv.cfg"))


def _raise(error: OSError) -> None:
    raise error


def _without_filters(path: str) -> list[str]:
    """Settings that make every filter that is configured pass on what it gets."""
    listed = _git(path, "config", "-z", "--name-only", "--get-regexp", r"^filter\.") or b""
    names = {os.fsdecode(name).rpartition(".")[0] for name in listed.split(b"\0") if name}
    off = [f"{name}.{word}" for name in sorted(names) for word in ("clean=", "process=", "smudge=", "required=false")]
    return [word for setting in off for word in ("-c", setting)]


def _git(path: str, *words: str, settings: Iterable[str] = ()) -> bytes | None:
    """What git answers; None where there is no git, no working tree, or no commit yet."""
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            [*_GIT, folder, *settings, *words], capture_output=True, timeout=GIT_TIME, check=False, env=surroundings
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _shown(text: str) -> str:
    return os.fsencode(text).decode("utf-8", "backslashreplace")
