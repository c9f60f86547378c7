"""The driver chroma beyond the exam: searches, records, findings, queries, and folders that are damaged or hostile."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from resurgam.drivers.base import Rows
from resurgam.drivers.chroma import ChromaDriver
from resurgam.drivers.chroma_pickle import read_label_map
from resurgam.errors import IntegrityError, ManifestError, MissingExtra
from resurgam.model.point import Finding, Severity
from resurgam.model.system import Component
from resurgam.testing.carrying import Taken, take
from tests.drivers.chroma_client import Client

# Three spaces, persisted twice with changes waiting in the queue; lists and booleans; a collection without records.
MAKE = """
import numpy as np
rng = np.random.default_rng(7)
for name, space in {"euclid": "l2", "cosine": "cosine", "inner": "ip"}.items():
    made = create(client, name, space=space, sync=50, metadata={"owner": "help", "n": 3})
    vectors = rng.normal(size=(230, 12)).astype("f4")
    for at in range(0, 230, 23):
        ids = range(at, at + 23)
        made.add(ids=[f"{n:03}" for n in ids], embeddings=vectors[at : at + 23], documents=[f"text {n} of {name}" for n in ids],
            metadatas=[{"n": n, "even": n % 2 == 0, "third": n / 3, "tags": ["a", f"t{n % 5}"]} for n in ids])
    made.delete(ids=["007", "201"])
    made.update(ids=["008"], metadatas=[{"n": None, "late": "yes"}], documents=["changed"], embeddings=[vectors[1]])
    made.upsert(ids=["new"], embeddings=[vectors[2] * 3])
client.create_collection("empty", embedding_function=None)
answer = vectors[:9].tolist()
"""
NAMES = ("euclid", "cosine", "inner")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """One process for all acts."""
    client = Client()
    yield client
    client.close()


@pytest.fixture(scope="module")
def made(client: Client, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """A folder, never changed by a test, and vectors to search for."""
    path = str(tmp_path_factory.mktemp("made") / "chroma")
    return path, client("run", path, code=MAKE)


@pytest.fixture
def live(made: tuple[str, Any], tmp_path: Path) -> Component:
    """A copy of the folder, for a test to do as it likes."""
    shutil.copytree(made[0], tmp_path / "live")
    return Component(name="index", driver="chroma", location=str(tmp_path / "live"))


@pytest.fixture
def driver() -> ChromaDriver:
    """A new one for each test."""
    return ChromaDriver()


def segment_of(live: Component, collection: str) -> Path:
    """The folder of a collection's index."""
    with closing(sqlite3.connect(os.path.join(live.location, "chroma.sqlite3"))) as db:
        query = "SELECT s.id FROM segments s JOIN collections c ON c.id = s.collection WHERE scope = 'VECTOR' AND c.name = ?"
        return Path(live.location) / str(db.execute(query, (collection,)).fetchone()[0])


def execute(live: Component, statement: str) -> None:
    """Change the database behind Chroma's back."""
    with closing(sqlite3.connect(os.path.join(live.location, "chroma.sqlite3"))) as db:
        db.execute(statement)
        db.commit()


def broken(taken: Taken) -> list[Finding]:
    """The findings that make a point BROKEN."""
    return [finding for finding in taken.findings if finding.severity is Severity.BROKEN]


def table(taken: Taken, name: str) -> dict[Any, tuple[Any, ...]]:
    """The rows of a table by their first column."""
    rows = next(item for item in taken.items if isinstance(item, Rows) and item.name == name)
    return {row[0]: row for batch in rows.batches for row in batch}


def asked(driver: ChromaDriver, live: Component, statement: str) -> list[tuple[Any, ...]]:
    """The answer to ``statement`` at a position of its own."""
    with driver.freeze(live) as position:
        pass
    try:
        return [row for batch in driver.query(live, position, statement).batches for row in batch]
    finally:
        driver.release(live, position)


# ---- what comes back -----------------------------------------------------------------------------------------------------


def test_the_image_gives_identical_search(driver: ChromaDriver, client: Client, live: Component, made: Any) -> None:
    """P4: ids, distances to the last bit, documents and metadata of every search are those of the source."""
    restored = driver.write(take(driver, live).through_memory(), live.bound_to(live.location + "-restored"))
    for name in NAMES:
        expected = client("search", live.location, name=name, queries=made[1])
        assert client("search", restored.location, name=name, queries=made[1]) == expected
    assert driver.fingerprint(restored) == driver.fingerprint(live)


def test_the_records_give_equivalent_search(driver: ChromaDriver, client: Client, live: Component, made: Any) -> None:
    """P4: the same neighbours at distances equal but for rounding; the same meaning where no space rounds; and it says so."""
    target = Component(name="index", driver="chroma", location=live.location + "-fresh", options={"restore": "records"})
    taken = take(driver, live)
    driver.write(taken.through_memory(), target)
    for name in NAMES:
        ids, distances, *rest = client("search", live.location, name=name, queries=made[1])
        again, distances_again, *rest_again = client("search", target.location, name=name, queries=made[1])
        assert (again, rest_again) == (ids, rest)
        assert np.allclose(distances, distances_again, rtol=1e-4, atol=1e-5)
    assert "equivalent" in driver.inspect(target)["restore"]
    assert "identical" in driver.inspect(live)["restore"]
    execute_on_both = "SELECT id, document, metadata FROM cosine ORDER BY id"
    assert asked(driver, target, execute_on_both) == asked(driver, live, execute_on_both)


def test_fingerprints_agree_after_a_restore_from_records(driver: ChromaDriver, client: Client, tmp_path: Path) -> None:
    """P4: with l2 and ip, where Chroma keeps every bit, both ways of restore mean the same."""
    live = Component(name="index", driver="chroma", location=str(tmp_path / "live"))
    client("run", live.location, code=MAKE + "client.delete_collection('cosine')")
    target = Component(name="index", driver="chroma", location=str(tmp_path / "new"), options={"restore": "records"})
    driver.write(take(driver, live).through_memory(), target)
    assert driver.fingerprint(target) == driver.fingerprint(live)
    driver.erase(target)
    assert not os.path.lexists(target.location)


def test_a_restore_from_records_leaves_nothing_half_built(
    driver: ChromaDriver, live: Component, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P5, P12: without the library, and where a vector is lost, nothing stands at the target and the error says what next."""
    target = Component(name="index", driver="chroma", location=live.location + "-fresh", options={"restore": "records"})
    whole = take(driver, live)
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda _: None)
        with pytest.raises(MissingExtra):
            driver.write(whole.through_memory(), target)
    lose_vectors(live)
    with pytest.raises(IntegrityError) as refused:
        driver.write(take(driver, live).through_memory(), target)
    assert refused.value.next_step
    assert not [name for name in os.listdir(os.path.dirname(target.location)) if "fresh" in name]


def test_decoded_records_are_what_chroma_answers(driver: ChromaDriver, client: Client, live: Component) -> None:
    """P4: every id, document, metadata value and vector bit; where a cosine vector still waits in the queue, its original bits."""
    taken = take(driver, live)
    assert not taken.findings
    for name, records in client("everything", live.location).items():
        decoded = table(taken, name)
        assert decoded.keys() == records.keys()
        for key, (vector, document, metadata) in records.items():
            _, found_document, found_metadata, found_vector = decoded[key]
            assert (found_document, json.loads(found_metadata or "null")) == (document, metadata)
            right = np.array(vector, "<f4")
            if name == "cosine":
                assert np.allclose(np.frombuffer(found_vector, "<f4"), right, rtol=1e-6, atol=1e-6)
            else:
                assert found_vector == right.tobytes()


def test_collections_are_a_table(driver: ChromaDriver, live: Component) -> None:
    """Settings, dimension and the embedding function's name, by tenant, database and name."""
    rows = asked(
        driver, live, "SELECT name, dimension, space, json_extract(settings, '$.hnsw.sync_threshold') FROM collections"
    )
    assert sorted(rows) == [
        ("cosine", 12, "cosine", 50),
        ("empty", None, "l2", 1000),
        ("euclid", 12, "l2", 50),
        ("inner", 12, "ip", 50),
    ]
    facts = driver.inspect(live)
    assert facts["understood"] == "yes"
    assert [c["records"] for c in facts["collections"]] == [229, 0, 229, 229]
    assert facts["bytes"] == sum(f.stat().st_size for f in Path(live.location).rglob("*") if f.is_file())


def test_queries(driver: ChromaDriver, live: Component) -> None:
    """Invariants ask ids, metadata and vectors in SQL; a wrong statement is the manifest's fault."""
    assert asked(driver, live, "SELECT id FROM euclid WHERE id IN ('007', '008', 'new') ORDER BY id") == [
        ("008",),
        ("new",),
    ]
    assert asked(driver, live, "SELECT json_extract(metadata, '$.late'), document FROM inner WHERE id = '008'") == [
        ("yes", "changed")
    ]
    assert asked(driver, live, "SELECT count(*) FROM cosine WHERE length(vector) = 48") == [(229,)]
    for wrong in ("SELECT * FROM nowhere", "DELETE FROM euclid"):
        with pytest.raises(ManifestError):
            asked(driver, live, wrong)


def test_options_are_checked(driver: ChromaDriver, live: Component) -> None:
    """P12: an unknown word names the known ones."""
    for options in ({"rowz": True}, {"check": "all"}, {"restore": "both"}, {"freeze_limit": 0}):
        with pytest.raises(ManifestError) as wrong:
            driver.inspect(Component(name="index", driver="chroma", location=live.location, options=options))
        assert "freeze_limit" in wrong.value.next_step


# ---- what was lost -------------------------------------------------------------------------------------------------------


def lose_vectors(live: Component) -> None:
    """What two clients of one folder do to each other: the index persists without some ids that the tables have."""
    path = segment_of(live, "euclid") / "index_metadata.pickle"
    content = pickle.loads(path.read_bytes())
    for key in ("011", "012"):
        del content["label_to_id"][content["id_to_label"].pop(key)]
    path.write_bytes(pickle.dumps(content, protocol=3))


STRIDE = 132 + 12 * 4 + 8  # of an element: 33 words of links, 12 numbers, the label


def first(data: bytes | bytearray) -> int:
    """Where the element of the record 000 of euclid begins. Chroma adds with several threads, so that any may come first; and
    what is changed in the queue is not looked up in the index."""
    vectors = np.random.default_rng(7).normal(size=(230, 12)).astype("<f4")  # as in MAKE
    return data.index(vectors[0].tobytes()) - 132


def test_lost_vectors_are_named(driver: ChromaDriver, live: Component) -> None:
    """P12: records whose vectors are gone make the point BROKEN, by their ids; the image is captured all the same."""
    lose_vectors(live)
    taken = take(driver, live)
    (finding,) = broken(taken)
    assert "lost vectors" in finding.what
    assert finding.keys == ("011", "012")
    assert table(taken, "euclid")["011"][3] is None
    assert table(taken, "euclid")["013"][3] is not None
    assert [f.what for f in taken.findings if f.severity is Severity.NOTE] == [
        "Collection euclid has 2 vectors in its index that no id leads to."
    ]


def test_deleted_elements_are_no_vectors(driver: ChromaDriver, live: Component) -> None:
    """A vector that the index has marked as deleted cannot be found by a search: it is lost as well."""
    path = segment_of(live, "euclid") / "data_level0.bin"
    data = bytearray(path.read_bytes())
    data[first(data) + 2] |= 1
    path.write_bytes(data)
    (finding,) = broken(take(driver, live))
    assert "lost vectors" in finding.what
    assert finding.keys == ("000",)


def damage_link(folder: Path) -> None:
    """The first neighbour of the first element does not exist."""
    data = bytearray((folder / "data_level0.bin").read_bytes())
    data[4:8] = b"\xff\xff\xff\x7f"
    (folder / "data_level0.bin").write_bytes(data)


def damage_label(folder: Path) -> None:
    """Two elements have one label."""
    data = bytearray((folder / "data_level0.bin").read_bytes())
    data[STRIDE - 8 : STRIDE] = data[2 * STRIDE - 8 : 2 * STRIDE]
    (folder / "data_level0.bin").write_bytes(data)


def damage_entry(folder: Path) -> None:
    """The search begins at an element that is not there."""
    data = bytearray((folder / "header.bin").read_bytes())
    data[56:60] = b"\xff\x00\x00\x00"
    (folder / "header.bin").write_bytes(data)


def damage_upper(folder: Path) -> None:
    """The lists above level 0 end too early."""
    os.truncate(folder / "link_lists.bin", 40)


@pytest.mark.parametrize("harm", [damage_link, damage_label, damage_entry, damage_upper])
def test_a_graph_that_cannot_be_walked(driver: ChromaDriver, live: Component, harm: Callable[[Path], None]) -> None:
    """P12: Chroma would hang or crash on it, so the point says it first; the vectors are decoded all the same."""
    harm(segment_of(live, "euclid"))
    taken = take(driver, live)
    assert "can hang in or crash on" in broken(taken)[0].what
    assert len(table(taken, "euclid")) == 229


@pytest.mark.parametrize("where", ["index", "queue"])
def test_vectors_that_are_no_numbers(driver: ChromaDriver, live: Component, made: tuple[str, Any], where: str) -> None:
    """Vectors are looked at, not counted."""
    nothing = np.full(12, np.nan, "<f4").tobytes()
    if where == "queue":
        execute(live, f"UPDATE embeddings_queue SET vector = x'{nothing.hex()}' WHERE id = 'new'")
    else:
        path = segment_of(live, "euclid") / "data_level0.bin"
        data = bytearray(path.read_bytes())
        start = first(data) + 132
        data[start : start + 48] = nothing
        path.write_bytes(data)
    found = broken(take(driver, live))
    assert found
    assert all("no numbers" in finding.what for finding in found)


def test_vectors_of_another_size(driver: ChromaDriver, live: Component) -> None:
    """A vector of no length is none."""
    execute(live, "UPDATE embeddings_queue SET vector = x'' WHERE id = 'new'")
    assert {finding.keys for finding in broken(take(driver, live))} == {("new",)}


def test_a_vector_without_a_record(driver: ChromaDriver, live: Component) -> None:
    """The other way round is a warning: a search can meet what has no text."""
    execute(live, "DELETE FROM embeddings WHERE embedding_id = '013'")
    findings = take(driver, live).findings
    assert {(f.severity, f.keys) for f in findings if "without a record" in f.what} == {(Severity.WARNING, ("013",))}


# ---- folders that are not as they should be ------------------------------------------------------------------------------

TEARS: dict[str, Callable[[Path], object]] = {
    "no folder": lambda folder: shutil.rmtree(folder),
    "no header": lambda folder: (folder / "header.bin").unlink(),
    "no labels": lambda folder: (folder / "index_metadata.pickle").unlink(),
    "short header": lambda folder: os.truncate(folder / "header.bin", 50),
    "other version": lambda folder: (folder / "header.bin").write_bytes(b"\x02" + (folder / "header.bin").read_bytes()[1:]),
    "short vectors": lambda folder: os.truncate(folder / "data_level0.bin", 1000),
    "short lengths": lambda folder: os.truncate(folder / "length.bin", 10),
    "short labels": lambda folder: os.truncate(folder / "index_metadata.pickle", 700),
    "empty labels": lambda folder: os.truncate(folder / "index_metadata.pickle", 0),
    "noise in the header": lambda folder: (folder / "header.bin").write_bytes(os.urandom(100)),
}  # fmt: skip


@pytest.mark.parametrize("tear", TEARS)
def test_a_torn_index_is_a_finding(driver: ChromaDriver, live: Component, tear: str) -> None:
    """P12: the collection is named, the others are decoded, the image is kept and comes back byte by byte."""
    TEARS[tear](segment_of(live, "cosine"))
    taken = take(driver, live)
    assert any(
        "Collection cosine: The vector index cannot be read" in f.what or "refused" in f.what for f in broken(taken)
    )
    assert all("cosine" in finding.what for finding in broken(taken))
    assert len(table(taken, "euclid")) == len(table(taken, "cosine")) == 229
    restored = driver.write(taken.through_memory(), live.bound_to(live.location + "-restored"))
    assert take(driver, restored).blobs == taken.blobs
    assert driver.fingerprint(restored) == driver.fingerprint(live)


def test_other_versions(driver: ChromaDriver, live: Component) -> None:
    """P12: a newer version is a warning as long as it looks familiar; an older or strange one is kept and not decoded."""
    execute(live, "INSERT INTO migrations VALUES ('sysdb', 99, 'later.sql', '', '')")
    taken = take(driver, live)
    assert [(f.severity, "newer" in f.what) for f in taken.findings] == [(Severity.WARNING, True)]
    assert len(table(taken, "euclid")) == 229
    assert "newer" in driver.inspect(live)["understood"]
    execute(live, "ALTER TABLE collections RENAME TO gatherings")
    taken = take(driver, live)
    assert ["not decoded" in f.what for f in broken(taken)] == [True]
    assert driver.inspect(live)["understood"].startswith("no")
    restored = driver.write(taken.through_memory(), live.bound_to(live.location + "-restored"))
    assert driver.fingerprint(restored) == driver.fingerprint(live)


def test_what_is_not_chromas(driver: ChromaDriver, live: Component) -> None:
    """An index that no collection has is kept and noted; what somebody else put there is left out and noted."""
    orphan = Path(live.location) / "00000000-1111-2222-3333-444444444444"
    shutil.copytree(segment_of(live, "euclid"), orphan)
    (Path(live.location) / "notes.txt").write_text("mine")
    taken = take(driver, live)
    assert {f.severity for f in taken.findings} == {Severity.NOTE}
    assert {f.keys for f in taken.findings} == {(orphan.name,), ("notes.txt",)}
    assert driver.left_out(live) == [b"notes.txt"]
    restored = driver.write(taken.through_memory(), live.bound_to(live.location + "-restored"))
    assert sorted(os.listdir(restored.location)) == sorted({*os.listdir(live.location)} - {"notes.txt"})


def test_paths_in_items_lead_nowhere_else(driver: ChromaDriver, live: Component) -> None:
    """P5: a path that is none of a Chroma folder is refused before anything is written."""
    for path in (b"hnsw/../../evil", b"hnsw/00000000-1111-2222-3333-444444444444/../x", b"/etc/x", b"sqlite/../x"):
        items = list(take(driver, live).through_memory())
        for item in items:
            if not isinstance(item, Rows) and item.path.endswith(b"header.bin"):
                item.path = path
        with pytest.raises(IntegrityError):
            driver.write(items, live.bound_to(live.location + "-restored"))
        assert os.listdir(os.path.dirname(live.location)) == ["live"]


# ---- the label map -------------------------------------------------------------------------------------------------------


class _Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["HOSTILE"],)


@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_pickle_is_never_run(
    driver: ChromaDriver, live: Component, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    """P12: it is refused as a finding, in every protocol, and what it wanted to do was not done."""
    monkeypatch.setenv("HOSTILE", str(tmp_path / "it-ran"))
    program = pickle.dumps(_Hostile(), protocol)
    (segment_of(live, "euclid") / "index_metadata.pickle").write_bytes(program)
    assert any("refused" in finding.what for finding in broken(take(driver, live)))
    assert not (tmp_path / "it-ran").exists()
    pickle.loads(program)
    assert (tmp_path / "it-ran").exists(), "the program itself is sound: unpickled, it runs"


def test_label_maps_of_both_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chroma 1.x writes a dict, up to 0.6 an object of one class, in whatever protocol."""
    state = {
        "dimensionality": 12, "total_elements_added": 2, "max_seq_id": None, "id_to_seq_id": {},
        "id_to_label": {"a": 1, "ü🙂": 70_000}, "label_to_id": {1: "a", 70_000: "ü🙂"},
    }  # fmt: skip
    module = ModuleType(
        "chromadb.segment.impl.vector.local_persistent_hnsw"
    )  # the real one needs a library of those days
    kind = type("PersistentData", (), {"__module__": module.__name__})
    setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    old = kind()
    vars(old).update(state)
    for value in (state, old):
        for protocol in range(2, 6):
            assert read_label_map(pickle.dumps(value, protocol)).labels == state["id_to_label"]


def test_label_maps_that_contradict_themselves() -> None:
    """P12: what is no such map is refused, whatever its bytes are; nothing but IntegrityError comes out."""
    good: dict[str, Any] = {"dimensionality": 2, "id_to_label": {"a": 1}, "label_to_id": {1: "a"}}
    wrongs: list[Any] = [[], {}, good | {"label_to_id": {2: "a"}}, good | {"id_to_label": {"a": "1"}}]
    for wrong in (*wrongs, good | {"label_to_id": {1: "a", 2: "b"}}):
        with pytest.raises(IntegrityError):
            read_label_map(pickle.dumps(wrong))
    whole = pickle.dumps(good)
    rng = np.random.default_rng(3)
    for _ in range(3000):
        torn = bytearray(whole)
        torn[rng.integers(len(torn))] = rng.integers(256)
        with suppress(IntegrityError):
            read_label_map(bytes(torn[: rng.integers(1, len(torn) + 1)]))
