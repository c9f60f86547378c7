"""The whole way on the helpdesk while customers write: captured, struck, recovered, judged, live, asked, and exactly back again."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from examples.helpdesk.places import PLACES
from resurgam.restore import sandbox
from tests.journeys.test_helpdesk import at_work, make, run, stopped

pytest.importorskip("chromadb", reason="the extra helpdesk is not installed")
pytest.importorskip("langgraph.checkpoint.sqlite", reason="the extra helpdesk is not installed")
pytestmark = pytest.mark.skipif(not sandbox.isolation().isolated, reason="no verdict without isolation")

QUESTION = "How do I acquire a lock in a thread and release it again?"
LOAD = ("--rate", "20", "--seconds", "600", "--writers", "3")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A helpdesk with a vault."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    place = tmp_path / "desk"
    make(place)
    assert ended(started(place, "vault", "init"))[0] == 0
    return place


def started(home: Path, *words: str) -> subprocess.Popen[str]:
    """A command of Resurgam on the desk."""
    command = [sys.executable, "-m", "resurgam", *words, "--json"]
    return subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(command: subprocess.Popen[str]) -> tuple[int, Any]:
    """Its exit code and its JSON."""
    with command:
        out, err = command.communicate(timeout=240)
    assert out, err
    return command.returncode, json.loads(out)


def answer(home: Path) -> Any:
    """What a customer is told."""
    told = json.loads(run(home, "ask", QUESTION, "--customer", "3", "--json"))
    return told["topic"], told["chunks"], told["text"]


def digests(place: Path) -> dict[str, str]:
    """Every file at ``place``, which may be one itself."""
    found = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    return {str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_from_capture_to_undo_while_customers_write(home: Path) -> None:
    """P1, P4, P6, P10: three processes write from the capture until after the promotion, and none of them sees an error."""
    healthy = answer(home)
    with at_work(home, *LOAD) as load:
        code, point = ended(started(home, "capture"))
        assert (code, point["findings"]["broken"]) == (0, 0), point
        run(home, "strike", "edited-prompt")
        run(home, "strike", "swapped-router")
        struck = answer(home)
        assert struck != healthy
        code, done = ended(started(home, "recover", "--to", point["id"], "--yes"))
        assert (code, done["live"]) == (0, True), done
        assert answer(home) == healthy
        outcome = done["recovered"]["outcome"]
        worked = stopped(load)
    assert min(worked["notes"], worked["threads"]) > 0
    assert run(home, "agree") == "The stores agree.\n"  # what was written since stands in all of them
    assert set(outcome["kept"]) == set(PLACES)
    before = {name: digests(Path(place)) for name, place in outcome["kept"].items()}
    assert ended(started(home, "promote", "--undo", "latest"))[0] == 0
    assert {name: digests(home / PLACES[name]) for name in before} == before
    assert answer(home) == struck
    state = ended(started(home, "points"))[1][-1]["state"]
    assert (state["proven"] is not None, state["promoted"]) == (True, None)


def test_p6_what_befalls_live_while_a_point_is_judged_changes_no_verdict_and_what_befalls_the_copy_does(
    home: Path,
) -> None:
    """Isolation, both ways: live is broken under a running verification; then the copy is, and asked as it is."""
    code, point = ended(started(home, "capture"))
    assert code == 0, point
    judging = started(home, "verify", point["id"], "--into", "../copies")
    for incident in ("edited-prompt", "swapped-router", "swapped-embedder", "moved-memories", "lost-index"):
        run(home, "strike", incident)
    assert judging.poll() is None, "it was judged before all had befallen live"
    code, judged = ended(judging)
    assert (code, judged["verdict"]["judgement"]) == (0, 1), judged["verdict"]
    probe = {"ask": {"lock": QUESTION}, "components": {n: str(copied(home, n)) for n in PLACES}}
    told = json.loads(run(home, "answer", said=json.dumps(probe)))["answers"]["lock"]
    prompt = copied(home, "prompts") / "answer.md"
    prompt.write_text(prompt.read_text().replace("Never", "Always"))
    assert json.loads(run(home, "answer", said=json.dumps(probe)))["answers"]["lock"] != told
    refused = ended(started(home, "promote", "../copies", "--yes"))
    assert refused[0] == 20, refused  # P4: these are not the copies that were judged


def copied(home: Path, component: str) -> Path:
    """Where the copy of a component stands."""
    return home.parent / "copies" / component / Path(PLACES[component]).name
