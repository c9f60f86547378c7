"""The whole way with probes that serve, time, date and talk to hosted models: capture, verify, judge, by the real command line."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from resurgam.cli.context import Context
from resurgam.model.verdict import Judgement
from resurgam.restore import sandbox
from resurgam.restore.verify import yardsticks_of
from tests.journeys.world import World

needs_isolation = pytest.mark.skipif(
    not sandbox.isolation().isolated, reason="this host has no namespaces to isolate in"
)

SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = open(sys.argv[1] + "/answer.txt", "rb").read()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
"""
MODEL = """
import json, os, sys, urllib.request
asked = json.load(sys.stdin)["ask"]
print(json.dumps({"answers": {q: urllib.request.urlopen(os.environ["LLM"] + "/" + q).read().decode() for q in asked}}))
"""
EXCHANGE = {"method": "GET", "path": "/x", "request": None, "status": 200, "type": "text/plain", "response": "said"}
PYTHON = json.dumps(sys.executable)
PROBES = f"""probes:
  web: {{kind: http, serve: [{PYTHON}, bin/server.py, "{{prompts}}", "{{port}}"], ask: {{prompt: /}},
        reads: [prompts], witness: true}}
  speed: {{kind: latency, of: web, repeat: 8, warm_up: 1, witness: true, tolerance: {{ratio: {{margin: 90, at: $.seconds}}}}}}
  fresh: {{kind: freshness, component: documents, witness: true, tolerance: {{range: [3600, 7200]}},
          sql: SELECT max(at) FROM clock}}
"""
HOSTED = f"""hosted:
  llm: {{url: "http://127.0.0.1:9", mode: replay, recording: {{file: llm.jsonl}}}}
probes:
  model: {{kind: command, run: [{PYTHON}, bin/model.py], ask: [x], reads: [prompts], env: {{LLM: "{{hosted:llm}}"}}}}
"""


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(os.fspath(tmp_path)).ready()
    made.system.write("bin/server.py", SERVER)
    made.system.write("bin/model.py", MODEL)
    made.system.write("llm.jsonl", json.dumps(EXCHANGE))
    return made


def parts(world: World, point: str) -> dict[str, dict[str, Any]]:
    found = world.run("verify", point, "--json")
    return {part["name"]: part for part in found.json["verdict"]["parts"]}


@needs_isolation
def test_p4_p6_a_copy_is_served_and_timed_in_the_sandbox_and_is_as_old_as_its_cut(world: World) -> None:
    """The counter-test: after the capture the live prompt changes; and the copy's age is that at the cut, to the microsecond."""
    changed = datetime.now(UTC) - timedelta(hours=1)
    with closing(sqlite3.connect(world.system.database)) as database, database:
        database.execute("CREATE TABLE clock (at TEXT)")
        database.execute("INSERT INTO clock VALUES (?)", (changed.isoformat(),))
    world.manifest(("probes:\n", PROBES))
    point = world.capture()
    world.system.write("prompts/answer.txt", "changed on live\n")
    judged = parts(world, point)
    for name in ("web", "speed", "fresh"):
        assert judged[name]["judgement"] in (Judgement.IDENTICAL, Judgement.EQUIVALENT), judged[name]

    context = Context(world.system.path("resurgam.yaml"))
    sealed = context.point(point)
    particulars = context.repository.particulars(sealed.body)
    baseline = yardsticks_of(context.repository, sealed, particulars).baseline
    assert baseline is not None
    ages = {seen.answers["age"] for run in baseline.runs for seen in run if seen.probe == "fresh"}
    assert ages == {(datetime.fromisoformat(particulars.cut.at) - changed).total_seconds()}


@needs_isolation
def test_p6_a_hosted_model_is_replayed_and_the_verdict_says_so(world: World) -> None:
    world.manifest(("probes:\n", HOSTED))
    judged = parts(world, world.capture())
    assert "no yardstick" in judged["model"]["reason"]  # nothing on live, and no reference yet
    assert "hosted llm replayed: 1 request" in judged["model"]["reason"]


PROVIDER = """
import http.server, json
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"said": self.path[1:], "to": self.headers["Authorization"]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""
PROXIED = f"""hosted:
  llm: {{url: "http://127.0.0.1:PORT", mode: proxy, allow: [GET /x], key: "${{LLM_KEY}}", budget: {{requests: LIMIT}}}}
probes:
  model: {{kind: command, run: [{PYTHON}, bin/model.py], ask: [x], reads: [prompts], env: {{LLM: "{{hosted:llm}}"}}, witness: true}}
"""


@pytest.fixture
def provider() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-I", "-c", PROVIDER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.kill()


@needs_isolation
def test_p6_a_hosted_model_is_asked_through_the_proxy_and_what_was_said_is_evidence(
    world: World, provider: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was kept is a recording: the same system can be judged by replay afterwards. The key stands nowhere."""
    monkeypatch.setenv("LLM_KEY", "correct-horse-battery")
    world.system.write("bin/model.py", MODEL.replace(".read().decode()", ".status"))
    declared = PROXIED.replace("PORT", str(provider)).replace("LIMIT", "2")
    world.manifest(("probes:\n", declared))
    point = world.capture()  # of the live system the witness is asked, by its own means
    judged = parts(world, point)["model"]
    assert judged["judgement"] == Judgement.IDENTICAL, judged
    assert "hosted llm through the proxy: 1 request, " in judged["reason"]
    said = world.run("report", point, "--hosted", "llm")
    (first, _) = [json.loads(line) for line in said.out.splitlines()]  # A/A: two rounds
    assert first == EXCHANGE | {"type": "application/json", "response": {"said": "x", "to": "Bearer ***"}}
    assert world.run("report", point, "--hosted", "lm").code == 4
    for folder, _, names in os.walk(world.home):
        for name in names:
            assert b"correct-horse" not in Path(folder, name).read_bytes(), name

    world.system.write("llm.jsonl", said.out)
    replayed = declared.replace("mode: proxy", "mode: replay, recording: {file: llm.jsonl}")
    world.manifest(("probes:\n", replayed))
    assert "hosted llm replayed: 1 request" in parts(world, world.capture())["model"]["reason"]


@needs_isolation
def test_p4_over_budget_or_not_let_through_here_is_inconclusive_with_the_reason(
    world: World, provider: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_KEY", "correct-horse-battery")
    declared = PROXIED.replace("PORT", str(provider))
    world.manifest(("probes:\n", declared.replace("LIMIT", "1")))
    world.system.write("bin/model.py", MODEL.replace(".read().decode()", ".status"))
    point = world.capture()
    judged = parts(world, point)["model"]
    assert judged["judgement"] == Judgement.INCONCLUSIVE
    assert "refused: 1 request; first: GET /x is beyond the budget" in judged["reason"]
    world.manifest(("probes:\n", declared.replace("LIMIT", "2")))
    judged = parts(world, point)["model"]
    assert judged["judgement"] == Judgement.IDENTICAL, "what came in vain has left no baseline"
    # P9: the point says proxy; this host's own manifest does not any more.
    world.manifest(("probes:\n", declared.replace("mode: proxy", "mode: refuse").replace("LIMIT", "1")))
    judged = parts(world, point)["model"]
    assert judged["judgement"] == Judgement.INCONCLUSIVE
    assert "only what this host's own manifest declares so" in judged["reason"]


def test_a_recording_uses_the_key_and_the_list_of_the_proxy(
    world: World, provider: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_KEY", "correct-horse-battery")
    declared = PROXIED.replace("PORT", str(provider)).replace("LIMIT", "9")
    world.manifest(("probes:\n", declared))
    into = world.path("said.jsonl")
    assert world.run("probes", "record", "model", "--hosted", "llm", "--into", into).code == 0
    (line,) = Path(into).read_text().splitlines()
    assert json.loads(line)["response"] == {"said": "x", "to": "Bearer ***"}
    world.manifest(("probes:\n", declared.replace("GET /x", "GET /y")))
    refused = world.run("probes", "record", "model", "--hosted", "llm", "--into", into, "--replace")
    assert refused.code == 1
    assert "GET /x is not allowed" in refused.err
