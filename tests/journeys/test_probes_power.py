"""`resurgam probes power` on a real point: figures before and after a baseline, for people and for scripts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from resurgam.restore.sandbox import available
from tests.journeys.world import QUESTIONS, World

GOLDEN = "reads: [documents, router, prompts, config], witness: true"
CLAIM = "tolerance: {passes: {margin: 0.05, when: exact}}"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(os.fspath(tmp_path)).ready()


def golden(world: World, *words: str) -> dict[str, Any]:
    """What is said of the probe ``golden``."""
    found = world.run("probes", "power", *words, "--json")
    assert found.code == 0, found.err
    return next(each for each in found.json if each["probe"] == "golden")


def test_what_the_probes_of_a_point_can_tell(world: World) -> None:
    """The witness was asked twice, so a point that was never verified has figures too."""
    world.capture()
    found = golden(world)
    assert (found["tolerance"], found["yardstick"], found["n"], found["power"]) == ("each case", "witness", 10, None)
    assert found["detects"] == pytest.approx(1 - 0.2 ** (1 / len(QUESTIONS)))
    table = world.run("probes", "power")
    assert table.code == 0
    assert f"{found['detects']:.1%} of questions" in table.out


@pytest.mark.skipif(not available()[0], reason="a host that cannot isolate leaves no baseline")
def test_a_claim_over_all_cases_is_foretold_and_judged(world: World) -> None:
    """From the manifest to the verdict: what is the same is identical however few the cases, regressions of most are a
    difference, and ten cases could not show a margin of 5 % if one of them changed."""
    world.manifest((GOLDEN, f"{GOLDEN}, {CLAIM}"))
    world.capture()
    assert world.run("verify", "latest").code == 0
    found = golden(world, "latest")
    assert (found["tolerance"], found["yardstick"], found["n"]) == ("passes", "baseline", len(QUESTIONS))
    assert (found["margin"], found["noise"], found["power"], found["needed"]) == (0.05, 0.0, 0.0, 59)
    world.system.change_prompt()
    verdict = world.run("verify", "--live", "latest")
    assert verdict.code == 20, verdict.err
    assert "of 10 cases regressed, 0 gained" in verdict.out
    assert "passed before, fails now" in verdict.out
