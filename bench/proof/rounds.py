"""What a seed draws, as jobs; and their running, by a few workers with a warm server each."""

from __future__ import annotations

import os
import queue
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from bench.proof.cases import Outcome, run_alike, run_case
from bench.proof.changes import HANDBOOK, HELPDESK, Change, draw
from bench.proof.warm import Warm
from bench.proof.world import WORDED, World
from examples.helpdesk.wording import SEED

Job = Callable[[Warm, str], Outcome]
OF_WORDED = ("missing vectors", "swapped embedder", "rebuilt index", "vacuum", "nothing")  # also done to that system
OPENING = "You asked"  # the words of a prompt that its texts begin with


def jobs_of(worlds: dict[str, World], seed: int, faults: int, harmless: int, alike: int) -> list[Job]:
    """All that a seed draws: faults, harmless changes, and A/A runs of each system in turn."""
    facts = {name: worlds[name].facts if name in worlds else _any(worlds).facts for name in (HELPDESK, HANDBOOK)}
    changes = draw(seed, faults, facts, harmless=False) + draw(seed, harmless, facts, harmless=True)
    jobs: list[Job] = []
    for change in changes:
        struck = [worlds[name] for name in worlds if name == change.system or (name == WORDED and _fits_worded(change))]
        jobs += [_case(world, change) for world in struck]
    names = list(worlds)
    jobs += [_alike(worlds[names[number % len(names)]]) for number in range(alike)]
    return jobs


def _any(worlds: dict[str, World]) -> World:
    return next(iter(worlds.values()))


def _fits_worded(change: Change) -> bool:
    opening = change.kind == "edited prompt" and change.parameters["before"] == OPENING
    return change.system == HELPDESK and (change.kind in OF_WORDED or opening)


def _case(world: World, change: Change) -> Job:
    return lambda runner, folder: run_case(world, change, _rooted(runner, world), folder)


def _alike(world: World) -> Job:
    return lambda runner, folder: run_alike(world, _rooted(runner, world), folder)


def _rooted(runner: Warm, world: World) -> Warm:
    runner.root = world.system.root
    return runner


def run_all(jobs: Sequence[Job], folder: str, workers: int, seed: int) -> list[Outcome]:
    """All jobs, each worker with a warm server of its own. Which way of wording comes next is the seed's and the job's."""
    runners: queue.SimpleQueue[Warm] = queue.SimpleQueue()
    with ExitStack() as held, ThreadPoolExecutor(workers) as pool:
        for _ in range(workers):
            runners.put(held.enter_context(Warm(folder)))

        def one(numbered: tuple[int, Job]) -> Outcome:
            number, job = numbered
            runner = runners.get()
            try:
                runner.env = {SEED: f"{seed}.{number}"}
                return job(runner, os.path.join(folder, "copies", f"{seed}-{number}"))
            finally:
                runners.put(runner)

        found = list(pool.map(one, enumerate(jobs)))
    shutil.rmtree(os.path.join(folder, "copies"), ignore_errors=True)
    return found
