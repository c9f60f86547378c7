"""`resurgam init` knows the stores of an AI system by what lies in them, and how they belong together by their data."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from resurgam.capture import discover, discover_parts
from resurgam.capture.discover import propose
from resurgam.capture.preflight import preflight
from resurgam.drivers.registry import driver_for
from resurgam.errors import UsageError
from resurgam.model.system import System
from tests.unit.test_discover import database, proposed, write

chromadb = pytest.importorskip("chromadb", reason="the extra chroma is not installed")
saver = pytest.importorskip("langgraph.checkpoint.sqlite", reason="the extra helpdesk is not installed")
store = pytest.importorskip("langgraph.store.sqlite", reason="the extra helpdesk is not installed")

TOOL = {"name": "refund", "description": "Give money back.", "inputSchema": {"type": "object"}}
COUNTED = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 60)"
DOCUMENTS = f"""
CREATE TABLE chunks(id INTEGER PRIMARY KEY, text TEXT);
CREATE TABLE people(id INTEGER PRIMARY KEY, email TEXT, note TEXT);
INSERT INTO chunks {COUNTED} SELECT n, printf('Chunk %d: ', n) || hex(zeroblob(40)) FROM n WHERE n <= 40;
INSERT INTO people {COUNTED} SELECT n, printf('p%d@example.org', n), hex(zeroblob(80)) FROM n;
"""


def vectors(folder: Path, ids: list[str], metadata: dict[str, Any] | None = None, **members: list[Any]) -> None:
    """A Chroma folder with one collection, made by Chroma in a process of its own, which lets go of it when it ends."""
    made = (
        "import chromadb, json, sys; folder, ids, about, members = json.loads(sys.argv[1]);"
        "c = chromadb.PersistentClient(folder, chromadb.config.Settings(anonymized_telemetry=False))"
        ".create_collection('help', metadata=about, embedding_function=None);"
        "c.add(ids=ids, embeddings=[[float(n), 1.0] for n in range(len(ids))],"
        " metadatas=[dict(zip(members, row)) for row in zip(*members.values())] or None)"
    )
    asked = json.dumps([str(folder), ids, metadata, members])
    subprocess.run([sys.executable, "-c", made, asked], check=True)


def memories(path: Path, *values: dict[str, Any]) -> None:
    """LangGraph's saver and store in one file, with these memories."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as db:
        saver.SqliteSaver(db).setup()
        kept = store.SqliteStore(db)
        kept.setup()
        for number, value in enumerate(values):
            kept.put(("desk",), str(number), value)


def invariants(system: System) -> dict[str, tuple[str | None, str | None]]:
    """Both sides, by name."""
    return {i.name: (i.every, i.exists_in) for i in system.invariants}


def drivers(system: System) -> dict[str, str]:
    """Component to driver."""
    return {component.name: component.driver for component in system.components}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small agent, every part written by its own library."""
    root = tmp_path_factory.mktemp("adopt") / "desk"
    database(root / "documents.db", DOCUMENTS)
    write(root / "embedder/model.safetensors", "weights of no meaning\n")
    write(root / "embedder/tokenizer.json", '{"model": {"vocab": {"password": 7}}, "unk_token": "<unk>"}')
    digest = hashlib.sha256((root / "embedder/model.safetensors").read_bytes()).hexdigest()
    numbers = list(range(1, 41))
    vectors(
        root / "index",
        [str(n) for n in numbers],
        {"embedder": digest},
        chunk_id=numbers,
        place=[n % 3 + 1 for n in numbers],
    )
    memories(root / "agent.db", {"cites": [3, 5, 40], "mood": "good"}, {"cites": [8, 9], "mood": "good"})
    write(root / "tools/tools.json", json.dumps({"tools": [TOOL]}))
    write(root / "prompts/answer.md")
    subprocess.run(["git", "init", "-q", str(root / "prompts")], check=True)
    write(root / "probes/golden.json", '{"secret": "How do I keep one?"}')
    write(root / "app/main.py")
    write(root / "requirements.txt", "chromadb\n")
    return root


def test_every_store_gets_its_driver(desk: Path) -> None:
    """By what lies in it: also where a database is Chroma's or LangGraph's."""
    text, system = proposed(desk)
    assert drivers(system) == {
        "agent": "langgraph",
        "documents": "sqlite",
        "embedder": "models",
        "index": "chroma",
        "prompts": "git",
        "tools": "files",
    }
    assert "# tool schemas or agent wiring, " in text
    assert system.component("embedder").options == system.component("prompts").options == {}


def test_what_the_data_show_is_proposed_and_called_inferred(desk: Path) -> None:
    """Ids that are keys, citations in memories, and the digest of the embedder; checked before it is said."""
    text, system = proposed(desk)
    numbered = "json_extract(metadata, '$.chunk_id')"
    assert invariants(system) == {
        "index-help-in-chunks": ('index: SELECT id FROM "help"', 'documents: SELECT CAST("id" AS TEXT) FROM "chunks"'),
        "index-chunk_id-in-chunks": (
            f'index: SELECT {numbered} FROM "help" WHERE {numbered} IS NOT NULL',
            'documents: SELECT "id" FROM "chunks"',
        ),
        "agent-cites-in-chunks": (
            "agent: SELECT c.value FROM store, json_each(CAST(store.value AS TEXT), '$.cites') AS c",
            'documents: SELECT "id" FROM "chunks"',
        ),
        "index-built-by-embedder": (None, None),
    }
    assert system.component("index").derived_from == ("documents", "embedder")
    assert system.component("agent").reads == ("documents",)
    assert "# inferred: all 40 ids of collection help are keys of chunks in documents" in text
    assert "Both have the same keys now" in text


def test_small_numbers_are_no_evidence(desk: Path) -> None:
    """``place`` is 1 to 3, and so are ids of every table: without a name that speaks for it, nothing is said."""
    text, _ = proposed(desk)
    assert "place" not in text
    assert "people" not in " ".join(re.findall("exists_in: .*", text))


def test_golden_queries_name_rows_and_leave_people_alone(desk: Path) -> None:
    """Answers are kept in every point, so tables of people are not asked; rows are named by keys, so what is added moves none."""
    text, system = proposed(desk)
    (golden,) = [p for p in system.probes if p.name.startswith("golden")]
    assert golden.sql is not None
    with closing(sqlite3.connect(desk / "documents.db")) as db:
        before = db.execute(golden.sql).fetchall()
        db.execute("INSERT INTO chunks VALUES (999, 'new')")
        assert db.execute(golden.sql).fetchall() == before
    assert [row[0] for row in before] == [1, 21, 40]
    assert "example.org" not in text


def test_an_agents_database_can_be_counted(desk: Path) -> None:
    """It is one SQLite file, which the probe sql can ask."""
    _, system = proposed(desk)
    assert "count-agent-store" in {probe.name for probe in system.probes}


def test_what_only_the_owner_knows_stands_in_comments(desk: Path) -> None:
    """A barrier, a search to ask, an environment: how it is said, commented, and right when it is uncommented."""
    text, system = proposed(desk)
    assert system.barrier is None
    assert "# Are agent, documents, index written together?" in text
    lines = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# barrier: ")]
    assert [set(yaml.safe_load(line)["barrier"]) for line in lines] == [
        {"file", "timeout"},
        {"hold", "release", "timeout"},
    ]
    assert "requirements.txt says what the application needs" in text
    advice = text[text.index("#   golden:") : text.index("# And one")] + text[text.index("#   search-index:") :]
    asked = yaml.safe_load(
        "\n".join(line[4:] for line in advice.splitlines() if line.startswith("#   ")).split("\nUntil")[0]
    )
    assert asked["search-index"]["reads"] == ["index", "documents", "embedder"]
    assert asked["golden"]["ask"] == {"file": "probes/golden.json"}


def test_words_of_a_vocabulary_are_no_secrets(desk: Path) -> None:
    """A model without its vocabulary cannot be used: ``password`` is a word in it, as ``secret`` names a question."""
    text, _ = proposed(desk)
    assert "WARNING" not in text


def test_it_is_green_at_once(desk: Path) -> None:
    """P12: what is proposed can be captured, but for the vault and the keys that are not made yet."""
    _, system = proposed(desk)
    report = preflight(system, driver_for)
    assert [(c.name, c.troubles, c.missing) for c in report.components if c.troubles or c.missing] == []


@pytest.mark.parametrize("broken", range(8))
def test_one_broken_key_and_nothing_is_proposed(tmp_path: Path, broken: int) -> None:
    """Inclusion is checked on every value, not on a sample of them."""
    database(
        tmp_path / "pages.db",
        f"CREATE TABLE pages(id INTEGER PRIMARY KEY); INSERT INTO pages {COUNTED} SELECT n FROM n;",
    )
    numbers = ["9999" if n == broken else str(n % 60 + 1) for n in range(400)]
    rows = ", ".join(f"({n}, {page})" for n, page in enumerate(numbers))
    database(
        tmp_path / "b.db",
        f"CREATE TABLE visits(n INTEGER PRIMARY KEY, page_id INTEGER); INSERT INTO visits VALUES {rows};",
    )
    _, system = proposed(tmp_path)
    assert system.invariants == ()
    assert all(component.reads == () for component in system.components)


def test_what_was_not_read_to_its_end_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P4: an inclusion that rests on a part of the rows is not called one of all."""
    monkeypatch.setattr(discover_parts, "LOOKED", 10)
    monkeypatch.setattr(discover, "LOOKED", 10)
    database(
        tmp_path / "a.db", f"CREATE TABLE pages(id INTEGER PRIMARY KEY); INSERT INTO pages {COUNTED} SELECT n FROM n;"
    )
    database(tmp_path / "b.db", f"CREATE TABLE visits(page_id INTEGER); INSERT INTO visits {COUNTED} SELECT n FROM n;")
    text, system = proposed(tmp_path)
    assert "# the first 10 values of visits.page_id are keys of pages in a" in text
    assert "Both have the same keys now" not in text
    assert len(system.invariants) == 1


def test_texts_that_are_keys_elsewhere_need_no_name(tmp_path: Path) -> None:
    """Across two databases, and from a collection whose ids are no numbers."""
    slugs = ["intro", "locks", "queues"]
    values = ", ".join(f"('{slug}')" for slug in (*slugs, "unused"))
    database(tmp_path / "a.db", f"CREATE TABLE pages(slug TEXT PRIMARY KEY); INSERT INTO pages VALUES {values};")
    database(
        tmp_path / "b.db",
        "CREATE TABLE visits(n INTEGER PRIMARY KEY, page_id TEXT); INSERT INTO visits VALUES (1, 'locks');",
    )
    vectors(tmp_path / "index", slugs)
    text, system = proposed(tmp_path)
    assert set(invariants(system)) == {"index-help-in-pages", "b-page_id-in-pages"}
    assert system.component("b").reads == ("a",)
    assert "Both have the same keys now" not in text


def test_an_embedder_known_by_name_is_a_relation_and_no_invariant(tmp_path: Path) -> None:
    """A name says which model it was; only a digest says that it is this one."""
    write(tmp_path / "models/mini-embedder.onnx")
    vectors(tmp_path / "index", ["a"], {"model": "mini-embedder"})
    _, system = proposed(tmp_path)
    assert system.component("index").derived_from == ("models",)
    assert system.invariants == ()


def test_a_damaged_or_foreign_chroma_folder_is_told(tmp_path: Path) -> None:
    """A torn one is still the folder that is to be captured; a file of that name that is no database is not understood."""
    vectors(tmp_path / "torn", ["a", "b", "c"])
    path = tmp_path / "torn/chroma.sqlite3"
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096))
    write(tmp_path / "other/chroma.sqlite3", "x" * 512)
    text, system = proposed(tmp_path)
    assert drivers(system) == {"torn": "chroma"}
    assert "could not be looked into" in text
    assert "#   other/chroma.sqlite3: not understood" in text


def test_a_store_itself_is_no_system(desk: Path) -> None:
    """P12: a manifest in a store's folder would be captured with it, and torn out of it by a restore."""
    with pytest.raises(UsageError, match="Chroma folder") as refused:
        propose(str(desk / "index"))
    assert "lies in" in refused.value.next_step


def test_columns_that_no_manifest_can_name_are_left_out(tmp_path: Path) -> None:
    """Names and texts that are no UTF-8 stop nothing."""
    database(
        tmp_path / "a.db",
        "CREATE TABLE pages(id TEXT PRIMARY KEY); INSERT INTO pages VALUES (CAST(x'ff' AS TEXT)), ('b');",
    )
    with closing(sqlite3.connect(tmp_path / "a.db")) as db:
        db.execute('CREATE TABLE odd("new\nline_id" TEXT, page_id TEXT)')
        db.execute("INSERT INTO odd VALUES ('b', 'b'), ('b', CAST(x'ff' AS TEXT))")
        db.commit()
    _, system = proposed(tmp_path)
    assert len(system.components) == 1


def test_a_working_tree_with_a_database_in_it_is_taken_apart(tmp_path: Path) -> None:
    """Two components may not lie inside one another; the root itself is never one."""
    database(tmp_path / "repo/state.db", "CREATE TABLE t(a);")
    write(tmp_path / "repo/prompts/a.md")
    for place in (tmp_path, tmp_path / "repo"):
        subprocess.run(["git", "init", "-q", str(place)], check=True)
    text, system = proposed(tmp_path)
    assert drivers(system) == {"state": "sqlite", "prompts": "files"}
    assert "#   repo: a git working tree, and holds parts of its own" in text
    assert "#   this folder: a git working tree" in text


def test_an_environment_is_found_whatever_it_is_called(tmp_path: Path) -> None:
    """And nothing in it is taken for anything else."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / ".venv")], check=True)
    write(tmp_path / ".venv/lib/model.onnx")
    text, system = proposed(tmp_path)
    assert drivers(system) == {"environment": "environment"}
    assert "No Python environment lies here" not in text
    assert not preflight(system, driver_for).components[0].troubles


@pytest.mark.parametrize(
    ("name", "text", "tools"),
    [
        ("mcp.json", '{"mcpServers": {"files": {"command": "serve"}}}', True),
        ("list.json", json.dumps([{"type": "function", "function": {"name": "f", "parameters": {}}}]), True),
        ("agent.yaml", "agent: desk\nactions: []\n", True),
        ("langgraph.json", '{"graphs": {"desk": "./app.py:graph"}}', True),
        ("plain.json", '{"tools": "hammer", "name": "x"}', False),
        ("empty.json", '{"tools": []}', False),
        ("torn.json", '{"tools": [', False),
        ("deep.json", '{"tools": ' + "[" * 100_000, False),
        ("deep.yaml", "tools: " + "[" * 10_000, False),
        ("odd.yaml", "a: !!python/object:os.system {}\n", False),
    ],
)
def test_tools_are_known_by_their_form(tmp_path: Path, name: str, text: str, tools: bool) -> None:
    """Whatever an application calls the file; what cannot be read is configuration, and stops nothing."""
    write(tmp_path / name, text)
    assert ("# tool schemas or agent wiring" in proposed(tmp_path)[0]) is tools


def test_no_library_of_a_store_is_needed_for_looking(desk: Path) -> None:
    """Start-up and first contact must not wait for them."""
    code = (
        "import sys; from resurgam.capture.discover import propose; propose(sys.argv[1]);"
        "loaded = {'chromadb', 'langgraph', 'dulwich', 'onnx', 'gguf', 'ormsgpack'} & sys.modules.keys();"
        "sys.exit(' '.join(loaded) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(desk)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_proposal_says_the_same_twice(desk: Path) -> None:
    """So that two of them can be compared."""
    assert propose(str(desk)) == propose(os.path.join(str(desk), "."))
