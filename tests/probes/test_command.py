"""The probe ``command``: real programs, and everything that a program can do wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from resurgam.errors import ManifestError
from resurgam.model.codec import from_json, to_json
from resurgam.model.point import Observation
from resurgam.model.system import Component, Json, Probe, System, VaultPlace
from resurgam.probes.answers import read_answers
from resurgam.probes.command import CommandProbe
from resurgam.probes.runner import LiveRunner


def ask(
    tmp_path: Path,
    code: str,
    *arguments: str,
    question: Json = None,
    env: dict[str, str] | None = None,
    timeout: float = 20,
) -> Observation:
    """Ask a Python program that is written for the occasion."""
    (tmp_path / "program.py").write_text(code)
    run = (sys.executable, "-I", "program.py", *arguments)
    spec = Probe(name="golden", kind="command", run=run, ask=question, env=env or {}, timeout=timeout)
    return CommandProbe().ask(spec, system(tmp_path), LiveRunner(str(tmp_path)))


def system(root: Path) -> System:
    components = tuple(Component(name=name, driver="files", location=str(root / name)) for name in ("docs", "router"))
    return System(name="s", vault=VaultPlace(path="v", keys="k"), components=components, root=str(root))


def test_the_program_gets_question_and_places(tmp_path: Path) -> None:
    code = (
        "import json, os, sys\n"
        "given = json.load(sys.stdin)\n"
        "same = given['components'] == json.loads(os.environ['RESURGAM_COMPONENTS'])\n"
        "print(json.dumps({'answers': {'given': given, 'argv': sys.argv[1:], 'same': same, 'at': os.environ['AT']}}))\n"
    )
    seen = ask(tmp_path, code, "--db={docs}", "{{x}}", "{{{router}}}", question={"q": [1]}, env={"AT": "{docs}"})
    places = {"docs": str(tmp_path / "docs"), "router": str(tmp_path / "router")}
    assert seen.error is None
    assert seen.answers == {
        "given": {"ask": {"q": [1]}, "components": places},
        "argv": [f"--db={places['docs']}", "{x}", "{" + places["router"] + "}"],
        "same": True,
        "at": places["docs"],
    }
    assert seen.seconds > 0


WRONG = {
    "crash": ("raise SystemExit('no such model')", ["exit code 1", "no such model"]),
    "signal": ("import os; os.kill(os.getpid(), 11)", ["signal 11"]),
    "silence": ("", ["nothing was printed"]),
    "rubbish": ("print('hello')", ["not one JSON object"]),
    "twice": ("print('{\"answers\": {}}' * 2)", ["not one JSON object"]),
    "duplicate name": ('print(\'{"answers": {"a": 1, "a": 2}}\')', ["'a' stands twice"]),
    "list": ("print('[]')", ["expected an object"]),
    "answers are a list": ("print('{\"answers\": []}')", ["expected an object"]),
    "not UTF-8": ('import os; os.write(1, b\'{"answers": {"a": "\\xff"}}\')', ["not UTF-8 at byte 19"]),
    "surrogate": ('print(\'{"answers": {"a": "\\\\ud800"}}\')', ["unpaired surrogate"]),
    "deep": ("print('{\"answers\": ' + '[' * 100000)", ["nested deeper than 64"]),
    "rather deep": ("print('{\"answers\": {\"a\": ' + '[' * 70 + ']' * 70 + '}}')", ["nested deeper than 64"]),
    "huge integer": ("print('{\"answers\": {\"a\": ' + '9' * 40 + '}}')", ["more than 64 bits"]),
    "endless": ("while True: print('x' * 65536)", ["more than 16 MiB"]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_goes_wrong_is_an_observation(tmp_path: Path, wrong: str) -> None:
    """P12: a probe that crashes or prints rubbish says what happened, and raises nothing."""
    code, words = WRONG[wrong]
    seen = ask(tmp_path, code)
    assert seen.answers == {}
    assert seen.error is not None
    for word in words:
        assert word in seen.error


def test_a_hang_is_an_observation(tmp_path: Path) -> None:
    seen = ask(
        tmp_path, "import sys, time; print('loading', file=sys.stderr, flush=True); time.sleep(600)", timeout=5.0
    )
    assert seen.error is not None
    assert "did not end within 5 s" in seen.error
    assert "loading" in seen.error


def test_last_words_are_few_and_harmless(tmp_path: Path) -> None:
    code = (
        "import sys\nfor i in range(50): print(f'line {i}', file=sys.stderr)\nsys.exit('\\x1b[2Jcleared ' + 'x' * 5000)"
    )
    error = ask(tmp_path, code).error
    assert error is not None
    assert "line 49" in error
    assert "line 40" not in error
    assert "\x1b" not in error
    assert len(error) < 1000


def test_numbers_beyond_json_are_read_as_words_and_survive_the_codec() -> None:
    answers = read_answers(
        b'{"answers": {"a": [NaN, Infinity, -Infinity, 1e999, -0.0, 1.0, 1, 18446744073709551615]}, "more": 1}'
    )
    assert answers == {"a": ["NaN", "Infinity", "-Infinity", "Infinity", -0.0, 1.0, 1, 2**64 - 1]}
    stored = from_json(to_json(Observation(probe="p", answers=answers)), Observation, what="it")
    assert json.dumps(stored.answers) == json.dumps(answers)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (Probe(name="p", kind="command"), ["`run` is empty"]),
        (Probe(name="p", kind="command", run=("x", "{dosc}")), ["'{dosc}' names no component", "'docs'"]),
        (Probe(name="p", kind="command", run=("x", "a{b")), ["lone brace", "Double"]),
        (Probe(name="p", kind="command", run=("x",), env={"A": "}"}), ["lone brace"]),
        (Probe(name="p", kind="command", run=("x",), sql="SELECT 1"), ["`sql` belongs"]),
    ],
)
def test_a_wrong_question_is_the_manifests_fault(tmp_path: Path, spec: Probe, words: list[str]) -> None:
    with pytest.raises(ManifestError) as caught:
        CommandProbe().check(spec, system(tmp_path))
    for word in words:
        assert word in str(caught.value)


def test_a_reference_is_left_to_the_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P6: only the live system's runner looks a secret up."""
    monkeypatch.setenv("LIVE_TOKEN", "abc")
    code = "import json, os; print(json.dumps({'answers': {'length': len(os.environ['TOKEN'])}}))"
    assert ask(tmp_path, code, env={"TOKEN": "${LIVE_TOKEN}"}).answers == {"length": 3}
