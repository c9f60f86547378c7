"""How short and how long a chunk can be: what a writer never makes, and what a reader never allocates (P1, P9)."""

from __future__ import annotations

import io
import struct
import tracemalloc
from pathlib import Path
from random import Random

import numpy as np
import pytest
import zstandard

from resurgam.errors import IntegrityError, LimitExceeded
from resurgam.model.placement import ANYWHERE
from resurgam.vault import deltas, palettes, sink
from resurgam.vault.check import check
from resurgam.vault.chunking import MAX_CHUNK, PAGE_STEP
from resurgam.vault.index import raw_of
from resurgam.vault.keys import DEFAULT_DOMAIN
from resurgam.vault.pack import ID, LARGEST, LARGEST_PAGE, Kind
from resurgam.vault.repository import Repository
from resurgam.vault.sink import ChunkKeys
from resurgam.vault.snapshots import Laid
from tests.support import World, stored_bytes

MIB = 1 << 20


@pytest.fixture
def world(tmp_path: Path) -> World:
    """One empty component."""
    return World(str(tmp_path))


def chunks(repository: Repository) -> list[tuple[int, int, bytes]]:
    """Kind, length and id of every chunk of a vault."""
    return [
        (int(entry["kind"]), int(entry["raw"]), bytes(raw[:ID]))
        for table in repository.index.tables
        for entry, raw in zip(table.entries, raw_of(table.entries), strict=True)
    ]


# Of one byte --------------------------------------------------------------------------------------------------------


def tensors(*lengths: int) -> bytes:
    """A safetensors file of bytes, each tensor of so many."""
    ends = np.cumsum(lengths).tolist()
    heads = (
        f'"t{n:03}":{{"dtype":"U8","shape":[{length}],"data_offsets":[{end - length},{end}]}}'
        for n, (length, end) in enumerate(zip(lengths, ends, strict=True))
    )
    header = ("{" + ",".join(heads) + "}").encode()
    return struct.pack("<Q", len(header)) + header + Random(1).randbytes(ends[-1])


def array(size: int, seed: int = 1) -> bytes:
    """An ``.npy`` file of so many bytes."""
    file = io.BytesIO()
    np.save(file, np.frombuffer(Random(seed).randbytes(size), np.uint8))
    return file.getvalue()


ONE_BYTE = {
    "a small file": b"\3",
    "the end of a blob cut by content": bytes(MAX_CHUNK) + b"\4",
    "the end of an array": array(MIB + 1),
    "a tensor": tensors(600_000, 1, 500_000, 1),
    "a tensor among many": tensors(1, *([9000] * 80), 1),
    "the last page": b"SQLite format 3\0\x10\0" + bytes(5 * PAGE_STEP - 18) + b"\2",
    "the last page of many": b"SQLite format 3\0\x10\0" + bytes(70 * PAGE_STEP - 18) + b"\5",
    "a page in a span of its own": b"SQLite format 3\0\x10\0" + bytes(4 * MIB - 18) + b"\6",
}


@pytest.mark.parametrize("data", ONE_BYTE.values(), ids=ONE_BYTE)
@pytest.mark.parametrize("moves", [False, True], ids=["still", "moving"])
def test_no_chunk_of_contents_has_one_byte(world: World, data: bytes, moves: bool) -> None:
    """P9: its id would be the key that names chunks of another kind, and ids are there for all to see."""
    world.live.files[b"f"] = data
    if moves:
        world.live.moves[b"f"] = [data]
    world.live.stamped = False
    point = world.capture()
    assert world.restored(point) == world.contents()
    repository = world.repository()
    found = chunks(repository)
    assert all(raw > 1 for kind, raw, _ in found if kind == Kind.DATA)
    secrets = {ChunkKeys(repository.secret, DEFAULT_DOMAIN).chunk_ids[kind] for kind in Kind}
    assert secrets.isdisjoint(chunk for _, _, chunk in found)
    assert check(repository, read=True).damage == ()
    before = stored_bytes(world.store)
    assert world.restored(world.capture()) == world.contents()
    assert stored_bytes(world.store) < before + 20_000, "it was found again, and not stored twice"


def test_a_patch_of_one_byte_is_no_chunk_of_one(world: World) -> None:
    """P9: where the last byte of a file is all that changed, too."""
    data = array(MIB + 2049)
    world.live.files[b"f"] = data
    world.capture()
    world.live.files[b"f"] = data[:-1] + bytes([data[-1] ^ 6])
    point = world.capture()
    assert world.restored(point) == world.contents()
    assert all(raw > 1 for kind, raw, _ in chunks(world.repository()) if kind == Kind.DATA)


# Of more than there can be ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "most"), [(Kind.DATA, LARGEST), (Kind.DOCUMENT, LARGEST_PAGE)])
def test_a_chunk_that_claims_too_much_is_refused_before_memory_is(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: Kind, most: int
) -> None:
    """P9: a stolen capture host signs a few kilobytes that expand beyond all bounds; no reader allocates them."""
    monkeypatch.setattr(sink, "require_storable", lambda _kind, _raw: None)
    with world.evidence_writer() as writer:
        keys = writer._domain(DEFAULT_DOMAIN, ANYWHERE)
        chunk = writer._sink.put(keys, kind, bytes(most + 1))
        writer.flush()
    repository = world.repository()
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError, match="none can have as many"):
            repository.chunks(DEFAULT_DOMAIN).fetch(chunk, kind)
        assert tracemalloc.get_traced_memory()[1] < most // 2
    finally:
        tracemalloc.stop()
    report = check(repository, read=True)
    assert any("none can have as many" in found.what for found in report.damage)


def test_a_writer_makes_nothing_that_no_reader_takes(world: World) -> None:
    """P1: it is an error now, not when it is to be restored."""
    with world.evidence_writer() as writer:
        keys = writer._domain(DEFAULT_DOMAIN, ANYWHERE)
        with pytest.raises(LimitExceeded, match="takes no more"):
            writer._sink.put(keys, Kind.DATA, bytes(LARGEST + 1))


def test_a_piece_of_too_many_parts_is_refused_before_memory_is(world: World) -> None:
    """P9: parts that name one chunk again and again add up to more than any piece has."""
    world.live.files[b"f"] = array(MIB)
    world.capture()
    repository = world.repository()
    chunk = next(chunk for kind, raw, chunk in chunks(repository) if kind == Kind.DATA and raw == MIB)
    parts = [(chunk, 0, MIB)] * 100
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError, match="add up"):
            repository.chunks(DEFAULT_DOMAIN).fetch_piece(Laid(bytes(32), 0, 100 * MIB, parts))
        assert tracemalloc.get_traced_memory()[1] < 20 * MIB
    finally:
        tracemalloc.stop()


def test_a_delta_of_longer_contents_than_its_base_is_refused() -> None:
    """P9: before any of its streams is expanded."""
    size = 100 * MIB
    stream = zstandard.ZstdCompressor().compress(bytes(size))
    document = struct.pack("<BBBBI", 1, 1, 1, 1, size) + struct.pack("<II", size, len(stream)) + stream
    with pytest.raises(IntegrityError, match="longer contents"):
        deltas.read(document, MIB)


def test_a_palette_of_more_values_than_elements_is_refused() -> None:
    """P9: tables of 256 values for each element would expand a chunk 256 times."""
    count = 60_000
    tables = zstandard.ZstdCompressor().compress(bytes(2 * 256 * count))
    places = zstandard.ZstdCompressor().compress(bytes(count))
    head = struct.pack("<BBHII", 2, 0, 0, len(tables), len(places))
    encoded = head + struct.pack("<H", 256) * count + tables + places
    with pytest.raises(IntegrityError, match="more values than elements"):
        palettes.decode_into(memoryview(encoded), np.empty(2 * count, np.uint8))
