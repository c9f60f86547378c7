"""The Merkle tree over a log: its hash, and short proofs that an entry is in it and that it only grew.

The tree is that of RFC 9162 section 2.1 (the same as RFC 6962's) over SHA-256, so that what is signed of it can be checked by
the tools of others. Nothing here touches the world:

* :class:`Frontier` takes leaves one after the other and keeps only the roots of the whole subtrees on the right-hand edge,
  O(log n) hashes: what a host must remember to go on from entry n without reading the first n again (P11);
* a proof is a list of roots of subtrees. ``inclusion`` and ``consistency`` say which, as ranges of leaves, and :func:`prove`
  finds them in one pass over the leaves;
* ``verify_inclusion`` and ``verify_consistency`` need the proof and two roots, no leaves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

HASH: Final = 32
EMPTY: Final = hashlib.sha256().digest()  # the root of no leaves

Range = tuple[int, int]  # leaves from the first number to before the second


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf; another first byte than a node's, so that neither passes for the other."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right-hand edge of a growing tree. ``size`` counts its leaves, ``peaks`` are the roots of its whole subtrees, the
    largest first: one for each bit of ``size``."""

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        """An edge as it was kept. Raises ValueError where ``peaks`` cannot be those of ``size`` leaves."""
        if size < 0 or len(peaks) != size.bit_count() or any(len(peak) != HASH for peak in peaks):
            raise ValueError(f"these are not the subtrees of {size} leaves")
        self.size = size
        self.peaks = list(peaks)

    def append(self, leaf: bytes) -> None:
        """Take one more leaf, by its hash."""
        at = self.size
        while at & 1:
            leaf = node_hash(self.peaks.pop(), leaf)
            at >>= 1
        self.peaks.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The hash of the whole tree."""
        if not self.peaks:
            return EMPTY
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = node_hash(peak, root)
        return root


def inclusion(index: int, size: int) -> list[Range]:
    """The subtrees that prove leaf ``index`` (from 0) in a tree of ``size`` leaves, the nearest first (RFC 9162, 2.1.3.1)."""
    assert 0 <= index < size
    start, end, found = 0, size, list[Range]()
    while end - start > 1:
        middle = start + _left(end - start)
        if index < middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((start, middle))
            start = middle
    return found[::-1]


def consistency(old: int, size: int) -> list[Range]:
    """The subtrees that prove that a tree of ``size`` leaves begins with the one of ``old`` leaves (RFC 9162, 2.1.4.1)."""
    assert 0 <= old <= size
    start, end, found = 0, size, list[Range]()
    while 0 < old < end:
        middle = start + _left(end - start)
        if old <= middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((start, middle))
            start = middle
    if start:
        found.append((start, end))
    return found[::-1]


def prove(leaves: Iterable[bytes], ranges: Sequence[Range]) -> tuple[bytes, ...]:
    """The roots of ``ranges``, in their order, from one pass over the hashes of all leaves. Raises ValueError where there are
    too few leaves."""
    found: dict[Range, bytes] = {}
    waiting = sorted(ranges, reverse=True)
    edge = Frontier()
    for number, leaf in enumerate(leaves):
        if not waiting:
            break
        start, end = waiting[-1]
        if number >= start:
            edge.append(leaf)
        if number + 1 == end:
            found[waiting.pop()] = edge.root()
            edge = Frontier()
    if waiting:
        raise ValueError(f"there is no leaf {waiting[0][1] - 1}")
    return tuple(found[one] for one in ranges)


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether ``path`` proves the leaf with this hash at ``index`` (from 0) of the tree with ``root`` (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    at, last = index, size - 1
    for other in path:
        if not last:
            return False
        if at & 1 or at == last:
            leaf = node_hash(other, leaf)
            at, last = _to_a_right_child(at, last)
        else:
            leaf = node_hash(leaf, other)
        at, last = at >> 1, last >> 1
    return not last and leaf == root


def verify_consistency(old: int, old_root: bytes, size: int, root: bytes, path: Sequence[bytes]) -> bool:
    """Whether ``path`` proves that the tree with ``root`` begins with the one of ``old`` leaves (RFC 9162, 2.1.4.2). Every tree
    begins with the empty one."""
    if old in (0, size):
        return not path and old_root == (EMPTY if old == 0 else root)
    if not 0 < old < size or not path:
        return False
    hashes = [old_root, *path] if old & (old - 1) == 0 else list(path)
    at, last = old - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    before = after = hashes[0]
    for other in hashes[1:]:
        if not last:
            return False
        if at & 1 or at == last:
            before, after = node_hash(other, before), node_hash(other, after)
            at, last = _to_a_right_child(at, last)
        else:
            after = node_hash(after, other)
        at, last = at >> 1, last >> 1
    return not last and (before, after) == (old_root, root)


def _left(size: int) -> int:
    """The leaves of the left subtree: the largest power of two below ``size``."""
    return 1 << ((size - 1).bit_length() - 1)


def _to_a_right_child(at: int, last: int) -> tuple[int, int]:
    """Up past the levels on which the last leaf has no sibling."""
    while at and not at & 1:
        at, last = at >> 1, last >> 1
    return at, last
