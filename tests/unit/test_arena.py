"""Memory that is used again: nobody is given what another one still looks at, and all of it comes back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from resurgam.vault.arena import Arena

SIZE = 1 << 16


@given(st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 7)), max_size=60))
def test_no_two_look_at_the_same_bytes_and_what_is_let_go_is_lent_again(acts: list[tuple[int, int]]) -> None:
    """Each piece keeps what was written into it for as long as somebody looks at it; with all let go, one piece is all there is."""
    arena, held = Arena(SIZE), list[tuple[memoryview, bytes]]()
    for number, (length, which) in enumerate(acts):
        if which < len(held):
            held.pop(which)
        piece = arena.lend(length)
        piece[:] = bytes([number]) * length
        held.append((piece[: length // 2], bytes([number]) * (length // 2)))
        del piece  # half of it is looked at: all of it stays
        assert all(piece == data for piece, data in held)
        assert arena.lent <= SIZE
    held.clear()
    assert arena.lent == 0
    assert not isinstance(arena.lend(SIZE).obj, bytearray), "in one piece again"


def test_what_does_not_fit_has_memory_of_its_own() -> None:
    arena = Arena(SIZE)
    first = arena.lend(SIZE // 2 + 1)
    second = arena.lend(SIZE // 2 + 1)
    assert isinstance(second.obj, bytearray)
    assert (len(first), len(second), arena.lent) == (SIZE // 2 + 1, SIZE // 2 + 1, SIZE // 2 + 1)
    del first
    assert not isinstance(arena.lend(SIZE).obj, bytearray)


def test_a_piece_fits_where_one_of_nearly_its_length_was() -> None:
    """P11: ranges of 8,191 and 8,192 KiB take turns in the same places."""
    arena = Arena(SIZE, 1 << 12)
    pieces = [arena.lend((1 << 14) - number) for number in range(4)]
    assert arena.lent == SIZE
    for number in range(20):
        del pieces[number % 3]
        pieces.append(arena.lend((1 << 14) - (3 * number) % 5))
        assert not isinstance(pieces[-1].obj, bytearray)


def test_threads_do_not_meet_in_it() -> None:
    arena = Arena(SIZE)

    def work(seed: int) -> bool:
        rng, sound = Random(seed), True
        for _ in range(300):
            piece, mark = arena.lend(rng.randrange(1, SIZE // 3)), bytes([seed])
            piece[:] = mark * len(piece)
            sound = sound and bytes(piece) == mark * len(piece)
        return sound

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert arena.lent == 0
