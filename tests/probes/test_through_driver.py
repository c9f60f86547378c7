"""SQL for stores that are no plain SQLite database: asked through their drivers, live and inside the sandbox, without a trace."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from resurgam.capture.manifest import load_manifest
from resurgam.drivers.registry import answers, places
from resurgam.errors import ManifestError
from resurgam.model.point import Observation
from resurgam.model.question import Question
from resurgam.model.system import Component, Json, Probe, System, VaultPlace
from resurgam.probes.base import Runner
from resurgam.probes.runner import LiveRunner
from resurgam.probes.sql import SqlProbe
from resurgam.probes.through_driver import PROGRAM
from resurgam.restore import sandbox
from resurgam.restore.sandbox import Sandbox
from tests.drivers import chroma_client, git_tree
from tests.drivers.langgraph_kit import app

STATEMENTS: dict[str, tuple[str, Json]] = {  # a kind of store -> a question about what `store` makes, and its answer
    "chroma": ("SELECT id, vector FROM data ORDER BY id LIMIT 1", [["a", {"$bytes": "0000803f00000040"}]]),
    "git": ("SELECT count(*) FROM tracked", [[1]]),
    "langgraph": ("SELECT thread_id, waiting FROM threads WHERE waiting ORDER BY 1", [["w", 1]]),
    "models": ("SELECT name, shape FROM tensors", [["weight", "[2,3]"]]),
}


def store(kind: str, place: Path) -> Path:
    """A small store of that kind."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if kind == "chroma":
        client = chroma_client.Client()
        code = "create(client, 'data').add(ids=['a'], embeddings=[[1.0, 2.0]])"
        client("run", str(place), code=code)
        client.close()
    elif kind == "git":
        git_tree.make(place)
        (place / "prompt.txt").write_text("Be kind.")
        git_tree.git(place, "add", "prompt.txt")
        git_tree.git(place, "commit", "-qm", "one")
    elif kind == "langgraph":
        app("seed", place)
    else:
        place.mkdir()
        save_file({"weight": np.zeros((2, 3), np.float32)}, place / "m.safetensors")
    return place


def ask(kind: str, place: Path, sql: str, runner: Runner | None = None) -> Observation:
    spec = Probe(name="p", kind="sql", component="c", sql=sql)
    return SqlProbe().ask(spec, system(kind, place), runner or LiveRunner(str(place.parent)))


def system(kind: str, place: Path) -> System:
    component = Component(name="c", driver=kind, location=str(place))
    return System(name="s", vault=VaultPlace(path="v", keys="k"), components=(component,), root=str(place.parent))


def content(place: Path) -> dict[str, bytes]:
    """Every file of the store and beside it."""
    found = sorted(p for p in place.parent.rglob("*") if p.is_file())
    return {str(p): p.read_bytes() for p in found if not p.name.endswith("-shm")}  # SQLite's read marks, nothing kept


def test_every_kind_that_is_named_is_tried_here() -> None:
    assert {"sqlite", *STATEMENTS} == {kind for kind in places() if Question.SQL in answers(kind)}


@pytest.mark.parametrize("kind", STATEMENTS)
def test_a_store_is_asked_live_and_as_a_copy(kind: str, tmp_path: Path) -> None:
    """P6: in the sandbox the same answer comes from the copy; a probe must not write to what it asks."""
    live = store(kind, tmp_path / "live" / "store")
    sql, answer = STATEMENTS[kind]
    before = content(live)
    seen = ask(kind, live, sql)
    assert (seen.error, seen.answers) == (None, {"rows": answer})
    assert content(live) == before
    if not sandbox.available()[0] and os.geteuid() != 0:
        pytest.skip("no namespaces here")
    copy = tmp_path / "restore" / "store"
    shutil.copytree(live.parent, copy.parent)
    with Sandbox(str(tmp_path / "restore"), system(kind, live)) as box:
        assert ask(kind, copy, sql, box).answers == {"rows": answer}
        assert ask(kind, live, sql, box).error is not None


@pytest.mark.parametrize(
    ("sql", "words"),
    [("SELECT silence FROM tracked", "no such column"), ("DELETE FROM tracked", "cannot be asked")],
)
def test_a_wrong_statement_is_told(sql: str, words: str, tmp_path: Path) -> None:
    assert words in (ask("git", store("git", tmp_path / "live" / "store"), sql).error or "")


def test_the_program_refuses_what_is_no_request() -> None:
    """P12: one sentence on standard error, and the error's exit code."""
    done = subprocess.run([sys.executable, "-I", "-m", PROGRAM], input=b"{}", capture_output=True, check=False)
    assert done.returncode == 8
    assert b"Traceback" not in done.stderr
    component = {"name": "t", "driver": "files", "location": "/dev/null"}
    request = json.dumps({"component": component, "query": "SELECT 1"}).encode()
    done = subprocess.run([sys.executable, "-I", "-m", PROGRAM], input=request, capture_output=True, check=False)
    assert b"Traceback" not in done.stderr
    assert done.returncode != 0


def test_queries_may_stand_in_an_array_file(tmp_path: Path) -> None:
    """Rows of a ``.npy`` array, each under its number; an array of objects, which numpy would unpickle, is refused."""
    manifest = tmp_path / "resurgam.yaml"
    manifest.write_text(
        "resurgam: 1\nsystem: s\nvault: {path: v, keys: k}\ncomponents: {index: {driver: chroma, location: index}}\n"
        "probes: {near: {kind: retrieval, component: index, collection: help, ask: {file: q.npy}}}\n"
    )
    np.save(tmp_path / "q.npy", np.array([[1, 2], [3, 4]], np.float32))
    assert load_manifest(str(manifest)).probes[0].ask == {"0": [1.0, 2.0], "1": [3.0, 4.0]}
    for wrong in (np.array([[1.0, np.nan]]), np.array([1.0]), np.array([["a"]]), np.array([[None]], object)):
        np.save(tmp_path / "q.npy", wrong)
        with pytest.raises(ManifestError, match="array"):
            load_manifest(str(manifest))
