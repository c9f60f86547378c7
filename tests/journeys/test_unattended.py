"""Proof on a schedule, by the real command line: which point, with which keys, and what is left when the time is over."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from resurgam.restore import sandbox, stage
from resurgam.restore.unattended import FOLDER
from tests.journeys.world import World, partial_folders, tree

pytestmark = pytest.mark.skipif(not sandbox.isolation().isolated, reason="no verdict without isolation")

STUCK = """\
import json, os, sys, time
sys.stdin.read()
time.sleep(0 if os.path.exists(sys.argv[1]) else 60)
print(json.dumps({"answers": {"done": 1}}))
"""
NEXT = ("verify", "--latest-unproven", "--json")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(os.fspath(tmp_path)).ready()


def kept(world: World) -> list[str]:
    """The copies that wait for the next run."""
    folders = [os.path.join(where, FOLDER) for where, names, _ in os.walk(world.path("state")) if FOLDER in names]
    return [name for folder in folders for name in os.listdir(folder)]


def with_a_probe_that_waits(world: World) -> str:
    """A probe that does not answer before the file is there that is returned."""
    gate = world.system.path("golden.json.go")
    world.system.write("bin/stuck.py", STUCK)
    run = json.dumps([sys.executable, "bin/stuck.py", gate])
    world.manifest(("probes:\n", f"probes:\n  stuck: {{kind: command, run: {run}, reads: [config], timeout: 90s}}\n"))
    return gate


def test_the_newest_point_without_a_verdict_is_proven_until_none_is_left(world: World) -> None:
    """Newest first; judged and quarantined ones are passed over; then there is nothing to prove, which is well."""
    points = [world.capture() for _ in range(3)]
    assert world.run("verify", points[1]).code == 0
    told = [world.run(*NEXT) for _ in range(3)]
    assert [one.code for one in told] == [0, 0, 0], told
    assert [(one.json["verdict"] or {}).get("point") for one in told] == [points[2], points[0], None]
    assert world.run("verify", "--latest-unproven").out.startswith("nothing to prove")
    assert [point["state"]["proven"] is not None for point in world.run("points", "--json").json] == [True] * 3
    assert kept(world) == []


def test_p9_the_verifiers_keys_are_enough(world: World) -> None:
    point = world.capture()
    keys = world.place("verifiers-keys")
    os.mkdir(keys, mode=0o700)
    for name in ("trust.json", "reader.agekey", "evidence.agekey", "verifier.json"):
        shutil.copy(os.path.join(world.path("keys"), name), keys)
    done = world.run(*NEXT, "--within", "10m", "--keys", keys)
    assert (done.code, done.json["verdict"]["point"]) == (0, point), done


def test_a_point_that_behaves_otherwise_ends_with_20_and_is_not_taken_again(world: World) -> None:
    """What cron sees is the exit code."""
    assert world.run("verify", world.capture()).code == 0
    assert world.run("reference", "approve", "latest").code == 0
    world.system.change_prompt()
    wrong = world.capture()
    different = world.run(*NEXT)
    assert (different.code, different.json["verdict"]["point"]) == (20, wrong)
    assert (world.run(*NEXT).code, kept(world)) == (0, [])


def test_p4_when_the_time_is_over_nothing_is_recorded_and_the_copies_are_found_again(world: World) -> None:
    """The second run asks the very files that the first one restored; then they are gone."""
    gate = with_a_probe_that_waits(world)
    point = world.capture()
    over = world.run(*NEXT, "--within", "8s")
    assert (over.code, over.json["error"]["kind"]) == (11, "LimitExceeded"), over
    assert kept(world) == [point]
    assert world.run("points", "--json").json[0]["state"]["verdict"] is None
    (folder,) = [path for path in Path(world.path("state")).rglob(point) if path.is_dir()]
    assert os.fspath(folder) in over.json["error"]["untouched"]
    first = json.loads((folder / ".resurgam-restore.json").read_bytes())["id"]
    Path(gate).touch()
    again = world.run(*NEXT, "--within", "5m")
    assert (again.code, again.json["restored"]["id"], again.json["directory"]) == (21, first, None), again
    last = [
        world.run(*NEXT) for _ in range(2)
    ]  # `stuck` has no witness: the baseline of the first proof judges the second one
    assert [(one.code, one.json["verdict"] is None) for one in last] == [(0, False), (0, True)], last
    assert kept(world) == []


def test_p4_kept_copies_that_were_changed_are_restored_anew(world: World) -> None:
    gate = with_a_probe_that_waits(world)
    point = world.capture()
    assert world.run(*NEXT, "--within", "8s").code == 11
    (folder,) = [path for path in Path(world.path("state")).rglob(point) if path.is_dir()]
    (folder / "prompts" / "prompts" / "answer.txt").write_text("From the rumours: {body}")
    Path(gate).touch()
    again = world.run(*NEXT)
    parts = {(part["name"], part["yardstick"]): part["judgement"] for part in again.json["verdict"]["parts"]}
    assert (parts["golden", "witness"], kept(world)) == (1, []), again


def test_a_restore_that_the_time_cuts_off_leaves_nothing(world: World) -> None:
    """P5: nothing half-restored is kept, by whichever name."""
    world.capture()
    live = tree(world.system.root)
    over = world.run(*NEXT, "--within", "0.01s")
    assert (over.code, "starts over" in over.json["error"]["next_step"]) == (11, True), over
    assert (partial_folders(world.home), kept(world)) == ([], [])
    assert tree(world.system.root) == live


def test_copies_of_a_point_that_was_judged_meanwhile_are_removed(world: World) -> None:
    gate = with_a_probe_that_waits(world)
    point = world.capture()
    assert world.run(*NEXT, "--within", "8s").code == 11
    Path(gate).touch()
    assert [world.run("verify", point).code for _ in range(2)] == [21, 0]
    assert kept(world) == [point]
    assert world.run(*NEXT).json["verdict"] is None
    assert kept(world) == []


def test_two_at_a_time_are_not_run(world: World) -> None:
    world.capture()
    world.run("status")
    (notes,) = [where for where, _, names in os.walk(world.path("state")) if "last-point.json" in names]
    with stage.locked(notes, "prove"):
        refused = world.run(*NEXT)
    assert (refused.code, "unattended verification" in refused.json["error"]["message"]) == (10, True)


@pytest.mark.parametrize(
    "words",
    [
        ("latest", "--latest-unproven"),
        ("--within", "10m"),
        ("latest", "--within", "10m"),
        ("--latest-unproven", "--live"),
        ("--latest-unproven", "--into", "x"),
        ("--latest-unproven", "--within", "0s"),
        ("--latest-unproven", "--within", "soon"),
    ],
    ids=" ".join,
)
def test_words_that_do_not_go_together_are_refused(world: World, words: tuple[str, ...]) -> None:
    assert world.run("verify", *words).code == 2
