"""What is wrong with an agent's threads and memories is said in the point, and never stops a capture."""

from __future__ import annotations

import operator
import os
import pickle
import shutil
import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.store.sqlite.base import VECTOR_MIGRATIONS
from langgraph.types import Command

from resurgam.drivers.base import Rows
from resurgam.drivers.langgraph import LangGraphDriver
from resurgam.model.point import Severity
from tests.drivers.langgraph_app import opened, seed, thread
from tests.drivers.langgraph_kit import capture, component, found, restored, sql, table


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that the agent made, to be copied and never changed."""
    path = tmp_path_factory.mktemp("seeded") / "agent.db"
    seed(str(path))
    return path


@pytest.fixture
def live(seeded: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copy(seeded, tmp_path / "agent.db"))


def test_a_sound_file_has_no_findings_but_what_expires(live: Path) -> None:
    """What is in order is not spoken of; that two memories will end is (P10)."""
    [note] = capture(live).findings
    assert note.severity is Severity.NOTE
    assert note.what.startswith("2 memories expire: a restore keeps their dates")


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_no_way_of_writing_looks_like_damage(tmp_path: Path, durability: str) -> None:
    """Each durability of the library leaves whole chains."""
    path = tmp_path / "agent.db"
    with opened(str(path)) as (agent, _):
        for careful in (False, True):
            agent.invoke({"careful": careful}, thread("one"), durability=durability)
        agent.invoke(Command(resume="yes"), thread("one"), durability=durability)
    assert not capture(path).findings


class Aes:
    """A cipher as LangGraph's EncryptedSerializer asks for one."""

    def __init__(self, key: bytes) -> None:
        self._aes = AESGCM(key)

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        """A name and nonce + ciphertext."""
        nonce = os.urandom(12)
        return "aes", nonce + self._aes.encrypt(nonce, plaintext, None)

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        """The way back."""
        assert ciphername == "aes"
        return self._aes.decrypt(ciphertext[:12], ciphertext[12:], None)


def test_encrypted_threads_stay_shut_and_need_a_named_key(tmp_path: Path) -> None:
    """A key is a reference: its name is asked for, its value never read, and with it the copy opens."""
    path, key = tmp_path / "agent.db", b"sixteen byte key"
    serde = EncryptedSerializer(Aes(key), JsonPlusSerializer())
    with opened(str(path), serde) as (agent, _):
        agent.invoke({"careful": True}, thread("private"))
    taken = capture(path)
    [warning] = found(taken, "encrypted")
    assert (warning.severity, warning.keys) == (Severity.WARNING, ("private",))
    assert "${LANGGRAPH_AES_KEY}" in warning.what
    assert not found(capture(path, key="${LANGGRAPH_AES_KEY}"), "encrypted")
    [row] = table(taken, "threads")
    assert (row["serializer"], row["waiting"]) == ("msgpack+aes", 1)
    assert not table(taken, "state")
    with opened(str(restored(taken, tmp_path / "copy.db")), serde) as (agent, _):
        assert agent.get_state(thread("private")).values == {"steps": [1], "total": 1, "careful": True}


class Trap:
    """A pickle that leaves a mark where it is opened."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (self.mark,)


def test_pickles_are_named_and_never_opened(live: Path, tmp_path: Path) -> None:
    """P12: the threads are named; nothing of the pickle runs."""
    mark = str(tmp_path / "opened")
    with closing(sqlite3.connect(live)) as db, db:
        db.execute(
            "UPDATE checkpoints SET type = 'pickle', checkpoint = ? WHERE thread_id = 't1'", (pickle.dumps(Trap(mark)),)
        )
    taken = capture(live)
    [warning] = found(taken, "pickled")
    assert (warning.severity, warning.keys) == (Severity.WARNING, ("t1",))
    assert not os.path.exists(mark)
    assert "t1" not in {row["thread_id"] for row in table(taken, "state")}


FIRST_OF_T2 = "DELETE FROM checkpoints WHERE rowid = (SELECT min(rowid) FROM checkpoints WHERE thread_id = 't2')"
TORN_W = "UPDATE checkpoints SET checkpoint = substr(checkpoint, 1, 40) WHERE thread_id = 'w'"


@pytest.mark.parametrize(
    ("damage", "severity", "words"),
    [
        ("DELETE FROM store_migrations WHERE v >= 2", Severity.BROKEN, "expires_at is there"),
        ("ALTER TABLE store DROP COLUMN ttl_minutes", Severity.BROKEN, "ttl_minutes is missing"),
        ("ALTER TABLE checkpoints DROP COLUMN metadata", Severity.BROKEN, "lacks metadata"),
        ("DROP TABLE writes", Severity.BROKEN, "only checkpoints is there"),
        ("DROP TABLE store", Severity.BROKEN, "table store is missing"),
        ("ALTER TABLE writes DROP COLUMN task_path", Severity.NOTE, "of an older library"),
        ("INSERT INTO store_migrations VALUES (99)", Severity.WARNING, "by a newer library"),
        ("DELETE FROM store_migrations WHERE v = 4", Severity.NOTE, "stand at 3"),
        ("CREATE TABLE vector_migrations AS SELECT 0 AS v", Severity.BROKEN, "store_vectors is missing"),
        (FIRST_OF_T2, Severity.WARNING, "parent is missing"),
        ("DELETE FROM checkpoints WHERE thread_id = 't0'", Severity.NOTE, "whose checkpoint is not there"),
        ("UPDATE writes SET type = 'cbor' WHERE thread_id = 't3'", Severity.WARNING, "does not know"),
        (TORN_W, Severity.WARNING, "cannot be decoded"),
        ("UPDATE store SET value = '{torn' WHERE key = 'fact 2'", Severity.WARNING, "is no JSON"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_a_finding_and_stops_no_capture(
    live: Path, tmp_path: Path, damage: str, severity: Severity, words: str
) -> None:
    """Half-migrated tables and broken chains: told in the point, and the bytes are kept as they are."""
    sql(live, damage, "PRAGMA wal_checkpoint(TRUNCATE)")
    taken = capture(live)
    assert [finding.severity for finding in found(taken, words)] == [severity]
    copy = restored(taken, tmp_path / "copy.db")
    assert copy.read_bytes() == live.read_bytes()
    assert LangGraphDriver().inspect(component(live))["bytes"] == len(live.read_bytes())


def test_a_database_without_an_agent_says_so(tmp_path: Path) -> None:
    """A wrong location is no error of the database, and no agent."""
    sql(tmp_path / "other.db", "CREATE TABLE notes (id INTEGER PRIMARY KEY)")
    taken = capture(tmp_path / "other.db")
    assert [finding.severity for finding in found(taken, "no tables of LangGraph")] == [Severity.WARNING]


def test_a_damaged_page_is_told_once_and_kept(live: Path) -> None:
    """The image is captured; nothing is decoded from what SQLite calls damaged."""
    data = bytearray(live.read_bytes())
    data[4096 * 2 : 4096 * 3] = b"\xff" * 4096
    live.write_bytes(data)
    taken = capture(live)
    assert Severity.BROKEN in {finding.severity for finding in taken.findings}
    assert taken.blobs[b"database"] == bytes(data)
    assert not [item for item in taken.items if isinstance(item, Rows)]
    assert "damaged" in LangGraphDriver().inspect(component(live))["uncounted"]


def test_a_gap_below_differences_is_broken(tmp_path: Path) -> None:
    """A DeltaChannel's state is its parents: without one it comes back empty, and no error would say so."""

    class Log(TypedDict):
        lines: Annotated[list[str], DeltaChannel(lambda state, writes: [*state, *(x for w in writes for x in w)])]
        rounds: Annotated[int, operator.add]

    path = tmp_path / "agent.db"
    builder = StateGraph(Log)
    builder.add_node("note", lambda state: {"lines": ["a line"], "rounds": 1})
    builder.add_edge(START, "note")
    with closing(sqlite3.connect(path, check_same_thread=False)) as db:
        agent: Any = builder.compile(checkpointer=SqliteSaver(db))
        for _ in range(3):
            agent.invoke({"lines": [], "rounds": 0}, thread("log"))
        assert agent.get_state(thread("log")).values["lines"] == ["a line"] * 3
        assert [finding.severity for finding in capture(path).findings] == [Severity.NOTE]
        oldest = [state.config["configurable"]["checkpoint_id"] for state in agent.get_state_history(thread("log"))][3:]
        db.executemany("DELETE FROM checkpoints WHERE checkpoint_id = ?", [(each,) for each in oldest])
        db.commit()
        assert agent.get_state(thread("log")).values["lines"] != ["a line"] * 3
    [broken] = found(capture(path), "may come back empty")
    assert (broken.severity, broken.keys) == (Severity.BROKEN, ("log",))


def test_vectors_of_memories_come_back(live: Path, tmp_path: Path) -> None:
    """The store's search index lies in the same file, as the library's own migrations make it (sqlite-vec only searches it)."""
    vector = struct.pack("<4f", 0.1, 0.2, 0.3, 0.4)
    sql(
        live,
        *VECTOR_MIGRATIONS,
        "CREATE TABLE vector_migrations (v INTEGER PRIMARY KEY)",
        "INSERT INTO vector_migrations VALUES (0)",
    )
    with closing(sqlite3.connect(live)) as db, db:
        db.execute(
            "INSERT INTO store_vectors (prefix, key, field_name, embedding) VALUES ('agent.memories', 'fact 1', 'text', ?)",
            (vector,),
        )
    taken = capture(live)
    assert not [finding for finding in taken.findings if finding.severity is not Severity.NOTE]
    [row] = table(capture(restored(taken, tmp_path / "copy.db")), "store_vectors")
    assert (row["key"], row["embedding"]) == ("fact 1", vector)
