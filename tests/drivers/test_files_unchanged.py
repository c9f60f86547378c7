"""What a second capture takes from the first one's memory, and what it must look at again (P11)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from resurgam.capture.run import capture
from resurgam.clock import SystemClock
from resurgam.drivers import files_reading
from resurgam.drivers.files import FilesDriver
from resurgam.drivers.registry import driver_for
from resurgam.model.system import Component, System, VaultPlace
from resurgam.stores.local import LocalStore
from resurgam.vault import filescache
from resurgam.vault.host import HostState
from resurgam.vault.keyring import Keyring
from resurgam.vault.repository import Repository
from tests.drivers.files_tree import can_hold_attributes, census

COUNT = 1100  # three batches of memory, and as many windows of the listing


class Twice:
    """A folder of many small files in a vault of its own; remembers how many files each capture opened."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.live, self.folder, self.opened = folder / "live", folder, 0
        for number in range(COUNT):
            path = self.path(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"%d " % number * (number % 7 + 1))
        (folder / "vault").mkdir()
        place = VaultPlace(path=str(folder / "vault"), keys=str(folder / "keys"))
        component = Component(name="data", driver="files", location=str(self.live), options={"pin": "never"})
        self.system = System(name="tree", vault=place, components=(component,))
        self.vault = Repository.create(LocalStore(place.path), place.keys, "tests", SystemClock())[0].vault
        self.host = HostState(self.vault.hex(), "tree", str(folder / "state"))
        monkeypatch.setattr(files_reading, "SAFE_AGE", -(10**15))  # as if all files were old
        opened = files_reading.LiveSource.open

        def counted(source: files_reading.LiveSource) -> None:
            self.opened += 1
            opened(source)

        monkeypatch.setattr(files_reading.LiveSource, "open", counted)

    def path(self, number: int) -> Path:
        """Where file ``number`` lies."""
        return self.live / f"{number // 100:02d}" / f"{number:04d}"

    def capture(self) -> int:
        """Capture, restore and compare all that a census sees (P4); returns how many files were opened for it."""
        self.opened = 0
        repository = Repository(LocalStore(self.system.vault.path), Keyring(self.system.vault.keys))
        point = capture(self.system, driver_for, lambda _: (), repository, self.host, SystemClock()).body
        opened = self.opened
        component = self.system.components[0]
        target = component.bound_to(str(self.folder / f"restored-{point.id}"))
        FilesDriver().write(repository.snapshot(point, "data").items(), target)
        assert census(os.fsencode(target.location)) == census(os.fsencode(self.live))
        return opened


@pytest.fixture
def twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Twice:
    """Captured once already."""
    twice = Twice(tmp_path, monkeypatch)
    assert twice.capture() == COUNT
    return twice


def _edit(twice: Twice) -> None:
    twice.path(700).write_bytes(b"edited")


def _replace(twice: Twice) -> None:
    """The same size and mtime, another file."""
    path, found = twice.path(700), twice.path(700).stat()
    other = path.with_name("other")
    other.write_bytes(bytes(found.st_size))
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.rename(path)


def _insert_and_remove(twice: Twice) -> None:
    for number in (0, 511, 512, 1023, COUNT - 1):
        twice.path(number).unlink()
    (twice.live / "00/000").write_bytes(b"before all others")
    for number in range(600):
        (twice.live / f"00/0000-{number:03d}").touch()  # more new ones in a row than are asked about at a time
    (twice.live / "zz").write_bytes(b"after all others")


def _link(twice: Twice) -> None:
    """A new first name: what was a file becomes another name of it."""
    os.link(twice.path(700), twice.live / "00/aaaa")


@pytest.mark.parametrize(
    ("change", "opened"),
    [
        (lambda _: None, 0),
        (_edit, 1),
        (_replace, 1),
        (_insert_and_remove, 602),
        (_link, 1),
        (lambda twice: twice.path(700).chmod(0o604), 1),
        (lambda twice: os.utime(twice.path(700), (1, 1)), 1),
    ],
    ids=["nothing", "edited", "replaced", "inserted and removed", "linked", "mode", "time"],
)
def test_what_changed_is_read_and_nothing_else(twice: Twice, change: Callable[[Twice], None], opened: int) -> None:
    """P11: one more capture opens what changed, and comes back whole; the next one has learned it all."""
    change(twice)
    assert twice.capture() == opened
    assert twice.capture() == (600 if change is _insert_and_remove else 0)  # empty files are always looked into


def test_an_attribute_that_changed_is_seen(twice: Twice) -> None:
    """P11: nobody asks for the attributes of a file whose ctime stands; so one that is set must show in it."""
    if not can_hold_attributes(twice.folder):
        pytest.skip("this file system keeps no user attributes")
    os.setxattr(twice.path(700), b"user.reviewed", b"yes")
    assert twice.capture() == 1
    os.setxattr(twice.path(700), b"user.reviewed", b"no")
    assert twice.capture() == 1
    os.removexattr(twice.path(700), b"user.reviewed")
    assert twice.capture() == 1


def test_names_of_one_file_stay_names(twice: Twice) -> None:
    """Which name comes first is in the listing, not in the file: both are looked at, the bytes are not read again."""
    os.link(twice.path(700), twice.path(800).with_name("linked"))
    twice.capture()
    assert twice.capture() == 0
    os.rename(twice.path(700), twice.live / "zz")
    twice.capture()
    assert twice.capture() == 0


def test_another_shred_domain_remembers_nothing(twice: Twice) -> None:
    """P1: chunks of one domain cannot be read with another one's keys, so what is remembered of them is of no use there."""
    path, vault = twice.host.path("data.files"), twice.vault.hex()
    for domain, there in (("default", True), ("apart", False)):
        cache = filescache.FilesCache(path, vault, domain)
        (first,) = next(cache._old, [None])[:1]
        assert bool(first) is there
        cache.close()


def test_memory_is_read_in_bounded_pieces(twice: Twice) -> None:
    """However many files are remembered, a few batches are in memory at a time, also when nothing is asked for twice."""
    path = twice.host.path("data.files")
    cache = filescache.FilesCache(path, twice.vault.hex(), "default")
    for number in range(0, COUNT, 50):
        cache.known([b"%02d/%04d\0" % (number // 100, number)])
        assert len(cache._near) <= 2 * filescache._BATCH
    cache.close()
