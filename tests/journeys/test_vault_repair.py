"""At three in the morning: a vault is damaged, and the command line says what is so, does what it can, and names the rest."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A vault with one point and a replica of it."""
    made = World(str(tmp_path)).ready()
    made.capture()
    shutil.copytree(made.path("vault"), made.path("replica"))
    return made


def packs(world: World) -> Iterator[Path]:
    """The files of all packs, the largest first."""
    found = Path(world.path("vault/packs")).rglob("*")
    yield from sorted((path for path in found if path.is_file()), key=lambda path: -path.stat().st_size)


def told(world: World, *words: str) -> dict[str, object]:
    """The one JSON value of a command."""
    answer: dict[str, object] = json.loads(world.run(*words, "--json").out)
    return answer


def test_check_is_remembered_and_status_tells(world: World) -> None:
    """Nobody has read the vault, somebody has; and a share, an age and a time are words that can be wrong."""
    assert "never read whole" in world.run("status").out
    read = world.run("vault", "check", "--full")
    assert (read.code, "100 % of bytes read within 30 days, 100 % opened" in read.out) == (0, True)
    assert "100 % of bytes read" in world.run("status").out
    assert told(world, "vault", "check", "--max-age", "1d", "--max-duration", "10m")["packs_read"] == 0
    assert told(world, "vault", "check", "--sample", "1%", "--depth", "digest")["packs_read"] == 1
    for wrong in (("--sample", "0"), ("--sample", "many"), ("--max-age", "old"), ("--depth", "sea")):
        assert world.run("vault", "check", *wrong).code == 2, wrong
    world.run("status", "--metrics", world.path("metrics.prom"))
    metrics = Path(world.path("metrics.prom")).read_text(encoding="utf-8")
    assert "resurgam_vault_read_share" in metrics
    assert "resurgam_vault_read_oldest_seconds" in metrics


def test_a_pack_comes_back_from_a_replica(world: World) -> None:
    """P10: a plan first, that changes nothing; then everything is back, and a restore is exact."""
    next(packs(world)).unlink()
    checked = world.run("vault", "check")
    assert (checked.code, "is missing" in checked.out, "vault repair" in checked.out) == (8, True, True)
    alone = world.run("vault", "repair")
    assert (alone.code, "lost: point" in alone.out, "nothing was changed" in alone.out) == (8, True, True)
    before = sorted(os.listdir(world.path("vault/packs")))
    plan = world.run("vault", "repair", "--from", world.path("replica"))
    assert (plan.code, "take         pack " in plan.out) == (0, True)
    assert sorted(os.listdir(world.path("vault/packs"))) == before
    done = told(world, "vault", "repair", "--from", world.path("replica"), "--yes")
    assert done["done"]
    assert world.run("vault", "check", "--read").code == 0
    assert world.run("restore", "--into", world.path("copy")).code == 0
    assert world.run("vault", "repair").out.split() == ["nothing", "is", "to", "be", "done"]


def test_a_vault_that_does_not_open_is_opened_again(world: World) -> None:
    """P3: its identity and its role tables come from another copy, with the keys that are here to say whether they are right."""
    os.unlink(world.path("vault/vault.json"))
    shutil.rmtree(world.path("vault/roles"))
    assert world.run("points").code == 4
    assert world.run("vault", "repair").code == 4
    plan = world.run("vault", "repair", "--from", world.path("replica"))
    assert (plan.code, "take         vault.json" in plan.out) == (8, True)
    assert not os.path.exists(world.path("vault/vault.json"))
    assert world.run("vault", "repair", "--from", world.path("replica"), "--yes").code == 0
    assert world.run("vault", "check", "--read").code == 0


def test_what_is_lost_is_named_and_recovery_passes_it_by(world: World) -> None:
    """P12: item by item, with the command that restores what is whole; and no recovery picks the point."""
    next(packs(world)).unlink()
    done = world.run("vault", "repair", "--yes")
    assert done.code == 8
    assert "documents: " in done.out
    (point,) = [line.split()[2] for line in done.out.splitlines() if line.startswith("  lost: point")][:1]
    failed = world.run("restore", "--into", world.path("copy"))
    assert (failed.code, "vault repair" in failed.err, os.path.exists(world.path("copy"))) == (8, True, False)
    assert f"quarantined {point}" in done.err
    world.run("capture")
    assert world.run("restore", "--into", world.path("copy")).code == 0
