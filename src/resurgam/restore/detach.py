"""Taking Resurgam off a host: everything it ever put beside the source, found, shown, and removed (P10).

    the barrier's files        they stand where the manifest says; removed while no writer is inside
    NAME.partial-ID            what a killed restore or promotion left beside a component
    opened copies              of this system, in this host's state
    this host's notes          on this system in this vault: memories, locks, journals of promotions
    private folders            of killed processes, in this host's state and among temporary files

Nothing else is touched. What stays is said with its place: the manifest, the vault, its keys, what a promotion kept of the live
system (``NAME.before-ID``: the owner's data), and folders that somebody named with ``--into``, which only they know.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import msgspec

from resurgam import barrier
from resurgam.clock import Clock
from resurgam.errors import Busy
from resurgam.model.plan import Plan, Step
from resurgam.model.system import System
from resurgam.restore import intent as journal
from resurgam.restore import stage
from resurgam.restore.look import folder_of
from resurgam.vault.host import HostState, state_home
from resurgam.vault.scratch import scratch

WAIT = 2.0  # seconds for writers to leave the barrier
_DAY = 86_400
_ID = r"[0-9a-f]{16}(?:-wal|-shm|-journal)?"
_TEMPORARY = re.compile(r"resurgam-(?:copy-|probe-|sandbox-)?[a-z0-9_]{8}")


class Traces(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, as absolute paths. ``notes`` is the folder of this host's notes, empty where there is none; ``kept`` is what
    stays, in words."""

    system: str
    barrier: tuple[str, ...]
    leftovers: tuple[str, ...]
    opened: str
    notes: str
    temporary: tuple[str, ...]
    kept: tuple[str, ...]


def find(system: System, manifest: str, vault: str, clock: Clock) -> Traces:
    """Look, and change nothing. ``vault`` is the id of the system's vault. Raises Busy where a promotion was cut off."""
    notes = os.path.join(state_home(), vault, system.name)
    if pending := journal.pending(notes):
        raise Busy(
            f"Promotion {pending[0].id} began and did not end.",
            untouched="Nothing was removed.",
            next_step="End it with `resurgam promote --resume`, then detach.",
        )
    opened = folder_of(system.name)
    declared = barrier.traces(system.barrier.file) if system.barrier is not None and system.barrier.file else ()
    return Traces(
        system=system.name,
        barrier=tuple(path for path in declared if os.path.lexists(path)),
        leftovers=tuple(path for kind, path in _beside(system) if kind == "partial"),
        opened=opened if os.path.isdir(opened) else "",
        notes=notes if os.path.isdir(notes) else "",
        temporary=tuple(_abandoned(clock)),
        kept=(
            f"the manifest {os.path.abspath(manifest)}",
            f"the vault {system.vault.path}",
            f"the keys {system.vault.keys}",
            *(f"{path}, what was live before a promotion" for kind, path in _beside(system) if kind != "partial"),
            "folders that you named with --into",
        ),
    )


def plan(traces: Traces) -> Plan:
    """The steps, before any is taken."""
    found = [
        *((path, "barrier; an application that still uses it makes it anew") for path in traces.barrier),
        *((path, "left by a killed restore or promotion") for path in traces.leftovers),
        (traces.opened, "opened copies"),
        (traces.notes, "notes on the system; no promotion can be undone without them"),
        *((path, "private folder of a killed process") for path in traces.temporary),
    ]
    steps = [Step(verb="remove", what=f"{path} ({what})", bytes=_size(path)) for path, what in found if path]
    steps += [Step(verb="keep", what=what) for what in traces.kept]
    return Plan(title=f"Detach {traces.system} from this host", steps=tuple(steps))


def remove(traces: Traces, vault: str) -> None:
    """Do what ``plan`` says. Repeatable: what is gone is no error.

    Raises Busy while a capture or promotion runs, LimitExceeded while a writer stays inside the barrier, Denied.
    """
    with ExitStack() as held:
        if traces.notes:
            held.enter_context(HostState(vault, traces.system).one_capture())
            held.enter_context(stage.locked(traces.notes))
        if traces.barrier:
            barrier.remove(traces.barrier[0].removesuffix(barrier.GATE).removesuffix(barrier.PASSED), WAIT)
        for path in (*traces.leftovers, traces.opened, *traces.temporary):
            if path:
                stage.remove(path)
        with scratch("detach"):
            pass  # it sweeps what killed processes left there before it is made
        if traces.notes:
            stage.remove(traces.notes)  # last: a broken-off detachment is found again by it
    _remove_empty(os.path.dirname(folder_of(traces.system)), os.path.join(state_home(), vault), state_home())


def _beside(system: System) -> Iterator[tuple[str, str]]:
    """What promotions and restores may have left beside components: ``partial``, ``before`` or ``undone``, and the path."""
    for component in system.components:
        live = os.path.realpath(component.location)
        folder, name = os.path.split(live)
        ours = re.compile(re.escape(name) + rf"\.(partial|before|undone)-{_ID}")
        with suppress(FileNotFoundError, NotADirectoryError):
            for found in sorted(os.listdir(folder)):
                if match := ours.fullmatch(found):
                    yield match[1], os.path.join(folder, found)


def _abandoned(clock: Clock) -> Iterator[str]:
    """Our own temporary folders that nobody has used for a day."""
    old = clock.now().timestamp() - _DAY
    home = tempfile.gettempdir()
    for name in filter(_TEMPORARY.fullmatch, sorted(os.listdir(home))):
        path = os.path.join(home, name)
        with suppress(FileNotFoundError):  # its owner was just done with it
            status = os.lstat(path)
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and status.st_mtime < old:
                yield path


def _remove_empty(*folders: str) -> None:
    """Folders that others may still use go only where nothing is in them."""
    home = state_home()
    for folder in (os.path.join(home, "scratch"), *folders):
        with suppress(OSError):  # not empty, or gone: both are right
            os.rmdir(folder)


def _size(path: str) -> int:
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):  # notes come and go while they are counted
                total += os.lstat(os.path.join(folder, name)).st_size
    return total if os.path.isdir(path) else os.lstat(path).st_size
