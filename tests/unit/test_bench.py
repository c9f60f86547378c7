"""The bench's own arithmetic and honesty: a bench that is wrong is worse than none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import data, measure, neighbour, report
from bench.measure import Cost
from bench.rounds import TIMED, Run
from bench.tools import BUFFERED, FAST, ours


def a_run(tool: str, metric: str, wall: float, *, round: int = 0, stored: int = 100, memory: int = 50) -> Run:
    return Run("model", tool, metric, round, Cost(wall, wall, memory), stored)


def rows_of(runs: list[Run], *peers: str) -> dict[str, report.Row]:
    return {row.metric: row for row in report.rows("model", report.summarize(runs), "resurgam", list(peers))}


def test_a_ratio_is_the_median_of_the_best_peer_mode_over_ours() -> None:
    """The best mode is chosen for each cell by itself, from medians, and above 1 means that we are better."""
    runs = [a_run("resurgam", metric, wall) for metric in TIMED for wall in (1.0, 2.0, 30.0)]
    runs += [a_run("fast", metric, 3.0, stored=400) for metric in TIMED]
    runs += [a_run("small", metric, 9.0, stored=50, memory=10) for metric in TIMED]
    found = rows_of(runs, "fast", "small")
    assert tuple(found["first"]) == ("model", "first", 2.0, 3.0, "fast", 1.5)
    assert found["stored"] == ("model", "stored", 100, 50, "small", 0.5)
    assert found["memory"].peer_name == "small"
    assert report.met(found["first"]) is False
    assert report.met(found["memory"]) is True


def test_without_peers_there_are_figures_and_no_ratios() -> None:
    """A machine without restic and borg still measures us, and the table says what is absent."""
    found = rows_of([a_run("resurgam", metric, 1.0) for metric in TIMED])
    assert tuple(found["first"]) == ("model", "first", 1.0, None, None, None)
    assert "absent" in report.table(list(found.values()))


def test_versions_are_renamed_in_and_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What did not change between two versions keeps its inode and its times."""
    monkeypatch.setattr(data, "_SETTLE", 0)
    for part, name in (("source", "kept"), ("v1", "changed"), ("v2", "changed"), ("v2", "added"), ("v1", "gone")):
        (tmp_path / part).mkdir(exist_ok=True)
        (tmp_path / part / name).write_text(f"{name} {part}")
    (tmp_path / "differing.json").write_text(json.dumps({"v1": ["changed", "gone"], "v2": ["added", "changed"]}))
    before = os.stat(tmp_path / "source" / "kept")
    for version, names in (("v1", ["changed", "gone"]), ("v2", ["added", "changed"]), ("v1", ["changed", "gone"])):
        for _ in range(2):  # a killed bench may find the version already there
            data.use(str(tmp_path), version)
            found = sorted(set(os.listdir(tmp_path / "source")) - {"kept", "newest"})
            assert found == names
            assert (tmp_path / "source" / "changed").read_text() == f"changed {version}"
    after = os.stat(tmp_path / "source" / "kept")
    assert (before.st_ino, before.st_ctime_ns) == (after.st_ino, after.st_ctime_ns)


def test_a_restore_that_differs_is_noticed(tmp_path: Path) -> None:
    """Names and bytes count; the same number of bytes is not enough."""
    for side in ("one", "other"):
        (tmp_path / side / "folder").mkdir(parents=True)
        (tmp_path / side / "folder" / "file").write_bytes(b"a" * 3_000_000)
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    assert measure.same(one, other)
    with open(tmp_path / "other" / "folder" / "file", "r+b") as file:
        file.seek(2_500_000)
        file.write(b"b")
    assert not measure.same(one, other)
    (tmp_path / "other" / "folder" / "file").rename(tmp_path / "other" / "file")
    assert not measure.same(one, other)


def test_a_tool_that_fails_stops_the_bench(tmp_path: Path) -> None:
    """A failed backup is fast: it must never be a figure. What the tool said is shown."""
    with pytest.raises(measure.Failed, match="it broke"):
        measure.run(["sh", "-c", "echo it broke; exit 3"], {}, str(tmp_path), log=str(tmp_path / "log"))


def test_a_neighbours_waits_are_those_of_their_window() -> None:
    """A request is counted to what ran when it began, of each kind apart, and to nothing where nothing was measured."""
    windows = [neighbour.Window(name, 10.0 * n, 10.0 * n + 5) for n, name in enumerate(neighbour.CONDITIONS)]
    noted = [(10.0 * n + 0.03 * m, m % 3, (n + 1) * (m % 3 + 1) / 1e3) for n in range(len(windows)) for m in range(300)]
    lines = neighbour.table(windows, noted).splitlines()[1:]
    for number, (name, line) in enumerate(zip(neighbour.CONDITIONS, lines, strict=True), start=1):
        assert line.startswith(name)
        waits = [f"{number * kind:.2f}" for kind in (1, 2, 3) for _ in range(3)]
        assert line.removeprefix(name).split() == ["5.0", "167", *waits]


def test_the_fast_mode_says_so_in_its_manifest_and_is_not_compared_first(tmp_path: Path) -> None:
    """The ratios stay those of the defaults; where it is the same work, there is no such mode."""
    said = {}
    for tool in ours("dataset"):
        tool.prepare(str(tmp_path), "source")
        said[tool.name] = json.loads((tmp_path / "resurgam.yaml").read_text())["vault"].get("compression")
    assert next(iter(said.items())) == ("resurgam", None)
    assert said == {"resurgam": None, FAST: "fast", BUFFERED: None}
    assert FAST not in {tool.name for name in ("model", "vectors", "sqlite") for tool in ours(name)}


@pytest.mark.parametrize("name", ["model", "sqlite"])
def test_the_buffered_mode_writes_nothing_past_the_page_cache(name: str, tmp_path: Path) -> None:
    """The same command line but for that: asked by whether the store it opens would."""
    (tool,) = (one for one in ours(name) if one.name == BUFFERED)
    words = tool.backup(str(tmp_path), "")
    script = words[words.index("-P") + 1]
    asked = (
        f"import runpy; runpy.run_path({script!r}, run_name='asked'); from resurgam.stores.local import LocalStore; "
        f"print(LocalStore({str(tmp_path)!r})._direct)"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
