"""``git`` beside git itself: what it says of a tree, what it brings back, and what it never runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resurgam.drivers.base import Rows
from resurgam.drivers.git import GitDriver
from resurgam.errors import IntegrityError, ManifestError, NotFound
from resurgam.model.point import Severity
from resurgam.model.system import Component, Consistency
from resurgam.testing.carrying import Taken, running, take
from tests.drivers.git_tree import git, make, state


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working tree with two commits, a tag, and something of everything that can differ."""
    place = tmp_path / "live"
    make(place)
    for number in range(4):
        (place / f"{number}.txt").write_text(f"{number}\n")
    (place / ".gitignore").write_text("*.tmp\nbuild/\n!kept.tmp\n")
    (place / "ünï").mkdir()
    (place / "ünï" / "run").write_text("#!/bin/sh\n")
    (place / "ünï" / "run").chmod(0o755)
    os.symlink("0.txt", place / "link")
    commit(place, "first")
    git(place, "tag", "-a", "v1", "-m", "one")
    git(place, "branch", "topic")
    (place / "0.txt").write_text("00\n")
    commit(place, "second")
    return place


def commit(place: Path, subject: str) -> None:
    git(place, "add", "-A")
    git(place, "commit", "-q", "--allow-empty", "-m", subject)


def component(place: Path, **options: object) -> Component:
    return Component(name="prompts", driver="git", location=str(place), options=options)


def rows(taken: Taken, name: str) -> list[tuple[Any, ...]]:
    (table,) = (item for item in taken.items if isinstance(item, Rows) and item.name == name)
    return [row for batch in table.batches for row in batch]


def restored(taken: Taken, place: Path) -> Path:
    target = place.parent / f"{place.name}-restored"
    GitDriver().write(taken.through_memory(), component(target))
    return target


def porcelain(place: Path) -> list[tuple[str, str]]:
    told = git(place, "status", "--porcelain", "-z", "--no-renames", "-uall").split("\0")
    return sorted((entry[3:], entry[:2]) for entry in told if entry)


def keys(taken: Taken, words: str) -> tuple[str, ...]:
    (found,) = (finding for finding in taken.findings if words in finding.what)
    return found.keys


def test_it_says_what_git_says(place: Path) -> None:
    """Refs, commits, tracked files and status, each beside the command that tells them."""
    (place / "0.txt").write_text("changed, not staged\n")
    (place / "1.txt").write_text("staged\n")
    git(place, "add", "1.txt")
    (place / "1.txt").write_text("and changed again\n")
    os.unlink(place / "2.txt")
    git(place, "rm", "-q", "--cached", "3.txt")
    (place / "ünï" / "run").chmod(0o644)
    os.unlink(place / "link")
    (place / "link").write_text("a file by now")
    (place / "new").write_text("staged")
    git(place, "add", "new")
    for name in ("untracked", "ignored.tmp", "kept.tmp"):
        (place / name).write_text("x")
    (place / "build").mkdir()
    (place / "build" / "kept.tmp").write_text("ignored with its folder")
    taken = take(GitDriver(), component(place))
    told = rows(taken, "status")
    assert sorted(row for row in told if row[1] != "!!") == porcelain(place)
    assert [path for path, letters in told if letters == "!!"] == ["build/kept.tmp", "ignored.tmp"]
    listed = git(place, "log", "--all", "--format=%H|%an <%ae>|%s|%P").splitlines()
    assert sorted("|".join((i, author, subject, p)) for i, author, _, subject, p in rows(taken, "commits")) == sorted(
        listed
    )
    tree = git(place, "ls-tree", "-r", "HEAD", "--format=%(path)|%(objectmode)|%(objectname)").splitlines()
    assert ["|".join(row) for row in rows(taken, "tracked")] == sorted(tree)
    refs = dict(
        line.split(" ") for line in git(place, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    )
    assert {name: oid for name, oid in rows(taken, "refs") if name.startswith("refs/")} == refs
    assert not taken.findings


def test_what_comes_back_is_the_same_to_git(place: Path) -> None:
    """P4: status, log, refs and fsck are equal, and so is the fingerprint; also with packed refs, a stash and a second gc."""
    (place / "0.txt").write_text("stashed\n")
    git(place, "stash")
    git(place, "pack-refs", "--all")
    git(place, "gc", "-q")
    commit(place, "after the gc")
    (place / "untracked").write_text("x")
    driver = GitDriver()
    copy = restored(take(driver, component(place)), place)
    assert driver.fingerprint(component(copy)) == driver.fingerprint(component(place))
    assert state(copy) == state(place)
    assert driver.fingerprint(component(copy)) == driver.fingerprint(component(place)), "git status changes nothing"


def test_a_rebase_in_the_middle_goes_on_in_the_copy(place: Path) -> None:
    """What was begun is captured as it stands, told, and can be ended or given up after a restore."""
    git(place, "checkout", "-q", "topic")
    (place / "0.txt").write_text("in conflict\n")
    commit(place, "theirs")
    git(place, "rebase", "main", check=False)
    taken = take(GitDriver(), component(place))
    assert GitDriver().inspect(component(place))["under_way"] == ["rebase"]
    assert any("rebase is under way" in finding.what for finding in taken.findings)
    assert ("0.txt", "UU") in rows(taken, "status")
    copy = restored(taken, place)
    assert state(copy) == state(place)
    git(copy, "rebase", "--abort")
    assert git(copy, "rev-parse", "topic") == git(copy, "rev-parse", "HEAD")


def test_a_submodule_is_kept_and_told(place: Path, tmp_path: Path) -> None:
    make(tmp_path / "library")
    (tmp_path / "library" / "code").write_text("x")
    commit(tmp_path / "library", "of its own")
    git(place, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(tmp_path / "library"), "library")
    commit(place, "with a library")
    taken = take(GitDriver(), component(place))
    assert keys(taken, "submodules") == ("library",)
    assert not [row for row in rows(taken, "status") if row[0].startswith("library")]
    copy = restored(taken, place)
    assert state(copy) == state(place)
    assert (copy / "library" / "code").read_text() == "x"


COMMITTER = """
import os, select, subprocess, sys
place, number = sys.argv[1], 0
def git(*words): subprocess.run(["git", "-C", place, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
while not select.select([sys.stdin], [], [], 0)[0]:
    number += 1
    with open(place + "/0.txt", "w") as file:
        file.write(str(number))
    git("commit", "-qam", str(number))
    if number % 3 == 0:
        git("branch", f"b{number}")
    if number % 7 == 0:
        git("pack-refs", "--all")
    if number % 10 == 0:
        git("gc", "-q", "--prune=now")
    number == 1 and print("committing", flush=True)
"""


def test_no_ref_lacks_an_object_while_others_commit_and_collect(place: Path) -> None:
    """P1: of 20 captures under a process that commits, branches, packs and collects, git finds every one whole."""
    driver = GitDriver()
    with running([sys.executable, "-c", COMMITTER, str(place)]):
        taken = [take(driver, component(place)) for _ in range(20)]
    counts = []
    for one in taken:
        assert not [finding for finding in one.findings if finding.severity is Severity.BROKEN]
        copy = restored(one, place)
        fsck = git(copy, "fsck", "--full", "--strict", "--no-dangling", check=False)
        assert not fsck, fsck
        counts.append(len(git(copy, "log", "--format=%H").splitlines()))
        assert len(git(copy, "log", "--all", "--format=%H").splitlines()) == len(rows(one, "commits"))
        driver.erase(component(copy))
    assert counts == sorted(counts)
    assert counts[-1] > counts[0], "nothing was committed meanwhile"


def test_a_configuration_that_runs_commands_is_never_run(place: Path, tmp_path: Path) -> None:
    """P6: file-system monitor, filters, hooks, pager and credential helper: none is started by any verb."""
    trap = tmp_path / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\ncat\n")
    trap.chmod(0o755)
    for name in (
        "core.fsmonitor",
        "filter.evil.clean",
        "filter.evil.smudge",
        "core.pager",
        "credential.helper",
        "core.sshCommand",
    ):
        git(place, "config", name, str(trap))
    (place / ".gitattributes").write_text("* filter=evil\n")
    for hook in ("post-checkout", "pre-commit", "post-index-change"):
        os.symlink(trap, place / ".git" / "hooks" / hook)
    (place / "0.txt").write_text("changed, so that a filter would be asked\n")
    driver = GitDriver()
    driver.inspect(component(place))
    taken = take(driver, component(place))
    copy = restored(taken, place)
    driver.fingerprint(component(copy))
    assert ("0.txt", " M") in rows(taken, "status")
    assert not (tmp_path / "sprung").exists()
    git(copy, "status")
    assert (tmp_path / "sprung").exists(), "the trap would not have shown it"


def test_credentials_are_found_and_not_told(place: Path) -> None:
    """P12: a password in a URL and a token in a header are findings that name the file; facts show neither."""
    secret = "ghp_0123456789abcdefghij"
    git(place, "remote", "add", "origin", f"https://user:{secret}@example.invalid/prompts.git")
    driver = GitDriver()
    taken = take(driver, component(place))
    assert keys(taken, "credential") == (".git/config",)
    facts = driver.inspect(component(place))
    assert facts["remotes"] == {"origin": "https://example.invalid/prompts.git"}
    assert secret not in repr((facts, taken.findings))
    git(place, "remote", "set-url", "origin", "https://example.invalid/prompts.git")
    assert not take(driver, component(place)).findings
    git(place, "config", "http.https://example.invalid/.extraheader", f"AUTHORIZATION: basic {secret}")
    assert keys(take(driver, component(place)), "credential") == (".git/config",)


def test_locks_of_running_commands_are_left_out(place: Path) -> None:
    """A lock that came back with a restore would block every command there."""
    unfinished = (
        "index.lock", "refs/heads/main.lock", "gc.pid", "objects/tmp_obj_x", "objects/pack/.tmp-1-pack-a.pack", "info/refs_NmuFjH",
        "objects/info/packs_NmuFjH", "packed-refs.new", "sharedindex_NmuFjH", "shallow_NmuFjH",
    )  # fmt: skip
    for name in unfinished:
        (place / ".git" / name).write_text("")
    (place / "poetry.lock").write_text("of the project, not of git")
    paths = take(GitDriver(), component(place)).blobs
    assert b"poetry.lock" in paths
    assert not {f".git/{name}".encode() for name in unfinished}.intersection(paths)


def shallow(place: Path) -> Path:
    git(place.parent, "clone", "-q", "--depth", "1", f"file://{place}", "other")
    return place.parent / "other"


def borrowing(place: Path) -> Path:
    git(place.parent, "clone", "-q", "--shared", str(place), "other")
    return place.parent / "other"


def partial(place: Path) -> Path:
    git(place, "config", "uploadpack.allowFilter", "true")
    git(place.parent, "clone", "-q", "--filter=blob:none", "--no-checkout", f"file://{place}", "other")
    return place.parent / "other"


def linked(place: Path) -> Path:
    git(place, "worktree", "add", "-q", str(place.parent / "other"), "topic")
    return place.parent / "other"


def pointing(place: Path) -> Path:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "0" + "\nsize 12345\n"
    (place / "weights.bin").write_text(pointer)
    return place


@pytest.mark.parametrize(
    ("make_it", "words"),
    [
        (shallow, "shallow clone"),
        (borrowing, "borrowed"),
        (partial, "partial clone"),
        (linked, "outside this component"),
        (pointing, "Git LFS"),
    ],
)
def test_what_lies_elsewhere_is_told(place: Path, make_it: Callable[[Path], Path], words: str) -> None:
    """P4: what a restore could not bring back is a finding now, not a surprise then."""
    other = make_it(place)
    taken = take(GitDriver(), component(other))
    assert [finding.severity for finding in taken.findings if words in finding.what] == [Severity.WARNING]
    copy = restored(taken, other)
    assert {path.name for path in copy.iterdir()} == {path.name for path in other.iterdir()}


def test_a_missing_object_breaks_the_point(place: Path) -> None:
    """P1: the ref that needs it is named."""
    oid = git(place, "rev-parse", "main~1:0.txt").strip()
    (place / ".git" / "objects" / oid[:2] / oid[2:]).unlink()
    taken = take(GitDriver(), component(place))
    assert [finding.severity for finding in taken.findings] == [Severity.BROKEN]
    assert set(taken.findings[0].keys) <= {"refs/heads/main", "refs/heads/topic", "refs/tags/v1", "HEAD"}


@pytest.mark.parametrize("name", ["index", "config", "objects"])
def test_a_damaged_repository_is_captured_and_told(place: Path, name: str) -> None:
    """P12: its bytes are kept as they are, and the point is broken."""
    victim = place / ".git" / name
    if name == "objects":
        git(place, "gc", "-q")
        victim = next(victim.glob("pack/*.pack"))
        victim.chmod(0o644)
    victim.write_bytes(b"[" + os.urandom(100))
    taken = take(GitDriver(), component(place))
    assert [finding.severity for finding in taken.findings] == [Severity.BROKEN]
    assert taken.blobs[os.fsencode(victim.relative_to(place))] == victim.read_bytes()
    if name == "index":
        with pytest.raises(IntegrityError):
            GitDriver().fingerprint(component(place))


def test_large_untracked_files_are_told_before_they_surprise(place: Path) -> None:
    """The finding names the largest; beyond what is copied in the freeze, a file is read live and earns less."""
    with open(place / "huge.bin", "wb") as file:
        file.truncate(80 << 20)
    driver = GitDriver()
    facts = driver.inspect(component(place))
    assert (facts["untracked"], facts["untracked_bytes"], facts["dirty"]) == (1, 80 << 20, False)
    with driver.freeze(component(place)) as position:
        pass
    assert position.earned is Consistency.CRASH
    findings = [
        item for item in driver.read(component(place, untracked_limit=1 << 20), position) if not hasattr(item, "name")
    ]
    driver.release(component(place), position)
    assert ("huge.bin",) in [getattr(finding, "keys", ()) for finding in findings]
    assert not take(driver, component(place, exclude=["*.bin"], untracked_limit=1)).findings


def test_a_bare_repository(place: Path) -> None:
    git(place.parent, "clone", "-q", "--bare", str(place), "bare.git")
    bare = place.parent / "bare.git"
    driver = GitDriver()
    taken = take(driver, component(bare))
    assert driver.inspect(component(bare))["bare"] is True
    assert len(rows(taken, "commits")) == 2
    copy = restored(taken, bare)
    assert git(copy, "log", "--all", "--format=%H") == git(bare, "log", "--all", "--format=%H")
    assert driver.fingerprint(component(copy)) == driver.fingerprint(component(bare))


def test_sha256_repositories(tmp_path: Path) -> None:
    place = tmp_path / "live"
    make(place, "--object-format=sha256")
    (place / "a").write_text("a")
    commit(place, "long ids")
    git(place, "gc", "-q")
    taken = take(GitDriver(), component(place))
    assert not taken.findings
    assert [len(row[0]) for row in rows(taken, "commits")] == [64]
    assert not rows(taken, "status")


def test_facts_and_questions(place: Path) -> None:
    """Invariants can ask for the commit that prompts are at."""
    driver, live = GitDriver(), component(place)
    facts = driver.inspect(live)
    head = git(place, "rev-parse", "HEAD").strip()
    assert (facts["branch"], facts["commit"], facts["dirty"], facts["object_format"]) == ("main", head, False, "sha1")
    with driver.freeze(live) as position:
        pass
    commit(place, "after the freeze")
    answer = driver.query(live, position, "SELECT \"commit\" FROM refs WHERE name = 'refs/heads/main'")
    assert next(iter(answer.batches)) == [(head,)]
    driver.release(live, position)


def test_what_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no git repository"):
        GitDriver().inspect(component(tmp_path))
    with pytest.raises(ManifestError):
        GitDriver().inspect(component(tmp_path, untracked="no"))
