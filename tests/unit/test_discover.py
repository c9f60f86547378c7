"""`resurgam init` looks at a folder and proposes a manifest that loads as it is; it leaves no trace."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import jsonschema
import pytest
import yaml

from resurgam.capture.discover import propose
from resurgam.capture.manifest import load_manifest, schema
from resurgam.drivers.base import Blob
from resurgam.drivers.registry import driver_for
from resurgam.errors import NotFound, UsageError
from resurgam.model.system import System


def database(path: Path, script: str, mode: str = "delete") -> None:
    """An SQLite database made by this script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA journal_mode={mode}")
        db.executescript(script)


def write(path: Path, text: str = "x\n") -> None:
    """A file with this text, and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def trace(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Everything under the folder with its size, time of change and inode. Not the time of a ``-shm``: its writer maps it into
    memory, and the kernel notes the time of what was written there when it pleases."""
    stats = {str(path): path.lstat() for path in (folder, *folder.rglob("*"))}
    return {
        path: (stat.st_size, 0 if path.endswith("-shm") else stat.st_mtime_ns, stat.st_ino)
        for path, stat in stats.items()
    }


def proposed(folder: Path) -> tuple[str, System]:
    """The proposal and the system it declares, after checking that nothing was touched and that it fits the schema."""
    before = trace(folder)
    text = propose(str(folder))
    assert trace(folder) == before
    jsonschema.validate(yaml.safe_load(text), schema())
    manifest = folder / "resurgam.yaml"
    manifest.write_text(text)
    try:
        return text, load_manifest(str(manifest), environ={})
    finally:
        manifest.unlink()


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """A small service as a team would have it."""
    root = tmp_path / "Help Desk"
    database(
        root / "data/handbook.db",
        "CREATE TABLE chunks(id INTEGER PRIMARY KEY, body TEXT);"
        "CREATE TABLE tickets(id INTEGER PRIMARY KEY, chunk_id REFERENCES chunks);"
        "CREATE VIRTUAL TABLE search USING fts5(body);",
    )
    write(root / "models/router.safetensors")
    write(root / "models/training.json", '{"trained_on": "data/handbook.db"}')
    write(root / "prompts/answer.md")
    write(root / "prompts/policies/refunds.txt")
    write(root / "config/service.toml", 'database = "data/handbook.db"\n')
    write(root / "config/mail.yaml", "host: mail\npassword: correct-horse\n")
    write(root / "config/inherited.yaml", "password: ${MAIL_PASSWORD}\nmax_tokens: 100\n")
    write(root / ".env", "API_KEY=correct-horse\n")
    write(root / "app/main.py")
    write(root / "app/weights.xyz")
    write(root / ".venv/lib/thing.json")
    write(root / "README.md")
    return root


def test_a_service_is_understood_as_a_system(service: Path) -> None:
    _, system = proposed(service)
    assert system.name == "help-desk"
    where = {c.name: (c.driver, os.path.relpath(c.location, service)) for c in system.components}
    assert where == {
        "handbook": ("sqlite", "data/handbook.db"),
        "models": ("models", "models"),
        "prompts": ("files", "prompts"),
        "config": ("files", "config"),
    }
    assert system.component("handbook").consistency == "transaction"


def test_relations_are_inferred_only_from_what_a_file_says(service: Path) -> None:
    text, system = proposed(service)
    assert system.component("models").derived_from == ("handbook",)
    assert system.component("config").reads == ("handbook",)
    assert system.component("prompts").reads == ()
    assert "# inferred: models/training.json names the file of handbook" in text


def test_foreign_keys_become_invariants_and_counts_become_witnesses(service: Path) -> None:
    _, system = proposed(service)
    (invariant,) = system.invariants
    assert invariant.every == 'handbook: SELECT "chunk_id" FROM "tickets" WHERE "chunk_id" IS NOT NULL'
    assert invariant.exists_in == 'handbook: SELECT "id" FROM "chunks"'
    assert [p.sql for p in system.probes] == [
        "SELECT 'chunks', count(*) FROM \"chunks\"",
        "SELECT 'tickets', count(*) FROM \"tickets\"",
    ]
    assert all(p.witness and p.reads == ("handbook",) for p in system.probes)
    with closing(sqlite3.connect(service / "data/handbook.db")) as db:
        for query in [p.sql for p in system.probes] + [
            q.partition(":")[2] for q in (invariant.every, invariant.exists_in) if q
        ]:
            db.execute(str(query)).fetchall()


def test_secrets_are_named_left_out_and_not_repeated(service: Path) -> None:
    text, system = proposed(service)
    assert re.search(r"WARNING: .*NOT captured", text)
    assert "#   .env: " in text
    assert "#   config/mail.yaml: a literal value under 'password'" in text
    assert system.component("config").options == {"exclude": ["/mail.yaml"]}
    assert "horse" not in text
    assert "inherited" not in text


def test_the_driver_leaves_the_secrets_out_that_the_proposal_names(service: Path) -> None:
    write(service / "config/eu/mail.yaml", "host: mail\n")
    _, system = proposed(service)
    config, driver = system.component("config"), driver_for("files")
    with driver.freeze(config) as at:
        paths = [item.path for item in driver.read(config, at) if isinstance(item, Blob)]
    driver.release(config, at)
    assert b"eu/mail.yaml" in paths
    assert b"mail.yaml" not in paths


def test_what_is_not_proposed_is_listed(service: Path) -> None:
    """P4: what nobody asks is said to be unprobed, in the very file."""
    text, _ = proposed(service)
    assert "#   app/weights.xyz: not understood" in text
    assert "#   app: 1 files of source code; version control keeps them" in text
    assert "#   .venv: " in text
    assert re.search(r"nothing asks .*prompts.*\(unprobed\)", text)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Path]:
    """A WAL database with a row that stands in its -wal only, held open by a writer."""
    path = tmp_path / "live.db"
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode=wal")
    db.execute("PRAGMA wal_autocheckpoint=0")
    db.execute("CREATE TABLE notes(id INTEGER PRIMARY KEY)")
    db.commit()
    yield path
    db.close()


def test_a_database_that_is_being_written_is_seen_as_its_writers_see_it(writer: Path) -> None:
    _, system = proposed(writer.parent)
    assert [p.name for p in system.probes] == ["count-live-notes"]


def test_what_a_killed_writer_left_beside_its_database_is_not_touched(tmp_path: Path) -> None:
    """An ordinary read-only connection would recover the log, and so rewrite its index."""
    script = (
        "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('PRAGMA journal_mode=wal');"
        "db.execute('CREATE TABLE notes(id INTEGER PRIMARY KEY)'); db.commit(); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "live.db")], check=False)
    assert killed.returncode == -9
    names = ["live.db", "live.db-shm", "live.db-wal"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    before = {name: (tmp_path / name).read_bytes() for name in names}
    _, system = proposed(tmp_path)
    assert [p.name for p in system.probes] == ["count-live-notes"]
    assert {name: (tmp_path / name).read_bytes() for name in names} == before


def test_a_wal_database_at_rest_gets_no_files_beside_it(tmp_path: Path) -> None:
    database(tmp_path / "rest.db", "CREATE TABLE notes(id INTEGER PRIMARY KEY);", mode="wal")
    _, system = proposed(tmp_path)  # compares the whole folder before and after
    assert [p.name for p in system.probes] == ["count-rest-notes"]
    assert [p.name for p in tmp_path.iterdir()] == ["rest.db"]


def test_a_database_copied_with_its_wal_alone_gets_no_files_beside_it(tmp_path: Path, writer: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "c.db").write_bytes(writer.read_bytes())
    (folder / "c.db-wal").write_bytes(Path(f"{writer}-wal").read_bytes())
    _, system = proposed(folder)
    assert [c.name for c in system.components] == ["c"]


def test_databases_are_known_by_their_bytes_and_not_by_their_names(tmp_path: Path) -> None:
    database(tmp_path / "no suffix", "CREATE TABLE t(a);")
    write(tmp_path / "not.db", "x" * 512)
    text, system = proposed(tmp_path)
    assert [(c.name, c.driver) for c in system.components] == [("no-suffix", "sqlite")]
    assert "#   not.db: not understood" in text


def test_a_corrupt_database_is_proposed_and_said_to_be_unreadable(tmp_path: Path) -> None:
    (tmp_path / "bad.db").write_bytes(b"SQLite format 3\0" + b"\xff" * (8192 - 16))
    text, system = proposed(tmp_path)
    assert [c.name for c in system.components] == ["bad"]
    assert "could not be looked into" in text


def test_a_folder_with_a_database_or_code_in_it_is_not_taken_whole(tmp_path: Path) -> None:
    database(tmp_path / "state/agent.db", "CREATE TABLE t(a);")
    write(tmp_path / "state/agent.json", "{}")
    _, system = proposed(tmp_path)
    assert sorted(os.path.relpath(c.location, tmp_path) for c in system.components) == [
        "state/agent.db",
        "state/agent.json",
    ]


def test_a_vault_is_not_captured(tmp_path: Path) -> None:
    write(tmp_path / "prompts/a.md")
    for part in ("keys/index", "roles/00000001", "packs/ab"):
        write(tmp_path / "backup" / part)
    text, system = proposed(tmp_path)
    assert [c.name for c in system.components] == ["prompts"]
    assert "#   backup: a vault" in text


def test_odd_names_end_no_comment_and_break_no_yaml(tmp_path: Path) -> None:
    database(
        tmp_path / "it's: # odd.db",
        """CREATE TABLE "a ""b"" 'c' ${d}: #"(x PRIMARY KEY);
        CREATE TABLE e("f, g" REFERENCES "a ""b"" 'c' ${d}: #"(x));""",
    )
    (tmp_path / "new\nline: 1.json").write_text("{}")
    (tmp_path / "$HOME.json").write_text("{}")
    with open(os.fsencode(tmp_path) + b"/caf\xe9.json", "wb"):
        pass
    text, system = proposed(tmp_path)
    assert [c.name for c in system.components] == ["it-s-odd"]
    assert len(system.invariants) == 1
    assert text.count("its name cannot stand in a manifest") == 3
    with closing(sqlite3.connect(system.components[0].location)) as db:
        assert [db.execute(str(p.sql)).fetchone()[1] for p in system.probes] == [0, 0]


def test_many_tables_share_a_few_probes(tmp_path: Path) -> None:
    database(tmp_path / "wide.db", "".join(f"CREATE TABLE t{n:03}(a);" for n in range(100)))
    _, system = proposed(tmp_path)
    with closing(sqlite3.connect(tmp_path / "wide.db")) as db:
        rows = [row for p in system.probes for row in db.execute(str(p.sql))]
    assert len(system.probes) <= 12
    assert sorted(name for name, _ in rows) == [f"t{n:03}" for n in range(100)]


def test_a_composite_and_an_implied_foreign_key_are_understood(tmp_path: Path) -> None:
    database(
        tmp_path / "k.db",
        "CREATE TABLE p(a, b, PRIMARY KEY(b, a)); CREATE TABLE c(x, y, FOREIGN KEY(x, y) REFERENCES P);",
    )
    _, system = proposed(tmp_path)
    assert system.invariants[0].every == 'k: SELECT "x", "y" FROM "c" WHERE "x" IS NOT NULL AND "y" IS NOT NULL'
    assert system.invariants[0].exists_in == 'k: SELECT "b", "a" FROM "p"'


def test_links_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/prompts/a.md")
    write(tmp_path / "here/prompts/b.md")
    (tmp_path / "here/loop").symlink_to(".")
    (tmp_path / "here/away").symlink_to(tmp_path / "elsewhere")
    text, system = proposed(tmp_path / "here")
    assert [c.name for c in system.components] == ["prompts"]
    assert "#   away: symbolic link" in text


def test_nothing_to_capture_and_no_folder_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path / "thing.xyz")
    with pytest.raises(NotFound) as nothing:
        propose(str(tmp_path))
    assert "thing.xyz: not understood" in nothing.value.next_step
    with pytest.raises(UsageError):
        propose(str(tmp_path / "thing.xyz"))
