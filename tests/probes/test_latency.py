"""The probe ``latency``: times of real questions, told with their spread and what they were measured on."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from resurgam.drivers.registry import answers
from resurgam.errors import ManifestError
from resurgam.model.point import Witness
from resurgam.model.system import Component, Json, Probe, System, VaultPlace
from resurgam.model.verdict import IsolationReport, Judgement
from resurgam.probes.latency import WHOLE
from resurgam.probes.registry import check_probe, probe_for
from resurgam.probes.runner import LiveRunner
from resurgam.proof.judge import Yardsticks, judge

COUNTS = """
import json, sys, time
with open("asked", "a") as file: file.write("x")
time.sleep(float(sys.argv[1]))
print(json.dumps({"answers": {"a": 1}}))
"""
SERVER = """
import http.server, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep(0.05 if self.path == "/slow" else 0)
        with open("asked", "a") as file: file.write("x" if self.path == "/slow" else "")
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
RATIO = {"ratio": {"margin": 3, "at": "$.seconds"}}


def system(root: Path, seconds: str = "0", **more: Json) -> System:
    (root / "counts.py").write_text(COUNTS)
    (root / "server.py").write_text(SERVER)
    fields: dict[str, Json] = {"of": "golden", "repeat": 5, "warm_up": 2, "tolerance": RATIO} | more
    probes = (
        Probe(name="golden", kind="command", run=(sys.executable, "-I", "-S", "counts.py", seconds)),
        Probe(name="web", kind="http", serve=(sys.executable, "-I", "-S", "server.py", "{port}"),
              ask={"slow": "/slow", "fast": "/fast"}),
        Probe(name="speed", kind="latency", **fields),
    )  # fmt: skip
    component = Component(name="documents", driver="files", location=str(root / "documents"))
    return System(
        name="s", vault=VaultPlace(path="v", keys="k"), components=(component,), probes=probes, root=str(root)
    )


def ask(system: System) -> Json:
    spec = system.probes[-1]
    check_probe(spec, system, answers)
    return probe_for("latency").ask(spec, system, LiveRunner(system.root))


def test_a_whole_question_is_asked_so_often_and_warmed_up(tmp_path: Path) -> None:
    seen = ask(system(tmp_path, "0.02"))
    assert seen.error is None
    assert (tmp_path / "asked").read_text() == "x" * 7
    answer = seen.answers[WHOLE]
    assert len(answer["seconds"]) == 5
    assert answer["seconds"] == sorted(answer["seconds"])
    assert 0.02 < answer["p50"] == answer["seconds"][2]
    assert answer["worst"] == answer["seconds"][-1]
    assert seen.by["warm-up"] == "2"
    assert {"machine", "processor", "processors", "load"} <= seen.by.keys()


def test_requests_are_timed_one_by_one_on_a_warm_server(tmp_path: Path) -> None:
    seen = ask(system(tmp_path, of="web"))
    assert seen.error is None, seen.error
    assert (tmp_path / "asked").read_text() == "x" * 7
    assert seen.answers["slow"]["p50"] >= 0.05
    assert seen.answers["fast"]["p50"] < seen.answers["slow"]["p50"]


def test_what_cannot_answer_has_no_times(tmp_path: Path) -> None:
    assert "exit code 1" in ask(system(tmp_path, "no number")).error


def test_times_are_judged_by_their_ratio(tmp_path: Path) -> None:
    """A slower copy is different, one as fast equivalent; nothing is judged exactly."""
    pytest.importorskip("scipy")
    live = msgspec.structs.replace(ask(system(tmp_path, "0.05", repeat=12)), seconds=1.0)
    spec = msgspec.structs.replace(system(tmp_path, "0.05", repeat=12).probes[-1], witness=True)
    asked = msgspec.structs.replace(system(tmp_path), probes=(spec,), components=())

    def judged(factor: float) -> Judgement:
        answers = {WHOLE: {"seconds": [s * factor for s in live.answers[WHOLE]["seconds"]]}}
        copy = msgspec.structs.replace(live, answers=answers)
        yardsticks = Yardsticks(witness=Witness(before=(live,), after=(live,)))
        isolation = IsolationReport(isolated=True)
        runs = ((copy,), (copy,))
        return judge("p", asked, runs, yardsticks, isolation=isolation, first_proof=True, seconds=1).judgement

    assert judged(1.01) is Judgement.EQUIVALENT
    assert judged(9) is Judgement.DIFFERENT


@pytest.mark.parametrize(
    "wrong", [{"of": "nothing"}, {"of": "speed"}, {"tolerance": "exact"}, {"reads": ("documents",)}, {"repeat": 0}]
)
def test_wrong_questions_are_refused(tmp_path: Path, wrong: dict[str, Json]) -> None:
    """P4, among them: a probe of speed does not count as one that reads a component."""
    with pytest.raises(ManifestError):
        ask(system(tmp_path, **wrong))
