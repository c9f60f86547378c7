"""Copies of a vault read together from the command line: half of each is lost, one is gone, only a recovery key is left."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.test_first_path import needs_isolation
from tests.journeys.world import World, rows, tree


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A system with two points, and a copy of its vault."""
    made = World(str(tmp_path)).ready()
    made.capture()
    made.system.change_prompt()
    made.capture()
    shutil.copytree(made.path("vault"), made.path("copy"))
    return made


def both(world: World) -> tuple[str, ...]:
    return ("--vault", world.path("vault"), "--vault", world.path("copy"))


def offline(world: World) -> str:
    """What lies in the safe: one file, with the identities of the recovery key and of the answers."""
    path = world.path("safe.agekey")
    held = (Path(world.path("keys"), file) for file in ("recovery.agekey", "evidence.agekey"))
    Path(path).write_text("".join(file.read_text(encoding="utf-8") for file in held), encoding="utf-8")
    os.chmod(path, 0o600)
    return path


def halve(world: World, seed: int) -> dict[str, list[str]]:
    """Each object is lost or spoilt in one of the two copies, never in both."""
    rng, hurt = random.Random(seed), dict[str, list[str]]()
    whole = sorted(path for path in Path(world.path("vault")).rglob("*") if path.is_file())
    for path in whole:
        where = rng.choice(("vault", "copy"))
        other = Path(world.path(where)) / path.relative_to(world.path("vault"))
        hurt.setdefault(where, []).append(str(path.relative_to(world.path("vault"))))
        data = bytearray(other.read_bytes())
        other.unlink()
        if rng.random() < 0.4:
            data[rng.randrange(len(data))] ^= 8
            other.write_bytes(data)
    return hurt


@pytest.mark.parametrize("seed", range(2))
def test_two_halves_are_a_whole(world: World, seed: int) -> None:
    """Points, restores and checks as of a whole vault; beside the answer each copy is told of, and check names what each lacks."""
    into = world.place("out")
    assert world.run("restore", "--into", into).code == 0
    points, whole = world.points(), tree(into)
    whole.pop(".resurgam-restore.json")
    hurt = halve(world, seed)
    assert world.run("restore", "--into", world.place("alone"), "--vault", world.path("vault")).code != 0
    listed = world.run("points", *both(world), "--json")
    assert [point["id"] for point in listed.json] == points
    restored = world.run("restore", "--into", world.place("again"), *both(world))
    assert restored.code == 0, restored
    assert "came from it" in restored.err
    found = tree(world.place("again"))
    found.pop(".resurgam-restore.json")
    assert found == whole
    checked = world.run("vault", "check", "--read", *both(world), "--json")
    assert (checked.code, checked.json["damage"]) == (0, [])
    told = {os.path.basename(copy["copy"]): copy for copy in checked.json["copies"]}
    for where in ("vault", "copy"):
        named = {*told[where]["missing"], *told[where]["damaged"]}
        missed = set(hurt.get(where, [])) ^ named
        assert all(name.startswith("keys/") for name in missed), (
            missed
        )  # whom a spoilt one was wrapped to, nobody knows


def test_what_both_lost_is_named_with_the_way_on(world: World) -> None:
    """P12: the same pack in both; the component is named, and the others restore."""
    packs = sorted(
        (p for p in Path(world.path("vault/packs")).rglob("*") if p.is_file()), key=lambda p: -p.stat().st_size
    )
    lost = packs[0].relative_to(world.path("vault"))
    for where in ("vault", "copy"):
        Path(world.path(where), lost).unlink()
    failed = world.run("restore", "--into", world.place("out"), *both(world))
    assert (failed.code, "cannot be restored" in failed.err, "--component" in failed.err) == (8, True, True), failed
    assert not os.path.exists(world.place("out"))
    checked = world.run("vault", "check", *both(world))
    assert (checked.code, "damaged:" in checked.out) == (8, True)


def test_a_copy_that_is_not_there_is_said_and_does_not_stop(world: World) -> None:
    """In either place; with none there it is an error, and captures are led to no copy."""
    os.rename(world.path("copy"), world.path("away"))
    for order in (both(world), both(world)[2:] + both(world)[:2]):
        listed = world.run("points", *order)
        assert (listed.code, "is left out" in listed.err) == (0, True), listed
    os.rename(world.path("vault"), world.path("gone"))
    none = world.run("points", *both(world))
    assert (none.code, "There is no vault" in none.err) == (4, True)


def test_another_vault_is_refused_by_name(world: World, tmp_path: Path) -> None:
    """P12: before anything of it is shown."""
    other = World(str(tmp_path / "other"))
    os.makedirs(other.home)
    other.ready().capture()
    refused = world.run("points", "--vault", world.path("vault"), "--vault", other.path("vault"))
    assert (refused.code, "another vault" in refused.err, refused.out) == (6, True, "")


@needs_isolation
def test_p3_a_replica_and_the_safe_are_enough_to_be_live_again(world: World) -> None:
    """Vault, keys, notes and all data are lost; the application is deployed anew. Judged, live, and nothing signed or written."""
    before, kept = world.system.ask(), rows(world.system.database)
    safe = offline(world)
    for lost in ("vault", "keys", "state", "system/data", "system/models", "system/prompts", "system/config"):
        shutil.rmtree(world.path(lost))
    copy = tree(world.path("copy"))
    place = ("--vault", world.path("copy"), "--keys", safe)
    refused = world.run("verify", *place)
    assert (refused.code, "verifier.json" in refused.err) == (6, True)
    verdict = world.run("verify", *place, "--unrecorded")
    assert (verdict.code, "identical" in verdict.out, "NOT RECORDED" in verdict.out) == (0, True, True), verdict
    recovered = world.run("recover", *place, "--unrecorded", "--yes")
    assert (recovered.code, "NOT RECORDED" in recovered.out) == (0, True), recovered
    assert (world.system.ask(), rows(world.system.database)) == (before, kept)
    assert tree(world.path("copy")) == copy  # P2


@needs_isolation
def test_p4_where_nothing_is_recorded_only_the_same_run_counts(world: World) -> None:
    """A folder that says of itself that it passed is signed by nobody: it is not promoted, and a recovery judges anew."""
    safe = offline(world)
    place = ("--vault", world.path("copy"), "--keys", safe)
    into = world.place("judged")
    assert world.run("verify", *place, "--unrecorded", "--into", into).code == 0
    refused = world.run("promote", into, "--yes")
    assert (refused.code, "no passing verdict" in refused.err) == (20, True), refused
    assert world.run("verify", *place, "--unrecorded", "--latest-unproven").code == 2


def test_hot_components_first_and_the_rest_added(world: World) -> None:
    """P5: usable by themselves, then whole; the times are told by tier."""
    world.manifest(("location: prompts}", "location: prompts, tier: hot}"))
    world.capture()
    into = world.place("out")
    first = world.run("restore", "--into", into, "--tier", "hot")
    assert (first.code, "not restored: documents, router, config" in first.out) == (0, True), first
    assert os.listdir(into + "/prompts") == ["prompts"]
    assert not os.path.exists(into + "/config")
    rest = world.run("restore", "--into", into, "--add")
    assert (rest.code, "not restored" in rest.out, "hot: there" in rest.out) == (0, False, False), rest
    whole = world.run("restore", "--into", world.place("whole"), "--json")
    state: Any = json.loads(Path(into, ".resurgam-restore.json").read_text(encoding="utf-8"))
    prints = {name: copy["fingerprint"] for name, copy in state["copies"].items()}
    assert prints == {name: copy["fingerprint"] for name, copy in whole.json["copies"].items()}
    plan = [
        step["what"].split()[0]
        for step in world.run("restore", "--into", "x", "--dry-run", "--json").json["steps"][:-1]
    ]
    assert plan == ["prompts", "documents", "config", "router"]
    assert "hot: there after" in world.run("restore", "--into", world.place("told")).out
    assert world.run("restore", "--into", into, "--tier", "lukewarm").code == 2
