"""Proof on a schedule: one point that nobody judged yet, within a time, with nobody there.

    choose     the newest sealed point that is to be judged, neither quarantined nor with a history that cannot be believed
    verify     into a folder of this host's notes; when the time is over it is cut off as by Ctrl-C
    remove     that folder, once there is a verdict

A run that is cut off records nothing: half of the answers are no verdict (P4). Copies that were whole by then stay, and the next
run asks them where they are, if they are still what was restored; a half-built restore goes, and starts over. Copies of points
that need no proof any more are removed first. One such run at a time and system: the second says Busy.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from types import FrameType

from resurgam.errors import LimitExceeded
from resurgam.model.verdict import Judgement
from resurgam.restore import stage
from resurgam.restore.verify import Proof
from resurgam.vault.host import told
from resurgam.vault.known import each_state
from resurgam.vault.records import RecordType
from resurgam.vault.repository import Repository, Sealed

FOLDER = "unproven"  # among this host's notes
AGAIN = 5.0  # seconds until an alarm that nobody heard rings again


def newest_unproven(repository: Repository, system: str | None) -> Sealed | None:
    """The newest point that nobody judged yet, of ``system`` or of all; None where each was. A first proof that was inconclusive
    and left a baseline is half of one: a probe that no witness took is judged by that, so such a point is taken once more."""
    with closing(each_state(repository, repository.points(system)[::-1])) as stand:
        for sealed, state in stand:
            if state.quarantined is not None or state.damaged is not None:
                continue
            if state.verdict is None or (state.verdict is Judgement.INCONCLUSIVE and _judged_once(repository, sealed)):
                return sealed
    return None


def _judged_once(repository: Repository, sealed: Sealed) -> bool:
    kinds = [record.type for record in repository.records(sealed.body.id)]
    return kinds.count(RecordType.VERDICT) == 1 and RecordType.BASELINE in kinds


def prove(sealed: Sealed, notes: str, within: float | None, verify: Callable[[str], Proof]) -> Proof:
    """Have ``verify`` judge ``sealed`` in a folder below ``notes``, in at most ``within`` seconds; None is without an end.

    Raises LimitExceeded when the time is over, Busy, and what ``verify`` raises.
    """
    with stage.locked(notes, "prove"):
        directory = os.path.join(notes, FOLDER, sealed.body.id)
        _clear(notes, keep=sealed.body.id)
        try:
            with _at_most(within) if within is not None else nullcontext():
                proof = verify(directory)
        except _TimeOver:
            # It may have rung while the block was left, or while what was half built was being removed.
            signal.setitimer(signal.ITIMER_REAL, 0)
            _clear(notes, keep=sealed.body.id)
            raise _too_short(sealed, directory, within or 0.0) from None
        shutil.rmtree(directory, ignore_errors=True)
        return replace(proof, directory=None)


def clear(notes: str) -> None:
    """Remove what earlier runs kept, where nothing is left to prove. Raises Busy, Denied."""
    with stage.locked(notes, "prove"):
        _clear(notes)


class _TimeOver(BaseException):
    """Not for anybody to catch on the way, as KeyboardInterrupt is not: what is under way is cleaned up and left."""


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise _TimeOver in the block once ``seconds`` are over. For the main thread."""

    def over(_number: int, _frame: FrameType | None) -> None:
        raise _TimeOver

    before = signal.signal(signal.SIGALRM, over)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:  # also where it rang while it was turned off: it rings again, and must not when this is over
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _clear(notes: str, keep: str = "") -> None:
    folder = os.path.join(notes, FOLDER)
    with told(folder):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for name in os.listdir(folder):
            if name != keep:
                shutil.rmtree(os.path.join(folder, name), ignore_errors=True)


def _too_short(sealed: Sealed, directory: str, within: float) -> LimitExceeded:
    kept = os.path.isdir(directory)
    return LimitExceeded(
        f"Point {sealed.body.id} could not be judged within {within:g} s.",
        untouched="No verdict was recorded; "
        + (f"its whole copies stay in {directory}." if kept else "its copies were not whole, and are gone."),
        next_step="The same command goes on with them." if kept else "Give it more time: the restore starts over.",
    )
