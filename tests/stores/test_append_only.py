"""A vault in a folder that is marked append-only, on a real file system, by a real administrator."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resurgam.errors import Denied, NotFound
from resurgam.stores.appendonly import lift, mark, marks
from resurgam.stores.local import LocalStore
from tests.journeys.world import World


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[str]:
    """A store with two objects; whatever is marked in it can be removed again afterwards."""
    path = str(tmp_path / "vault")
    with LocalStore.create(path) as store:
        store.put("points/a", b"a")
        store.put("packs/ab/c", b"c" * 5000)
    try:
        mark(path)
        lift(path)
    except Denied as error:
        pytest.skip(f"marks cannot be set here: {error.message}")
    try:
        yield path
    finally:
        lift(path)


def test_what_is_marked_stays(folder: str) -> None:
    """P2: no object is removed, renamed, replaced, cut or opened up, neither by the store nor past it, not even by root."""
    assert marks(folder).bare == (".", "packs", "packs/ab", "packs/ab/c", "points", "points/a")
    assert mark(folder) == 6
    assert marks(folder) == (6, (), ())
    point = os.path.join(folder, "points/a")
    with LocalStore(folder) as store:
        with pytest.raises(Denied):
            store.delete("points/a")
        tries: tuple[Callable[[], object], ...] = (
            lambda: os.unlink(point),
            lambda: os.rename(point, f"{point}-gone"),
            lambda: os.replace(os.path.join(folder, "packs/ab/c"), point),
            lambda: os.truncate(point, 0),
            lambda: os.chmod(point, 0o600),
            lambda: os.close(os.open(point, os.O_WRONLY | os.O_APPEND)),
            lambda: os.rename(os.path.join(folder, "points"), os.path.join(folder, "elsewhere")),
        )
        for harm in tries:
            with pytest.raises(PermissionError):
                harm()
        assert store.get("points/a") == b"a"


def test_objects_are_added_as_before(folder: str) -> None:
    """P1: also in new folders; nothing is left in ``tmp/``; what is new has no mark until the next run."""
    mark(folder)
    with LocalStore(folder) as store:
        store.put("points/b", b"b")
        store.put("records/b/verdict-1", b"v")
        assert [entry.name for entry in store.list("points/")] == ["points/a", "points/b"]
    assert os.listdir(os.path.join(folder, "tmp")) == []
    assert marks(folder).bare == ("points/b", "records", "records/b", "records/b/verdict-1")
    assert mark(folder) == 4


def test_lifted_it_is_a_folder_again(folder: str) -> None:
    """A prune needs that."""
    mark(folder)
    assert lift(folder) == 6
    with LocalStore(folder) as store:
        store.delete("points/a")
        assert [entry.name for entry in store.list()] == ["packs/ab/c"]


def test_no_file_of_somebody_elses_is_bound(folder: str) -> None:
    """A file with a second name, a link, a pipe: none is marked, and what is no object's own is told."""
    outside = os.path.join(os.path.dirname(folder), "theirs")
    with open(outside, "wb") as file:
        file.write(b"x")
    os.link(outside, os.path.join(folder, "points/d"))
    os.symlink(outside, os.path.join(folder, "points/e"))
    os.mkfifo(os.path.join(folder, "points/f"))
    mark(folder)
    assert marks(folder) == (6, (), ("points/d",))
    with open(outside, "ab") as file:
        file.write(b"y")
    os.unlink(outside)


def test_where_there_are_no_marks(tmp_path: Path) -> None:
    """P12: a file system without them, and no folder at all."""
    with pytest.raises(NotFound):
        marks(str(tmp_path / "none"))
    if os.path.isdir("/proc/self"):
        with pytest.raises(Denied, match="knows no append-only"):
            mark("/proc/self/attr")


def test_a_vault_by_the_command_line(tmp_path: Path) -> None:
    """P10 P12: a plan first; capture and check go on; a delete is refused loudly; what came since is told by the exit code."""
    world = World(str(tmp_path / "world")).ready()
    world.capture()
    words = ("vault", "append-only", "--vault", world.path("vault"))
    try:
        assert world.run(*words).code == 23
        done = world.run(*words, "--yes")
        if done.code == 6:
            pytest.skip(f"marks cannot be set here: {done.err}")
        assert done.code == 0
        assert world.run(*words, "--json").json["before"]["bare"] == []
        world.system.change_prompt()
        second = world.capture()
        assert world.points()[-1] == second
        assert world.run("vault", "check", "--read").code == 0
        assert world.run(*words).code == 23
        assert world.run(*words, "--yes").code == 0
        with LocalStore(world.path("vault")) as store, pytest.raises(Denied):
            store.delete(f"points/{second}")
        refused = world.run("vault", "append-only", "--vault", world.home)
        assert refused.code == 4  # nothing but a vault is marked
    finally:
        with contextlib.suppress(Denied):
            lift(world.path("vault"))
