"""Git as the writer in tests: the real command, with nothing of the user's or the machine's own configuration."""

from __future__ import annotations

import os
import subprocess

ALONE = {
    "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "GIT_TERMINAL_PROMPT": "0", "GIT_EDITOR": "true",
    "GIT_ALLOW_PROTOCOL": "file",
}  # fmt: skip


def git(place: str | os.PathLike[str], *words: str, check: bool = True) -> str:
    """What git says on standard output."""
    done = subprocess.run(
        ["git", "-c", "core.quotePath=false", *words],
        cwd=place,
        env={**os.environ, **ALONE},
        check=check,
        capture_output=True,
    )
    return done.stdout.decode("utf-8", "surrogateescape")


def make(place: str | os.PathLike[str], *words: str) -> None:
    """An empty repository whose commits have an author."""
    os.makedirs(place, exist_ok=True)
    git(place, "init", "-q", "-b", "main", *words)
    for name, value in (("user.name", "tests"), ("user.email", "tests@example.invalid"), ("gc.auto", "0")):
        git(place, "config", name, value)


def state(place: str | os.PathLike[str]) -> tuple[str, str, str, str]:
    """What git says of a tree: status, log of all refs, refs, and what fsck finds."""
    return (
        git(place, "status", "--porcelain", "--no-renames", "-uall"),
        git(place, "log", "--all", "--format=%H %s"),
        git(place, "for-each-ref"),
        git(place, "fsck", "--full", "--strict"),
    )
