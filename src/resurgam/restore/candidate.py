"""Whether a restore may take the place of a live system, and the plan of how it would. Looks, and changes nothing.

A restore is a candidate when

* the vault holds a passing verdict, signed, over exactly these copies, and nothing since speaks against the point (P4):
  what the restore's folder says of itself is signed by nobody, and only its refusals are believed;
* point, restore and live system are of one system, with the same components, each of the same kind;
* nothing lies in a copy that its component's options leave out, since nobody has judged that;
* every live place is one whose name can be exchanged.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

from resurgam.drivers.base import Driver
from resurgam.errors import NotFound, NotProven, ResurgamError, TargetRefused
from resurgam.model.plan import Plan, Step
from resurgam.model.system import Component, System
from resurgam.model.verdict import Judgement
from resurgam.restore import carry
from resurgam.restore.intent import Intent, Place
from resurgam.restore.plan import replaceable, restore_order
from resurgam.restore.state import Event, Restored, State, place_of
from resurgam.restore.verify import VerdictBody
from resurgam.vault.records import RecordType
from resurgam.vault.repository import Repository

NOT_JUDGED = "not judged"


def require_proven(restored: Restored, system: System, repository: Repository, *, judged_here: bool = False) -> None:
    """P4: restored is not recovered; the whole decision on what may be promoted stands here.

    ``judged_here``: this process has judged these very copies, and nothing signs it (``verify`` without ``record``).
    Raises NotProven without a signed, passing verdict over these very copies, and for a point that is quarantined or was
    found to behave differently since; TargetRefused for a point of another system; UsageError where the restore's life does
    not lead to a promotion (promoted or undone already, half built); NotFound and IntegrityError of the vault.
    """
    verdict = restored.verdict
    if restored.state in (State.BUILT, State.JUDGED) and (verdict is None or not verdict.judgement.passes):
        word = verdict.judgement.word if verdict else "missing"
        raise _not_proven(f"The verdict over restore {restored.id} of point {restored.point} is {word}.", restored)
    restored.after(Event.PROMOTE)
    sealed = repository.sealed(restored.point)
    if sealed.body.system != system.name:
        raise _unfit(f"point {restored.point} is of system {sealed.body.system}, this is {system.name}")
    if not judged_here and not _is_signed(restored, repository):
        raise _not_proven(f"The vault holds no passing verdict over the copies of restore {restored.id}.", restored)
    state = repository.state(sealed)
    if state.quarantined is not None:
        raise _not_proven(f"Point {restored.point} is quarantined since {state.quarantined}.", restored)
    if state.damaged is not None or not (judged_here or state.may_be_promoted):
        raise _not_proven(f"Point {restored.point} was found to be {state.word} after this restore passed.", restored)


def require_unverified(restored: Restored, system: System, repository: Repository) -> str:
    """What still must hold where the owner asks for no passing verdict; returns how the restore was judged.

    Raises TargetRefused for a point of another system, NotProven for a quarantined one, IntegrityError where its history cannot be
    believed, UsageError where the restore's life does not lead to a promotion.
    """
    restored.after(Event.PROMOTE_UNVERIFIED)
    sealed = repository.sealed(restored.point)
    if sealed.body.system != system.name:
        raise _unfit(f"point {restored.point} is of system {sealed.body.system}, this is {system.name}")
    state = repository.state(sealed)
    if state.quarantined is not None or state.damaged is not None:
        why = (
            f"is quarantined since {state.quarantined}"
            if state.quarantined
            else "has a history that cannot be believed"
        )
        raise _not_proven(f"Point {restored.point} {why}.", restored)
    return restored.verdict.judgement.word if restored.verdict else NOT_JUDGED


def require_unchanged(
    restored: Restored, system: System, place: Place, at: str, driver_for: Callable[[str], Driver]
) -> None:
    """Raises NotProven where what stands ``at`` is not what was restored, and so not what was judged."""
    component = system.component(place.component)
    if driver_for(component.driver).fingerprint(component.bound_to(at)) != restored.copies[place.component].fingerprint:
        raise NotProven(
            f"{at} is not what was judged: component {place.component} has changed since it was restored.",
            untouched="What is live was not touched.",
            next_step="Restore the point again and have that judged; a probe of yours may write to what it reads.",
        )


def moved_on(
    restored: Restored, system: System, only: tuple[str, ...], driver_for: Callable[[str], Driver]
) -> list[str]:
    """Of the components that stay as they are while ``only`` are switched: those that are not as in the point."""
    moved = []
    for component in replaceable(system, driver_for).components:
        if component.name in only:
            continue
        try:
            same = driver_for(component.driver).fingerprint(component) == restored.copies[component.name].fingerprint
        except ResurgamError:  # lost or damaged is not as in the point either
            same = False
        if not same:
            moved.append(component.name)
    return moved


def mixed(moved: list[str]) -> NotProven:
    """The error for components side by side that nobody judged together."""
    return NotProven(
        f"What stays live is not as in the point any more: {', '.join(moved)}.",
        untouched="Nothing was changed.",
        next_step="Promote all components, which were judged together.",
    )


def _is_signed(restored: Restored, repository: Repository) -> bool:
    fingerprints = {name: copy.fingerprint for name, copy in restored.copies.items()}
    bodies = [r.read(VerdictBody) for r in repository.records(restored.point) if r.type is RecordType.VERDICT]
    over_these = [body for body in bodies if (body.restore, body.fingerprints) == (restored.id, fingerprints)]
    return bool(over_these) and Judgement(over_these[-1].judgement).passes


def _not_proven(message: str, restored: Restored) -> NotProven:
    return NotProven(
        message,
        untouched="Nothing was changed.",
        next_step=f"`resurgam show {restored.point}` tells what is known of it, `resurgam points` which points are proven; "
        "`resurgam verify POINT --into FOLDER` makes and judges copies that can be promoted.",
    )


def places(
    system: System,
    directory: str,
    restored: Restored,
    driver_for: Callable[[str], Driver],
    only: tuple[str, ...] = (),
) -> tuple[Place, ...]:
    """Each component's names during the promotion, in dependency order; those of ``only`` where any is named. Raises
    TargetRefused where the restore does not fit the live system, NotProven where a copy holds what nobody judged, NotFound."""
    _require_fits(system, restored)
    order = restore_order(replaceable(system, driver_for))
    require_known(only, order)
    found = []
    for name in order:
        if only and name not in only:
            continue
        live = os.path.realpath(system.component(name).location)  # a link that leads to the live place stays as it is
        copy = place_of(directory, restored.copies[name])
        _require_apart(name, live, directory)
        _require_own(name, copy, directory, restored)
        component = system.component(name)
        driver = driver_for(component.driver)
        carry.require_none(driver, component, copy)
        carried, _ = carry.sorted_out(driver, component, live, copy)
        found.append(
            Place(
                component=name,
                copy=copy,
                live=live,
                partial=f"{live}.partial-{restored.id}",
                before=f"{live}.before-{restored.id}",
                undone=f"{live}.undone-{restored.id}",
                folder=os.path.isdir(live) or os.path.isdir(copy),
                carried=tuple(carried),
            )
        )
    return tuple(found)


def require_known(only: tuple[str, ...], order: tuple[str, ...]) -> None:
    """Raises NotFound where ``only`` names what cannot be switched."""
    unknown = [name for name in only if name not in order]
    if unknown:
        raise NotFound(
            f"No component that can be switched is called {', '.join(unknown)}.",
            untouched="Nothing was changed.",
            next_step=f"There are: {', '.join(order)}.",
        )


def plan(
    system: System,
    directory: str,
    restored: Restored,
    where: tuple[Place, ...],
    driver_for: Callable[[str], Driver],
    *,
    unverified: str = "",
    moved: Sequence[str] = (),
    watch: float = 0.0,
) -> Plan:
    """The promotion as a value to print, to agree to, and to refuse (P10)."""
    fence, reload = system.promotion.fence, system.promotion.reload
    steps = [
        Step(verb="check", what=f"the copies in {directory} are what was judged"),
        *(_staging(place, restored) for place in where),
        *_described(system, restored, driver_for),
        *_staying(system, where, moved, driver_for),
        Step(verb="fence", what=" ".join(fence) or "(none is declared)", undo="run reload" if fence else ""),
        Step(verb="idle", what="no process holds the live paths (those of other users are seen by root only)"),
        *(step for place in where for step in _carrying(system.component(place.component), place, driver_for)),
        *(_switching(place) for place in where),
        Step(
            verb="reload",
            what=" ".join(reload) or "(none is declared)",
            undo="`promote --undo`: fence, switch back, reload",
        ),
        Step(verb="record", what=f"point {restored.point} is live{f', and was {unverified}' if unverified else ''}"),
    ]
    if watch:
        what = f"live is asked for {watch:g} s whether it behaves as the point did, and withdrawn where it does not"
        steps.append(Step(verb="watch", what=what))
    return Plan(
        title=f"Promote {'UNVERIFIED ' if unverified else ''}restore {restored.id} of point {restored.point} over {system.name}",
        steps=tuple(steps),
    )


def undo_plan(system: System, done: Intent) -> Plan:
    """The way back from the promotion ``done``, as a value to print (P10)."""
    fence, reload = system.promotion.fence, system.promotion.reload
    none = "(none is declared)"
    return Plan(
        title=f"Undo promotion {done.id} of point {done.point} over {system.name}",
        steps=(
            Step(verb="fence", what=" ".join(fence) or none, undo="run reload" if fence else ""),
            Step(verb="idle", what="no process holds the live paths (those of other users are seen by root only)"),
            *(_switching_back(place) for place in reversed(done.places)),
            Step(verb="reload", what=" ".join(reload) or none),
            Step(verb="record", what=f"what was live before point {done.point} is live again"),
        ),
    )


def _described(system: System, restored: Restored, driver_for: Callable[[str], Driver]) -> Iterator[Step]:
    described = restored.copies.keys() - {component.name for component in replaceable(system, driver_for).components}
    for name in sorted(described):
        yield Step(
            verb="leave", what=f"{system.component(name).location}: the point describes {name} and does not hold it"
        )


def _staying(
    system: System,
    where: tuple[Place, ...],
    moved: Sequence[str],
    driver_for: Callable[[str], Driver],
) -> Iterator[Step]:
    switched = {place.component for place in where}
    for component in replaceable(system, driver_for).components:
        if component.name not in switched:
            now = (
                "is NOT as in the point, and nobody judged the two together"
                if component.name in moved
                else "is as in the point"
            )
            yield Step(verb="leave", what=f"{component.location}: {component.name} stays live, and {now}")


def _staging(place: Place, restored: Restored) -> Step:
    size = restored.copies[place.component].bytes
    return Step(verb="stage", what=f"{place.copy} to {place.partial}", undo="bring it back", bytes=size)


def _carrying(component: Component, place: Place, driver_for: Callable[[str], Driver]) -> Iterator[Step]:
    carried, stays = carry.sorted_out(driver_for(component.driver), component, place.live, place.copy)
    if carried:
        what = f"what the options of {component.name} leave out, from {place.live}: {carry.shown(carried)}"
        yield Step(verb="carry", what=what, undo="remove the copies")
    if stays:
        what = f"with {place.before} stays what is left out of folders that the point lacks: {carry.shown(stays)}"
        yield Step(verb="leave", what=what, undo="it comes back with an undo")


def _switching(place: Place) -> Step:
    kept = f"what is live stays as {place.before}" if os.path.lexists(place.live) else "it is lost now"
    return Step(verb="switch", what=f"{place.live} ({kept})", undo="exchange again")


def _switching_back(place: Place) -> Step:
    back = (
        f"{place.before} becomes {place.live}"
        if os.path.lexists(place.before)
        else f"{place.live} goes, as it was lost"
    )
    return Step(verb="switch", what=f"{back} (what is live stays as {place.undone})", undo="exchange again")


def _require_fits(system: System, restored: Restored) -> None:
    live = {component.name: component for component in system.components}
    if restored.system != system.name:
        wrong = f"it is a restore of system {restored.system}, this is {system.name}"
    elif restored.copies.keys() != live.keys():
        wrong = f"only one of the two has {', '.join(sorted(restored.copies.keys() ^ live.keys()))}"
    else:
        other = [name for name, copy in restored.copies.items() if copy.driver != live[name].driver]
        wrong = f"the live manifest has another driver for {', '.join(other)}" if other else ""
    if wrong:
        raise _unfit(wrong)


def _unfit(wrong: str) -> TargetRefused:
    return TargetRefused(  # P1: never components of different points side by side
        f"The restore does not fit the live system: {wrong}.",
        untouched="Nothing was changed.",
        next_step="Promote with the resurgam.yaml that the point was taken with.",
    )


def _require_apart(name: str, location: str, directory: str) -> None:
    real = os.path.realpath(directory)
    if os.path.ismount(location):
        wrong = f"{location} is a mount point, and a mount cannot be exchanged; declare a folder inside it"
    elif f"{location}/".startswith(f"{real}/") or f"{real}/".startswith(f"{location}/"):
        wrong = f"{location} and the restore in {directory} lie within each other"
    else:
        return
    raise TargetRefused(
        f"Component {name} cannot be switched: {wrong}.",
        untouched="Nothing was changed.",
        next_step="Change its location in resurgam.yaml, or restore into another folder.",
    )


def _require_own(name: str, copy: str, directory: str, restored: Restored) -> None:
    """The copies were writable for the commands that judged them: a link would lead the promotion out of the restore."""
    if os.path.realpath(copy) != os.path.join(os.path.realpath(directory), restored.copies[name].place):
        raise NotProven(
            f"{copy} is a link or lies behind one, which no restore makes there.",
            untouched="Nothing was changed.",
            next_step="Restore the point again, and look at what the probes of component " + name + " do.",
        )
