"""Rows of a database captured again: what is taken over from before is what reading everything would have given (P11).

``Capture`` drives the real driver and the real memory of rows, with chunk ids made as the vault makes them; the pages that come
out are compared with those that a full scan gives.
"""

from __future__ import annotations

import os
import random
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resurgam.capture.run import capture
from resurgam.clock import SystemClock
from resurgam.drivers import sqlite_leaves
from resurgam.drivers.base import Blob, Rows
from resurgam.drivers.pieces import BLOCK
from resurgam.drivers.registry import driver_for
from resurgam.drivers.sqlite import SqliteDriver
from resurgam.drivers.sqlite_image import Image
from resurgam.drivers.sqlite_leaves import Leaves
from resurgam.model.system import Component, Json, System, VaultPlace
from resurgam.stores.local import LocalStore
from resurgam.vault import rowmemory
from resurgam.vault.compare import compare_points
from resurgam.vault.host import HostState
from resurgam.vault.keyring import Keyring
from resurgam.vault.pack import Kind
from resurgam.vault.repository import Repository
from resurgam.vault.rowmemory import RowMemory
from resurgam.vault.snapshots import Extent
from resurgam.vault.tables import Table, store_rows

KEY = b"k" * 32
VALUES = (None, 7, -(2**63), 2**63 - 1, 1.5, 2.0, "text", "", b"\x00\xff", "ü" * 90)


class Capture:
    """One capture of the database at ``path`` with what ``memory`` knows: its tables, and how many rows were decoded."""

    def __init__(self, path: Path, memory: RowMemory | None, check: str = "none") -> None:
        self.tables: list[Table] = []
        self.pages: set[bytes] = set()
        self.decoded = 0
        component = Component(name="d", driver="sqlite", location=str(path), options={"check": check})
        driver = SqliteDriver()
        with driver.freeze(component) as at:
            pass
        try:
            for item in driver.read(component, at):
                if isinstance(item, Blob):
                    extents = blocks_of(item.read())
                    if memory is not None:
                        memory.image(item.path, partial(list, extents))
                elif isinstance(item, Rows):
                    self._take(item, memory, extents)
        finally:
            driver.release(component, at)
        if memory is not None:
            memory.commit()

    def _take(self, rows: Rows, memory: RowMemory | None, extents: list[Extent]) -> None:
        rows.batches = self._counted(rows.batches)
        if isinstance(rows.pieces, Leaves):
            read = rows.pieces.read
            rows.pieces.read = lambda first, last: self._counted(read(first, last))  # type: ignore[method-assign]
        if memory is None:
            self.tables.append(store_rows(rows, KEY, self._put))
        else:
            self.tables.append(memory.store(rows, KEY, self._put, lambda: extents))

    def _counted(self, batches: object) -> Iterator[list[tuple[Json, ...]]]:
        for batch in batches:  # type: ignore[attr-defined]
            self.decoded += len(batch)
            yield batch

    def _put(self, kind: Kind, data: bytes) -> bytes:
        self.pages.add(page := blake3(bytes([kind]) + data).digest())
        return page


def blocks_of(image: bytes) -> list[Extent]:
    """The image's chunks."""
    pieces = [image[at : at + BLOCK] for at in range(0, len(image), BLOCK)]
    return [(blake3(piece).digest(), 0, len(piece)) for piece in pieces]


def memory(folder: Path, vault: str = "v", *, believe: bool = True) -> RowMemory:
    """What the host remembers, as a new process opens it."""
    return RowMemory(str(folder / "rows"), vault, believe=believe)


def documents(path: Path, count: int = 4000, page_size: int = 4096) -> Path:
    """Rows of every length, some with long chains of overflow pages."""
    rng = random.Random(1)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA page_size = {page_size}")
        db.execute("CREATE TABLE documents (id INTEGER PRIMARY KEY, title TEXT, body BLOB)")
        db.execute("BEGIN")
        rows = ((i * 3, f"title {i}", rng.randbytes(rng.choice((5, 900, 5000, 40_000)) // 4)) for i in range(count))
        db.executemany("INSERT INTO documents VALUES (?, ?, ?)", rows)
        db.execute("COMMIT")
    return path


def change(path: Path, *statements: str) -> None:
    """What an application does between two captures."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_what_did_not_change_is_not_decoded_again(tmp_path: Path, page_size: int) -> None:
    """P11: rows decoded follow rows changed; with pages of any size, and through chains of overflow pages."""
    path = documents(tmp_path / "a.db", page_size=page_size)
    first = Capture(path, memory(tmp_path))
    assert first.decoded > 4000
    change(
        path, "UPDATE documents SET body = zeroblob(9000) WHERE id IN (30, 6000)", "DELETE FROM documents WHERE id = 9"
    )
    again = Capture(path, memory(tmp_path))
    assert again.tables == Capture(path, None).tables
    assert again.tables != first.tables
    assert again.decoded < 1000


def test_an_unchanged_database_is_not_decoded_at_all(tmp_path: Path) -> None:
    """P11; but for the schema, which is always read."""
    path = documents(tmp_path / "a.db")
    first = Capture(path, memory(tmp_path))
    again = Capture(path, memory(tmp_path))
    assert (again.tables, again.pages, again.decoded) == (first.tables, first.pages, 1)


def test_changes_in_an_overflow_page_alone_are_seen(tmp_path: Path) -> None:
    """The leaf of such a row stays as it was, to the byte."""
    path = tmp_path / "a.db"
    change(path, "CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN")
        db.executemany("INSERT INTO t VALUES (?, ?)", ((i, bytes([i % 7]) * 300_000) for i in range(200)))
        db.execute("COMMIT")
    Capture(path, memory(tmp_path))
    with closing(sqlite3.connect(path, isolation_level=None)) as db, db.blobopen("t", "body", 100) as blob:
        blob.seek(250_000)
        blob.write(b"another")
    again = Capture(path, memory(tmp_path))
    assert again.tables == Capture(path, None).tables
    assert again.decoded < 20


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE documents ADD COLUMN kind TEXT DEFAULT 'plain'",
        "ALTER TABLE documents DROP COLUMN title",
        "ALTER TABLE documents RENAME COLUMN title TO name",
        "CREATE INDEX by_title ON documents (title)",
        "VACUUM",
        "DELETE FROM documents",
        "DELETE FROM documents WHERE id % 5 < 4",
        "UPDATE documents SET id = -id",
        "INSERT INTO documents SELECT id + 1000000, title, body FROM documents",
        "DROP TABLE documents",
    ],
)
def test_a_schema_that_changed_or_pages_that_moved_make_no_difference(tmp_path: Path, statement: str) -> None:
    path = documents(tmp_path / "a.db", 1500)
    Capture(path, memory(tmp_path))
    change(path, statement)
    assert Capture(path, memory(tmp_path)).tables == Capture(path, None).tables
    assert Capture(path, memory(tmp_path)).tables == Capture(path, None).tables


def test_a_table_that_took_the_pages_and_the_name_of_another_is_read_anew(tmp_path: Path) -> None:
    """Same pages, same bytes in most of them, another meaning: REAL columns hold whole numbers as integers."""
    path = tmp_path / "a.db"
    for kind in ("INTEGER", "REAL"):
        change(
            path,
            "DROP TABLE IF EXISTS t",
            f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {kind})",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000) INSERT INTO t SELECT i, 5 FROM n",
        )
        assert Capture(path, memory(tmp_path)).tables == Capture(path, None).tables


def test_tables_of_every_shape_give_the_pages_of_a_full_scan(tmp_path: Path) -> None:
    """Without rowids, without a key, with text keys, with all names of the rowid taken, with text that is none."""
    path = tmp_path / "a.db"
    shapes = {
        "plain": "(a, b)",
        "texts": "(a TEXT PRIMARY KEY NOT NULL, b)",
        "nulls": "(a TEXT PRIMARY KEY, b)",
        "pair": "(a NOT NULL, b, PRIMARY KEY (a, b))",
        "without": "(a PRIMARY KEY, b) WITHOUT ROWID",
        "taken": "(rowid TEXT, _rowid_ TEXT, oid TEXT, a, b)",
        "alias": "(rowid TEXT, a INTEGER PRIMARY KEY, b)",
        "descending": "(a INTEGER PRIMARY KEY DESC, b)",
        "computed": "(a INTEGER PRIMARY KEY, b, c AS (b || '!') STORED, d AS (a + 1))",
    }
    for name, shape in shapes.items():
        change(path, f"CREATE TABLE {name} {shape}")
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("BEGIN")
            rows = ((i, f"{i % 77} " * (i % 50)) for i in range(3000))
            db.executemany(f"INSERT INTO {name} (a, b) VALUES (?, ?)", rows)
            db.execute("COMMIT")
    change(path, "UPDATE plain SET b = CAST(x'ff61' AS TEXT) WHERE a = 1500")
    whole = Capture(path, None)
    first = Capture(path, memory(tmp_path))
    assert first.tables == whole.tables
    change(path, *(f"UPDATE {name} SET b = 'new' WHERE a = 700" for name in shapes))
    again = Capture(path, memory(tmp_path))
    assert again.tables == Capture(path, None).tables
    assert again.decoded < whole.decoded / 2


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "update", "delete", "grow", "vacuum", "index", "column", "other"]),
        st.integers(0, 2**16),
    ),
    max_size=6,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    page_size=st.sampled_from([512, 1024, 4096]),
    mode=st.sampled_from(["wal", "delete"]),
    vacuum=st.sampled_from([0, 1]),
    key=st.sampled_from(["id INTEGER PRIMARY KEY", "id INTEGER NOT NULL", "id TEXT PRIMARY KEY NOT NULL"]),
    rounds=st.lists(OPERATIONS, min_size=1, max_size=4),
)
def test_with_and_without_memory_are_the_same(
    tmp_path: Path,
    seed: int,
    page_size: int,
    mode: str,
    vacuum: int,
    key: str,
    rounds: list[list[tuple[str, int]]],
) -> None:
    """P11 costs nothing of P4's evidence: on random databases, changed at random, the pages are equal."""
    rng = random.Random(seed)
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    path = folder / "a.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA page_size = {page_size}")
        db.execute(f"PRAGMA auto_vacuum = {vacuum}")
        db.execute(f"PRAGMA journal_mode = {mode}")
        db.execute(f"CREATE TABLE t ({key}, a, b)")
        _insert(db, rng, 400)
        for operations in rounds:
            for what, number in operations:
                _operate(db, rng, what, number)
            assert Capture(path, memory(folder)).tables == Capture(path, None).tables


def _insert(db: sqlite3.Connection, rng: random.Random, count: int) -> None:
    db.execute("BEGIN")
    rows = ((rng.randrange(10**6), rng.choice(VALUES), rng.randbytes(rng.choice((3, 400, 3000)))) for _ in range(count))
    db.executemany("INSERT OR IGNORE INTO t (id, a, b) VALUES (?, ?, ?)", rows)
    db.execute("COMMIT")


def _operate(db: sqlite3.Connection, rng: random.Random, what: str, number: int) -> None:
    if what == "insert":
        _insert(db, rng, number % 40)
    elif what == "update":
        db.execute("UPDATE t SET a = ? WHERE rowid % 50 = ?", (rng.choice(VALUES), number % 50))
    elif what == "delete":
        db.execute("DELETE FROM t WHERE rowid % 20 = ?", (number % 20,))
    elif what == "grow":
        db.execute("UPDATE t SET b = zeroblob(?) WHERE rowid % 90 = ?", (number, number % 90))
    elif what == "vacuum":
        db.execute("VACUUM")
    elif what == "index":
        db.execute("CREATE INDEX IF NOT EXISTS i ON t (a)")
    elif what == "column":
        db.execute(f"ALTER TABLE t ADD COLUMN {rng.choice('cdefgh')}{rng.randrange(10**9)} DEFAULT {number}")
    else:
        db.execute("CREATE TABLE IF NOT EXISTS other (x)")
        db.execute("INSERT INTO other VALUES (zeroblob(?))", (number,))


SPOILERS: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda file: file.write_bytes(_flipped(file.read_bytes())),
    "a torn end": lambda file: file.write_bytes(file.read_bytes()[:-9]),
    "nothing": lambda file: file.write_bytes(b""),
    "no file": lambda file: file.unlink(),
    "something else": lambda file: file.write_bytes(b"RSGROWS1v\0" + bytes(40)),
    "a length of more than any file": lambda file: file.write_bytes(
        _flipped(file.read_bytes(), len(b"RSGROWS1v\0") + 7)
    ),
}


def _flipped(data: bytes, at: int | None = None) -> bytes:
    at = len(data) // 2 if at is None else at
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


@pytest.mark.parametrize("spoiler", SPOILERS)
def test_a_spoilt_memory_is_not_believed(tmp_path: Path, spoiler: str) -> None:
    """P3: what the host remembers may be lost or damaged at any time."""
    path = documents(tmp_path / "a.db", 1500)
    Capture(path, memory(tmp_path))
    SPOILERS[spoiler](tmp_path / "rows")
    change(path, "UPDATE documents SET title = 'new' WHERE id = 60")
    again = Capture(path, memory(tmp_path))
    assert again.tables == Capture(path, None).tables
    assert again.decoded > 1500


def test_the_memory_of_another_vault_or_of_other_keys_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = documents(tmp_path / "a.db", 1500)
    first = Capture(path, memory(tmp_path))
    assert Capture(path, memory(tmp_path, "other")).decoded > 1500
    Capture(path, memory(tmp_path))
    monkeypatch.setitem(globals(), "KEY", b"j" * 32)
    again = Capture(path, memory(tmp_path))
    assert again.tables != first.tables
    assert again.tables == Capture(path, None).tables


def test_paranoid_decodes_everything_and_still_remembers(tmp_path: Path) -> None:
    path = documents(tmp_path / "a.db", 1500)
    Capture(path, memory(tmp_path))
    assert Capture(path, memory(tmp_path, believe=False)).decoded > 1500
    assert Capture(path, memory(tmp_path)).decoded == 1


def test_more_rows_than_are_remembered_are_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by design."""
    monkeypatch.setattr(rowmemory, "MOST", 1000)
    path = documents(tmp_path / "a.db", 1500)
    for _ in range(2):
        again = Capture(path, memory(tmp_path))
        assert again.tables == Capture(path, None).tables
        assert again.decoded > 1500


def test_an_image_that_was_read_again_after_its_rows_is_not_remembered(tmp_path: Path) -> None:
    """Else its new bytes would vouch for the rows of its old ones."""
    path = documents(tmp_path / "a.db", 1500)
    Capture(path, memory(tmp_path))
    moved = memory(tmp_path)
    Capture(path, moved)
    moved.image(b"database", lambda: blocks_of(b"moved" * 100_000))
    moved.commit()
    assert Capture(path, memory(tmp_path)).decoded > 1500


class Bytes:
    """An image in memory."""

    def __init__(self, data: bytes) -> None:
        self.data, self.size, self.page_size = data, len(data), 1024

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """See ``drivers.base.Source``."""
        piece = self.data[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)


def test_a_damaged_structure_is_seen_and_never_followed_for_ever(tmp_path: Path) -> None:
    """Thousands of damaged images: each has a survey or none, and none that would not come to an end."""
    path = documents(tmp_path / "a.db", 300, page_size=1024)
    good = path.read_bytes()
    rng = random.Random(5)
    none = 0
    with closing(sqlite3.connect(path)) as db:
        for _ in range(1500):
            data = bytearray(good)
            page = rng.randrange(1, len(good) // 1024) * 1024
            for _ in range(rng.randrange(1, 6)):
                data[page + min(int(rng.expovariate(0.05)), 1023)] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
            leaves = _leaves(db, str(path), Bytes(bytes(data)))
            found = leaves.survey(None, np.ones(0, np.bool_)) if leaves is not None else None
            none += found is None
    assert 0 < none < 1500


def _leaves(db: sqlite3.Connection, path: str, image: object) -> Leaves | None:
    from resurgam.drivers.sqlite_rows import read_tables

    (table,) = read_tables(db)
    assert isinstance(image, Image | Bytes)
    return sqlite_leaves.leaves_of(db, path, image, table)  # type: ignore[arg-type]


def test_the_second_point_tells_exactly_what_was_changed(tmp_path: Path) -> None:
    """The whole way, through a real vault: the difference of two points is the difference of the two databases."""
    folder = os.path.realpath(tmp_path)
    path = documents(Path(folder) / "a.db")
    change(path, "PRAGMA journal_mode = wal")
    component = Component(name="d", driver="sqlite", location=str(path))
    place = VaultPlace(path=f"{folder}/vault", keys=f"{folder}/keys")
    system = System(name="s", vault=place, components=(component,))
    clock, store = SystemClock(), LocalStore.create(place.path)
    Repository.create(store, place.keys, "test", clock)

    def take() -> Repository:
        repository = Repository(store, Keyring(place.keys))
        host = HostState(Keyring(place.keys).vault.hex(), "s", f"{folder}/state")
        points.append(capture(system, driver_for, lambda _: (), repository, host, clock))
        return repository

    points: list[object] = []
    take()
    change(
        path,
        "UPDATE documents SET body = x'00' WHERE id IN (3, 3000)",
        "DELETE FROM documents WHERE id = 6000",
        "INSERT INTO documents VALUES (4, 'new', NULL)",
    )
    repository = take()
    first, second = (point.body for point in points)  # type: ignore[attr-defined]
    said = sorted((d.sign, d.where, d.key) for d in compare_points(first, second, repository))
    assert said == [
        ("+", "documents", "4"),
        ("-", "documents", "6000"),
        ("~", "documents", "3"),
        ("~", "documents", "3000"),
    ]
