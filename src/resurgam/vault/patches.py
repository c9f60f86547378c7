"""Patches: a piece of a large file that changed in places is laid out from what is there, and only its changed blocks are stored.

A file of structure is cut into pieces, and each is a chunk (``chunking``). Where a row in a piece changes, the rest of it need not
be stored again: an entry is a list of parts of chunks anyway::

    piece before        [ old chunk ............................................ ]
    piece now           [ old chunk ... ][ new ][ old chunk ........ ][ new ][ ... ]
    a small new chunk   [ new ][ new ][ what changed in the next piece ] ...

Nothing is decoded by means of anything else: every part lies in a chunk that stands for itself, and the chunks are listed by each
point that needs them, so whatever keeps, copies, checks or prunes chunks need not know of patches. A patched piece has the id that
it would have as a chunk, and whoever restores it compares (P1).

Which blocks changed is told by digests that the host kept (``blockmemory``), since it cannot read what it stored (P9). They are

    digest(block) = sum of the 64-bit halves of c_i, modulo 2^64;   c = AES-XTS(key, tweak 0) of the megabyte the block lies in

which is PMAC's first step: where two blocks in the same place differ, so do inputs of AES under a secret key, each with its place,
and the sums are as equal as random ones, 2^-64. Why not a faster one, and what a false match would do: docs/adr/0021-patches.md.

Algorithm: J. Black, P. Rogaway, "A Block-Cipher Mode of Operation for Parallelizable Message Authentication", EUROCRYPT 2002;
P. Rogaway, "Efficient Instantiations of Tweakable Blockciphers", ASIACRYPT 2004 (XEX, of which XTS is made).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from resurgam.vault.frames import Buffer, mine
from resurgam.vault.snapshots import Extent

BLOCK = 512  # of a row of 384 floats a third, of SQLite's pages an eighth
MOST_BLOCKS = 1 << 24  # of one file; larger ones have larger blocks
LARGEST = 64 << 10  # which are no larger than this
UNIT = 1 << 20  # bytes that are digested at a time; a multiple of any block
SHARE = 0.5  # of a piece: when more than that is patched, it is stored whole
MOST_PARTS = 512  # of a piece
MOST_SOURCES = 8  # chunks that hold parts of one piece: when there are more, its patches are stored anew, together
NEW = b""  # the chunk, not named yet, that holds what changed

_BLOCK, _DOUBLINGS = 16, 32
_ONE, _LAST, _OVER = np.uint64(1), np.uint64(63), np.uint64(0x87)

Flags = NDArray[np.bool_]
Digests = NDArray[np.uint64]
Words = NDArray[np.uint64]


class Patch(NamedTuple):
    """What a piece needs beside what is there: which of its blocks are ``taken`` from ``data``, those blocks joined."""

    taken: Flags
    data: Buffer


class Moved(NamedTuple):
    """How a piece is laid out of what lay elsewhere (``moving``): its parts by where they lay in the file before (-1: in ``data``,
    joined), and their lengths."""

    were: NDArray[np.int64]
    lengths: NDArray[np.int64]
    data: Buffer


Plan = Patch | Moved


def block_of(size: int) -> int:
    """The length of the blocks of a file of ``size`` bytes."""
    block = BLOCK
    while size > block * MOST_BLOCKS and block < LARGEST:
        block *= 2
    return block


def count_of(length: int, block: int) -> int:
    """The number of blocks in ``length`` bytes, of which the last may be shorter."""
    return -(-length // block)


def digests(key: bytes, data: memoryview, block: int, each: Callable[[Words], object] | None = None) -> Digests:
    """Of each whole block of ``data``, under ``key`` (32 bytes). Depends on where a block lies in ``data``. ``each`` is called with
    what was made of each UNIT of whole blocks: as many bytes, and two words more of anything."""
    count = len(data) // block
    found = np.empty(count, np.uint64)
    room = mine.scratch("patches", UNIT + 16)
    per = UNIT // block
    for first in range(0, count, per):
        unit = data[first * block : min(first + per, count) * block]
        Cipher(algorithms.AES(key), modes.XTS(bytes(16))).encryptor().update_into(unit, room.data)
        words = room[: len(unit)].view(np.uint64).reshape(-1, block // 8)
        if each is not None:
            each(room[: len(unit) + 16].view(np.uint64))
        np.einsum("ij->i", words, out=found[first : first + per])  # np.add.reduce takes twice as long for short rows
    return found


def digests_of_some(
    key: bytes, pieces: NDArray[np.uint8], places: Sequence[int], block: int, each: Callable[[Words], object]
) -> Digests:
    """As ``digests``, of pieces of equal length, a row each, of which a whole number make a UNIT; ``places`` are their numbers in
    their units. ``each`` is called once, with what was made of all, and two words more."""
    masks = tweaks(key).reshape(-1, pieces.shape[1] // 8)
    masked = mine.scratch("masked pieces", pieces.nbytes).view(np.uint64).reshape(len(pieces), -1)
    room = mine.scratch("some patches", pieces.nbytes + _BLOCK)
    made = room[: pieces.nbytes].view(np.uint64).reshape(masked.shape)
    for row, piece, place in zip(masked, pieces.view(np.uint64), places, strict=True):
        np.bitwise_xor(piece, masks[place], out=row)
    blocks_under(key[:16]).encryptor().update_into(masked.data.cast("B"), room.data)
    for row, place in zip(made, places, strict=True):
        np.bitwise_xor(row, masks[place], out=row)
    each(room.view(np.uint64))
    found: Digests = np.einsum("ij->i", made.reshape(-1, block // 8))
    return found


def blocks_under(key: bytes) -> Cipher[modes.ECB]:
    """AES under ``key`` (16 bytes) as a permutation of each 16 bytes."""
    return Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305 - of single blocks


@lru_cache(2)
def tweaks(key: bytes) -> Words:
    """What XTS under ``key`` (32 bytes) masks each 16 bytes of a unit with, a row for each: the one before, doubled in GF(2^128)
    (IEEE 1619)."""
    one = int.from_bytes(blocks_under(key[16:]).encryptor().update(bytes(_BLOCK)), "little")
    firsts = bytearray()
    for _ in range(UNIT // _BLOCK // _DOUBLINGS):
        firsts += one.to_bytes(_BLOCK, "little")
        over = one >> 128 - _DOUBLINGS
        one = (one << _DOUBLINGS) % (1 << 128) ^ over ^ over << 1 ^ over << 2 ^ over << 7
    every = np.empty((UNIT // _BLOCK // _DOUBLINGS, _DOUBLINGS, 2), np.uint64)
    every[:, 0] = np.frombuffer(firsts, "<u8").reshape(-1, 2)
    for number in range(1, _DOUBLINGS):
        low, high = every[:, number - 1, 0], every[:, number - 1, 1]
        every[:, number, 0] = low << _ONE ^ (high >> _LAST) * _OVER
        every[:, number, 1] = high << _ONE ^ low >> _LAST
    return every.reshape(-1, 2)


def differing(before: Digests, now: Digests, count: int) -> Flags:
    """Which of ``count`` blocks changed. One that has no digest, then or now, counts as changed."""
    changed = np.ones(count, np.bool_)
    both = min(len(before), len(now), count)
    np.not_equal(before[:both], now[:both], out=changed[:both])
    return changed


def patch_of(parts: Sequence[Extent], changed: Flags, data: memoryview, block: int) -> Patch | None:
    """What to store so that ``data`` comes out of the ``parts`` that lay in its place before; None where it is better stored whole.

    ``changed`` has a flag for each block of ``data``; where it is not set, the block is in ``parts``, in the same place.
    """
    sources = Counter[bytes]()
    for chunk, _, length in parts:
        if not length:  # a delta: what it makes lies in no chunk
            return None
        sources[chunk] += length
    taken = changed
    if len(sources) > MOST_SOURCES:  # folded back: all but what the oldest chunk has is stored together
        taken = changed | _not_from(max(sources, key=sources.__getitem__), parts, block, len(changed))
    if np.count_nonzero(taken) * block > SHARE * len(data):
        return None
    if len(laid_out(parts, taken, block, len(data))) > MOST_PARTS:
        return None
    count = len(data) // block
    whole = np.frombuffer(data, np.dtype(("V", block)), count)[taken[:count]].tobytes()
    return Patch(taken, whole + data[count * block :] if taken[count:].any() else whole)


def laid_out(parts: Sequence[Extent], taken: Flags, block: int, length: int) -> list[Extent]:
    """The parts of a piece of ``length`` bytes: its ``taken`` blocks from the chunk NEW, all others from ``parts``."""
    ends = list(accumulate(part[2] for part in parts))
    found: list[Extent] = []
    new = 0
    turns = (np.flatnonzero(taken[1:] != taken[:-1]) + 1).tolist()
    for start, stop in pairwise([0, *turns, len(taken)]):
        low, high = start * block, min(stop * block, length)
        if taken[start]:
            found.append((NEW, new, high - low))
            new += high - low
        else:
            found += between(parts, ends, low, high)
    return found


def between(parts: Sequence[Extent], ends: Sequence[int], low: int, high: int) -> list[Extent]:
    """What of ``parts``, which end at ``ends``, lies between ``low`` and ``high``."""
    found: list[Extent] = []
    number = bisect_right(ends, low)
    while low < high:
        chunk, start, length = parts[number]
        skip = low - (ends[number] - length)
        size = min(high, ends[number]) - low
        found.append((chunk, start + skip, size))
        low, number = low + size, number + 1
    return found


def _not_from(base: bytes, parts: Sequence[Extent], block: int, count: int) -> Flags:
    """Which blocks do not come out of the chunk ``base``."""
    flags = np.zeros(count, np.bool_)
    at = 0
    for chunk, _, length in parts:
        if chunk != base:
            flags[at // block : count_of(at + length, block)] = True
        at += length
    return flags
