"""Pieces tile a file whatever its header claims; cuts by content do not depend on buffers, and find themselves again."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from resurgam.model.safetensors import MAX_HEADER
from resurgam.vault.chunking import (
    AVERAGE_CHUNK,
    HEAD,
    MAX_CHUNK,
    MIN_CHUNK,
    PAGE_STEP,
    TENSOR_STEP,
    ContentCutter,
    Dtype,
    Piece,
    cutter_of,
    has_lines,
    structure_of,
)
from tests.reading import reader

SEED = 0x5EED


def pieces(data: bytes, head: int = HEAD) -> list[Piece] | None:
    found = structure_of(memoryview(data)[:head], len(data), reader(data, 1000))
    return None if found is None else list(found)


def assert_tiles(found: list[Piece], size: int) -> None:
    ends = list(accumulate(piece.length for piece in found))
    assert [piece.offset for piece in found] == [0, *ends][: len(found)]
    assert sum(piece.length for piece in found) == size
    assert all(0 < piece.length <= TENSOR_STEP for piece in found)


def safetensors(header: object, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_each_tensor_is_cut_from_its_own_start_with_its_own_dtype() -> None:
    tensors = {
        "a.bias": np.ones(5, "f4"),
        "b.weight": np.arange(1_500_000, dtype="f4"),
        "c.half": np.ones((3, 700), "f2"),
        "d.count": np.arange(9, dtype="i8"),
    }
    data = save(tensors, metadata={"dtype": "not a tensor"})
    found = pieces(data)
    assert found is not None
    assert_tiles(found, len(data))
    assert {piece.dtype for piece in found} == {Dtype.BYTES, Dtype.F16, Dtype.F32}
    for array in tensors.values():
        start = data.index(array.tobytes())
        mine = [piece for piece in found if start <= piece.offset < start + array.nbytes]
        assert mine[0].offset == start
        assert sum(piece.length for piece in mine) == array.nbytes
        assert all(piece.length == TENSOR_STEP for piece in mine[:-1])


def test_a_longer_header_moves_no_tensors_cut() -> None:
    """What dedup between two saves of a model rests on."""
    weight = np.arange(1_500_000, dtype="f4")
    chunks = []
    for metadata in ({"step": "1"}, {"step": "1", "note": "a longer header than before"}):
        data = save({"weight": weight}, metadata=metadata)
        chunks.append([data[p.offset : p.offset + p.length] for p in pieces(data) or () if p.dtype is Dtype.F32])
    assert len(chunks[0]) == 6
    assert chunks[0] == chunks[1]


def test_bfloat16_gaps_and_trailing_bytes() -> None:
    header = {
        "__metadata__": {"data_offsets": "x"},
        "late": {"dtype": "BF16", "shape": [2], "data_offsets": [10, 14]},
        "early": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]},
        "none": {"dtype": "F32", "shape": [0], "data_offsets": [4, 4]},
    }
    data = safetensors(header, bytes(20))
    start = len(data) - 20
    assert pieces(data) == [
        (0, start, Dtype.BYTES),
        (start, 4, Dtype.BYTES),
        (start + 4, 6, Dtype.BYTES),
        (start + 10, 4, Dtype.BF16),
        (start + 14, 6, Dtype.BYTES),
    ]


def test_a_header_longer_than_the_head_is_read_and_one_beyond_the_limit_is_not() -> None:
    header = {"t": {"dtype": "F16", "shape": [5000], "data_offsets": [0, 10_000], "pad": "x" * 5000}}
    data = safetensors(header, bytes(10_000))
    assert pieces(data, head=64) == pieces(data)
    assert pieces(data, head=64) is not None
    assert structure_of(memoryview(data)[:64], len(data), lambda *_: 0) is None, "the file ended while being read"

    def refuse(*_: object) -> int:
        raise AssertionError("must not be read")

    huge = (MAX_HEADER + 1).to_bytes(8, "little") + b"{"
    assert structure_of(memoryview(huge), 1 << 40, refuse) is None


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"{}x",
        b'{"t": 1}',
        b'{"t": {"dtype": "F32"}}',
        b'{"t": {"dtype": "F32", "data_offsets": [0, 1.5]}}',
        b'{"t": {"dtype": "F32", "data_offsets": [0, 8, 9]}}',
        b'{"t": {"dtype": "F32", "data_offsets": [-4, 4]}}',
        b'{"t": {"dtype": "F32", "data_offsets": [8, 4]}}',
        b'{"t": {"dtype": "F32", "data_offsets": [0, 9]}}',
        b'{"t": {"dtype": "F32", "data_offsets": [0, 99999999999999999999999]}}',
        b'{"t": {"dtype": "F32", "data_offsets": [0, 4]}, "u": {"dtype": "F32", "data_offsets": [3, 8]}}',
        b'{"\xff": {"dtype": "F32", "data_offsets": [0, 8]}}',
        b'{"t":' + b"[" * 100_000,
        b'{"t":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_a_lying_or_broken_header_means_cut_by_content(header: bytes) -> None:
    assert pieces(safetensors(header, bytes(8))) is None


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize(
    ("descr", "dtype"), [("<f4", Dtype.F32), ("<f2", Dtype.F16), (">f4", Dtype.BYTES), ("<i8", Dtype.BYTES)]
)
def test_npy(tmp_path: Path, version: tuple[int, int], descr: str, dtype: Dtype) -> None:
    path = tmp_path / "array.npy"
    array = (np.arange(600_000) % 2000).astype(descr)
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, version=version)
    data = path.read_bytes()
    found = pieces(data)
    assert found is not None
    assert_tiles(found, len(data))
    assert found[0] == (0, len(data) - array.nbytes, Dtype.BYTES)
    assert {piece.dtype for piece in found[1:]} == {dtype}
    assert all(piece.length == TENSOR_STEP for piece in found[1:-1])


def test_npy_of_structures_objects_and_nothing_is_bytes(tmp_path: Path) -> None:
    """A header is never executed: pickled objects are bytes like any others."""
    for array in (np.zeros(9, [("x", "<f4")]), np.array([{"a": 1}], object), np.zeros(0, "<f4")):
        path = tmp_path / "array.npy"
        np.save(path, array, allow_pickle=True)
        found = pieces(path.read_bytes())
        assert found is not None
        assert_tiles(found, path.stat().st_size)
        assert {piece.dtype for piece in found} == {Dtype.BYTES}
    assert pieces(b"\x93NUMPY\x09\x00\x10\x00" + bytes(99)) is None, "an unknown version"
    assert pieces(b"\x93NUMPY\x01\x00\xff\xff{}") is None, "a header that ends behind the file"


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_sqlite_is_cut_at_aligned_64_kib(tmp_path: Path, page_size: int) -> None:
    path = tmp_path / "without-a-telling-name"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA page_size = {page_size}")
    connection.execute("CREATE TABLE t AS SELECT zeroblob(300000) AS b")
    connection.close()
    data = path.read_bytes()
    found = pieces(data)
    assert found is not None
    assert_tiles(found, len(data))
    assert all(piece.offset % PAGE_STEP == 0 and piece.dtype is Dtype.PAGES for piece in found)
    assert pieces(data[:16] + b"\x03\x00" + data[18:]) is None, "768 is no page size"


@pytest.mark.parametrize(
    "data", [b"", b"x", b"SQLite format 3", b"\x93NUMPY", bytes(8), bytes(8) + b"{", b"plain text" * 99]
)
def test_what_has_no_structure_is_cut_by_content(data: bytes) -> None:
    assert pieces(data) is None


offsets = st.one_of(st.integers(-2, 300), st.integers(0, 300).map(lambda n: n * 8), st.floats(), st.just(1 << 70))
entries = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["F32", "BF16", "F16", "I8", "?", 4])},
    optional={"data_offsets": st.lists(offsets, min_size=1, max_size=3), "shape": st.none()},
)
in_order = st.lists(st.integers(0, 200), min_size=2, max_size=12).map(
    lambda cuts: {
        str(n): {"dtype": "BF16", "data_offsets": pair}
        for n, pair in enumerate(zip(sorted(cuts), sorted(cuts)[1:], strict=False))
    }
)
headers = st.one_of(
    in_order, st.dictionaries(st.text(max_size=3), st.one_of(entries, st.none(), st.integers())), st.binary(max_size=80)
)


@settings(deadline=None, max_examples=400)
@given(header=headers, data=st.integers(0, 300).map(bytes), head=st.integers(9, 400), magic=st.sampled_from("snp"))
def test_pieces_tile_exactly_whatever_a_header_claims(header: object, data: bytes, head: int, magic: str) -> None:
    """P12: a hostile file may cost compression, never an error and never a byte."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    whole = {
        "s": safetensors(text, data),
        "n": b"\x93NUMPY\x01\x00" + text + data,
        "p": b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data,
    }[magic]
    found = pieces(whole, head)
    if found is not None:
        assert_tiles(found, len(whole))


def words(size: int, seed: int = 1) -> bytes:
    """Bytes like text: 500 words in random order."""
    rng = random.Random(seed)
    vocabulary = [rng.randbytes(rng.randint(2, 9)).hex() for _ in range(500)]
    return " ".join(rng.choices(vocabulary, k=size // 8)).encode()[:size]


def chunks_of(data: bytes, cutter: ContentCutter) -> list[bytes]:
    lengths = cutter.cut(memoryview(data), final=True)
    assert sum(lengths) == len(data)
    ends = list(accumulate(lengths))
    return [data[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def in_windows(data: bytes, cutter: ContentCutter, window: Callable[[], int]) -> list[int]:
    """Cut as a reader does: what is left of one buffer begins the next."""
    lengths: list[int] = []
    begin = end = 0
    while end < len(data):
        end = min(len(data), end + window())
        cut = cutter.cut(memoryview(data)[begin:end], final=end == len(data))
        lengths += cut
        begin += sum(cut)
    return lengths


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=300), repeats=st.integers(1, 40), seed=st.integers(1, 2**63 - 1), rng=st.randoms())
def test_cuts_do_not_depend_on_buffers(data: bytes, repeats: int, seed: int, rng: random.Random) -> None:
    stream = b"".join(rng.randbytes(rng.randint(0, 99)) + data for _ in range(repeats))
    cutter = ContentCutter(seed, minimum=64, average=256, maximum=1024)
    once = cutter.cut(memoryview(stream), final=True)
    assert sum(once) == len(stream)
    assert all(64 <= length <= 1024 for length in once[:-1])
    assert in_windows(stream, cutter, lambda: rng.randint(1, 3000)) == once


@settings(deadline=None, max_examples=200)
@given(
    lines=st.lists(st.binary(max_size=400), max_size=60),
    repeats=st.integers(1, 6),
    rng=st.randoms(use_true_random=False),
)
def test_cuts_at_lines_do_not_depend_on_buffers(lines: list[bytes], repeats: int, rng: random.Random) -> None:
    """Chunks end where lines do, unless a line is too long for that; and they tile the stream."""
    stream = b"\n".join(lines * repeats)
    cutter = ContentCutter(SEED, minimum=64, average=256, maximum=1024, lines=True)
    once = cutter.cut(memoryview(stream), final=True)
    assert sum(once) == len(stream)
    assert all(0 < length <= 1024 for length in once)
    for end, length in zip(accumulate(once[:-1]), once, strict=False):
        start = end - length
        assert stream[end - 1 : end] == b"\n" or b"\n" not in stream[end : start + 1024]
    assert in_windows(stream, cutter, lambda: rng.randint(1, 3000)) == once


def json_lines(count: int, seed: int = 1) -> list[bytes]:
    """Rows as they lie in a dataset, 600 bytes each."""
    rng = random.Random(seed)
    text = words(600_000, seed).decode()
    return [
        json.dumps({"id": rng.getrandbits(40), "text": text[at : at + 560]}).encode() + b"\n"
        for at in (rng.randrange(599_000) for _ in range(count))
    ]


@pytest.mark.parametrize("at", [1, 6_000, 19_999])
def test_rows_put_into_json_lines_cost_less_than_three_times_themselves(at: int) -> None:
    """P11: whatever was cut before and behind them is cut as before, and every chunk holds whole rows."""
    rows, fresh = json_lines(20_000), json_lines(600, 2)
    cutter = cutter_of(memoryview(rows[0] + rows[1]), SEED)
    before, after = (chunks_of(b"".join(some), cutter) for some in (rows, [*rows[:at], *fresh, *rows[at:]]))
    assert all(chunk.endswith(b"\n") for chunk in after)
    new = sum(len(chunk) for chunk in set(after) - set(before))
    assert new < 3 * sum(map(len, fresh))


@pytest.mark.parametrize(
    ("head", "lines"),
    [
        (b'{"a": 1}\n{"a": 2}\n', True),
        (b'\n {"a": "}\\n"} \r\n{', True),
        (b"[1, 2]\n[3]", True),
        (b'{\n  "a": 1\n}\n', False),
        (b'{"a": 1}', False),
        (b'{"a": 1}\n', False),
        (b"id,text\n1,{}\n{", False),
        (b"[[1, 2],\n[3]]", False),
        (b"{" + b" " * (1 << 20) + b"}\n{", False),
        (b"", False),
    ],
)
def test_what_looks_like_json_lines(head: bytes, lines: bool) -> None:
    assert has_lines(memoryview(head)) is lines


def test_cuts_at_full_size_do_not_depend_on_buffers() -> None:
    rng = random.Random(5)
    data = words(12 << 20)
    cutter = ContentCutter(SEED)
    once = cutter.cut(memoryview(data), final=True)
    assert in_windows(data, cutter, lambda: rng.randint(1 << 18, 5 << 20)) == once
    assert all(MIN_CHUNK <= length <= MAX_CHUNK for length in once[:-1])
    assert AVERAGE_CHUNK / 2 < len(data) / len(once) < 2 * AVERAGE_CHUNK


def test_a_buffer_of_the_maximum_always_yields_a_chunk() -> None:
    cutter = ContentCutter(SEED)
    assert sum(cutter.cut(memoryview(bytes(MAX_CHUNK)), final=False)) > 0
    assert cutter.cut(memoryview(b""), final=True) == []
    assert cutter.cut(memoryview(b"small"), final=True) == [5]
    assert cutter.cut(memoryview(b"small"), final=False) == []


@pytest.mark.parametrize("at", [0, 5_000_001, 15_000_000])
def test_an_insertion_is_forgotten_after_a_chunk_or_two(at: int) -> None:
    """P11: a changed line costs the chunks around it, not those behind it."""
    data = words(16 << 20)
    cutter = ContentCutter(SEED)
    before, after = chunks_of(data, cutter), chunks_of(data[:at] + b"one new line\n" + data[at:], cutter)
    assert len(before) > 15
    assert len(set(after) - set(before)) <= 3


def test_the_seed_changes_the_cuts_and_zero_is_refused() -> None:
    data = words(8 << 20)
    ends = [
        set(accumulate(ContentCutter(seed).cut(memoryview(data), final=True)[:-1])) for seed in (1, 2, SEED, 2**63 - 1)
    ]
    for one in range(4):
        for other in range(one):
            assert len(ends[one] & ends[other]) < len(ends[one]) / 2
    for bad in (0, -1, 2**63):
        with pytest.raises(ValueError, match="cut seed"):
            ContentCutter(bad)
