"""Until when points are protected, and which locks must be made longer for that: pure functions of values and ``now``.

A store's lock holds an object until a time. A point lasts as long as the first of what it needs to lose its lock:

    its own        ``points/<id>``, and what became known of it: ``records/<id>/``
    packs          with its chunks, also those that it shares with older points, and whose locks are as old as these
    segments       of these packs; where several name a pack, the one that is locked longest
    shared         what every point needs: the vault's identity, keys, role tables, policies, prunes, the list of replicas

Renewed is what a promised point needs, and besides that the log with its checkpoints and the references: nothing that was
said is to be unsaid. Garbage is not, nor what only points need that the policies let go: else no prune would ever get it back.

Which key of a session a pack needs can be told only by who reads it, so every point is said to need them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from resurgam.vault.marking import Node, Step
from resurgam.vault.protected import NEVER, RENEW_BELOW, Protected


@dataclass(frozen=True)
class Reach:
    """What promised points need, by the names of objects. ``needed`` are ordinals of ``packs``; ``segments`` names each segment of
    those with the ordinals of its packs; ``own`` is by point, oldest first; ``besides`` is kept locked and no point rests on it."""

    shared: tuple[str, ...]
    besides: tuple[str, ...]
    own: dict[str, tuple[str, ...]]
    packs: tuple[str, ...]
    needed: tuple[int, ...]
    segments: dict[str, NDArray[np.int64]]
    way: dict[Node, Step]
    trouble: dict[str, str] = field(default_factory=dict)

    def names(self) -> Iterator[str]:
        """All objects that are to be locked, each once."""
        yield from self.shared
        yield from self.besides
        for names in self.own.values():
            yield from names
        yield from (self.packs[ordinal] for ordinal in self.needed)
        yield from self.segments


class Renewal(msgspec.Struct, frozen=True, kw_only=True):
    """A plan: lock each of ``names`` until ``until``. ``kept`` more are locked long enough. ``points`` are as they stand before it,
    ``lapsing`` those that are not renewed, with why; ``trouble`` is what cannot be known by object, with why."""

    until: float
    names: tuple[str, ...]
    kept: int
    points: tuple[Protected, ...]
    lapsing: dict[str, str]
    trouble: dict[str, str]


def plan_renewal(
    reach: Reach,
    ends: Mapping[str, float],
    now: float,
    period: float,
    lapsing: Mapping[str, str],
    below: float = RENEW_BELOW,
) -> Renewal:
    """What to lock for ``period`` seconds from ``now``: all of which less than a share of ``below`` is left. ``ends`` are those of
    locks; what it does not name is not locked."""
    names = tuple(reach.names())
    short = tuple(name for name in names if ends.get(name, NEVER) < now + below * period)
    return Renewal(
        until=now + period,
        names=short,
        kept=len(names) - len(short),
        points=protected(reach, ends),
        lapsing=dict(lapsing),
        trouble=dict(reach.trouble),
    )


def protected(reach: Reach, ends: Mapping[str, float]) -> tuple[Protected, ...]:
    """Until when each point is protected, oldest point first; linear in what was walked."""
    limits = _Limits(reach, ends)
    shared = _first(reach.shared, ends)
    found = []
    for point, names in reach.own.items():
        if why := reach.trouble.get(f"points/{point}"):  # P12: what is gone is under no lock
            found.append(Protected(point=point, until=NEVER, first=f"points/{point}", why=why))
            continue
        until, first = min(shared, _first(names, ends), limits.of(point))
        found.append(Protected(point=point, until=until, first=first))
    return tuple(found)


def _first(names: tuple[str, ...], ends: Mapping[str, float]) -> tuple[float, str]:
    return min(((ends.get(name, NEVER), name) for name in names), default=(np.inf, ""))


class _Limits:
    """For each page and point: the end of the lock that ends first among the packs at or below it, and what it locks."""

    def __init__(self, reach: Reach, ends: Mapping[str, float]) -> None:
        self._way = reach.way
        self._known: dict[Node, tuple[float, int]] = {}
        self._names = list(reach.packs)
        self._ends = np.full(len(reach.packs), np.inf)
        for ordinal in reach.needed:
            self._ends[ordinal] = ends.get(reach.packs[ordinal], NEVER)
        self._by_segments(reach, ends)

    def _by_segments(self, reach: Reach, ends: Mapping[str, float]) -> None:
        """A pack is found as long as one segment that names it is there; one that none names is found by its trailer."""
        best = np.full(len(reach.packs), -np.inf)
        naming = np.full(len(reach.packs), -1)
        for number, (name, ordinals) in enumerate(reach.segments.items()):
            longer = ordinals[best[ordinals] < ends.get(name, NEVER)]
            best[longer], naming[longer] = ends.get(name, NEVER), number
        segments = tuple(reach.segments)
        for ordinal in np.flatnonzero((naming >= 0) & (best < self._ends)).tolist():
            self._ends[ordinal], self._names[ordinal] = best[ordinal], segments[naming[ordinal]]

    def of(self, node: Node) -> tuple[float, str]:
        """Of a page or point, and the object's name."""
        end, ordinal = self._limit(node)
        return end, self._names[ordinal] if ordinal >= 0 else ""

    def _limit(self, node: Node) -> tuple[float, int]:
        if node not in self._known:
            step = self._way.get(node, Step())
            limit = np.inf, -1
            for packs in step.packs:
                weakest = int(packs[np.argmin(self._ends[packs])])
                limit = min(limit, (float(self._ends[weakest]), weakest))
            self._known[node] = min([limit, *(self._limit(below) for below in step.below)])
        return self._known[node]
