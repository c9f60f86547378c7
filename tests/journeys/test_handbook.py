"""The example system: built the same twice, answering from what it cites, and letting itself be fenced."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from examples.handbook import answering, building, corpus, database, gate, router
from resurgam.capture.manifest import load_manifest
from resurgam.model.system import Isolation

PATIENCE = 30.0


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A handbook that tests only read."""
    home = tmp_path_factory.mktemp("built") / "handbook"
    building.build(str(home))
    return home


@pytest.fixture
def home(built: Path, tmp_path: Path) -> Path:
    """A handbook of the test's own."""
    return Path(shutil.copytree(built, tmp_path / "handbook"))


def golden(home: Path) -> dict[str, answering.Answer]:
    """The answers to the golden questions."""
    questions = json.loads((home / "probes" / "golden.json").read_text())
    return answering.Handbook(answering.places_in(str(home))).ask_all(questions)


def started(home: Path, *words: str) -> subprocess.Popen[str]:
    """A command of the system's own copy of the application."""
    command = [sys.executable, "bin/handbook", *words]
    return subprocess.Popen(
        command, cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(home: Path, *words: str, said: str = "") -> tuple[int, str, str]:
    """Exit code, output, errors."""
    with started(home, *words) as process:
        out, err = process.communicate(said, timeout=PATIENCE)
    return process.returncode, out, err


def rows(home: Path, sql: str) -> list[tuple[Any, ...]]:
    """What the database answers."""
    with closing(sqlite3.connect(home / "data" / "handbook.db", timeout=PATIENCE)) as opened:
        return opened.execute(sql).fetchall()


def change(home: Path, sql: str) -> None:
    """Change the database."""
    with closing(sqlite3.connect(home / "data" / "handbook.db", isolation_level=None)) as opened:
        assert opened.execute(sql).rowcount > 0


def eventually(held: Callable[[], bool]) -> None:
    """Wait until something holds; fails when it does not in time."""
    until = time.monotonic() + PATIENCE
    while not held():
        assert time.monotonic() < until, "it never came to hold"
        time.sleep(0.01)


def test_two_set_ups_give_equal_model_bytes_rows_and_answers(built: Path, tmp_path: Path) -> None:
    """Equal Python, equal system."""
    other = tmp_path / "other"
    code = subprocess.run(
        [sys.executable, "-m", "examples.handbook", "setup", str(other)], capture_output=True, check=False
    )
    assert code.returncode == 0, code.stderr
    assert (other / "models" / router.FILE).read_bytes() == (built / "models" / router.FILE).read_bytes()
    for table in ("documents", "chunks", "customers", "tickets", "conversations"):
        everything = f"SELECT * FROM {table} ORDER BY id"
        assert rows(other, everything) == rows(built, everything)
    assert golden(other) == golden(built)


def test_it_holds_enough_real_text_and_states_its_licence(built: Path) -> None:
    """At least 2,000 chunks, each of a bounded size, under a licence that is named."""
    ((count, longest),) = rows(built, "SELECT count(*), max(length(text)) FROM chunks")
    assert count >= 2000
    assert longest <= corpus.LONGEST
    assert rows(built, "SELECT DISTINCT licence FROM documents") == [("PSF-2.0",)]
    assert "PSF-2.0" in (built / "app" / "handbook" / "LICENCE.md").read_text()


def test_the_router_has_learned(tmp_path: Path) -> None:
    """It puts most unseen chunks in the right section, far more than guessing would."""
    result = building.build(str(tmp_path / "handbook"))
    assert result.accuracy > 0.7 > 2 * result.guessing


def test_answers_cite_chunks_that_exist_and_quote_them(built: Path) -> None:
    """Every golden answer but the refused one rests on passages."""
    known = dict(rows(built, "SELECT id, text FROM chunks"))
    for case, answer in golden(built).items():
        if case == "secret":
            assert (answer.chunks, "ask a person" in answer.text) == ([], True)
            continue
        assert answer.chunks
        for chunk in answer.chunks:
            assert known[chunk][:20] in answer.text


def test_every_component_has_a_say_in_the_answers(home: Path) -> None:
    """Rows, weights, prompts, policies and configuration: a change of any changes some answer, so a probe can find it."""
    before = golden(home)
    first = before["lock"].chunks[0]
    spoilers: dict[str, Callable[[Path], object]] = {
        "documents": lambda at: change(at, f"UPDATE chunks SET text = 'No. ' || text WHERE id = {first}"),
        "router": lambda at: _relabel(at / "models"),
        "prompts": lambda at: _edit(at / "prompts" / "answer.md", "Never", "Often"),
        "policies": lambda at: _edit(at / "policies" / "scope.md", "salary", "lock"),
        "config": lambda at: _edit(at / "config" / "handbook.toml", "passages = 3", "passages = 2"),
    }
    assert spoilers.keys() == answering.PLACES.keys()
    for name, spoil in spoilers.items():
        copy = Path(shutil.copytree(home, home.with_name(name)))
        spoil(copy)
        assert golden(copy) != before, name
        if name == "router":  # what it says also steers the search
            assert any(answer.chunks != before[case].chunks for case, answer in golden(copy).items())
    assert golden(home) == before


def test_personal_data_does_not_leave_in_an_answer(home: Path) -> None:
    """An address and a number that stand in a passage are redacted."""
    first = golden(home)["lock"].chunks[0]
    change(
        home, f"UPDATE chunks SET text = 'Write ada.berg7@example.com, or call 555-0142; ' || text WHERE id = {first}"
    )
    text = golden(home)["lock"].text
    assert "Write [redacted], or call [redacted]" in text
    assert "ada.berg7" not in text


def test_the_probe_reads_only_the_places_it_is_given(home: Path) -> None:
    """P6: `answer` follows its bindings; what stands in the system's own folder has no say."""
    copy = shutil.copytree(home, home.with_name("copy"))
    places = answering.places_in(str(copy))
    (home / "data" / "handbook.db").write_bytes(b"not a database")
    shutil.rmtree(home / "prompts")
    asked = json.dumps({"ask": {"lock": "How do I acquire a lock?"}, "components": places})
    code, out, err = run(home, "answer", said=asked)
    assert code == 0, err
    assert json.loads(out)["answers"]["lock"]["chunks"]
    asked = json.dumps({"ask": {"lock": "How?"}, "components": answering.places_in(str(home))})
    code, out, err = run(home, "answer", said=asked)
    assert (code, out) == (1, "")
    assert err.startswith("handbook: ")


@pytest.mark.parametrize("isolation", list(Isolation))
def test_its_manifest_loads(tmp_path: Path, isolation: Isolation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with the isolation that a host without namespaces must accept by name (P4)."""
    monkeypatch.setattr(database, "fill", lambda _path, _seed: database.Filled(1, ["a b", "c d"], ["x", "y"]))
    building.build(str(tmp_path / "handbook"), isolation.value)
    system = load_manifest(str(tmp_path / "handbook" / "resurgam.yaml"))
    assert system.isolation is isolation
    assert {c.name: os.path.relpath(c.location, system.root) for c in system.components} == answering.PLACES


def test_setup_refuses_a_folder_that_holds_something(tmp_path: Path) -> None:
    """What stands there stays."""
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(FileExistsError):
        building.build(str(tmp_path))
    assert os.listdir(tmp_path) == ["mine"]


def test_a_fence_waits_for_clients_and_keeps_new_ones_out_until_reload(home: Path) -> None:
    """After a fence nobody has the database open; nothing that was confirmed is lost."""
    tickets = "SELECT count(*) FROM tickets"
    ((before,),) = rows(home, tickets)
    with started(home, "write", "--rate", "100", "--seconds", str(PATIENCE)) as writer:
        try:
            eventually(lambda: rows(home, tickets) > [(before,)])
            gate.fence(str(home))
            during = rows(home, tickets)
            assert not (home / "data" / "handbook.db-wal").exists()  # the last to leave has closed it
            code, _, err = run(home, "ask", "How do I acquire a lock?")
            assert (code, "maintenance" in err) == (os.EX_TEMPFAIL, True)
            assert writer.poll() is None
            assert rows(home, tickets) == during
            gate.reload(str(home))
            eventually(lambda: rows(home, tickets) > during)
            writer.send_signal(signal.SIGTERM)
            told = json.loads(writer.communicate(timeout=PATIENCE)[0])
        finally:
            writer.kill()
    assert rows(home, tickets) == [(before + told["tickets"],)]
    assert told["waited"] > 0
    code, out, _ = run(home, "ask", "How do I acquire a lock?")
    assert (code, "Sources: " in out) == (0, True)


def test_a_fence_that_a_client_does_not_heed_says_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not pretend that everybody left, and stays up."""
    monkeypatch.setattr(gate, "PATIENCE", 0.1)
    with gate.client(str(home)), pytest.raises(TimeoutError):
        gate.fence(str(home))
    assert gate.under_maintenance(str(home))


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def _relabel(models: Path) -> None:
    model = router.Router.load(str(models))
    model._replace(sections=model.sections[1:] + model.sections[:1]).save(str(models))
