"""The data: five sets of fixed seeds, each in two versions. Made once, in a process of its own: ``python -m bench.data``.

    model     bf16 safetensors of some 200 tensors, N(0, 0.02)      v2: about 1 % of the bytes trained again
    vectors   float32 .npy, 700,000 unit vectors of 384             v2: 0.5 % of the rows changed, 0.5 % appended
    sqlite    280,000 documents with their vectors, WAL mode        v2: 1 % of the rows changed, half in one place
    dataset   JSON lines and columns                                v2: 1 % of the lines inserted at 20 places, a new shard
    small     100,000 files of 1 to 8 KiB                           v2: 1,000 of them edited

Layout of a set: ``source`` is what is backed up; what differs between versions waits in ``v1`` or ``v2``, and is renamed
into ``source`` (:func:`use`), so that files that did not change keep their inode, times and page cache.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from bench.tools import DATABASE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WIDTH = 384
_SETTLE = 2.5  # seconds; tools do not trust files that changed just now
_NEWEST = "newest"


def use(folder: str, version: str) -> None:
    """Make ``version`` (v1 or v2) the one in ``source``, and wait until its times are old enough for every tool.

    A file of its own is the newest of all: borg never remembers the newest, and would read a set of one file again.
    """
    source, other = os.path.join(folder, "source"), "v1" if version == "v2" else "v2"
    with open(os.path.join(folder, "differing.json"), encoding="utf-8") as file:
        differing = json.load(file)
    for name in differing[other]:
        if not os.path.exists(os.path.join(folder, other, name)):
            os.rename(os.path.join(source, name), os.path.join(folder, other, name))
    for name in differing[version]:
        if os.path.exists(os.path.join(folder, version, name)):
            os.rename(os.path.join(folder, version, name), os.path.join(source, name))
    time.sleep(0.05)
    with open(os.path.join(source, _NEWEST), "w", encoding="utf-8") as file:
        file.write(version)
    time.sleep(_SETTLE)


def make(name: str, scale: float, folder: str) -> None:
    """Make the set ``name`` in ``folder``; a scale of 1 is the full size."""
    partial = folder + ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    for part in ("source", "v1", "v2"):
        os.makedirs(os.path.join(partial, part))
    MAKERS[name](partial, scale)
    differing = {version: _names(os.path.join(partial, version)) for version in ("v1", "v2")}
    with open(os.path.join(partial, "differing.json"), "w", encoding="utf-8") as file:
        json.dump(differing, file)
    os.rename(partial, folder)


def has_parquet() -> bool:
    """Whether the ``dataset``'s columns are Parquet on this machine, or else plain columns in zstd."""
    return importlib.util.find_spec("pyarrow") is not None


class Prose:
    """Text that compresses like English (zstd 1 to 0.38, zstd 3 to 0.35 of its size): words by Zipf's law."""

    def __init__(self, rng: np.random.Generator) -> None:
        import numpy as np

        self._rng = rng
        letters = np.frombuffer(
            b"eeeeeeeeeeeetttttttttaaaaaaaaooooooooiiiiiiinnnnnnnsssssshhhhhhrrrrrrddddllll", np.uint8
        )
        letters = np.concatenate([letters, np.frombuffer(b"cccuuummmwwffggyyppbbvkjxqz", np.uint8)])
        self._words = np.array([rng.choice(letters, n).tobytes() for n in rng.integers(2, 11, 30_000)], dtype=object)

    def text(self, size: int) -> bytes:
        """``size`` bytes of text."""
        text = b" ".join(self._words[self._zipf(size // 5 + 10)])
        assert len(text) >= size, "words are six letters long on average"
        return text[:size]

    def texts(self, sizes: NDArray[Any]) -> Iterator[bytes]:
        """One text of each size, cut from runs of 4 MB."""
        run, at = b"", 0
        for size in sizes.tolist():
            if at + size > len(run):
                run, at = self.text(4_000_000), 0
            yield run[at : at + size]
            at += size

    def _zipf(self, count: int) -> NDArray[np.int64]:
        """Places of ``count`` words, place r with a probability of nearly 1 / (r + 1)."""
        import numpy as np

        places: NDArray[np.int64] = np.exp(self._rng.random(count) * np.log(len(self._words))).astype(np.int64) - 1
        return places


def _model(folder: str, scale: float) -> None:
    import numpy as np

    rng = np.random.default_rng(1)
    layers, hidden, inner = max(2, round(28 * scale)), 1024, 2816
    parts = {"q": hidden, "k": hidden, "v": hidden, "o": hidden, "gate": inner, "up": inner, "down": inner}
    shapes = {f"layers.{i}.{part}_proj.weight": (rows, hidden) for i in range(layers) for part, rows in parts.items()}
    shapes |= {"embed.weight": (max(2000, round(180_000 * scale)), hidden), "norm.weight": (1, hidden)}
    tensors = {name: _weights(rng, shape) for name, shape in shapes.items()}
    _write_safetensors(os.path.join(folder, "v1", "model.safetensors"), tensors)
    for layer in range(max(1, round(2 * scale))):
        name = f"layers.{layer * 7 % layers}.gate_proj.weight"
        tensors[name] = _weights(rng, shapes[name])
    _write_safetensors(os.path.join(folder, "v2", "model.safetensors"), tensors)


def _weights(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.uint16]:
    """N(0, 0.02) as bfloat16: the upper half of each float32, rounded."""
    import numpy as np

    floats = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
    return ((floats.view(np.uint32) + np.uint32(0x8000)) >> np.uint32(16)).astype(np.uint16)


def _write_safetensors(path: str, tensors: dict[str, NDArray[np.uint16]]) -> None:
    header, at = {}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": "BF16", "shape": values.shape, "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in tensors.values():
            file.write(values.data)


def _vectors(folder: str, scale: float) -> None:
    import numpy as np

    rng = np.random.default_rng(2)
    rows = round(700_000 * scale)
    some = max(1, rows // 200)
    vectors = _unit_vectors(rng, rows)
    np.save(os.path.join(folder, "v1", "vectors.npy"), vectors)
    vectors[rng.choice(rows, some, replace=False)] = _unit_vectors(rng, some)
    np.save(os.path.join(folder, "v2", "vectors.npy"), np.concatenate([vectors, _unit_vectors(rng, some)]))


def _unit_vectors(rng: np.random.Generator, rows: int) -> NDArray[np.float32]:
    import numpy as np

    vectors = rng.standard_normal((rows, WIDTH), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _sqlite(folder: str, scale: float) -> None:
    import numpy as np

    rng = np.random.default_rng(3)
    prose, rows = Prose(rng), round(280_000 * scale)
    first, second = (os.path.join(folder, version, DATABASE) for version in ("v1", "v2"))
    with closing(sqlite3.connect(first, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = wal")
        database.execute("CREATE TABLE documents (id INTEGER PRIMARY KEY, title TEXT, body TEXT, vector BLOB)")
        database.execute("BEGIN")
        insert = "INSERT INTO documents VALUES (?, ?, ?, ?)"
        database.executemany(insert, _documents(rng, prose, range(1, rows + 1)))
        database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copyfile(first, second)
    half = max(1, rows // 200)
    changed = {*range(rows // 3, rows // 3 + half), *rng.choice(rows, half, replace=False).tolist()}
    with closing(sqlite3.connect(second, isolation_level=None)) as database:
        database.execute("BEGIN")
        for row in _documents(rng, prose, sorted(number + 1 for number in changed)):
            database.execute("UPDATE documents SET title = ?2, body = ?3, vector = ?4 WHERE id = ?1", row)
        database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _documents(rng: np.random.Generator, prose: Prose, ids: Any) -> Iterator[tuple[int, str, str, bytes]]:
    texts = prose.texts(rng.integers(2_000, 3_600, len(ids)))
    for number, text in zip(ids, texts, strict=True):
        yield number, text[:40].decode(), text.decode(), _unit_vectors(rng, 1).tobytes()


def _dataset(folder: str, scale: float) -> None:
    import numpy as np

    rng = np.random.default_rng(4)
    prose, count = Prose(rng), round(580_000 * scale)
    lines = list(_lines(rng, prose, count))
    _write_lines(os.path.join(folder, "v1", "train.jsonl"), lines)
    fresh = list(_lines(rng, prose, count // 100))
    step = len(fresh) // 20 + 1
    for number, place in enumerate(sorted(rng.choice(count, 20, replace=False).tolist(), reverse=True)):
        lines[place:place] = fresh[number * step : (number + 1) * step]
    _write_lines(os.path.join(folder, "v2", "train.jsonl"), lines)
    for shard in range(4):
        _write_columns(os.path.join(folder, "source", f"part-{shard}"), rng, round(1_000_000 * scale))
    _write_columns(os.path.join(folder, "v2", "part-4"), rng, round(150_000 * scale))


def _lines(rng: np.random.Generator, prose: Prose, count: int) -> Iterator[bytes]:
    texts = prose.texts(rng.integers(300, 1_300, count))
    scores, ids = rng.random(count).tolist(), rng.integers(0, 1 << 48, count).tolist()
    for number, text in enumerate(texts):
        about = {"id": f"{ids[number]:012x}", "label": ids[number] % 17, "score": round(scores[number], 4)}
        yield json.dumps(about | {"text": text.decode()}).encode() + b"\n"


def _write_lines(path: str, lines: list[bytes]) -> None:
    with open(path, "wb") as file:
        file.writelines(lines)


def _write_columns(path: str, rng: np.random.Generator, rows: int) -> None:
    """Four columns, some 34 bytes a row once compressed."""
    import numpy as np

    columns: dict[str, NDArray[Any]] = {
        "user": rng.integers(0, 1 << 40, rows),
        "time": np.cumsum(rng.integers(0, 1 << 20, rows)),
        "score": rng.random(rows),
        "features": rng.random((rows, 4), dtype=np.float32),
    }
    if has_parquet():
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
        columns |= {f"feature_{i}": values for i, values in enumerate(columns.pop("features").T)}
        parquet.write_table(arrow.table(columns), path + ".parquet", compression="snappy")
        return
    import zstandard

    compress = zstandard.ZstdCompressor(level=1).compress
    with open(path + ".columns", "wb") as file:
        for column in columns.values():
            data = np.ascontiguousarray(column).view(np.uint8).reshape(-1).data
            file.writelines(compress(data[at : at + (1 << 20)]) for at in range(0, len(data), 1 << 20))


def _small(folder: str, scale: float) -> None:
    import numpy as np

    rng = np.random.default_rng(5)
    prose, count = Prose(rng), round(100_000 * scale)
    edited = set(rng.choice(count, max(1, count // 100), replace=False).tolist())
    for number, text in enumerate(prose.texts(rng.integers(1 << 10, 8 << 10, count))):
        name = os.path.join(f"{number // 500:03d}", f"{number:06d}.txt")
        place = "v1" if number in edited else "source"
        _write_file(os.path.join(folder, place, name), text)
        os.makedirs(os.path.join(folder, "source", os.path.dirname(name)), exist_ok=True)
        if number in edited:
            middle = len(text) // 2
            _write_file(os.path.join(folder, "v2", name), text[:middle] + prose.text(60) + text[middle:])


def _write_file(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def _names(folder: str) -> list[str]:
    return sorted(
        os.path.relpath(os.path.join(where, name), folder) for where, _, names in os.walk(folder) for name in names
    )


MAKERS: dict[str, Callable[[str, float], None]] = {
    "model": _model,
    "vectors": _vectors,
    "sqlite": _sqlite,
    "dataset": _dataset,
    "small": _small,
}

if __name__ == "__main__":
    make(sys.argv[1], float(sys.argv[2]), sys.argv[3])
