"""One large file on its way into the vault, patched where it changed in places (``patches``).

    piece --> its id is known? --> as it is
          --> the host knows what lay in its place --> few blocks changed --> parts of old chunks, and its blocks into a new one
          --> else: a chunk of its own

What changed in several pieces is gathered into new chunks (``gathering``), so where the parts lie is known at the end only. Plans
are made in threads or in copies of this process; what they need stored is taken in this one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from resurgam.drivers.base import Blob
from resurgam.vault.bases import Base, Bases, Pieces
from resurgam.vault.blockmemory import BlockMemory, Noted, Remembered
from resurgam.vault.chunking import Dtype, Piece
from resurgam.vault.frames import mine
from resurgam.vault.gathering import Gathering
from resurgam.vault.index import Index
from resurgam.vault.moving import Moving, Run, Unit
from resurgam.vault.pack import Kind
from resurgam.vault.patches import (
    UNIT,
    Digests,
    Flags,
    Moved,
    Patch,
    Plan,
    block_of,
    count_of,
    differing,
    digests,
    digests_of_some,
    laid_out,
    patch_of,
)
from resurgam.vault.segments import HEAD, Pages
from resurgam.vault.sink import DomainKeys, Sink
from resurgam.vault.snapshots import Extent

LITTLE = 0.25  # of a piece: where more changed in its place, it may have come from elsewhere
MANY = 0.5  # of a span's pieces: when as many are as before, only the others are digested
PATCHED_FROM = 1 << 20  # bytes of a file: of smaller ones, whole pieces are stored
# What is packed moves all that follows wherever it changes.
_IN_PLACE = frozenset({Dtype.BYTES, Dtype.BF16, Dtype.F16, Dtype.F32, Dtype.PAGES})


def patching_of(
    memory: BlockMemory,
    bases: Bases,
    blob: Blob,
    head: memoryview,
    spans: list[list[Piece]],
    pieces: Pieces,
    sink: Sink,
    index: Index,
    keys: DomainKeys,
) -> Patching | None:
    """How ``blob``, which began with ``head`` and was cut into ``spans`` by that, is patched, or told from a base; None where it is
    not worth it. ``pieces`` waits for what becomes of it."""
    if blob.size < PATCHED_FROM or not all(piece.dtype in _IN_PLACE for span in spans for piece in span):
        return None
    old = memory.remembered(blob.path)
    if old is not None and not index.knows_all(old.chunks()):  # P1: nothing is built on what a prune may have taken
        old = None
    base = bases.base_of(blob.path, blob.source, spans, pieces, index, keys)
    paged = spans[0][0].dtype is Dtype.PAGES and len(head) >= HEAD
    noted = memory.noting(blob.path, old.block if old else block_of(blob.size), segments=paged)
    moving = Moving(Pages.of(head, blob.size), keys.block_key, old, noted) if paged else None
    return Patching(sink, index, keys, old, base, moving, noted, blob.size)


class Patching:
    """Patches one file of ``size`` bytes. ``old`` is what the host remembers of it, if anything, ``base`` a file that it may be
    told from; ``moving`` knows what of a database lies elsewhere now; ``noted`` gets what the next capture is to know."""

    def __init__(
        self,
        sink: Sink,
        index: Index,
        keys: DomainKeys,
        old: Remembered | None,
        base: Base | None,
        moving: Moving | None,
        noted: Noted,
        size: int,
    ) -> None:
        self._sink, self._index, self._keys = sink, index, keys
        self._old, self._base, self._moving, self._noted, self._size = old, base, moving, noted, size
        self._gathering = Gathering(sink, keys)

    @property
    def block(self) -> int:
        """The length of the file's blocks."""
        return self._noted.block

    @property
    def tells(self) -> bool:
        """Whether pieces may become deltas: ``tell`` stores those itself, so no copy of this process may ask it."""
        return self._base is not None

    def plans(self, offset: int, span: memoryview, length: int, chunks: Sequence[bytes]) -> list[Plan | None]:
        """Of each piece of ``length`` bytes, of which ``span`` at ``offset`` consists (the last may be shorter) and whose ids are
        ``chunks``: what it needs to be patched; None where it is to be a chunk, or is one."""
        if not chunks:  # the file ended before it
            return []
        old, units = self._old, list(self._units(span, length))
        if old is None:
            self._noted_of(offset, units, length, np.zeros(len(chunks), np.bool_))
            return [None] * len(chunks)
        numbers, same = old.compared(offset, length, chunks)
        now = self._noted_of(offset, units, length, same)
        many, found = max(UNIT // length, 1), dict[int, Sequence[Run]]()
        plans: list[Plan | None] = [None] * len(chunks)
        for n, (number, is_same, chunk) in enumerate(zip(numbers.tolist(), same.tolist(), chunks, strict=True)):
            if (is_same and old.is_chunk(chunk)) or self._index.knows(chunk):
                continue
            low, high = n * length, min((n + 1) * length, len(span))
            plan: Plan | None = None
            if number >= 0:
                plan = self._patch(old, number, is_same, span[low:high], now[low // self.block :])
            if self._moving is not None and (plan is None or len(plan.data) > LITTLE * (high - low)):
                at, start = n // many, n // many * many * length
                if at not in found:
                    found[at] = self._moving.found(units[at], length)
                moved = self._moving.plan(found[at], units[at], low - start, high - start)
                plan = moved if moved and (plan is None or len(moved.data) < len(plan.data)) else plan
            plans[n] = plan
        return plans

    def _patch(self, old: Remembered, number: int, is_same: bool, data: memoryview, now: Digests) -> Patch | None:
        """How ``data``, whose blocks' digests ``now`` begins with, comes out of piece ``number`` before it."""
        begin, length = old.place(number)
        changed = differing(old.digests(begin, length), now, count_of(len(data), self.block))
        if is_same:  # as it was, and patched already: also the end of it, which has no digest
            changed[:] = False
        return patch_of(old.parts(number), changed, data, self.block)

    def _units(self, span: memoryview, length: int) -> Iterator[Unit]:
        """What is digested together: as many pieces of ``length`` bytes as make a UNIT."""
        length *= max(UNIT // length, 1)
        if self._moving is not None:
            yield from self._moving.units(span, length)
        else:
            yield from (Unit(span[low : low + length]) for low in range(0, len(span), length))

    def _noted_of(self, offset: int, units: Sequence[Unit], length: int, same: Flags) -> Digests:
        """The digests of a span, which are noted, as are its segments. Of its pieces of ``length`` bytes some are the ``same`` as
        before: what is known of those is not made again, where it pays."""
        old, moving, size = self._old, self._moving, sum(len(unit.data) for unit in units)
        believed = old is not None and (moving is None or moving.knows)
        if old is not None and believed and same.all():
            now = old.digests(offset, size)
            if moving is not None:
                moving.keep(offset, size)
        elif old is not None and moving is not None and believed and np.count_nonzero(same) >= MANY * len(same):
            now = self._digests_of_some(old, moving, offset, units, length, same)
        else:
            now = np.concatenate(list(self._digests_of_all(offset, units)))
        self._noted.note(offset, now)
        return now

    def _digests_of_all(self, offset: int, units: Sequence[Unit]) -> Iterator[Digests]:
        for unit in units:
            each = partial(self._moving.note, offset, unit) if self._moving is not None else None
            yield digests(self._keys.block_key, unit.data, self.block, each)
            offset += len(unit.data)

    def _digests_of_some(
        self, old: Remembered, moving: Moving, offset: int, units: Sequence[Unit], length: int, same: Flags
    ) -> Digests:
        """Those of pages of which few pieces are not the ``same``: all such of a span together, in few steps."""
        size, per, many = sum(len(unit.data) for unit in units), length // self.block, max(UNIT // length, 1)
        which = np.flatnonzero(~same).tolist()
        parts = [units[n // many].data[n % many * length :][:length] for n in which]
        pieces = mine.scratch("changed pieces", len(which) * length).reshape(len(which), length)
        for row, part in zip(pieces, parts, strict=True):
            row[: len(part)] = np.frombuffer(part, np.uint8)
        joined = pieces.ravel()[: sum(map(len, parts))]
        each = partial(moving.note_some, offset, length, ~same, joined)
        made = digests_of_some(self._keys.block_key, pieces, [n % many for n in which], self.block, each)
        now = np.zeros(size // self.block, np.uint64)
        before = old.digests(offset, size)
        now[: len(before)] = before
        for n, fresh in zip(which, made.reshape(-1, per), strict=True):
            place = now[n * per : (n + 1) * per]
            place[:] = fresh[: len(place)]
        return now

    def take(self, offset: int, chunk: bytes, length: int, dtype: Dtype, patch: Plan) -> None:
        """Store what the piece with the id ``chunk`` needs, as planned."""
        if isinstance(patch, Moved):
            assert self._moving is not None
            self._gathering.take(chunk, self._moving.parts(patch), patch.data, dtype)
            return
        assert self._old is not None
        number = self._old.at(offset)
        assert number is not None
        parts = laid_out(self._old.parts(number), patch.taken, self.block, length)
        self._gathering.take(chunk, parts, patch.data, dtype)

    def tell(self, piece: Piece, chunk: bytes, data: memoryview) -> bool:
        """Store ``piece``, which has the id ``chunk``, as a delta; False where it is to be a chunk, or is one."""
        if self._base is None or self._index.knows(chunk):
            return False
        found = self._base.delta(piece, data)
        if found is None:
            return False
        base, document = found
        delta = self._sink.put(self._keys, Kind.DATA, document)
        self._gathering.lay(chunk, [(base, 0, len(data)), (delta, 0, 0)])
        return True

    def end(self, extents: Sequence[Extent]) -> dict[bytes, list[Extent]]:
        """No more pieces come; ``extents`` are all, as whole chunks. Returns the parts of those that were patched, by their ids."""
        patched = self._gathering.end()
        self.close()
        # P1: where bytes were missing, pieces do not lie where their blocks were noted.
        if sum(length for _, _, length in extents) == self._size:
            self._noted.finish(extents, patched)
        return patched

    def close(self) -> None:
        """Let the base go; repeatable."""
        if self._base is not None:
            self._base.close()
            self._base = None
