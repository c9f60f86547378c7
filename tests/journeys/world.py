"""A small real system and the real command line, for journeys through it.

``Handbook`` is a folder with everything that makes a question-answering service behave as it does: an SQLite database in
WAL mode with a full-text index, a router's weights, a prompt and a configuration. Its answers depend on each of them:

    question -> router (safetensors) -> section -> search (FTS5) -> prompt -> as many letters as the configuration allows

``World`` adds a vault, keys, a host's notes and the verbs. ``run`` calls the command line in this process, ``process`` starts
it as one of its own; both are judged by what a person or a script gets: exit code, standard output, standard error.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from resurgam.cli.main import main

SECTIONS = {
    "storage": ("disk", "backup", "snapshot", "vault", "replica"),
    "people": ("holiday", "salary", "contract", "office", "parking"),
}
BUCKETS = 64
QUESTIONS = tuple(f"What about {word}?" for words in SECTIONS.values() for word in words)

ANSWER = r'''"""Answers questions from the components it is given, and from nothing else."""
import json, re, sqlite3, struct, sys, zlib

asked = json.load(sys.stdin)
places = asked["components"]

def route(words):
    with open(places["router"] + "/router.safetensors", "rb") as file:
        size, = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        data = file.read()
    names = header["__metadata__"]["sections"].split(",")
    start, end = header["weights"]["data_offsets"]
    weights = struct.unpack(f"<{(end - start) // 4}f", data[start:end])
    wide = len(weights) // len(names)
    scores = [sum(weights[i * wide + zlib.crc32(w.encode()) % wide] for w in words) for i in range(len(names))]
    return names[max(range(len(names)), key=scores.__getitem__)]

with open(places["prompts"] + "/answer.txt", encoding="utf-8") as file:
    prompt = file.read()
with open(places["config"] + "/app.json", encoding="utf-8") as file:
    letters = json.load(file)["letters"]
database = sqlite3.connect(f"file:{places['documents']}?mode=ro", uri=True)

def answer(question):
    words = re.findall("[a-z]+", question.lower())
    found = database.execute(
        "SELECT d.title, d.body FROM search JOIN docs d ON d.id = search.rowid WHERE search MATCH ? AND d.section = ?"
        " ORDER BY bm25(search), d.id LIMIT 1", (" OR ".join(words), route(words))).fetchone()
    return prompt.format(title=found[0], body=found[1])[:letters] if found else "I do not know."

print(json.dumps({"answers": {question: answer(question) for question in asked["ask"]}}))
'''

WRITER = r'''"""Opens tickets, one transaction each, until its standard input is closed."""
import select, sqlite3, sys

database = sqlite3.connect(sys.argv[1], timeout=10)
docs = [key for key, in database.execute("SELECT id FROM docs")]
count = 0
while not select.select([sys.stdin], [], [], 0.002)[0]:
    with database:
        database.execute("INSERT INTO tickets (doc, words) VALUES (?, ?)", (docs[count % len(docs)], f"ticket {count}"))
    count += 1
    if count == 1:
        print("writing", flush=True)
database.close()
print(count)
'''

MANIFEST = """\
resurgam: 1
system: {name}
vault: {{path: {vault}, keys: {keys}}}
components:
  documents: {{driver: sqlite, location: data/handbook.db, consistency: transaction}}
  router: {{driver: files, location: models, derived_from: [documents]}}
  prompts: {{driver: files, location: prompts}}
  config: {{driver: files, location: config}}
invariants:
  tickets-cite-docs: {{every: "documents: SELECT doc FROM tickets", exists_in: "documents: SELECT id FROM docs"}}
probes:
  golden: {{kind: command, run: [{python}, bin/answer.py], ask: {{file: golden.json}},
           reads: [documents, router, prompts, config], witness: true}}
  counts: {{kind: sql, component: documents, witness: true,
           sql: "SELECT 'docs', count(*) FROM docs UNION ALL SELECT 'tickets', count(*) FROM tickets"}}
objectives: {{rpo: 1h, rto: 10m}}
isolation: required
"""


@dataclass
class Handbook:
    """The live system in ``root``, and what may befall it."""

    root: str

    def build(self) -> None:
        """Make it: every part is real, and small."""
        for folder in ("bin", "data", "models", "prompts", "config"):
            os.makedirs(self.path(folder))
        self.write("bin/answer.py", ANSWER)
        self.write("bin/writer.py", WRITER)
        self.write("golden.json", json.dumps(QUESTIONS))
        self.write("prompts/answer.txt", "From the handbook, {title}:\n{body}\n")
        self.write("config/app.json", '{"letters": 200}')
        with contextlib.closing(sqlite3.connect(self.database)) as database, database:
            database.execute("PRAGMA journal_mode=wal")
            database.executescript(
                "CREATE TABLE docs (id INTEGER PRIMARY KEY, section TEXT, title TEXT, body TEXT);"
                "CREATE TABLE tickets (id INTEGER PRIMARY KEY, doc INTEGER REFERENCES docs(id), words TEXT);"
                "CREATE VIRTUAL TABLE search USING fts5(title, body, content=docs, content_rowid=id)"
            )
            rows = [
                (
                    section,
                    f"{word} {number}",
                    f"{word} case {number} is {number * 7 % 13}. " + "Ask your lead. " * number,
                )
                for section, words in SECTIONS.items()
                for word in words
                for number in range(1, 21)
            ]
            database.executemany("INSERT INTO docs (section, title, body) VALUES (?, ?, ?)", rows)
            database.execute("INSERT INTO tickets (doc, words) VALUES (1, 'the first')")
            database.execute("INSERT INTO search(search) VALUES ('rebuild')")
        self.train()

    def train(self, *, swapped: bool = False) -> None:
        """The router's weights; ``swapped`` ones have the same names, shapes and size, and route every question wrongly."""
        names = list(SECTIONS)
        weights = [[0.0] * BUCKETS for _ in names]
        for row, words in enumerate(SECTIONS.values()):
            for word in words:
                weights[1 - row if swapped else row][zlib.crc32(word.encode()) % BUCKETS] += 1.0
        data = b"".join(struct.pack(f"<{BUCKETS}f", *row) for row in weights)
        tensor = {"dtype": "F32", "shape": [len(names), BUCKETS], "data_offsets": [0, len(data)]}
        header = json.dumps({"__metadata__": {"sections": ",".join(names)}, "weights": tensor}).encode()
        header += b" " * (-len(header) % 8)
        with open(self.path("models/router.safetensors"), "wb") as file:
            file.write(struct.pack("<Q", len(header)) + header + data)

    @property
    def database(self) -> str:
        return self.path("data/handbook.db")

    def path(self, name: str) -> str:
        """A file of the system."""
        return os.path.join(self.root, name)

    def write(self, name: str, text: str) -> None:
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)

    def sql(self, statement: str, *values: object) -> list[Any]:
        """Run a statement on the live database, and commit."""
        with contextlib.closing(sqlite3.connect(self.database, timeout=10)) as database, database:
            return database.execute(statement, values).fetchall()

    def ask(self) -> dict[str, str]:
        """What the live system answers. Raises CalledProcessError where it cannot any more."""
        names = {"documents": self.database, "router": "models", "prompts": "prompts", "config": "config"}
        components = {name: self.path(place) for name, place in names.items()}
        asked = json.dumps({"ask": QUESTIONS, "components": components})
        command = [sys.executable, self.path("bin/answer.py")]
        done = subprocess.run(command, input=asked, capture_output=True, text=True, check=True)
        answers: dict[str, str] = json.loads(done.stdout)["answers"]
        return answers

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """A real writer in a process of its own commits all the while; it must not see one error."""
        command = [sys.executable, self.path("bin/writer.py"), self.database]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdin is not None
            assert writer.stdout is not None
            assert writer.stdout.readline() == "writing\n"
            try:
                yield
            finally:
                writer.stdin.close()
                last = writer.stdout.read()
        assert writer.returncode == 0
        assert int(last) > 1

    # Incidents: each leaves sizes, counts and `quick_check` as they were, or says in its name what it breaks.

    def change_rows(self) -> None:
        """Five documents say something else, and as much of it."""
        self.sql("UPDATE docs SET body = replace(body, ' is ', ' am ') WHERE title = 'vault 1' OR id < 5")
        self.sql("INSERT INTO search(search) VALUES ('rebuild')")

    def change_prompt(self) -> None:
        """One line of the prompt is another one."""
        self.write("prompts/answer.txt", "From the rumours, {title}:\n{body}\n")

    def swap_model(self) -> None:
        """Weights of the same shapes, trained for something else."""
        self.train(swapped=True)

    def encrypt_database(self) -> None:
        """What ransomware leaves: the same size, and nothing of it readable."""
        with contextlib.closing(sqlite3.connect(self.database)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with open(self.database, "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            file.write(hashlib.shake_128(b"ransom").digest(size))


@dataclass(frozen=True)
class Result:
    """What a caller of the command line gets."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON value on standard output; anything beside it is an error here."""
        return json.loads(self.out)


@dataclass
class World:
    """``home`` holds the system, its vault, its keys and this host's notes; ``env`` is what the command line is started with."""

    home: str
    name: str = "handbook"
    system: Handbook = field(init=False)
    env: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.system = Handbook(os.path.join(self.home, "system"))
        self.env = {"RESURGAM_STATE": self.path("state"), "HOME": self.path("home")}

    def build(self) -> World:
        """The system with its manifest; no vault yet."""
        os.makedirs(self.path("home"))
        self.system.build()
        self.manifest()
        return self

    def ready(self) -> World:
        """The system with its manifest, its vault and its keys."""
        self.build()
        assert self.run("vault", "init").code == 0
        return self

    def path(self, name: str) -> str:
        """Something in ``home``, such as ``vault`` or ``keys``."""
        return os.path.join(self.home, name)

    def manifest(self, *changes: tuple[str, str]) -> None:
        """Write the manifest, each of ``changes`` (a text that stands in it, what stands there instead) made."""
        text = MANIFEST.format(
            name=self.name, vault=self.path("vault"), keys=self.path("keys"), python=json.dumps(sys.executable)
        )
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        self.system.write("resurgam.yaml", text)

    def run(self, *words: str) -> Result:
        """The command line in this process, in the system's folder."""
        out, err = io.StringIO(), io.StringIO()
        was, here = dict(os.environ), os.getcwd()
        os.environ.update(self.env)
        os.chdir(self.system.root if os.path.isdir(self.system.root) else self.home)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(list(words))
        finally:
            os.chdir(here)
            os.environ.clear()
            os.environ.update(was)
        return Result(code, out.getvalue(), err.getvalue())

    def start(self, *words: str, through: Sequence[str] = ()) -> subprocess.Popen[str]:
        """The command line as a process of its own, started ``through`` another command."""
        return subprocess.Popen(
            [*through, sys.executable, "-m", "resurgam", *words],
            cwd=self.system.root if os.path.isdir(self.system.root) else self.home,
            env=os.environ | self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def process(self, *words: str, through: Sequence[str] = ()) -> Result:
        """The command line as a process of its own, to its end."""
        with self.start(*words, through=through) as process:
            out, err = process.communicate(timeout=120)
        return Result(process.returncode, out, err)

    def capture(self) -> str:
        """A point without findings; its id."""
        result = self.run("capture", "--json")
        assert result.code == 0, result
        return str(result.json["id"])

    def points(self) -> list[str]:
        """The ids of all points of the system, oldest first."""
        return [point["id"] for point in self.run("points", "--json").json]

    def place(self, name: str) -> str:
        """An absolute path for a restore, beside the system."""
        return self.path(name)


def tree(folder: str) -> dict[str, str]:
    """Every file and folder below ``folder``, with the digest of what it holds. SQLite's index of a WAL (``-shm``) and
    an empty WAL are left out: they come with whoever opens the database, also only to read it, and say nothing."""
    found: dict[str, str] = {}
    for where, folders, names in os.walk(folder):
        for name in folders:
            found[os.path.relpath(os.path.join(where, name), folder)] = "folder"
        for name in names:
            path = os.path.join(where, name)
            if name.endswith("-shm") or (name.endswith("-wal") and not os.path.getsize(path)):
                continue
            if os.path.islink(path) or not os.path.isfile(path):
                found[os.path.relpath(path, folder)] = "special"
                continue
            with open(path, "rb") as file:
                found[os.path.relpath(path, folder)] = hashlib.sha256(file.read()).hexdigest()
    return found


def rows(database: str) -> dict[str, list[Any]]:
    """What the tables of ``database`` hold, read without Resurgam."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in ("docs", "tickets")
        }


def partial_folders(home: str) -> list[str]:
    """What half-built restores and promotions are called."""
    return [
        os.path.join(where, name)
        for where, folders, names in os.walk(home)
        for name in (*folders, *names)
        if re.search(r"\.partial-", name)
    ]


def remove(path: str) -> None:
    """A file or a folder, as a disaster takes it."""
    if os.path.isdir(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)
