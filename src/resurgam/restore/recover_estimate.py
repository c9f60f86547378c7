"""How long a recovery will take, from what earlier runs on this host took; what was never measured is assumed, and said to be.

Each verification and recovery leaves a line in this host's notes: bytes and seconds of the restore, of the judging, of the
switch. The estimate takes the median of each, the restore's by the byte. The notes can be deleted (P3).
"""

from __future__ import annotations

import os
from statistics import median

import msgspec

from resurgam.errors import IntegrityError
from resurgam.model.codec import from_json, to_json
from resurgam.restore.state import Restored, write_atomically

FILE = "recoveries.json"
KEPT = 20  # runs that are remembered
ASSUMED_RATE = 30e6  # bytes a second of a restore, where none was measured
ASSUMED_JUDGING = 60.0  # seconds
ASSUMED_SWITCH = 5.0  # seconds, the owner's commands counted in


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One measured run; seconds. ``switch`` is from the first staging to the end of the reload, None where nothing was switched."""

    bytes: int
    restore: float
    judge: float
    switch: float | None = None


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds that each part is going to take. ``runs`` is how many were measured, ``assumed`` names the parts that never were."""

    restore: float
    judge: float
    switch: float
    watch: float
    runs: int
    assumed: tuple[str, ...] = ()

    @property
    def total(self) -> float:
        """From now until clients work on the restored system; the watch comes after."""
        return self.restore + self.judge + self.switch


def measured(folder: str) -> list[Run]:
    """The runs that this host remembers, oldest first."""
    try:
        with open(os.path.join(folder, FILE), "rb") as file:
            return from_json(file.read(), list[Run], what="the notes on recoveries")
    except (FileNotFoundError, IntegrityError):
        return []  # torn notes are as good as none


def remember(folder: str, run: Run) -> None:
    """Add a run to this host's notes. Raises StoreFull, Denied."""
    write_atomically(os.path.join(folder, FILE), to_json([*measured(folder), run][-KEPT:]))


def run_of(restored: Restored, switch: float | None = None) -> Run:
    """What a judged restore took."""
    restore = sum(copy.seconds for copy in restored.copies.values())
    size = sum(copy.bytes for copy in restored.copies.values())
    return Run(bytes=size, restore=restore, judge=max(0.0, restored.seconds - restore), switch=switch)


def estimate(size: int, runs: list[Run], watch: float) -> Estimate:
    """Of a recovery that restores ``size`` bytes and then watches for ``watch`` seconds."""
    rates = [run.restore / run.bytes for run in runs if run.bytes and run.restore]
    switches = [run.switch for run in runs if run.switch is not None]
    assumed = [name for name, known in (("restore", rates), ("judge", runs), ("switch", switches)) if not known]
    return Estimate(
        restore=size * (median(rates) if rates else 1 / ASSUMED_RATE),
        judge=median(run.judge for run in runs) if runs else ASSUMED_JUDGING,
        switch=median(switches) if switches else ASSUMED_SWITCH,
        watch=watch,
        runs=len(runs),
        assumed=tuple(assumed),
    )
