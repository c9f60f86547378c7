"""Pieces that are laid out from parts, and a part is lost or not what it should be: what is found, said, and mended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from resurgam.errors import IntegrityError
from resurgam.stores.base import Store
from resurgam.testing.faults import Wrapped
from resurgam.vault import patching
from resurgam.vault.check import Check, check
from resurgam.vault.checkorder import Wish
from resurgam.vault.laidout import key_of
from resurgam.vault.pack import FRAME
from resurgam.vault.patches import differing
from resurgam.vault.reader import ChunkReader
from resurgam.vault.repair import Planner, Repairs
from resurgam.vault.repairing import carry_out
from resurgam.vault.repository import Sealed
from resurgam.vault.snapshots import Laid, pieces_of
from tests.patched import entry_of
from tests.support import World
from tests.unit.test_patches import npy, vectors


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


class Reads(Wrapped):
    """A store that notes where packs are read."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.read: dict[str, list[int]] = {}

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """See Store."""
        self.read.setdefault(name.rpartition("/")[2], []).append(offset)
        return self.inner.read_into(name, offset, buffer)


def captured_wrongly(world: World, monkeypatch: pytest.MonkeyPatch) -> Sealed:
    """A point in which a piece has another id than its parts make up."""

    def blind(before: object, now: object, count: int) -> np.ndarray:
        flags = differing(before, now, count)  # type: ignore[arg-type]
        flags[np.flatnonzero(flags)[:1]] = False
        return flags

    with monkeypatch.context() as patch:
        patch.setattr(patching, "differing", blind)
        world.live.files = {b"other": b"x", b"v.npy": rows(2)}
        return world.capture()


def test_a_piece_that_its_parts_do_not_make_up_is_found_and_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P1, P12: every chunk is whole, and a file does not come back: `check --read` says of which points, and does not forget."""

    wrong = captured_wrongly(world, monkeypatch)
    world.live.files[b"other"] = b"y"
    later = world.capture()
    (damage,) = check(world.repository(), read=True).damage
    assert damage.object == "v.npy of files"
    assert "its parts do not make it up" in damage.what
    assert set(damage.points) == {wrong.body.id, later.body.id}
    for _ in range(2):  # the second has read all packs within its time, but for those that were found damaged
        wish = Wish(max_age=3600.0)
        report = Check(world.repository(), wish, world.clock, remember=True).run()
        assert [one.object for one in report.damage] == ["v.npy of files"]
        assert report.coverage.damaged > 0


def test_a_piece_that_came_after_its_pack_was_read_does_not_wait_for_its_next_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P1, P11: a check that reads what was never read lays out what was never laid out."""
    wish = Wish(max_age=30 * 86_400.0)
    assert Check(world.repository(), wish, world.clock, remember=True).run().ok
    wrong = captured_wrongly(world, monkeypatch)
    for _ in range(2):
        report = Check(world.repository(), wish, world.clock, remember=True).run()
        assert [(one.object, one.points) for one in report.damage] == [("v.npy of files", (wrong.body.id,))]
        assert report.coverage.damaged > 0


def test_what_rests_on_a_lost_part_is_named_by_its_file(world: World) -> None:
    """P12: not only the chunk, also what it means: which file of which point."""
    _, second = world.repository().points()
    piece = patched(world, second)[0]
    spoil(world, next(chunk for chunk, _, _ in piece.parts if chunk != largest_part(piece)))
    told = {one.object: one for one in check(world.repository(), read=True).damage}
    assert told["v.npy of files"].points == (second.body.id,), "the first does not rest on what changed"


def test_what_is_laid_out_is_read_with_its_pack(world: World) -> None:
    """P11: no pack is read again for the pieces that lie in it; of others only what changed."""
    _, second = world.repository().points()
    (piece, *_) = patched(world, second)
    place = world.repository().index.find(largest_part(piece))
    assert place is not None
    store = Reads(world.store)
    assert check(world.repository(store), read=True).damage == ()
    assert store.read[place.pack] == [0]


def test_each_piece_is_laid_out_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """P11: however many points have it, in whatever page."""
    for number in range(3):
        world.live.files[b"v.npy"] = rows(1) if number % 2 else rows(1)[:-600] + bytes(600)
        world.capture()
    distinct = {key_of(piece) for sealed in world.repository().points() for piece in patched(world, sealed)}
    seen: list[int] = []
    laid_out = ChunkReader._laid_out

    def watched(self: ChunkReader, piece: Laid) -> memoryview:
        seen.append(key_of(piece))
        return laid_out(self, piece)

    monkeypatch.setattr(ChunkReader, "_laid_out", watched)
    assert check(world.repository(), read=True).damage == ()
    assert sorted(seen) == sorted(distinct)


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
