"""Trees of content-addressed pages: what makes an unchanged part cost nothing, also in metadata (P11).

A tree is a sequence of entries sorted by key, cut into leaf pages where the content says so; the pages' ids, with the first
key and the count of each, are entries of the level above, until one page is left: the root. A changed entry changes its leaf
and the pages above it, and nothing else: the cuts depend on the entries near them only (as in a prolly tree). Two trees are
compared by walking both and stepping over every page whose id stands in both.

Cuts are keyed, since a page's length is visible to whoever sees the packs: a leaf ends after an entry whose keyed digest
has ``LEAF_BITS`` low zero bits, an inner page likewise, and at ``MAX_ENTRIES`` at the latest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import msgspec
from blake3 import blake3

from resurgam.model.codec import from_msgpack, to_msgpack
from resurgam.vault.pack import Kind

LEAF_BITS = 9  # 512 entries on average
MAX_ENTRIES = 4096

Put = Callable[[Kind, bytes], bytes]  # stores a page, returns its id
Get = Callable[[bytes, Kind], bytes]  # reads a page back


class Child(msgspec.Struct, frozen=True, array_like=True):
    """A page as its parent sees it."""

    first: bytes
    page: bytes
    count: int


class Inner(msgspec.Struct, frozen=True, array_like=True):
    """A page of pages; ``level`` 1 stands above leaves."""

    level: int
    children: list[Child]


class Root(msgspec.Struct, frozen=True, array_like=True):
    """Where a tree begins: ``level`` 0 means that ``page`` is a leaf; an empty tree has no page."""

    level: int
    page: bytes
    count: int


EMPTY = Root(0, b"", 0)


def ends_page(key: bytes, seed: bytes) -> bool:
    """Whether a page ends after the entry ``key``: keyed, so that lengths of pages do not tell what lies in them."""
    digest = blake3(key, key=seed).digest(2)
    return not int.from_bytes(digest, "little") & ((1 << LEAF_BITS) - 1)


class TreeBuilder:
    """Grows the inner pages above a sequence of leaves, keeping one open page per level."""

    def __init__(self, kind: Kind, put: Put) -> None:
        self._kind = kind
        self._put = put
        self._levels: list[list[Child]] = []

    def leaf(self, first: bytes, page: bytes, count: int) -> None:
        """A finished leaf whose id is ``page``; leaves come in key order."""
        self._add(0, Child(first, page, count))

    def root(self) -> Root:
        """Close all levels. No leaf may follow."""
        level = 0
        while level < len(self._levels):
            children = self._levels[level]
            above = level + 1 < len(self._levels)
            if not above and len(children) == 1:
                return Root(level, children[0].page, children[0].count)
            if children:
                self._close(level)
            level += 1
        return EMPTY

    def _add(self, level: int, child: Child) -> None:
        if level == len(self._levels):
            self._levels.append([])
        self._levels[level].append(child)
        full = len(self._levels[level]) >= MAX_ENTRIES
        if len(self._levels[level]) > 1 and (full or not (child.page[0] | (child.page[1] & 1))):
            self._close(level)

    def _close(self, level: int) -> None:
        children, self._levels[level] = self._levels[level], []
        page = self._put(self._kind, to_msgpack(Inner(level + 1, children)))
        self._add(level + 1, Child(children[0].first, page, sum(child.count for child in children)))


def leaves(root: Root, kind: Kind, get: Get) -> Iterator[Child]:
    """All leaves of a tree in key order, reading inner pages only."""
    if root.page:
        yield from _descend(Child(b"", root.page, root.count), root.level, kind, get)


def differing(a: Root, b: Root, kind: Kind, get: Get) -> tuple[list[Child], list[Child]]:
    """The leaves that only one of two trees has, reading only inner pages that differ."""
    if a.page == b.page:
        return [], []
    left, right = [Child(b"", a.page, a.count)][: bool(a.page)], [Child(b"", b.page, b.count)][: bool(b.page)]
    for level in range(max(a.level, b.level), 0, -1):
        left = _open(left, level, a.level, kind, get)
        right = _open(right, level, b.level, kind, get)
        if level <= min(a.level, b.level) + 1:
            shared = Counter(c.page for c in left) & Counter(c.page for c in right)
            left, right = _without(left, shared), _without(right, shared)
    return left, right


def _without(children: list[Child], shared: Counter[bytes]) -> list[Child]:
    """``children`` but for so many of each page as both sides have: equal rows without a key fill pages that are equal."""
    left = shared.copy()
    rest = []
    for child in children:
        if left[child.page]:
            left[child.page] -= 1
        else:
            rest.append(child)
    return rest


def _open(children: list[Child], level: int, root_level: int, kind: Kind, get: Get) -> list[Child]:
    if level > root_level:
        return children
    return [inner for child in children for inner in _inner(child.page, kind, get).children]


def _descend(child: Child, level: int, kind: Kind, get: Get) -> Iterator[Child]:
    if level == 0:
        yield child
        return
    for inner in _inner(child.page, kind, get).children:
        yield from _descend(inner, level - 1, kind, get)


def _inner(page: bytes, kind: Kind, get: Get) -> Inner:
    return from_msgpack(get(page, kind), Inner, what=f"page {page.hex()[:16]}")
