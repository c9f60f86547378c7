"""A large file is coded by copies of the process: what is stored is the same, or the capture says why there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from resurgam.drivers.base import Blob
from resurgam.errors import ResurgamError
from resurgam.stores.local import LocalStore
from resurgam.vault import spans, workers
from resurgam.vault.buffers import SPAN
from resurgam.vault.check import check
from resurgam.vault.chunking import Dtype, Piece
from resurgam.vault.codecs import Codec, Encoded
from resurgam.vault.keyring import Keyring
from resurgam.vault.pack import Kind
from resurgam.vault.repository import Repository
from resurgam.vault.sink import CodedPiece

# A process of its own: the test runner has threads, and whoever has some is not copied.
CAPTURE = """
import json, os, signal, sys, time
from resurgam.stores.local import LocalStore
from resurgam.vault import blocks, intake, planes, sink, spans, workers
from tests.support import World

forks, fork, mode = [], os.fork, sys.argv[2]
os.fork = lambda: forks.append(1) or fork()
workers.processors = lambda: 1 if mode == "threads" else 2
intake.COPIED_FROM = intake.NUMBERS_COPIED_FROM = 1 << 20
code = spans.code

def struck(place, keys, source, span, *rest):
    if span[0].offset > 8 << 20 and mode == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return code(place, keys, source, span, *rest)

spans.code = struck
taken, read_again = [], intake.Intake._extents_of
put_coded = sink.Sink.put_coded

def counted(self, keys, piece):
    taken.append(piece.length)
    time.sleep(0.001)
    return put_coded(self, keys, piece)

def interrupted(self, waiting):
    if waiting.spans and mode == "interrupted":
        raise KeyboardInterrupt
    return read_again(self, waiting)

if mode == "miscoded":
    blocks.come_back = lambda coded, span, length: [False] * len(coded)
    planes.comes_back = lambda *_: False
sink.Sink.put_coded = counted
intake.Intake._extents_of = interrupted
world = World(sys.argv[1], store=LocalStore.create(f"{sys.argv[1]}/vault"))
with open(sys.argv[3], "rb") as file:
    world.live.files = {b"large": file.read()}
try:
    body = world.capture().body
    found = {"forks": len(forks), "point": body.id, "stored": body.snapshots[0].stored}
    changed = bytearray(world.live.files[b"large"])
    for at in range(9 << 20, len(changed), 5 << 20):
        changed[at : at + 300] = bytes(reversed(changed[at : at + 300]))
    world.live.files = {b"large": bytes(changed)}
    again = world.capture().body.snapshots[0].stored
    print(json.dumps(found | {"warnings": body.findings["warning"], "again": again}))
except BaseException as error:
    found = {"forks": len(forks), "error": type(error).__name__, "points": len(world.repository().points())}
    print(json.dumps(found | {"taken": sum(taken) >> 22}))
"""

pytestmark = pytest.mark.skipif(
    not os.path.isdir(workers._TASKS), reason="copies are made where /proc tells of threads"
)


def captured(folder: Path, mode: str, source: Path) -> dict[str, Any]:
    """What the process above printed."""
    folder.mkdir()
    alone = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", CAPTURE, str(folder), mode, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=alone)
    assert not done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def data_chunks(repository: Repository) -> int:
    """How many chunks of files lie in packs, second copies of one counted too."""
    return sum(int((segment.entries["kind"] == Kind.DATA).sum()) for segment in repository.places.segments())


def database() -> bytes:
    """22 MB, a database by its magic: text beside noise, pages that occur often, and a last one that is short."""
    rng = Random(9)
    page = b"SQLite format 3\0" + (4096).to_bytes(2, "big")
    body = b"".join(rng.randbytes(1500) + b"words of a row " * 170 for _ in range(4000))
    return page + body + bytes(6 << 20) + body[: 1 << 20] + b"end"


def weights() -> bytes:
    """22 MB of safetensors: one tensor that occurs twice, and more of a byte or two than one part may hold."""
    rng = np.random.default_rng(9)
    large = rng.normal(0, 0.02, (5 << 20) - 77).astype("<f4").tobytes()
    parts = [("F32", 4, large), ("F32", 4, large[: 1 << 20]), *(("U8", 1, rng.bytes(1 + n % 2)) for n in range(2500))]
    header, at = {}, 0
    for number, (dtype, width, data) in enumerate(parts):
        shape, offsets = [len(data) // width], [at, at + len(data)]
        header[f"tensor {number:04}"] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        at += len(data)
    told = json.dumps(header).encode()
    return len(told).to_bytes(8, "little") + told + b"".join(data for _, _, data in parts)


@pytest.fixture(params=[database, weights])
def source(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A large file of structure."""
    path = tmp_path / "source"
    path.write_bytes(request.param())
    return path


def test_what_is_stored_is_the_same(tmp_path: Path, source: Path) -> None:
    """P1: chunks that two children met both are stored once, and the point restores to the byte. P11: what changed is stored as
    patches, in either way."""
    copies, threads = (captured(tmp_path / mode, mode, source) for mode in ("copies", "threads"))
    assert (copies["forks"], threads["forks"]) == (2, 0)
    repository, other = (
        Repository(LocalStore(f"{tmp_path}/{mode}/vault"), Keyring(f"{tmp_path}/{mode}/keys"))
        for mode in ("copies", "threads")
    )
    assert data_chunks(repository) == data_chunks(other)
    assert abs(copies["stored"] - threads["stored"]) < 65_536, (
        "ids differ from vault to vault, and where pages of them end"
    )
    assert abs(copies["again"] - threads["again"]) < 65_536
    assert copies["again"] < 200_000
    for point, same in ((repository.sealed(copies["point"]), True), (repository.points()[-1], False)):
        (blob,) = repository.snapshot(point.body, "files").items()
        assert isinstance(blob, Blob)
        assert (blob.read() == source.read_bytes()) is same
    assert check(repository, read=True).ok


def test_what_a_file_says_of_itself_makes_no_part_longer_than_its_place() -> None:
    """P12: tensors of two bytes, a hundred thousand of them: what is told of each is longer than the tensor."""
    pieces = [Piece(2 * number, 2, Dtype.BYTES) for number in range(100_000)]
    parts = list(spans.spans_of(pieces))
    assert [piece for part in parts for piece in part] == pieces
    room = memoryview(bytearray(spans.ROOM))
    for part in parts:
        coded = [CodedPiece(bytes(32), 2, Encoded(Codec.RAW, b"ab", exact=True))] * len(part)
        assert spans.hand_over(2 * len(part), len(part), coded, room) < spans.ROOM - SPAN


def test_what_a_child_could_not_code_is_stored_as_it_was_and_told(tmp_path: Path, source: Path) -> None:
    """P12: a machine that miscomputes loses nothing, and somebody hears of it, whichever process it was."""
    said = captured(tmp_path / "miscoded", "miscoded", source)
    assert (said["forks"], said["warnings"]) == (2, 1)
    assert said["stored"] > 16 << 20, "as it was, but for pages that occur twice"
    assert captured(tmp_path / "copies", "copies", source)["warnings"] == 0


def test_a_child_that_is_killed_makes_no_point(tmp_path: Path, source: Path) -> None:
    """P1, P12: half a file is none."""
    said = captured(tmp_path / "killed", "killed", source)
    assert (said["forks"], said["error"], said["points"]) == (2, ResurgamError.__name__, 0)


def test_who_is_interrupted_does_not_wait_for_the_rest(tmp_path: Path, source: Path) -> None:
    """An error in the thread that captures ends the children at their next result."""
    said = captured(tmp_path / "interrupted", "interrupted", source)
    assert said["error"] == "KeyboardInterrupt"
    assert said["points"] == 0
    assert said["taken"] < 4, "of six parts of 4 MB"
