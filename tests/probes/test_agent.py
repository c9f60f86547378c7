"""The probe ``agent``: a real application process holds its conversation again, and no tool is ever run."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from resurgam.capture.manifest import load_manifest
from resurgam.cli.main import command_line
from resurgam.errors import ManifestError
from resurgam.model.point import Observation
from resurgam.model.system import Component, Json, Probe, System, VaultPlace
from resurgam.probes.agent import AgentProbe
from resurgam.probes.runner import LiveRunner
from resurgam.restore import sandbox
from resurgam.restore.sandbox import Sandbox

# Its behaviour is data, so that a test can change it as an edited prompt would: at which words it calls what.
APPLICATION = """
import json, os, sys
rules = json.load(open(sys.argv[1]))
assert "rules" in json.loads(os.environ["RESURGAM_COMPONENTS"])
def say(**message): print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
number = 0
for line in sys.stdin:
    asked = json.loads(line)
    results = []
    for name, arguments in rules[asked["params"]["user"]]:
        if name == "die": sys.exit(3)
        number += 1
        say(id=number, method="tools/call", params={"name": name, "arguments": arguments})
        results.append(json.loads(sys.stdin.readline()).get("result"))
    say(id=asked["id"], result={"text": "done", "results": results})
"""
TOOLS = """
import json, os, sys
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked: continue
    if asked["method"] == "initialize": result = {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {}}
    elif asked["method"] == "tools/list": result = {"tools": [{"name": "refund"}, {"name": "lookup"}]}
    else:
        with open("ledger", "a") as file: file.write(asked["params"]["name"] + "\\n")
        result = {"content": [{"type": "text", "text": "ok for " + os.environ.get("API_KEY", "nobody")}]}
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
"""
REFUND = ["refund", {"customer": 7, "lines": [{"amount": 5}, {"amount": 6}]}]
LOOKUP = ["lookup", {"customer": 7}]
RULES = {"my money back": [LOOKUP, REFUND], "thank you": []}
SCRIPT = {"refund": ["my money back", "thank you"]}
RUN = (sys.executable, "-I", "application.py", "{rules}")
TOOLS_RUN = (sys.executable, "-I", "tools.py")


@pytest.fixture
def live(tmp_path: Path) -> System:
    root = tmp_path / "app"
    root.mkdir()
    (root / "application.py").write_text(APPLICATION)
    (root / "tools.py").write_text(TOOLS)
    (root / "rules.json").write_text(json.dumps(RULES))
    component = Component(name="rules", driver="files", location=str(root / "rules.json"))
    vault = VaultPlace(path=str(tmp_path / "vault"), keys=str(tmp_path / "keys"))
    return System(name="s", vault=vault, components=(component,), root=str(root))


def spec(ask: Json, **more: Json) -> Probe:
    fields: dict[str, Json] = {"tools": TOOLS_RUN, "timeout": 30.0} | more
    return Probe(name="refund", kind="agent", run=RUN, ask=ask, **fields)


def recording(live: System) -> list[Json]:
    seen = AgentProbe().record(spec(SCRIPT), live, LiveRunner(live.root))
    assert seen.error is None, seen.error
    lines: list[Json] = seen.answers["recorded"]
    return lines


def played(live: System, lines: list[Json], rules: Json = None) -> Observation:
    if rules is not None:
        Path(live.component("rules").location).write_text(json.dumps(RULES | rules))
    return AgentProbe().ask(spec(lines), live, LiveRunner(live.root))


def test_a_recorded_conversation_is_held_again_without_running_a_tool(live: System) -> None:
    """P6: the ledger of what the tools did grows while recording and never afterwards."""
    lines = recording(live)
    ledger = Path(live.root, "ledger")
    assert ledger.read_text() == "lookup\nrefund\n"
    assert lines[0] == {"tools": [{"name": "refund"}, {"name": "lookup"}]}
    assert [call["name"] for call in lines[1]["calls"]] == ["lookup", "refund"]
    seen = played(live, lines)
    assert seen.error is None, seen.error
    assert [(case, answer["steps"], answer["diverges"]) for case, answer in seen.answers.items()] == [
        ("refund 1", 2, None),
        ("refund 2", 0, None),
    ]
    assert seen.answers["refund 1"]["answer"] == lines[1]["answer"]
    assert ledger.read_text() == "lookup\nrefund\n"


@pytest.mark.parametrize(
    ("calls", "diverges"),
    [
        ([["delete", {}], REFUND], {"step": 1, "by": "name", "expected": "lookup", "got": "delete"}),
        ([REFUND, LOOKUP], {"step": 1, "by": "order", "expected": "lookup", "got": "refund"}),
        ([LOOKUP], {"step": 2, "by": "missing", "expected": "refund", "got": None}),
        ([LOOKUP, REFUND, REFUND], {"step": 3, "by": "extra", "expected": None, "got": "refund"}),
        (
            [LOOKUP, ["refund", {"customer": 7, "lines": [{"amount": 5}, {"amount": 600}]}]],
            {"step": 2, "by": "arguments", "tool": "refund", "path": "$.lines[1].amount", "expected": 6, "got": 600},
        ),
        (
            [["lookup", {"customer": 7, "all": True}]],
            {"step": 1, "by": "arguments", "tool": "lookup", "path": "$.all", "expected": None, "got": True},
        ),
    ],
    ids=["name", "order", "missing", "extra", "arguments", "an argument more"],
)
def test_the_first_diverging_step_is_told(live: System, calls: Json, diverges: Json) -> None:
    """P6: and the tool that was called otherwise is not run."""
    lines = recording(live)
    before = Path(live.root, "ledger").read_text()
    seen = played(live, lines, {"my money back": calls})
    assert seen.error is None, seen.error
    assert seen.answers["refund 1"]["diverges"] == diverges
    assert seen.answers["refund 2"] == {"reached": False}
    assert Path(live.root, "ledger").read_text() == before


def test_a_masked_secret_of_the_recording_stands_for_any_text(live: System) -> None:
    lines = recording(live)
    lines[1]["calls"][0]["arguments"] = {"customer": "***"}
    lines[1]["calls"][1]["arguments"]["lines"][0] = {"amount": "***"}
    assert played(live, lines).answers["refund 1"]["diverges"] is None


@pytest.mark.skipif(not sandbox.available()[0], reason=f"no namespaces here: {sandbox.available()[1]}")
def test_a_copy_holds_its_conversation_inside_the_sandbox(live: System, tmp_path: Path) -> None:
    """P6: the copy's rules are what differs, and the live ledger stays as it was."""
    lines = recording(live)
    copies = tmp_path / "restore"
    copies.mkdir()
    (copies / "rules.json").write_text(json.dumps(RULES | {"my money back": [REFUND]}))
    bound = live.bound_to({"rules": str(copies / "rules.json")})
    with Sandbox(str(copies), live) as box:
        seen = AgentProbe().ask(spec(lines), bound, box)
    assert seen.error is None, seen.error
    assert seen.answers["refund 1"]["diverges"]["by"] == "order"
    assert Path(live.root, "ledger").read_text() == "lookup\nrefund\n"
    with pytest.raises(ManifestError):  # P6: a copy's tools are never run
        AgentProbe().record(spec(SCRIPT), bound, LiveRunner(live.root))


def test_what_is_not_recorded_yet_is_not_asked(live: System) -> None:
    seen = AgentProbe().ask(spec(SCRIPT), live, LiveRunner(live.root))
    assert not seen.asked
    assert not Path(live.root, "ledger").exists()


def test_an_application_that_dies_or_talks_otherwise_is_an_error(live: System) -> None:
    lines = recording(live)
    assert "exit code 3" in str(played(live, lines, {"my money back": [["die", {}]]}).error)
    Path(live.root, "application.py").write_text("print('hello')")
    assert "no message" in str(played(live, lines).error)


@pytest.mark.parametrize("wrong", [{"run": ()}, {"ask": None}, {"ask": {}}, {"ask": [{}]}, {"ask": {"a": [1]}}])
def test_wrong_questions_are_refused(live: System, wrong: dict[str, Json]) -> None:
    with pytest.raises(ManifestError):
        AgentProbe().check(msgspec.structs.replace(spec(SCRIPT), **wrong), live)


def test_the_verb_records_what_the_manifest_then_asks_and_no_secret(
    live: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P12: what the tools said holds a secret of the environment, the recording does not."""
    monkeypatch.setenv("SECRET", "correct-horse-battery")
    manifest: dict[str, Json] = {
        "resurgam": 1, "system": "s", "vault": {"path": "../vault", "keys": "../keys"},
        "components": {"rules": {"driver": "files", "location": "rules.json"}},
        "probes": {"refund": {"kind": "agent", "run": list(RUN), "tools": list(TOOLS_RUN), "reads": ["rules"],
                              "ask": SCRIPT, "env": {"API_KEY": "${SECRET}"}}},
    }  # fmt: skip
    file, into = Path(live.root, "resurgam.yaml"), Path(live.root, "refund.jsonl")
    file.write_text(json.dumps(manifest))
    words = ["probes", "record", "refund", "--into", str(into), "--manifest", str(file)]
    done = CliRunner().invoke(command_line(), words)
    assert done.exit_code == 0, done.output
    assert "correct-horse-battery" not in into.read_text()
    assert "ok for ***" in into.read_text()
    assert os.stat(into).st_mode & 0o777 == 0o600
    assert CliRunner().invoke(command_line(), words).exit_code != 0, "it is there already"
    manifest["probes"]["refund"]["ask"] = {"file": "refund.jsonl"}
    file.write_text(json.dumps(manifest))
    system = load_manifest(str(file))
    seen = AgentProbe().ask(system.probes[0], system, LiveRunner(system.root))
    assert seen.error is None, seen.error
    assert seen.answers["refund 1"]["diverges"] is None
