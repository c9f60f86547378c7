"""Which files differ from what is committed, told as ``git status --porcelain`` does, without running git.

Two letters per path: the index against HEAD, the working tree against the index; ``??`` for untracked, ``!!`` for ignored
files, ``U`` for conflicts. Renames show as a deletion and an addition. Contents are compared as they lie in the working tree:
no filter is applied (they are commands), nor line endings changed. As in git, a file whose size and time are those in the
index is not read, unless it may have changed after the index was written.

Format: git-status(1), gitignore(5).
"""

from __future__ import annotations

import io
import stat
from collections.abc import Iterator, Mapping

from resurgam.drivers.base import COPY_STEP
from resurgam.drivers.git_repository import Entry, Readable, Repository, tree

Changed = tuple[bytes, str, Readable | None]  # path, letters, and the file where there is one

_GITLINK = 0o160000
_LINK = 0o120000
_CONFLICTS = {  # the stages that an unmerged path has: both letters, as git-status(1) has them
    (1,): "DD", (2,): "AU", (3,): "UA", (1, 2): "UD", (1, 3): "DU", (2, 3): "AA", (1, 2, 3): "UU",
}  # fmt: skip


def status(repository: Repository) -> Iterator[Changed]:
    """Path, letters and file of everything that is not as committed, by path. Raises IntegrityError."""
    index = repository.index()
    at_head = committed(repository)
    worktree = {path: file for path, file in repository.files.items() if _is_worked_on(repository, path)}
    stages: dict[bytes, tuple[int, ...]] = {}
    for path, stage in sorted(index):
        stages[path] = (*stages.get(path, ()), stage)
    for path in sorted(stages.keys() | at_head.keys()):
        if path in stages and stages[path] != (0,):
            yield path, _CONFLICTS.get(stages[path], "UU"), worktree.get(path)
            continue
        entry = index.get((path, 0))
        letters = _staged(entry, at_head.get(path)) + _worked(repository, entry, worktree.get(path))
        if letters != "  ":
            yield path, letters, worktree.get(path)
    yield from _untracked(repository, worktree, stages, index)


def committed(repository: Repository) -> dict[bytes, tuple[int, bytes]]:
    """Mode and blob of every path at HEAD."""
    head = repository.head()
    if head is None:
        return {}
    try:
        return {path: (mode, oid) for path, mode, oid in tree(repository, repository.object(head).tree)}
    except KeyError:
        return {}  # ``git_history`` says what is missing


def _is_worked_on(repository: Repository, path: bytes) -> bool:
    return bool(repository.prefix) and path not in {b".", b".git"} and not path.startswith(repository.prefix)


def _staged(entry: Entry | None, committed: tuple[int, bytes] | None) -> str:
    if entry is None:
        return "D" if committed else " "
    if committed is None:
        return "A"
    if (entry.mode, entry.blob) == committed:
        return " "
    return "T" if stat.S_IFMT(entry.mode) != stat.S_IFMT(committed[0]) else "M"


def _worked(repository: Repository, entry: Entry | None, file: Readable | None) -> str:
    """The working tree against the index. A submodule's folder is not looked into."""
    if entry is None or not repository.prefix or entry.mode == _GITLINK:
        return " "
    if file is None or file.meta.get("y") == "d":
        return "D"
    if (file.meta.get("y") == "l") != (entry.mode == _LINK):
        return "T"
    may_run = bool(file.meta["m"] & 0o100)
    if (
        entry.mode != _LINK
        and may_run != (entry.mode == 0o100755)
        and repository.setting("core", "filemode") != b"false"
    ):
        return "M"
    written = repository.files[repository.prefix + b"index"].meta["t"]
    as_noted = file.meta.get("y", "f") == "f" and entry.size == file.size and entry.time == file.meta["t"] < written
    return " " if as_noted or _blob_id(repository, file) == entry.blob else "M"


def _blob_id(repository: Repository, file: Readable) -> bytes:
    """The id that git would give the file's bytes."""
    target: bytes | None = file.meta["to"] if file.meta.get("y") == "l" else None
    digest = repository.format.hash_func()
    digest.update(b"blob %d\0" % (file.size if target is None else len(target)))
    if file.meta.get("y") == "h":
        file = repository.files[file.meta["to"]]
    if target is not None:
        digest.update(target)
        return bytes(digest.hexdigest(), "ascii")
    buffer, offset = memoryview(bytearray(min(COPY_STEP, file.size))), 0
    while offset < file.size and (done := file.source.read_into(offset, buffer)):
        digest.update(buffer[:done])
        offset += done
    return bytes(digest.hexdigest(), "ascii")


def _untracked(
    repository: Repository,
    worktree: Mapping[bytes, Readable],
    tracked: Mapping[bytes, object],
    index: Mapping[tuple[bytes, int], Entry],
) -> Iterator[Changed]:
    modules = tuple(path + b"/" for (path, _), entry in index.items() if entry.mode == _GITLINK)
    ignored = Ignored(repository)
    for path, file in sorted(worktree.items()):
        if path not in tracked and file.meta.get("y") != "d" and not (modules and path.startswith(modules)):
            yield path, "!!" if ignored.has(path) else "??", file


class Ignored:
    """The patterns of every ``.gitignore`` and of ``info/exclude``, and not a user's own (``core.excludesFile``)."""

    def __init__(self, repository: Repository) -> None:
        from dulwich.ignore import IgnoreFilter, read_ignore_patterns

        self._filters: dict[bytes, list[IgnoreFilter]] = {}
        self._known: dict[bytes, bool] = {}
        sources = [
            (path[: -len(b".gitignore")], path) for path in repository.files if path.split(b"/")[-1] == b".gitignore"
        ]
        for folder, path in [(b"", repository.prefix + b"info/exclude"), *sources]:
            file = repository.files.get(path)
            if file is not None and 0 < file.size < COPY_STEP:
                patterns = list(read_ignore_patterns(io.BytesIO(file.read())))
                self._filters.setdefault(folder, []).append(IgnoreFilter(patterns))

    def has(self, path: bytes) -> bool:
        """Whether a file, or a folder that it is in, is ignored."""
        if path in self._known:
            return self._known[path]
        parent, _, _ = path.rstrip(b"/").rpartition(b"/")
        self._known[path] = (bool(parent) and self.has(parent + b"/")) or self._decided(path)
        return self._known[path]

    def _decided(self, path: bytes) -> bool:
        """The nearest file of patterns that mentions the path decides."""
        folder = path.rstrip(b"/")
        while folder:
            folder = folder.rpartition(b"/")[0]
            prefix = folder + b"/" if folder else b""
            for patterns in reversed(self._filters.get(prefix, [])):
                try:
                    decision = patterns.is_ignored(path[len(prefix) :])
                except UnicodeDecodeError:
                    decision = None
                if decision is not None:
                    return bool(decision)
        return False
