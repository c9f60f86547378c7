"""The probe ``sql``: real databases in every journal mode, read without leaving a trace."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from resurgam import private
from resurgam.errors import ManifestError
from resurgam.model.point import Observation
from resurgam.model.system import Component, Json, Probe, System, VaultPlace
from resurgam.probes import sql_child
from resurgam.probes.runner import LiveRunner
from resurgam.probes.sql import SqlProbe


def system(path: Path, driver: str = "sqlite") -> System:
    component = Component(name="documents", driver=driver, location=str(path))
    return System(name="s", vault=VaultPlace(path="v", keys="k"), components=(component,), root=str(path.parent))


def ask(path: Path, sql: str) -> Observation:
    spec = Probe(name="counts", kind="sql", component="documents", sql=sql, timeout=30)
    return SqlProbe().ask(spec, system(path), LiveRunner(str(path.parent)))


def rows(path: Path, sql: str) -> Json:
    seen = ask(path, sql)
    assert seen.error is None, seen.error
    return seen.answers["rows"]


def traces(folder: Path) -> dict[str, tuple[bytes, int, int, int]]:
    """Every file with its bytes, time, mode and owner: what a read-only question must not change. (Not the time of its
    inode: for root, SQLite sets the owner of the files beside a database to what it is already.)"""
    found = {}
    for file in sorted(folder.iterdir()):
        status = file.stat()
        found[file.name] = (file.read_bytes(), status.st_mtime_ns, status.st_mode, status.st_uid)
    return found


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A live writer of a WAL database with a full-text table."""
    folder = tmp_path / "a%20?b#"
    folder.mkdir()
    with closing(sqlite3.connect(folder / "live.db")) as connection:
        connection.execute("PRAGMA journal_mode=wal")
        connection.execute("CREATE TABLE chunks (id INTEGER PRIMARY KEY, text TEXT)")
        connection.execute("CREATE VIRTUAL TABLE search USING fts5(text)")
        connection.executemany("INSERT INTO chunks (text) VALUES (?)", [("fire",), ("rebuilt",)])
        connection.execute("INSERT INTO search (text) VALUES ('the great fire')")
        connection.commit()
        yield connection


def place(connection: sqlite3.Connection) -> Path:
    return Path(connection.execute("PRAGMA database_list").fetchone()[2])


def test_a_live_wal_database_is_read_without_a_trace(writer: sqlite3.Connection) -> None:
    """P6: a witness does not write, not even a read mark beside the database; and it sees what is only in the log."""
    path = place(writer)
    for added in range(3):  # a fresh log, then one begun anew after each checkpoint
        assert_reads_without_a_trace(path, 2 + added)
        writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert_reads_without_a_trace(path, 2 + added)
        writer.execute("INSERT INTO chunks (text) VALUES ('more')")
        writer.commit()


def assert_reads_without_a_trace(path: Path, count: int) -> None:
    before = traces(path.parent)
    assert rows(path, "SELECT count(*) FROM chunks") == [[count]]
    assert traces(path.parent) == before


def test_full_text_search_can_be_asked(writer: sqlite3.Connection) -> None:
    before = traces(place(writer).parent)
    assert rows(place(writer), "SELECT text FROM search WHERE search MATCH 'great'") == [["the great fire"]]
    assert traces(place(writer).parent) == before


@pytest.mark.parametrize("left", [(), ("-wal", "-shm"), ("-wal",), ("-shm",)])
def test_a_wal_database_at_rest_is_read_without_a_trace(
    writer: sqlite3.Connection, tmp_path: Path, left: tuple[str, ...]
) -> None:
    """A restored copy (no log), one left by a crash (both files), one copied without its index, one just being closed."""
    path = place(writer)
    if "-wal" not in left:
        writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    copy = tmp_path / "rest" / "copy.db"
    copy.parent.mkdir()
    for suffix in ("", *left):
        shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
    before = traces(copy.parent)
    assert rows(copy, "SELECT text FROM chunks ORDER BY id") == [["fire"], ["rebuilt"]]
    assert traces(copy.parent) == before


def test_a_read_only_folder_and_a_rollback_journal(tmp_path: Path) -> None:
    path = tmp_path / "plain.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS a")
        connection.commit()
    before = traces(tmp_path)
    assert rows(path, "SELECT * FROM t") == [[1]]
    assert traces(tmp_path) == before


def test_a_database_that_changes_without_locks_is_never_read_torn(tmp_path: Path) -> None:
    """Opened and closed over and over by a writer, so that its log comes and goes: each answer is one committed state."""
    path = tmp_path / "busy.db"
    code = (
        "import sqlite3, sys\n"
        "while True:\n"
        "    c = sqlite3.connect(sys.argv[1], timeout=30)\n"
        "    c.execute('PRAGMA journal_mode=wal')\n"
        "    with c:\n"
        "        c.execute('CREATE TABLE IF NOT EXISTS t (n INTEGER, pad BLOB)')\n"
        "        c.execute('DELETE FROM t')\n"
        "        c.executemany('INSERT INTO t VALUES (?, randomblob(3000))', [(n,) for n in range(100)])\n"
        "    c.close()\n"
        "    print('.', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-I", "-c", code, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            seen = [ask(path, "SELECT count(*), sum(n) FROM t WHERE length(pad) = 3000") for _ in range(15)]
            assert process.poll() is None
        finally:
            process.kill()
    answered = [observation.answers["rows"] for observation in seen if observation.error is None]
    assert all(answer == [[100, 4950]] for answer in answered)
    assert {o.error for o in seen} <= {None} | {o.error for o in seen if o.error and "changed 5 times" in o.error}


@pytest.mark.parametrize("moves", [1, sql_child.TRIES])
def test_an_answer_counts_only_if_the_file_stood_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    """Without a log there are no locks to hold: a database that was written meanwhile is asked again, and then given up."""
    path = tmp_path / "moving.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=wal")
        connection.execute("CREATE TABLE t AS SELECT 0 AS n")
        connection.commit()
    answered: list[list[str]] = []
    asked = sql_child._asked

    def then_written(database: sqlite3.Connection, sql: str) -> list[str]:
        answered.append(asked(database, sql))
        if len(answered) <= moves:
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("UPDATE t SET n = n + 1")
                connection.commit()
        return answered[-1]

    monkeypatch.setattr(sql_child, "_asked", then_written)
    if moves < sql_child.TRIES:
        assert sql_child.rows(str(path), "SELECT n FROM t") == ["[1]"]
    else:
        with pytest.raises(sql_child.Refused, match="changed 5 times"):
            sql_child.rows(str(path), "SELECT n FROM t")
    assert len(answered) == min(moves + 1, sql_child.TRIES)


def test_values_that_json_lacks_are_encoded(tmp_path: Path) -> None:
    path = tmp_path / "v.db"
    sqlite3.connect(path).close()
    sql = "SELECT NULL, 9223372036854775807, 0.5, 9e999, -9e999, x'00ff', CAST(x'61ff' AS TEXT), 'ü€'"
    expected = [None, 2**63 - 1, 0.5, "Infinity", "-Infinity", {"$bytes": "00ff"}, {"$bytes": "61ff"}, "ü€"]
    assert rows(path, sql) == [expected]
    assert ask(path, sql).answers == ask(path, sql).answers


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM chunks",
        "CREATE TABLE x (a)",
        "ATTACH 'other.db' AS other",
        "PRAGMA journal_mode=delete",
        "VACUUM INTO 'other.db'",
        "SELECT load_extension('x')",
        "BEGIN IMMEDIATE",
    ],
)
def test_only_select_may_be_asked(writer: sqlite3.Connection, sql: str) -> None:
    """P6: a question cannot be an act, nor reach another database."""
    folder = place(writer).parent
    before = traces(folder)
    seen = ask(place(writer), sql)
    assert seen.error is not None
    assert "only SELECT" in seen.error
    assert traces(folder) == before


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT 1; SELECT 2", "one statement"),
        ("SELECT a FROM nowhere", "no such table"),
        ("SELECT hex(zeroblob(9000000))", "more than 16 MiB"),
    ],
)
def test_what_goes_wrong_is_an_observation(writer: sqlite3.Connection, sql: str, words: str) -> None:
    seen = ask(place(writer), sql)
    assert seen.error is not None
    assert words in seen.error


def test_an_endless_question_is_killed(writer: sqlite3.Connection) -> None:
    sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    spec = Probe(name="counts", kind="sql", component="documents", sql=sql, timeout=0.5)
    seen = SqlProbe().ask(spec, system(place(writer)), LiveRunner("/"))
    assert seen.error is not None
    assert "did not end within 0.5 s" in seen.error


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "No such file"), (b"SQLite format 3\0" + os.urandom(5000), ""), (b"x" * 5000, "not a database")],
)
def test_a_broken_database_is_an_observation(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "broken.db"
    if content is not None:
        path.write_bytes(content)
    seen = ask(path, "SELECT * FROM chunks")
    assert seen.error is not None
    assert words in seen.error
    assert [file.name for file in tmp_path.iterdir()] == ([] if content is None else ["broken.db"])


@pytest.mark.parametrize(
    ("spec", "driver", "words"),
    [
        (Probe(name="p", kind="sql", component="documents"), "sqlite", "`sql` is missing"),
        (Probe(name="p", kind="sql", component="document", sql="SELECT 1"), "sqlite", "Did you mean 'documents'?"),
        (Probe(name="p", kind="sql", sql="SELECT 1"), "sqlite", "no component that can be asked SQL"),
        (
            Probe(name="p", kind="sql", component="documents", sql="SELECT 1", run=("x",)),
            "sqlite",
            "belong to probes of kind",
        ),
    ],
)
def test_a_wrong_question_is_the_manifests_fault(tmp_path: Path, spec: Probe, driver: str, words: str) -> None:
    with pytest.raises(ManifestError) as caught:
        SqlProbe().check(spec, system(tmp_path / "x.db", driver))
    assert words in str(caught.value)


ASKING = """
import sys
from resurgam.probes.runner import LiveRunner
from resurgam.probes.sql import _directly
_directly(sys.argv[1], sys.argv[2], LiveRunner("/"), 60)
"""
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n, chunks"


def test_the_private_copy_of_a_killed_question_goes(
    writer: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``kill -9`` of who asks and of the child that copied a database with its log: the next to clear has the copy."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    left = tmp_path / "left.db"
    (live,) = (tmp_path / "a%20?b#").glob("live.db")
    shutil.copy(live, left)
    shutil.copy(f"{live}-wal", f"{left}-wal")  # and no -shm: nobody has it open
    with subprocess.Popen([sys.executable, "-c", ASKING, str(left), ENDLESS]) as process:
        try:
            copy = _the_only(temporary, "resurgam-probe-*/*/copy.db-wal")
            assert copy.read_bytes()
            (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        finally:
            process.kill()
        os.kill(int(child), signal.SIGKILL)
    assert copy.exists()
    private.clear()
    assert os.listdir(temporary) == []


def _the_only(folder: Path, pattern: str) -> Path:
    deadline = time.monotonic() + 20
    while not (found := [path for path in folder.glob(pattern) if path.stat().st_size]) and time.monotonic() < deadline:
        time.sleep(0.01)
    (path,) = found
    return path
