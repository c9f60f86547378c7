"""The probe ``http``: a real server in a process of its own, on the live host and behind the sandbox's walls."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from resurgam.errors import ManifestError
from resurgam.model.point import Observation
from resurgam.model.system import Component, Json, Probe, System, VaultPlace
from resurgam.probes.http import HttpProbe
from resurgam.probes.runner import LiveRunner
from resurgam.restore import sandbox
from resurgam.restore.sandbox import Sandbox

isolated = pytest.mark.skipif(not sandbox.available()[0], reason=f"no namespaces here: {sandbox.available()[1]}")

SERVER = """
import http.server, json, os, subprocess, sys, threading
said = open(sys.argv[1]).read()
if os.environ.get("CHILD"):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open(os.environ["CHILD"], "w").write(str(child.pid))
class Handler(http.server.BaseHTTPRequestHandler):
    tries = 0
    def do_GET(self):
        Handler.tries += 1
        if self.path == "/slow-start" and Handler.tries < 4:
            return self.say(503, b"", "text/plain")
        if self.path == "/secret":
            return self.say(200, json.dumps([self.headers["Authorization"], os.environ.get("TOKEN")]).encode())
        if self.path == "/bytes":
            return self.say(200, b"\\xff\\x00", "application/octet-stream")
        if self.path == "/hangs" and Handler.tries > 1:
            threading.Event().wait()
        if self.path == "/huge":
            return self.say(200, b"x" * (17 << 20), "text/plain")
        self.say(200 if self.path in ("/", "/slow-start") else 404, json.dumps({"said": said, "path": self.path}).encode())
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.say(201, json.dumps({"echo": json.loads(body), "said": said}).encode())
    def say(self, status, body, kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("X-Version", "7")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""
SERVE = (sys.executable, "-I", "server.py", "{documents}", "{port}")


@pytest.fixture
def live(tmp_path: Path) -> System:
    root = tmp_path / "app"
    root.mkdir()
    (root / "server.py").write_text(SERVER)
    (root / "documents").write_text("live")
    component = Component(name="documents", driver="files", location=str(root / "documents"))
    vault = VaultPlace(path=str(tmp_path / "vault"), keys=str(tmp_path / "keys"))
    return System(name="s", vault=vault, components=(component,), root=str(root))


@pytest.fixture
def running(live: System) -> Iterator[str]:
    """The address of the system's server, running already."""
    argv = [sys.executable, "-I", "server.py", live.component("documents").location, "0"]
    with subprocess.Popen(argv, cwd=live.root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


def spec(ask: Json, **more: Json) -> Probe:
    fields: dict[str, Json] = {"serve": SERVE, "timeout": 30.0} | more
    return Probe(name="web", kind="http", ask=ask, **fields)


def ask(system: System, probe: Probe) -> Observation:
    return HttpProbe().ask(probe, system, LiveRunner(system.root))


def copied(live: System, tmp_path: Path) -> tuple[Path, System]:
    copies = tmp_path / "restore"
    copies.mkdir()
    (copies / "documents").write_text("copy")
    return copies, live.bound_to({"documents": str(copies / "documents")})


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_server_is_started_asked_and_stopped_with_its_children(live: System, tmp_path: Path) -> None:
    mark = tmp_path / "child"
    asked = {
        "root": "/",
        "missing": {"path": "/none", "show": ["X-Version", "X-None"]},
        "post": {"method": "POST", "path": "/ask", "json": {"question": "é"}},
        "bytes": "/bytes",
    }
    seen = ask(live, spec(asked, ready="/", env={"CHILD": str(mark)}))
    assert seen.error is None, seen.error
    assert seen.answers["root"] == {"status": 200, "json": {"said": "live", "path": "/"}}
    assert seen.answers["missing"]["headers"] == {"x-version": "7", "x-none": None}
    assert seen.answers["missing"]["status"] == 404
    assert seen.answers["post"] == {"status": 201, "json": {"echo": {"question": "é"}, "said": "live"}}
    assert seen.answers["bytes"]["bytes"]["size"] == 2
    until = time.monotonic() + 10
    while alive(int(mark.read_text())) and time.monotonic() < until:
        time.sleep(0.02)
    assert not alive(int(mark.read_text()))


def test_it_waits_until_the_server_says_that_it_is_ready(live: System) -> None:
    assert ask(live, spec({"root": "/"}, ready="/slow-start")).error is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"serve": (sys.executable, "-c", "raise SystemExit('no model')")}, ["exit code 1 before", "no model"]),
        ({"serve": ("no-such-program",)}, ["cannot be run"]),
        ({"ready": "/none", "timeout": 8.0}, ["not ready in time", "status 404"]),
        ({"ready": "/hangs", "timeout": 8.0}, ["not ready in time", "status 404"]),
        ({"ask": {"huge": "/huge"}}, ["more than 16 MiB"]),
    ],
)
def test_what_a_server_does_wrong_is_an_error_and_no_exception(
    live: System, change: dict[str, Json], words: list[str]
) -> None:
    seen = ask(live, msgspec.structs.replace(spec({"root": "/"}), **change))
    assert seen.error is not None
    assert seen.asked
    assert all(word in seen.error for word in words), seen.error


def test_on_live_the_running_server_is_asked(live: System, running: str) -> None:
    seen = ask(live, spec({"root": "/"}, url=running, serve=("no-such-program",)))
    assert seen.answers["root"]["json"]["said"] == "live"


@isolated
def test_a_copy_is_served_inside_the_sandbox_and_never_asked_at_the_live_address(
    live: System, running: str, tmp_path: Path
) -> None:
    """P6: counter-test with the live server running and answering beside it."""
    folder, copies = copied(live, tmp_path)
    with Sandbox(str(folder), live) as box:
        seen = HttpProbe().ask(spec({"root": "/"}, url=running), copies, box)
        assert seen.error is None, seen.error
        assert seen.answers["root"]["json"]["said"] == "copy"
        only_live = HttpProbe().ask(spec({"root": "/"}, url=running, serve=()), copies, box)
        assert only_live.error is not None
        assert not only_live.asked


def test_a_copy_that_is_not_isolated_is_not_asked_at_the_live_address_either(
    live: System, running: str, tmp_path: Path
) -> None:
    """P6: not even where the manifest accepts missing walls."""
    _, copies = copied(live, tmp_path)
    assert ask(copies, spec({"root": "/"}, url=running)).answers["root"]["json"]["said"] == "copy"


def test_a_secret_header_is_sent_on_live_only_and_not_given_to_the_server(
    live: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P6: in the sandbox a reference to a secret stays one."""
    monkeypatch.setenv("TOKEN", "hunter2")
    probe = spec({"s": {"path": "/secret", "headers": {"Authorization": "${TOKEN}"}}})
    assert ask(live, probe).answers["s"]["json"] == ["hunter2", None]
    if sandbox.available()[0]:
        folder, copies = copied(live, tmp_path)
        with Sandbox(str(folder), live) as box:
            assert HttpProbe().ask(probe, copies, box).answers["s"]["json"] == ["${TOKEN}", None]


@pytest.mark.parametrize(
    "wrong",
    [
        {"serve": ()},
        {"serve": (), "url": "ftp://x"},
        {"serve": (), "url": "http://user:secret@x"},
        {"serve": (), "url": "http://x", "ready": "/"},
        {"serve": ("{nothing}",)},
        {"ask": {}},
        {"ask": {"a": "no slash"}},
        {"ask": {"a": "/with blank"}},
        {"ask": {"a": {"path": "/", "method": "get"}}},
        {"ask": {"a": {"path": "/", "json": 1, "text": "both"}}},
        {"ask": {"a": {"path": "/", "headers": {"X": "two\r\nlines"}}}},
        {"ask": {"a": {"path": "/", "unknown": 1}}},
    ],
)
def test_wrong_questions_are_refused_before_anything_runs(live: System, wrong: dict[str, Json]) -> None:
    with pytest.raises(ManifestError) as caught:
        HttpProbe().check(msgspec.structs.replace(spec({"root": "/"}), **wrong), live)
    assert caught.value.next_step
    assert re.match(r"Probe web", caught.value.message)
