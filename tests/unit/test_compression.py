"""How hard new chunks are compressed: fewer bytes or less time, and nothing else (docs/adr/0026-compression.md)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import resurgam
from resurgam.model.system import Compression, VaultPlace
from resurgam.vault import workers
from resurgam.vault.check import check
from resurgam.vault.codecs import LEVELS, Codec, decode, encode, encode_pages
from resurgam.vault.tensors import Dtype
from tests.support import World

PIECE = 64 << 10
FAST, BALANCED, SMALL = (LEVELS[word] for word in (Compression.FAST, Compression.BALANCED, Compression.SMALL))

# A process of its own: the test runner has threads, and whoever has some is not copied. The vault is empty each time, and has the
# same keys; what the host remembers is gone.
CAPTURES = """
import json, os, sys
from msgspec.structs import replace
from resurgam.vault import intake, workers
from tests.support import World, copied
from tests.unit.test_compression import compressed_for, database, sources

forks, fork = [], os.fork
os.fork = lambda: forks.append(1) or fork()
workers.processors = lambda: int(sys.argv[2])
intake.COPIED_FROM = 1 << 20
world = World(sys.argv[1])
world.live.files = {
    "pages": lambda: {b"all.db": database()},
    "small files": sources,
    "all": lambda: {b"all.db": database(), b"all.txt": b"".join(sources().values())} | sources(),
}[sys.argv[3]]()
empty, told = copied(world.store), {}
for word in ("fast", "balanced", "small"):
    world.store = copied(empty)
    world.forget()
    forks.clear()
    compressed_for(world, word)
    point = world.capture()
    (snapshot,) = point.body.snapshots
    assert world.restored(point) == world.contents()
    told[word] = [snapshot.tree, snapshot.chunks, snapshot.stored, len(forks)]
print(json.dumps(told))
"""


def sources() -> dict[bytes, bytes]:
    """Real text: the program's own, some 3 MB in some 400 files."""
    root = Path(resurgam.__path__[0])
    return {str(path.relative_to(root)).encode(): path.read_bytes() for path in sorted(root.rglob("*.py"))}


def database() -> bytes:
    """Pages of such text, by their magic: three spans."""
    text = b"".join(sources().values())
    pages = b"SQLite format 3\0" + (4096).to_bytes(2, "big") + text + text.upper() + text.swapcase()
    return pages[: len(pages) // 4096 * 4096]


def compressed_for(world: World, word: str) -> None:
    """From now on captures of ``world`` are compressed so."""
    vault = msgspec.structs.replace(world.system.vault, compression=word)
    world.system = msgspec.structs.replace(world.system, vault=vault)


def test_levels_reach_frames() -> None:
    """Contents in three sizes, pages in two; each comes back, and a reader is told no level."""
    text = b"".join(sources().values())[: 1 << 20]
    whole, pieces = [], []
    for levels in (FAST, BALANCED, SMALL):
        codec, data = encode(memoryview(text), Dtype.BYTES, levels)
        assert codec is Codec.ZSTD
        assert bytes(decode(codec, data, len(text))) == text
        whole.append(len(data))
        coded = encode_pages(memoryview(text), PIECE, levels)
        assert b"".join(bytes(decode(one.codec, one.data, PIECE)) for one in coded) == text
        alone = encode(memoryview(text)[:PIECE], Dtype.PAGES, levels)
        assert (coded[0].codec, bytes(coded[0].data)) == (alone[0], bytes(alone[1]))
        pieces.append(sum(len(one.data) for one in coded))
    assert whole[0] > 1.04 * whole[1] > 1.04 * 1.08 * whole[2]
    assert pieces[0] == pieces[1] > 1.08 * pieces[2]


def test_what_does_not_shrink_is_told_apart_alike() -> None:
    """Weights and noise take no longer for ``small``: their form is the same, byte for byte."""
    weights = np.random.default_rng(1).normal(0, 0.02, 1 << 18).astype("<f4")
    noise = np.random.default_rng(2).bytes(1 << 20)
    for raw, dtype, codec in ((weights.tobytes(), Dtype.F32, Codec.F32_PLANES), (noise, Dtype.BYTES, Codec.RAW)):
        forms = [
            (chosen, bytes(data)) for chosen, data in (encode(memoryview(raw), dtype, of) for of in LEVELS.values())
        ]
        assert forms[0][0] is codec
        assert forms == forms[:1] * 3


_forks = pytest.mark.skipif(not os.path.isdir(workers._TASKS), reason="copies are made where /proc tells of threads")


@pytest.mark.parametrize(
    ("what", "processors"),
    [("all", 1), pytest.param("pages", 2, marks=_forks), pytest.param("small files", 2, marks=_forks)],
)
def test_words_change_sizes_and_no_ids(what: str, processors: int, tmp_path: Path) -> None:
    """The same tree and the same chunks, stored in three sizes, whoever codes: threads, or children of either kind."""
    command = [sys.executable, "-c", CAPTURES, str(tmp_path), str(processors), what]
    alone = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, check=True, timeout=120, env=alone)
    told: dict[str, list[Any]] = json.loads(done.stdout)
    fast, balanced, small = (told[word] for word in ("fast", "balanced", "small"))
    assert [forks > 0 for *_, forks in told.values()] == [processors > 1] * 3
    assert fast[:2] == balanced[:2] == small[:2]
    assert balanced[2] > 1.07 * small[2]
    if what == "pages":  # but for those of the tree, which are contents: little but ids
        assert abs(fast[2] - balanced[2]) < 256
    else:
        assert fast[2] > 1.02 * balanced[2]


def test_points_of_all_words_share_chunks(tmp_path: Path) -> None:
    """One vault, one word after the other: what is there is not stored again, also where all is read, and each point comes back."""
    world = World(str(tmp_path))
    world.live.files = sources()
    points = []
    for word in ("fast", "small", "balanced"):
        compressed_for(world, word)
        points.append((world.capture(paranoid=True), world.contents()))
    world.live.files |= {b"all.txt": b"".join(sources().values()), b"new.py": b"number = 1\n"}
    for word in ("small", "fast"):
        compressed_for(world, word)
        points.append((world.capture(), world.contents()))
    snapshots = [point.body.snapshots[0] for point, _ in points]
    assert len({(snapshot.tree, snapshot.chunks) for snapshot in snapshots}) == 2
    assert [snapshot.stored > 0 for snapshot in snapshots] == [True, False, False, True, False]
    assert all(world.restored(point) == contents for point, contents in points)
    assert check(world.repository(), read=True).damage == ()


def test_a_point_says_what_it_was_compressed_for(tmp_path: Path) -> None:
    """And one that says a word of a later release is read all the same: coding is nothing that a reader need know."""
    world = World(str(tmp_path))
    world.live.files = {b"a": b"a"}
    compressed_for(world, "small")
    repository, point = world.repository(), world.capture()
    assert repository.particulars(point.body).system.vault.compression == "small"
    told = msgspec.json.encode(VaultPlace(path="v", keys="k", compression="smallest-of-all"))
    assert msgspec.json.decode(told, type=VaultPlace).compression == "smallest-of-all"
