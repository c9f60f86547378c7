"""The prompts' repository: prompts and policies under git, through dulwich, so that no git need be installed."""

from __future__ import annotations

import os
import time

AUTHOR = b"Helpdesk <desk@example.com>"


def start(folder: str, files: dict[str, list[str]], at: int) -> None:
    """Make ``folder``, which holds files already, a repository; ``files`` are the commits' messages with what each adds. The
    first is made at ``at`` (seconds since 1970), each other a day later, so that equal files give equal commits."""
    from dulwich.repo import Repo

    Repo.init(folder, default_branch=b"main").close()
    for days, (message, paths) in enumerate(files.items()):
        commit(folder, message, paths, at + days * 86400)


def commit(folder: str, message: str, paths: list[str] | None = None, at: float | None = None) -> None:
    """Commit ``paths`` (relative; all that is tracked or not, if None) as they stand now."""
    from dulwich.repo import Repo

    repository = Repo(folder)
    try:
        tree = repository.get_worktree()
        tree.stage([os.fsencode(path) for path in (paths if paths is not None else _files(folder))])
        when = time.time() if at is None else at
        tree.commit(
            message.encode(), committer=AUTHOR, author=AUTHOR, commit_timestamp=when, commit_timezone=0,
            author_timestamp=when, author_timezone=0,
        )  # fmt: skip
    finally:
        repository.close()


def _files(folder: str) -> list[str]:
    found = []
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != ".git")
        found += [os.path.relpath(os.path.join(where, name), folder) for name in sorted(names)]
    return found
