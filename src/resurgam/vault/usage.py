"""How a vault is used: what lies in it, what captures add, and what acts on it ask of its store. Facts for ``vault.cost``.

    one listing with classes     what is held, what came in the last 30 days, how often anything was done
    the newest point's lists     what a restore reads, and from which classes
    a prune's draft              what no point needs, and how long it must be paid for yet

Nothing is written. What cannot be told from the vault is taken from :class:`Habits`, and what is taken to be so is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from math import inf

import msgspec
import numpy as np

from resurgam.errors import Denied, IntegrityError
from resurgam.stores.abreast import is_far
from resurgam.stores.archive import SLEEPING, Speed, classes_of
from resurgam.stores.base import Entry
from resurgam.stores.lock import may_lock
from resurgam.vault import requests
from resurgam.vault.checked import remembered
from resurgam.vault.cost import MONTH, STANDARD, Act, Early, Facts, Held, by_class
from resurgam.vault.needs import needs_of
from resurgam.vault.pack import FRAME, PACK_SIZE
from resurgam.vault.protected import NEVER
from resurgam.vault.protection_look import ends_of
from resurgam.vault.prunes import Stage
from resurgam.vault.pruning import draft, expiring
from resurgam.vault.repository import Repository, Sealed
from resurgam.vault.requests import Requests, Shape
from resurgam.vault.retention_words import counted

_WINDOW = 30 * 86_400.0  # seconds that are looked back on
_DAY = 86_400.0


class Habits(msgspec.Struct, frozen=True, kw_only=True):
    """How a vault is meant to be used. ``every`` are seconds between two captures, ``drills`` verified restores a month; None: as
    many as in the last 30 days. ``speed`` is how what sleeps is woken."""

    every: float | None = None
    drills: Decimal | None = None
    speed: Speed = Speed.STANDARD

    @property
    def captures(self) -> Decimal | None:
        """How many a month."""
        return None if self.every is None else MONTH * Decimal(_DAY) / Decimal(repr(self.every))


def of_vault(repository: Repository, habits: Habits, now: float) -> Facts:
    """The facts of an open vault; ``now`` in seconds since 1970. Raises Denied without the index key, Unreachable."""
    return _Look(repository, habits, now).facts()


def of_plan(
    sizes: Mapping[str, int],
    added: Mapping[str, int],
    habits: Habits,
    now: float,
    said: Sequence[str],
    far: bool = True,
) -> Facts:
    """The facts of a vault as it will be after its first capture: ``sizes`` are bytes by storage class, ``added`` those that each
    later capture adds, ``said`` what both rest on. ``far`` says that its store is no folder."""
    captures, total = habits.captures or Decimal(0), sum(sizes.values())
    packs = {name: -(-size // PACK_SIZE) for name, size in sizes.items()}
    points = max(round(captures / 2), 1)  # in the middle of the first month
    shape = Shape(
        points=points, packs=sum(packs.values()) + points, segments=points, log=points, domains=3, sessions=3, far=far
    )
    reading = Act(
        what="a drill",
        a_month=habits.drills if habits.drills is not None else Decimal(1),
        requests=_reading(shape, {name: (size >> 20, size) for name, size in sizes.items()}),
        read=dict(sizes),
        woken={name: Held(objects=packs[name], bytes=size) for name, size in sizes.items() if name in SLEEPING},
    )
    return Facts(
        now=now,
        held={name: Held(objects=packs[name], bytes=size) for name, size in sizes.items() if size},
        grows={name: int(size * captures) for name, size in added.items()},
        acts=(
            _capturing(shape, dict(added), captures),
            reading,
            msgspec.structs.replace(reading, what="a restore", a_month=None),
        ),
        speed=habits.speed,
        assumptions=(*said, f"the vault holds one whole capture ({total:,} bytes), as large as what it is of"),
    )


class _Look:
    """One look at a vault; what is taken to be so gathers in ``said``."""

    def __init__(self, repository: Repository, habits: Habits, now: float) -> None:
        self._repository, self._habits, self._now = repository, habits, now
        self.said: list[str] = []
        self._all: list[tuple[Entry, str]] = list(classes_of(repository.store))
        self._packs = {e.name.rpartition("/")[2]: (e, c) for e, c in self._all if e.name.startswith("packs/")}
        self._points = repository.points()
        times = sorted(sealed.received for sealed in self._points) or [now]
        self._since = max(now - _WINDOW, times[0])  # the first capture is no habit
        self._months = Decimal(max(now - self._since, _DAY)) / Decimal(_DAY) / MONTH

    def facts(self) -> Facts:
        """See :func:`of_vault`."""
        shape, added = self._shape(), self._added()
        captures = self._habits.captures
        if captures is None:
            seen = self._in_window("points/")
            captures = seen / self._months
            self.said.append(f"captures go on as in {self._days}: {counted(seen, 'point')}")
        acts = [_capturing(shape, added, captures), *self._pruning(shape), *self._checking(shape)]
        if self._points:
            acts += self._restoring(shape, self._points[-1])
        return Facts(
            now=self._now,
            held=by_class((storage_class, entry.size) for entry, storage_class in self._all),
            grows={name: int(size * captures) for name, size in added.items()},
            acts=tuple(acts),
            early=tuple(self._freeable()),
            speed=self._habits.speed,
            assumptions=tuple(self.said),
        )

    @property
    def _days(self) -> str:
        return counted(max(round(self._months * MONTH), 1), "day")

    def _shape(self) -> Shape:
        def count(prefix: str, end: str = "") -> int:
            return sum(e.name.startswith(prefix) and e.name.endswith(end) for e, _ in self._all)

        sessions = {s.domain for sealed in self._points[-1:] for s in sealed.body.snapshots}
        return Shape(
            points=len(self._points),
            packs=len(self._packs),
            segments=count("index/"),
            log=count("log/"),
            prunes=count("prune/", "/plan"),
            domains=len(sessions | {"default", self._repository.roles.evidence}),
            sessions=count("keys/session-"),
            far=is_far(self._repository.store),
        )

    def _in_window(self, prefix: str, part: str = "") -> int:
        """How many objects of that beginning, with that in their last part, came since the first point and within 30 days."""
        return sum(
            e.name.startswith(prefix) and part in e.name.rpartition("/")[2] and e.received > self._since
            for e, _ in self._all
        )

    def _added(self) -> dict[str, int]:
        """What one capture adds, by class: the mean of what came since the first one, all kinds of objects."""
        since = self._since
        came = by_class((c, e.size) for e, c in self._all if e.received > since)
        captures = max(self._in_window("points/"), 1)
        return {name: held.bytes // captures for name, held in came.items()}

    def _checking(self, shape: Shape) -> list[Act]:
        told = [checked for received, checked in remembered(self._repository)[0] if received > self._since]
        if not told:
            self.said.append(f"nobody checked what lies there in {self._days}, so no check is counted")
            return []
        size = sum(checked.size for checked in told) // len(told)
        asked = requests.check(shape, -(-size // PACK_SIZE), size)
        return [
            Act(what="a check", a_month=len(told) / self._months, requests={STANDARD: asked}, read={STANDARD: size})
        ]

    def _pruning(self, shape: Shape) -> list[Act]:
        prunes = [one for one in self._repository.prunes().all if one.stage is Stage.SWEPT and one.end is not None]
        if not prunes:
            self.said.append("nothing was pruned yet, so no prune is counted")
            return []
        expired = sum(len(one.plan.expire) for one in prunes) // len(prunes)
        gone = sum(len(one.end.gone) for one in prunes if one.end is not None) // len(prunes)
        copied = sum(one.plan.copies for one in prunes) // len(prunes)
        asked = requests.prune(shape, expired, gone, copied)
        return [
            Act(what="a prune", a_month=self._in_window("prune/", "end") / self._months, requests={STANDARD: asked})
        ]

    def _restoring(self, shape: Shape, newest: Sealed) -> list[Act]:
        """A restore of the newest point, and the drills of a month."""
        drills = self._habits.drills
        if drills is None:
            drills = self._in_window("records/", "verdict-") / self._months
            self.said.append(f"drills go on as in {self._days}: {float(drills):.3g} verdicts a month")
        needs = needs_of(self._repository, [(newest, ())])
        read: dict[str, tuple[int, int]] = {}
        asleep: dict[str, set[str]] = {}
        stored = needs.entries["stored"].astype(np.int64) + FRAME
        for ordinal in np.unique(needs.entries["pack"]).tolist():
            pack, here = needs.packs[ordinal], needs.entries["pack"] == ordinal
            storage_class = self._packs[pack][1] if pack in self._packs else STANDARD
            chunks, size = read.get(storage_class, (0, 0))
            read[storage_class] = chunks + int(here.sum()), size + int(stored[here].sum())
            if storage_class in SLEEPING:
                asleep.setdefault(storage_class, set()).add(pack)
        one = Act(
            what="a restore",
            a_month=None,
            requests=_reading(shape, read),
            read={name: size for name, (_, size) in read.items()},
            woken={
                name: Held(objects=len(packs), bytes=sum(self._packs[p][0].size for p in packs))
                for name, packs in asleep.items()
            },
        )
        return [msgspec.structs.replace(one, what="a drill", a_month=drills), one]

    def _freeable(self) -> list[Early]:
        """What a prune would free now."""
        try:
            plan = draft(self._repository, expiring(self._repository)).plan
        except (IntegrityError, Denied) as error:
            self.said.append(f"what a prune could free is not known: {error.message}")
            return []
        going = [self._packs[name] for name in sorted(plan.packs) if name in self._packs]
        ends = self._locked([entry.name for entry, _ in going])
        return [
            Early(
                storage_class=storage_class,
                bytes=entry.size,
                received=entry.received,
                locked=ends.get(entry.name, NEVER),
            )
            for entry, storage_class in going
        ]

    def _locked(self, names: Sequence[str]) -> dict[str, float]:
        """When the lock of each ends, as the store says: what was promised once may have been renewed long after it was put."""
        store = self._repository.store
        if not may_lock(store):
            return {}
        try:
            return ends_of(store, names, None, inf)
        except Denied as error:
            self.said.append(f"until when that is locked is not known: {error.message}")
            return {}


def _capturing(shape: Shape, added: dict[str, int], captures: Decimal) -> Act:
    """Captures, each of which adds so many bytes to each class: what is no data goes to the first."""
    asked = {STANDARD: requests.capture(shape, added.get(STANDARD, 0))}
    for name, size in added.items():
        if name != STANDARD and size:
            asked[name] = Requests(put=-(-size // PACK_SIZE))
    return Act(what="a capture", a_month=captures, requests=asked, read={})


def _reading(shape: Shape, read: Mapping[str, tuple[int, int]]) -> dict[str, Requests]:
    """The requests of a restore that reads so many chunks and bytes of each class."""
    asked = {name: Requests(get=requests.reading(shape, chunks, size)) for name, (chunks, size) in read.items()}
    asked[STANDARD] = requests.restore(shape, *read.get(STANDARD, (0, 0)))
    return asked


def every_word(every: float | None, objective: float | None, told: Callable[[float], str]) -> tuple[float | None, str]:
    """How often is captured: as said, else as the objective asks; and the words for it."""
    if every is not None:
        return every, f"a capture every {told(every)}, as given"
    if objective is not None:
        return objective, f"a capture every {told(objective)}, as objectives.rpo asks for"
    return None, ""
