"""Hosted models, for a copy: replayed or refused, and never asked (P6). A real server stands for the provider's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from resurgam.capture.manifest import load_manifest
from resurgam.cli.main import command_line
from resurgam.errors import ManifestError
from resurgam.model.point import Observation, Witness
from resurgam.model.system import Budget, Component, Hosted, Json, System, VaultPlace
from resurgam.model.verdict import IsolationReport, Judgement, Verdict
from resurgam.probes.base import Runner
from resurgam.probes.recording import parted
from resurgam.probes.registry import probe_for
from resurgam.probes.replay import HostedRunner
from resurgam.probes.runner import LiveRunner
from resurgam.proof.judge import Yardsticks, judge
from resurgam.restore import sandbox
from resurgam.restore.sandbox import Sandbox

PROVIDER = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open("asked", "a") as file: file.write(str(self.headers["Authorization"]) + "\\n")
        said = json.dumps({"text": open("words").read() + body["prompt"]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Set-Cookie", "session=s3cret-cookie")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""
CLIENT = """
import json, os, sys, urllib.request
prompt = open(json.load(sys.stdin)["components"]["prompts"]).read()
answers = {}
for question in ("a", "b"):
    request = urllib.request.Request(os.environ["LLM"] + "/v1/chat?api_key=k3y", json.dumps({"prompt": prompt + question}).encode(),
        {"Authorization": "Bearer " + os.environ["KEY"], "Content-Type": "application/json"})
    try:
        answers[question] = json.load(urllib.request.urlopen(request))["text"]
    except urllib.error.HTTPError as error:
        answers[question] = error.code
print(json.dumps({"answers": answers}))
"""
PROBES = {
    "answers": {"kind": "command", "run": [sys.executable, "-I", "client.py"], "reads": ["prompts"], "witness": True,
                "env": {"LLM": "{hosted:llm}", "KEY": "${SECRET}"}},
    "canary": {"kind": "http", "url": "{hosted:llm}", "witness": True,
               "ask": {"who": {"method": "POST", "path": "/v1/chat", "json": {"prompt": "who?"}}}},
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SECRET", "correct-horse-battery")
    folder = tmp_path / "app"
    folder.mkdir()
    for name, text in {"provider.py": PROVIDER, "client.py": CLIENT, "prompt": "say ", "words": "I say: "}.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def provider(root: Path) -> Iterator[str]:
    argv = [sys.executable, "-I", "provider.py"]
    with subprocess.Popen(argv, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


def manifest(root: Path, provider: str, **hosted: Json) -> Path:
    file = root / "resurgam.yaml"
    system = {
        "resurgam": 1, "system": "s", "vault": {"path": "../vault", "keys": "../keys"},
        "components": {"prompts": {"driver": "files", "location": "prompt"}},
        "probes": PROBES, "hosted": {"llm": {"url": provider, "model": "m", **hosted}},
    }  # fmt: skip
    file.write_text(json.dumps(system))
    return file


def recorded(root: Path, provider: str, probe: str = "answers") -> Path:
    into = root / f"{probe}.jsonl"
    words = ["probes", "record", probe, "--hosted", "llm", "--into", str(into)]
    done = CliRunner().invoke(command_line(), [*words, "--manifest", str(manifest(root, provider))])
    assert done.exit_code == 0, done.output
    return into


def replaying(root: Path, provider: str, **more: Json) -> System:
    recorded(root, provider)
    return load_manifest(str(manifest(root, provider, mode="replay", recording={"file": "answers.jsonl"}, **more)))


def ask(system: System, runner: Runner, probe: str = "answers") -> Observation:
    spec = next(one for one in system.probes if one.name == probe)
    return probe_for(spec.kind).ask(spec, system, runner)


def copied(system: System, tmp_path: Path, prompt: str = "say ") -> System:
    folder = tmp_path / "restore"
    folder.mkdir()
    (folder / "prompt").write_text(prompt)
    return system.bound_to({"prompts": str(folder / "prompt")})


def judged(system: System, live: Observation, copy: Observation) -> Verdict:
    only = msgspec.structs.replace(
        system, probes=tuple(p for p in system.probes if p.name == copy.probe), components=()
    )
    yardsticks = Yardsticks(witness=Witness(before=(live,), after=(live,)))
    isolation = IsolationReport(isolated=True)
    return judge("p", only, ((copy,), (copy,)), yardsticks, isolation=isolation, first_proof=True, seconds=1)


def test_a_recording_holds_what_was_said_and_no_credential(root: Path, provider: str) -> None:
    """P12: neither the key that was sent, in header or address, nor the cookie that came back."""
    text = recorded(root, provider).read_text()
    assert (root / "asked").read_text() == "Bearer correct-horse-battery\n" * 2, "it was really asked"
    assert not any(word in text for word in ("correct-horse", "k3y", "s3cret", "Authorization"))
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["response"]["text"] for line in lines] == ["I say: say a", "I say: say b"]


def test_a_copy_is_answered_from_the_recording_and_the_verdict_says_so(
    root: Path, provider: str, tmp_path: Path
) -> None:
    """P6: the provider is not asked, though it is there and answers."""
    system = replaying(root, provider)
    live = ask(system, LiveRunner(system.root))
    before = (root / "asked").read_text()
    copies = copied(system, tmp_path)
    seen = ask(copies, HostedRunner(LiveRunner(system.root), copies))
    assert seen.error is None, seen.error
    assert seen.answers == live.answers == {"a": "I say: say a", "b": "I say: say b"}
    assert seen.by == {"hosted llm": "replayed: 2 requests"}
    assert (root / "asked").read_text() == before
    verdict = judged(system, live, seen)
    assert verdict.judgement is Judgement.IDENTICAL
    assert "hosted llm replayed: 2 requests" in verdict.parts[0].reason


@pytest.mark.skipif(not sandbox.available()[0], reason=f"no namespaces here: {sandbox.available()[1]}")
def test_behind_the_walls_the_same(root: Path, provider: str, tmp_path: Path) -> None:
    """P6: on the loopback of the sandbox's own network, with a reference in place of the live key."""
    system = replaying(root, provider)
    copies = copied(system, tmp_path)
    with Sandbox(str(tmp_path / "restore"), system) as box:
        seen = ask(copies, HostedRunner(box, copies))
        assert seen.error is None, seen.error
        assert seen.by == {"hosted llm": "replayed: 2 requests"}
        bare = ask(copies, box)  # nobody answers in its place: its name resolves nowhere
    assert bare.error is not None


def test_what_is_refused_makes_a_verdict_inconclusive_and_not_different(
    root: Path, provider: str, tmp_path: Path
) -> None:
    """P4: that the copy was not let ask says nothing about it."""
    system = load_manifest(str(manifest(root, provider)))
    live = ask(system, LiveRunner(system.root))
    copies = copied(system, tmp_path)
    seen = ask(copies, HostedRunner(LiveRunner(system.root), copies))
    assert not seen.asked
    assert "refused: 2 requests" in str(seen.error)
    assert judged(system, live, seen).judgement is Judgement.INCONCLUSIVE


def test_a_request_that_is_not_in_the_recording_never_passes(root: Path, provider: str, tmp_path: Path) -> None:
    """P4: an edited prompt asks otherwise; the first such request is named, its credential is not."""
    system = replaying(root, provider)
    live = ask(system, LiveRunner(system.root))
    copies = copied(system, tmp_path, prompt="shout ")
    seen = ask(copies, HostedRunner(LiveRunner(system.root), copies))
    assert "missing: 2 requests; first: POST /v1/chat?api_key=***" in str(seen.error)
    assert not judged(system, live, seen).judgement.passes


def test_a_canary_tells_that_the_hosted_model_has_changed(root: Path, provider: str, tmp_path: Path) -> None:
    """The live model answers otherwise than when it was recorded; the copy answers as recorded."""
    recorded(root, provider, "canary")
    system = load_manifest(str(manifest(root, provider, mode="replay", recording={"file": "canary.jsonl"})))
    copies = copied(system, tmp_path)
    copy = ask(copies, HostedRunner(LiveRunner(system.root), copies), "canary")
    assert copy.error is None, copy.error
    assert judged(system, ask(system, LiveRunner(system.root), "canary"), copy).judgement is Judgement.IDENTICAL
    (root / "words").write_text("I am another: ")
    assert judged(system, ask(system, LiveRunner(system.root), "canary"), copy).judgement is Judgement.DIFFERENT


def test_a_recording_keeps_to_its_budget(root: Path, provider: str) -> None:
    system = load_manifest(str(manifest(root, provider)))
    (hosted,) = system.hosted
    small = msgspec.structs.replace(system, hosted=(msgspec.structs.replace(hosted, budget=Budget(requests=1)),))
    asked = msgspec.structs.replace(small, hosted=(msgspec.structs.replace(hosted, url=hosted.stand_in),))
    seen = ask(asked, HostedRunner(LiveRunner(system.root), small, through=small.hosted, recording=True))
    assert "through the proxy: 1 request, " in str(seen.error)
    assert ", refused: 1 request" in str(seen.error)
    assert (root / "asked").read_text().count("\n") == 1


def test_what_a_command_does_wrong_is_told_as_without_a_hosted_model(root: Path, provider: str, tmp_path: Path) -> None:
    system = replaying(root, provider)
    copies = copied(system, tmp_path)
    runner = HostedRunner(LiveRunner(system.root), copies)
    place = {"LLM": copies.hosted[0].stand_in}

    def run(code: str, timeout: float = 20) -> Json:
        return runner.run([sys.executable, "-I", "-c", code], env=place, timeout=timeout)

    assert run("raise SystemExit(3)").code == 3
    assert run("import os; os.kill(os.getpid(), 9)").code == -9
    assert run("import time; time.sleep(60)", timeout=2).timed_out
    assert runner.run(["no-such-program"], env=place).code == 127
    assert run("print('x' * (17 << 20))").overflowed
    done = runner.run([sys.executable, "-I", "-c", "import sys; print(sys.stdin.read())"], env=place, input=b"given")
    assert (done.output, done.by) == (b"given\n", {"hosted llm": "not asked"})


def test_equal_requests_are_answered_each_in_its_turn(tmp_path: Path) -> None:
    line = {"method": "GET", "path": "/", "request": None, "status": 200, "type": "text/plain", "response": "one"}
    hosted = Hosted(name="llm", url="http://x", mode="replay", recording=[line, line | {"response": "two"}])
    component = Component(name="c", driver="files", location=str(tmp_path))
    system = System(
        name="s", vault=VaultPlace(path="v", keys="k"), components=(component,), hosted=(hosted,), apart=True
    )
    code = "import sys, urllib.request as u; print(*[u.urlopen(sys.argv[1] + '/').read().decode() for _ in 'abc'])"
    runner = HostedRunner(LiveRunner(str(tmp_path)), system)
    assert runner.run([sys.executable, "-I", "-c", code, hosted.stand_in]).output == b"one two two\n"


@pytest.mark.parametrize(
    "hosted",
    [{"mode": "replay"}, {"mode": "ask"}, {"recording": [1]}, {"url": "ftp://x"}, {"mode": "replay", "recording": []}],
)
def test_wrong_declarations_are_told_at_their_place(root: Path, hosted: dict[str, Json]) -> None:
    with pytest.raises(ManifestError, match=r"resurgam.yaml:1:\d+"):
        load_manifest(str(manifest(root, "http://127.0.0.1:1", **hosted)))


@pytest.mark.parametrize(
    ("recording", "got", "path"),
    [
        ({"a": [1, 2]}, {"a": [1, 2]}, None),
        ({"a": [1, 2]}, {"a": [1, 3]}, "$.a[1]"),
        ({"a": [1, 2]}, {"a": [1]}, "$.a"),
        ({"a b": 1}, {"a b": True}, '$["a b"]'),
        ("key=***; go", "key=abc; go", None),
        ("key=***; go", "key=abc; stop", "$"),
        ({"n": "***"}, {"n": 7}, None),
    ],
)
def test_where_two_values_part(recording: Json, got: Json, path: str | None) -> None:
    found = parted(recording, got)
    assert (found[0] if found else None) == path
