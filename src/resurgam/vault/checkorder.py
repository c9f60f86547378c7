"""Which packs a check reads, and in which order: a pure function of what is wished and what is remembered.

What was found damaged before is always read again, and first. Then come packs that points need, before garbage; of each, those
that waited longest. So checks that each have little time read everything in turn, and nothing starves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from random import Random

import msgspec

from resurgam.vault.checked import Depth, Memory


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be read. With nothing set, nothing is: the vault is only looked up.

    ``everything`` reads all packs; ``max_age`` those that were not read within so many seconds; ``sample`` packs drawn by chance
    until that share of all bytes; ``max_duration`` ends reading after so many seconds, and alone means those that waited longest;
    ``packs`` are read whatever else. ``depth`` is as deep as the keys here allow, unless given. Packs in cold classes, which are
    dear to read, are read only where they are named or ``cold`` says so.
    """

    everything: bool = False
    max_age: float | None = None
    sample: float | None = None
    max_duration: float | None = None
    packs: frozenset[str] = frozenset()
    depth: Depth | None = None
    cold: bool = False

    @property
    def reads(self) -> bool:
        """Whether any pack is to be read."""
        some = any(wish is not None for wish in (self.max_age, self.sample, self.max_duration))
        return self.everything or some or bool(self.packs)


def due(
    memory: Memory, sizes: Mapping[str, int], needed: Collection[str], wish: Wish, depth: Depth, now: float, rng: Random
) -> list[str]:
    """The packs to read, in order. ``sizes`` are those of the packs of ``memory``, ``needed`` the packs that points need; ``depth``
    is how deep they will be read, ``now`` seconds since 1970."""
    if not wish.reads:
        return []
    read = dict(zip(memory.packs, memory.read(depth), strict=True))
    drawn = _drawn(memory.packs, sizes, wish.sample, rng) if wish.sample is not None else None
    chosen = [
        pack
        for pack in memory.packs
        if wish.everything
        or pack in wish.packs
        or pack in memory.damaged
        or _wished(wish, pack in drawn if drawn is not None else None, read[pack], now)
    ]
    return sorted(chosen, key=lambda pack: (pack not in memory.damaged, pack not in needed, read[pack], pack))


def _wished(wish: Wish, drawn: bool | None, read: float, now: float) -> bool:
    """Old enough, or drawn; any, where neither is asked for and only time is limited."""
    if wish.max_age is None:
        return bool(drawn) if drawn is not None or wish.packs else True
    return bool(drawn) or read < now - wish.max_age


def _drawn(packs: Collection[str], sizes: Mapping[str, int], share: float, rng: Random) -> set[str]:
    """Packs by chance, until they have ``share`` of all bytes; at least one, where there is any."""
    order, wanted = list(packs), share * sum(sizes[pack] for pack in packs)
    rng.shuffle(order)
    drawn: set[str] = set()
    got = 0
    for pack in order:
        if drawn and got >= wanted:
            break
        drawn.add(pack)
        got += sizes[pack]
    return drawn
