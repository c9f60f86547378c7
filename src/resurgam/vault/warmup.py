"""Waking what a restore needs of sleeping packs: look, plan, ask, come back.

    needed     the packs that hold the contents of some components, found with the index key
    look       which of them sleep, are waking, or are awake
    plan       what to ask for, by when all is there, and what that costs: pure, to be printed first (P10)
    ask        have them woken; what was asked for before is not asked again

All of it may be stopped anywhere and given again: the store itself remembers what was asked, and a pack that is awake stays so for
the days that were asked for. Pages never sleep (``sink``), so that what is needed can be told while all contents do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
import numpy as np

from resurgam.errors import Archived, UsageError
from resurgam.model.placement import COLD
from resurgam.model.point import PointBody
from resurgam.model.system import System
from resurgam.stores.abreast import each
from resurgam.stores.archive import HOURS, SLEEPING, Archives, Speed, Stored, Wakefulness, classes_of
from resurgam.stores.base import Store
from resurgam.vault.cost import Estimate, Held, reading
from resurgam.vault.needs import needs_of
from resurgam.vault.prices import Prices
from resurgam.vault.repository import Repository
from resurgam.vault.retention_words import counted

DAYS = 7  # that woken packs stay awake, where nobody says otherwise
_HOUR = 3600.0


class Sleeper(NamedTuple):
    """A pack in a class that sleeps, and how it is now."""

    pack: str
    size: int
    stored: Stored

    @property
    def name(self) -> str:
        """Its object."""
        return f"packs/{self.pack[:2]}/{self.pack}"


class Asked(msgspec.Struct, frozen=True):
    """When a pack was asked for, in seconds since 1970, and at which speed."""

    at: float
    speed: Speed


class WarmUp(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done before ``point`` can be restored. ``ask`` are the packs to be woken at ``speed``, for ``days``; what is
    ``asleep``, ``waking`` and ``awake`` is counted by storage class. ``by`` is when all is there at the latest, in seconds since
    1970; None where all is awake."""

    point: str
    speed: Speed
    days: int
    ask: tuple[str, ...]
    asleep: dict[str, Held]
    waking: dict[str, Held]
    awake: dict[str, Held]
    by: float | None
    cost: Estimate | None = None

    @property
    def ready(self) -> bool:
        """Whether everything can be read now."""
        return self.by is None


def needed(repository: Repository, body: PointBody, components: Collection[str] = ()) -> set[str]:
    """The packs that hold what ``components`` of a point need; of all components where none is named. Raises Denied without the
    index key."""
    wanted = tuple(s for s in body.snapshots if not components or s.component in components)
    sealed = replace(repository.sealed(body.id), body=msgspec.structs.replace(body, snapshots=wanted))
    needs = needs_of(repository, [(sealed, ())])
    return {needs.packs[ordinal] for ordinal in np.unique(needs.entries["pack"]).tolist()}


def look(store: Store, packs: Collection[str]) -> list[Sleeper]:
    """Those of ``packs`` that lie in classes that sleep, each with how it is. One request for each of them, beside a listing."""
    if not isinstance(store, Archives):
        return []
    listed = [
        (entry.name.rpartition("/")[2], entry)
        for entry, storage_class in classes_of(store, "packs/")
        if storage_class in SLEEPING
    ]
    wanted = [(pack, entry) for pack, entry in listed if pack in packs]
    states = each(store, lambda one: store.state(one[1].name), wanted)
    return [Sleeper(pack, entry.size, state) for (pack, entry), state in zip(wanted, states, strict=True)]


def plan(
    point: str,
    sleepers: Sequence[Sleeper],
    speed: Speed,
    days: int,
    now: float,
    asked: Mapping[str, Asked] | None = None,
    prices: Prices | None = None,
) -> WarmUp:
    """What to ask for. ``asked`` says when packs were asked for before, and how, where that is known: those are there so many hours
    later; of others that are waking, it may have been just now, and at the slowest speed.

    Raises UsageError where a class cannot be woken at that speed.
    """
    by_state = {state: [one for one in sleepers if one.stored.state is state] for state in Wakefulness}
    due = [now + _hours(one, speed, prices) * _HOUR for one in by_state[Wakefulness.ASLEEP]]
    for one in by_state[Wakefulness.WAKING]:
        # Every class that sleeps can be woken at the slowest speed.
        before = (asked or {}).get(one.pack) or Asked(now, Speed.BULK)
        due.append(max(before.at + _hours(one, before.speed, prices) * _HOUR, now))
    asleep = _counted(by_state[Wakefulness.ASLEEP])
    return WarmUp(
        point=point,
        speed=speed,
        days=days,
        ask=tuple(one.name for one in by_state[Wakefulness.ASLEEP]),
        asleep=asleep,
        waking=_counted(by_state[Wakefulness.WAKING]),
        awake=_counted(by_state[Wakefulness.READY]),
        by=max(due, default=None),
        cost=reading("warm-up", asleep, prices, speed) if prices is not None else None,
    )


def ask(store: Store, wanted: WarmUp) -> None:
    """Ask for everything that the plan names. Raises Unreachable, Denied; given again it goes on."""
    assert isinstance(store, Archives) or not wanted.ask, "only such a store has sleepers"
    if isinstance(store, Archives):
        for _ in each(store, lambda name: store.warm(name, wanted.days, wanted.speed), wanted.ask):
            pass


def not_yet(wanted: WarmUp) -> Archived:
    """The error of a restore that must wait, with the time to come back."""
    assert wanted.by is not None
    waiting = sum(held.objects for held in (*wanted.asleep.values(), *wanted.waking.values()))
    error = Archived(
        f"{counted(waiting, 'pack')} of point {wanted.point} will be awake by {at(wanted.by)} at the latest.",
        untouched="Nothing was restored.",
        next_step=f"Give the same command again then; what is awake stays so for {counted(wanted.days, 'day')}.",
    )
    error.transient = True
    return error


def require_awake(repository: Repository, body: PointBody, system: System, components: Collection[str]) -> None:
    """Raises Archived where contents of ``components`` sleep: before anything is written, and not in the middle of it.

    Asks only where the point's own manifest places something cold; what else sleeps is told when it is read.
    """
    cold = {component.name for component in system.components if component.tier == COLD}
    wanted = cold.intersection(components)
    if not wanted or system.vault.cold not in SLEEPING or not isinstance(repository.store, Archives):
        return
    sleepers = [
        one
        for one in look(repository.store, needed(repository, body, wanted))
        if one.stored.state is not Wakefulness.READY
    ]
    if sleepers:
        size = sum(one.size for one in sleepers)
        raise Archived(
            f"{counted(len(sleepers), 'pack')} of {size:,} bytes sleep, which hold contents of {', '.join(sorted(wanted))}.",
            untouched="Nothing was restored.",
            next_step=f"`resurgam restore {body.id} --into DIR --warm-up` wakes them, and says when they will be there. "
            "`--component` restores others without them.",
        )


def _hours(one: Sleeper, speed: Speed, prices: Prices | None) -> float:
    storage_class = one.stored.storage_class
    told = prices.classes.get(storage_class) if prices is not None else None
    if told is not None and speed in told.warm_up:
        return float(told.warm_up[speed].hours)
    if (storage_class, speed) not in HOURS:
        possible = [other.value for name, other in HOURS if name == storage_class]
        raise UsageError(
            f"Objects of the class {storage_class} cannot be woken at {speed} speed.",
            untouched="Nothing was asked for.",
            next_step=f"Give --speed {' or '.join(possible)}.",
        )
    return HOURS[storage_class, speed]


def _counted(sleepers: Iterable[Sleeper]) -> dict[str, Held]:
    found: dict[str, Held] = {}
    for one in sleepers:
        before = found.get(one.stored.storage_class, Held())
        found[one.stored.storage_class] = Held(objects=before.objects + 1, bytes=before.bytes + one.size)
    return found


def at(seconds: float) -> str:
    """A time for people."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
