"""What people should know of a git repository: where it stands, and what of it lies elsewhere or should not be in it.

A credential is named by the place where it stands, never by its value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from resurgam.drivers.base import Facts
from resurgam.drivers.git_history import History
from resurgam.drivers.git_repository import Repository, shown
from resurgam.model.point import Finding, Severity

_UNDER_WAY = {
    "MERGE_HEAD": "merge", "rebase-merge": "rebase", "rebase-apply": "rebase", "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert", "BISECT_LOG": "bisect",
}  # fmt: skip
_USER_PART = re.compile(rb"(?<=://)[^/\s@]+@")
_CREDENTIAL = re.compile(rb"://(?:[^/\s:@]*:[^/\s@]+|[^/\s:@]{20,})@")
_TEXTS = (b"config", b"config.worktree", b"FETCH_HEAD", b"packed-refs")
_POINTER = b"version https://git-lfs.github.com/spec/"
_KEYS = 20


def under_way(repository: Repository) -> list[str]:
    """Commands that were begun and not ended."""
    return sorted({word for name, word in _UNDER_WAY.items() if repository.has(name)})


def facts_of(repository: Repository) -> Facts:
    """Where the repository stands. No secret."""
    head = repository.head()
    return {
        "branch": repository.branch(),
        "commit": shown(head) if head else None,
        "under_way": under_way(repository),
        "object_format": str(repository.format.name),
        "bare": not repository.prefix,
        "remotes": {
            shown(words[1]): shown(_USER_PART.sub(b"", values.get(b"url", b"")))
            for words, values in repository.config
            if words[0] == b"remote" and len(words) == 2
        },
        "submodules": sorted(shown(path) for (path, _), entry in repository.index().items() if entry.mode == 0o160000),
    }


class Told:
    """Makes the findings of one repository."""

    def __init__(self, component: str, repository: Repository) -> None:
        self._component, self._repository = component, repository

    def _finding(self, severity: Severity, what: str, keys: tuple[str, ...] = ()) -> Finding:
        return Finding(severity=severity, what=what, component=self._component, keys=keys[:_KEYS])

    def all(self, history: History, untracked: list[tuple[str, int]], limit: int) -> Iterator[Finding]:
        """Everything, in the order in which it matters."""
        if history.missing and not self._promised():
            what = f"{len(history.missing)} refs or index entries need objects that are not in the repository: run git fsck there"
            yield self._finding(Severity.BROKEN, what, tuple(sorted(history.missing)))
        if not history.complete:
            yield self._finding(Severity.NOTE, f"{len(history.commits)} commits were checked; older ones were not")
        yield from self._credentials()
        yield from self._elsewhere()
        yield from self._large(untracked, limit)
        for word in under_way(self._repository):
            yield self._finding(Severity.NOTE, f"a {word} is under way, and will be in what is restored")

    def _promised(self) -> bool:
        return any(path.endswith(b".promisor") for path in self._repository.files)

    def _credentials(self) -> Iterator[Finding]:
        places = []
        for path, file in self._repository.files.items():
            name = path.removeprefix(self._repository.prefix)
            is_text = path.startswith(self._repository.prefix) and (
                name in _TEXTS
                or name.startswith(b"logs/")
                or (name.startswith(b"modules/") and name.endswith(b"/config"))
            )
            if is_text and 0 < file.size < 1 << 20:
                data = file.read()
                if _CREDENTIAL.search(data) or (name.endswith(b"config") and b"extraheader" in data.lower()):
                    places.append(shown(path))
        if places:
            what = (
                f"{len(places)} files of the repository hold a credential (a password in a URL, or an extra header), and it is "
                "captured with them: revoke it, `git remote set-url` without it, and use a credential helper"
            )
            yield self._finding(Severity.WARNING, what, tuple(places))

    def _elsewhere(self) -> Iterator[Finding]:
        """What git needs and this component does not hold."""
        repository = self._repository
        if repository.text("shallow"):
            yield self._finding(Severity.WARNING, "a shallow clone: history beyond its edge is at the remote only")
        if repository.text("objects/info/alternates"):
            what = "objects are borrowed from a repository that is not captured (objects/info/alternates): run git repack -a -d"
            yield self._finding(Severity.WARNING, what)
        if self._promised():
            yield self._finding(Severity.WARNING, "a partial clone: some objects are at the remote only")
        if any(words[0] in {b"include", b"includeif"} for words, _ in repository.config):
            yield self._finding(
                Severity.NOTE, "the configuration includes files from elsewhere, which are not captured"
            )
        modules = [shown(path) for (path, _), entry in repository.index().items() if entry.mode == 0o160000]
        if modules:
            what = f"{len(modules)} submodules: their files are captured, what they are at is not checked; make each a component"
            yield self._finding(Severity.NOTE, what, tuple(modules))
        pointers = [
            shown(path)
            for path, file in repository.files.items()
            if 100 < file.size < 300
            and not path.startswith(repository.prefix or b"\0")
            and file.read().startswith(_POINTER)
        ]
        if pointers:
            what = f"{len(pointers)} files are pointers of Git LFS: their contents are at the remote only; run git lfs pull"
            yield self._finding(Severity.WARNING, what, tuple(pointers))

    def _large(self, untracked: list[tuple[str, int]], limit: int) -> Iterator[Finding]:
        size = sum(size for _, size in untracked)
        if size > limit:
            largest = sorted(untracked, key=lambda pair: -pair[1])
            what = (
                f"{len(untracked)} untracked files hold {size} bytes, and are captured: leave them out with options.exclude, or "
                "raise options.untracked_limit"
            )
            yield self._finding(Severity.WARNING, what, tuple(path for path, _ in largest))
