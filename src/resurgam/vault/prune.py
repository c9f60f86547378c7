"""Which packs a prune removes, and which it writes anew: a pure function of what is used of each.

A pack of which nothing is needed goes. One of which a part is needed costs as much to write anew as is needed of it, and gives back
the rest: so those with the largest unneeded share go first, until what stays unneeded is little enough, or enough was copied.
A pack in a cold class goes whole or stays whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

MAX_UNUSED = 0.05
MAX_REPACK = 2 * 10**9


class PackUse(NamedTuple):
    """One pack: its ``size`` as an object, the bytes of all frames ``held`` in it, and of those that are ``needed``. A ``cold`` one
    is never written anew: it would have to be woken, read at a price, and paid for until its minimum of days all the same."""

    name: str
    size: int
    held: int
    needed: int
    cold: bool = False

    @property
    def unused(self) -> int:
        """Bytes of frames that nobody needs."""
        return max(self.held - self.needed, 0)


class Economics(msgspec.Struct, frozen=True, kw_only=True):
    """How hard to try: at most this share of the bytes that stay may be unneeded, at most so many bytes are copied."""

    max_unused: float = MAX_UNUSED
    max_repack: int = MAX_REPACK


class Choice(NamedTuple):
    """Packs to ``remove`` and to ``repack``, by name; bytes that this ``frees`` and ``copies``, and what stays ``unused``."""

    remove: tuple[str, ...]
    repack: tuple[str, ...]
    frees: int
    copies: int
    unused: int


def choose(packs: Iterable[PackUse], economics: Economics) -> Choice:
    """What to do about ``packs``; in time linear in their number but for the sorting."""
    known = list(packs)
    partly = sorted(
        (pack for pack in known if pack.needed and pack.unused and not pack.cold),
        key=lambda pack: (-pack.unused / pack.held, pack.name),
    )
    needed = sum(pack.needed for pack in known)
    unused = sum(pack.unused for pack in partly)
    repack: list[PackUse] = []
    copies = 0
    for pack in partly:
        if unused <= economics.max_unused * (needed + unused):
            break
        if copies + pack.needed <= economics.max_repack:  # a later one may be small enough
            repack.append(pack)
            copies += pack.needed
            unused -= pack.unused
    remove = [pack for pack in known if not pack.needed]
    return Choice(
        remove=tuple(sorted(pack.name for pack in remove)),
        repack=tuple(sorted(pack.name for pack in repack)),
        frees=sum(pack.size for pack in (*remove, *repack)) - copies,
        copies=copies,
        unused=unused,
    )
