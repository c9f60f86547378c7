"""`resurgam report` on real systems: one page for each kind of verdict, made of what the vault holds, by the real command line."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from resurgam.cli.main import main
from resurgam.restore import sandbox
from tests.journeys.world import Result, World
from tests.unit.test_report import Strict

ROOT = Path(__file__).parents[2]
QUESTION = "What about disk?"
needs_isolation = pytest.mark.skipif(
    not sandbox.isolation().isolated, reason="this host has no namespaces to isolate in"
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(os.fspath(tmp_path)).ready()


def text_of(path: str) -> str:
    """The words of a page that is well-formed, loads nothing and runs nothing."""
    parser = Strict()
    with open(path, encoding="utf-8") as file:
        parser.feed(file.read())
    parser.close()
    assert parser.open == []
    return " ".join(" ".join(parser.text).split())


def states(result: Result) -> dict[str, str]:
    """How each component stands."""
    return {component["name"]: component["state"] for component in result.json["components"]}


@needs_isolation
def test_each_kind_of_verdict_has_its_page(world: World) -> None:
    """P4: identical, equivalent, different, inconclusive; what changed is named, and so is what was not asked."""
    counted = "ALL SELECT 'tickets', count(*) FROM tickets\""
    near = (counted, f"{counted}, tolerance: {{numeric: {{abs: 1}}}}")
    world.manifest(near)
    first = world.capture()
    page, xml = world.path("page.html"), world.path("verdict.xml")
    assert world.run("verify", first, "--html", page, "--junit", xml).code == 0
    assert "Identical The restored system gave the same answers" in text_of(page)
    assert Xml.parse(xml).getroot().get("failures") == "0"
    assert world.run("reference", "approve", first).code == 0

    world.system.sql("INSERT INTO tickets (doc, words) VALUES (1, 'one more')")
    second = world.capture()
    assert world.run("verify", second, "--html", page).code == 0
    told = text_of(page)
    assert "Equivalent The restored system gave the same answers to all that was asked, within the margins" in told
    assert "within the margin" in told
    assert '1 row changed; "tickets" now says 2, before 1' in told

    world.system.change_prompt()
    third = world.capture()
    assert world.run("verify", third, "--html", page, "--junit", xml).code == 20
    told = text_of(page)
    assert "Different The restored system does not behave the same: 1 of 2 probes differ (golden)." in told
    assert "From the rumours, disk" in told
    assert int(Xml.parse(xml).getroot().get("failures") or 0) == 1
    shown = world.run("report", third, "--json")
    assert shown.json["suspects"] == ["documents", "prompts"], "router and config are as they were at the reference"
    assert states(shown) == {
        "documents": "different",
        "router": "unchanged",
        "prompts": "different",
        "config": "unchanged",
    }

    os.mkdir(world.system.path("more"))
    world.manifest(near, ("  config: {", "  more: {driver: files, location: more}\n  config: {"))
    world.system.write("prompts/answer.txt", "From the handbook, {title}:\n{body}\n")
    fourth = world.capture()
    assert world.run("verify", fourth, "--html", page, "--junit", xml).code == 21
    assert "more unprobed: no probe reads it" in text_of(page)
    assert states(world.run("report", fourth, "--json"))["more"] == "unprobed"
    assert Xml.parse(xml).getroot().get("errors") == "1"


@needs_isolation
def test_a_report_is_made_again_from_the_vault_alone(world: World) -> None:
    """P3: without the manifest and without this host's notes; whole answers, though the verdict keeps their beginning."""
    world.system.write("config/app.json", '{"letters": 2000}')
    assert world.run("verify", world.capture()).code == 0
    world.system.change_rows()
    assert world.run("reference", "approve", "latest").code == 0
    point = world.capture()
    assert world.run("verify", point).code == 20
    before = world.run("report", point, "--json").json
    os.rename(world.system.path("resurgam.yaml"), world.path("elsewhere"))
    again = world.run("report", point, "--json", "--vault", world.path("vault"), "--keys", world.path("keys"))
    assert again.json == before
    (golden,) = [probe for probe in before["probes"] if probe["name"] == "golden"]
    changes = [change for judged in golden["judged"] for change in judged["changes"]]
    rows = [row for change in changes for view in change["views"] for row in view["rows"]]
    assert any(" am " in row["after"] and " is " in rows[n - 1]["before"] for n, row in enumerate(rows))


@needs_isolation
def test_the_files_are_private_whole_and_refused_with_a_next_step(world: World) -> None:
    """P12: what cannot be written leaves nothing behind, and the verdict stands."""
    point = world.capture()
    refused = world.run("report", point, "--html", "page.html")
    assert (refused.code, "never judged" in refused.err) == (4, True)
    assert f"resurgam verify {point}" in refused.err
    missing = world.path("nowhere/page.html")
    late = world.run("verify", point, "--html", missing)
    assert late.code == 4
    assert "The verdict stands in the vault" in late.err
    page = world.path("page.html")
    Path(page).write_text("an older one", encoding="utf-8")
    written = world.run("report", point, "--html", page)
    assert (written.code, f"written: {page}" in written.out) == (0, True)
    assert stat.S_IMODE(os.stat(page).st_mode) == 0o600, "it holds answers"
    assert [name for name in os.listdir(world.home) if name.startswith(".report-")] == []
    assert QUESTION in world.run("report", point, "--json").out
    redacted = world.run("report", point, "--json", "--redact")
    assert QUESTION not in redacted.out
    assert redacted.json["redacted"] is True


@needs_isolation
def test_the_live_system_has_a_report_too(world: World) -> None:
    """Of what `verify --live` says; nothing of it is recorded."""
    assert world.run("verify", world.capture()).code == 0
    world.system.change_prompt()
    page = world.path("live.html")
    assert world.run("verify", "latest", "--live", "--html", page).code == 20
    assert "The live system does not behave the same" in text_of(page)
    assert "The restored system gave" in world.run("report", "latest").out


@needs_isolation
def test_the_helpdesk_s_poisoned_document_is_told_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A support agent that was healthy when its reference was approved, and captured again after an incident: the page says
    which chunk is new, in which answers, and which components cannot be the cause."""
    pytest.importorskip("chromadb", reason="the extra helpdesk is not installed")
    pytest.importorskip("langgraph.checkpoint.sqlite", reason="the extra helpdesk is not installed")
    monkeypatch.setenv("RESURGAM_STATE", str(tmp_path / "state"))
    home = tmp_path / "desk"
    _run(ROOT, "-m", "examples.helpdesk", "make", str(home), "--chunks", "120")
    monkeypatch.chdir(home)
    for words in (["vault", "init"], ["capture"], ["verify", "latest"], ["reference", "approve", "latest"]):
        assert main([*words, "--json"]) == 0, words
    told = _run(home, "bin/helpdesk", "strike", "poisoned-document")
    chunk = told.split()[1]
    assert main(["capture", "--json"]) == 0
    page = str(tmp_path / "page.html")
    assert main(["verify", "latest", "--html", page, "--json"]) == 20
    text = text_of(page)
    assert f"new: {chunk}" in text
    assert "Never release a lock that you acquired" in text
    assert "cannot be the cause" in text
    assert "embedder unchanged" in text
    assert "documents different" in text


def _run(where: Path, *words: str) -> str:
    done = subprocess.run([sys.executable, *words], cwd=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
