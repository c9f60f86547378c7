"""``probes suggest``: what it proposes of a real system can be pasted, answers, judges a restore, and was found without a trace."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from resurgam.capture.manifest import load_manifest
from resurgam.capture.suggest_vectors import golden
from resurgam.drivers.searching import Vectors
from resurgam.model.verdict import Judgement
from resurgam.probes.runner import LiveRunner
from resurgam.proof.observe import observe
from resurgam.restore import sandbox
from tests.drivers.chroma_client import Client

MANIFEST = """\
resurgam: 1
system: desk
vault: {path: ../vault, keys: ../keys}
components:
  documents: {driver: sqlite, location: documents.db}
  index: {driver: chroma, location: index}
  router: {driver: models, location: router}
  tools: {driver: files, location: tools}
"""
COLLECT = """
import numpy as np
rng = np.random.default_rng(3)
vectors = np.concatenate([rng.normal(size=(400, 8)), rng.normal(size=(3, 8)) * 0.1 + 40]).astype("f4")
made = create(client, "help", sync=100)
for start in range(0, 403, 50):
    made.add(ids=[f"{n:03}" for n in range(start, min(start + 50, 403))], embeddings=vectors[start : start + 50])
made.add(ids=["canary:one"], embeddings=vectors[:1])
"""


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


@pytest.fixture(scope="module")
def made(client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A system that tests only read."""
    home = tmp_path_factory.mktemp("made")
    root = home / "system"
    (root / "router").mkdir(parents=True)
    (root / "tools").mkdir()
    (root / "tools/search.json").write_text("{}")
    (root / "resurgam.yaml").write_text(MANIFEST)
    client("run", str(root / "index"), code=COLLECT)
    with closing(sqlite3.connect(root / "documents.db")) as db, db:
        db.execute("CREATE TABLE tickets (id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT, question TEXT)")
        topics = [("refund" if n == 7 else "access" if n % 2 else "billing", f"question {n}") for n in range(300)]
        db.executemany("INSERT INTO tickets (topic, question) VALUES (?, ?)", topics)
        db.execute("CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT)")
        db.execute("CREATE VIRTUAL TABLE words USING fts5(question)")
    weight = numpy_helper.from_array(np.random.default_rng(1).normal(size=(5, 3)).astype("f4"), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "router",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [weight],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), root / "router/r.onnx"
    )
    (root / "router/torn.onnx").write_bytes(b"torn")
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "home")
    return tmp_path / "home"


def run(home: Path, *words: str, code: int = 0) -> str:
    """A command in the system's folder; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "resurgam", *words],
        cwd=home / "system",
        env=os.environ | {"RESURGAM_STATE": str(home / "state")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def traces(root: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(root.rglob("*")) if p.is_file()}


def suggested(home: Path, *words: str) -> Any:
    return json.loads(run(home, "probes", "suggest", "--json", *words))


def by_name(found: Any) -> dict[str, Any]:
    return {probe["name"]: probe for probe in found["probes"]}


def test_what_is_proposed_fits_what_is_there_and_leaves_no_trace(home: Path) -> None:
    before = traces(home)
    found = suggested(home)
    assert traces(home) == before
    probes = by_name(found)
    assert probes["count-tickets-documents"]["fields"]["sql"] == 'SELECT count(*), max("id") FROM "tickets"'
    assert (
        probes["count-settings-documents"]["fields"]["sql"] == 'SELECT count(*) FROM "settings"'
    )  # no key that only grows
    assert "rare: 'refund' (1)" in probes["labels-tickets-topic-documents"]["why"]
    assert not [name for name in probes if "question" in name or "words_" in name]
    assert "canaries-help-index" in probes
    assert "rare corners" in probes["exact-help-index"]["why"]
    assert "predict-r-onnx-router" in probes
    assert [note["what"] for note in found["notes"] if "torn.onnx is not asked" in note["what"]]
    assert found["unprobed"].keys() == {"tools"}


def test_the_frozen_queries_reach_every_corner(home: Path) -> None:
    """Three of 403 vectors lie far from all others; their corner has a query all the same."""
    files = suggested(home)["files"]
    queries = json.loads(files["probes/queries-index-help.json"])
    assert any(max(vector) > 30 for vector in queries.values())
    assert 16 <= len(queries) <= 32


def test_what_is_written_can_be_pasted_and_answers(home: Path) -> None:
    found = suggested(home, "--write")
    root = home / "system"
    (root / "resurgam.yaml").write_text(MANIFEST + found["yaml"])
    assert yaml.safe_load(found["yaml"])["probes"].keys() == by_name(found).keys()
    system = load_manifest(str(root / "resurgam.yaml"))
    seen = observe(system, system.probes, LiveRunner(system.root))
    assert [(one.probe, one.error) for one in seen if one.error is not None] == []
    assert all(one.answers for one in seen)
    again = suggested(home)
    assert again["probes"] == []  # what is asked already is not proposed again


def test_what_stands_is_never_written_over(home: Path) -> None:
    """P12: a queries file that somebody keeps is left alone, and so is everything else then."""
    place = home / "system/probes/queries-index-help.json"
    place.parent.mkdir()
    place.write_text("mine")
    run(home, "probes", "suggest", "--write", code=13)
    assert place.read_text() == "mine"
    assert os.listdir(place.parent) == [place.name]


@pytest.mark.skipif(not sandbox.isolation().isolated, reason="this host has no namespaces to isolate in")
def test_a_restore_is_judged_by_what_was_proposed(home: Path) -> None:
    """The whole way: proposed, pasted, captured, restored, asked inside the sandbox, found the same; `tools` stays unprobed."""
    found = suggested(home, "--write")
    (home / "system/resurgam.yaml").write_text(MANIFEST + found["yaml"])
    run(home, "vault", "init")
    run(home, "capture", code=22)  # router/torn.onnx is told
    verdict = json.loads(run(home, "verify", "latest", "--json", code=21))["verdict"]
    judged = {(part["name"], part["yardstick"]): part for part in verdict["parts"]}
    for probe in found["probes"]:
        assert judged[probe["name"], "witness"]["judgement"] == Judgement.IDENTICAL
    assert {
        name: part["reason"] for (name, _), part in judged.items() if part["judgement"] == Judgement.INCONCLUSIVE
    }.keys() == {"tools"}


def test_golden_items_are_real_and_spread() -> None:
    """Ten far heaps, ten queries: one in each, whatever their sizes."""
    rng = np.random.default_rng(5)
    sizes = [500, 200, 100, 50, 20, 10, 5, 3, 2, 1]
    rows = np.concatenate([rng.normal(size=(size, 4)) * 0.01 + 10 * n for n, size in enumerate(sizes)]).astype("f4")
    ids = [f"{n:03}" for n in range(len(rows))]
    items, total = golden(Vectors("l2", 4, lambda: iter([(ids[:300], rows[:300]), (ids[300:], rows[300:])])), 10)
    assert total == sum(sizes)
    assert [item.size for item in items] == sizes
    assert all(np.array_equal(item.vector, rows[ids.index(item.id)]) for item in items)
    assert golden(Vectors("l2", 4, lambda: iter([])), 10) == ([], 0)
