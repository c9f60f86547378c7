"""Texts that change: what is stored are the lines that came, and what comes back is what was there (P1, P11)."""

from __future__ import annotations

import json
import random
import tracemalloc
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from resurgam.errors import IntegrityError
from resurgam.vault.check import check
from resurgam.vault.compare import compare_points
from resurgam.vault.passages import AVERAGE, LONGEST, SHARE, PassageReader, Passages, laid_out, lines_of, new_of
from resurgam.vault.patches import MOST_PARTS, MOST_SOURCES, NEW
from resurgam.vault.repository import Sealed
from resurgam.vault.snapshots import Extent, Laid, pieces_of
from resurgam.vault.textmemory import RememberedText
from tests.patched import added, entry_of, prune_away
from tests.support import World

KEY = bytes(range(32))
PLACES = 12


@pytest.fixture
def world(tmp_path: Path) -> World:
    """One empty component."""
    return World(str(tmp_path))


def lines(count: int, seed: int = 1) -> list[bytes]:
    """JSON lines of some 700 bytes, that begin and end all alike."""
    rng = random.Random(seed)
    texts = (" ".join(rng.choices(WORDS, k=rng.randrange(40, 140))) for _ in range(count))
    return [
        json.dumps({"kind": "document of the set", "text": one, "by": "nobody in particular"}).encode() + b"\n"
        for one in texts
    ]


WORDS = [
    f"{a}{b}{c}" for a in "abcdef" for b in ("re", "sur", "gam", "vault", "point", "x") for c in ("ing", "ed", "s", "")
]
TEXT = lines(9000)
FRESH = lines(90, seed=2)


def put_in(old: list[bytes], new: list[bytes], places: int, seed: int = 3) -> list[bytes]:
    """``new`` lines among the ``old`` ones, at so many places."""
    rng, made, step = random.Random(seed), list(old), -(-len(new) // places)
    for number, place in enumerate(sorted(rng.sample(range(len(old)), places), reverse=True)):
        made[place:place] = new[number * step : (number + 1) * step]
    return made


def patched(world: World, sealed: Sealed) -> list[Laid]:
    """The pieces of a point's only entry that are laid out from parts."""
    entry, reader = entry_of(world, sealed)
    return [piece for piece in pieces_of(entry, reader.get) if piece.parts]


def test_lines_that_were_put_in_cost_little_more_than_themselves(world: World) -> None:
    """P11: 1 % of the lines in a dozen places; whole chunks would be 30 times as much. Measured at size: docs/benchmarks.md."""
    _, whole = added(world, {b"t.jsonl": b"".join(TEXT)})
    point, size = added(world, {b"t.jsonl": b"".join(put_in(TEXT, FRESH, PLACES))})
    assert len(patched(world, point)) >= PLACES // 2
    alone = len(zstandard.compress(b"".join(FRESH), 3))
    # Twice the length of a passage is broken at each place on average, and now and then the whole of a short chunk.
    assert size < alone + PLACES * 4 * AVERAGE * whole / sum(map(len, TEXT)) + 12_000
    assert check(world.repository(), read=True).damage == ()


@pytest.mark.parametrize("change", ["taken out", "changed", "moved", "changed by a byte each"])
def test_lines_that_went_or_changed_cost_some_passages(world: World, change: str) -> None:
    """P11: whatever happens to lines, the passages around them are not stored again."""
    _, whole = added(world, {b"t.jsonl": b"".join(TEXT)})
    text, rng = list(TEXT), random.Random(7)
    if change == "moved":
        text = text[:2000] + text[6000:6500] + text[2000:6000] + text[6500:]
    for place in sorted(rng.sample(range(len(text)), 0 if change == "moved" else 8), reverse=True):
        if change == "taken out":
            del text[place : place + 5]
        else:
            text[place] = text[place].replace(b"t", b"T", 1) if change.endswith("each") else FRESH[place % 90]
    point, size = added(world, {b"t.jsonl": b"".join(text)})
    assert patched(world, point)
    assert size < whole / 10


def test_values_that_move_in_parquet_that_is_not_packed_cost_some_passages(world: World) -> None:
    """P11: they keep their bytes, and are told apart as text is."""
    values = random.Random(8).randbytes(2_000_000)
    added(world, {b"t.parquet": b"PAR1" + values})
    point, size = added(world, {b"t.parquet": b"PAR1" + values[:1_000_000] + bytes(8000) + values[1_000_000:]})
    assert patched(world, point)
    assert size < 300_000


def test_a_text_that_stays_as_it_is_costs_nothing(world: World) -> None:
    """P11: also one that is patched, and whose stamp says that it changed."""
    added(world, {b"t.jsonl": b"".join(TEXT)})
    text = b"".join(put_in(TEXT, FRESH, PLACES))
    added(world, {b"t.jsonl": text})
    world.live.stamped = False
    again, size = added(world, {b"t.jsonl": text})
    assert patched(world, again)
    assert size < 20_000


def test_equal_bytes_have_equal_digests_patched_or_whole(world: World) -> None:
    """P11: a digest says what the bytes are, not how they lie; ``--paranoid`` believes no memory and stores all whole."""
    added(world, {b"t.jsonl": b"".join(TEXT[:3000])})
    one, _ = added(world, {b"t.jsonl": b"".join(put_in(TEXT[:3000], FRESH, 3))})
    whole = world.capture(paranoid=True)
    assert patched(world, one)
    assert not patched(world, whole)
    assert list(compare_points(one.body, whole.body, world.repository())) == []
    assert world.restored(whole) == world.contents()


def test_passages_fold_back_when_they_add_up(world: World) -> None:
    """P11: however often a text changes, no chunk rests on more chunks than a reader keeps."""
    text = list(TEXT[:3000])
    most = 0
    for generation in range(MOST_SOURCES + 6):
        point, _ = added(world, {b"t.jsonl": b"".join(text)})
        sources = [{part[0] for part in piece.parts} for piece in patched(world, point)]
        most = max(most, *map(len, sources), 0)
        text = put_in(text, lines(24, seed=generation + 10), 24, seed=generation)
    assert 3 < most <= MOST_SOURCES + 1


@pytest.mark.parametrize("then", ["unchanged", "touched", "changed", "forgotten"])
def test_what_rests_on_a_pruned_point_stays_whole(world: World, then: str) -> None:
    """P1, P2: the first point is pruned and swept; the patched one restores, and so does what is captured after."""
    text = TEXT[:3000]
    first, _ = added(world, {b"gone.jsonl": b"".join(lines(3000, 9)), b"t.jsonl": b"".join(text)})
    text = put_in(text, FRESH, 3)
    second, _ = added(world, {b"t.jsonl": b"".join(text)})
    assert patched(world, second)
    expected = world.contents()
    prune_away(world, first)
    assert world.restored(second) == expected
    if then == "changed":
        text = put_in(text, FRESH, 4, seed=8)
    elif then == "forgotten":
        world.forget()
    world.live.stamped = then == "unchanged"
    third, _ = added(world, {b"t.jsonl": b"".join(text)})
    prune_away(world, second)
    assert world.restored(third) == world.contents()
    assert check(world.repository(), read=True).damage == ()


def test_what_was_remembered_and_is_gone_is_stored_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """P1: nothing is laid out from chunks that the vault may not have any more."""
    added(world, {b"t.jsonl": b"".join(TEXT[:3000])})
    monkeypatch.setattr("resurgam.vault.index.Index.knows_all", lambda _self, _chunks: False)
    point, _ = added(world, {b"t.jsonl": b"".join(put_in(TEXT[:3000], FRESH, 3))})
    assert not patched(world, point)


@pytest.mark.parametrize("damage", ["cut", "flipped head", "flipped length", "foreign", "empty"])
def test_a_damaged_memory_is_none(world: World, damage: str) -> None:
    """P3: what the host remembers is believed only where it is whole, and costs speed where it is not."""
    added(world, {b"t.jsonl": b"".join(TEXT[:3000])})
    (place,) = (Path(world.host().path("files.blocks"))).iterdir()
    data = place.read_bytes()
    count = int.from_bytes(data[8:16], "little")
    at = {"flipped head": 8, "flipped length": 32 + 8 * count + 2}.get(damage, 0)
    flipped = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    place.write_bytes({"cut": data[:-9], "foreign": b"RSGTEXT2" + data[8:], "empty": b""}.get(damage, flipped))
    point, _ = added(world, {b"t.jsonl": b"".join(put_in(TEXT[:3000], FRESH, 3))})
    assert not patched(world, point)


def test_a_false_match_is_never_restored(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """P1: were two passages ever taken for the same that are not, a restore says so instead of giving the old lines."""
    added(world, {b"t.jsonl": b"".join(TEXT[:3000])})
    find = RememberedText.find

    def blind(self: RememberedText, passages: Passages) -> list[object]:
        found = find(self, passages)
        there = next(extents for extents in found if extents)[0][0]
        return [extents or [(there, 0, size)] for extents, size in zip(found, passages.lengths.tolist(), strict=True)]

    monkeypatch.setattr(RememberedText, "find", blind)
    world.live.files = {b"t.jsonl": b"".join(put_in(TEXT[:3000], FRESH[:2], 1))}
    point = world.capture()
    with pytest.raises(IntegrityError, match="parts do not make it up"):
        world.restored(point)


def test_a_text_that_never_stands_still_is_kept_as_last_read(world: World) -> None:
    """P1: passages are noted by their chunks, so it does not matter how often a text was read until it stood still."""
    added(world, {b"t.jsonl": b"".join(TEXT[:3000])})
    world.live.files = {b"t.jsonl": b"".join(put_in(TEXT[:3000], FRESH, 3))}
    last = b"".join(put_in(TEXT[:3000], FRESH, 5))
    world.live.moves = {b"t.jsonl": [b"".join(TEXT[:2900]), last]}
    point = world.capture()
    assert patched(world, point)
    world.live.files, world.live.moves = {b"t.jsonl": last}, {}
    assert world.restored(point) == world.contents()
    again, _ = added(world, {b"t.jsonl": b"".join(put_in(TEXT[:3000], FRESH, 6))})
    assert patched(world, again)


STRANGE = {
    "equal lines": b"the same line again and again\n" * 50_000,
    "empty lines": b"\n" * 1_300_000,
    "long lines": b"".join(random.Random(4).randbytes(40_000).hex().encode() + b"\n" for _ in range(20)),
    "noise": random.Random(5).randbytes(1_400_000),
    "one line": b"x" * 1_300_000,
    "text, then noise": b"".join(TEXT[:1000]) + random.Random(6).randbytes(1_000_000),
}


@pytest.mark.parametrize("data", STRANGE.values(), ids=STRANGE)
def test_strange_texts_come_back(world: World, data: bytes) -> None:
    """P1: whatever a text is like, it comes back, and so does what is put into it."""
    added(world, {b"t": data})
    middle = len(data) // 2
    added(world, {b"t": data[:middle] + b"a line more\n" + data[middle:]})
    added(world, {b"t": data[:100] + data[101:] + b"\n"})


def test_what_is_no_text_is_not_read_twice() -> None:
    """P11: digests are for what changes by lines."""
    assert lines_of(memoryview(random.Random(1).randbytes(1 << 20))) is None
    assert lines_of(memoryview(b"no line ends here" * 10_000)) is None
    assert lines_of(memoryview(b"")) is None
    assert lines_of(memoryview(b"PAR1" + random.Random(1).randbytes(1 << 20))) == pytest.approx(AVERAGE / 256, rel=0.2)
    every = lines_of(memoryview(b"".join(TEXT)))
    assert every is not None
    assert every == pytest.approx(AVERAGE / (sum(map(len, TEXT)) / len(TEXT)), rel=0.1)


def read(data: bytes, every: int = 20, key: bytes = KEY) -> Passages:
    """The passages of one chunk, of which every so many lines end one."""
    (found,) = PassageReader(key, every).read(memoryview(data), [len(data)])
    return found


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 1 << 30), size=st.integers(1, 300_000), width=st.integers(1, 5000), every=st.integers(1, 60))
def test_passages_tile_a_chunk(seed: int, size: int, width: int, every: int) -> None:
    """P1: of any bytes, and never longer than LONGEST."""
    rng = np.random.default_rng(seed)
    data = rng.integers(11, 255, size, dtype=np.uint8)
    data[rng.integers(0, size, size // width)] = 10
    found = read(data.tobytes(), every)
    assert found.lengths.sum() == size
    assert 0 < found.lengths.min() <= found.lengths.max() <= LONGEST
    assert len(found.digests) == len(found.lengths)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 30), sizes=st.lists(st.integers(1, 400_000), min_size=1, max_size=6))
def test_chunks_are_read_together_as_they_are_one_by_one(seed: int, sizes: list[int]) -> None:
    """P11: what is remembered of a chunk does not depend on its neighbours, but for where its first line begins."""
    data = random.Random(seed).randbytes(sum(sizes)).replace(b"\n", b" ")
    starts = [0, *accumulate(sizes)]
    data = b"".join(data[start : start + size - 1] + b"\n" for start, size in zip(starts, sizes, strict=False))
    data = data.replace(b"a", b"\n")
    together = PassageReader(KEY, 64).read(memoryview(data), sizes)
    for start, size, passages in zip(starts, sizes, together, strict=False):
        alone = read(b"\n" + data[start : start + size], 64) if start else read(data[:size], 64)
        assert alone.lengths.sum() == passages.lengths.sum() + (start > 0)
        assert alone.digests[2:].tolist() == passages.digests[2:].tolist()


def test_what_comes_before_a_passage_does_not_change_it() -> None:
    """P11: of two texts of which one has more in front, all passages but the first ones are the same."""
    text = b"".join(TEXT[:1500])
    for more in (b"x", b"a line\n", b"".join(FRESH)):
        before, after = (set(read(one).digests.tolist()) for one in (text, more + text))
        assert len(before - after) <= 1


def test_a_digest_is_of_every_byte_and_of_the_key() -> None:
    """P1: whichever byte changes, and however long a passage is, its digest does too; another domain has others."""
    text = b"".join(TEXT[:24])[:9000]
    whole = read(text, 10**6)
    seen = {int(whole.digests[0])}
    for at in range(0, len(text), 7):
        seen.add(int(read(text[:at] + bytes([text[at] ^ 0x80]) + text[at + 1 :], 10**6).digests[0]))
    seen |= {int(read(text[:end], 10**6).digests[0]) for end in range(1, 400)}
    seen |= {int(read(bytes(size), 10**6).digests[0]) for size in range(1, 400)}
    assert len(seen) == 1 + len(range(0, len(text), 7)) + 399 + 399
    assert read(text, 10**6, bytes(32)).digests[0] != whole.digests[0]


def test_a_chunk_of_too_many_chunks_keeps_the_parts_of_one() -> None:
    """P11: what all others have is stored again, together."""
    known: list[list[Extent]] = [[(b"most", 200 * n, 100)] for n in range(MOST_SOURCES + 1)]
    known += [[(b"%d" % n, 0, 100)] for n in range(MOST_SOURCES + 1)]
    passages = Passages(np.zeros(len(known), np.uint64), np.full(len(known), 100, np.uint32))
    parts = laid_out(passages.lengths, known)
    assert parts is not None
    assert {chunk for chunk, _, _ in parts} == {b"most", NEW}
    assert parts[-1] == (NEW, 0, 100 * (MOST_SOURCES + 1))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_layout_makes_the_chunk(data: st.DataObject) -> None:
    """P1: wherever passages lie, the parts that are laid out are their bytes, in few parts, of few chunks."""
    rng = random.Random(data.draw(st.integers(0, 1 << 30)))
    chunks = {bytes([n]): rng.randbytes(400) for n in range(data.draw(st.integers(1, 12)))}
    content, lengths = b"", list[int]()
    known: list[list[Extent]] = []
    for _ in range(data.draw(st.integers(1, 40))):
        chunk, start, length = bytes([rng.randrange(len(chunks))]), rng.randrange(300), rng.randrange(1, 100)
        if known and known[-1] and rng.random() < 0.6:  # the passage that followed
            chunk, start = known[-1][-1][0], min(known[-1][-1][1] + known[-1][-1][2], 300)
        there = rng.random() < data.draw(st.sampled_from([0.3, 0.8, 1.0]))
        content += chunks[chunk][start : start + length] if there else rng.randbytes(length)
        lengths.append(length)
        known.append([(chunk, start, length)] if there else [])
    parts = laid_out(np.array(lengths, np.uint32), known)
    if parts is None:
        return
    new = new_of(parts, memoryview(content))
    assert len(new) <= SHARE * len(content)
    assert b"".join((new if chunk == NEW else chunks[chunk])[at : at + n] for chunk, at, n in parts) == content
    assert len({chunk for chunk, _, _ in parts if chunk != NEW}) <= MOST_SOURCES
    assert len(parts) <= MOST_PARTS
    following: list[tuple[Extent, Extent]] = list(pairwise(parts))
    assert all(one[0] != two[0] or one[1] + one[2] != two[1] for one, two in following)
    assert list(accumulate(n for _, _, n in parts))[-1] == len(content)


def test_short_lines_take_no_more_memory_than_others() -> None:
    """P11: a window of eight million empty lines is told apart in a few megabytes."""
    reader, window = PassageReader(KEY, 1000), memoryview(b"\n" * (8 << 20))
    tracemalloc.start()
    try:
        reader.read(window, [1 << 20] * 8)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
