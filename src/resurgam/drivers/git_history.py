"""What the refs of a captured repository reach: its commits, and whether every object that they need was captured.

Each object is looked at once, at most MOST of them. Blobs are only looked up, never read. What lies beyond a shallow clone's edge
is known to be elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from resurgam.drivers.git_repository import Repository, shown
from resurgam.model.system import Json

MOST = 100_000  # objects: some 5 s
_GITLINK = 0o160000
_FOLDER = 0o040000


@dataclass(slots=True)
class History:
    """``commits`` are rows (id, author, time, subject, parents); ``missing`` maps a ref to an object that it needs and that is
    not here; ``complete`` is False where there was more than MOST."""

    commits: list[tuple[Json, ...]] = field(default_factory=list)
    missing: dict[str, bytes] = field(default_factory=dict)
    complete: bool = True


def walk(repository: Repository) -> History:
    """Raises IntegrityError where an object is damaged."""
    return _Walk(repository).run()


class _Walk:
    def __init__(self, repository: Repository) -> None:
        self._repository, self._found = repository, History()
        self._seen: set[bytes] = set()
        self._edge = frozenset((repository.text("shallow") or b"").split())

    def run(self) -> History:
        starts = [(name, value) for name, value in self._repository.refs().items() if not value.startswith(b"ref: ")]
        for name, oid in starts:
            if oid.strip(b"0"):
                self._from(name, oid)
        for (path, _), entry in self._repository.index().items():
            if entry.mode != _GITLINK and entry.blob.strip(b"0") and entry.blob not in self._repository:
                self._found.missing.setdefault(f"index {shown(path)}", entry.blob)
        return self._found

    def _from(self, ref: str, start: bytes) -> None:
        """Everything that one ref reaches and no ref before it did."""
        left = [start]
        while left:
            oid = left.pop()
            if oid in self._seen:
                continue
            if len(self._seen) >= MOST:
                self._found.complete = False
                return
            self._seen.add(oid)
            try:
                left += self._inside(oid)
            except KeyError:
                self._found.missing.setdefault(ref, oid)

    def _inside(self, oid: bytes) -> list[bytes]:
        """What an object needs. KeyError where it is not here."""
        found = self._repository.object(oid)
        if found.type_name == b"commit":
            parents = [] if oid in self._edge else [bytes(parent) for parent in found.parents]
            self._found.commits.append(_commit(oid, found))
            return [bytes(found.tree), *parents]
        if found.type_name == b"tag":
            return [bytes(found.object[1])]
        if found.type_name != b"tree":
            return []
        inner = []
        for _, mode, entry in found.items():
            if mode == _FOLDER:
                inner.append(bytes(entry))
            elif mode != _GITLINK and entry not in self._seen and entry not in self._repository:
                raise KeyError(entry)
        return inner


def _commit(oid: bytes, commit: Any) -> tuple[Json, ...]:
    time = datetime.fromtimestamp(min(max(commit.commit_time, 0), 1 << 37), UTC).isoformat()
    subject = shown(commit.message.split(b"\n")[0])
    return shown(oid), shown(commit.author), time, subject, " ".join(map(shown, commit.parents))
