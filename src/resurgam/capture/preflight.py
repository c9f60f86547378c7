"""What a capture will need, cost and cause, told before it is run. Reads, and changes nothing anywhere.

    each component: driver there? reachable? how big? permissions? which locks, for how long? what load?
    the system:     keys, vault and its space, sandbox, what no probe reads, references that are not set

The answers about a store come from its driver (``inspect``, ``Traits``), about permissions from the kernel. What cannot be seen
from here, such as how long a writer is ready to wait for a lock, is said to be unknown.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping

import msgspec
from msgspec.structs import replace

from resurgam.capture import barriers
from resurgam.capture.bucket_rights import lacking, lacking_for_role
from resurgam.capture.permissions import Missing, missing
from resurgam.drivers.base import Driver, Facts, Freeze, Queries, Traits
from resurgam.drivers.files_listing import excluded_by
from resurgam.errors import ResurgamError
from resurgam.model.system import REFERENCE, Component, Compression, Consistency, Isolation, Json, Limits, System
from resurgam.stores.location import is_url
from resurgam.stores.lock import Bucket, RoleBound
from resurgam.stores.registry import open_store
from resurgam.vault.keyring import Keyring

ASSUMED_BYTES_PER_SECOND = 150e6  # a plain disk; replaced as soon as the caller knows this vault's speed
# What a processor takes in of databases whose rows are told, the dearest; of files and models it is two to four times as much.
ASSUMED_BYTES_PER_PROCESSOR_SECOND = 100e6


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """Something that will stop a capture, and what to do about it (P12)."""

    what: str
    next_step: str


class ComponentReport(msgspec.Struct, frozen=True, kw_only=True):
    """One component. ``effect`` says in words which locks and what load a capture causes; None is unknown."""

    name: str
    driver: str
    location: str
    reachable: bool
    facts: Facts = {}
    bytes: int | None = None
    seconds: float | None = None
    effect: str = ""
    missing: tuple[Missing, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    warnings: tuple[str, ...] = ()


class VaultReport(msgspec.Struct, frozen=True, kw_only=True):
    """The vault's place; a bucket does not tell what is ``free``.

    ``needed`` is what a first capture takes at most; later ones take what changed (P11). ``compression`` is the manifest's word."""

    path: str
    reachable: bool
    free: int | None
    needed: int
    compression: str = Compression.BALANCED
    missing: tuple[Missing, ...] = ()
    troubles: tuple[Trouble, ...] = ()


class KeysReport(msgspec.Struct, frozen=True, kw_only=True):
    """This host's keys: whether it can capture, and whether it could also read what it captured (P9)."""

    path: str
    can_capture: bool
    can_read: bool
    troubles: tuple[Trouble, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """``ok``: a capture can be run as things stand. ``seconds`` assumes ``bytes_per_second`` (measured, or a plain disk's)."""

    system: str
    ok: bool
    components: tuple[ComponentReport, ...]
    vault: VaultReport
    keys: KeysReport
    isolated: bool | None
    bytes: int
    seconds: float
    bytes_per_second: float
    rate_is_measured: bool
    warnings: tuple[str, ...] = ()
    barrier: tuple[Trouble, ...] = ()


def preflight(
    system: System,
    driver_for: Callable[[str], Driver],
    *,
    vault_bytes_per_second: float | None = None,
    isolation: Callable[[], tuple[bool, str]] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Report:
    """Look at everything that a capture of ``system`` will touch. ``vault_bytes_per_second`` is the speed of captures into this
    vault as measured before; ``isolation`` says whether namespaces are available, and why not. Errors of the world are in the
    report, not raised.
    """
    rate = _rate(system.limits, vault_bytes_per_second or ASSUMED_BYTES_PER_SECOND)
    components = tuple(_component(c, system, driver_for, rate) for c in system.components)
    total = sum(c.bytes or 0 for c in components)
    vault, keys = _vault(system, total), _keys(system.vault.keys)
    isolated, why = isolation() if isolation else (None, "")
    barrier = tuple(Trouble(what=what, next_step=step) for what, step in barriers.lacking(system))
    blocked = (
        barrier or keys.troubles or vault.troubles or vault.missing or any(c.troubles or c.missing for c in components)
    )
    return Report(
        system=system.name,
        ok=not blocked,
        components=components,
        vault=vault,
        keys=keys,
        isolated=isolated,
        bytes=total,
        seconds=total / rate,
        bytes_per_second=rate,
        rate_is_measured=vault_bytes_per_second is not None,
        warnings=tuple(_warnings(system, isolated, why, os.environ if environ is None else environ)),
        barrier=barrier,
    )


def _rate(limits: Limits, unlimited: float) -> float:
    """Bytes a second, as the ``limits`` let it be."""
    reads = limits.read_mb_s * 1e6 if limits.read_mb_s else unlimited
    works = limits.cpu * ASSUMED_BYTES_PER_PROCESSOR_SECOND if limits.cpu else unlimited
    return min(unlimited, reads, works)


def _component(
    component: Component, system: System, driver_for: Callable[[str], Driver], rate: float
) -> ComponentReport:
    report = ComponentReport(name=component.name, driver=component.driver, location=component.location, reachable=False)
    try:
        driver = driver_for(component.driver)
    except ResurgamError as error:
        return replace(report, troubles=(_trouble(error),))
    absent = tuple(_missing(component, driver.traits))
    try:
        facts = driver.inspect(component)
    except ResurgamError as error:
        return replace(report, missing=absent, troubles=(_trouble(error),))
    size = facts.get("bytes")
    return replace(
        report,
        reachable=True,
        facts=facts,
        bytes=size,
        seconds=size / rate if isinstance(size, int) else None,
        effect=_effect(Freeze(facts.get("freeze", driver.traits.freeze)), driver.traits, system, size),
        missing=absent,
        troubles=tuple(_unanswerable(component, system, driver)),
        warnings=tuple(_component_warnings(component, system, driver.traits)),
    )


def _missing(component: Component, traits: Traits) -> list[Missing]:
    """Permissions at a location that is a path; what the component's options leave out needs none."""
    if not _is_path(component):
        return []
    globs = component.options.get("exclude", ())
    known = isinstance(globs, list | tuple) and all(isinstance(glob, str) for glob in globs)  # else inspect refuses it
    excluded = excluded_by(tuple(globs)) if known else None
    return missing(component.location, write=_locks_through_file(traits), excluded=excluded)


def _effect(freeze: Freeze, traits: Traits, system: System, size: int | None) -> str:
    """The locks and the load in words."""
    most = f"{_freeze(traits, system):g} s at most, then the capture stops and lets go"
    amount = "an unknown number of bytes" if size is None else f"{size:,} bytes"
    pace = f" at {system.limits.read_mb_s:g} MB/s at most" if system.limits.read_mb_s else ""
    match freeze:
        case Freeze.PIN:
            locks = f"Writers wait while the position is noted: milliseconds, {most}. Readers do not wait."
        case Freeze.COPY if not traits.writers_wait:
            locks = f"Nothing is locked: what is small is copied, and the rest is read as it stands: {most}."
        case Freeze.COPY:
            locks = f"Writers wait while a private copy of the {amount} is made: {most}. Readers do not wait."
        case Freeze.LISTING:
            locks = "Nothing is locked; what changes while it is read is read again."
    return f"{locks} Then up to {amount} are read{pace}."


def _component_warnings(component: Component, system: System, traits: Traits) -> Iterator[str]:
    asked = Consistency[component.consistency.upper()]
    if asked > traits.consistency:
        yield (
            f"{asked.word} is asked for, but this driver earns {traits.consistency.word} at best: every point will carry "
            f"a finding. Ask for {traits.consistency.word}, or use a driver that can."
        )
    if _locks_through_file(traits):
        yield (
            "Unknown from here: how long this store's writers wait for its lock (their busy timeout). One that waits less than "
            f"{_freeze(traits, system):g} s may get an error during a freeze: raise it, or lower limits.freeze."
        )


def _unanswerable(component: Component, system: System, driver: Driver) -> Iterator[Trouble]:
    """Invariants are asked through the driver, and not every driver can be asked."""
    if isinstance(driver, Queries):
        return
    for invariant in system.invariants:
        if component.name in {query.partition(":")[0] for query in invariant.queries}:
            yield Trouble(
                what=f"invariant '{invariant.name}' asks '{component.name}', and driver '{component.driver}' answers no queries",
                next_step="Ask a component whose driver can be queried (sqlite), or turn the invariant into a probe.",
            )


def _vault(system: System, needed: int) -> VaultReport:
    path = system.vault.path
    report = _bucket(system, needed) if is_url(path) else _folder(path, needed)
    return replace(report, compression=system.vault.compression)


def _bucket(system: System, needed: int) -> VaultReport:
    """What a bucket answers: whether it is there, holds a vault, and what a capture may not do in it."""
    path, there, troubles = system.vault.path, False, []
    absent: tuple[Missing, ...] = ()
    try:
        store = open_store(path, system.vault.lock, keys=system.vault.keys)
        there = any(True for _ in store.list("roles/"))
        if not there:
            step = "Make one: resurgam vault init. Or correct vault.path."
            troubles.append(Trouble(what=f"There is no vault at {store.describe()}.", next_step=step))
        elif isinstance(store, Bucket):
            absent = tuple(lacking(store))
        elif isinstance(store, RoleBound):
            absent = tuple(lacking_for_role(store))
    except ResurgamError as error:
        troubles.append(_trouble(error))
    return VaultReport(path=path, reachable=there, free=None, needed=needed, missing=absent, troubles=tuple(troubles))


def _folder(path: str, needed: int) -> VaultReport:
    there = os.path.isdir(os.path.join(path, "roles"))  # every vault has its role table
    existing = path
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    free = shutil.disk_usage(existing).free
    troubles = []
    if not there:
        troubles.append(
            Trouble(
                what=f"There is no vault at {path}.",
                next_step="Make one: resurgam vault init. Or mount the disk it is on.",
            )
        )
    if free < needed:
        step = "Free some space, or move the vault to a larger disk; a later capture takes only what changed."
        troubles.append(
            Trouble(what=f"{free:,} bytes are free at {path}; a first capture takes up to {needed:,}", next_step=step)
        )
    absent = tuple(missing(path, write=True)) if there else ()
    return VaultReport(path=path, reachable=there, free=free, needed=needed, missing=absent, troubles=tuple(troubles))


def _keys(path: str) -> KeysReport:
    keyring = Keyring(path)
    can_read = False
    try:
        keyring.signer("capture")
        can_read = keyring.can_read
    except ResurgamError as error:
        return KeysReport(path=path, can_capture=False, can_read=can_read, troubles=(_trouble(error),))
    return KeysReport(path=path, can_capture=True, can_read=can_read)


def _warnings(system: System, isolated: bool | None, why: str, environ: Mapping[str, str]) -> Iterator[str]:
    unprobed = [c.name for c in system.components if not any(c.name in probe.reads for probe in system.probes)]
    if unprobed:
        yield f"No probe reads {', '.join(unprobed)}: a verdict on a restore will be inconclusive (unprobed)."  # P4
    if system.probes and not any(probe.witness for probe in system.probes):
        yield "No probe is a witness: a first proof has nothing to compare a restore with, unless a reference is approved."
    if isolated is False:
        accepted = system.isolation is Isolation.BEST_EFFORT
        outcome = "shown in each verdict, as the manifest accepts" if accepted else "every verdict will be inconclusive"
        yield f"Restores cannot be isolated here ({why}): {outcome}."  # P4, P6
    if across := barriers.unheld(system):
        yield f"No barrier is declared: a freeze may fall between two writes that {', '.join(across)} want together."
    for name in sorted(_references(system)):
        if name not in environ:
            yield f"${{{name}}} is referred to and not set in this environment."
    disk = _device(system.vault.path)
    shared = [c.name for c in system.components if _is_path(c) and disk is not None and _device(c.location) == disk]
    if shared:
        yield f"The vault lies on the same file system as {', '.join(shared)}: losing that disk loses both."


def _references(system: System) -> set[str]:
    """The variables that options and probes' environments refer to; paths were looked up when the manifest was read."""
    values: list[Json] = [*(c.options for c in system.components), *(probe.env for probe in system.probes)]
    found: set[str] = set()
    while values:
        value = values.pop()
        if isinstance(value, str):
            found.update(REFERENCE.findall(value))
        elif isinstance(value, dict):
            values.extend(value.values())
        elif isinstance(value, list | tuple):
            values.extend(value)
    return found


def _locks_through_file(traits: Traits) -> bool:
    """A store that earns transactions from a file holds its writers by the file's own lock, which takes the right to write."""
    return traits.consistency is Consistency.TRANSACTION and traits.freeze is not Freeze.LISTING


def _freeze(traits: Traits, system: System) -> float:
    return min(traits.freeze_limit, system.limits.freeze)


def _is_path(component: Component) -> bool:
    return component.location.startswith("/")


def _device(path: str) -> int | None:
    return os.stat(path).st_dev if os.path.exists(path) else None


def _trouble(error: ResurgamError) -> Trouble:
    return Trouble(what=error.message, next_step=error.next_step)
