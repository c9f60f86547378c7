"""What befalls the copies of the handbook in ``resurgam demo``: four real damages, and the checks that most people have.

Each incident takes the folder of a handbook system, damages it as its name says, and tells in a sentence what it did. The
checks are what a backup job or a health page looks at: files there, rows counted, ``quick_check``, a model that loads.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

DATABASE = "data/handbook.db"
MODEL = "models/router.safetensors"
PROMPT = "prompts/answer.md"
PARTS = ("data", "models", "prompts", "policies", "config")
ROWS = 5

# Of equal length, and each turns what is said around: nothing that counts or measures can notice.
_TWISTS = (
    *(
        (" not ", " now "),
        (" returned", " rejected"),
        (" return ", " ignore "),
        ("Return ", "Ignore "),
        (" must ", " need "),
    ),
    *((" is ", " be "), (" are ", " ain "), (" of ", " or "), (" to ", " by "), (" the ", " any "), (" a ", " 0 ")),
)
_QUOTED = 120  # characters at a chunk's beginning: an answer quotes them


class Check(NamedTuple):
    """One naive check, and what it found."""

    name: str
    ok: bool
    found: str


class Remembered(NamedTuple):
    """What the naive checks know of a healthy system: sizes by path, rows by table, shapes by tensor."""

    sizes: dict[str, int]
    rows: dict[str, int]
    shapes: dict[str, tuple[int, ...]]


class Incident(NamedTuple):
    """Something that happens to the system in a folder. ``strike`` gets the folder and the chunks that golden answers
    cite, and returns what it did. ``noticed`` names the naive checks that see it."""

    name: str
    title: str
    noticed: tuple[str, ...]
    strike: Callable[[str, Iterable[int]], str]


def encrypt(home: str, _cited: Iterable[int] = ()) -> str:
    """Encrypt the database as ransomware does: AES-256-CTR into a second file, which then takes the first one's name."""
    path = os.path.join(home, DATABASE)
    before = os.stat(path)
    cipher = Cipher(algorithms.AES256(os.urandom(32)), modes.CTR(os.urandom(16))).encryptor()
    with open(path, "rb") as plain, open(f"{path}.locked", "xb") as locked:
        while block := plain.read(1 << 20):
            locked.write(cipher.update(block))
        locked.write(cipher.finalize())
    os.utime(f"{path}.locked", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.rename(f"{path}.locked", path)
    return f"{before.st_size:,} bytes of {DATABASE} encrypted; name, size and time are as before, the key is gone"


def change_rows(home: str, cited: Iterable[int]) -> str:
    """Turn a word around in ``ROWS`` of the chunks ``cited``, with ordinary UPDATE statements of a valid login."""
    changed: list[int] = []
    with closing(sqlite3.connect(os.path.join(home, DATABASE), isolation_level=None)) as database:
        for chunk in cited:
            (text,) = database.execute("SELECT text FROM chunks WHERE id = ?", (chunk,)).fetchone()
            twisted = _twisted(text)
            if twisted != text and chunk not in changed and len(changed) < ROWS:
                database.execute("UPDATE chunks SET text = ? WHERE id = ?", (twisted, chunk))
                changed.append(chunk)
    return (
        f"one word in each of chunks {', '.join(map(str, changed))} changed; {len(changed)} rows, none added, none gone"
    )


def change_prompt(home: str, _cited: Iterable[int] = ()) -> str:
    """Change one line of the prompt."""
    path = os.path.join(home, PROMPT)
    with open(path, encoding="utf-8") as file:
        lines = file.read().split("\n")
    number = next(number for number, line in enumerate(lines) if line.startswith("Never "))
    before, lines[number] = lines[number], lines[number].replace("Never ", "Often ", 1)
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines))
    return f"line {number + 1} of {PROMPT} was {before!r} and is {lines[number]!r}"


def swap_weights(home: str, _cited: Iterable[int] = ()) -> str:
    """Put another model in the router's place: the same names, types and shapes, each section's weights another's."""
    path = os.path.join(home, MODEL)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        tensors = {name: np.ascontiguousarray(np.roll(file.get_tensor(name), 1, axis=-1)) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata=metadata)
    shapes = ", ".join(f"{name} {'x'.join(map(str, tensor.shape))}" for name, tensor in sorted(tensors.items()))
    return f"{MODEL} holds other weights of the same shape ({shapes})"


INCIDENTS = (
    Incident("ransomware", "The database is encrypted by ransomware", ("row counts", "quick_check"), encrypt),
    Incident("rows", f"{ROWS} rows are quietly changed", (), change_rows),
    Incident("prompt", "A prompt is changed by one line", (), change_prompt),
    Incident("weights", "The model's weights are swapped for others of the same shape", (), swap_weights),
)


def remember(home: str) -> Remembered:
    """What the naive checks compare with later. ``home`` is healthy, and nobody writes to it."""
    return Remembered(_sizes(home), _rows(home), _shapes(home))


def naive_checks(home: str, healthy: Remembered) -> tuple[Check, ...]:
    """Look at the system in ``home`` as a backup job or a health page would."""
    return (_files(home, healthy), _count(home, healthy), _quick_check(home), _model(home, healthy))


def _twisted(text: str) -> str:
    head, tail = text[:_QUOTED], text[_QUOTED:]
    for word, other in _TWISTS:
        if word in head:
            return head.replace(word, other, 1) + tail
    return text


def _files(home: str, healthy: Remembered) -> Check:
    sizes = _sizes(home)
    short = [path for path, size in healthy.sizes.items() if sizes.get(path, -1) < size]
    found = f"missing or too small: {', '.join(short)}" if short else f"{len(sizes)} there, none smaller"
    return Check("files", not short, found)


def _count(home: str, healthy: Remembered) -> Check:
    try:
        rows = _rows(home)
    except sqlite3.Error as error:
        return Check("row counts", False, str(error))
    other = [table for table, count in healthy.rows.items() if rows.get(table) != count]
    return Check(
        "row counts", not other, f"other in {', '.join(other)}" if other else f"{sum(rows.values()):,}, as before"
    )


def _quick_check(home: str) -> Check:
    try:
        with closing(_opened(home)) as database:
            found = "; ".join(row[0] for row in database.execute("PRAGMA quick_check(3)"))
    except sqlite3.Error as error:
        found = str(error)
    return Check("quick_check", found == "ok", found)


def _model(home: str, healthy: Remembered) -> Check:
    try:
        shapes = _shapes(home)
    except (SafetensorError, OSError) as error:
        return Check("model loads", False, str(error))
    same = shapes == healthy.shapes
    return Check("model loads", same, "same names and shapes" if same else "other names or shapes")


def _sizes(home: str) -> dict[str, int]:
    paths = [
        os.path.join(folder, name)
        for part in PARTS
        for folder, _, names in os.walk(os.path.join(home, part))
        for name in names
        if not name.endswith(("-wal", "-shm"))  # SQLite's own, there only while it is in use
    ]
    return {os.path.relpath(path, home): os.stat(path).st_size for path in sorted(paths)}


def _rows(home: str) -> dict[str, int]:
    with closing(_opened(home)) as database:
        tables = [
            name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        ]
        return {
            table: database.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]  # noqa: S608 (our own table names)
            for table in tables
            if not table.startswith("chunks_index")  # the index's own, which no one counts
        }


def _shapes(home: str) -> dict[str, tuple[int, ...]]:
    with safe_open(os.path.join(home, MODEL), framework="numpy") as file:
        return {name: tuple(file.get_tensor(name).shape) for name in file.keys()}  # noqa: SIM118 (it is no dict)


def _opened(home: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(os.path.join(os.path.abspath(home), DATABASE))}?mode=rw", uri=True, timeout=30)
