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
from resurgam.cli import demo, demo_acts, demo_cast, demo_stage
from resurgam.cli import demo_handbook as incidents
from resurgam.cli.demo_handbook import HANDBOOK
from resurgam.cli.demo_helpdesk import HELPDESK
from resurgam.errors import MissingExtra, ResurgamError, TargetRefused
from resurgam.model.verdict import Judgement, Part, Verdict

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


def looked_at(act: demo_cast.Act, cast: demo_cast.Cast, home: Path, cited: list[int]) -> None:
    """Strike a healthy copy in ``home``; the naive checks see what is told and no more."""
    healthy = demo_cast.remember(str(home), cast.watched)
    assert all(check.ok for check in demo_cast.naive_checks(str(home), cast.watched, healthy))
    act.strike(demo_stage.Stage(str(home.parent), cast.name, quiet=True), str(home), cited)
    checks = demo_cast.naive_checks(str(home), cast.watched, healthy)
    assert tuple(check.name for check in checks if not check.ok) == act.noticed


@pytest.mark.parametrize("incident", HANDBOOK.incidents, ids=lambda incident: incident.name)
def test_naive_checks_see_no_more_of_an_incident_than_is_told(incident: demo_cast.Act, home: Path) -> None:
    """P4: files, counts, quick_check and a model that loads are necessary, never sufficient."""
    before = golden(home)
    looked_at(incident, HANDBOOK, home, [answer.chunks[0] for answer in before.values() if answer.chunks])
    try:
        after = golden(home)
    except sqlite3.DatabaseError:
        after = {}
    assert after != before


@pytest.mark.parametrize("act", HANDBOOK.harmless, ids=lambda act: act.name)
def test_what_is_harmless_changes_no_answer(act: demo_cast.Act, home: Path) -> None:
    """Nor do naive checks see it."""
    before = golden(home)
    looked_at(act, HANDBOOK, home, [])
    assert golden(home) == before


def test_the_helpdesk_tells_what_naive_checks_see(tmp_path: Path) -> None:
    """Of each of its acts, the harmless ones too; all but one are done by the helpdesk's own command."""
    if missing := demo.missing_for(HELPDESK):
        pytest.skip(f"the extra helpdesk is not installed: {', '.join(missing)}")
    made = tmp_path / "made"
    demo_stage.Stage(str(tmp_path), HELPDESK.name, quiet=True).build("make", str(made), "best-effort")
    for act in (*HELPDESK.incidents, *HELPDESK.harmless):
        looked_at(act, HELPDESK, Path(shutil.copytree(made, tmp_path / act.name)), [])
        shutil.rmtree(tmp_path / act.name)


def test_the_helpdesk_plays_what_is_promised() -> None:
    """Ten incidents and six things that must not alarm; each has a probe's level, and a few are for the impatient."""
    assert (len(HELPDESK.incidents), len(HELPDESK.harmless)) == (10, 6)
    for cast in (HANDBOOK, HELPDESK):
        acts = (*cast.incidents, *cast.harmless)
        assert len({act.name for act in acts}) == len(acts)
        assert {act.level for act in cast.incidents} <= set(cast.levels.values())
        assert not any(act.level for act in cast.harmless)
        assert {bool(act.level) for act in acts if act.few} == {True, False}
        assert [act.captured for act in cast.incidents] == [False] * (len(cast.incidents) - 1) + [True]


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


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """P12: no traceback, whatever stands in the way."""
    (tmp_path / "file").write_text("mine")
    for into in (tmp_path / "file" / "below", Path("/proc/show")):
        with pytest.raises(TargetRefused) as refused:
            demo_stage.empty_folder(str(into))
        assert str(into) in refused.value.message
        assert refused.value.next_step


def test_what_is_not_as_told_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A step that goes otherwise is told; a command that fails ends the demo in its own words."""
    stage = demo_stage.Stage(str(tmp_path), HANDBOOK.name, quiet=True)
    stage.expect(True, "this holds")
    stage.expect(False, "this does not")
    assert stage.wrong == ["this does not"]
    with pytest.raises(ResurgamError, match="exit code 3"):
        stage.resurgam(str(tmp_path), "capture")  # there is no manifest
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("cast", "options"), [(HANDBOOK, []), (HELPDESK, ["--quick"])], ids=["handbook", "helpdesk"])
def test_the_whole_story_is_as_told(cast: demo_cast.Cast, options: list[str], tmp_path: Path) -> None:
    """P1, P4, P5, P6: captured under load; copies damaged, found different, recovered, proven, and answering again; what is
    harmless passes; what was captured as if it were healthy is found by the reference, and shown on a page."""
    if missing := demo.missing_for(cast):
        pytest.skip(f"the extra helpdesk is not installed: {', '.join(missing)}")
    into = tmp_path / "show"
    command = [sys.executable, "-m", "resurgam", "demo", "--on", cast.name, "--into", str(into), "--json", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert (told["system"], told["wrong"]) == (cast.name, [])
    rows = {row["name"]: row for row in told["rows"]}
    played = [act for act in (*cast.incidents, *cast.harmless) if act.few or not options]
    assert rows.keys() == {act.name for act in played}
    for act in played:
        row = rows[act.name]
        assert tuple(row["noticed"]) == act.noticed
        assert row["caught"]["level"] == act.level
        if act.level:
            assert row["verdict"] == "different"
            assert row["caught"]["alone"] is act.captured
            assert row["recovered"] in ("identical", "equivalent")
            assert row["answers_again"]
            assert 0 < row["seconds"] < told["seconds"]
        else:
            assert (row["verdict"], row["seconds"]) in (("identical", None), ("equivalent", None))
    last = into / cast.incidents[-1].name
    kept = [name for folder, *parts in os.walk(last) for part in parts for name in part]
    assert any(".before-" in name for name in kept)  # what was live before the recovery
    page = Path(told["page"])
    assert page.parent == into
    assert "<h1" in page.read_text()
    assert sorted(os.listdir(tmp_path)) == ["show"]  # nothing outside of its folder


def test_a_story_that_does_not_come_true_is_not_told_as_if_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """P12: where the probes find nothing, since nothing was damaged, the demo says so and fails; likewise where they find what
    must not alarm different, or the diff should have said something. What it was about is kept."""
    nothing = demo_cast.Act("nothing", "Nothing happens", lambda *_: "nothing was done", level="answers")
    trace = demo_cast.Trace("prompts", "~ answer.md")
    captured = nothing._replace(name="captured", captured=True, traces=(trace,))
    alarming = nothing._replace(name="alarming", level="", strike=lambda _stage, home, _: incidents.change_prompt(home))
    cast = HANDBOOK._replace(incidents=(nothing, captured), harmless=(alarming,))
    monkeypatch.setitem(demo.CASTS, demo.On.HANDBOOK, cast)
    assert demo.demo(str(tmp_path / "show"), demo.On.HANDBOOK, json=True) == 1
    assert json.loads(capsys.readouterr().out)["wrong"] == [
        "nothing: the verdict is different, at the level of answers",
        "alarming: it is not called different (it is different)",
        "the diff names ~ answer.md of prompts",
        "captured: the verdict is different, at the level of answers, by the reference alone",
        "captured: the newest clean point is chosen",  # it is the captured one, which nobody found different
    ]
    assert (tmp_path / "show" / "alarming").is_dir()


def test_what_went_before_a_failure_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """P12: an act that is cut off by an error tells how far it came; the error goes on."""

    def fails(*_: object) -> str:
        raise ResurgamError("the disk is on fire")

    act = demo_cast.Act("burning", "It burns", fails)
    home = tmp_path / "home"
    home.mkdir()
    healthy = demo_acts.Healthy(str(home), "0" * 16, {}, demo_cast.Remembered({}, {}, {}))
    with pytest.raises(ResurgamError, match="on fire"):
        demo_acts.play_all(
            demo_stage.Stage(str(tmp_path), HANDBOOK.name), HANDBOOK, [act, act._replace(name="next")], healthy
        )
    assert "It burns" in capsys.readouterr().out


def test_the_lowest_level_that_differs_is_told() -> None:
    """Each part that is different counts, whatever the yardstick; those that pass or decide nothing do not."""

    def part(name: str, yardstick: str, judgement: Judgement) -> Part:
        return Part(name=name, yardstick=yardstick, judgement=judgement, reason="")

    def caught(*parts: Part) -> demo_acts.Caught:
        worst = max(part.judgement for part in parts)
        verdict = Verdict(point="", judgement=worst, parts=parts, isolation="", first_proof=False, seconds=0.0)
        return demo_acts.caught_by(verdict, {"rows": "rows", "near": "retrieval"})

    same, unknown, other = Judgement.IDENTICAL, Judgement.INCONCLUSIVE, Judgement.DIFFERENT
    assert caught(part("rows", "witness", same), part("near", "witness", unknown)) == demo_acts.Caught()
    found = caught(part("said", "witness", other), part("near", "reference", other), part("rows", "witness", same))
    assert found == demo_acts.Caught("retrieval", ("said", "near"), alone=False)
    assert (
        str(caught(part("said", "witness", same), part("said", "reference", other)))
        == "answers, by the reference alone"
    )


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
        a: ["prompts: ~ a.md", "      @@ -1 +1,2 @@", "      +more"],
        b: ["prompts: ~ b.md", "      +b"],
    }


def test_a_trace_is_the_line_and_no_longer_one() -> None:
    """Row 1 is not row 10, and a table's index is not the table."""
    trace = demo_cast.Trace("documents / chunks", "~ 1")
    assert trace.fits("documents / chunks (rows)", "  ~ 1")
    assert not trace.fits("documents / chunks (rows)", "  ~ 10")
    assert not trace.fits("documents / chunks_index (rows)", "  ~ 1")
