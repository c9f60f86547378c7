"""``open``, ``export`` and ``detach``: a point to look at, a point to keep without Resurgam, a host without Resurgam."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from resurgam.barrier import barrier, traces
from tests.journeys.world import World, partial_folders, remove, rows, tree


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(os.fspath(tmp_path)).ready()


def opened(world: World, *words: str) -> str:
    result = world.run("open", *words, "--json")
    assert result.code == 0, result
    return str(result.json["directory"])


# open ----------------------------------------------------------------------------------------------------------------


def test_a_copy_is_what_was_captured_and_the_live_system_is_untouched(world: World) -> None:
    was = rows(world.system.database)
    point = world.capture()
    world.system.change_rows()
    before = tree(world.system.root)
    folder = opened(world, point)
    assert rows(os.path.join(folder, "documents/handbook.db")) == was
    assert tree(world.system.root) == before
    shown = world.run("open", point)
    assert f"sqlite3 -readonly {folder}/documents/handbook.db" in shown.out
    assert "personal data" in shown.out
    assert os.stat(folder).st_mode & 0o077 == 0


def test_an_intact_copy_is_used_again_and_a_changed_one_is_refused(world: World) -> None:
    """Nobody is shown what somebody else wrote into a copy and told that it is the point."""
    point = world.capture()
    folder = opened(world, point)
    inode = os.stat(folder).st_ino
    assert opened(world, "latest") == folder
    assert os.stat(folder).st_ino == inode
    with contextlib.closing(sqlite3.connect(os.path.join(folder, "documents/handbook.db"))) as copy, copy:
        copy.execute("DELETE FROM tickets")
    refused = world.run("open", point)
    assert refused.code == 13
    assert "documents" in refused.err
    assert "--discard" in refused.err
    assert world.run("open", point, "--discard").code == 0
    assert not os.path.lexists(folder)
    assert opened(world, point) == folder


def test_one_component_alone_has_a_place_of_its_own(world: World) -> None:
    point = world.capture()
    whole, part = opened(world, point), opened(world, point, "--component", "prompts")
    assert sorted(name for name in os.listdir(part) if not name.startswith(".")) == ["prompts"]
    assert part != whole
    assert world.run("open", point, "--discard", "--json").json == {"removed": [whole, part]}
    assert world.run("open", point, "--discard").code == 4
    assert world.run("open", point, "--component", "nothing").code == 4


def test_no_promotion_takes_an_opened_copy(world: World) -> None:
    """P4: it was never judged; and what was judged is no copy to discard."""
    point = world.capture()
    folder = opened(world, point)
    assert world.run("promote", folder, "--yes").code == 20
    judged = world.place("judged")
    assert world.run("verify", point, "--into", judged).code == 0
    assert world.run("open", point, "--into", judged).code == 13
    assert world.run("open", point, "--into", judged, "--discard").code == 13
    assert os.path.isdir(judged)


def test_only_what_was_opened_is_discarded(world: World) -> None:
    point = world.capture()
    mine = world.place("mine")
    os.mkdir(mine)
    Path(mine, "letter.txt").write_text("dear")
    assert world.run("open", point, "--into", mine).code == 13
    assert world.run("open", point, "--into", mine, "--discard").code == 4
    assert Path(mine, "letter.txt").read_text() == "dear"


LOOK = """
import os, socket, sys
copy, live, port = sys.argv[1:]
with open(os.path.join(os.path.dirname(copy), "written"), "w"):
    print("copy", os.path.exists(copy), "live", os.path.exists(live))
try:
    socket.create_connection(("127.0.0.1", int(port)), timeout=2)
except OSError:
    print("no network")
sys.exit(7)
"""


@pytest.fixture
def port() -> Iterator[int]:
    """Somebody listens there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_command_sees_the_copy_and_nothing_live(world: World, port: int) -> None:
    """P6: the live database is not there and nobody can be called; its output and exit code are passed on, its copies removed."""
    point = world.capture()
    command = [sys.executable, "-c", LOOK, "{documents}", world.system.database, str(port)]
    before = tree(world.home)
    result = world.run("open", point, "--", *command)
    assert (result.code, result.out) == (7, "copy True live False\nno network\n"), result
    assert tree(world.home) == before | {"state/scratch": "folder"}
    kept = world.place("kept")
    assert world.run("open", point, "--into", kept, "--", *command).code == 7
    assert os.path.exists(os.path.join(kept, "documents/written"))


def test_a_command_that_does_not_end_is_ended(world: World) -> None:
    point = world.capture()
    result = world.run("open", point, "--timeout", "1s", "--", sys.executable, "-c", "while True: pass")
    assert result.code == 11
    assert "--timeout" in result.err


# export --------------------------------------------------------------------------------------------------------------


def test_an_export_is_read_without_resurgam(world: World) -> None:
    """Plain files, checked by sha256sum; a flipped bit shows; nothing in it is a restore's state."""
    was, prompts = rows(world.system.database), Path(world.system.path("prompts/answer.txt")).read_bytes()
    point = world.capture()
    out = world.place("out")
    result = world.run("export", "--native", point, "--into", out)
    assert result.code == 0, result
    assert rows(os.path.join(out, "documents/handbook.db")) == was
    assert Path(out, "prompts/prompts/answer.txt").read_bytes() == prompts
    assert partial_folders(world.home) == []
    names = set(os.listdir(out))
    assert names == {"README.txt", "point.json", "SHA256SUMS", "documents", "prompts", "config", "router"}
    papers = json.loads(Path(out, "point.json").read_bytes())
    assert papers["point"]["id"] == point
    assert papers["components"]["documents"]["driver"] == "sqlite"
    assert papers["components"]["documents"]["facts"]["bytes"] > 0
    assert point in Path(out, "README.txt").read_text()
    check = ["sha256sum", "--quiet", "-c", "SHA256SUMS"]
    assert subprocess.run(check, cwd=out, check=False).returncode == 0
    with open(os.path.join(out, "router/models/router.safetensors"), "r+b") as file:
        file.seek(100)
        byte = file.read(1)
        file.seek(100)
        file.write(bytes([byte[0] ^ 1]))
    assert subprocess.run(check, cwd=out, check=False, capture_output=True).returncode == 1
    assert world.run("promote", out, "--yes").code == 4


def test_names_that_are_hard_to_write_are_checked_too(world: World) -> None:
    for name in ("new\nline", "back\\slash", " blank "):
        Path(world.system.path("prompts"), name).write_text(name)
    point = world.capture()
    out = world.place("out")
    assert world.run("export", "--native", point, "--into", out).code == 0
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=out, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done
    assert len(done.stdout.splitlines()) == sum(len(names) for _, _, names in os.walk(out)) - 1


def test_an_export_never_mixes_with_what_stands_there(world: World) -> None:
    point = world.capture()
    out = world.place("out")
    os.mkdir(out)
    Path(out, "mine").write_text("mine")
    assert world.run("export", "--native", point, "--into", out).code == 13
    assert world.run("export", "--native", point, "--into", world.system.path("prompts/out")).code == 13
    assert world.run("export", point, "--into", world.place("other")).code == 2
    assert os.listdir(out) == ["mine"]
    assert not os.path.exists(world.place("other"))


def test_an_export_that_breaks_off_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """P5: the papers are written before the folder has its name."""
    point = world.capture()

    def full(*_: object) -> Iterator[bytes]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("resurgam.restore.export._sums", full)
    result = world.run("export", "--native", point, "--into", world.place("out"))
    assert result.code == 12, result
    assert not os.path.lexists(world.place("out"))
    assert partial_folders(world.home) == []


# detach --------------------------------------------------------------------------------------------------------------


def with_barrier(home: Path) -> World:
    world = World(os.fspath(home)).build()
    world.manifest(("isolation:", "barrier: {file: data/barrier}\nisolation:"))
    assert world.run("vault", "init").code == 0
    return world


def test_after_detach_the_source_is_as_before_the_first_capture(tmp_path: Path) -> None:
    """P10: the plan comes first and removes nothing; then all of it is gone, and nothing else is."""
    world = with_barrier(tmp_path)
    before, vault, keys = tree(world.system.root), world.path("vault"), tree(world.path("keys"))
    point = world.capture()
    opened(world, point)
    assert world.run("verify", point).code == 0
    leftover = world.system.path("data/handbook.db.partial-0123456789abcdef")
    folder = world.system.path("models.partial-0123456789abcdef")
    Path(leftover).write_text("half")
    os.mkdir(folder)
    stored = tree(vault)
    plan = world.run("detach", "--json").json
    assert plan["done"] is False
    removed = {step["what"].split(" (")[0] for step in plan["plan"]["steps"] if step["verb"] == "remove"}
    assert {leftover, folder, *traces(world.system.path("data/barrier"))} <= removed
    assert all(os.path.lexists(path) for path in removed)
    assert world.run("detach").out.endswith("nothing was removed: --yes does it\n")
    assert all(os.path.lexists(path) for path in removed)
    result = world.run("detach", "--yes")
    assert result.code == 0, result
    assert tree(world.system.root) == before
    assert not os.path.lexists(world.path("state"))
    assert (tree(vault), tree(world.path("keys"))) == (stored, keys)
    assert f"keep: the keys {world.path('keys')}" in result.out
    assert world.run("verify", point).code == 0  # what stays is enough to come back


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    """Names that only look like ours, another system's notes, and what was live before a promotion."""
    world = with_barrier(tmp_path)
    point = world.capture()
    stays = [
        world.system.path("data/handbook.db.partial-mine"),
        world.system.path("data/other.db.partial-0123456789abcdef"),
        world.system.path("prompts.before-0123456789abcdef"),
        world.path("state/notes-of-mine"),
    ]
    for path in stays:
        Path(path).write_text("mine")
    assert os.path.isdir(opened(world, point))
    result = world.run("detach", "--yes")
    assert result.code == 0, result
    assert [path for path in stays if not os.path.exists(path)] == []
    assert f"{stays[2]}, what was live before a promotion" in result.out
    assert os.listdir(world.path("state")) == ["notes-of-mine"]
    assert world.run("detach", "--yes").code == 0


def test_temporary_folders_of_dead_processes_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ours, those that nobody has used for a day; nobody else's, and none that may be in use."""
    world = with_barrier(tmp_path)
    temporary = tmp_path / "temporary"
    monkeypatch.setattr("tempfile.tempdir", os.fspath(temporary))
    old, young, other = (
        temporary / name for name in ("resurgam-probe-abcd_123", "resurgam-abcd1234", "resurgam-of-mine")
    )
    for folder in (old, young, other):
        folder.mkdir(parents=True)
    for folder in (old, other):
        os.utime(folder, (0, 0))
    assert world.run("detach", "--yes").code == 0
    assert sorted(temporary.iterdir()) == sorted([young, other])


def test_nobody_is_detached_in_the_middle_of_a_write(tmp_path: Path) -> None:
    """A writer inside the barrier keeps it; nothing is removed, and the same command works when it has left."""
    world = with_barrier(tmp_path)
    world.capture()
    place = world.system.path("data/barrier")
    with barrier(place) as inside:
        assert inside.held
        refused = world.run("detach", "--yes")
        assert refused.code == 11, refused
        assert os.path.exists(place)
    assert os.path.isdir(world.path("state"))
    assert world.run("detach", "--yes").code == 0
    assert not os.path.exists(place)


def test_a_host_whose_vault_is_gone_can_be_left(tmp_path: Path) -> None:
    """P3: the vault is not asked; the keys say which one it was."""
    world = with_barrier(tmp_path)
    world.capture()
    remove(world.path("vault"))
    assert world.run("detach", "--yes").code == 0
    assert not os.path.lexists(world.path("state"))
