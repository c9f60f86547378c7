"""`resurgam demo`: the damages are such that naive checks stay green, and the whole story comes out as it is told."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from examples.handbook import answering, building
from resurgam.cli import demo, demo_cast, demo_stage
from resurgam.cli import demo_handbook as incidents
from resurgam.cli.demo_handbook import HANDBOOK
from resurgam.cli.demo_helpdesk import HELPDESK
from resurgam.errors import MissingExtra, ResurgamError, TargetRefused

WATCHED = HANDBOOK.watched


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A healthy handbook that tests copy."""
    home = tmp_path_factory.mktemp("built") / "handbook"
    building.build(str(home))
    return home


@pytest.fixture
def home(built: Path, tmp_path: Path) -> Path:
    """A handbook to damage."""
    return Path(shutil.copytree(built, tmp_path / "handbook"))


def golden(home: Path) -> dict[str, answering.Answer]:
    """The answers to the golden questions."""
    questions = json.loads((home / "probes" / "golden.json").read_text())
    return answering.Handbook(answering.places_in(str(home))).ask_all(questions)


@pytest.mark.parametrize("incident", incidents.INCIDENTS, ids=lambda incident: incident.name)
def test_naive_checks_see_no_more_of_an_incident_than_is_told(incident: demo_cast.Incident, home: Path) -> None:
    """P4: files, counts, quick_check and a model that loads are necessary, never sufficient."""
    healthy, before = demo_cast.remember(str(home), WATCHED), golden(home)
    assert all(check.ok for check in demo_cast.naive_checks(str(home), WATCHED, healthy))
    stage = demo_stage.Stage(str(home), HANDBOOK.name, quiet=True)
    incident.strike(stage, str(home), [answer.chunks[0] for answer in before.values() if answer.chunks])
    checks = demo_cast.naive_checks(str(home), WATCHED, healthy)
    assert tuple(check.name for check in checks if not check.ok) == incident.noticed
    try:
        after = golden(home)
    except sqlite3.DatabaseError:
        after = {}
    assert after != before


def test_ransomware_really_encrypts_and_keeps_name_size_and_time(home: Path) -> None:
    """Nothing of the plain text is left, and the folder looks as before."""
    path = home / incidents.DATABASE
    plain, before, names = path.read_bytes(), path.stat(), sorted(os.listdir(path.parent))
    incidents.encrypt(str(home))
    locked, after = path.read_bytes(), path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert sorted(os.listdir(path.parent)) == names
    same = sum(a == b for a, b in zip(plain[:100_000], locked[:100_000], strict=True))
    assert same < 1000  # 1 byte in 256 by chance


def test_exactly_five_rows_change_and_the_index_agrees(home: Path) -> None:
    """The quiet change leaves a database that passes its own checks too."""
    cited = [answer.chunks[0] for answer in golden(home).values() if answer.chunks]
    with closing(sqlite3.connect(home / incidents.DATABASE)) as database:
        before = dict(database.execute("SELECT id, text FROM chunks"))
        incidents.change_rows(str(home), cited)
        after = dict(database.execute("SELECT id, text FROM chunks"))
        database.execute("INSERT INTO chunks_index(chunks_index, rank) VALUES ('integrity-check', 1)")
    changed = [chunk for chunk in before if before[chunk] != after[chunk]]
    assert len(changed) == incidents.ROWS
    assert all(len(before[chunk]) == len(after[chunk]) for chunk in changed)


def test_naive_checks_can_fail(home: Path) -> None:
    """They are honest ones: a missing file, a missing row and another shape are seen."""
    healthy = demo_cast.remember(str(home), WATCHED)
    (home / "prompts" / "unknown.md").unlink()
    with closing(sqlite3.connect(home / incidents.DATABASE)) as database, database:
        database.execute("DELETE FROM conversations WHERE id = 1")
    (home / incidents.MODEL).write_bytes(b"no model")
    failed = {check.name for check in demo_cast.naive_checks(str(home), WATCHED, healthy) if not check.ok}
    assert failed == {"files", "row counts", "models load"}


def test_a_folder_that_no_demo_made_is_refused(tmp_path: Path) -> None:
    """What is somebody's stays (P12); what an earlier demo made is made anew."""
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(TargetRefused) as refused:
        demo_stage.empty_folder(str(tmp_path))
    assert refused.value.next_step
    assert os.listdir(tmp_path) == ["mine"]
    folder = Path(demo_stage.empty_folder(str(tmp_path / "show")))
    (folder / "old").write_text("old")
    assert demo_stage.empty_folder(str(folder)) == str(folder)
    assert os.listdir(folder) == [demo_stage.MARK]


def test_what_is_not_as_told_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A step that goes otherwise is told; a command that fails ends the demo in its own words."""
    stage = demo_stage.Stage(str(tmp_path), HANDBOOK.name, quiet=True)
    stage.expect(True, "this holds")
    stage.expect(False, "this does not")
    assert stage.wrong == ["this does not"]
    with pytest.raises(ResurgamError, match="exit code 3"):
        stage.resurgam(str(tmp_path), "capture")  # there is no manifest
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("cast", [HANDBOOK, HELPDESK], ids=lambda cast: cast.name)
def test_the_whole_story_is_as_told(cast: demo_cast.Cast, tmp_path: Path) -> None:
    """P1, P4, P5, P6: captured under load, damaged four times, each time recovered, proven, promoted, and answering again."""
    if missing := demo.missing_for(cast):
        pytest.skip(f"the extra helpdesk is not installed: {', '.join(missing)}")
    into = tmp_path / "show"
    command = [sys.executable, "-m", "resurgam", "demo", "--on", cast.name, "--into", str(into), "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert (told["system"], told["wrong"]) == (cast.name, [])
    assert [row["incident"] for row in told["rows"]] == [incident.name for incident in cast.incidents]
    for row, incident in zip(told["rows"], cast.incidents, strict=True):
        assert tuple(check["name"] for check in row["naive"] if not check["ok"]) == incident.noticed
        assert row["probes"] == ("different" if incident.probed else "identical")
        assert bool(row["findings"]) == bool(incident.broken)
        assert row["probes"] == "different" or row["findings"], "nothing noticed it"
        assert row["answers_again"]
        assert row["verdict"] in ("identical", "equivalent")
        assert 0 < row["seconds"] < told["seconds"]
        kept = [name for folder, *parts in os.walk(into / incident.name) for part in parts for name in part]
        assert any(".before-" in name for name in kept)  # what was live before the promotion
    assert sorted(os.listdir(tmp_path)) == ["show"]  # nothing outside of its folder


def test_a_story_that_does_not_come_true_is_not_told_as_if_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """P12: where the probes find nothing, since nothing was damaged, the demo says so and fails; likewise where the diff, or
    the findings of a captured damage, should have said something."""
    nothing = demo_cast.Incident("nothing", "Nothing happens", (), lambda *_: "nothing was done")
    captured = nothing._replace(name="captured", trace=demo_cast.Trace("prompts", "~ answer.md"), broken="all")
    monkeypatch.setitem(demo.CASTS, demo.On.HANDBOOK, HANDBOOK._replace(incidents=(nothing, captured)))
    assert demo.demo(str(tmp_path / "show"), demo.On.HANDBOOK, json=True) == 1
    assert json.loads(capsys.readouterr().out)["wrong"] == [
        "the probes notice it",
        "the point's findings say what is broken",
        "the diff names ~ answer.md of prompts",
        "the probes notice it",
    ]


def test_without_the_helpdesks_libraries_the_handbook_plays_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: one line says what to install; whoever asked for the helpdesk by name gets an error with the next step."""
    monkeypatch.setitem(demo.CASTS, demo.On.HELPDESK, HELPDESK._replace(needs=("no-such-library",)))
    cast, why = demo.played(None)
    assert cast is HANDBOOK
    assert "no-such-library" in why
    assert demo.INSTALL in why
    assert demo.played(demo.On.HANDBOOK) == (HANDBOOK, "")
    with pytest.raises(MissingExtra, match="no-such-library") as refused:
        demo.played(demo.On.HELPDESK)
    assert demo.INSTALL in refused.value.next_step


def test_a_trace_is_found_with_its_details_and_beyond_empty_lines() -> None:
    """A text diff may have an empty line, which is no heading."""
    lines = ["prompts", "  ~ a.md", "      @@ -1 +1,2 @@", "", "      +more", "  ~ b.md", "      +b", "  ~ c.md"]
    a, b = demo_cast.Trace("prompts", "~ a.md"), demo_cast.Trace("prompts", "~ b.md", details=1)
    assert demo_cast.traced(lines, (a, b)) == {
        a: ["prompts: ~ a.md", "      @@ -1 +1,2 @@"],
        b: ["prompts: ~ b.md", "      +b"],
    }


def test_a_trace_is_the_line_and_no_longer_one() -> None:
    """Row 1 is not row 10, and a table's index is not the table."""
    trace = demo_cast.Trace("documents / chunks", "~ 1")
    assert trace.fits("documents / chunks (rows)", "  ~ 1")
    assert not trace.fits("documents / chunks (rows)", "  ~ 10")
    assert not trace.fits("documents / chunks_index (rows)", "  ~ 1")
