"""Parquet files are cut where their pages begin, whatever wrote them, and no byte depends on what one claims."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resurgam.vault import thrift
from resurgam.vault.chunking import HEAD, TENSOR_STEP, ContentCutter, Dtype, Piece, structure_of
from resurgam.vault.parquet import GROUP
from resurgam.vault.thrift import DEPTH, Compact, Malformed
from tests.reading import reader
from tests.support import World

ROWS = 40_000
WORDS = ["".join(random.Random(n).choices("etaoinshrdlu", k=2 + n % 9)) for n in range(2_000)]


def pieces(data: bytes) -> list[Piece] | None:
    found = structure_of(memoryview(data)[:HEAD], len(data), reader(data))
    return None if found is None else list(found)


def assert_tiles(found: list[Piece], size: int) -> None:
    ends = list(accumulate(piece.length for piece in found))
    assert [piece.offset for piece in found] == [0, *ends][: len(found)]
    assert ends[-1] == size
    assert all(0 < piece.length <= TENSOR_STEP for piece in found)


def simple(rows: int, seed: int = 1) -> pa.Table:
    """Numbers and text."""
    rng = np.random.default_rng(seed)
    texts = np.array([" ".join(random.Random(n + seed).choices(WORDS, k=12)) for n in range(3_000)])
    places = rng.integers(0, len(texts), rows)
    return pa.table({"id": rng.integers(0, 1 << 40, rows), "score": rng.random(rows), "text": texts[places]})


def table(rows: int) -> pa.Table:
    """Also words of a few kinds, lists, structures, and what is missing."""
    lists, structures = (
        [list(range(n)) for n in range(4)],
        [{"n": n, "w": None if n % 3 else WORDS[n]} for n in range(99)],
    )
    return (
        simple(rows)
        .append_column("label", pa.array([WORDS[n % 37] for n in range(rows)]))
        .append_column("tags", pa.array([lists[n % 4] for n in range(rows)]))
        .append_column("about", pa.array([structures[n % 99] for n in range(rows)]))
    )


def written(content: pa.Table, **options: object) -> bytes:
    out = io.BytesIO()
    pq.write_table(content, out, **options)
    return out.getvalue()


TABLE = table(ROWS)


def page_starts(data: bytes) -> set[int]:
    """Where column chunks begin, as the format's own library says."""
    meta = pq.ParquetFile(io.BytesIO(data)).metadata
    columns = (meta.row_group(g).column(c) for g in range(meta.num_row_groups) for c in range(meta.num_columns))
    return {column.dictionary_page_offset or column.data_page_offset for column in columns}


def new_bytes(before: bytes, after: bytes, cut: Callable[[bytes], list[tuple[int, int]]]) -> int:
    """The bytes of chunks of ``after`` that ``before`` has not."""
    there = {before[at : at + length] for at, length in cut(before)}
    return sum(length for at, length in cut(after) if after[at : at + length] not in there)


def by_pages(data: bytes) -> list[tuple[int, int]]:
    found = pieces(data)
    assert found is not None
    return [(piece.offset, piece.length) for piece in found]


def by_content(data: bytes) -> list[tuple[int, int]]:
    lengths = ContentCutter(77).cut(memoryview(data), final=True)
    return list(zip([0, *accumulate(lengths)], lengths, strict=False))


@pytest.mark.parametrize("compression", ["snappy", "zstd", "gzip"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"data_page_version": "2.0", "row_group_size": 17_000},
        {"use_dictionary": False, "data_page_size": 20_000, "write_page_index": True, "write_page_checksum": True},
        {"row_group_size": 1_000},
        {"use_content_defined_chunking": True},
    ],
    ids=str,
)
def test_long_column_chunks_begin_pieces(compression: str, options: dict[str, object]) -> None:
    """P11: so that what is rewritten with one column more shares all others."""
    data = written(TABLE, compression=compression, **options)
    found = pieces(data)
    assert found is not None
    assert_tiles(found, len(data))
    assert {piece.dtype for piece in found} == {Dtype.PACKED}
    assert len(found) > len(data) // (4 * GROUP)
    starts, ends = {piece.offset for piece in found}, sorted(page_starts(data))
    long = [start for start, end in pairwise(ends) if end - start > GROUP + 200]
    assert {start for start in long if start > 4} <= starts


def test_what_is_not_packed_is_cut_by_content() -> None:
    """Its rows take their bytes with them wherever they go."""
    assert pieces(written(TABLE, compression="none")) is None
    mixed = dict.fromkeys(["id", "label", "score"], "none") | {"text": "zstd"}
    assert pieces(written(TABLE.select(["text"]), compression=mixed["text"])) is not None


def test_a_column_more_and_changed_cells_cost_their_pages() -> None:
    """P11: files of writers that know nothing of chunks share what is equal in them, where cuts by content find less."""
    plain = simple(120_000)
    more = plain.append_column("weight", pa.array(np.random.default_rng(5).random(len(plain)).astype("f4")))
    options = {"row_group_size": 20_000}
    before, after = written(plain, **options), written(more, **options)
    column = len(written(more.select(["weight"]), **options))
    assert new_bytes(before, after, by_pages) < 3 * column
    assert new_bytes(before, after, by_content) > 3 * column, "else pages would be of no use"

    score = plain["score"].to_numpy().copy()
    score[50_000:50_100] = 0.5
    changed = written(plain.set_column(1, "score", pa.array(score)), **options)
    assert len(changed) > 2_500_000
    assert new_bytes(before, changed, by_pages) < 300_000 + 3 * GROUP


def test_appended_rows_and_kept_row_groups_cost_themselves() -> None:
    """P11: rows put in between as a row group of their own leave the others as they are."""

    def grouped(parts: list[pa.Table]) -> bytes:
        out = io.BytesIO()
        with pq.ParquetWriter(out, parts[0].schema) as writer:
            for part in parts:
                writer.write_table(part)
        return out.getvalue()

    parts = [simple(20_000, seed) for seed in range(6)]
    before, fresh = grouped(parts), simple(10_000, 99)
    after = grouped([*parts[:3], fresh, *parts[3:]])
    assert new_bytes(before, after, by_pages) < 1.3 * len(grouped([fresh])) + 3 * GROUP


def test_rows_in_the_middle_cost_little_where_the_writer_cuts_by_content() -> None:
    plain, fresh = (simple(rows, rows).select(["id", "score"]) for rows in (120_000, 30_000))
    middle = pa.concat_tables([plain[:45_123], fresh, plain[45_123:]])
    cuts = {"min_chunk_size": 32 << 10, "max_chunk_size": 128 << 10, "norm_level": 0}
    options = {"use_content_defined_chunking": cuts, "use_dictionary": False}
    before, after, change = (written(one, **options) for one in (plain, middle, fresh))
    assert new_bytes(before, after, by_pages) < 3 * len(change)


def test_a_file_comes_back_and_a_rewritten_one_adds_its_change(tmp_path: Path) -> None:
    """P1, P11: through the whole way in and back."""
    world = World(str(tmp_path))
    plain = simple(120_000)
    world.live.files = {b"data": written(plain, row_group_size=20_000)}
    world.capture()
    more = plain.append_column("weight", pa.array(np.random.default_rng(5).random(len(plain)).astype("f4")))
    world.live.files = {b"data": written(more, row_group_size=20_000)}
    second = world.capture()
    assert world.restored(second) == world.contents()
    change = len(written(more.select(["weight"]), row_group_size=20_000))
    assert sum(snapshot.stored for snapshot in second.body.snapshots) < 3 * change


SMALL_FILE = written(table(3_000), row_group_size=700, data_page_size=3_000)


@settings(deadline=None, max_examples=150)
@given(rng=st.randoms(use_true_random=False), damage=st.sampled_from(["flip", "cut", "footer", "zero", "huge"]))
def test_pieces_tile_exactly_whatever_a_file_claims(rng: random.Random, damage: str) -> None:
    """P12: a hostile file may cost a cut, never an error and never a byte."""
    data = bytearray(SMALL_FILE)
    footer = int.from_bytes(data[-8:-4], "little")
    if damage == "cut":
        del data[rng.randrange(len(data)) : -rng.randrange(1, footer)]
    elif damage == "huge":
        data[-8:-4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", (len(data) - 8).to_bytes(4, "little")])
    low = len(data) - 8 - footer if damage in ("footer", "zero") else 4
    places = range(max(4, low), len(data) - 8)
    for _ in range(rng.randrange(1, 40) if places else 0):
        data[rng.choice(places)] = 0 if damage == "zero" else rng.choice([0xFF, 0, 0x80, 0x19, 1])
    found = pieces(bytes(data))
    if found is not None:
        assert_tiles(found, len(data))


@settings(deadline=None, max_examples=200)
@given(footer=st.binary(max_size=300), body=st.binary(max_size=100))
def test_any_bytes_may_be_a_footer(footer: bytes, body: bytes) -> None:
    """P12: what is no Thrift is refused."""
    data = b"PAR1" + body + footer + len(footer).to_bytes(4, "little") + b"PAR1"
    found = pieces(data)
    if found is not None:
        assert_tiles(found, len(data))


@pytest.mark.parametrize("data", [b"PAR1", b"PAR1PAR1", b"PAR1" + bytes(8), b"PAR1" + bytes(8) + b"PAR1", b"PARE" * 9])
def test_what_only_begins_like_parquet(data: bytes) -> None:
    assert pieces(data) is None


def test_overlapping_column_chunks_mean_cut_by_content() -> None:
    """Footers are found by their bytes: every place that stands in one is moved by one."""
    data = written(table(3_000).select(["id", "score"]), compression="zstd")
    assert pieces(data) is not None
    meta = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0)
    place = varint(2 * meta.column(1).dictionary_page_offset)
    other = varint(2 * (meta.column(1).dictionary_page_offset - 1))
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    assert data[footer:].count(place) >= 1
    assert pieces(data[:footer] + data[footer:].replace(place, other)) is None


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(0x80 | number & 0x7F)
        number >>= 7
    return bytes([*out, number])


def test_a_page_of_no_length_ends_the_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: so many headers are read for so many bytes, however short a file says that its pages are."""
    data = written(table(40_000).select(["id"]), compression="snappy", use_dictionary=False)
    start = next(iter(page_starts(data)))
    header = b"\x15\x00\x15\x00\x15\x00\x00"  # type 0, both sizes 0, the end
    count = 10_000
    lying = data[:start] + header * count + data[start + len(header) * count :]
    made = 0
    compact = thrift.Compact

    def counting(data: bytes) -> Compact:
        nonlocal made
        made += 1
        return compact(data)

    monkeypatch.setattr("resurgam.vault.parquet.Compact", counting)
    found = pieces(lying)
    assert found is not None
    assert_tiles(found, len(lying))
    assert 10 < made < len(data) // 2_000


def test_headers_as_long_as_a_file_are_not_walked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: to walk through a byte takes a hundred times as long as to store it, so of a column chunk few are headers."""
    data = written(table(40_000).select(["id"]), compression="snappy", use_dictionary=False)
    start = next(iter(page_starts(data)))
    header = b"\x35\x00" + b"\x11" * 2_000 + b"\x00"  # a packed size of 0, and so many fields that say yes
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    lying = data[:start] + (header * (len(data) // len(header) + 1))[: footer - start] + data[footer:]
    walked: list[int] = []
    compact = thrift.Compact

    def counting(data: bytes) -> Compact:
        walked.append(len(data))
        return compact(data)

    monkeypatch.setattr("resurgam.vault.parquet.Compact", counting)
    found = pieces(lying)
    assert found is not None
    assert_tiles(found, len(lying))
    assert len(walked) > 2
    assert sum(walked[1:]) < len(data) // 8


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x15",  # a field without its value
        b"\x15" + b"\xff" * 12,  # a number without an end
        b"\x18\xff\xff\xff\xff\x0f",  # bytes beyond the end
        b"\x19\xf8\xff\xff\xff\xff\x0f",  # a list of so many strings
        b"\x1e\x00",  # no such type
        b"\x1c" * (DEPTH + 2) + b"\0" * (DEPTH + 3),
        b"\x19\x1f",
        b"\x1b\x02\x55",
    ],
)
def test_thrift_that_is_none(data: bytes) -> None:
    with pytest.raises(Malformed):
        Compact(data).skip(thrift.Kind.STRUCT)


def test_thrift_of_every_type_is_passed_over() -> None:
    values = [
        b"\x11",
        b"\x12",
        b"\x13\x07",
        b"\x14\x02",
        b"\x15\x80\x01",
        b"\x16\x03",
        b"\x17" + bytes(8),
        b"\x18\x02ab",
    ]
    values += [b"\x19\x21\x01\x02", b"\x1a\x25\x02\x04", b"\x1b\x01\x81\x01a\x01", b"\x1b\x00", b"\x1c\x15\x02\x00"]
    values += [b"\x1d" + bytes(16), b"\x05\x64\x02"]
    data = Compact(b"".join(values) + b"\0" + b"rest")
    data.skip(thrift.Kind.STRUCT)
    assert data.at == len(b"".join(values)) + 1
    assert [Compact(varint(n)).integer() for n in (0, 1, 2, 3, 1 << 40)] == [0, -1, 1, -2, 1 << 39]
