"""All probes run, whatever happens to each."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from resurgam.drivers.registry import answers
from resurgam.errors import Denied, ManifestError
from resurgam.model.point import Observation
from resurgam.model.system import Component, Probe, System, VaultPlace
from resurgam.probes import registry
from resurgam.probes.base import Completed, Runner
from resurgam.probes.registry import check_probe, kinds, probe_for
from resurgam.probes.runner import LiveRunner
from resurgam.proof.observe import observe, observe_repeatedly, observe_witness

COUNTING = "import json; n = open('n', 'a'); n.write('x'); n.close(); print(json.dumps({'answers': {'n': len(open('n').read())}}))"


@pytest.fixture
def system(tmp_path: Path) -> System:
    with closing(sqlite3.connect(tmp_path / "d.db")) as connection:
        connection.execute("CREATE TABLE t AS SELECT 7 AS a")
        connection.commit()
    probes = (
        Probe(name="crashing", kind="command", run=(sys.executable, "-c", "raise SystemExit(1)"), witness=True),
        Probe(name="unknown", kind="sqll", witness=True),
        Probe(name="misplaced", kind="command", run=("x", "{nowhere}")),
        Probe(
            name="counting",
            kind="command",
            run=(sys.executable, "-I", "-c", COUNTING.replace("{", "{{").replace("}", "}}")),
        ),
        Probe(name="rows", kind="sql", component="d", sql="SELECT a FROM t", witness=True),
    )
    component = Component(name="d", driver="sqlite", location=str(tmp_path / "d.db"))
    return System(
        name="s", vault=VaultPlace(path="v", keys="k"), components=(component,), probes=probes, root=str(tmp_path)
    )


def test_no_probe_stops_the_others(system: System) -> None:
    """P4: all probes run; what could not be asked is an observation with an error."""
    seen = observe(system, system.probes, LiveRunner(system.root))
    assert [o.probe for o in seen] == ["crashing", "unknown", "misplaced", "counting", "rows"]
    assert [o.error is None for o in seen] == [False, False, False, True, True]
    assert [o.asked for o in seen] == [True, False, False, True, True]
    assert "Did you mean 'sql'?" in (seen[1].error or "")
    assert seen[4].answers == {"rows": [[7]]}


def test_the_witness_asks_only_witness_probes(system: System) -> None:
    seen = observe_witness(system, LiveRunner(system.root))
    assert [o.probe for o in seen] == ["crashing", "unknown", "rows"]


def test_rounds_follow_one_another(system: System) -> None:
    """A/A: a probe that changes what it asks is seen by the next round."""
    rounds = observe_repeatedly(system, system.probes[3:], LiveRunner(system.root), repeats=2)
    assert [[o.answers for o in seen] for seen in rounds] == [[{"n": 1}, {"rows": [[7]]}], [{"n": 2}, {"rows": [[7]]}]]


def test_a_runner_that_is_refused_is_an_observation(system: System) -> None:
    class Refusing:
        def run(
            self,
            argv: Sequence[str],
            *,
            input: bytes = b"",
            env: Mapping[str, str] | None = None,
            timeout: float = 60.0,
            inherit: Sequence[int] = (),
        ) -> Completed:
            raise Denied("no namespaces here.")

    seen = observe(system, system.probes[3:], Refusing())
    assert [("no namespaces here" in (o.error or ""), o.asked) for o in seen] == [(True, False)] * 2


def test_kinds_of_probe(system: System) -> None:
    assert {"command", "predict", "retrieval", "sql"} <= set(kinds())
    assert probe_for("sql").kind == "sql"
    with pytest.raises(ManifestError, match="Did you mean 'command'"):
        probe_for("comand")
    check_probe(system.probes[4], system, answers)
    with pytest.raises(ManifestError, match="names no component"):
        check_probe(system.probes[2], system, answers)


def test_a_component_is_asked_what_its_kind_answers(tmp_path: Path) -> None:
    """By what its driver has, not by its name; the nearest component that could be asked is named (P12)."""
    kinds_of = {
        "tables": "sqlite",
        "vectors": "chroma",
        "tensors": "models",
        "folder": "files",
        "machine": "environment",
    }
    components = tuple(Component(name=name, driver=kind, location=str(tmp_path)) for name, kind in kinds_of.items())
    system = System(name="s", vault=VaultPlace(path="v", keys="k"), components=components, root=str(tmp_path))
    specs: dict[str, tuple[dict[str, Any], set[str]]] = {
        "sql": ({"sql": "SELECT 1"}, {"tables", "vectors", "tensors"}),
        "freshness": ({"sql": "SELECT 1", "tolerance": {"range": [0, 9]}}, {"tables", "vectors", "tensors"}),
        "retrieval": ({"collection": "c", "ask": {"q": [1.0]}}, {"vectors"}),
        "predict": ({"loader": "onnx", "ask": {"q": [1.0]}}, {"tensors", "folder"}),
    }
    for kind, (fields, able) in specs.items():
        for name in kinds_of:
            spec = Probe(name="p", kind=kind, component=name, **fields)
            if name in able:
                check_probe(spec, system, answers)
                continue
            with pytest.raises(ManifestError, match=f"'{name}' is no component that can be") as caught:
                check_probe(spec, system, answers)
            assert not {*kinds_of} - able & {*caught.value.next_step.split("'")}, caught.value


def test_those_of_a_kind_that_can_be_asked_together_are(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for all of them, in the order of the manifest; what goes wrong on the way is said of each (P4)."""
    asked: list[list[str]] = []

    class Together:
        kind = "sql"

        def check(self, spec: Probe, system: System) -> None: ...

        def ask(self, spec: Probe, system: System, runner: Runner) -> Observation:
            raise AssertionError("not one by one")

        def ask_together(self, specs: Sequence[Probe], system: System, runner: Runner) -> Sequence[Observation]:
            asked.append([spec.name for spec in specs])
            if len(asked) == 2:
                raise Denied("no namespaces here.")
            return [Observation(probe=spec.name) for spec in reversed(specs)]

    monkeypatch.setitem(registry._PROBES, "sql", Together())
    more = msgspec.structs.replace(system.probes[-1], name="first")
    system = msgspec.structs.replace(system, probes=(more, *system.probes))
    of_kind = ["first", "rows"]
    for wrong in (False, True):
        seen = observe(system, system.probes, LiveRunner(system.root))
        assert [one.probe for one in seen] == [probe.name for probe in system.probes]
        assert all(("no namespaces" in (one.error or "")) is wrong for one in seen if one.probe in of_kind)
    assert asked == [of_kind, of_kind]
