"""The probe ``retrieval``: real Chroma folders, searched by ourselves and by Chroma, live and inside the sandbox."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from resurgam.drivers.asking import Request, answer
from resurgam.drivers.base import Blob
from resurgam.drivers.chroma import ChromaDriver
from resurgam.drivers.chroma_index import LEVEL0
from resurgam.drivers.searching import Vectors, nearest
from resurgam.errors import ManifestError, NotFound
from resurgam.model.point import Observation
from resurgam.model.system import Component, Json, Probe, System, VaultPlace
from resurgam.model.verdict import Judgement
from resurgam.probes.base import Completed, Runner
from resurgam.probes.retrieval import RetrievalProbe
from resurgam.probes.runner import LiveRunner
from resurgam.proof.compare import compare
from resurgam.proof.observe import observe as observe_all
from resurgam.restore import sandbox
from resurgam.restore.sandbox import Sandbox
from tests.drivers.chroma_client import Client

COUNT, DIMENSION, QUERIES = 600, 12, 8
STRIDE = 132 + DIMENSION * 4 + 8  # of an element: 33 words of links, the numbers, the label
OVERLAP: Json = {"overlap": {"k": 10, "at_least": 0.8}}
MAKE = """
import numpy as np
rng = np.random.default_rng(7)
centres = rng.normal(size=(8, 12)).astype("f4") * 3
ids = [f"{n:04}" for n in range(600)]
vectors = (centres[np.arange(600) % 8] + rng.normal(size=(600, 12))).astype("f4")
vectors[20:24] = vectors[20]  # four that are equally far from everything
if other:  # another embedder: the same records, other geometry
    vectors = (vectors @ rng.normal(size=(12, 12))).astype("f4")
order = rng.permutation(600) if shuffled else np.arange(600)
made = create(client, "help", space=space, sync=100)
for start in range(0, 600, 50):
    part = order[start : start + 50]
    made.add(ids=[ids[n] for n in part], embeddings=vectors[part])
if space == "cosine":
    made.add(ids=["canary:a"], embeddings=vectors[5:6] * 2)
answer = [vectors.tolist(), (centres + 0.5).tolist()]
"""


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


def made(client: Client, folder: Path, *, space: str = "cosine", other: bool = False, shuffled: bool = False) -> Any:
    return client("run", str(folder), code=MAKE, space=space, other=other, shuffled=shuffled)


@pytest.fixture(scope="module")
def original(client: Client, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[float]]]:
    """A folder that no test changes, and frozen queries."""
    folder = tmp_path_factory.mktemp("made") / "index"
    _, queries = made(client, folder)
    return folder, {f"q{number}": query for number, query in enumerate(queries)}


@pytest.fixture
def live(original: tuple[Path, Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(original[0], tmp_path / "index"))


def system(folder: Path) -> System:
    index = Component(name="index", driver="chroma", location=str(folder))
    return System(name="s", vault=VaultPlace(path="v", keys="k"), components=(index,), root=str(folder.parent))


def probe(queries: Json, **more: Any) -> Probe:
    fields = {"name": "near", "kind": "retrieval", "component": "index", "collection": "help", "ask": queries}
    return Probe(**fields | more)


def observe(folder: Path, queries: Json, runner: Runner | None = None, **more: Any) -> Observation:
    spec, asked = probe(queries, **more), system(folder)
    return RetrievalProbe().ask(spec, asked, runner or LiveRunner(asked.root))


def answers(folder: Path, queries: Json, runner: Runner | None = None, **more: Any) -> dict[str, Json]:
    seen = observe(folder, queries, runner, **more)
    assert seen.error is None, seen.error
    return seen.answers


def by_hand(vectors: Sequence[Sequence[float]], query: Sequence[float], k: int) -> list[str]:
    """Cosine neighbours, by the plainest means, in Python's own numbers."""

    def distance(vector: Sequence[float]) -> float:
        dot: float = sum(a * b for a, b in zip(vector, query, strict=True))
        lengths: float = math.sqrt(sum(a * a for a in vector) * sum(b * b for b in query))
        return 1 - dot / lengths

    return [f"{n:04}" for _, n in sorted((round(distance(v), 6), n) for n, v in enumerate(vectors))][:k]


def traces(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}


def restored(live: Path, place: Path) -> Path:
    """The image of ``live``, carried by the driver as a restore does."""
    driver = ChromaDriver()
    component = system(live).components[0]
    with driver.freeze(component) as at:
        pass
    driver.write(
        (item for item in driver.read(component, at) if isinstance(item, Blob)), component.bound_to(str(place))
    )
    driver.release(component, at)
    return place


def judged(before: dict[str, Json], after: dict[str, Json], tolerance: Json = "exact") -> Judgement:
    assert before.keys() == after.keys()
    return max(compare(before[case], after[case], tolerance).judgement for case in before)


# ---- what is answered, and that asking leaves no trace ------------------------------------------------------------------


def test_exact_search_is_what_plain_arithmetic_says(client: Client, tmp_path: Path) -> None:
    """The oracle: decoded by our driver, searched by us, equal to what was put in."""
    vectors, queries = made(client, tmp_path / "index")
    client(
        "run",
        str(tmp_path / "index"),
        code="client.get_collection('help', embedding_function=None).delete(ids=['canary:a'])",
    )
    everything = answers(tmp_path / "index", {"all": queries[0]}, k=COUNT)["all"]
    assert sorted(everything) == [f"{n:04}" for n in range(COUNT)]
    found = answers(tmp_path / "index", dict(zip("abcdefgh", queries, strict=True)), k=7)
    assert found == {name: by_hand(vectors, query, 7) for name, query in zip("abcdefgh", queries, strict=True)}


def test_all_modes_agree_on_a_sound_index_and_leave_no_trace(client: Client, live: Path, original: Any) -> None:
    """Chroma writes to each folder that it opens; being probed must not (a probe must not write to what it asks)."""
    before = traces(live)
    exact = answers(live, original[1])
    approximate = observe(live, original[1], mode="approximate")
    recall = answers(live, original[1], mode="recall")
    assert traces(live) == before
    assert judged(exact, approximate.answers, OVERLAP) <= Judgement.EQUIVALENT
    assert approximate.by["chromadb"].startswith("1.")
    assert min(recall.values()) >= 0.8
    ids, *_ = client("search", str(live), name="help", queries=list(original[1].values()), n=10)
    assert [sorted(found) for found in approximate.answers.values()] == [sorted(found) for found in ids]


def test_equal_vectors_come_in_the_order_of_ids(original: Any, live: Path) -> None:
    """Ties: the order in which a store happens to hold them is no behaviour."""
    found = answers(live, {"tied": {"like": "0021"}}, k=3)
    assert found == {"tied": ["0020", "0021", "0022"]}


def test_canaries_are_found_by_their_prefix(live: Path) -> None:
    found = answers(live, None, canaries=True, k=2)
    assert found == {"canary:a": ["0005", "canary:a"]}


def test_texts_are_encoded_by_the_owners_command(live: Path, original: Any) -> None:
    """The command is given the location of the copy, so it is the copy's embedder that answers."""
    check = "asked = json.load(sys.stdin); assert asked['components']['index'] == sys.argv[1]; "
    say = f"print(json.dumps({{'answers': {{case: {original[1]['q3']} for case in asked['ask']}}}}))"
    encoder = (*command(check + say), "{index}")
    assert answers(live, {"how?": "how?"}, encode=encoder)["how?"] == answers(live, original[1])["q3"]
    for code, words in {
        "raise SystemExit(3)": "could not be encoded",
        "print(json.dumps({'answers': {}}))": "gave no numbers for 'how?'",
        "print(json.dumps({'answers': {'how?': 'so'}}))": "made no vector of 'how?'",
    }.items():
        assert words in (observe(live, {"how?": "how?"}, encode=command(code)).error or "")


def command(code: str) -> tuple[str, ...]:
    """A command of a manifest, where a brace is doubled."""
    return sys.executable, "-I", "-c", "import json, sys; " + code.replace("{", "{{").replace("}", "}}")


@pytest.mark.parametrize(
    ("queries", "more", "words"),
    [
        ({"q": [1.0, 2.0]}, {}, "has 2 numbers; the vectors of help have 12"),
        ({"q": {"like": "nobody"}}, {}, "no vector of 'nobody'"),
        ({"q": {"like": "0001"}}, {"collection": "halp"}, "Did you mean 'help'?"),
    ],
)
def test_what_cannot_be_searched_is_an_observation(live: Path, queries: Json, more: dict[str, Any], words: str) -> None:
    """P4: what goes wrong in the asked system is an answer about it, not an exception."""
    seen = observe(live, queries, **more)
    assert words in (seen.error or "")
    assert seen.asked


def test_probes_of_one_component_share_a_child_and_an_encoder(live: Path, original: Any) -> None:
    """What they answer is what each answers alone; one that cannot be answered, and one that is no question, stop no other (P4)."""
    say = f"print(json.dumps({{'answers': {{case: {original[1]['q3']} for case in json.load(sys.stdin)['ask']}}}}))"
    texts = {"encode": command(say), "ask": {"how?": "how?"}}
    specs = [
        probe(original[1], name="exact"),
        probe(None, **texts, name="approximate", mode="approximate"),
        probe({"q": {"like": "nobody"}}, name="nobody"),
        probe(None, **texts, name="recall", mode="recall", k=5),
        probe({"q": [1.0]}, name="elsewhere", collection="halp"),
        probe(None, name="nothing"),
        probe(None, canaries=True, name="canaries", mode="recall"),
    ]
    runner = Counting(str(live.parent))
    seen = {one.probe: one for one in observe_all(system(live), specs, runner)}
    assert runner.commands == 2, "one encoder, one child"
    assert [*seen] == [spec.name for spec in specs]
    for spec in specs:
        if seen[spec.name].error is None:
            alone = RetrievalProbe().ask(spec, system(live), LiveRunner(str(live.parent)))
            assert (alone.answers, alone.by) == (seen[spec.name].answers, seen[spec.name].by), spec.name
    assert {name for name, one in seen.items() if one.error is not None} == {"nobody", "elsewhere", "nothing"}
    assert "no vector of 'nobody'" in (seen["nobody"].error or "")
    assert "Did you mean 'help'?" in (seen["elsewhere"].error or "")
    assert [name for name, one in seen.items() if not one.asked] == ["nothing"]
    assert not seen["exact"].by
    assert seen["canaries"].answers.keys() == {"canary:a"}


def test_what_goes_wrong_with_the_child_goes_wrong_with_all(live: Path, original: Any) -> None:
    """P4: a store that cannot be frozen at all, an encoder that fails."""
    (live / "chroma.sqlite3").write_bytes(b"x" * 5000)
    specs = [probe(original[1], name=name) for name in ("one", "two")]
    specs.append(probe({"how?": "how?"}, name="three", encode=command("raise SystemExit(3)")))
    for seen in observe_all(system(live), specs, LiveRunner(str(live.parent))):
        assert ("could not be encoded" if seen.probe == "three" else "exit code 8") in (seen.error or ""), seen


def test_a_graph_that_brings_the_store_down_takes_no_exact_answers_with_it(live: Path, original: Any) -> None:
    """P4: the links of the graph lead out of it, so that Chroma is killed by the system, or gives up; our own search goes on."""
    before = answers(live, original[1])
    (path,) = live.rglob(LEVEL0)
    data = bytearray(path.read_bytes())
    for start in range(0, len(data) - STRIDE + 1, STRIDE):
        data[start + 4 : start + 132] = b"\xff\xff\xff\x7f" * 32
    path.write_bytes(data)
    specs = [probe(original[1], name=mode, mode=mode) for mode in ("approximate", "exact", "recall")]
    seen = {one.probe: one for one in observe_all(system(live), specs, LiveRunner(str(live.parent)))}
    assert (seen["exact"].error, seen["exact"].answers) == (None, before)
    for mode in ("approximate", "recall"):
        assert seen[mode].error is not None, seen[mode]


class Counting(LiveRunner):
    """The runner of the live system, and how many commands it ran."""

    commands = 0

    def run(self, argv: Sequence[str], **more: Any) -> Completed:
        self.commands += 1
        return super().run(argv, **more)


# ---- what must be seen, and what must not ---------------------------------------------------------------------------------


def test_a_restored_index_answers_identically_inside_the_sandbox(live: Path, original: Any, tmp_path: Path) -> None:
    """P6: the copy answers where the live index is not there, in every mode, and is still what was restored."""
    if not sandbox.available()[0] and os.geteuid() != 0:
        pytest.skip("no namespaces here")
    os.makedirs(tmp_path / "restore")
    copy = restored(live, tmp_path / "restore" / "index")
    before = ChromaDriver().fingerprint(system(copy).components[0])
    with Sandbox(str(tmp_path / "restore"), system(live)) as box:
        for mode in ("exact", "approximate", "recall"):
            assert answers(copy, original[1], box, mode=mode) == answers(live, original[1], mode=mode)
        gone = observe(live, original[1], box)
    assert "index" in (gone.error or ""), "the live one is not there inside"
    assert ChromaDriver().fingerprint(system(copy).components[0]) == before


def test_lost_vectors_are_seen_while_counts_agree(client: Client, live: Path, original: Any) -> None:
    """2 % of the elements marked as deleted in the graph's file: Chroma counts its tables, and they are all there."""
    before = {mode: answers(live, original[1], mode=mode) for mode in ("exact", "approximate")}
    lost = {key for found in before["exact"].values() for key in found[:2]}
    marked = _mark(live, original, lost)
    assert 8 <= marked <= COUNT // 50 + 4
    count = "answer = client.get_collection('help', embedding_function=None).count()"
    assert client("run", str(live), code=count) == COUNT + 1
    for mode in ("exact", "approximate"):
        after = answers(live, original[1], mode=mode)
        assert judged(before[mode], after, OVERLAP) is Judgement.EQUIVALENT
        assert judged(before[mode], after) is Judgement.DIFFERENT
        assert not lost & {key for found in after.values() for key in found}


def _mark(live: Path, original: Any, lost: set[str]) -> int:
    """Mark elements as deleted by their label (bit 16 of the first word), as hnswlib does."""
    (path,) = live.rglob(LEVEL0)
    driver, component = ChromaDriver(), system(live).components[0]
    with driver.freeze(component) as at:
        vectors = driver.vectors(component, at, "help").of(sorted(lost))
    driver.release(component, at)
    data, marked = bytearray(path.read_bytes()), 0
    for start in range(0, len(data) - STRIDE + 1, STRIDE):
        held = np.frombuffer(bytes(data[start + 132 : start + 132 + 4 * DIMENSION]), "<f4")
        if any(np.allclose(held, vector / np.linalg.norm(vector), atol=1e-6) for vector in vectors.values()):
            data[start + 2] |= 1
            marked += 1
    path.write_bytes(data)
    return marked


def test_a_graph_that_leads_nowhere_is_seen_by_recall_alone(live: Path, original: Any) -> None:
    """All vectors are there, so exact search is identical; the store's own finds too little."""
    before = answers(live, original[1])
    (path,) = live.rglob(LEVEL0)
    data = bytearray(path.read_bytes())
    for start in range(0, len(data) - STRIDE + 1, STRIDE):
        data[start : start + 2] = (min(1, data[start])).to_bytes(2, "little")  # one neighbour left of each
    path.write_bytes(data)
    assert answers(live, original[1]) == before
    shares = answers(live, original[1], mode="recall")
    assert sum(shares.values()) / len(shares) < 0.7


def test_another_embedder_is_seen_while_ids_and_counts_agree(client: Client, tmp_path: Path, original: Any) -> None:
    made(client, tmp_path / "index", other=True)
    before, after = answers(original[0], original[1]), answers(tmp_path / "index", original[1])
    assert judged(before, after, OVERLAP) is Judgement.DIFFERENT


@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
def test_an_index_built_anew_from_the_same_vectors_is_the_same(client: Client, tmp_path: Path, space: str) -> None:
    """Another order of insertion, so another graph: exact answers are identical, approximate ones equivalent."""
    _, queries = made(client, tmp_path / "one", space=space)
    made(client, tmp_path / "two", space=space, shuffled=True)
    asked = dict(zip("abcdefgh", queries, strict=True))
    assert answers(tmp_path / "one", asked) == answers(tmp_path / "two", asked)
    one, two = (answers(tmp_path / name, asked, mode="approximate") for name in ("one", "two"))
    assert judged(one, two, OVERLAP) <= Judgement.EQUIVALENT


# ---- exact search itself ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("block", [1, 7, 1000])
def test_blocks_change_nothing(space: str, block: int) -> None:
    """However the vectors come, the neighbours are those of one sort over all distances."""
    rng = np.random.default_rng(block)
    vectors = rng.integers(-4, 5, size=(300, 6)).astype("f4")  # many ties
    queries = rng.integers(-4, 5, size=(5, 6)).astype("f4")
    ids = [f"{n:03}" for n in rng.permutation(300)]
    pieces = [(ids[start : start + block], vectors[start : start + block]) for start in range(0, 300, block)]
    found = nearest(Vectors(space, 6, lambda: iter(pieces)), queries, 9)
    for query, one in zip(queries.astype(float), found, strict=True):
        far = {key: _distance(space, query, vector.astype(float)) for key, vector in zip(ids, vectors, strict=True)}
        ordered = sorted(far, key=lambda key: (round(far[key], 5), key))
        assert one.ids == ordered[:9]
        assert one.near == {key for key in far if round(far[key], 5) <= round(far[ordered[8]], 5)}


@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
def test_a_unit_in_the_last_place_is_no_difference(space: str) -> None:
    """What a rebuilt index may hold aside: equal vectors of which some moved by one step of float32 are still equally far."""
    rng = np.random.default_rng(2)
    vectors = np.repeat(rng.normal(size=(40, 6)).astype("f4"), 5, axis=0)
    moved = np.where(rng.random(vectors.shape) < 0.5, np.nextafter(vectors, np.float32(9)), vectors)
    assert not np.array_equal(moved, vectors)
    queries, ids = rng.normal(size=(8, 6)).astype("f4"), [f"{n:03}" for n in range(200)]
    before = nearest(Vectors(space, 6, lambda: iter([(ids, vectors)])), queries, 12)
    after = nearest(Vectors(space, 6, lambda: iter([(ids, moved)])), queries, 12)
    assert [found.ids for found in before] == [found.ids for found in after]
    assert [found.near for found in before] == [found.near for found in after]


def _distance(space: str, a: Any, b: Any) -> float:
    if space == "l2":
        return float(((a - b) ** 2).sum())
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b)) if space == "cosine" else 1.0
    return 1 - float(a @ b) / lengths if lengths else 1.0


def test_a_collection_smaller_than_k_is_answered_whole(client: Client, tmp_path: Path) -> None:
    code = "create(client, 'help').add(ids=['a', 'b'], embeddings=[[0.0, 1.0], [1.0, 0.0]])"
    client("run", str(tmp_path / "index"), code=code)
    assert answers(tmp_path / "index", {"q": [0.1, 1.0]}) == {"q": ["a", "b"]}
    assert answers(tmp_path / "index", {"q": [0.1, 1.0]}, mode="recall") == {"q": 1.0}


def test_a_driver_without_vectors_says_so() -> None:
    with pytest.raises(ManifestError, match="cannot be searched"):
        answer(Request(component=Component(name="d", driver="files", location="d"), searches={}))


# ---- what the manifest may say ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"component": "indx"}, "Did you mean 'index'"),
        ({"collection": ""}, "collection"),
        ({"ask": None}, "nothing is asked"),
        ({"ask": [[1.0]]}, "no mapping"),
        ({"ask": {"q": [1.0, True]}}, "query 'q' is none"),
        ({"ask": {"q": {"like": 3}}}, "query 'q' is none"),
        ({"ask": {"q": "text"}}, "`encode` is empty"),
        ({"ask": {"q": "text"}, "encode": ("x", "{nowhere}")}, "names no component"),
        ({"mode": "rough"}, "`mode` or `k`"),
        ({"k": 0}, "`mode` or `k`"),
    ],
)
def test_a_wrong_question_is_the_manifests_fault(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    spec = msgspec.structs.replace(probe({"q": [1.0]}), **change)
    with pytest.raises(ManifestError, match=words):
        RetrievalProbe().check(spec, system(tmp_path / "index"))


def test_an_unknown_collection_is_not_found(live: Path) -> None:
    driver, component = ChromaDriver(), system(live).components[0]
    with driver.freeze(component) as at, pytest.raises(NotFound, match="no collection 'x'"):
        driver.vectors(component, at, "x")
    driver.release(component, at)
