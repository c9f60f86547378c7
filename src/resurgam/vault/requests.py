"""How many requests each act on a vault makes of its store: a model, held against stores that count (``tests/unit/test_requests``).

What is counted is what S3 and its like charge for: puts, gets (each range of an object is one), pages of listings, deletes. The
model follows the acts as they are written, object by object; whoever changes how an act speaks to the store changes it here. It is
meant to be right to a quarter: nobody pays less for a guess that is finer than the prices.
"""

from __future__ import annotations

from math import ceil, log2
from typing import Final

import msgspec

from resurgam.vault.ahead import RANGE
from resurgam.vault.pack import PACK_SIZE
from resurgam.vault.reader import AHEAD

PAGE: Final = 1000  # objects in one page of a listing
REMEMBERED: Final = 128  # segments that are read each time before a host remembers them in one file (``places``)
# When the log's end is looked for (``log``): names asked for side by side, of which some are taken back; and parts of a gap.
_LEAPS, _PARTS = 11, 8


class Requests(msgspec.Struct, frozen=True, kw_only=True):
    """Requests, by what is charged for."""

    put: int = 0
    get: int = 0
    list: int = 0
    delete: int = 0

    def __add__(self, other: Requests) -> Requests:
        return Requests(
            put=self.put + other.put,
            get=self.get + other.get,
            list=self.list + other.list,
            delete=self.delete + other.delete,
        )


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """So much of a vault as decides how often it is asked: how many objects of each kind it has. ``domains`` are the shred domains
    that a capture writes to, ``sessions`` those whose keys a restore opens. A store that is ``far`` is asked for more at a time, so
    that less is waited for."""

    points: int = 0
    packs: int = 0
    segments: int = 0
    log: int = 0
    prunes: int = 0
    domains: int = 1
    sessions: int = 1
    far: bool = True


def capture(shape: Shape, new_bytes: int) -> Requests:
    """One capture that adds ``new_bytes`` to the vault: the session's keys, lease, packs, segment, point and announcement."""
    packs = 1 + (ceil(new_bytes / PACK_SIZE) if new_bytes else 0)  # pages and data lie apart
    return Requests(
        put=shape.domains + packs + 4,
        get=4 + _segments(shape) + _last_entry(shape) + 3 * shape.prunes,
        list=8 + _pages(shape.packs),
    )


def restore(shape: Shape, chunks: int, stored: int) -> Requests:
    """One restore of ``chunks`` that have ``stored`` bytes."""
    return Requests(get=_opened(shape) + reading(shape, chunks, stored), list=4 + _pages(shape.packs))


def reading(shape: Shape, chunks: int, stored: int) -> int:
    """Ranges by which ``chunks`` of ``stored`` bytes are read out of packs: neighbours together, which half fill a range where the
    store is far."""
    if shape.far:
        return min(chunks, 2 * ceil(stored / RANGE))
    return min(
        chunks, ceil(2.2 * stored / AHEAD)
    )  # as measured: files are taken by several threads, each into a pack of its own


def prune(shape: Shape, expired: int, removed: int, copied_bytes: int = 0) -> Requests:
    """One prune that lets ``expired`` points and ``removed`` packs go. Each step asks anew what stands, point by point."""
    kept = max(shape.points - expired, 0)
    return Requests(
        put=10 + ceil(copied_bytes / PACK_SIZE),
        get=48 + _last_entry(shape) + 3 * shape.segments + 7 * kept + 6 * expired,
        list=76 + _pages(shape.packs) * 3 + 16 * expired,
        delete=removed + min(shape.segments, removed),
    )


def check(shape: Shape, packs: int, read: int) -> Requests:
    """One check that reads ``packs`` with ``read`` bytes, whole, and remembers it."""
    return Requests(put=2, get=_opened(shape) + 2 * shape.points + max(packs, ceil(read / (8 << 20))), list=20)


def _opened(shape: Shape) -> int:
    """Identity, role table, segments, keys of sessions."""
    return 2 + _segments(shape) + shape.sessions + 3 * shape.prunes


def _segments(shape: Shape) -> int:
    return shape.segments if shape.segments <= REMEMBERED else REMEMBERED // 2


def _last_entry(shape: Shape) -> int:
    """The log's last entry is found by leaps that double, and then by parts of what is left."""
    if not shape.log:
        return 1
    if not shape.far:
        return 2 * ceil(log2(shape.log + 2))
    return _LEAPS + (_PARTS - 1) * ceil(log2(shape.log / 2 + 1.5) / log2(_PARTS))


def _pages(objects: int) -> int:
    return max(ceil(objects / PAGE), 1)
