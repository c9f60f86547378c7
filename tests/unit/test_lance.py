"""Lance files tell where their rows lie; where one says otherwise, it is a file like any other."""

from __future__ import annotations

import random
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resurgam.vault import lance
from resurgam.vault.chunking import Dtype
from resurgam.vault.columns import Column
from resurgam.vault.lance import lance_columns
from resurgam.vault.protobuf import Malformed, fields, integers
from tests.lance_files import Page, Places, field, lance_file, table, varint, vectors
from tests.reading import reader

KEPT = Path(__file__).with_name(
    "lance.zip"
)  # tables of lancedb 0.40: two fragments, and what a compaction made of 97 % of them
VERSIONS = ("2.0", "2.1", "2.2")
ROWS, WIDTH = 700, 4 * 96
TABLE = table(vectors(600), 250, texts=bytes(range(256)) * 300)


def kept(name: str) -> bytes:
    """A file that LanceDB wrote."""
    with zipfile.ZipFile(KEPT) as archive:
        return archive.read(name)


def columns_of(data: bytes) -> list[Column] | None:
    return lance_columns(len(data), reader(data))


def only(data: bytes) -> Column:
    """The only column of a file."""
    found = columns_of(data)
    assert found is not None
    (column,) = (one for one in found if one.width)
    return column


def with_footer(footer: Places, data: bytes = TABLE) -> bytes:
    """A file that says something else at its end."""
    return data[: -len(footer.packed())] + footer.packed()


def footer_of(data: bytes) -> Places:
    end = data[-40:]
    numbers = [int.from_bytes(end[at : at + 8], "little") for at in (0, 8, 16)]
    return Places(*numbers, *(int.from_bytes(end[at : at + 4], "little") for at in (24, 28)))


@pytest.mark.parametrize("version", VERSIONS)
def test_files_of_lancedb_are_read(version: str) -> None:
    """Of each version of the format: one column of floats, as many rows as there are, and the bytes of the vectors."""
    for name, rows in (("before-0", ROWS), ("before-1", ROWS), ("after", ROWS * 2 - 42)):
        data = kept(f"{version}/{name}.lance")
        column = only(data)
        assert (column.width, column.length, column.dtype) == (WIDTH, rows * WIDTH, Dtype.F32)
        values = memoryview(data)[column.offset : column.offset + column.length].cast("f")
        assert set(values) == {-0.5, 0.5}


def test_rows_are_found_where_pages_say() -> None:
    """Pages that follow each other are one run of rows; what lies between them is none."""
    rows = vectors(600)
    assert only(table(rows, 250)).length == rows.nbytes
    found = columns_of(TABLE)
    assert found is not None
    assert [one.length // one.width for one in found if one.width] == [250, 250, 100]
    assert b"".join(TABLE[one.offset : one.offset + one.length] for one in found if one.width) == rows.tobytes()


@pytest.mark.parametrize(("schema", "width", "dtype"), [
    ("fixed_size_list:float:384", 1536, Dtype.F32),
    ("fixed_size_list:halffloat:384", 768, Dtype.F16),
    ("fixed_size_list:uint8:384", 384, Dtype.BYTES),
    ("fixed_size_list:float:38", 1536, Dtype.BYTES),
    ("fixed_size_list:float:9999999999999999", 1536, Dtype.BYTES),
    ("fixed_size_list:double:192", 1537, Dtype.BYTES),
])  # fmt: skip
def test_what_rows_are_made_of_is_said_by_the_schema(schema: str, width: int, dtype: Dtype) -> None:
    """A hint for the codec; where rows have a byte more, that says what is null, they are rows all the same."""
    column = only(lance_file([[Page(300, [bytes(300 * width)])]], schema))
    assert (column.width, column.dtype) == (width, dtype)


@pytest.mark.parametrize("page", [
    Page(300, [bytes(300 * 100)]),  # of a short buffer
    Page(3000, [bytes(3000 * 127)]),  # of short rows
    Page(7, [bytes(300 * 1536)]),  # of no whole rows
    Page(2, [bytes(2 * 65_537)]),  # of rows that are longer than any
    Page(0, [bytes(300 * 1536)]),
    Page(300, []),
])  # fmt: skip
def test_what_is_no_column_of_rows_is_cut_by_its_content(page: Page) -> None:
    """Text that is packed by pages, small pages, numbers."""
    assert columns_of(lance_file([[page]])) is None


FOOTER = footer_of(TABLE)
LIES = {
    "another version": FOOTER._replace(major=0, minor=2),
    "a later version": FOOTER._replace(major=3),
    "it begins beyond the end": FOOTER._replace(start=1 << 63),
    "it begins nowhere": FOOTER._replace(start=(1 << 64) - 1, columns_at=(1 << 64) - 1, buffers_at=(1 << 64) - 1),
    "all of the file is told": FOOTER._replace(start=0),
    "columns before their pages": FOOTER._replace(columns_at=FOOTER.start - 1),
    "buffers before columns": FOOTER._replace(buffers_at=FOOTER.columns_at - 1),
    "no columns": FOOTER._replace(columns=0),
    "columns elsewhere": FOOTER._replace(columns_at=FOOTER.columns_at - 8),
    "buffers elsewhere": FOOTER._replace(buffers_at=len(TABLE) - 40, columns=1 << 31),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_footer_that_lies_makes_it_a_file_like_any_other(lie: Places) -> None:
    """No column, and no error."""
    assert columns_of(with_footer(lie)) is None


def test_more_columns_than_there_are_cost_nothing() -> None:
    """What a count claims is not believed: as many are looked at as have room, and one more would lie elsewhere."""
    assert columns_of(with_footer(FOOTER._replace(columns=(1 << 32) - 1))) == columns_of(TABLE)


def test_columns_that_name_the_same_bytes_are_not_walked_through_again() -> None:
    """A small file whose 5,000 columns are all of its 40 KB takes no 200 MB of steps."""
    body = field(2, field(3, 1)) * 8_000
    places = (len(body).to_bytes(8, "little") * 0 + (0).to_bytes(8, "little") + len(body).to_bytes(8, "little")) * 5_000
    data = body + places + bytes(16) + Places(0, len(body), len(body) + len(places), 0, 5_000).packed()
    began = time.process_time()
    assert columns_of(data) is None
    assert time.process_time() - began < 0.5


def test_what_is_told_is_short_beside_its_file() -> None:
    """To walk through what pages are takes longer than to store it: of more than 128 KiB beside a small file nothing is read."""
    rows = [Page(300, [bytes(300 * 1536)])]
    assert columns_of(lance_file([rows, [Page(1, [])] * 5_000])) is not None
    assert columns_of(lance_file([rows, [Page(1, [])] * 15_000])) is None


def test_more_buffers_than_any_file_has_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: what is remembered of a footer is bounded, however many buffers of no bytes it names, in one page or in several."""
    rows = [Page(300, [bytes(300 * 1536)])]
    for pages in ([Page(1, [b""] * 60)] * 3, [Page(1, [b""] * 150)]):
        with monkeypatch.context() as few:
            assert columns_of(lance_file([rows, pages])) is not None
            few.setattr(lance, "_BUFFERS", 100)
            assert columns_of(lance_file([rows, pages])) is None
            assert columns_of(lance_file([rows, pages[:1] if len(pages) > 1 else []])) is not None


def test_rows_that_lie_on_others_are_none() -> None:
    """One buffer that two pages name."""
    data = bytearray(lance_file([[Page(300, [bytes(300 * 1536)]), Page(300, [bytes(300 * 1536)])]]))
    found = columns_of(bytes(data))
    assert sum(one.length for one in found or ()) == 2 * 300 * 1536
    at = data.rindex(field(1, varint(300 * 1536)))  # 460,800 is a multiple of 64
    data[at : at + len(field(1, varint(300 * 1536)))] = field(1, varint(400 * 1024))
    assert columns_of(bytes(data)) is None


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 12))
def test_any_damage_is_borne(chance: random.Random, flips: int) -> None:
    """Whatever stands at the end: rows that lie in the file side by side, or none."""
    data = bytearray(TABLE)
    first = FOOTER.start - 200  # the schema, too
    for _ in range(flips):
        at = chance.choice([chance.randrange(first, len(data)), chance.randrange(len(data) - 40, len(data) - 4)])
        data[at] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
    if chance.random() < 0.2:
        del data[chance.randrange(first, len(data)) : chance.randrange(len(data) - 40, len(data))]
    at = 0
    for column in columns_of(bytes(data)) or ():
        assert at <= column.offset
        assert column.length > 0
        assert not column.width or column.length % column.width == 0
        at = column.offset + column.length
    assert at <= len(data)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_message_is_read_or_malformed(data: bytes) -> None:
    """Each step goes forward, so that no message takes longer than it is."""
    steps = 0
    try:
        for _, value in fields(memoryview(data)):
            steps += 1
            for number in integers(value):
                assert 0 <= number < 1 << 70
    except Malformed:
        pass
    assert steps <= len(data)


def test_fields_of_all_kinds_are_told() -> None:
    """Numbers, bytes, and fixed ones."""
    data = field(1, 300) + field(2, b"ab") + bytes([3 << 3 | 1, *range(8)]) + bytes([4 << 3 | 5, *range(4)])
    told = [(number, value if isinstance(value, int) else bytes(value)) for number, value in fields(memoryview(data))]
    assert told == [(1, 300), (2, b"ab"), (3, bytes(range(8))), (4, bytes(range(4)))]
    with pytest.raises(Malformed):
        list(fields(memoryview(b"\x0b")))  # a group
    with pytest.raises(Malformed):
        list(integers(memoryview(b"\xff" * 11)))
