"""The whole way with probes that serve, time, date and talk to hosted models: capture, verify, judge, by the real command line."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
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
