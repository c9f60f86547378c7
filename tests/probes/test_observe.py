"""All probes run, whatever happens to each."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from resurgam.errors import Denied, ManifestError
from resurgam.model.system import Component, Probe, System, VaultPlace
from resurgam.probes.base import Completed
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
        ) -> Completed:
            raise Denied("no namespaces here.")

    seen = observe(system, system.probes[3:], Refusing())
    assert [("no namespaces here" in (o.error or ""), o.asked) for o in seen] == [(True, False)] * 2


def test_kinds_of_probe(system: System) -> None:
    assert {"command", "predict", "retrieval", "sql"} <= set(kinds())
    assert probe_for("sql").kind == "sql"
    with pytest.raises(ManifestError, match="Did you mean 'command'"):
        probe_for("comand")
    check_probe(system.probes[4], system)
    with pytest.raises(ManifestError, match="names no component"):
        check_probe(system.probes[2], system)
