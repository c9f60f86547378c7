"""Adoption: folders that Resurgam has never seen, from `init` to a point, without an editor between them."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from examples.handbook.building import build
from tests.journeys.test_helpdesk import make
from tests.unit.test_discover import database, write

pytest.importorskip("chromadb", reason="the extra helpdesk is not installed")
pytest.importorskip("langgraph.checkpoint.sqlite", reason="the extra helpdesk is not installed")


class Adopted:
    """A folder that is adopted, by commands of their own processes, as its owner runs them."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root = root
        self.env = os.environ | {"HOME": str(home), "RESURGAM_STATE": str(home / "state")}

    def run(self, *words: str, code: int = 0) -> str:
        """What the command printed."""
        done = subprocess.run(
            [sys.executable, "-m", "resurgam", *words], cwd=self.root, env=self.env, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def adopt(self) -> Any:
        """init, vault, preflight: all that comes before the first point; the report of preflight."""
        assert "Wrote" in self.run("init")
        self.run("vault", "init")
        report = json.loads(self.run("preflight", "--json"))
        assert report["ok"]
        return report


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A helpdesk without a manifest."""
    home = tmp_path_factory.mktemp("made") / "desk"
    make(home)
    (home / "resurgam.yaml").unlink()
    return home


@pytest.fixture
def desk(made: Path, tmp_path: Path) -> Adopted:
    """One of the test's own."""
    return Adopted(shutil.copytree(made, tmp_path / "desk"), tmp_path)


def test_a_helpdesk_is_adopted_as_it_is(desk: Adopted) -> None:
    """P1 P4: every part by its own driver, invariants that hold, and a first proof that says what nobody asked."""
    report = desk.adopt()
    kinds = {component["name"]: component["driver"] for component in report["components"]}
    assert kinds.items() >= {
        "documents": "sqlite", "index": "chroma", "embedder": "models", "router": "models", "prompts": "git",
        "tools": "files", "agent": "langgraph", "config": "files",
    }.items()  # fmt: skip
    desk.run("capture")
    told = desk.run("verify", "latest", code=21)
    assert "identical by witness: " in told
    assert "golden-documents-chunks" in told
    assert "index: inconclusive: unprobed" in told


def test_what_was_proposed_finds_what_breaks_later(desk: Adopted) -> None:
    """The inclusions that `init` read from the data are what a point is held against: a deleted chunk is named."""
    desk.adopt()
    with closing(sqlite3.connect(desk.root / "documents.db")) as db:
        cited = db.execute("SELECT id FROM chunks WHERE id NOT IN (SELECT chunk_id FROM tickets) LIMIT 1").fetchone()[0]
        db.execute("DELETE FROM chunks WHERE id = ?", (cited,))
        db.commit()
    desk.run("capture", code=22)
    told = desk.run("show", "latest")
    assert "invariant index-help-in-chunks: 1 of 2000 keys" in told
    assert str(cited) in told


def test_a_swapped_embedder_breaks_the_digest(desk: Adopted) -> None:
    """The embedder that built this index is the one captured, or the point says so."""
    desk.adopt()
    with open(desk.root / "embedder/model.safetensors", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    desk.run("capture", code=22)
    assert "index-built-by-embedder" in desk.run("show", "latest")


def test_a_handbook_is_adopted_as_it_is(tmp_path: Path) -> None:
    """Without any of the AI stores."""
    home = tmp_path / "handbook"
    build(str(home))
    (home / "resurgam.yaml").unlink()
    adopted = Adopted(home, tmp_path)
    report = adopted.adopt()
    assert {c["driver"] for c in report["components"]} == {"sqlite", "models", "files"}
    adopted.run("capture")


def test_an_odd_folder_is_adopted_as_it_is(tmp_path: Path) -> None:
    """Names that tools trip over, empty stores, damaged ones left to their own error, links, and folders nobody may list."""
    root = tmp_path / "Odd folder: ünïcödé"
    database(root / "it's # odd.db", 'CREATE TABLE "a ""b"" c"(x INTEGER PRIMARY KEY, y_id TEXT);')
    database(root / "empty/e.db", "CREATE TABLE t(id TEXT PRIMARY KEY); DROP TABLE t; VACUUM;")
    write(root / "prompts/{braces} & 'quotes'.md")
    write(root / "models/tiny.safetensors", "not one")
    write(root / "tools/mcp.json", '{"mcpServers": {}}')
    write(root / "venv/not-an-environment.json", "{}")
    (root / "loop").symlink_to(".")
    adopted = Adopted(root, tmp_path)
    adopted.adopt()
    adopted.run("capture", code=22)  # the file that is no model is a finding
    assert "tiny.safetensors" in adopted.run("show", "latest")
