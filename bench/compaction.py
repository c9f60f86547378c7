"""What a compaction that rewrites every file adds to a vault: ``python -m bench.compaction``.

Real stores are made, captured, changed, captured, compacted by their own means, and captured again. Told are the bytes of the
component and of its first capture, what the compaction added to that and how many percent it is, processor seconds of the captures
and of restores of the three points, and what the host remembers. In brackets: what the changes before it added.

    documents   SQLite: texts of 2 to 3.6 kB with vectors of 384 floats; 3 % of the rows deleted and as many added; VACUUM
    chunks      the same of texts of 300 to 900 bytes; two rows and less to a page
    notes       the same of texts of 300 to 900 bytes without vectors; many rows to a page, and an index of titles
    whole       as ``chunks``, VACUUM of a database from which nothing was deleted
    chroma      a collection of 384 floats with texts; 3 % deleted and added; ``chroma vacuum``
    lance       LanceDB: 20 fragments of 384 floats with texts of 300 to 900 bytes, 3 % deleted; ``optimize`` to one
    appended    the same, nothing deleted
    vectors     LanceDB: 20 fragments of 384 floats with a number each, 3 % deleted; ``optimize`` to one

``chroma`` and those of LanceDB need their libraries, and are left out where they are missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from bench.data import Prose

_DIMENSIONS = 384
_STATES = ("made", "changed", "compacted")
_HEAD = (
    "              size    stored   compaction adds    (changes)   captures, s           restores, s          memory"
)
_MANIFEST = """\
resurgam: 1
system: compaction
vault: {{path: vault, keys: keys}}
components:
  data: {{driver: {driver}, location: {location}}}
"""


def _vectors(rng: np.random.Generator, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    vectors = rng.standard_normal((count, _DIMENSIONS), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


# SQLite -----------------------------------------------------------------------------------------------------------------


def _rows(rng: np.random.Generator, ids: range, sizes: tuple[int, int], vectors: bool) -> Iterator[tuple[object, ...]]:
    texts = Prose(rng).texts(rng.integers(*sizes, len(ids)))
    for number, text in zip(ids, texts, strict=True):
        yield number, text[:40].decode(), text.decode(), _vectors(rng, 1).tobytes() if vectors else None


def _make_sqlite(folder: str, rows: int, sizes: tuple[int, int], vectors: bool) -> None:
    with closing(sqlite3.connect(f"{folder}/data.db")) as database, database:
        database.execute("CREATE TABLE documents (id INTEGER PRIMARY KEY, title TEXT, body TEXT, vector BLOB)")
        if not vectors:
            database.execute("CREATE INDEX titles ON documents (title)")
        values = _rows(np.random.default_rng(1), range(rows), sizes, vectors)
        database.executemany("INSERT INTO documents VALUES (?, ?, ?, ?)", values)


def _change_sqlite(folder: str, share: float, sizes: tuple[int, int], vectors: bool) -> None:
    """Delete and add a share of the rows."""
    rng = np.random.default_rng(2)
    with closing(sqlite3.connect(f"{folder}/data.db")) as database, database:
        (rows,) = database.execute("SELECT max(id) + 1 FROM documents").fetchone()
        count = round(rows * share)
        gone = [(int(row),) for row in rng.choice(rows, count, replace=False)]
        database.executemany("DELETE FROM documents WHERE id = ?", gone)
        values = _rows(rng, range(rows, rows + count), sizes, vectors)
        database.executemany("INSERT INTO documents VALUES (?, ?, ?, ?)", values)


def _vacuum(folder: str) -> None:
    with closing(sqlite3.connect(f"{folder}/data.db")) as database:
        database.execute("VACUUM")


# Chroma -----------------------------------------------------------------------------------------------------------------


def _chroma(folder: str) -> tuple[Any, Any]:
    import chromadb

    client = chromadb.PersistentClient(f"{folder}/data")
    return client, client.get_or_create_collection("help", embedding_function=None)


def _add_to_chroma(collection: Any, rng: np.random.Generator, ids: range) -> None:
    texts = [text.decode() for text in Prose(rng).texts(rng.integers(300, 900, len(ids)))]
    for at in range(0, len(ids), 1000):
        some = texts[at : at + 1000]
        names = [str(number) for number in ids[at : at + 1000]]
        collection.add(ids=names, documents=some, embeddings=_vectors(rng, len(some)))


def _make_chroma(folder: str, rows: int) -> None:
    _client, collection = _chroma(folder)
    _add_to_chroma(collection, np.random.default_rng(1), range(rows))


def _change_chroma(folder: str) -> None:
    rng = np.random.default_rng(2)
    _client, collection = _chroma(folder)
    rows = collection.count()
    collection.delete(ids=[str(int(row)) for row in rng.choice(rows, rows * 3 // 100, replace=False)])
    _add_to_chroma(collection, rng, range(rows, rows + rows * 3 // 100))


def _compact_chroma(folder: str) -> None:
    command = [os.path.join(os.path.dirname(sys.executable), "chroma"), "vacuum", "--force"]
    subprocess.run([*command, "--path", f"{folder}/data"], check=True, stdout=subprocess.DEVNULL)


# LanceDB ----------------------------------------------------------------------------------------------------------------


def _table_of_lance(rng: np.random.Generator, ids: range, texts: bool) -> Any:
    import pyarrow as pa

    columns: dict[str, Any] = {"id": pa.array(list(ids), pa.int64())}
    if texts:
        columns["text"] = [text.decode() for text in Prose(rng).texts(rng.integers(300, 900, len(ids)))]
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(_vectors(rng, len(ids)).ravel()), _DIMENSIONS)
    return pa.table(columns)


def _make_lance(folder: str, rows: int, texts: bool) -> None:
    import lancedb

    rng, table = np.random.default_rng(1), None
    database = lancedb.connect(f"{folder}/data")
    for start in range(0, rows, rows // 20):
        batch = _table_of_lance(rng, range(start, start + rows // 20), texts)
        table = table.add(batch) and table if table is not None else database.create_table("documents", batch)


def _change_lance(folder: str, share: float) -> None:
    """Delete a share of the rows."""
    import lancedb

    table = lancedb.connect(f"{folder}/data").open_table("documents")
    rows = table.count_rows()
    gone = ",".join(str(int(row)) for row in np.random.default_rng(2).choice(rows, round(rows * share), replace=False))
    if gone:
        table.delete(f"id IN ({gone})")


def _compact_lance(folder: str) -> None:
    import lancedb

    table = lancedb.connect(f"{folder}/data").open_table("documents")
    with warnings.catch_warnings(action="ignore"):  # that other readers would fail: there are none
        table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)


# Worlds -----------------------------------------------------------------------------------------------------------------

_LONG, _SHORT = (2_000, 3_600), (300, 900)
Act = Callable[[str], None]


class World(NamedTuple):
    """A store: its driver, what has to be installed, and how it is made, changed and compacted in a folder."""

    driver: str
    needs: str
    make: Act
    change: Act
    compact: Act


def _worlds(scale: float) -> dict[str, World]:
    def sqlite(rows: int, sizes: tuple[int, int], vectors: bool, share: float) -> World:
        make = partial(_make_sqlite, rows=round(rows * scale), sizes=sizes, vectors=vectors)
        change = partial(_change_sqlite, share=share, sizes=sizes, vectors=vectors)
        return World("sqlite", "sqlite3", make, change, _vacuum)

    def lance(texts: bool, share: float) -> World:
        make = partial(_make_lance, rows=round(60_000 * scale), texts=texts)
        return World("files", "lancedb", make, partial(_change_lance, share=share), _compact_lance)

    chroma = partial(_make_chroma, rows=round(30_000 * scale))
    return {
        "documents": sqlite(30_000, _LONG, True, 0.03),
        "chunks": sqlite(60_000, _SHORT, True, 0.03),
        "notes": sqlite(200_000, _SHORT, False, 0.03),
        "whole": sqlite(60_000, _SHORT, True, 0),
        "chroma": World("chroma", "chromadb", chroma, _change_chroma, _compact_chroma),
        "lance": lance(True, 0.03),
        "appended": lance(True, 0),
        "vectors": lance(False, 0.03),
    }


def measure(name: str, scale: float, folder: str, repeat: int) -> dict[str, Any]:
    """Make a world, and take it before and after its changes and its compaction."""
    world = _worlds(scale)[name]
    if importlib.util.find_spec(world.needs) is None:
        return {"world": name, "missing": world.needs}
    if not os.path.exists(f"{folder}/compacted"):
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(f"{folder}/now")
        for state, act in zip(_STATES, world[2:], strict=True):
            _apart(name, f"{folder}/now", act)
            shutil.copytree(f"{folder}/now", f"{folder}/{state}")
        shutil.rmtree(f"{folder}/now")
    found: dict[str, Any] = {"world": name}
    with tempfile.TemporaryDirectory(dir=folder) as work:
        _take(work, folder, world.driver, repeat, found)
    return found


def _apart(name: str, folder: str, act: Act) -> None:
    """In a process of its own, as whatever a library holds in memory or in the background ends with it."""
    process = multiprocessing.get_context("fork").Process(target=act, args=(folder,))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{name} could not be made")


def _take(work: str, folder: str, driver: str, repeat: int, found: dict[str, Any]) -> None:
    place = "data.db" if driver == "sqlite" else "data"
    with open(f"{work}/resurgam.yaml", "w", encoding="ascii") as file:
        file.write(_MANIFEST.format(driver=driver, location=place))
    _run(work, "vault", "init")
    for state in _STATES:
        subprocess.run(["rm", "-rf", f"{work}/{place}"], check=True)
        subprocess.run(["cp", "-r", "--preserve=all", f"{folder}/{state}/{place}", f"{work}/{place}"], check=True)
        before = _size(f"{work}/vault/packs")
        row = found[state] = {"size": _size(f"{work}/{place}"), "capture": _run(work, "capture")}
        row |= {"stored": _size(f"{work}/vault/packs") - before, "memory": _size(f"{work}/state"), "restore": 0}
        times = []
        for _ in range(repeat):
            times.append(_run(work, "restore", "latest", "--into", f"{work}/back"))
            shutil.rmtree(f"{work}/back")
        row["restore"] = statistics.median(times)


def _run(work: str, *verb: str) -> float:
    """The processor seconds that a verb takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "resurgam", *verb, "--manifest", f"{work}/resurgam.yaml"]
    environment = {**os.environ, "RESURGAM_STATE": f"{work}/state"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=work, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _size(path: str) -> int:
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(path) for name in names)


def told(found: dict[str, Any]) -> str:
    """One line of the table."""
    if "missing" in found:
        return f"{found['world']:<10} {found['missing']} is not installed"
    first, changed, last = (found[state] for state in _STATES)
    seconds = (f"{found[state][what]:>6.2f}" for what in ("capture", "restore") for state in _STATES)
    return (
        f"{found['world']:<10}{first['size'] / 1e6:>8.1f} MB {first['stored'] / 1e6:>7.1f} MB {last['stored'] / 1e6:>7.2f} MB"
        f"{100 * last['stored'] / first['stored']:>7.1f} %  ({changed['stored'] / 1e6:.2f} MB)  {' '.join(seconds)}"
        f"{last['memory'] / 1e6:>7.1f} MB"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the bench."""
    parser = argparse.ArgumentParser(prog="python -m bench.compaction", description="What compaction adds.")
    parser.add_argument("--world", choices=_worlds(1), nargs="+", help="only these (all)")
    parser.add_argument("--scale", type=float, default=1, help="of some 130 MB each (%(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="restores of each point, the median counts (%(default)s)")
    parser.add_argument("--work", type=os.path.abspath, help="make the stores there, keep them, and use them again")
    parser.add_argument("--json", action="store_true", help="everything as JSON instead of the table")
    given = parser.parse_args(arguments)
    print(_HEAD, file=sys.stderr)
    with nullcontext(given.work) if given.work else tempfile.TemporaryDirectory(prefix="bench-compaction-") as work:
        for world in given.world or _worlds(1):
            found = measure(world, given.scale, f"{work}/{world}", given.repeat)
            print(json.dumps(found) if given.json else told(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
