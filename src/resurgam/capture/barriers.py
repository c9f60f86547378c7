"""The barrier that a manifest declares, held while a capture freezes: a lock file, a pair of commands, or none.

    file       the lock of ``resurgam.barrier``, which the application takes around its writes by ``resurgam.sdk.barrier()``
    commands   ``hold`` returns when no write is between two stores and none will begin; ``release`` lets them go on. A process
               of its own keeps them (``keeper``), so ``release`` runs also where the capture is killed
    none       nothing is held; truths across components then hold only as far as the order of writes makes them

A barrier that is not had within its ``timeout`` ends the capture before anything is frozen (P12).
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from resurgam import barrier as lock
from resurgam.capture import keeper
from resurgam.clock import Clock
from resurgam.errors import LimitExceeded, ResurgamError, Unreachable
from resurgam.model.point import BarrierHeld, Cut, Finding, Severity
from resurgam.model.system import Barrier, System
from resurgam.probes.runner import clean_environment


class Held:
    """What is known of a barrier once it was let go: ``account`` is None where none is declared, ``trouble`` empty where all
    went well."""

    account: BarrierHeld | None = None
    trouble: str = ""


@contextmanager
def held(system: System, clock: Clock) -> Iterator[Held]:
    """Hold the system's barrier, where it has one, and let it go on every way out.

    Raises LimitExceeded where it is not had in time, Unreachable where its command fails, NotFound and Denied where its file
    cannot be used.
    """
    told = Held()
    if system.barrier is None:
        yield told
        return
    began = clock.monotonic()
    with _by_file(system.barrier) if system.barrier.file else _by_command(system, told) as passed:
        had = clock.monotonic()
        yield told
        was_passed = passed.passed() if passed else False
    told.account = BarrierHeld(
        kind="file" if system.barrier.file else "command",
        waited=had - began,
        held=clock.monotonic() - had,
        passed=was_passed,
    )


def findings(system: System, cut: Cut) -> list[Finding]:
    """What the barrier, or its lack, means for truths across components at this cut."""
    warnings = [cut.trouble] if cut.trouble else []
    if cut.barrier and cut.barrier.passed:
        warnings.append(
            "a writer waited for the barrier for longer than its timeout and went on without it: what it wrote to several "
            "stores may be cut apart. Give `barrier(timeout=…)` more, or limits.freeze less"
        )
    found = [Finding(severity=Severity.WARNING, what=what) for what in warnings]
    if across := unheld(system):
        what = (
            "no barrier is declared: a freeze may fall between two writes that belong together, so invariants across "
            f"components ({', '.join(across)}) are kept by the order of writes alone"
        )
        found.append(Finding(severity=Severity.NOTE, what=what))
    return found


def unheld(system: System) -> list[str]:
    """The invariants across components that no barrier keeps whole."""
    across = [invariant.name for invariant in system.invariants if len(invariant.components) > 1]
    return [] if system.barrier else across


def lacking(system: System) -> Iterator[tuple[str, str]]:
    """What of the declared barrier is not there, and so would stop a capture: what is wrong, and what to do."""
    barrier = system.barrier or Barrier()
    if barrier.file and not os.path.isdir(folder := os.path.dirname(barrier.file)):
        yield f"The folder of the barrier's file, {folder}, does not exist", f"Make it: mkdir -p {folder}"
    for command in (barrier.hold, barrier.release):
        if (
            command
            and shutil.which(command[0] if "/" not in command[0] else os.path.join(system.root, command[0])) is None
        ):
            yield (
                f"The barrier's command {command[0]} is not there or cannot be run",
                "Name one that can be, or install it",
            )


def traces(system: System) -> tuple[str, ...]:
    """Every path that Resurgam may have put beside a system's sources, for whoever removes it from there. Nothing else is."""
    return lock.traces(system.barrier.file) if system.barrier and system.barrier.file else ()


@contextmanager
def _by_file(barrier: Barrier) -> Iterator[lock.Exclusive | None]:
    with lock.exclusive(barrier.file, barrier.timeout) as exclusive:
        yield exclusive


@contextmanager
def _by_command(system: System, told: Held) -> Iterator[None]:
    barrier = system.barrier
    assert barrier is not None
    orders = json.dumps({"hold": barrier.hold, "release": barrier.release})
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__, orders],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=system.root or None,
            env=clean_environment(tempfile.gettempdir()),
            start_new_session=True,  # Ctrl-C ends the capture, and not who must release
        )
        failed: ResurgamError | None = None
        try:
            failed = _why_not_held(process, barrier)
            if failed is None:
                yield
        except ResurgamError as error:
            failed = error
        finally:
            told.trouble = _let_go(process, barrier, errors)
    if failed is not None:
        failed.untouched = " ".join(filter(None, (failed.untouched, told.trouble)))
        raise failed


def _why_not_held(process: subprocess.Popen[bytes], barrier: Barrier) -> ResurgamError | None:
    """None once ``hold`` has ended well; else the error to raise when ``release`` has run."""
    assert process.stdout is not None
    untouched = "Nothing was frozen or captured, and barrier.release was run."
    if not select.select([process.stdout], [], [], barrier.timeout)[0]:
        return LimitExceeded(
            f"The command {_shown(barrier.hold)} did not hold the barrier within {barrier.timeout:g} s.",
            untouched=untouched,
            next_step="Raise barrier.timeout in resurgam.yaml, or see what keeps the command waiting.",
        )
    report = json.loads(process.stdout.readline() or b'{"code": -9, "errors": "its keeper was killed"}')
    if report["code"] == 0:
        return None
    return Unreachable(
        f"The command {_shown(barrier.hold)} could not hold the barrier: exit code {report['code']} {report['errors']}".strip(),
        untouched=untouched,
        next_step="Make the command end with 0 when the barrier is held, and run the capture again.",
    )


def _let_go(process: subprocess.Popen[bytes], barrier: Barrier, errors: IO[bytes]) -> str:
    """Let the keeper release; what went wrong in that, or nothing."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(timeout=barrier.timeout + 1)  # a second for the keeper itself
        if process.returncode == 0:
            return ""
        said = f"ended with code {process.returncode}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
        said = f"did not end within {barrier.timeout:g} s and was killed"
    finally:
        process.stdout.close()
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - keeper.KEPT))
    why = errors.read().decode(errors="replace").strip()
    return f"The command {_shown(barrier.release)} {said}: the application may still be held. {why}".strip()


def _shown(command: tuple[str, ...]) -> str:
    return f"`{' '.join(command)}`"
