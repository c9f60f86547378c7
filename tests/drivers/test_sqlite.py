"""The driver sqlite: what goes in comes out, exactly, and what is wrong is said clearly. No writer is at work here."""

from __future__ import annotations

import errno
import io
import math
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from resurgam.drivers import sqlite_checks, sqlite_open, sqlite_rows
from resurgam.drivers.base import Blob, Driver, Freeze, Item, Queries, Rows, Tell
from resurgam.drivers.sqlite import SqliteDriver
from resurgam.errors import (
    Busy,
    Denied,
    IntegrityError,
    LimitExceeded,
    ManifestError,
    NotFound,
    ResurgamError,
    StoreFull,
    TargetRefused,
    Unreachable,
)
from resurgam.model.point import Finding, Position, Severity
from resurgam.model.system import Component, Consistency, Json

Row = tuple[Json, ...]


def component(path: Path | str, **options: Json) -> Component:
    """A component over the database at ``path``."""
    return Component(name="documents", driver="sqlite", location=str(path), options=options)


def build(path: Path, *statements: str, wal: bool = True) -> Path:
    """A database made by SQLite itself, past the driver."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        if wal:
            db.execute("PRAGMA journal_mode = WAL")
        for statement in statements:
            db.execute(statement)
    return path


class Capture:
    """Everything that one freeze and read of a component yields, in memory."""

    def __init__(self, what: Component) -> None:
        driver = SqliteDriver()
        with driver.freeze(what) as at:
            self.position = at
        self.image = b""
        self.meta: dict[str, Json] = {}
        self.stamp: bytes | None = None
        self.tables: dict[str, list[Row]] = {}
        self.keys: dict[str, tuple[str, ...]] = {}
        self.columns: dict[str, tuple[str, ...]] = {}
        self.findings: list[Finding] = []
        self.order: list[str] = []
        try:
            for item in driver.read(what, at):
                self._take(item)
        finally:
            driver.release(what, at)

    def _take(self, item: Item | Finding) -> None:
        if isinstance(item, Finding):
            self.findings.append(item)
        elif isinstance(item, Blob):
            self.image, self.meta, self.stamp = item.read(), dict(item.meta), item.stamp
            assert item.source.settled()
            self.order.append(item.path.decode())
        else:
            assert item.view_of == b"database"
            self.tables[item.name] = [row for batch in item.batches for row in batch]
            self.keys[item.name], self.columns[item.name] = item.key, item.columns
            self.order.append(item.name)


class Memory:
    """A Source over bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill from ``offset``."""
        part = self.data[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    def settled(self) -> bool:
        """Bytes in memory stand still."""
        return True

    def close(self) -> None:
        """Nothing is held."""


def blob(data: bytes, size: int | None = None, path: bytes = b"database") -> Blob:
    """A database Blob as a vault would hand it back."""
    return Blob(path, len(data) if size is None else size, Memory(data))


def ask(path: Path, statement: str) -> list[Row]:
    """What a plain client sees, past the driver."""
    with closing(sqlite3.connect(path)) as db:
        return db.execute(statement).fetchall()


def round_trip(tmp_path: Path, source: Path) -> tuple[Capture, Path]:
    """Capture ``source``, write it elsewhere, and hold both fingerprints against each other."""
    driver, seen = SqliteDriver(), Capture(component(source))
    target = tmp_path / "restored" / "copy.db"
    assert driver.write([blob(seen.image)], component(target)) == component(target)
    assert target.read_bytes() == seen.image
    assert driver.fingerprint(component(target)) == driver.fingerprint(component(source))
    assert sorted(os.listdir(target.parent)) == ["copy.db"], "no side files beside a restored copy"
    return seen, target


@pytest.fixture(params=["wal", "delete"])
def wal(request: pytest.FixtureRequest) -> bool:
    """Both journal modes, by the two ways of freezing."""
    return bool(request.param == "wal")


def test_it_is_a_driver_that_answers_queries() -> None:
    """The port is kept."""
    driver = SqliteDriver()
    assert isinstance(driver, Driver)
    assert isinstance(driver, Queries)
    assert driver.kind == "sqlite"
    assert driver.traits.consistency is Consistency.TRANSACTION


def test_a_round_trip_keeps_all_kinds_of_values(tmp_path: Path, wal: bool) -> None:
    """NULL, 64-bit integers, ±Inf, NaN (SQLite's NULL), blobs, long text, text that is not UTF-8."""
    source = build(
        tmp_path / "a.db",
        "CREATE TABLE v (id INTEGER PRIMARY KEY, a)",
        f"INSERT INTO v(a) VALUES (NULL), ({2**63 - 1}), (-9223372036854775807 - 1), (9e999), (-9e999), (9e999 - 9e999),"
        " (x'00ff'), (''), (x''), ('é' || char(0) || 'b'), (CAST(x'ff41' AS TEXT)), (0.1), (1.0), (1)",
        "INSERT INTO v(a) SELECT value FROM (WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n"
        " WHERE value < 3000) SELECT value FROM n)",
        wal=wal,
    )
    seen, target = round_trip(tmp_path, source)
    values = [row[1] for row in seen.tables["v"]]
    assert values[:14] == [
        None, 2**63 - 1, -(2**63), math.inf, -math.inf, None, b"\x00\xff", "", b"", "é\x00b", b"\xffA", 0.1, 1.0, 1,
    ]  # fmt: skip
    assert [type(v) for v in values[12:14]] == [float, int]
    assert values[14:] == list(range(1, 3001)), "each row once, also where text made it start over"
    assert ask(target, "SELECT count(*) FROM v") == [(3014,)]
    assert seen.findings == []
    assert seen.meta["journal_mode"] == ("wal" if wal else "delete")
    assert ask(target, "PRAGMA journal_mode") == [("wal" if wal else "delete",)]


def test_undecodable_text_far_into_a_table_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """The fast path breaks off in the middle of a batch and goes on exactly there."""
    source = build(
        tmp_path / "a.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
        " INSERT INTO t SELECT i, 'row ' || i FROM n",
        "UPDATE t SET a = CAST(x'c328' AS TEXT) WHERE id = 3333",
    )
    rows = Capture(component(source)).tables["t"]
    assert rows == [(i, b"\xc3(" if i == 3333 else f"row {i}") for i in range(1, 5001)]


def test_keys_are_those_that_hold(tmp_path: Path) -> None:
    """A rowid alias, a declared key, WITHOUT ROWID; no key, and a key that NULLs have broken, are none."""
    source = build(
        tmp_path / "a.db",
        "CREATE TABLE alias (x, id INTEGER PRIMARY KEY)",
        "CREATE TABLE declared (a TEXT, b INT, c, PRIMARY KEY (b, a))",
        "CREATE TABLE keyless (a, b)",
        "CREATE TABLE nulls (a TEXT PRIMARY KEY, b)",
        "CREATE TABLE without (k TEXT PRIMARY KEY, v) WITHOUT ROWID",
        "INSERT INTO nulls VALUES (NULL, 1), (NULL, 2)",
        "INSERT INTO keyless VALUES (1, 2), (1, 2)",
        "INSERT INTO without VALUES ('b', 1), ('a', 2)",
    )
    seen = Capture(component(source))
    assert seen.keys == {
        "sqlite_schema": ("type", "name"),
        "alias": ("id",),
        "declared": ("b", "a"),
        "keyless": (),
        "nulls": (),
        "without": ("k",),
    }
    assert seen.tables["keyless"] == [(1, 2), (1, 2)]
    assert seen.tables["without"] == [("a", 2), ("b", 1)]


def test_generated_columns_internal_tables_and_odd_names(tmp_path: Path) -> None:
    """STORED generated values are there, computed ones not; sqlite_sequence and sqlite_stat1 come too."""
    source = build(
        tmp_path / "we\"ird 'na%me%20?#.db",
        'CREATE TABLE "a ""table" (id INTEGER PRIMARY KEY AUTOINCREMENT, "co\'l", s AS ("co\'l" * 2) STORED,'
        ' v AS ("co\'l" * 3))',
        'CREATE INDEX i ON "a ""table"("co\'l")',
        'INSERT INTO "a ""table"("co\'l") VALUES (7)',
        "ANALYZE",
        "PRAGMA user_version = 42",
        "PRAGMA application_id = 77",
    )
    seen, target = round_trip(tmp_path, source)
    assert seen.columns['a "table'] == ("id", "co'l", "s")
    assert seen.tables['a "table'] == [(1, 7, 14)]
    assert seen.tables["sqlite_sequence"] == [('a "table', 1)]
    assert len(seen.tables["sqlite_stat1"]) == 1
    assert ask(target, "PRAGMA user_version") == [(42,)]
    facts = SqliteDriver().inspect(component(source))
    assert (facts["user_version"], facts["application_id"], facts["freeze"]) == (42, 77, Freeze.PIN.value)


def test_full_text_indexes_come_with_their_shadow_tables(tmp_path: Path) -> None:
    """FTS5 works on the restored copy; the virtual table itself is not a table of rows."""
    source = build(
        tmp_path / "a.db",
        "CREATE VIRTUAL TABLE f USING fts5(body)",
        "INSERT INTO f VALUES ('the great fire'), ('rise again')",
    )
    seen, target = round_trip(tmp_path, source)
    assert "f" not in seen.tables
    assert {"f_data", "f_idx", "f_content", "f_docsize", "f_config"} <= set(seen.tables)
    assert ask(target, "SELECT rowid FROM f WHERE f MATCH 'rise'") == [(2,)]
    assert seen.findings == []


def test_a_full_text_index_that_lies_is_a_finding(tmp_path: Path, wal: bool) -> None:
    """quick_check does not see it; the index's own check, in a private copy, does."""
    source = build(
        tmp_path / "a.db",
        "CREATE VIRTUAL TABLE f USING fts5(body)",
        "INSERT INTO f VALUES ('the great fire')",
        "UPDATE f_content SET c0 = 'another text'",
        wal=wal,
    )
    before = source.read_bytes()
    (finding,) = Capture(component(source)).findings
    assert finding.severity is Severity.BROKEN
    assert finding.component == "documents"
    assert "full-text index f " in finding.what
    assert source.read_bytes() == before


def test_an_unknown_module_is_a_note_and_its_data_comes(tmp_path: Path) -> None:
    """An application's own extension need not be here."""
    source = build(
        tmp_path / "a.db",
        "CREATE TABLE vec_data (id INTEGER PRIMARY KEY, v)",
        "INSERT INTO vec_data VALUES (1, x'01')",
        "PRAGMA writable_schema = 1",
        "INSERT INTO sqlite_master VALUES ('table', 'vec', 'vec', 0, 'CREATE VIRTUAL TABLE vec USING vec0(v)')",
    )
    seen, _ = round_trip(tmp_path, source)
    assert [(f.severity, "vec0" in f.what) for f in seen.findings] == [(Severity.NOTE, True)]
    assert seen.tables["vec_data"] == [(1, b"\x01")]


def test_a_collation_of_the_applications_own_does_not_stop_a_capture(tmp_path: Path) -> None:
    """The image is exact all the same; what cannot be decoded here is said."""
    source = tmp_path / "a.db"
    with closing(sqlite3.connect(source, isolation_level=None)) as db:
        db.create_collation("own", lambda a, b: (a > b) - (a < b))
        db.execute("CREATE TABLE t (k TEXT COLLATE own PRIMARY KEY, v) WITHOUT ROWID")
        db.execute("CREATE TABLE u (k TEXT COLLATE own PRIMARY KEY, v)")
        db.execute("INSERT INTO t VALUES ('b', 1), ('a', 2)")
        db.execute("INSERT INTO u VALUES ('b', 1), ('a', 2)")
    seen, _ = round_trip(tmp_path, source)
    assert seen.image == source.read_bytes()
    assert seen.tables["u"] == [("b", 1), ("a", 2)]
    assert all(f.severity is Severity.WARNING for f in seen.findings)


@pytest.mark.parametrize("statements", [(), ("CREATE TABLE t (a)",), ("PRAGMA user_version = 3",)])
def test_empty_databases(tmp_path: Path, wal: bool, statements: tuple[str, ...]) -> None:
    """No page, no table, no row."""
    source = build(tmp_path / "a.db", *statements, wal=wal)
    seen, target = round_trip(tmp_path, source)
    assert len(seen.image) == os.stat(source).st_size
    assert seen.order[:2] == ["database", "sqlite_schema"]
    assert ask(target, "PRAGMA user_version") == [(3 if statements and "user_version" in statements[0] else 0,)]


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_page_sizes_and_a_multi_megabyte_database(tmp_path: Path, wal: bool, page_size: int) -> None:
    """The image is what SQLite's own file is once checkpointed."""
    source = build(
        tmp_path / "a.db",
        f"PRAGMA page_size = {page_size}",
        "PRAGMA journal_mode = DELETE",
        "VACUUM",
        f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, b)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600)"
        " INSERT INTO t SELECT i, randomblob(10000) FROM n",
        wal=False,
    )
    seen, _ = round_trip(tmp_path, source)
    assert seen.meta["page_size"] == page_size
    assert seen.image == source.read_bytes()
    assert len(seen.image) > 6_000_000
    assert len(seen.tables["t"]) == 600


def test_capture_leaves_an_idle_source_as_it_was(tmp_path: Path, wal: bool) -> None:
    """No byte, no time stamp, no file beside it; and then the stamp spares the next reading."""
    source = build(tmp_path / "a.db", "CREATE TABLE t (a)", wal=wal)
    os.utime(source, (1_000_000_000, 1_000_000_000))
    before = os.stat(source)
    first, second = Capture(component(source)), Capture(component(source))
    SqliteDriver().inspect(component(source))
    after = os.stat(source)
    assert (after.st_mtime_ns, after.st_ctime_ns, after.st_ino) == (
        before.st_mtime_ns,
        before.st_ctime_ns,
        before.st_ino,
    )
    assert os.listdir(tmp_path) == ["a.db"]
    assert first.stamp is not None
    assert first.stamp == second.stamp
    assert first.position == second.position
    build(source, "INSERT INTO t VALUES (1)", wal=wal)
    third = Capture(component(source))
    assert third.stamp is None, "the file is as young as its time stamp is coarse"
    assert third.position != first.position


def test_what_the_reader_knows_is_not_decoded_again(tmp_path: Path) -> None:
    """P11: neither checks nor rows are repeated for an image whose stamp is unchanged; other options are another stamp."""
    source = build(tmp_path / "a.db", "CREATE TABLE t (a)")
    os.utime(source, (1_000_000_000, 1_000_000_000))
    driver, what = SqliteDriver(), component(source)
    with driver.freeze(what) as at:
        pass
    items = driver.read(what, at)
    image = next(items)
    assert isinstance(image, Blob)
    assert image.view
    image.known = True
    assert list(items) == []
    driver.release(what, at)
    assert image.stamp == Capture(what).stamp
    assert image.stamp != Capture(component(source, rows=False)).stamp


def test_a_wal_that_a_dead_application_left_is_captured_and_left_alone(tmp_path: Path) -> None:
    """What stands only in -wal is part of the database; reading does not checkpoint it."""
    source = tmp_path / "a.db"
    child = (
        "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "db.execute('PRAGMA journal_mode = WAL'); db.execute('CREATE TABLE t (a)');"
        "db.execute('INSERT INTO t VALUES (1)'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", child, str(source)], check=True)
    log = (tmp_path / "a.db-wal").read_bytes()
    seen = Capture(component(source))
    assert seen.tables["t"] == [(1,)]
    assert (tmp_path / "a.db-wal").read_bytes() == log
    with closing(sqlite3.connect(source)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert seen.image == source.read_bytes()


def test_a_hot_journal_is_played_back_first(tmp_path: Path) -> None:
    """A writer died in the middle of a commit: the position is the state before it."""
    source = build(tmp_path / "a.db", "CREATE TABLE t (a)", "INSERT INTO t VALUES (zeroblob(100000))", wal=False)
    child = (
        "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None); db.execute('PRAGMA cache_size = 1');"
        "db.execute('PRAGMA synchronous = OFF'); db.execute('BEGIN'); db.execute('UPDATE t SET a = randomblob(200000)');"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", child, str(source)], check=True)
    assert (tmp_path / "a.db-journal").exists()
    assert Capture(component(source)).tables["t"] == [(bytes(100000),)]


def test_fingerprint_sees_meaning_only(tmp_path: Path, wal: bool) -> None:
    """A vacuum and the order of keyless rows change nothing; a value, a schema, a version do."""
    source = build(
        tmp_path / "a.db", "CREATE TABLE t (a, b)", "INSERT INTO t VALUES (1, 'x'), (2, 'y'), (1.0, 'x')", wal=wal
    )
    other = build(
        tmp_path / "b.db",
        "CREATE TABLE t (a, b)",
        "INSERT INTO t VALUES (2, 'y'), (1.0, 'x'), (5, 5), (1, 'x')",
        "DELETE FROM t WHERE a = 5",
        "VACUUM",
        wal=wal,
    )
    driver = SqliteDriver()
    first = driver.fingerprint(component(source))
    assert driver.fingerprint(component(other)) == first
    for statement in ("UPDATE t SET b = 'z' WHERE a = 2", "CREATE INDEX i ON t(a)", "PRAGMA user_version = 1",
                      "UPDATE t SET a = CAST(a AS REAL)", "UPDATE t SET b = CAST(b AS BLOB)"):  # fmt: skip
        before = driver.fingerprint(component(other))
        build(other, statement, wal=wal)
        assert driver.fingerprint(component(other)) != before, statement


def test_fingerprint_does_not_depend_on_batches_or_releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands in records for years: this value may never change."""
    source = build(
        tmp_path / "a.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500)"
        " INSERT INTO t SELECT i, i * 0.5, CASE i % 3 WHEN 0 THEN NULL WHEN 1 THEN 'text' ELSE x'ff' END FROM n",
    )
    golden = "bd59aee49c8ccaa27faf752e1ae07d1700f16f0da2fce91fe5ebc86afe18977f"
    assert SqliteDriver().fingerprint(component(source)) == golden
    monkeypatch.setattr(sqlite_rows, "BATCH_ROWS", 7)
    assert SqliteDriver().fingerprint(component(source)) == golden


def test_full_text_indexes_of_a_large_database_are_left_out_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A NOTE names them; no private copy is made."""
    source = build(tmp_path / "a.db", "CREATE VIRTUAL TABLE f USING fts5(body)")
    monkeypatch.setattr(sqlite_checks, "FTS_LIMIT", 1)
    (note,) = Capture(component(source)).findings
    assert (note.severity, note.keys) == (Severity.NOTE, ("f",))


@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.ENOSPC, StoreFull), (errno.EIO, Unreachable), (errno.EACCES, Denied), (errno.ENOENT, NotFound)],
)
def test_what_the_system_says_becomes_an_error_with_a_next_step(number: int, error: type[ResurgamError]) -> None:
    """P12: one class per decision that the caller can take."""
    told = sqlite_open.explain_os(OSError(number, os.strerror(number)), "/a.db")
    assert type(told) is error
    assert told.untouched
    assert told.next_step


def test_queries_read_at_the_position_and_nothing_else(tmp_path: Path) -> None:
    """What was written after the freeze stays out; whatever is not one SELECT is refused."""
    source = build(tmp_path / "a.db", "CREATE TABLE t (a)", "INSERT INTO t VALUES (1)",
                   "CREATE VIRTUAL TABLE f USING fts5(body)", "INSERT INTO f VALUES ('rise again')")  # fmt: skip
    driver, what = SqliteDriver(), component(source)
    with driver.freeze(what) as at:
        pass
    build(source, "INSERT INTO t VALUES (2)")

    def answer(statement: str) -> list[Row]:
        return [row for batch in driver.query(what, at, statement).batches for row in batch]

    assert answer("SELECT a AS x FROM t") == [(1,)]
    assert driver.query(what, at, "SELECT a AS x FROM t").columns == ("x",)
    assert answer("WITH n AS (SELECT a FROM t) SELECT sum(a) FROM n") == [(1,)]
    assert answer("SELECT body FROM f WHERE f MATCH 'rise'") == [("rise again",)]
    for wrong in ("INSERT INTO t VALUES (3)", "DELETE FROM t", f"ATTACH '{tmp_path}/x.db' AS x", "PRAGMA query_only = 0",
                  "SELECT 1; SELECT 2", "SELECT nothing FROM t", "", "COMMIT", "SELECT load_extension('x')"):  # fmt: skip
        with pytest.raises(ManifestError) as caught:
            answer(wrong)
        assert caught.value.next_step
    assert answer("SELECT count(*) FROM t") == [(1,)], "still the same position"
    driver.release(what, at)
    driver.release(what, at)
    with pytest.raises(NotFound):
        answer("SELECT 1")


# --- what is wrong is said clearly (P12) ---------------------------------------------------------------------------


def _missing(path: Path) -> None:
    pass


def _folder(path: Path) -> None:
    path.mkdir()


def _text(path: Path) -> None:
    path.write_text("dear diary\n" * 1000)


def _noise(path: Path) -> None:
    path.write_bytes(os.urandom(8192))


def _truncated(path: Path) -> None:
    build(path, "CREATE TABLE t (a)", "INSERT INTO t VALUES (randomblob(50000))", wal=False)
    os.truncate(path, 20000)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (_missing, NotFound),
        (_folder, NotFound),
        (_text, IntegrityError),
        (_noise, IntegrityError),
        (_truncated, IntegrityError),
    ],
)
def test_what_is_no_database_is_refused(tmp_path: Path, make: object, error: type[ResurgamError]) -> None:
    """P12: each with the next step; nothing is made or changed."""
    path = tmp_path / "a.db"
    assert callable(make)
    make(path)
    before = os.listdir(tmp_path)
    driver = SqliteDriver()
    with pytest.raises(error) as caught, driver.freeze(component(path)):
        pass
    assert caught.value.next_step
    with pytest.raises(error):
        driver.inspect(component(path))
    with pytest.raises(error):
        driver.fingerprint(component(path))
    assert os.listdir(tmp_path) == before


def test_an_unreadable_database_is_denied(tmp_path: Path) -> None:
    """P12, asked by a user without rights (root has them all, so a child gives its own away)."""
    source = build(tmp_path / "a.db", "CREATE TABLE t (a)")
    source.chmod(0o000)
    child = (
        "import sys\nfrom resurgam.drivers.sqlite import SqliteDriver\nfrom resurgam.errors import Denied\n"
        "from resurgam.model.system import Component\nimport os\n"
        "if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try:\n with SqliteDriver().freeze(Component(name='a', driver='sqlite', location=sys.argv[1])): pass\n"
        "except Denied as error: print(bool(error.next_step))\n"
    )
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", child, str(source)], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr


def test_a_damaged_page_is_a_finding_and_the_image_is_kept(tmp_path: Path, wal: bool) -> None:
    """A point is sealed with its findings; the rows that cannot be decoded are not guessed (P12)."""
    source = build(
        tmp_path / "a.db",
        "CREATE TABLE t (a)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) INSERT INTO t SELECT hex(i) FROM n",
        wal=wal,
    )
    with source.open("r+b") as file:
        file.seek(4096 * 2)
        file.write(b"\xa5" * 4096)
    seen = Capture(component(source))
    assert seen.image == source.read_bytes()
    assert [f.severity for f in seen.findings] == [Severity.BROKEN, Severity.WARNING]
    assert "quick_check" in seen.findings[0].what
    assert seen.tables == {}
    with pytest.raises(IntegrityError):
        Capture(component(source, check="none"))


def test_a_database_locked_exclusively_is_busy(tmp_path: Path, wal: bool) -> None:
    """Somebody shuts even readers out: wait for him."""
    source = build(tmp_path / "a.db", "CREATE TABLE t (a)", wal=wal)
    with closing(sqlite3.connect(source, isolation_level=None)) as owner:
        owner.execute("PRAGMA locking_mode = EXCLUSIVE")
        owner.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Busy), SqliteDriver().freeze(component(source, freeze_limit=0.1)):
            pass


def test_a_transaction_left_open_exceeds_the_limit(tmp_path: Path, wal: bool) -> None:
    """The limit is kept, and the one who holds the lock is not disturbed."""
    source = build(tmp_path / "a.db", "CREATE TABLE t (a)", wal=wal)
    with closing(sqlite3.connect(source, isolation_level=None)) as owner:
        owner.execute("BEGIN IMMEDIATE")
        owner.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(LimitExceeded), SqliteDriver().freeze(component(source, freeze_limit=0.1)):
            pass
        owner.execute("COMMIT")
    assert Capture(component(source)).tables["t"] == [(1,)]


def test_a_freeze_held_too_long_lets_the_writers_go_by_itself(tmp_path: Path, wal: bool) -> None:
    """The watchdog acts while the block still runs; the position is then worth nothing."""
    source = build(tmp_path / "a.db", "CREATE TABLE t (a)", wal=wal)
    driver, what = SqliteDriver(), component(source, freeze_limit=0.1)
    position: list[Position] = []
    with pytest.raises(LimitExceeded), driver.freeze(what) as at:  # noqa: PT012 - the block is what is tested
        position.append(at)
        with closing(sqlite3.connect(source, timeout=30, isolation_level=None)) as writer:
            writer.execute("INSERT INTO t VALUES (1)")  # waits until it may, without an error
    with pytest.raises(NotFound):
        list(driver.read(what, position[0]))


@pytest.mark.parametrize("options", [{"row": True}, {"rows": "yes"}, {"check": "full"}, {"freeze_limit": 0}])
def test_wrong_options_are_named(tmp_path: Path, options: dict[str, Json]) -> None:
    """A misspelt option is never ignored."""
    source = build(tmp_path / "a.db", "CREATE TABLE t (a)")
    with pytest.raises(ManifestError) as caught:
        SqliteDriver().inspect(component(source, **options))
    assert "freeze_limit" in caught.value.next_step


def test_options_leave_out_rows_and_checks(tmp_path: Path) -> None:
    """``rows: false`` and ``check: none`` leave the image alone."""
    source = build(tmp_path / "a.db", "CREATE TABLE t (a)")
    assert Capture(component(source, rows=False, check="none")).order == ["database"]


# --- write and erase ----------------------------------------------------------------------------------------------


def test_write_refuses_what_is_there(tmp_path: Path) -> None:
    """The live database is something that is there."""
    source = build(tmp_path / "a.db", "CREATE TABLE t (a)")
    before = source.read_bytes()
    with pytest.raises(TargetRefused):
        SqliteDriver().write([blob(before)], component(source))
    assert source.read_bytes() == before


def test_write_removes_a_stale_log_beside_the_target(tmp_path: Path) -> None:
    """An old -wal would be laid over the restored file by the first client."""
    seen = Capture(component(build(tmp_path / "a.db", "CREATE TABLE t (a)", "INSERT INTO t VALUES (1)")))
    target = tmp_path / "copy.db"
    for ending in ("-wal", "-shm", "-journal"):
        Path(f"{target}{ending}").write_bytes(b"stale")
    SqliteDriver().write([blob(seen.image)], component(target))
    assert sorted(os.listdir(tmp_path)) == ["a.db", "copy.db"]


def _broken_items() -> Iterator[list[Item]]:
    good = blob(b"")
    yield []
    yield [good, blob(b"")]
    yield [blob(b"", path=b"other")]
    yield [good, Rows("t", ("a",), (), [])]
    yield [blob(b"", size=10)]
    yield [blob(os.urandom(4096))]


@pytest.mark.parametrize("items", list(_broken_items()))
def test_write_refuses_wrong_items(tmp_path: Path, items: list[Item]) -> None:
    """Missing, doubled, unknown, not a view, short, rubbish: IntegrityError, and nothing is left (P5)."""
    with pytest.raises(IntegrityError):
        SqliteDriver().write(items, component(tmp_path / "copy.db"))
    assert os.listdir(tmp_path) == []


def test_write_refuses_an_image_that_lost_its_end(tmp_path: Path) -> None:
    """The header's page count must be that of the file."""
    image = Capture(component(build(tmp_path / "a.db", "CREATE TABLE t (a)", wal=False))).image
    with pytest.raises(IntegrityError):
        SqliteDriver().write([blob(image[:-4096])], component(tmp_path / "copy.db"))
    with pytest.raises(IntegrityError):
        SqliteDriver().write([blob(image + bytes(4096))], component(tmp_path / "copy.db"))


def test_the_target_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    """P5: while items still come, nothing stands under the target's name."""
    image = Capture(component(build(tmp_path / "a.db", "CREATE TABLE t (a)"))).image
    target = tmp_path / "copy.db"

    def items() -> Iterator[Item]:
        yield blob(image)
        assert not target.exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SqliteDriver().write(items(), component(target))
    assert os.listdir(tmp_path) == ["a.db"]


def test_permissions_survive(tmp_path: Path) -> None:
    """A database of personal data does not become readable by all."""
    source = build(tmp_path / "a.db", "CREATE TABLE t (a)")
    source.chmod(0o640)
    seen = Capture(component(source))
    restored = Blob(b"database", len(seen.image), Memory(seen.image), seen.meta)
    SqliteDriver().write([restored], component(tmp_path / "copy.db"))
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o640
    SqliteDriver().write([blob(seen.image)], component(tmp_path / "unsaid.db"))
    assert (tmp_path / "unsaid.db").stat().st_mode & 0o777 == 0o600


def test_erase_removes_what_write_left(tmp_path: Path) -> None:
    """Also the remains of a killed write; nobody else's files; repeatable."""
    for name in ("copy.db", "copy.db-wal", "copy.db.partial-12ab", "copy.dbx", "other.db"):
        (tmp_path / name).touch()
    for _ in range(2):
        SqliteDriver().erase(component(tmp_path / "copy.db"))
    assert sorted(os.listdir(tmp_path)) == ["copy.dbx", "other.db"]
    SqliteDriver().erase(component(tmp_path / "nowhere" / "copy.db"))


def test_no_value_of_the_database_is_quoted(tmp_path: Path) -> None:
    """Facts, meta and errors hold no data: the decoder's own error would quote the text it could not read."""
    source = build(tmp_path / "a.db", "CREATE TABLE t (a)", "INSERT INTO t VALUES (CAST('hunter2' || x'ff' AS TEXT))")
    driver, what = SqliteDriver(), component(source)
    assert "hunter2" not in repr(driver.inspect(what))
    with driver.freeze(what) as at:
        pass
    with pytest.raises(ManifestError) as caught:
        list(driver.query(what, at, "SELECT a FROM t").batches)
    driver.release(what, at)
    assert "hunter2" not in str(caught.value)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """P5, P12: a disk that is full, as the copying or the flush beside it is told, is StoreFull; nothing stands at the target."""

    class Full(Blob):
        """Bytes that do not all fit."""

        def copy_to(self, descriptor: int, tell: Tell | None = None) -> bool:
            super().copy_to(descriptor, tell)
            raise OSError(errno.ENOSPC, "No space left on device")

    path = build(tmp_path / "a.db", "CREATE TABLE t (a)")
    whole = path.read_bytes()
    with pytest.raises(StoreFull):
        SqliteDriver().write(
            [Full(b"database", len(whole), _Open(io.BytesIO(whole)), {})], component(tmp_path / "out" / "b.db")
        )
    assert os.listdir(tmp_path / "out") == []


class _Open:
    """A source over an open file."""

    def __init__(self, file: io.BytesIO) -> None:
        self._file = file

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """See ``drivers.base.Source``."""
        self._file.seek(offset)
        return self._file.readinto(buffer)

    def settled(self) -> bool:
        """It stands still."""
        return True

    def close(self) -> None:
        """Nothing is held."""
