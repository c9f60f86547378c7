"""Spans of a large file of structure, coded by copies of this process, each stored by this one.

Threads take turns with Python itself: of a chunk of weights each waits for another some ten times, and wakes on another processor.
Copies of this process do not; what they hand over is encrypted and stored here meanwhile.

What a child hands over of a span (or of one chunk: ``sharing``), little-endian::

    offset  bytes  what
    0       8      u32 bytes of the span, u32 number of pieces that were there
    8       44 n   for each: chunk id (32), u32 raw length, u32 stored length, u8 codec, u8 flags, u16 zero
    then           what is to be stored of the pieces, in their order

A flag of 1: there is something to be stored; of 2: it is known to come back exactly; of 4: the piece is to be patched, and what is
to be stored are a bit for each of its blocks, the lowest of a byte first, and the blocks whose bit is set (``patches.Patch``);
of 8: it is laid out of what moved, and what is to be stored are the number of its parts (u64), where each lay (i64), the length of
each (i64), and what is new (``patches.Moved``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from functools import partial
from typing import NamedTuple

import numpy as np

from resurgam.drivers.base import Source, read_fully
from resurgam.vault.buffers import SPAN
from resurgam.vault.chunking import Dtype, Piece
from resurgam.vault.codecs import Codec, Encoded
from resurgam.vault.frames import Buffer, mine
from resurgam.vault.makers import Makers, makers
from resurgam.vault.pack import SHORTEST
from resurgam.vault.patches import Moved, Patch, Plan, count_of
from resurgam.vault.patching import Patching
from resurgam.vault.sink import CodedPiece, DomainKeys, Plans, Sink, padded
from resurgam.vault.snapshots import Extent
from resurgam.vault.threads import Threads

ROOM = SPAN + (64 << 10)  # a span whose pieces are all stored as they are, and more than their heads
MOST_PIECES = 1024  # of a span: a file may say that it consists of tensors of a few bytes
_HEAD = struct.Struct("<II")
_COUNT = struct.Struct("<Q")
_PIECE = struct.Struct("<32sIIBBH")
_NEW, _EXACT, _PATCHED, _MOVED = 1, 2, 4, 8
assert MOST_PIECES * (_PIECE.size + SHORTEST) + _HEAD.size < ROOM - SPAN


class Coded(NamedTuple):
    """How many bytes a span has, and its pieces as far as they were there."""

    done: int
    pieces: Iterator[CodedPiece]


def spans_of(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Neighbouring pieces, up to MOST_PIECES and SPAN bytes together."""
    span: list[Piece] = []
    for piece in pieces:
        if span and (piece.offset + piece.length - span[0].offset > SPAN or len(span) == MOST_PIECES):
            yield span
            span = []
        span.append(piece)
    if span:
        yield span


def read_span(source: Source, span: list[Piece], room: memoryview) -> memoryview:
    """The bytes of neighbouring pieces in ``room``; fewer where the source ends early."""
    first, last = span[0], span[-1]
    view = room[: last.offset + last.length - first.offset]
    return view[: read_fully(source, first.offset, view)]


def end_of(source: Source, size: int) -> int:
    """Where the bytes end that were ``size`` when they were listed. Found by reading single bytes, not all of them."""
    probe = memoryview(bytearray(1))
    low, high = 0, max(size, 1)  # a byte stands before ``low``, or it is 0; whether one stands at ``high`` is asked
    while source.read_into(high, probe):
        low, high = high + 1, 2 * high
    while low < high:
        middle = (low + high) // 2
        if source.read_into(middle, probe):
            low = middle + 1
        else:
            high = middle
    return low


def coders(
    sink: Sink,
    keys: DomainKeys,
    source: Source,
    spans: list[list[Piece]],
    patching: Patching | None,
    pool: Threads,
) -> Makers[list[Piece]] | None:
    """Copies of this process that code ``spans``, once ``pool`` has done what it was given; None where there can be none."""
    sink.rest(pool)
    room = bytearray(SPAN)  # each child's own, once it writes there
    return makers(spans, lambda span, out: code(sink, keys, source, span, patching, memoryview(room), out), ROOM)


def take_from(
    work: Makers[list[Piece]],
    spans: list[list[Piece]],
    sink: Sink,
    keys: DomainKeys,
    patching: Patching | None,
    pool: Executor,
    progress: Callable[[int], None],
) -> list[Future[list[Extent]]]:
    """The extents of each span to be, which one thread of ``pool`` stores as they come."""
    futures: list[Future[list[Extent]]] = [Future() for _ in spans]

    def store(number: int, result: memoryview) -> None:
        if sink.stopping:
            raise CancelledError  # as those threads that had not begun
        done, pieces = coded(result, patching.block if patching else 0)
        futures[number].set_result(extents_of(pieces, spans[number], patching, partial(sink.put_coded, keys)))
        progress(done)

    def take() -> None:
        try:
            work.take(store)
        except BaseException as error:  # noqa: BLE001 - raised by whoever asks for a span
            for future in futures:
                if not future.done():
                    future.set_exception(error)

    pool.submit(take)
    return futures


def extents_of(
    pieces: Iterable[CodedPiece],
    span: list[Piece],
    patching: Patching | None,
    put: Callable[[CodedPiece], object] = lambda _piece: None,
) -> list[Extent]:
    """Those of the ``pieces`` of a ``span``, as many as were there, each as a chunk; what is to be stored of them is ``put``, or
    taken for patches."""
    extents: list[Extent] = []
    for piece, cut in zip(pieces, span, strict=False):
        if piece.patch is not None and patching is not None:
            patching.take(cut.offset, piece.chunk, piece.length, cut.dtype, piece.patch)
        else:
            put(piece)
        extents.append((piece.chunk, 0, piece.length))
    return extents


def plans_of(patching: Patching | None, span: list[Piece], data: memoryview) -> Plans | None:
    """Which pieces of a span are to be patched: of pages, or one piece."""
    return partial(patching.plans, span[0].offset, data, span[0].length) if patching else None


def code(
    sink: Sink,
    keys: DomainKeys,
    source: Source,
    span: list[Piece],
    patching: Patching | None,
    room: memoryview,
    out: memoryview,
) -> int:
    """In a child: read a span into ``room``, and fill ``out`` as above; returns its length."""
    if span[0].dtype is Dtype.PAGES:
        data = read_span(source, span, room)
        pages = sink.coded_pages(keys, data, span[0].length, plans_of(patching, span, data))
        return hand_over(len(data), len(pages), pages, out)
    whole = span[-1].offset + span[-1].length - span[0].offset
    return hand_over(whole, len(span), _each(sink, keys, source, span, patching, room), out)


def _each(
    sink: Sink, keys: DomainKeys, source: Source, span: list[Piece], patching: Patching | None, room: memoryview
) -> Iterator[CodedPiece]:
    """Pieces as far as they are there, one by one in the same memory: most of one is in the processor's cache still when it is
    coded, and not all of a span."""
    for piece in span:
        data = room[: piece.length]
        if read_fully(source, piece.offset, data) < len(data):
            return
        yield _coded(sink, keys, piece, data, patching)


def _coded(sink: Sink, keys: DomainKeys, piece: Piece, data: memoryview, patching: Patching | None) -> CodedPiece:
    if len(data) < SHORTEST:
        return sink.coded(keys, padded(data), piece.dtype)._replace(length=len(data))
    return sink.coded(keys, data, piece.dtype, plans_of(patching, [piece], data))


def hand_over(done: int, count: int, pieces: Iterable[CodedPiece], out: memoryview) -> int:
    """In a child: fill ``out`` with what became of ``done`` bytes, ``count`` pieces at most, one after the other; returns its
    length. What planes are coded to while ``pieces`` are asked for is made where it belongs, and not copied."""
    came, start = 0, _HEAD.size + count * _PIECE.size
    at = start
    coming = iter(pieces)
    try:
        while True:
            mine.place = out[at:]
            piece = next(coming, None)
            if piece is None:
                break
            at += _put(piece, came, at, out)
            came += 1
    finally:
        mine.place = None
    _HEAD.pack_into(out, 0, done, came)
    length = at - start
    if came < count:  # the source ended early
        start = _HEAD.size + came * _PIECE.size
        out[start : start + length] = out[at - length : at]
    return start + length


def _put(piece: CodedPiece, number: int, at: int, out: memoryview) -> int:
    """Its head, and at ``at`` what is to be stored of it; returns the length of that."""
    chunk, length, coded, patch = piece
    codec, stored, exact = coded or (Codec.RAW, b"", False)
    flags = _NEW * (coded is not None) | _EXACT * exact | _flag_of(patch)
    if patch is not None:
        stored = b"".join(_columns(patch))
    _PIECE.pack_into(out, _HEAD.size + number * _PIECE.size, chunk, length, len(stored), codec, flags, 0)
    out[at : at + len(stored)] = stored  # nothing is moved where it was made there
    return len(stored)


def coded(result: memoryview, block: int = 0) -> Coded:
    """What a child made; the pieces are good as long as that memory is. ``block`` is the length of those of patched ones."""
    done, count = _HEAD.unpack_from(result)
    return Coded(done, _pieces(result, count, block))


def _pieces(result: memoryview, count: int, block: int) -> Iterator[CodedPiece]:
    at = _HEAD.size + count * _PIECE.size
    for number in range(count):
        chunk, length, size, codec, flags, _ = _PIECE.unpack_from(result, _HEAD.size + number * _PIECE.size)
        stored = result[at : at + size]
        at += size
        new = Encoded(Codec(codec), stored, exact=bool(flags & _EXACT)) if flags & _NEW else None
        plan: Plan | None = None
        if flags & _PATCHED:
            plan = _patch(stored, count_of(length, block))
        elif flags & _MOVED:
            plan = _moved(stored)
        yield CodedPiece(chunk, length, new, plan)


def _flag_of(plan: Plan | None) -> int:
    return 0 if plan is None else _MOVED if isinstance(plan, Moved) else _PATCHED


def _columns(plan: Plan) -> tuple[Buffer, ...]:
    if isinstance(plan, Moved):
        return _COUNT.pack(len(plan.were)), plan.were.tobytes(), plan.lengths.tobytes(), plan.data
    return np.packbits(plan.taken, bitorder="little").data, plan.data


def _moved(stored: memoryview) -> Moved:
    (count,) = _COUNT.unpack_from(stored)
    end = _COUNT.size + 16 * count
    were, lengths = np.frombuffer(stored[_COUNT.size : end], np.int64).reshape(2, count)
    return Moved(were, lengths, stored[end:])


def _patch(stored: memoryview, blocks: int) -> Patch:
    bits = count_of(blocks, 8)
    taken = np.unpackbits(np.frombuffer(stored, np.uint8, bits), count=blocks, bitorder="little")
    return Patch(taken.view(np.bool_), stored[bits:])
