"""Passages: a chunk of text that changed is laid out from what is there, and only what is new of it is stored.

Text is cut into chunks where its content says so (``chunking``), and a chunk in which a line came, went or changed need not be
stored again: most of it lies in old chunks, though not where it lay (``patches`` are of what stays in its place). So chunks of text
are told apart into passages of some ``AVERAGE`` bytes, which end with lines; what came before a passage does not move its end::

    chunk before        [ passage ][ passage ][ passage ][ passage ]
    chunk now           [ passage ][ passage ][   changed    ][ passage ]
    laid out            [ old chunk ..........][     new      ][ old ...]

Which passages were there before, and in which chunk, is told by digests that the host kept (``textmemory``), since it cannot read
what it stored (P9). As patches do, a chunk so laid out has the id that it would have as one, and whoever restores it compares (P1).

A line ends a passage with a likelihood that the head of the file has set (``lines_of``), told by a multiplication of its length and
of eight bytes from its midst: those vary where lines begin and end all alike. A passage of ``LONGEST`` bytes ends without it.

    digest(passage) = the first 64 bits of AES(k2, GHASH(k1, passage))

GHASH takes bytes wherever they begin, at 17 GB/s. Its values of two passages agree with a chance of 2^-115 at most (NIST SP
800-38D; D. McGrew, J. Viega, "The Security and Performance of the Galois/Counter Mode", INDOCRYPT 2004), so digests agree as often
as random ones, 2^-64, and show nothing but that to whoever gets at them. What a false match would do is said in
docs/adr/0021-patches.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from resurgam.vault.frames import mine
from resurgam.vault.patches import MOST_PARTS, MOST_SOURCES, NEW, Digests
from resurgam.vault.snapshots import Extent

AVERAGE = 16 << 10
LONGEST = 64 << 10
SHARE = 0.75  # of a chunk: when more than that is new, it is stored whole
_HEAD = 256 << 10  # what is looked at of a file
_MOST = 8  # times as many passages as on average: lines that are all alike say nothing of where to end one
_LINE_END = 10
_STEP = 256 << 10
_LINES = 1 << 16  # that are looked at together
_NONCE = bytes(12)  # the values of GHASH are encrypted again

Lengths = NDArray[np.uint32]


class Passages(NamedTuple):
    """Of a chunk, in order: the digest of each passage and its length."""

    digests: Digests
    lengths: Lengths


def lines_of(head: memoryview) -> int | None:
    """How many lines a passage has on average, in a file that begins with ``head``; None where it is no text, or has no lines.

    Parquet that comes here is not packed (``parquet``): values of rows that move keep their bytes, and a byte that ends a line is
    in one of 256, so it is as good as text.
    """
    some = bytes(head[:_HEAD])
    lines = some.count(b"\n")
    if not 0 < len(some) <= lines * LONGEST or (b"\0" in some and not some.startswith(b"PAR1")):
        return None
    return max(1, round(AVERAGE * lines / len(some)))


class PassageReader:
    """Tells the chunks of one file apart. ``key`` (32 bytes) is the domain's block key; ``lines`` as ``lines_of`` has them.
    Thread-safe."""

    def __init__(self, key: bytes, lines: int) -> None:
        derived = blake3(b"passages", key=key).digest(72)
        self._hasher, self._key = AESGCM(derived[:32]), derived[32:64]
        self._factor = np.uint64(int.from_bytes(derived[64:], "little") | 1)
        self._below = np.uint64(((1 << 64) - 1) // lines)

    def read(self, data: memoryview, lengths: Sequence[int]) -> list[Passages]:
        """The passages of each of the neighbouring chunks of such ``lengths`` of which ``data`` consists. Many at a time take a
        third of what they take one by one."""
        counts: list[int] = []
        ends: list[int] = []
        chosen, start = self._chosen(data), 0
        borders = [0, *np.searchsorted(chosen, list(accumulate(lengths))).tolist()]
        for length, (low, high) in zip(lengths, pairwise(borders), strict=True):
            found = _ends(chosen[low:high], start, start + length)
            counts.append(len(found))
            ends += found
            start += length
        digests = self._digests(data, ends)
        sizes = np.diff(ends, prepend=0).astype(np.uint32)
        places = pairwise([0, *accumulate(counts)])
        return [Passages(digests[low:high], sizes[low:high]) for low, high in places]

    def _digests(self, data: memoryview, ends: list[int]) -> Digests:
        tags = b"".join([self._hasher.encrypt(_NONCE, b"", data[start:end]) for start, end in pairwise([0, *ends])])
        cipher = Cipher(algorithms.AES(self._key), modes.ECB()).encryptor()  # noqa: S305 - of single blocks, as a permutation
        return np.frombuffer(cipher.update(tags), "<u8")[::2].astype(np.uint64)

    def _chosen(self, data: memoryview) -> NDArray[np.int64]:
        """Where those lines end that end a passage."""
        found = [np.empty(0, np.int64)]
        last = found[0]
        for some in _line_ends(data) if len(data) >= 8 else ():
            ends = np.concatenate([last, some])
            found.append(self._chosen_of(data, ends[:-1], ends[1:]))
            last = ends[-1:]
        return np.concatenate(found)

    def _chosen_of(self, data: memoryview, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
        lengths = ends - starts
        words: NDArray[Any] = np.ndarray((len(data) - 7,), "<u8", data, 0, (1,))
        mixed = (words[np.minimum(starts + (lengths >> 1), len(words) - 1)] + lengths.astype(np.uint64)) * self._factor
        mixed ^= mixed >> np.uint64(32)
        mixed *= self._factor
        return ends[mixed <= self._below]


def _line_ends(data: memoryview) -> Iterator[NDArray[np.int64]]:
    """Where lines end, some at a time: short ones would take many times the memory of the text. In steps that stay in the
    processor's cache, and eight bytes at a time where none ends."""
    plain, found, words = (
        np.frombuffer(data, np.uint8),
        mine.scratch("line ends", _STEP),
        mine.scratch("lines", _STEP // 8),
    )
    ends: list[NDArray[np.int64]] = []
    for start in range(0, len(data) & ~7, _STEP):
        size = min(_STEP, len(data) - start) & ~7
        np.equal(plain[start : start + size], _LINE_END, out=found[:size].view(np.bool_))
        np.not_equal(found[:size].view(np.uint64), 0, out=words[: size // 8].view(np.bool_))
        numbers = np.flatnonzero(words[: size // 8].view(np.bool_))
        hits = np.flatnonzero(found.view(np.bool_).reshape(-1, 8)[numbers])
        ends.append(numbers[hits >> 3] * 8 + (hits & 7) + (start + 1))
        if sum(map(len, ends)) >= _LINES:
            yield np.concatenate(ends)
            ends = []
    if ends:
        yield np.concatenate(ends)


def _ends(chosen: NDArray[np.int64], start: int, end: int) -> list[int]:
    """Where the passages of the chunk from ``start`` to ``end`` end, of which ``chosen`` lie in it."""
    places = chosen.tolist() if len(chosen) * AVERAGE <= _MOST * max(end - start, AVERAGE) else []
    found: list[int] = []
    last = start
    for place in (*places, end):
        found.extend(range(last + LONGEST, place, LONGEST))
        if place > last:
            found.append(place)
        last = place
    return found


def laid_out(lengths: Lengths, known: Sequence[Sequence[Extent]]) -> list[Extent] | None:
    """The parts of a chunk of passages of such ``lengths``: each lies where ``known`` says, or is new where it says nothing;
    those are of the chunk NEW. None where the chunk is better stored whole."""
    sources = Counter[bytes]()
    for extents in known:
        for chunk, _, length in extents:
            sources[chunk] += length
    if len(sources) > MOST_SOURCES:  # folded back: all but what one chunk has is stored together
        most = max(sources, key=sources.__getitem__)
        known = [extents if all(chunk == most for chunk, _, _ in extents) else () for extents in known]
    parts: list[Extent] = []
    new = 0
    for length, extents in zip(lengths.tolist(), known, strict=True):
        for extent in extents or [(NEW, new, length)]:
            _join(parts, extent)
        new += 0 if extents else length
    return parts if new <= SHARE * lengths.sum() and len(parts) <= MOST_PARTS else None


def _join(parts: list[Extent], extent: Extent) -> None:
    """Add ``extent`` to ``parts``, as one with the last where it follows it in its chunk."""
    chunk, start, length = extent
    if parts and parts[-1][0] == chunk and parts[-1][1] + parts[-1][2] == start:
        chunk, start, before = parts.pop()
        length += before
    parts.append((chunk, start, length))


def new_of(parts: Sequence[Extent], data: memoryview) -> bytes:
    """What of ``data`` is in its parts of the chunk NEW."""
    ends = accumulate(length for _, _, length in parts)
    return b"".join([data[end - part[2] : end] for part, end in zip(parts, ends, strict=True) if part[0] == NEW])
