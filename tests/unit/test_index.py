"""What an index knows of one chunk, it knows of many at once."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from resurgam.vault.index import Index
from resurgam.vault.pack import ENTRY, ID

PACK = "5a" * ID


def ids(seed: int, count: int) -> list[bytes]:
    """Ids of which some begin alike: places are found by the first eight bytes."""
    rng = Random(seed)
    heads = [rng.randbytes(8) for _ in range(max(1, count // 3))]
    return [
        rng.choice(heads) + rng.randbytes(ID - 8) if rng.random() < 0.5 else rng.randbytes(ID) for _ in range(count)
    ]


def index_of(stored: list[bytes], claimed: list[bytes]) -> Index:
    """An index with some chunks in a pack, and some that are about to be."""
    index = Index()
    index.add([([PACK], np.array([(chunk, 0, 64, 99, 99, 1, 0, 0) for chunk in stored], dtype=ENTRY))])
    for chunk in claimed:
        assert index.claim(chunk)
    return index


@pytest.mark.parametrize("count", [0, 1, 8, 9, 500])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_all_are_known_where_each_is(seed: int, count: int) -> None:
    """P11: an unchanged blob is not read where all its chunks are there, and is where a single one is missing."""
    stored, claimed, strangers = ids(seed, 700), ids(seed + 100, 20), ids(seed + 200, 5)
    index, rng = index_of(stored, claimed), Random(seed)
    asked = [rng.choice((*stored, *claimed)) for _ in range(count)]
    assert index.knows_all(b"".join(asked))
    for stranger in (*strangers, stored[0][:8] + strangers[0][8:], b"\xff" * ID, bytes(ID)):
        place = rng.randrange(count + 1)
        assert not index.knows_all(b"".join([*asked[:place], stranger, *asked[place:]]))


def test_an_empty_index_knows_nothing() -> None:
    assert Index().knows_all(b"")
    assert not Index().knows_all(bytes(20 * ID))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_many_are_found_as_each_is(seed: int) -> None:
    """Found together or one by one: the same places, for the same ids."""
    stored, strangers = ids(seed, 700), ids(seed + 200, 50)
    index, rng = index_of(stored, []), Random(seed)
    asked = [rng.choice((*stored, *strangers)) for _ in range(500)]
    known, entries = index.find_all(np.frombuffer(b"".join(asked), np.uint8).reshape(-1, ID))
    assert known.tolist() == [index.find(chunk) is not None for chunk in asked]
    found = [chunk for chunk, there in zip(asked, known, strict=True) if there]
    assert [entries[at : at + 1].tobytes()[:ID] for at in range(len(entries))] == found


def test_a_chunk_in_two_packs_has_two_places() -> None:
    """What two writers stored can be lost by one of them."""
    chunk = bytes(range(ID))
    index = Index()
    for number, pack in enumerate(("aa" * ID, "bb" * ID)):
        index.add([([pack], np.array([(chunk, 0, 64 + number, 99, 99, 1, 0, 0)], dtype=ENTRY))])
    assert [(place.pack, place.offset) for place in index.places(chunk)] == [("aa" * ID, 64), ("bb" * ID, 65)]
    assert index.places(chunk)[0] == index.find(chunk)
    assert index.places(chunk[:8] + bytes(ID - 8)) == []
