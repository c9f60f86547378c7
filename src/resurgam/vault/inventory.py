"""Every chunk of a vault by whose it is, in the one copy that counts: what a prune must know before it lets a copy go.

A point rests on chunks that its own key has stored (or a key in whose place that one came): a writer reuses no others. So a
chunk is known here by its *line*, the oldest of those keys, and by its id. Another's copy stands for none of one's own, else a
stolen host could publish garbage under a known id, and have a prune drop the true chunk for it (P9).

Of several copies in one line, one counts: one that a pruner has copied before the others, then the one that the store received
first. So who steals a key can neither displace what was stored before the theft, nor what a prune has kept of it. Where segments
name different places for a chunk, the packs' own trailers decide, since a segment can be written at any time, and a pack cannot
be changed: what a pack does not say of itself counts last.

Memory is about 100 bytes a chunk, in flat arrays; the work is that of sorting them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resurgam.vault.index import Entries, Place
from resurgam.vault.pack import ENTRY, FRAME, ID
from resurgam.vault.places import Places, Segment

Ids = NDArray[np.uint8]  # n times 32 bytes
_NOTHING = np.empty(0, ENTRY)
_AT_ONCE = 1 << 20


class PackEntry(NamedTuple):
    """A pack as the store lists it."""

    name: str
    size: int
    received: float


class Copies:
    """The chunks of one line, sorted by id; ``needed`` marks them. Each is there once, unless a copy of it lies in a pack that
    sleeps: nobody can tell then which one is true, so all of them stay."""

    def __init__(self, packs: list[str], entries: Entries) -> None:
        self._packs, self.entries = packs, entries
        self._ids = ids_of(entries)
        self._prefixes = prefixes_of(self._ids)
        self.needed = np.zeros(len(entries), np.bool_)

    def rows(self, ids: Ids) -> NDArray[np.int64]:
        """The row of each of ``ids``; -1 for those that are not there."""
        rows = self._prefixes.searchsorted(prefixes_of(ids)).astype(np.int64)
        found = np.full(len(ids), -1, np.int64)
        left = np.flatnonzero(rows < len(self._ids))
        while len(left):
            same = (self._ids[rows[left]] == ids[left]).all(axis=1)
            found[left[same]] = rows[left[same]]
            rows[left] += 1  # another chunk may begin with the same bytes
            left = left[~same]
            left = left[rows[left] < len(self._ids)]
            left = left[self._prefixes[rows[left]] == prefixes_of(ids[left])]
        return found

    def spread(self) -> None:
        """Mark all copies of what is marked."""
        same = np.flatnonzero((self._ids[1:] == self._ids[:-1]).all(axis=1)) + 1
        for row in same.tolist():  # few: none where no pack sleeps
            self.needed[row] |= self.needed[row - 1]

    def place(self, chunk: bytes) -> Place | None:
        """Where ``chunk`` lies, or None."""
        (row,) = self.rows(np.frombuffer(chunk, np.uint8).reshape(1, ID)).tolist()
        if row < 0:
            return None
        entry = self.entries[row]
        pack, offset, stored, raw, kind = (int(entry[name]) for name in ("pack", "offset", "stored", "raw", "kind"))
        return Place(self._packs[pack], offset, stored, raw, kind)


class Inventory:
    """All packs that are there and not swept, and the copies in them. ``held`` are the bytes of all frames of each pack, by its
    ordinal in ``packs``; ``strange`` are packs of which nobody who is believed says what they hold."""

    def __init__(self, places: Places, packs: Mapping[str, PackEntry], line: Callable[[str], str]) -> None:
        self._places, self._known, self._line = places, packs, line
        self._ordinals: dict[str, int] = {}
        self._trailers: dict[str, Segment | None] = {}
        self._said: dict[str, dict[bytes, tuple[int, int]]] = {}
        self.packs: list[str] = []
        parts: dict[str, list[Entries]] = {}
        self.segments: list[tuple[str, str, frozenset[str]]] = []  # name, origin, packs: what a sweep may have to merge
        for found in self._all():
            parts.setdefault(line(found.origin), []).append(self._numbered(found))
        entries = {name: _sorted_claims(np.concatenate(parts.pop(name))) for name in list(parts)}
        self.held = self.by_pack(part for whole in entries.values() for part in _slices(whole))
        self.lines = {name: Copies(self.packs, self._one_each(name, claims)) for name, claims in entries.items()}
        self.strange = sorted(packs.keys() - self._ordinals.keys())

    def copies(self, line: str) -> Copies:
        """The chunks of ``line``; none where it has stored nothing."""
        return self.lines.get(line) or Copies(self.packs, _NOTHING)

    def needed(self) -> NDArray[np.uint64]:
        """The bytes of the frames that are marked, by pack."""
        for line in self.lines.values():
            line.spread()
        return self.by_pack(
            part[marked]
            for line in self.lines.values()
            for part, marked in zip(_slices(line.entries), _slices(line.needed), strict=True)
        )

    def by_pack(self, parts: Iterable[Entries]) -> NDArray[np.uint64]:
        """The bytes of the frames of entries, given some at a time, by pack."""
        held = np.zeros(len(self.packs), np.float64)  # exact: below 2**53
        for part in parts:
            held += np.bincount(part["pack"], weights=part["stored"].astype(np.float64) + FRAME, minlength=len(held))
        return held.astype(np.uint64)

    def wanted(self, packs: Collection[str]) -> dict[str, Entries]:
        """What is marked in each of ``packs``, in the order of its frames."""
        for line in self.lines.values():
            line.spread()
        chosen = np.zeros(len(self.packs), np.bool_)
        chosen[[self._ordinals[pack] for pack in packs if pack in self._ordinals]] = True
        found = np.concatenate(
            [_NOTHING, *(line.entries[line.needed & chosen[line.entries["pack"]]] for line in self.lines.values())]
        )
        found = found[np.lexsort((found["offset"], found["pack"]))]
        ends = (
            np.flatnonzero(np.diff(found["pack"].astype(np.int64), append=-1)) + 1
            if len(found)
            else np.empty(0, np.int64)
        )
        parts = np.split(found, ends[:-1]) if len(found) else []
        return {self.packs[int(part["pack"][0])]: part for part in parts}

    def _all(self) -> Iterator[Segment]:
        for found in self._places.segments():
            self.segments.append((found.name, found.origin, frozenset(found.packs)))
            yield found
        named = {pack for _, _, packs in self.segments for pack in packs}
        for pack in self._known.values():
            if pack.name not in named and (trailer := self._trailer(pack.name)) is not None:
                yield trailer

    def _numbered(self, found: Segment) -> Entries:
        """The entries of a segment that lie in packs that are there, with these packs' ordinals here."""
        room = np.array([self._known[n].size if n in self._known else 0 for n in found.packs], np.uint64)
        ends = found.entries["offset"].astype(np.uint64) + found.entries["stored"] + np.uint64(FRAME)
        entries = found.entries[ends <= room[found.entries["pack"]]] if len(found.entries) else found.entries
        numbers = np.array([self._ordinal(name) for name in found.packs], np.uint32)
        entries = entries.copy()
        entries["pack"] = numbers[entries["pack"]] if len(entries) else 0
        return entries

    def _ordinal(self, pack: str) -> int:
        if pack not in self._known:
            return 0  # of a pack that is not there no entry is left
        if pack not in self._ordinals:
            self._ordinals[pack] = len(self.packs)
            self.packs.append(pack)
        return self._ordinals[pack]

    def _one_each(self, line: str, claims: Entries) -> Entries:
        """Of the places that are claimed for each chunk, the one that counts."""
        ids = ids_of(claims)
        again = np.zeros(len(claims), np.bool_)
        again[1:] = (ids[1:] == ids[:-1]).all(axis=1)
        if not again.any():
            return claims
        keep = ~again
        starts = np.flatnonzero(keep)
        ends = np.append(starts[1:], len(claims))
        several = ends - starts > 1
        for start, end in zip(starts[several].tolist(), ends[several].tolist(), strict=True):
            ranks = {row: self._rank(line, claims[row : row + 1]) for row in range(start, end)}
            asleep = [row for row in ranks if self.packs[int(claims["pack"][row])] in self._places.asleep]
            keep[start] = False
            keep[[*asleep, min(ranks, key=ranks.__getitem__)]] = True
        return claims[keep]

    def _rank(self, line: str, claim: Entries) -> tuple[bool, bool, float, str, int]:
        pack = self.packs[int(claim["pack"][0])]
        trailer = self._trailer(pack)
        place = int(claim["offset"][0]), int(claim["stored"][0])
        true = trailer is not None and self._line(trailer.origin) == line
        true = true and self._in_trailer(pack).get(ids_of(claim).tobytes()) == place
        moved = trailer is not None and trailer.moved
        return not true, not moved, self._known[pack].received, pack, place[0]

    def _trailer(self, pack: str) -> Segment | None:
        if pack not in self._trailers:
            self._trailers[pack] = self._places.trailer(pack, self._known[pack].size)
        return self._trailers[pack]

    def _in_trailer(self, pack: str) -> dict[bytes, tuple[int, int]]:
        if pack not in self._said:
            trailer = self._trailer(pack)
            entries = trailer.entries if trailer is not None else _NOTHING
            places = zip(entries["offset"].tolist(), entries["stored"].tolist(), strict=True)
            self._said[pack] = {chunk.tobytes(): place for chunk, place in zip(ids_of(entries), places, strict=True)}
        return self._said[pack]


def _slices(whole: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """An array some at a time, so that what is computed of it takes little memory."""
    return (whole[start : start + _AT_ONCE] for start in range(0, len(whole), _AT_ONCE))


def ids_of(entries: Entries) -> Ids:
    """The chunk ids of ``entries``."""
    raw = np.ascontiguousarray(entries).view(np.uint8).reshape(len(entries), ENTRY.itemsize)
    return np.ascontiguousarray(raw[:, :ID])


def prefixes_of(ids: Ids) -> NDArray[np.uint64]:
    """The first eight bytes of each id, as numbers that sort as they do."""
    return np.ascontiguousarray(ids[:, :8]).view(">u8").reshape(len(ids)).astype(np.uint64)


def _sorted_claims(entries: Entries) -> Entries:
    """``entries`` by id, then by place, without those that say the same."""
    entries = entries[np.argsort(prefixes_of(ids_of(entries)), kind="stable")]
    prefixes = prefixes_of(ids_of(entries))
    alike = np.zeros(len(entries), np.bool_)
    alike[1:] = prefixes[1:] == prefixes[:-1]
    alike[:-1] |= alike[1:]
    at = np.flatnonzero(alike)
    if not len(at):
        return entries
    crowd = entries[at]  # few, unless segments repeat each other; sorted among themselves they fill the same rows
    words = ids_of(crowd).view(">u8").astype(np.uint64)
    crowd = crowd[np.lexsort((crowd["stored"], crowd["offset"], crowd["pack"], *words.T[::-1]))]
    entries[at] = crowd
    same = np.zeros(len(entries), np.bool_)
    same[1:] = (ids_of(entries)[1:] == ids_of(entries)[:-1]).all(axis=1)
    for field in ("pack", "offset", "stored"):
        same[1:] &= entries[field][1:] == entries[field][:-1]
    return entries[~same]
