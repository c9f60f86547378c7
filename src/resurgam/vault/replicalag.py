"""How far a replica is behind: what would be lost if the primary were gone now.

A replica lags by the age of the oldest sealed point that is not there, by the clock of the primary's store: its RPO. Points come
last, so a point that is there was whole there when it came. That what came before it is there still is asked by name and size; that
it is what it was, ``vault check`` and ``replicate run --verify`` tell. Where something is withheld, runs have put down which keys
of sessions belong there; else all do. Nothing of a lag is known of a place that does not answer: it counts as behind (P12).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from resurgam.stores.abreast import each
from resurgam.stores.base import Entry, Store
from resurgam.vault.naming import POINT_NAME
from resurgam.vault.pack import HEADER, placement_of
from resurgam.vault.replicaplan import SESSIONS, Copy, Stage
from resurgam.vault.replicas import OWN, Place
from resurgam.vault.replicate import look
from resurgam.vault.replicatimes import told_times
from resurgam.vault.repository import Repository


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """How one place stands. ``points`` of the promised ones are there, ``missing`` are not; ``bytes`` are to be sent. What is
    ``lost`` came before points that are there, and is not there itself, or not at its size: those may not restore. ``ahead`` are
    points and the last of the log that only that place has: they were taken from the primary, or it went on alone. ``seconds`` is
    its lag, None where it is not known, for the reason that ``silent`` tells."""

    place: str
    location: str
    region: str
    objective: float
    points: int = 0
    missing: tuple[str, ...] = ()
    bytes: int = 0
    lost: tuple[str, ...] = ()
    ahead: tuple[str, ...] = ()
    withheld: int = 0
    seconds: float | None = None
    silent: str = ""

    @property
    def behind(self) -> bool:
        """Whether its objective is not met, or what is there does not fit the primary."""
        return self.seconds is None or self.seconds > self.objective or bool(self.lost or self.ahead)


def unknown(place: Place, why: str) -> Lag:
    """Of a place that does not answer."""
    return Lag(place=place.name, location=place.location, region=place.region, objective=place.lag, silent=why)


def lag(near: Repository, far: Store, place: Place, now: float) -> Lag:
    """How ``place``, whose store is ``far``, stands at ``now`` (seconds since 1970). Raises Unreachable, Denied."""
    copy = look(near, far)
    promised = {sealed.body.id: sealed for sealed in near.points()}
    lacking = {entry.name.removeprefix("points/") for entry in copy.stages[Stage.POINTS].entries}
    there = [entry for entry in far.list("points/") if POINT_NAME.fullmatch(entry.name)]
    shown = (promised[name].received for e in there if (name := e.name.removeprefix("points/")) in promised)
    here = {entry.name for entry in near.store.list("points/")}  # after the replica: what came meanwhile is not ahead
    ahead = [entry.name for entry in there if entry.name not in here] + [copy.ahead] * bool(copy.ahead)
    missing = [sealed for name, sealed in promised.items() if name in lacking]
    times = told_times(far, [entry.name for entry in far.list(f"{OWN}{place.name}/")])
    older = [*_older_stages(copy), *_keys(near, far, times.received)]
    packs = list(allowed(near, place, copy.stages[Stage.PACKS].entries))
    others = sum(part.bytes for stage, part in copy.stages.items() if stage is not Stage.PACKS)
    return Lag(
        place=place.name,
        location=place.location,
        region=place.region,
        objective=place.lag,
        points=len(promised) - len(missing),
        missing=tuple(sealed.body.id for sealed in missing),
        bytes=others + sum(entry.size for entry in packs),
        lost=(*_before(max(shown, default=0.0), [*packs, *older]), *copy.differing, *times.damaged),
        ahead=tuple(ahead),
        withheld=len(copy.stages[Stage.PACKS].entries) - len(packs),
        seconds=max((now - sealed.received for sealed in missing), default=0.0),
    )


def _before(moment: float, entries: Iterable[Entry]) -> Iterable[str]:
    return (entry.name for entry in entries if entry.received < moment)


def _older_stages(copy: Copy) -> Iterable[Entry]:
    """What is lacking of the stages that were listed after the points, but for packs: what a point needs was in these listings."""
    stages = (Stage.DOOR, Stage.INDEX, Stage.REST, Stage.PRUNES, Stage.RECORDS)
    return (entry for stage in stages for entry in copy.stages[stage].entries)


def _keys(near: Repository, far: Store, came: Collection[str]) -> Iterable[Entry]:
    """Keys of sessions that are not there: of all, or of those that ``came`` there once, where some are withheld."""
    there = {entry.name for entry in far.list(SESSIONS)}
    missing = (entry for entry in near.store.list(SESSIONS) if entry.name not in there)
    return (entry for entry in missing if entry.name in came or not near.roles.residency)


def metrics(found: Iterable[Lag], vault: str) -> str:
    """The same for Prometheus, in its text format."""
    lines = []
    for name, what in (
        ("lag_seconds", "Age of the oldest sealed point that is not at the replica."),
        ("lag_objective_seconds", "How far it may lag."),
        ("missing_points", "Promised points that are not there."),
        ("missing_bytes", "Bytes that are to be sent."),
        ("reachable", "Whether it answers."),
        ("behind", "Whether its objective is not met."),
    ):
        lines += [f"# HELP resurgam_replica_{name} {what}", f"# TYPE resurgam_replica_{name} gauge"]
        for one in found:
            value = _value(one, name)
            if value is not None:
                lines.append(f'resurgam_replica_{name}{{vault="{vault}",replica="{one.place}"}} {value:g}')
    return "\n".join(lines) + "\n"


def _value(one: Lag, name: str) -> float | None:
    return {
        "lag_seconds": one.seconds,
        "lag_objective_seconds": one.objective,
        "missing_points": len(one.missing) if not one.silent else None,
        "missing_bytes": one.bytes if not one.silent else None,
        "reachable": float(not one.silent),
        "behind": float(one.behind),
    }[name]


def allowed(near: Repository, place: Place, packs: Iterable[Entry]) -> Iterable[Entry]:
    """Those of ``packs`` that may lie at ``place``, by their headers."""
    if not near.roles.residency:
        return packs
    known = list(packs)
    headers = each(near.store, lambda entry: near.store.get(entry.name, 0, HEADER), known)
    return [
        e for e, header in zip(known, headers, strict=True) if placement_of(header, near.vault).may_go_to(place.region)
    ]
