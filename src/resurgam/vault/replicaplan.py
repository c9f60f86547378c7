"""What a replica lacks, and in which order it gets it. Values only: listings in, a plan out.

A replica is written in the order in which the vault was (docs/format.md section 2), so that at every moment it is a sound vault for
the points that it shows (P1)::

    door        role tables, index keys, lists of places        with these it can be opened
    packs       each after the keys of its sessions
    index       segments
    rest        leases, policies, approvals, checks             none of them shows a point
    prunes      each in its own order: an end comes after what it says was moved
    records     before the points that they are about: no point is shown without what is known of it
    points      oldest first                                    P1: last of what a restore needs
    log         announces
    witness     checkpoints of the log

The primary is *listed* the other way round: what a point needs was durable before it, so it stands in a listing that is made later.
Two listings are compared by name and size. What is only at the replica is nothing to worry about but for the log: an entry that
the primary has no more was taken away there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import Enum
from typing import Final, NamedTuple

from resurgam.stores.base import Entry
from resurgam.vault import prunes

SESSIONS: Final = "keys/session-"


class Stage(Enum):
    """Objects that go together, by how their names begin; in the order of copying."""

    DOOR = ("roles/", "keys/index", "replicas/")
    PACKS = ("packs/",)
    INDEX = ("index/",)
    REST = ("leases/", "retention/", "approvals/", "checks/")
    PRUNES = (prunes.PREFIX,)
    RECORDS = ("records/",)
    POINTS = ("points/",)
    LOG = ("log/",)
    WITNESS = ("checkpoints/",)


# What waits where something is damaged that points may need: all that names it, shows a new point, or lets go of an old copy.
SHOWING: Final = frozenset({Stage.INDEX, Stage.PRUNES, Stage.RECORDS, Stage.POINTS, Stage.LOG, Stage.WITNESS})
# What goes one by one: a prune's end after its plan, a point after the one before it, and of the log always a beginning.
IN_ORDER: Final = frozenset({Stage.PRUNES, Stage.POINTS, Stage.LOG})
_STEPS: Final = {f"/{what}": step for step, what in enumerate(prunes.OBJECTS)}


class Lacking(NamedTuple):
    """What a replica lacks of one stage, in the order of copying; names that stand there with another size; and the last name in
    each of the two listings, empty where there is none."""

    entries: tuple[Entry, ...]
    differing: tuple[str, ...]
    last_here: str = ""
    last_there: str = ""

    @property
    def bytes(self) -> int:
        """Of what is lacking."""
        return sum(entry.size for entry in self.entries)


def lacking(stage: Stage, here: Iterable[Entry], there: Iterable[Entry], gone: Collection[str] = ()) -> Lacking:
    """What is ``here`` and not ``there``, both sorted by name, but for what is ``gone``: a sweep removes it, or has."""
    wanted: list[Entry] = []
    differing: list[str] = []
    last = ["", ""]
    for ours, theirs in _side_by_side(here, there):
        last = [ours.name if ours else last[0], theirs.name if theirs else last[1]]
        if ours is None or ours.name in gone:
            continue
        if theirs is None:
            wanted.append(ours)
        elif theirs.size != ours.size:
            differing.append(ours.name)
    return Lacking(tuple(sorted(wanted, key=lambda entry: _order(stage, entry))), tuple(differing), *last)


def _order(stage: Stage, entry: Entry) -> tuple[object, ...]:
    if stage in (Stage.PACKS, Stage.POINTS):
        return entry.received, entry.name
    if stage is Stage.PRUNES:
        folder, slash, what = entry.name.rpartition("/")
        return folder, _STEPS.get(slash + what, len(_STEPS)), what
    return (entry.name,)


def _side_by_side(here: Iterable[Entry], there: Iterable[Entry]) -> Iterator[tuple[Entry | None, Entry | None]]:
    """Entries of both by name; listings are sorted, so neither is held whole."""
    ours, theirs = iter(here), iter(there)
    one, other = next(ours, None), next(theirs, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one.name < other.name):
            yield one, None
            one = next(ours, None)
        elif one is None or other.name < one.name:
            yield None, other
            other = next(theirs, None)
        else:
            yield one, other
            one, other = next(ours, None), next(theirs, None)


class Copy(NamedTuple):
    """A plan to copy: what is lacking, by stage."""

    stages: Mapping[Stage, Lacking]

    @property
    def bytes(self) -> int:
        """Of everything that is lacking; some of it may be withheld."""
        return sum(stage.bytes for stage in self.stages.values())

    @property
    def objects(self) -> int:
        """How many objects that are."""
        return sum(len(stage.entries) for stage in self.stages.values())

    @property
    def differing(self) -> tuple[str, ...]:
        """Names that stand for two different objects."""
        return tuple(name for stage in self.stages.values() for name in stage.differing)

    @property
    def ahead(self) -> str:
        """The last entry of the log at the replica, where the primary has none of that number; empty where all is well."""
        log = self.stages[Stage.LOG]
        return log.last_there if log.last_there > log.last_here else ""
