"""From a point's description of an environment to a virtual environment like it, and to a table of how like it is.

    read      environment.json of the point's component
    make      ``INTO.partial-ID`` with an interpreter of the captured version, exactly the captured packages (see ``installing``)
    compare   the driver reads the new environment as it read the old one: interpreter, every package by digest, machine
    become    one rename, last (P5); where a package is missing nothing appears at INTO, unless that was asked for

The judgement is the worst line's. *Different*: another interpreter, or a package that is missing or not the same by digest.
*Inconclusive*: something that no restore brings back, or another machine beneath, both of which may change what a model
answers; only its probes can tell. *Identical* is said of what is compared here, and of nothing else.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from enum import StrEnum

import msgspec

from resurgam.clock import Clock
from resurgam.drivers.base import Blob
from resurgam.drivers.environment import EnvironmentDriver, captured
from resurgam.drivers.environment_form import ENVIRONMENT, Environment, Package, decoded
from resurgam.errors import Ambiguous, NotFound
from resurgam.model.plan import Plan, Step
from resurgam.model.point import Particulars, PointBody
from resurgam.model.system import Component
from resurgam.model.verdict import Judgement
from resurgam.restore import installing
from resurgam.restore.run import claimed, require_target, sweep_partial
from resurgam.restore.switch import fsync_folder, outside
from resurgam.vault.repository import Repository

MAX_SHOWN = 12  # CPU features named in a line


class Likeness(StrEnum):
    """How one thing came back."""

    EQUAL = "equal"
    DIFFERS = "differs"
    MISSING = "missing"
    EXTRA = "extra"
    ELSEWHERE = "differs beneath"  # of the machine: not this environment's to restore
    LOST = "cannot be restored"


_JUDGED = {
    Likeness.EQUAL: Judgement.IDENTICAL,
    Likeness.ELSEWHERE: Judgement.INCONCLUSIVE,
    Likeness.LOST: Judgement.INCONCLUSIVE,
    Likeness.DIFFERS: Judgement.DIFFERENT,
    Likeness.MISSING: Judgement.DIFFERENT,
    Likeness.EXTRA: Judgement.DIFFERENT,
}


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One compared thing: as it was captured, and as it is here."""

    what: str
    captured: str
    here: str
    likeness: Likeness
    why: str = ""


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. ``into`` is None where nothing was put in place; ``installer`` is the program that fetched the packages."""

    point: str
    component: str
    into: str | None
    installer: str
    judgement: Judgement
    lines: tuple[Line, ...]
    seconds: float


def described(
    repository: Repository, body: PointBody, particulars: Particulars, name: str | None
) -> tuple[Component, Environment]:
    """The component (the only environment where ``name`` is None) and its description in the point.

    Raises NotFound, Ambiguous, Denied without a reader's key, IntegrityError.
    """
    kind = EnvironmentDriver.kind
    found = [c for c in particulars.system.components if c.driver == kind and name in (None, c.name)]
    if len(found) != 1:
        raise (Ambiguous if found else NotFound)(
            f"Point {body.id} has {len(found) or 'no'} components of the driver {kind}"
            f"{f' called {name}' if name else ''}.",
            untouched="Nothing was made.",
            next_step=f"Name one with --component: {', '.join(c.name for c in found)}."
            if found
            else "Declare one (docs/drivers/environment.md) and capture again.",
        )
    for item in repository.snapshot(body, found[0].name).items():
        if isinstance(item, Blob) and item.path == ENVIRONMENT:
            return found[0], decoded(item.read())
    raise NotFound(
        f"The snapshot of {found[0].name} in point {body.id} holds no environment.json.",
        untouched="Nothing was made.",
        next_step="Run `resurgam vault check`, or choose another point.",
    )


def plan(environment: Environment, into: str, python: str) -> Plan:
    """The steps, before any is taken (P10)."""
    wanted, unfetchable = installing.sorted_out(environment)
    steps = [
        Step(verb="make", what=f"a virtual environment of {python} at {into}.partial-*", undo="erase it"),
        Step(
            verb="install", what=f"{len(wanted)} packages at exactly their versions, without dependencies beside them"
        ),
        *(Step(verb="leave", what=f"{p.name} {p.version}: {p.origin} from {p.url}") for p in unfetchable),
        Step(verb="compare", what="interpreter, packages by digest, and machine with what was captured"),
        Step(verb="rename", what=f"{into}.partial-* to {into}", undo=f"erase {into}"),  # P5: last
    ]
    return Plan(title=f"Rebuild the environment of Python {environment.interpreter.version}", steps=tuple(steps))


def rebuild(
    point: str,
    component: Component,
    environment: Environment,
    into: str,
    python: str,
    particulars: Particulars,
    clock: Clock,
    *,
    incomplete: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Rebuilt:
    """Make, compare, put in place; see the module's docstring. ``incomplete`` puts it in place though packages are missing.

    Raises TargetRefused, MissingExtra where there is no installer, and what the file system raises; ``into`` is whole or
    not there.
    """
    into = os.path.abspath(into)
    require_target(into, particulars.system)
    installer = installing.installer(python)
    began = clock.monotonic()
    partial = f"{into}.partial-{secrets.token_hex(8)}"
    try:
        sweep_partial(into)
        with claimed(partial):
            failures = installing.make(environment, python, installer, partial, into, tell)
            tell("comparing")
            made = captured(Component(name=component.name, driver=component.driver, location=partial))
            lines = tuple(compare(environment, made, failures))
            whole = not any(line.likeness is Likeness.MISSING for line in lines)
            if whole or incomplete:
                _become(partial, into)
    except OSError as error:
        raise outside(error, f"build {partial}") from error
    return Rebuilt(
        point=point,
        component=component.name,
        into=into if whole or incomplete else None,
        installer=" ".join(installer.command),
        judgement=max(_JUDGED[line.likeness] for line in lines),
        lines=lines,
        seconds=clock.monotonic() - began,
    )


def compare(was: Environment, made: Environment, failures: dict[str, str]) -> Iterator[Line]:
    """Every compared thing, equal ones too. ``failures`` says of packages by name why they could not be installed."""
    for field in ("version", "implementation", "platform", "build", "digest"):
        a, b = (str(getattr(environment.interpreter, field)) for environment in (was, made))
        if a:
            worse = Likeness.ELSEWHERE if field in ("build", "digest", "platform") else Likeness.DIFFERS
            yield _line(f"interpreter {field}", a, b, worse)
    yield from _packages(was, made, failures)
    yield from _machine(was, made)
    for lost in was.cannot_be_restored:
        yield Line(what=lost.what, captured="", here="", likeness=Likeness.LOST, why=lost.why)


def _packages(was: Environment, made: Environment, failures: dict[str, str]) -> Iterator[Line]:
    here = {package.name: package for package in made.packages}
    wanted, _ = installing.sorted_out(was)
    fetchable = {package.name for package in wanted}
    for package in was.packages:
        found = here.pop(package.name, None)
        if found is not None:
            same = (package.version, package.digest) == (found.version, found.digest)
            likeness = Likeness.EQUAL if same and not found.changed_count else Likeness.DIFFERS
            yield Line(what=package.name, captured=_short(package), here=_short(found), likeness=likeness)
        elif package.name in fetchable:
            why = failures.get(package.name, "")
            yield Line(what=package.name, captured=_short(package), here="", likeness=Likeness.MISSING, why=why)
    for package in here.values():
        yield Line(what=package.name, captured="", here=_short(package), likeness=Likeness.EXTRA)


def _machine(was: Environment, made: Environment) -> Iterator[Line]:
    a, b = was.machine, made.machine
    for field in ("system", "architecture", "libc", "distribution", "cpu", "cores", "gpus", "gpu_driver"):
        left, right = (getattr(machine, field) for machine in (a, b))
        was_told, is_told = (", ".join(side) if isinstance(side, tuple) else str(side) for side in (left, right))
        yield _line(f"machine {field}", was_told, is_told, Likeness.ELSEWHERE)
    lacks, more = set(a.cpu_flags) - set(b.cpu_flags), set(b.cpu_flags) - set(a.cpu_flags)
    likeness = Likeness.ELSEWHERE if lacks or more else Likeness.EQUAL
    yield Line(
        what="machine CPU features",
        captured=_few(lacks) if lacks or more else f"{len(a.cpu_flags)} features",
        here=_few(more) if lacks or more else f"{len(b.cpu_flags)} features",
        likeness=likeness,
        why="each side names what the other lacks" if lacks or more else "",
    )


def _line(what: str, was: str, here: str, worse: Likeness) -> Line:
    return Line(what=what, captured=was, here=here, likeness=Likeness.EQUAL if was == here else worse)


def _short(package: Package) -> str:
    edited = f", {package.changed_count} files edited" if package.changed_count else ""
    return f"{package.version} ({(package.digest or 'no RECORD')[:12]}{edited})"


def _few(names: set[str]) -> str:
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return " ".join(sorted(names)[:MAX_SHOWN]) + more


def _become(partial: str, into: str) -> None:
    """P5: the last move. An empty folder gives way, anything else does not."""
    os.rename(partial, into)
    fsync_folder(os.path.dirname(into))
