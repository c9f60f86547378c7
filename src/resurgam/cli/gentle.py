"""The options by which a verb treats the machine gently: limits, and a priority below that of others."""

from __future__ import annotations

import re
from math import isfinite
from typing import Annotated

import msgspec
import typer

from resurgam import priority
from resurgam.errors import UsageError
from resurgam.model.system import System

GentleOption = Annotated[
    bool | None,
    typer.Option(
        "--gentle/--no-gentle",
        envvar="RESURGAM_GENTLE",
        help="Let others go first, on processors and disks; by default where no terminal is (cron, a timer).",
    ),
]


def finite(value: float | None) -> float | None:
    """``value``, for which no range but this is a bar where it is none (NaN) or no limit. Raises BadParameter."""
    if value is not None and not isfinite(value):
        raise typer.BadParameter(f"{value} is no limit.")
    return value


LimitReadOption = Annotated[
    float | None,
    typer.Option(
        "--limit-read",
        min=0.001,
        metavar="MB/S",
        callback=finite,
        help="The fastest to read, in 10^6 bytes a second.",
    ),
]
LimitCpuOption = Annotated[
    str | None,
    typer.Option(
        "--limit-cpu", metavar="SHARE", help="The most processor time to use: 50% or 0.5 is half of one core."
    ),
]


def gentle(wanted: bool | None) -> bool:
    """Whether to let others go first: as was said, else where nobody waits at a terminal."""
    return priority.unattended() if wanted is None else wanted


def limited(system: System, read: float | None, cpu: str | None) -> System:
    """``system`` with the limits that were given in place of its manifest's. Raises UsageError."""
    limits = system.limits
    if read is not None:
        limits = msgspec.structs.replace(limits, read_mb_s=read)
    if cpu is not None:
        limits = msgspec.structs.replace(limits, cpu=_processors(cpu))
    return msgspec.structs.replace(system, limits=limits)


def _processors(words: str) -> float:
    share = re.fullmatch(r"([0-9]*\.?[0-9]+)(%?)", words.strip())
    processors = float(share[1]) / (100 if share[2] else 1) if share else 0.0
    if not 0.001 <= processors <= 4096:
        raise UsageError(
            f"{words!r} is no share of the processors.",
            untouched="Nothing was done.",
            next_step="Write 50% or 0.5 for half of one core, 150% for one and a half.",
        )
    return processors
