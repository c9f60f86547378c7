"""The list of a snapshot's chunks: the same pages, however its ids come."""

from __future__ import annotations

from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from resurgam.vault.pack import Kind
from resurgam.vault.pages import MAX_ENTRIES
from resurgam.vault.snapshots import ChunkList, listed_chunks

Runs = list[tuple[int, int, int]]  # the first number, how many, and of which one how often it comes in a row
RUNS = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 200), st.integers(1, 3)), max_size=12)


def id_of(number: int) -> bytes:
    """One in eight may end a page."""
    digest = blake3(number.to_bytes(4, "little")).digest()
    return bytes(1) + digest[1:] if digest[0] < 32 else digest


def ids_of(run: tuple[int, int, int]) -> list[bytes]:
    first, count, often = run
    return [id_of(first + number) for number in range(count) for _ in range(often)]


def listed(runs: Runs, *, at_once: bool) -> tuple[bytes, dict[bytes, bytes]]:
    """The list's root, and all its pages."""
    pages: dict[bytes, bytes] = {}

    def put(kind: Kind, data: bytes) -> bytes:
        page = blake3(data, key=bytes([kind]) * 32).digest()
        pages[page] = data
        return page

    made = ChunkList(put)
    for number, run in enumerate(runs):
        if at_once and number % 3:
            made.add_all(b"".join(ids_of(run)))
        else:
            for chunk in ids_of(run):
                made.add(chunk)
    return made.root(), pages


@given(RUNS)
def test_many_at_once_make_the_pages_that_they_make_one_by_one(runs: Runs) -> None:
    """Else a point of an unchanged system would store its list anew, and no other point share it."""
    assert listed(runs, at_once=True) == listed(runs, at_once=False)


def test_a_page_ends_where_it_is_full() -> None:
    """Ids that end no page by themselves come in pages of the largest size, and all of them are found again."""
    chunks = [b"\1" + number.to_bytes(31, "big") for number in range(2 * MAX_ENTRIES + 5)]
    pages: dict[bytes, bytes] = {}

    def put(_kind: Kind, data: bytes) -> bytes:
        return pages.setdefault(page := blake3(data).digest(), data) and page

    made = ChunkList(put)
    made.add_all(b"".join(chunks))
    root = made.root()
    assert sorted(len(data) // 32 for data in pages.values())[-2:] == [MAX_ENTRIES] * 2
    assert [one for one in listed_chunks(root, lambda page, _kind: pages[page]) if one in set(chunks)] == chunks
