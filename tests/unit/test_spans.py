"""What a child hands over of a span: made where it belongs, and no more than was there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from resurgam.vault.codecs import Codec, decode, encode_verified
from resurgam.vault.frames import mine
from resurgam.vault.sink import CodedPiece
from resurgam.vault.spans import ROOM, coded, hand_over
from resurgam.vault.tensors import Dtype

SIZE = 1 << 20


def contents() -> list[bytes]:
    """Weights, noise that no codec shrinks, and one value."""
    chance = np.random.default_rng(7)
    weights = chance.standard_normal(SIZE // 4).astype("<f4").tobytes()
    return [weights, chance.bytes(SIZE), bytes(SIZE), weights[::-1]]


def pieces(places: list[bool], out: memoryview) -> Iterator[CodedPiece]:
    """Coded as a child does; notes of each whether it was made in ``out``."""
    for number, raw in enumerate(contents()):
        new = encode_verified(memoryview(raw), Dtype.F32)
        places.append(np.shares_memory(np.frombuffer(new.data, np.uint8), np.frombuffer(out, np.uint8)))
        yield CodedPiece(bytes([number]) * 32, SIZE, new)


@pytest.mark.parametrize("count", [4, 9])
def test_what_is_coded_where_it_belongs_comes_back(count: int) -> None:
    """Also where fewer pieces came than were asked for."""
    out, places = memoryview(bytearray(ROOM)), list[bool]()
    length = hand_over(count * SIZE, count, pieces(places, out), out)
    assert places[:2] == [True, False], "planes in place, and what is stored as it is where it was"
    assert mine.place is None
    done, found = coded(out[:length])
    assert done == count * SIZE
    back = [(piece.coded.codec, decode(piece.coded.codec, piece.coded.data, SIZE)) for piece in found if piece.coded]
    assert [bytes(data) for _, data in back] == contents()
    assert back[0][0] is Codec.F32_PLANES
    assert back[1][0] is Codec.RAW


def test_where_there_is_too_little_room_it_is_made_elsewhere() -> None:
    """And copied: a place that what shrinks fits into, not what it might have taken."""
    raw = contents()[0]
    alone = encode_verified(memoryview(raw), Dtype.F32)
    whole = bytes(alone.data)
    out = memoryview(bytearray(len(whole) + 64))
    length = hand_over(
        SIZE, 1, (CodedPiece(bytes(32), SIZE, encode_verified(memoryview(raw), Dtype.F32)) for _ in "1"), out
    )
    (piece,) = coded(out[:length]).pieces
    assert piece.coded is not None
    assert bytes(piece.coded.data) == whole


def test_nothing_is_made_in_a_place_that_was_handed_over() -> None:
    """Whatever fails on the way."""

    def failing() -> Iterator[CodedPiece]:
        raise KeyError
        yield

    with pytest.raises(KeyError):
        hand_over(0, 1, failing(), memoryview(bytearray(ROOM)))
    assert mine.place is None
