"""What simpler checks say of the same copy: counts, checksums, and a gate of mean overlap. For comparison; nothing here judges.

*Counts*: every database opens, passes ``integrity_check``, and has as many rows in each table; every file of a component's own
folder (not of those below it, which Chroma and git name as they like) is there and not empty; a model's tensors have the same names
and shapes. *Checksums*: every file has the SHA-256 that it had at the capture. *Overlap*: the gates that vecdiff 0.4.2 publishes,
"green" or an alarm: mean Jaccard of the neighbours at least 0.90, and fewer than 2 % of the queries with a heavy loss (Jaccard at
most 0.30), over the neighbours of all questions, the oracle's included. (Its third gate is over norms, which are 1 here.)
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from contextlib import closing
from statistics import mean
from typing import NamedTuple
from urllib.parse import quote

from safetensors import SafetensorError, safe_open

from bench.proof.oracle import NEIGHBOURS, Seen

GREEN_MEAN, GREEN_HEAVY, HEAVY = 0.90, 0.02, 0.30
_CHROMAS = (
    "embeddings_queue",
    "max_seq_id",
    "segments",
    "segment_metadata",
    "embeddings_queue_config",
)  # its bookkeeping
_PASSING = ("-wal", "-shm", "-journal")  # SQLite's own, there only while it is in use


class Look(NamedTuple):
    """What counts and checksums compare: per table its rows, per file its size, per tensor its shape; per file its SHA-256.
    ``faults`` are databases that do not open or do not pass, and models that do not load."""

    counts: dict[str, int]
    sizes: dict[str, int]
    sums: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    faults: tuple[str, ...]


def look(places: dict[str, str]) -> Look:
    """Look at the components at these places as a backup job or a health page does."""
    counts: dict[str, int] = {}
    sizes: dict[str, int] = {}
    sums: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    faults: list[str] = []
    for component, place in places.items():
        for path in sorted(_files(place)):
            name = f"{component}/{os.path.relpath(path, place)}"
            if os.path.dirname(path) in (place, os.path.dirname(place)):
                sizes[name] = os.path.getsize(path)
            with open(path, "rb") as file:
                sums[name] = hashlib.file_digest(file, "sha256").hexdigest()
            try:
                if path.endswith((".db", ".sqlite3")):
                    counts |= {f"{name} {table}": rows for table, rows in _count(path).items()}
                elif path.endswith(".safetensors"):
                    shapes |= _shapes(name, path)
            except (sqlite3.Error, SafetensorError, ValueError) as error:
                faults.append(f"{name}: {error}")
    return Look(counts, sizes, sums, shapes, tuple(faults))


def counts_alarm(before: Look, after: Look) -> bool:
    """Whether counting would have noticed."""
    smaller = any(after.sizes.get(name, -1) <= 0 < size for name, size in before.sizes.items())
    return bool(after.faults) or smaller or before.counts != after.counts or before.shapes != after.shapes


def sums_alarm(before: Look, after: Look) -> bool:
    """Whether checksums would have noticed."""
    return before.sums != after.sums


def overlap_alarm(before: Seen, after: Seen) -> bool:
    """Whether the gate over neighbours would not have been green; False where there is no index of vectors."""
    lists = [
        (side.get("neighbours"), other.get("neighbours"))
        for side, other in zip(before.values(), after.values(), strict=True)
    ]
    if any(isinstance(new, dict) and "error" in new for _, new in lists):
        return True
    scores = [_jaccard(old[case], new.get(case, [])) for old, new in lists if old for case in old]
    if not scores:
        return False
    return mean(scores) < GREEN_MEAN or mean(score <= HEAVY for score in scores) >= GREEN_HEAVY


def _jaccard(old: list[int], new: list[int]) -> float:
    ours, theirs = set(old[:NEIGHBOURS]), set(new[:NEIGHBOURS])
    return len(ours & theirs) / max(1, len(ours | theirs))


def _files(place: str) -> list[str]:
    if os.path.isfile(place):
        return [place]
    found = [os.path.join(folder, name) for folder, _, names in os.walk(place) for name in names]
    return [path for path in found if not path.endswith(_PASSING)]


def _count(path: str) -> dict[str, int]:
    with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=30)) as database:
        said = database.execute("PRAGMA integrity_check").fetchone()[0]
        if said != "ok":
            raise ValueError(said)
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {
            table: database.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]  # noqa: S608 (the tables' own names)
            for table in tables
            if not table.startswith("sqlite_") and not _is_of_fts(table) and table not in _CHROMAS
        }


def _is_of_fts(table: str) -> bool:
    """The tables that FTS5 keeps for itself; how many rows it needs says nothing."""
    return table.endswith(("_data", "_idx", "_docsize", "_config", "_content"))


def _shapes(name: str, path: str) -> dict[str, tuple[int, ...]]:
    with safe_open(path, framework="numpy") as file:
        return {f"{name} {tensor}": tuple(file.get_slice(tensor).get_shape()) for tensor in file.keys()}  # noqa: SIM118
