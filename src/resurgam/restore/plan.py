"""What a restore is going to do, as a value that is printed before anything happens (P10). Nothing here touches the world.

Components come by stage (``restore.stages``), and in a stage in the order in which they need each other: what others are derived
from or read comes first, so that a restore that is cut off has the foundations. ``derived_from`` may not go round in a circle;
``reads`` may (two services that read each other are a fact, not a fault), and a disaster is no time to refuse over it: then
``derived_from`` alone decides.
"""

from __future__ import annotations

from collections.abc import Callable
from graphlib import CycleError, TopologicalSorter

import msgspec

from resurgam.drivers.base import Drivers
from resurgam.errors import IntegrityError, ManifestError, MissingExtra
from resurgam.model.plan import Plan, Step
from resurgam.model.point import Particulars, PointBody, Snapshot
from resurgam.model.system import Component, System
from resurgam.restore.stages import stages
from resurgam.restore.state import Restored


def plan_restore(
    body: PointBody,
    particulars: Particulars,
    target: str,
    *,
    only: tuple[str, ...] = (),
    earlier: Restored | None = None,
) -> Plan:
    """The steps of a restore of ``body``, or ``only`` some components, into ``target``; ``earlier`` is a finished restore of the
    same system, from whose measured seconds the RTO is estimated.

    Raises IntegrityError where the point lacks a component of its own system, ManifestError for a circle.
    """
    snapshots = _snapshots(body, particulars.system)
    order = [name for name in restore_order(particulars.system) if not only or name in only]
    steps = [
        Step(
            verb="write",
            what=f"{name} ({snapshots[name].driver}) to {target}.partial-*/{name}",
            undo="erase the partial folder",
            bytes=snapshots[name].bytes,
        )
        for name in order
    ]
    steps.append(Step(verb="rename", what=f"{target}.partial-* to {target}", undo=f"erase {target}"))  # P5: last
    return Plan(
        title=f"Restore point {body.id} of {body.system} into {target}",
        steps=tuple(steps),
        seconds=estimate([snapshots[name] for name in order], earlier),
    )


def restore_order(system: System) -> tuple[str, ...]:
    """Component names: the hot ones first, each after those it needs, equal ones in the manifest's order. What is needed comes no
    later than who needs it, so the order by stage breaks none.

    Raises ManifestError where ``derived_from`` goes round in a circle.
    """
    stage = stages(system)
    return tuple(sorted(_by_need(system), key=stage.__getitem__))


def _by_need(system: System) -> tuple[str, ...]:
    try:
        return _sorted(system, lambda component: component.derived_from + component.reads)
    except CycleError:
        pass  # perhaps only through `reads`
    try:
        return _sorted(system, lambda component: component.derived_from)
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise ManifestError(
            f"Components of {system.name} are derived from each other in a circle: {circle}.",
            untouched="Nothing was written.",
            next_step="Take one `derived_from` out of resurgam.yaml; the manifest in the point itself never changes.",
        ) from error


def replaceable(system: System, drivers: Drivers) -> System:
    """``system`` without the components of which a restore is a description only (``Traits.describes``): those stay as they are,
    whatever is restored. One whose driver is not installed here is not known to be such a one."""

    def is_described(component: Component) -> bool:
        try:
            return drivers(component.driver).traits.describes
        except (ManifestError, MissingExtra):
            return False

    kept = tuple(component for component in system.components if not is_described(component))
    return msgspec.structs.replace(system, components=kept)


def estimate(snapshots: list[Snapshot], earlier: Restored | None) -> float | None:
    """Seconds that writing ``snapshots`` will take, from what ``earlier`` took: each component at its own rate, one
    that is new at the rate of all. None where nothing was measured."""
    measured = earlier.copies if earlier else {}
    total_bytes = sum(copy.bytes for copy in measured.values())
    total_seconds = sum(copy.seconds for copy in measured.values())
    if not total_bytes or not total_seconds:
        return None
    seconds = 0.0
    for snapshot in snapshots:
        copy = measured.get(snapshot.component)
        own = copy is not None and copy.bytes and copy.seconds
        rate = copy.seconds / copy.bytes if copy is not None and own else total_seconds / total_bytes
        seconds += snapshot.bytes * rate
    judging = max(0.0, earlier.seconds - total_seconds) if earlier else 0.0
    return seconds + judging


def _sorted(system: System, needs: Callable[[Component], tuple[str, ...]]) -> tuple[str, ...]:
    names = {component.name for component in system.components}
    sorter = TopologicalSorter(
        {component.name: [name for name in needs(component) if name in names] for component in system.components}
    )
    sorter.prepare()
    order: list[str] = []
    position = {component.name: index for index, component in enumerate(system.components)}
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=position.__getitem__)
        order += ready
        sorter.done(*ready)
    return tuple(order)


def _snapshots(body: PointBody, system: System) -> dict[str, Snapshot]:
    snapshots = {snapshot.component: snapshot for snapshot in body.snapshots}
    missing = [component.name for component in system.components if component.name not in snapshots]
    if missing:
        raise IntegrityError(
            f"Point {body.id} has no snapshot of {', '.join(missing)}, which its own system names.",
            untouched="Nothing was written.",
            next_step="Choose another point with `resurgam points`, and run `resurgam vault check`.",
        )
    return snapshots
