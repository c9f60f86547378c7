"""Following the log: is it the one that was seen and signed before, whole, and in its order?

``follow`` goes through the entries once, from the first or from where this host stopped the last time, and takes each into the
Merkle tree. Whenever the tree has a size of which somebody said what its root is (a checkpoint in the vault, one that a
witness kept, this host's memory), the two are compared. Memory is O(log n) hashes and the heads to compare.

It believes no entry: that, and what they announce, is ``vault.audit``'s.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from enum import StrEnum

import msgspec
from blake3 import blake3

from resurgam.errors import NotFound
from resurgam.stores.base import Entry, Store
from resurgam.vault.log import entries, object_name
from resurgam.vault.logmemory import Seen
from resurgam.vault.merkle import leaf_hash


class Kind(StrEnum):
    """What an audit can find."""

    GAP = "gap"  # an entry, or a role table, is missing among others
    ROLLED_BACK = "rolled back"  # the log is shorter than it was
    FORKED = "forked"  # the log is another than was seen or signed
    EXCHANGED = "exchanged"  # an entry is not the one that the next one follows
    NOT_BELIEVED = "not believed"  # nobody who may has signed it, or it stands where it does not belong
    GONE = "gone"  # it was announced, and is not there
    ALTERED = "altered"  # it was announced with other bytes
    REPLAYED = "replayed"  # the same record lies in another place
    UNLOGGED = "unlogged"  # nobody announced it: no error by itself (P1)
    DISOWNED = "disowned"  # its key was removed: known, and nobody believes it
    NOT_COVERED = "not covered"  # no checkpoint says yet what the log holds there


NOT_TO_BE_SIGNED = frozenset({Kind.GAP, Kind.ROLLED_BACK, Kind.FORKED})  # nor to be remembered


THIS_HOST = "this host"  # whose word it is that a host's memory gives


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was found: of what kind, at which object, and what exactly."""

    kind: Kind
    object: str
    what: str


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody said the log's first ``size`` entries are; ``whose`` word it is, for people."""

    size: int
    root: bytes
    whose: str


class Trail:
    """One way through a log. After ``follow``, ``seen`` is the log as it was found, as far as it is without a gap, and ``agreed``
    are the heads that say the same of it."""

    def __init__(self, store: Store, heads: Iterable[Head], start: Seen | None = None) -> None:
        self._store = store
        self._heads: dict[int, list[Head]] = defaultdict(list)
        for head in heads:
            self._heads[head.size].append(head)
        self._start = start or Seen()
        self._edge = self._start.edge()
        self._last = self._start.digest
        self.findings: list[Finding] = []
        self.agreed: list[Head] = []

    @property
    def began(self) -> int:
        """How many entries were not read, since they were seen before."""
        return self._start.size

    @property
    def seen(self) -> Seen:
        """The log as far as it was followed."""
        return Seen(size=self._edge.size, peaks=tuple(self._edge.peaks), digest=self._last)

    def follow(self) -> Iterator[tuple[int, Entry, bytes, str]]:
        """Each entry with its number, its bytes, and the digest of the one before it (empty where that is missing)."""
        self._compare()
        self._begin_where_it_was_left()
        expected = 1
        for number, entry in entries(self._store):
            if not number:
                self._find(Kind.NOT_BELIEVED, entry.name, "it lies in the log, and its name is no number of an entry")
                continue
            if number > expected:
                self._missing(expected, number)
            expected = number + 1
            if number > self._start.size:
                data = self._store.get(entry.name)
                previous = self._last if number == self._edge.size + 1 else ""
                self._take(number, data)
                yield number, entry, data, previous
        self._end(expected - 1)

    def _take(self, number: int, data: bytes) -> None:
        if number == self._edge.size + 1:  # else behind a gap: no tree goes on there
            self._edge.append(leaf_hash(data))
            self._last = blake3(data).hexdigest()
            self._compare()

    def _begin_where_it_was_left(self) -> None:
        """The last entry that was seen is there, and is the same."""
        if not self._start.size:
            return
        name = object_name(self._start.size)
        try:
            data = self._store.get(name)
        except NotFound:
            return  # said at the end: the log is shorter
        if blake3(data).hexdigest() != self._start.digest:
            self._find(Kind.FORKED, name, "it is another entry than the one that this host saw")

    def _compare(self) -> None:
        for head in self._heads.pop(self._edge.size, ()):
            if head.root == self._edge.root():
                self.agreed.append(head)
            else:
                what = f"of {head.size} entries, the log holds others than {head.whose} says"
                self._find(Kind.FORKED, head.whose, what)

    def _missing(self, first: int, following: int) -> None:
        last = following - 1
        through = f" to {object_name(last)}" if last > first else ""
        self._find(Kind.GAP, object_name(first), f"missing{through}, while {object_name(following)} is there")

    def _end(self, last: int) -> None:
        if last < self._start.size:
            what = f"the log ends with entry {last}, and this host saw {self._start.size}"
            self._find(Kind.ROLLED_BACK, THIS_HOST, what)
        for size, heads in sorted(self._heads.items()):
            for head in heads if size > self._edge.size else ():
                what = f"the log has {self._edge.size} entries in a row, and had {size}, {head.whose} says"
                self._find(Kind.ROLLED_BACK, head.whose, what)

    def _find(self, kind: Kind, name: str, what: str) -> None:
        self.findings.append(Finding(kind=kind, object=name, what=what))
