"""What ``files`` keeps of a real tree, and what it says about the rest."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from resurgam.drivers import files, files_listing
from resurgam.drivers.base import Blob
from resurgam.drivers.files import FilesDriver
from resurgam.drivers.files_listing import Entry, excluded_by
from resurgam.drivers.files_reading import SAFE_AGE, stamp_of
from resurgam.errors import LimitExceeded, ManifestError
from resurgam.model.point import Severity
from resurgam.model.system import Component, Consistency, Json
from resurgam.testing.carrying import take
from tests.drivers.files_tree import can_hold_attributes, census, make_tree

AS_IF_LARGE: dict[str, Json] = {"pin": "never"}


def component(location: Path | str, **options: Json) -> Component:
    return Component(name="data", driver="files", location=str(location), options=options)


@pytest.fixture
def tree(tmp_path: Path) -> bytes:
    """A folder with everything that a file system can hold."""
    root = os.fsencode(tmp_path / "tree")
    make_tree(root)
    return root


@pytest.mark.parametrize("options", [{}, AS_IF_LARGE], ids=["copied", "as if large"])
def test_everything_comes_back(tree: bytes, tmp_path: Path, options: dict[str, Json]) -> None:
    """P4: kinds, modes, times, links, names of any bytes, attributes: a census of both trees finds no difference."""
    driver, live = FilesDriver(), component(os.fsdecode(tree), **options)
    taken = take(driver, live)
    assert not taken.findings
    restored = driver.write(taken.through_memory(), live.bound_to(str(tmp_path / "restored")))
    assert census(os.fsencode(restored.location)) == census(tree)
    assert driver.fingerprint(restored) == driver.fingerprint(live)
    inodes = {os.stat(os.path.join(restored.location, name)).st_ino for name in
              ("folder/plain", "a first name of plain", "zz last name of plain")}  # fmt: skip
    assert len(inodes) == 1


def test_a_hole_stays_a_hole(tmp_path: Path) -> None:
    """P11: a file of 1 GiB that is nearly all hole takes no gigabyte when it comes back."""
    driver, live = FilesDriver(), component(tmp_path / "live")
    os.mkdir(live.location)
    with open(live.location + "/sparse", "wb") as file:
        file.seek(500 << 20)
        file.write(b"an island")
        file.truncate(1 << 30)
    with driver.freeze(live) as position:
        items = (item for item in driver.read(live, position) if isinstance(item, Blob))
        restored = driver.write(items, live.bound_to(str(tmp_path / "restored")))
    found = os.stat(restored.location + "/sparse")
    assert found.st_size == 1 << 30
    assert found.st_blocks * 512 < 1 << 20
    assert driver.fingerprint(restored) == driver.fingerprint(live)


def test_fingerprint_sees_what_it_says_it_sees(tree: bytes) -> None:
    """Mode, link target, a hard link that became a copy, an attribute, an empty folder: each shows. Times do not."""
    driver, live = FilesDriver(), component(os.fsdecode(tree))
    seen = [driver.fingerprint(live)]
    os.utime(tree + b"/zero", ns=(1, 1))
    assert driver.fingerprint(live) == seen[0]

    def shows() -> bool:
        seen.append(driver.fingerprint(live))
        return seen[-1] not in seen[:-1]

    os.chmod(tree + b"/zero", 0o600)
    assert shows()
    os.unlink(tree + b"/loop")
    os.symlink(b"pool", tree + b"/loop")
    assert shows()
    shutil.copy2(tree + b"/folder/plain", tree + b"/copy")
    os.replace(tree + b"/copy", tree + b"/zz last name of plain")
    assert shows()
    os.mkdir(tree + b"/another")
    assert shows()
    if can_hold_attributes(Path(os.fsdecode(tree))):
        os.setxattr(tree + b"/zero", "user.added", b"")
        assert shows()


def test_what_holds_no_state_is_noted(tmp_path: Path) -> None:
    """Pipes and sockets are left out, and it is said."""
    live = component(tmp_path / "live")
    os.mkdir(live.location)
    os.mkfifo(live.location + "/pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(live.location + "/socket")
        taken = take(FilesDriver(), live)
    assert [item.path for item in taken.items if isinstance(item, Blob)] == [b"."]
    assert [(f.severity, f.keys) for f in taken.findings] == [(Severity.NOTE, ("pipe", "socket"))]


def test_location_may_be_a_link(tree: bytes, tmp_path: Path) -> None:
    """``current -> v3`` is a common way to lay out models: the location itself is followed, nothing inside is."""
    os.symlink(tree, tmp_path / "current")
    driver = FilesDriver()
    assert driver.fingerprint(component(tmp_path / "current")) == driver.fingerprint(component(os.fsdecode(tree)))


@pytest.mark.parametrize(
    ("glob", "left_out"),
    [
        ("*.log", {"x.log", "sub/y.log", "sub/[1].log"}),
        ("sub/*.log", {"sub/y.log", "sub/[1].log"}),
        ("/x.log", {"x.log"}),
        ("sub", {"sub", "sub/y.log", "sub/[1].log", "sub/deep", "sub/deep/z.txt"}),
        ("sub/", {"sub", "sub/y.log", "sub/[1].log", "sub/deep", "sub/deep/z.txt"}),
        ("**/z.txt", {"sub/deep/z.txt", "z.txt"}),
        ("sub/**", {"sub/y.log", "sub/[1].log", "sub/deep", "sub/deep/z.txt"}),
        ("?.txt", {"z.txt", "sub/deep/z.txt"}),
        ("sub/[1].log", {"sub/[1].log"}),
        ("su", set()),
    ],
)
def test_exclude(tmp_path: Path, glob: str, left_out: set[str]) -> None:
    """Globs say what is left out of items, facts and fingerprint alike."""
    every = {"x.log", "z.txt", "sub", "sub/y.log", "sub/[1].log", "sub/deep", "sub/deep/z.txt"}
    (tmp_path / "sub/deep").mkdir(parents=True)
    for name in every - {"sub", "sub/deep"}:
        (tmp_path / name).write_text(name)
    driver, live = FilesDriver(), component(tmp_path, exclude=[glob])
    items = {os.fsdecode(item.path) for item in take(driver, live).items if isinstance(item, Blob)}
    assert every - (items - {"."}) == left_out
    assert driver.inspect(live)["files"] == len(every - left_out - {"sub", "sub/deep"})
    topmost = {os.fsdecode(path) for path in driver.left_out(live)}
    assert topmost == {name for name in left_out if os.path.dirname(name) not in left_out}
    before = driver.fingerprint(live)
    for name in left_out - {"sub", "sub/deep"}:
        (tmp_path / name).write_text("something else")
    assert driver.fingerprint(live) == before


def test_exclude_of_nothing_costs_nothing() -> None:
    """Without globs there is no test to run for each file."""
    assert excluded_by(()) is None


@pytest.mark.parametrize(
    ("options", "says"),
    [({"exclud": []}, "'exclude'"), ({"pin": "always"}, "docs/drivers/files.md"), ({"exclude": "x"}, "docs/drivers")],
)
def test_wrong_options_name_the_right_ones(tmp_path: Path, options: dict[str, Json], says: str) -> None:
    """P12: a misspelt option is never ignored."""
    with pytest.raises(ManifestError) as error:
        FilesDriver().inspect(component(tmp_path, **options))
    assert says in error.value.next_step


def test_facts(tree: bytes) -> None:
    """Counts and sizes as one would count them oneself."""
    facts = FilesDriver().inspect(component(os.fsdecode(tree)))
    assert (facts["files"], facts["links"], facts["folders"]) == (6, 5, 403)
    assert facts["bytes"] == 3 * 6000 + 1
    assert facts["file_system"] != "unknown" or sys.platform != "linux"
    assert facts["newest"].endswith("+00:00")


class TestEarned:
    """P1: what a position claims is what it can keep."""

    def earned(self, live: Component) -> Consistency:
        driver = FilesDriver()
        with driver.freeze(live) as position:
            driver.release(live, position)
        return position.earned

    def test_small_and_still(self, tmp_path: Path) -> None:
        """Also when it was written a moment ago: the freeze waits for the clock of the file system to tick on."""
        (tmp_path / "prompt.md").write_text("You are helpful.")
        assert self.earned(component(tmp_path)) is Consistency.SNAPSHOT
        assert self.earned(component(tmp_path / "prompt.md")) is Consistency.SNAPSHOT

    def test_too_many_too_big_or_not_wanted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Beyond what can be copied in a freeze, files are read after the thaw."""
        for number in range(10):
            (tmp_path / f"{number}").write_bytes(b"x" * 100)
        assert self.earned(component(tmp_path, **AS_IF_LARGE)) is Consistency.CRASH
        monkeypatch.setattr(files, "SMALL_ENTRIES", 10)
        assert self.earned(component(tmp_path)) is Consistency.CRASH
        monkeypatch.setattr(files, "SMALL_ENTRIES", 11)
        assert self.earned(component(tmp_path)) is Consistency.SNAPSHOT
        monkeypatch.setattr(files, "SMALL_BYTES", 999)
        assert self.earned(component(tmp_path)) is Consistency.CRASH

    def test_a_change_during_the_copy(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file that appears between the two listings takes the claim away, each time it happens."""
        (tmp_path / "a").write_text("a")
        copied = files._copied

        def meanwhile(listing: files_listing.Listing, troubles: files_listing.Troubles) -> object:
            copy = copied(listing, troubles)
            (tmp_path / f"new {len(os.listdir(tmp_path))}").touch()
            return copy

        monkeypatch.setattr(files, "_copied", meanwhile)
        assert self.earned(component(tmp_path)) is Consistency.CRASH

    def test_changes_too_fresh_to_tell(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the file system's clock never ticks on after the last change, nothing more than *crash* is claimed."""
        (tmp_path / "a").write_text("a")
        monkeypatch.setattr(files, "_is_fresh", lambda _: True)
        assert self.earned(component(tmp_path)) is Consistency.CRASH

    def test_times_in_whole_seconds_are_not_trusted_for_seconds(self, tmp_path: Path) -> None:
        """Where a file system keeps whole seconds, two writes within one leave the same time."""
        (tmp_path / "a").write_text("a")
        listing = files_listing.scan(str(tmp_path))
        whole = [files_listing._packed(e.path, os.stat(tmp_path / "a")) for e in listing]
        assert not files._is_fresh(_aged(listing, whole, seconds=1.5, ctime_whole=False))
        assert files._is_fresh(_aged(listing, whole, seconds=1.5, ctime_whole=True))
        assert not files._is_fresh(_aged(listing, whole, seconds=3.5, ctime_whole=True))


def _aged(
    listing: files_listing.Listing, packed: list[bytes], *, seconds: float, ctime_whole: bool
) -> files_listing.Listing:
    """The same listing as if its entries had changed ``seconds`` before it."""
    entry = files_listing.unpacked(packed[0])
    ctime = 1_700_000_000_000_000_000 + (0 if ctime_whole else 1)
    fields = files_listing.LSTAT.pack(*entry._replace(ctime=ctime)[1:])
    aged = files_listing.Listing(listing.root, [b".\0" + fields], ctime + int(seconds * 1e9), files_listing.Troubles())
    aged.ended = aged.began
    return aged


def test_stamps_only_for_what_is_old_enough() -> None:
    """P11: equal stamps promise equal bytes, so a file within 2 s of the listing, or ahead of the clock, has none."""
    now = 1_700_000_000_000_000_000

    def entry(mtime: int, ctime: int, size: int = 1) -> Entry:
        return Entry(b"a", size, mtime, ctime, 7, 8, stat.S_IFREG, 0, 0, 1, 8)

    old = now - SAFE_AGE
    assert stamp_of(entry(old, old), now)
    for mtime, ctime in ((old + 1, old), (old, old + 1), (now + 10**12, old)):
        assert stamp_of(entry(mtime, ctime), now) is None
    assert stamp_of(entry(old, old), now) != stamp_of(entry(old, old, size=2), now)
    assert stamp_of(entry(old - 1, old), now) != stamp_of(entry(old, old), now) != stamp_of(entry(old, old - 1), now)


def test_listing_keeps_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: a listing that takes too long ends, and says what to do."""
    (tmp_path / "sub").mkdir()
    monkeypatch.setattr(files, "FREEZE_LIMIT", -1.0)
    with pytest.raises(LimitExceeded) as error, FilesDriver().freeze(component(tmp_path)):
        pass
    assert "options.exclude" in error.value.next_step


def test_nothing_is_left_open(tmp_path: Path) -> None:
    """After release no descriptor is left, whichever way it was read."""
    for number in range(20):
        (tmp_path / f"{number}").write_text("x")
    driver = FilesDriver()
    take(driver, component(tmp_path))
    before = os.listdir("/proc/self/fd")
    take(driver, component(tmp_path))
    take(driver, component(tmp_path, **AS_IF_LARGE))
    with driver.freeze(component(tmp_path)) as position:
        pass
    list(driver.read(component(tmp_path), position))
    driver.release(component(tmp_path), position)
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert not driver._held


# ---- without the rights of a superuser -----------------------------------------------------------------------------

AS_NOBODY = """
import os, sys
from pathlib import Path
from resurgam.drivers.files import FilesDriver
from resurgam.errors import ResurgamError
from resurgam.testing.carrying import take
from tests.drivers.files_tree import can_hold_attributes, census, make_tree
from resurgam.model.system import Component
from tests.drivers.test_files_hostile import item
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
here = Path(sys.argv[1])
live = Component(name="data", driver="files", location=str(here / "live"), options={"pin": sys.argv[2]})
driver = FilesDriver()
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter and write to; pytest's own are closed."""
    folder = Path(tempfile.mkdtemp(prefix="resurgam-test-"))
    folder.chmod(0o777)
    yield folder
    FilesDriver().erase(component(folder))


def as_nobody(folder: Path, code: str, pin: str = "auto") -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY + code, str(folder), pin],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("pin", "age"), [("auto", "young"), ("never", "young"), ("never", "old")], ids=["copied", "listed", "listed, old"]
)
def test_unreadable_is_said_with_the_permission(open_folder: Path, pin: str, age: str) -> None:
    """P12: what may not be read is named, with its mode, its owner and the command; the rest is captured."""
    live = open_folder / "live"
    (live / "closed folder").mkdir(parents=True)
    (live / "open.txt").write_text("open")
    for name in ("closed.txt", "closed too.txt"):
        (live / name).write_text("closed")
        (live / name).chmod(0)
    (live / "closed folder").chmod(0)
    live.chmod(0o755)
    told = as_nobody(
        open_folder,
        f"from resurgam.drivers import files_reading\n{age == 'old'} and setattr(files_reading, 'SAFE_AGE', -10**12)\n"
        "taken = take(driver, live)\n"
        "print(sorted(i.path for i in taken.items if i.size))\n"
        "for f in taken.findings: print(f.severity.value, f.what, f.keys)\n"
        "try: driver.fingerprint(live)\n"
        "except ResurgamError as error: print(type(error).__name__, error)\n",
        pin,
    )
    assert told[0] == "[b'open.txt']"
    user = 65534 if os.geteuid() == 0 else os.geteuid()
    for line, right, keys in zip(
        told[1:3], ("rx", "r"), ("('closed folder',)", "('closed too.txt', 'closed.txt')"), strict=True
    ):
        assert line.startswith("warning")
        assert f"mode 0000, owner {os.geteuid()}:{os.getegid()}" in line
        assert f"setfacl -m u:{user}:{right} PATH" in line
        assert keys in line
    assert told[3].startswith("Denied")


def test_closed_folders_within_closed_folders(open_folder: Path) -> None:
    """What root captured comes back without root: a folder that nobody may enter is closed after all below it is done."""
    told = as_nobody(
        open_folder,
        "closed = [item(path, y='d', m=0, o=[1, 2]) for path in (b'.', b'a', b'a/b', b'a/b/c')]\n"
        "target = live.bound_to(str(here / 'restored'))\n"
        "driver.write(closed, target)\n"
        "print(oct(os.stat(target.location).st_mode & 0o7777))\n"
        "driver.erase(target)\n"
        "print(os.listdir(here))\n",
    )
    assert told == ["0o0", "[]"]


def test_restore_and_erase_without_superuser(open_folder: Path) -> None:
    """Folders and files that forbid writing come back as they were, and can be erased again."""
    told = as_nobody(
        open_folder,
        "(here / 'live/locked/inner').mkdir(parents=True)\n"
        "(here / 'live/locked/inner/file').write_text('x')\n"
        "os.setxattr(here / 'live/locked/inner/file', 'user.kept', b'1') if hasattr(os, 'setxattr') else None\n"
        "for name in ('live/locked/inner/file', 'live/locked/inner', 'live/locked', 'live'):\n"
        "    (here / name).chmod(0o555)\n"
        "target = live.bound_to(str(here / 'restored'))\n"
        "driver.write(take(driver, live).through_memory(), target)\n"
        "print(driver.fingerprint(target) == driver.fingerprint(live))\n"
        "print(oct(os.stat(target.location).st_mode & 0o7777))\n"
        "driver.erase(target); driver.erase(live)\n"
        "print(os.listdir(here))\n",
    )
    assert told == ["True", "0o555", "[]"]
