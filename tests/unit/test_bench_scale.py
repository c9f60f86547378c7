"""The bench of large vaults measures what it says: its vaults are whole, and every task of it runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.vault_scale import __main__ as bench
from bench.vault_scale.making import Size, make
from bench.vault_scale.tasks import TASKS, Bench
from resurgam.stores.local import LocalStore
from resurgam.vault.check import check
from resurgam.vault.keyring import Keyring
from resurgam.vault.repository import Repository

SIZE = Size(chunks=8_000, points=60)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small one of its vaults."""
    folder = tmp_path_factory.mktemp("scale")
    make(str(folder), SIZE, seed=1)
    return folder


def test_a_vault_is_whole(made: Path) -> None:
    """P1: every record is believed, every chunk that a point lists is known, and lies in a pack that is there and long enough."""
    repository = Repository(LocalStore(str(made / "vault")), Keyring(str(made / "keys")))
    report = check(repository)
    assert (report.points, report.damage) == (SIZE.points, ())
    each = SIZE.chunks // SIZE.points
    assert report.chunks > each * SIZE.points
    newest = repository.points()[-1]
    assert newest.body.snapshots[0].bytes == each * SIZE.window * (64 << 10)
    assert sum(state.proven is not None for state in map(repository.state, repository.points())) == SIZE.points // 10


def test_packs_take_no_room(made: Path) -> None:
    """They are as long as they say, and hold nothing."""
    packs = [os.stat(path) for path in (made / "vault/packs").glob("*/*")]
    assert sum(pack.st_size for pack in packs) > SIZE.chunks * (16 << 10)
    assert sum(pack.st_blocks * 512 for pack in packs) < 8 << 20


@pytest.mark.parametrize("task", TASKS)
def test_every_task_runs(made: Path, task: str) -> None:
    """And says what it took."""
    tried = Bench(str(made))
    TASKS[task](tried)
    assert tried.times
    assert all(wall >= 0 and cpu >= 0 for wall, cpu in tried.times.values())


def test_each_task_has_a_process_of_its_own(made: Path) -> None:
    """So that its memory is its own."""
    rows = bench._run("points", str(made))
    assert {row["what"] for row in rows} == {"points", "and their states"}
    assert all(20e6 < row["peak"] < 500e6 for row in rows)
    assert "points" in bench._line({"chunks": SIZE.chunks, "points": SIZE.points, **rows[0]})
