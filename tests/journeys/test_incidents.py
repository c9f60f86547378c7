"""The incidents, each a real act on a copy of the helpdesk: what naive checks see of it, the verdict, and the level that caught it.
And what must not be called different: maintenance, moves, rebuilding, a writer that words everything otherwise each time.

The systems are built, captured, proven and approved by the real commands; copies are asked and judged as ``bench.proof`` does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.proof import gates
from bench.proof.cases import LEVELS, Outcome, run_alike, run_case
from bench.proof.changes import HELPDESK, Change, places_of
from bench.proof.report import lines, totals
from bench.proof.rounds import jobs_of, run_all
from bench.proof.warm import Warm
from bench.proof.world import WORDED, World, prepare
from examples.helpdesk.incidents import INCIDENTS, POISONED
from resurgam.restore.sandbox import isolation

pytest.importorskip("chromadb", reason="the extra helpdesk is not installed")
pytest.importorskip("langgraph.checkpoint.sqlite", reason="the extra helpdesk is not installed")
pytestmark = pytest.mark.skipif(not isolation().isolated, reason="no baseline without isolation")

SEED = 20261121
STRUCK: list[tuple[str, dict[str, Any], bool, str, str]] = [  # kind, with what, naive checks see it, level, a probe
    ("lost index", {}, True, "retrieval", "retrieval"),
    ("ransomware", {"component": "documents"}, True, "rows", "answers"),
    ("poisoned chunks", {"question": POISONED, "chunks": 5}, True, "rows", "retrieval"),
    ("edited prompt", {"component": "prompts", "name": "answer.md", "before": "Never", "after": "Always"},
     False, "answers", "answers"),
    ("rolled router", {"shift": 1}, False, "answers", "answers"),
    ("index of another embedder", {}, False, "retrieval", "retrieval"),
    ("missing vectors", {"share": 0.02}, False, "retrieval", "reach"),
    ("moved memories", {"source": 12, "target": 31}, False, "rows", "memories"),
    ("loosened tool", {"tool": "refund"}, False, "rows", "offer"),
]  # fmt: skip
KEPT: list[tuple[str, dict[str, Any]]] = [
    ("vacuum", {"component": "documents"}),
    ("vacuum", {"component": "agent"}),
    ("compaction", {}),
    ("re-ordered rows", {"seed": SEED}),
    ("rebuilt index", {"seed": SEED}),
    ("nothing", {}),  # but another path
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the systems are built, with this host's notes about them."""
    place = tmp_path_factory.mktemp("incidents")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_STATE_HOME", str(place / "state"))
        yield place


@pytest.fixture(scope="module")
def helpdesk(folder: Path) -> World:
    """A helpdesk with a proven, approved point."""
    return prepare(HELPDESK, str(folder))


@pytest.fixture(scope="module")
def warm(helpdesk: World) -> Iterator[Warm]:
    """One server for all commands of the probes."""
    with Warm(helpdesk.system.root) as runner:
        yield runner


@pytest.fixture
def strike(helpdesk: World, warm: Warm, tmp_path: Path) -> Callable[..., Outcome]:
    """Do something to a copy, and judge it."""

    def struck(kind: str, given: dict[str, Any], *, harmless: bool = False, captured: bool = False) -> Outcome:
        change = Change(HELPDESK, kind, given, harmless, captured)
        return run_case(helpdesk, change, warm, str(tmp_path / "a longer path" / "to a copy"))

    return struck


@pytest.mark.parametrize(("kind", "given", "noticed", "level", "probe"), STRUCK, ids=[one[0] for one in STRUCK])
def test_an_incident_is_found(
    strike: Callable[..., Outcome], kind: str, given: dict[str, Any], noticed: bool, level: str, probe: str
) -> None:
    """P4: counts and integrity checks see some; the verdict is *different* for all."""
    found = strike(kind, given)
    assert found.effect == "felt", found
    assert found.verdict == "different", found
    assert found.counts is noticed, found
    assert LEVELS[found.level] == level, found
    assert probe in found.caught, found


@pytest.mark.parametrize(
    ("kind", "given"), KEPT, ids=[f"{one[0]} {' '.join(map(str, one[1].values()))}" for one in KEPT]
)
def test_what_is_harmless_passes(strike: Callable[..., Outcome], kind: str, given: dict[str, Any]) -> None:
    """Bytes change, answers to what is asked do not. (Another graph may answer elsewhere otherwise: it approximates.)"""
    found = strike(kind, given, harmless=True)
    assert found.effect == "nothing" or (kind, found.effect) == ("rebuilt index", "elsewhere"), found
    assert found.verdict in ("identical", "equivalent"), found
    assert found.sums is (kind != "nothing"), found


def test_a_corrupt_system_that_was_captured_as_if_healthy_fails_by_the_reference_alone(
    helpdesk: World, folder: Path, tmp_path: Path
) -> None:
    """By the real commands: the live system is damaged, then captured. Counts, witness and copy agree, the reference does not."""
    home = Path(shutil.copytree(folder / HELPDESK, tmp_path / "copy")) / "live"
    for incident in ("edited-prompt", "moved-memories"):
        INCIDENTS[incident](str(home))
    assert resurgam(home, "capture").returncode == 0
    verified = resurgam(home, "verify", "latest", "--into", "../recovered", "--json")
    assert verified.returncode == 20, verified.stderr
    told = json.loads(verified.stdout)
    judged = {(part["name"], part["yardstick"]): part["judgement"] for part in told["verdict"]["parts"]}
    assert {by for name, by in judged} == {"witness", "reference"}
    assert {name for (name, by), judgement in judged.items() if judgement == 4} == {"answers", "memories"}
    assert all(judgement == 1 for (_, by), judgement in judged.items() if by == "witness")
    places = places_of(HELPDESK, str(home))
    recovered = {
        name: str(home.parent / "recovered" / name / os.path.basename(place)) for name, place in places.items()
    }
    assert not gates.counts_alarm(gates.look(places), gates.look(recovered))


def test_wording_that_is_never_the_same_passes_and_another_embedder_does_not(folder: Path, tmp_path: Path) -> None:
    """What is cited is exact; how it is said varies from run to run, and is judged as a distribution: an edited prompt moves it."""
    worded = prepare(WORDED, str(folder))
    said = [worded.yardsticks.baseline.runs[n] for n in (0, 1)] if worded.yardsticks.baseline else []
    texts = [[answer["text"] for o in run if o.probe == "answers" for answer in o.answers.values()] for run in said]
    assert len(texts[0]) >= 8  # a text comes again once in 192 times
    assert texts[0] != texts[1]
    with Warm(worded.system.root) as warm:
        for number in range(3):
            alike = run_alike(worded, warm, str(tmp_path / f"alike {number}"))
            assert alike.verdict == "equivalent", alike
        found = run_case(worded, Change(HELPDESK, "swapped embedder", {}, False), warm, str(tmp_path / "struck"))
        assert (found.effect, found.verdict) == ("felt", "different"), found
        given = {"component": "prompts", "name": "answer.md", "before": "You asked", "after": "Asked"}
        edited = run_case(worded, Change(HELPDESK, "edited prompt", given, False), warm, str(tmp_path / "edited"))
        assert (edited.effect, edited.verdict, edited.caught) == ("felt", "different", ("wording",)), edited


def test_a_seeded_slice_of_the_bench(helpdesk: World, tmp_path: Path) -> None:
    """``make bench-proof`` in small: what is felt is found, and nothing else is."""
    jobs = jobs_of({HELPDESK: helpdesk}, SEED, 14, 8, 6)
    found = run_all(jobs, str(tmp_path), 2, SEED)
    assert totals(found).felt >= 4
    assert totals(found).met, "\n".join(lines(found))


def resurgam(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A real command on the system in ``home``."""
    command = [sys.executable, "-m", "resurgam", *words]
    return subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=300, check=False)
