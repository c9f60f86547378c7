"""Cost follows change (P11), counted where a clock would only tell how busy the machine is: requests and bytes at two sizes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bench import curves
from bench.curves import STEPS, build, step
from resurgam.stores import abreast

Row = dict[str, float]


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of worlds; a step says itself where its host's notes are. A busy machine makes no folder a distant store."""
    monkeypatch.setenv("RESURGAM_STATE", "")
    monkeypatch.setattr(abreast, "QUICK", math.inf)
    return tmp_path


def measured(world: str, size: int, state: Path) -> dict[str, Row]:
    """All steps of one world."""
    folder = str(state / f"{world}-{size}")
    build(world, size, folder)
    return {what: step(what, folder) for what in STEPS}


def test_what_many_points_cost(state: Path) -> None:
    """P11: a capture and a point named by its id ask the same of a vault of few points and of many, and each point that is listed
    is one request: its records are found by one listing."""
    few, many = (measured("points", size, state) for size in (20, 60))
    for what in ("unchanged", "changed", "diff", "show an id"):
        assert many[what]["requests"] <= few[what]["requests"] + 2, what
    more = 60 - 20
    assert many["points"]["requests"] - few["points"]["requests"] <= more + more // 10 + 1  # one in ten was proven


@pytest.mark.parametrize("world", ["files", "rows"])
def test_what_many_items_cost(state: Path, world: str) -> None:
    """P11: ten times as many files, or rows, are no more requests and no more bytes, where nothing or one of them changed."""
    few, many = (measured(world, size, state) for size in (300, 3000))
    for what in ("unchanged", "changed", "show", "points", "status"):
        assert many[what]["requests"] <= few[what]["requests"] + 1, what
        assert many[what]["read"] <= 2 * few[what]["read"], what
    assert many["changed"]["written"] < 4 * few["changed"]["written"] + 130_000  # a page of a database is in 64 KiB


def test_the_figures_are_told() -> None:
    """A table with a growth of each verb."""
    row = {"world": "files", "what": "show", "processor": 1.0, "seconds": 1.0, "peak": 1e6, "read": 0, "written": 0}
    rows = [row | {"size": 10, "requests": 5}, row | {"size": 1000, "requests": 500}]
    assert curves.growth(rows, "requests") == pytest.approx(1.0)
    assert any("0.00 in processor seconds, 1.00 in requests" in line for line in curves.told(rows))
