"""What a verdict rests on, by the real command line: not on what lives, not on what the point alone says, not on what was
changed while it was asked; and nothing of it is left behind."""

from __future__ import annotations

import json
import os
import select
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from resurgam.model.verdict import IsolationReport
from resurgam.restore import sandbox
from tests.journeys.world import Result, World, partial_folders

needs_isolation = pytest.mark.skipif(
    not sandbox.isolation().isolated, reason="this host has no namespaces to isolate in"
)

LOOK = """
import json, os, sys
with open("bin/paths") as paths:
    print(json.dumps({"answers": {"seen": [path for path in paths.read().split() if os.path.exists(path)]}}))
"""
WRITE = """
import json, os, sqlite3, sys
path = json.load(sys.stdin)["components"]["documents"]
if not os.path.exists("data/handbook.db"):  # behind the walls
    database = sqlite3.connect(path)
    database.execute("UPDATE tickets SET words = 'changed'")
    database.commit()
print('{"answers": {"": "done"}}')
"""


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(os.fspath(tmp_path)).ready()


def part(result: Result, name: str, yardstick: str) -> dict[str, Any]:
    """One part of a verdict in JSON."""
    (one,) = [p for p in result.json["verdict"]["parts"] if (p["name"], p["yardstick"]) == (name, yardstick)]
    return dict(one)


def asking(world: World, name: str, program: str) -> tuple[str, str]:
    """A change of the manifest: one more probe, the Python ``program``, which is also asked of the live system."""
    world.system.write(f"bin/{name}.py", program)
    run = f"run: [{json.dumps(sys.executable)}, bin/{name}.py], reads: [documents], witness: true"
    return "probes:\n", f"probes:\n  {name}: {{kind: command, {run}}}\n"


@needs_isolation
def test_p6_what_lives_now_is_hidden_wherever_the_point_had_it(world: World) -> None:
    """The live folder has moved since the capture, vault and keys in use are named by no manifest: none of it is seen."""
    world.system.write("bin/paths", "")
    look = asking(world, "look", LOOK)
    world.manifest(look)
    point = world.capture()  # where there is nothing to see, by the witness

    os.rename(world.system.path("prompts"), world.system.path("current"))
    world.manifest(look, ("location: prompts", "location: current"))
    vault, keys = world.system.path("vault-copy"), world.system.path("keys-copy")
    shutil.copytree(world.path("vault"), vault)
    shutil.copytree(world.path("keys"), keys)
    world.env["RESURGAM_STATE"] = world.system.path("state")
    world.run("status")
    (notes,) = Path(world.system.path("state")).iterdir()
    world.system.write("bin/paths", "\n".join([world.system.path("current"), vault, keys, os.fspath(notes)]))
    verified = world.run("verify", point, "--json", "--vault", "vault-copy", "--keys", keys)
    assert part(verified, "look", "witness")["deviations"] == []
    assert verified.code == 0, verified

    world.system.write("bin/paths", world.system.path("golden.json"))  # the other half: what is there is seen
    assert world.run("verify", point).code == 20


@needs_isolation
def test_p4_a_probe_that_was_renamed_or_made_easier_ends_no_judgement(world: World) -> None:
    """The point brings its probes along; the owner's reference knows which were asked, and how."""
    good = world.capture()
    assert world.run("verify", good).code == 0
    assert world.run("reference", "approve", good).code == 0
    world.system.change_rows()

    world.manifest(("golden: {", "golden2: {"))
    renamed = world.run("verify", world.capture(), "--json")
    assert renamed.code == 21
    assert "does not ask it any more" in part(renamed, "golden", "reference")["reason"]

    world.manifest(("witness: true}", "witness: true, tolerance: {regex: '(?s).*'}}"))
    easier = world.run("verify", world.capture(), "--json")
    assert easier.code == 21
    assert part(easier, "golden", "reference")["reason"] == "the reference was asked otherwise: tolerance differs"

    world.manifest()
    assert world.run("verify", world.capture()).code == 20


@needs_isolation
def test_p4_a_copy_that_a_probe_wrote_to_proves_nothing(world: World) -> None:
    """What would be promoted is not what the verdict stands on; such a round is no baseline either."""
    world.manifest(asking(world, "writes", WRITE))
    point = world.capture()
    verified = world.run("verify", point, "--json")
    assert part(verified, "writes", "witness")["judgement"] == 1
    assert "changed while it was asked" in part(verified, "documents", "none")["reason"]
    assert verified.code == 21
    state = world.run("show", point, "--json").json["state"]
    assert not state["proven"]
    assert not state["baseline"]


@pytest.mark.parametrize("own", ["required", None], ids=["required", "no manifest"])
def test_p9_a_point_alone_does_not_accept_missing_isolation(
    world: World, own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P6: the point says best-effort, this host does not: its commands are not run here."""
    program = f"open({world.path('ran')!r}, 'w')\n" + LOOK
    world.system.write("bin/paths", "")
    world.manifest(asking(world, "ran", program), ("isolation: required", "isolation: best-effort"))
    world.capture()
    os.unlink(world.path("ran"))
    place: tuple[str, ...] = ()
    if own is None:
        os.unlink(world.system.path("resurgam.yaml"))
        place = ("--vault", world.path("vault"), "--keys", world.path("keys"))
    else:
        world.manifest()
    monkeypatch.setattr(sandbox, "isolation", lambda: IsolationReport(isolated=False, reason="none here"))
    verified = world.run("verify", "latest", "--json", *place)
    assert verified.code == 21, verified
    assert part(verified, "isolation", "none")["reason"] == (
        "not isolated: none here; the point accepts that (isolation: best-effort), this host's own manifest does not"
    )
    assert not os.path.exists(world.path("ran"))


@needs_isolation
def test_a_second_verification_without_any_yardstick_says_what_its_baseline_is_worth(world: World) -> None:
    """P4: it was never compared with the live system, and the part says so."""
    world.manifest(("witness: true", "witness: false"))
    point = world.capture()
    assert world.run("verify", point).code == 21
    second = world.run("verify", point)
    assert second.code == 0
    assert "never compared with the live system or a reference" in second.out


@needs_isolation
def test_what_a_killed_verification_left_is_swept_by_the_next(world: World) -> None:
    """A decrypted system does not stay in a temporary folder for good; P5: that of one that runs is left alone."""
    world.system.write("bin/paths", "")
    slow = "import os, select\nif not os.path.exists('data/handbook.db'): select.select([], [], [], 60)\n" + LOOK
    world.manifest(asking(world, "slow", slow))
    point = world.capture()
    scratch = Path(world.path("state"), "scratch")
    with world.start("verify", point) as killed:
        until(lambda: list(scratch.glob("verify-*/restored")) and list(scratch.glob("jail-*/status")))
        (left,) = scratch.glob("verify-*")
        assert scratch.stat().st_mode & 0o777 == left.stat().st_mode & 0o777 == 0o700
        world.manifest()
        assert world.run("verify", world.capture()).code == 0
        assert left.exists()  # it holds its lock
        killed.kill()
        killed.communicate()
    assert left.exists()
    assert world.run("verify", world.capture()).code == 0
    assert list(scratch.iterdir()) == []
    assert partial_folders(world.home) == []


def until(holds: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        select.select([], [], [], 0.01)
