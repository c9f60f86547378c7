"""Pieces that are laid out from parts, and a part is lost or not what it should be: what is found, said, and mended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from resurgam.errors import IntegrityError
from resurgam.vault.pack import FRAME
from resurgam.vault.repair import Planner, Repairs
from resurgam.vault.repairing import carry_out
from resurgam.vault.repository import Sealed
from resurgam.vault.snapshots import Laid, pieces_of
from tests.support import World
from tests.unit.test_patches import entry_of, npy, vectors


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A vault with two points of one file; in the second it is patched."""
    made = World(str(tmp_path))
    made.live.stamped = False
    made.live.files = {b"v.npy": rows(0)}
    made.capture()
    made.live.files = {b"v.npy": rows(1)}
    made.capture()
    return made


def rows(generation: int) -> bytes:
    """The file, of which a few rows change from one point to the next."""
    found = vectors(rows=1500)
    for number in range(generation):
        found[number::150] += 1
    return npy(found)


def patched(world: World, sealed: Sealed) -> list[Laid]:
    """The patched pieces of a point."""
    entry, reader = entry_of(world, sealed)
    return [piece for piece in pieces_of(entry, reader.get) if piece.parts]


def largest_part(piece: Laid) -> bytes:
    """The chunk that most of a piece lies in: what was stored first."""
    return max(piece.parts, key=lambda part: part[2])[0]


def spoil(world: World, chunk: bytes) -> None:
    """Flip one bit of a chunk, as a disk does."""
    place = world.repository().index.find(chunk)
    assert place is not None
    name = f"packs/{place.pack[:2]}/{place.pack}"
    data = np.frombuffer(world.store.get(name), np.uint8).copy()
    data[place.offset + FRAME + 100] ^= 1
    world.store.delete(name)
    world.store.put(name, data.tobytes())


def repaired(world: World) -> Repairs:
    """What is left after a repair."""
    return carry_out(Planner(world.repository(), world.clock, read=True), world.clock, lambda _: None)


def test_what_rests_on_a_lost_chunk_is_stored_whole_and_heals_the_points_before(world: World) -> None:
    """P1: once a damaged chunk is out of the way, a capture of the same contents stores the piece that was laid out from it, and
    every point that has this piece restores again."""
    first, second = world.repository().points()
    (piece, *_) = patched(world, second)
    spoil(world, largest_part(piece))
    assert [loss.components[0].items for loss in repaired(world).lost] == [("v.npy",), ("v.npy",)]
    with pytest.raises(IntegrityError):
        world.restored(second)
    third = world.capture()
    assert world.restored(third) == world.restored(second) == world.contents()
    with pytest.raises(IntegrityError, match="no pack is known"):
        world.restored(first)
    left = {loss.point: loss.components[0] for loss in repaired(world).lost}
    assert not left[first.body.id].restores, "what it held is in no file any more"
    assert left[second.body.id].restores, "and nobody is told that this is lost"


def test_the_contents_of_before_heal_what_was_laid_out_from_them(world: World) -> None:
    """P1: where a file is as it was before, its chunk is stored again, and all points are whole."""
    first, second = world.repository().points()
    expected = world.contents()
    spoil(world, largest_part(patched(world, second)[0]))
    repaired(world)
    world.live.files = {b"v.npy": rows(0)}
    world.capture()
    assert world.restored(first) == world.contents()
    assert world.restored(second) == expected
    assert repaired(world).lost == ()
