"""One case: a copy, a change, a verdict; and beside it what the oracle and the simpler checks say."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from typing import NamedTuple

import msgspec

from bench.proof import gates, oracle
from bench.proof.changes import Change
from bench.proof.warm import Warm
from bench.proof.world import ROOT, World
from resurgam.model.point import Witness
from resurgam.model.system import Probe
from resurgam.model.verdict import IsolationReport, Judgement, Verdict
from resurgam.proof.judge import AA_RUNS, Yardsticks, judge
from resurgam.proof.observe import observe_repeatedly

LEVELS = {1: "rows", 2: "retrieval", 3: "model", 4: "answers"}
_KINDS = {"sql": 1, "retrieval": 2, "predict": 3}
_NAMES = {"reach": 2, "offer": 1}  # commands that ask for less than an answer


class Outcome(NamedTuple):
    """What came of one case. ``effect`` is the oracle's word: felt, elsewhere, nothing. ``caught`` names the probes that
    differ, ``level`` is the lowest of them (0: none). ``seconds`` are those of asking and judging."""

    system: str
    kind: str
    harmless: bool
    captured: bool
    told: str
    effect: str
    verdict: str
    level: int
    caught: tuple[str, ...]
    counts: bool
    sums: bool
    overlap: bool
    seconds: float

    @property
    def different(self) -> bool:
        """Whether the verdict is *different*: that alone is a detection, and a false alarm where nothing is."""
        return self.verdict == Judgement.DIFFERENT.word


def level_of(probe: Probe) -> int:
    """The level of what a probe asks for: 1 rows, 2 retrieval, 3 a model, 4 answers."""
    return _NAMES.get(probe.name, _KINDS.get(probe.kind, 4))


def run_case(world: World, change: Change, runner: Warm, folder: str) -> Outcome:
    """Lay out a copy in ``folder`` (which is removed afterwards), change it, look, ask, judge."""
    try:
        places = world.laid_out(folder)
        told = _changed(change, runner, folder)
        look = gates.look(places)
        began = time.monotonic()
        verdict = verdict_on(world, places, runner, captured=change.captured)
        seconds = time.monotonic() - began
        seen = world.seen(places, runner)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    # A capture records what it sees: to counts, sums and neighbours, a damage before it is how things are.
    before, known = (look, seen) if change.captured else (world.look, world.healthy)
    caught = caught_by(verdict)
    return Outcome(
        system=world.name, kind=change.kind, harmless=change.harmless, captured=change.captured, told=told,
        effect=oracle.felt(world.name, world.healthy, seen), verdict=verdict.judgement.word,
        level=min((level_of(probe) for probe in world.system.probes if probe.name in caught), default=0), caught=caught,
        counts=gates.counts_alarm(before, look), sums=gates.sums_alarm(before, look),
        overlap=gates.overlap_alarm(known, seen), seconds=round(seconds, 3),
    )  # fmt: skip


def run_alike(world: World, runner: Warm, folder: str) -> Outcome:
    """An A/A run: a copy that nothing happened to is asked and judged."""
    try:
        places = world.laid_out(folder)
        began = time.monotonic()
        verdict = verdict_on(world, places, runner)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Outcome(
        system=world.name, kind="A/A", harmless=True, captured=False, told="", effect="nothing",
        verdict=verdict.judgement.word, level=0, caught=caught_by(verdict), counts=False, sums=False, overlap=False,
        seconds=round(time.monotonic() - began, 3),
    )  # fmt: skip


def verdict_on(world: World, places: dict[str, str], runner: Warm, *, captured: bool = False) -> Verdict:
    """The real probes, asked of the components at ``places``; the real judge, with the point's own yardsticks.

    ``captured``: these places are the live system's at its capture, so the witness saw the same damage; nobody has proven the point
    yet, and the reference is of an earlier one."""
    began = time.monotonic()
    bound = world.system.bound_to(places)
    runs = observe_repeatedly(bound, bound.probes, runner, AA_RUNS if captured else 1)
    yardsticks = world.yardsticks
    if captured:
        witness = Witness(before=runs[0], after=runs[-1])
        yardsticks = Yardsticks(witness=witness, reference=world.yardsticks.reference)
    return judge(
        world.point, msgspec.structs.replace(world.system), runs, yardsticks,
        isolation=IsolationReport(isolated=True),  # asked without walls, and said so: this bench is about the judge
        first_proof=captured, seconds=time.monotonic() - began,
    )  # fmt: skip


def caught_by(verdict: Verdict) -> tuple[str, ...]:
    """The names of the probes that are different."""
    return tuple(dict.fromkeys(part.name for part in verdict.parts if part.judgement is Judgement.DIFFERENT))


class NotDone(Exception):
    """A change could not be made: the bench is wrong, not the system."""


def _changed(change: Change, runner: Warm, home: str) -> str:
    argv = [sys.executable, "-m", "bench.proof.changes", json.dumps(change), os.path.abspath(home)]
    done = runner.run(argv, env={"PYTHONPATH": ROOT}, timeout=120.0)
    if done.code:
        raise NotDone(f"{change}: {done.errors.decode(errors='replace')}")
    return done.output.decode().strip()
