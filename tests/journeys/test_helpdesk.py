"""The helpdesk: every part real, made the same twice, answering from what it cites, remembering, waiting for a human, and
written to by several processes at once. Its commands run as processes of their own, as its users run them: Chroma keeps
state for as long as its process lives.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.handbook import building as handbook
from examples.handbook.gate import fence, reload
from examples.helpdesk import building, documents, places
from examples.helpdesk.embedder import Embedder, install
from examples.helpdesk.harmless import HARMLESS
from resurgam.capture.manifest import load_manifest
from resurgam.probes.runner import LiveRunner
from resurgam.proof.observe import observe

pytest.importorskip("chromadb", reason="the extra helpdesk is not installed")
pytest.importorskip("langgraph.checkpoint.sqlite", reason="the extra helpdesk is not installed")

PATIENCE = 60.0
ROOT = Path(__file__).parents[2]
RIGHT = {  # question -> a word of the heading of a chunk that answers it
    "lock": "threading",
    "median": "statistics",
    "temporary": "tempfile",
    "archive": "tarfile",
    "wrap": "textwrap",
    "signature": "signature",
    "address": "ipaddress",
    "decorator": "function",
    "option": "optparse",
    "json": "json",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A helpdesk that tests only read."""
    home = tmp_path_factory.mktemp("made") / "desk"
    make(home)
    return home


@pytest.fixture(scope="module")
def golden(made: Path) -> Any:
    """The answers to the golden questions, of that helpdesk and so of every copy of it."""
    return probed(made, "answer")


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A helpdesk of the test's own."""
    return Path(shutil.copytree(made, tmp_path / "desk"))


def make(home: Path, *more: str) -> Any:
    """Make a desk; what it says of itself."""
    command = [sys.executable, "-m", "examples.helpdesk", "make", str(home), "--json", *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def run(home: Path, *words: str, said: str = "", code: int = 0) -> str:
    """A command of the desk's own copy of the application; what it printed, or its error where it is to fail."""
    command = [sys.executable, "bin/helpdesk", *words]
    done = subprocess.run(command, cwd=home, input=said, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def probed(home: Path, command: str, **at: str) -> Any:
    """The answers to the golden questions, of the components in ``home`` or ``at`` other places."""
    asked = {
        "ask": json.loads((home / "probes" / "golden.json").read_text()),
        "components": places.places_in(str(home)) | at,
    }
    return json.loads(run(home, command, said=json.dumps(asked)))["answers"]


def neighbours(home: Path, **at: str) -> dict[str, list[str]]:
    """What the probe ``retrieval`` of the manifest finds, in ``home`` or ``at`` other places."""
    system = load_manifest(str(home / "resurgam.yaml")).bound_to(places.places_in(str(home)) | at)
    (seen,) = observe(system, [probe for probe in system.probes if probe.name == "retrieval"], LiveRunner(str(home)))
    assert seen.error is None, seen.error
    return seen.answers


def rows(home: Path, file: str, sql: str) -> list[tuple[Any, ...]]:
    """What a database answers."""
    with closing(sqlite3.connect(home / file, timeout=PATIENCE)) as opened:
        return opened.execute(sql).fetchall()


def contents(home: Path) -> dict[str, str]:
    """The digest of every file of the components."""
    kept: dict[str, str] = {}
    for place in places.PLACES.values():
        found = [home / place] if (home / place).is_file() else (home / place).rglob("*")
        kept |= {str(path.relative_to(home)): digest(path) for path in found if path.is_file()}
    return kept


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def at_work(home: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """``load``, once all its writers are at work."""
    command = [sys.executable, "bin/helpdesk", "load", *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=home, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as load:
        assert load.stderr is not None
        line = load.stderr.readline()
        assert line == "ready\n", line + load.stderr.read()
        try:
            yield load
        finally:
            if load.poll() is None:
                load.kill()  # its writers end when the pipes to them close


def stopped(load: subprocess.Popen[str]) -> dict[str, Any]:
    """What the writers did, after standard input was closed."""
    out, err = load.communicate(timeout=PATIENCE)
    assert load.returncode == 0, err
    told: dict[str, Any] = json.loads(out)
    return told


def test_two_makes_are_equal_where_they_can_be(made: Path, golden: Any, tmp_path: Path) -> None:
    """Bytes of models, prompts, tools and configuration; rows of documents; vectors, neighbours and answers."""
    other = tmp_path / "other"
    built = make(other)
    assert (built["chunks"], built["waiting"]) == (2000, "customer-7")
    for place in ("embedder", "router", "tools", "config.yaml", "prompts/.git/refs/heads/main"):
        same = [name for name in contents(made) if name.startswith(place)]
        assert same
        assert [name for name in same if digest(made / name) != digest(other / name)] == []
    for table in ("documents", "chunks", "customers", "tickets"):
        kept = f"SELECT * FROM {table} WHERE id <= 200" if table == "tickets" else f"SELECT * FROM {table}"
        assert rows(other, "documents.db", kept) == rows(made, "documents.db", kept)
    found, found_too = neighbours(made), neighbours(other)
    assert found.keys() == found_too.keys()
    for case, near in found.items():  # an index built by several threads is not built the same twice
        assert len({*near} & {*found_too[case]}) >= 0.8 * len(near) > 0, case
    assert probed(other, "answer") == golden


def test_the_right_chunks_are_cited(made: Path, golden: Any) -> None:
    """At least 8 of 10 questions are answered from a chunk that speaks of the matter, quoted in the answer."""
    answers = golden
    known = {row[0]: row[1:] for row in rows(made, "documents.db", "SELECT id, heading, text FROM chunks")}
    right = [case for case, word in RIGHT.items() if any(word in known[chunk][0] for chunk in answers[case]["chunks"])]
    assert len(right) >= 8, set(RIGHT) - set(right)
    for case in RIGHT:
        assert all(known[chunk][1][:15] in answers[case]["text"] for chunk in answers[case]["chunks"])
    assert (answers["secret"]["chunks"], "ask a person" in answers["secret"]["text"]) == ([], True)


def test_the_embedder_is_the_librarys_own(tmp_path: Path) -> None:
    """A dozen lines of numpy give what wordllama gives, from the same files."""
    wordllama = pytest.importorskip("wordllama", reason="the extra helpdesk is not installed")
    install(str(tmp_path / "embedder"))
    (tmp_path / "cache" / "tokenizers").mkdir(parents=True)
    shutil.copy(tmp_path / "embedder/tokenizer.json", tmp_path / "cache/tokenizers/l2_supercat_tokenizer_config.json")
    theirs = wordllama.WordLlama.load(cache_dir=tmp_path / "cache", disable_download=True)
    texts = ["How does a lock work?", "x", "Ein Satz mit Umlauten: Schlüssel.", "word " * 700]
    ours = Embedder.load(str(tmp_path / "embedder")).embed(texts)
    np.testing.assert_allclose(ours, theirs.embed(texts, norm=True), atol=1e-6)
    with pytest.raises(ValueError, match="empty"):
        Embedder.load(str(tmp_path / "embedder")).embed([""])


def test_every_component_has_a_say_in_the_answers(home: Path, golden: Any, tmp_path: Path) -> None:
    """P4: a change of any of the eight components changes what a probe reads."""
    first = golden["lock"]["chunks"][0]
    changes: dict[str, Callable[[Path], object]] = {
        "documents": lambda at: change(
            at / "documents.db", f"UPDATE chunks SET text = 'No. ' || text WHERE id = {first}"
        ),
        "index": lambda at: run(at, "strike", "poisoned-document"),
        "embedder": lambda at: run(at, "strike", "swapped-embedder"),
        "router": lambda at: (at / "router/router.safetensors").write_bytes(relabelled(at)),
        "prompts": lambda at: edit(at / "prompts/answer.md", "Never", "Often"),
        "tools": lambda at: edit(at / "tools/agent.yaml", "tool: refund", "tool: repay"),
        "agent": lambda at: run(at, "resume", "customer-7", "no"),
        "config": lambda at: edit(at / "config.yaml", "passages: 3", "passages: 2"),
    }
    assert changes.keys() == places.PLACES.keys()
    for name, change_it in changes.items():
        copy = Path(shutil.copytree(home, tmp_path / name))
        change_it(copy)
        if name == "tools":  # wiring that names a tool which is not there is refused, not guessed at
            asked = {"ask": {"a": "b"}, "components": places.places_in(str(copy))}
            assert "No such tool: repay" in run(copy, "answer", said=json.dumps(asked), code=1)
        else:
            assert probed(copy, "answer") != golden, name


def test_a_probe_leaves_no_trace_and_reads_only_the_places_it_is_given(home: Path, golden: Any, tmp_path: Path) -> None:
    """P6: nothing is written while it is asked, and what stands in the system's own folder has no say."""
    copy = Path(shutil.copytree(home, tmp_path / "copy"))
    before = contents(copy)
    for place in places.PLACES.values():
        path = home / place
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert probed(home, "answer", **places.places_in(str(copy))) == golden
    assert neighbours(home, **places.places_in(str(copy)))["lock"]
    assert contents(copy) == before


def test_a_thread_waits_for_a_human_and_is_resumed_in_another_process(home: Path, golden: Any) -> None:
    """The refund of the first day waits at its interrupt; a copy resumes rightly and the original still waits."""
    copy = Path(shutil.copytree(home, home.with_name("copy")))
    waiting = golden["refund"]
    assert (waiting["next"], waiting["waits"]["action"]) == (["approve"], "refund")
    ticket = f"SELECT state FROM tickets WHERE id = {waiting['ticket']}"
    assert rows(home, "documents.db", ticket) == [("waiting",)]
    refused = run(home, "ask", "And what of it?", "--customer", "7", code=os.EX_TEMPFAIL)
    assert "waits for a decision" in refused
    answer = json.loads(run(copy, "resume", "customer-7", "yes", "--json"))
    assert (answer["text"], answer["waits"]) == ("refund: approved", None)
    assert rows(copy, "documents.db", ticket) == [("closed",)]
    assert probed(copy, "answer")["refund"]["next"] == []
    assert probed(home, "answer")["refund"] == waiting
    assert "does not wait" in run(copy, "resume", "customer-7", "no", code=os.EX_TEMPFAIL)


def test_asking_remembers_what_was_cited_and_read_only_does_not(home: Path) -> None:
    """A memory cites the chunks of the answer; with --read-only nothing is kept."""
    before = contents(home)
    words = ("ask", "My lock is broken", "--customer", "99", "--json")
    read = json.loads(run(home, *words, "--read-only"))
    assert contents(home) == before
    answer = json.loads(run(home, *words))
    assert (answer["chunks"], answer["text"]) == (read["chunks"], read["text"])
    ((value,),) = rows(home, "agent.db", "SELECT value FROM store WHERE prefix = 'customers.99.answers'")
    memory = json.loads(value)
    assert (memory["cites"], memory["ticket"]) == (answer["chunks"], answer["ticket"])
    ((question,),) = rows(home, "documents.db", f"SELECT question FROM tickets WHERE id = {answer['ticket']}")
    assert question == "My lock is broken"


def test_writers_agree_when_they_are_stopped(home: Path) -> None:
    """Three processes write; they stay out during maintenance, hold nothing open then, and end with their caller."""
    with at_work(home, "--rate", "60", "--seconds", str(PATIENCE), "--writers", "3") as load:
        eventually(lambda: rows(home, "documents.db", "SELECT count(*) FROM chunks") > [(2020,)])
        fence(str(home))
        still = contents(home)
        assert held_open(home) == []
        assert contents(home) == still
        assert "maintenance" in run(home, "ask", "How?", code=os.EX_TEMPFAIL)
        reload(str(home))
        count = rows(home, "documents.db", "SELECT count(*) FROM chunks")
        eventually(lambda: rows(home, "documents.db", "SELECT count(*) FROM chunks") > count)
        told = stopped(load)
    assert rows(home, "documents.db", "SELECT count(*) FROM chunks") == [(2000 + told["chunks"],)]
    assert rows(home, "documents.db", "SELECT count(*) FROM tickets WHERE question LIKE '% case %'") == [
        (told["tickets"],)
    ]
    assert told["tickets"] == told["threads"] > 0
    assert run(home, "agree") == "The stores agree.\n"
    assert probed(home, "answer")["lock"]["chunks"]


def test_the_index_has_one_keeper(home: Path) -> None:
    """A second process that would add is refused, since Chroma would lose vectors."""
    with at_work(home, "--rate", "5", "--seconds", str(PATIENCE), "--writers", "1"):
        assert "BlockingIOError" in run(home, "strike", "poisoned-document", code=os.EX_TEMPFAIL)


def test_a_point_taken_under_load_is_whole_and_proven(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P1, P4: eight stores at one cut while three processes write; no invariant is broken, and the copy behaves the same."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert resurgam(home, "vault", "init")[0] == 0
    with at_work(home, "--rate", "40", "--seconds", str(PATIENCE), "--writers", "3") as load:
        code, point = resurgam(home, "capture")
        stopped(load)
    assert (code, point["findings"]["broken"]) == (0, 0), point
    code, verdict = resurgam(home, "verify", point["id"])
    assert code == 0, verdict
    assert run(home, "agree") == "The stores agree.\n"


@pytest.mark.parametrize(
    "incident", ["lost-index", "swapped-embedder", "poisoned-document", "corrupted-memory", "deleted-prompt"]
)
def test_each_incident_does_what_it_says(home: Path, golden: Any, incident: str) -> None:
    """It is told in one sentence, and some probe or check is the other for it."""
    told = run(home, "strike", incident)
    assert len(told.splitlines()) == 1
    if incident in ("lost-index", "deleted-prompt"):
        asked = {"ask": {"lock": "How do I acquire a lock?"}, "components": places.places_in(str(home))}
        assert "FileNotFoundError" in run(home, "answer", said=json.dumps(asked), code=1)
    elif incident == "corrupted-memory":
        assert (
            "chunks cited and not there: [999999999]"
            in subprocess.run(
                [sys.executable, "bin/helpdesk", "agree"], cwd=home, capture_output=True, text=True, check=False
            ).stdout
        )
    else:
        assert probed(home, "answer")["lock"] != golden["lock"]


def test_an_incident_that_is_none_is_told_with_those_that_are(home: Path) -> None:
    told = run(home, "strike", "lost-indx", code=os.EX_USAGE)
    assert "no incident 'lost-indx'" in told
    assert "lost-index" in told


def test_maintenance_changes_no_answer(home: Path, golden: Any) -> None:
    """All of it, one after the other; each is told in one sentence."""
    for what in HARMLESS:
        assert len(run(home, "strike", what).splitlines()) == 1
    assert probed(home, "answer") == golden


def test_stores_that_were_torn_apart_are_told(home: Path, tmp_path: Path) -> None:
    """What a cut between two writes leaves behind is named, each in its own words."""
    old = Path(shutil.copytree(home, tmp_path / "old"))
    with at_work(home, "--rate", "40", "--seconds", "2", "--writers", "2") as load:
        stopped(load) if load.wait(PATIENCE) else None
    shutil.rmtree(old / "index")
    shutil.copytree(home / "index", old / "index")
    shutil.copy(home / "prompts/notices.md", old / "prompts/notices.md")
    done = subprocess.run(
        [sys.executable, "bin/helpdesk", "agree"], cwd=old, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "vectors without a chunk: [2001, " in done.stdout
    assert "notices about another note" in done.stdout


def test_it_is_served_over_http_and_lets_go_for_a_fence(home: Path) -> None:
    """/health and /ask; a waiting thread is a conflict; during maintenance nothing is held open."""
    command = [sys.executable, "bin/helpdesk", "serve"]
    with subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            at = server.stdout.readline().strip()
            assert called(f"{at}/health") == (200, {"status": "open", "process": server.pid})
            code, answer = called(f"{at}/ask", {"question": "How do I acquire a lock?", "customer": 3})
            assert (code, answer["thread"], bool(answer["chunks"])) == (200, "customer-3", True)
            assert called(f"{at}/ask", {"question": "Well?", "customer": 7})[0] == 409
            assert called(f"{at}/ask", {"no": "question"})[0] == 400
            fence(str(home))
            assert held_open(home) == []
            assert called(f"{at}/ask", {"question": "How?"})[0] == 503
            reload(str(home))
            assert called(f"{at}/ask", {"question": "How?"})[0] == 200
        finally:
            server.terminate()
    assert server.returncode == 0


def test_volume_beyond_the_corpus_is_labelled(tmp_path: Path) -> None:
    """What is repeated says so in title and source, and is not the same text again."""
    documents.fill(str(tmp_path / "documents.db"), 12_000, handbook.SEED)
    assert rows(tmp_path, "documents.db", "SELECT count(*) FROM chunks") == [(12_000,)]
    repeated = "SELECT d.title, d.source, c.text FROM chunks c JOIN documents d ON d.id = c.document_id WHERE d.id > {}"
    ((first,),) = rows(tmp_path, "documents.db", "SELECT min(id) FROM documents WHERE title LIKE '%(variation 1)'")
    original = {
        row[2] for row in rows(tmp_path, "documents.db", f"SELECT 1, 2, text FROM chunks WHERE document_id < {first}")
    }
    found = rows(tmp_path, "documents.db", repeated.format(first - 1))
    assert found
    assert all("(variation " in title and "repeated without each" in source for title, source, _ in found)
    assert sum(text in original for *_, text in found) < len(found) / 100


def test_make_refuses_a_folder_that_holds_something(tmp_path: Path) -> None:
    """What stands there stays."""
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(FileExistsError):
        building.make(str(tmp_path))
    assert os.listdir(tmp_path) == ["mine"]


def test_a_missing_language_model_is_told(home: Path) -> None:
    """Settings that ask for one where none was made: what to do stands in the error."""
    edit(home / "config.yaml", "writer: composed", "writer: llm")
    (home / "llm").mkdir()
    assert "make the desk with --llm" in run(home, "ask", "How?", code=1)


def resurgam(home: Path, *words: str) -> tuple[int, Any]:
    """A command of Resurgam on the desk: its exit code and its JSON."""
    command = [sys.executable, "-m", "resurgam", *words, "--json"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=2 * PATIENCE, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def eventually(held: Any) -> None:
    """Wait until something holds; fails when it does not in time."""
    until = time.monotonic() + PATIENCE
    while not held():
        assert time.monotonic() < until, "it never came to hold"
        time.sleep(0.02)


def held_open(home: Path) -> list[str]:
    """Files of the components that any process has open."""
    inside = tuple(str(home / place) for place in places.PLACES.values())
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            links = [os.readlink(f"/proc/{process}/fd/{fd}") for fd in os.listdir(f"/proc/{process}/fd")]
        except OSError:
            continue  # it has ended
        found += [link for link in links if link.startswith(inside)]
    return found


def called(url: str, asked: Any = None) -> tuple[int, Any]:
    """Status and JSON of one HTTP request."""
    data = None if asked is None else json.dumps(asked).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=PATIENCE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def change(path: Path, sql: str) -> None:
    """Change a database."""
    with closing(sqlite3.connect(path, isolation_level=None)) as opened:
        assert opened.execute(sql).rowcount > 0


def edit(path: Path, old: str, new: str) -> None:
    """Replace the first ``old`` in a file."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def relabelled(home: Path) -> bytes:
    """The router's file with its sections' names moved by one."""
    from examples.handbook.router import Router

    model = Router.load(str(home / "router"))
    other = home / "other"
    other.mkdir()
    model._replace(sections=model.sections[1:] + model.sections[:1]).save(str(other))
    return (other / "router.safetensors").read_bytes()
