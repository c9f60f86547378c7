"""The long machines in full: ``python -m tests.soak --minutes N --seed S`` (``make soak``).

Every machine runs once whole, whatever the time; then all run again with other seeds until the time is over:

    sweep      a capture stopped at every call of its store, and the capture after it too            P1, P2
    prunes     a prune stopped at every put and delete, and 40 times beside each company of others    P1, P10
    vault      300 lives of a vault in every climate, and 200 that hypothesis makes and shrinks        P1, P2, P10
    processes  two writers, a pruner and a checker, killed at random for 10 minutes                   P1, P10
    flips      one random bit in every byte of a vault; every cut, missing and exchanged object      P12
    kills      200 real processes killed at random moments                                           P1, P5
    models     a repository against a dict of its points, over long random lives                     P1, P3, P11
    cuts       300 points of the helpdesk beside writers in all its stores, none of them torn       P1
    memory     a capture of 2 GB in a process of its own stays below 400 MB
    codecs     chunks, damaged chunks and damaged headers, each of a seed and a number                P12
    servers    the exam of every store on Ceph's gateway and on Azurite, where they are installed       P1, P2
    drivers    300 captures of Chroma beside a writer, and the sizes of which docs/drivers has figures  P1

The seed is printed first, what was done last. The exit code is 0 when nothing was found; a finding is a traceback and 1.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis.stateful import run_state_machine_as_test

from resurgam.capture.run import capture
from resurgam.drivers.registry import driver_for
from resurgam.model.system import Component, System, VaultPlace
from resurgam.stores.local import LocalStore
from resurgam.testing.faults import ManualClock
from resurgam.vault.host import HostState
from resurgam.vault.repository import Repository
from tests import fuzzing
from tests.crash import test_capture, test_kill, test_processes, test_prune
from tests.format import test_flips
from tests.journeys import test_one_cut
from tests.properties import test_vault, test_vault_machine
from tests.stores import azurite, ceph
from tests.support import no_witness
from tests.vault_life import CLIMATES

CASES = 100_000  # of the codecs
KILLS = 200
CAPTURES = 300
LIVES, LIFE = 50, 60  # lives in each climate, acts of each
EXAMPLES = 200
PROCESSES = 600.0  # seconds
PRUNES = 40  # of each company
MEMORY = 2_000_000_000
LIMIT = 400 << 20

Machine = Callable[[Path, int], dict[str, int]]


def sweep(folder: Path, seed: int) -> dict[str, int]:
    """P1: every stop, and every stop twice in a row."""
    return {"stops": sum(test_capture.sweep(folder / str(twice), seed, twice=twice) for twice in (False, True))}


def prunes(folder: Path, seed: int) -> dict[str, int]:
    """P1, P10: every stop, and sessions that take turns at random."""
    folder.mkdir()
    stops = sum(test_prune.stopped(made(folder / f"stopped-{after}"), seed, after=after) for after in (False, True))
    ended = Counter[str]()
    for who in test_prune.BESIDE:
        ended.update(test_prune.beside(made(folder / "+".join(who)), who, seed, PRUNES))
    return {"stops": stops, "sessions": ended.total()}


def vault(folder: Path, seed: int) -> dict[str, int]:
    """P1, P2, P10: whole lives of a vault. Seeds of one run and the next do not overlap."""
    done = Counter[str]()
    for climate in CLIMATES:
        first = seed * LIVES
        done += test_vault_machine.lives(folder, climate, range(first, first + LIVES), LIFE)
    budget = settings(_BUDGET, max_examples=EXAMPLES)
    run_state_machine_as_test(seeded(seed)(test_vault_machine.VaultMachine), settings=budget)
    acts = ("capture", "prune", "race", "contest", "restores")
    return {"lives": LIVES * len(CLIMATES), "examples": EXAMPLES, **{name: done[name] for name in acts}}


def processes(folder: Path, seed: int) -> dict[str, int]:
    """P1, P10: 0 lost chunks."""
    return test_processes.killed_at_random(folder, seed, PROCESSES)


def made(folder: Path) -> Path:
    """An empty folder."""
    folder.mkdir()
    return folder


def flips(folder: Path, seed: int) -> dict[str, int]:
    """P12: every byte of a vault."""
    folder.mkdir()
    victim = test_flips.Victim(str(folder))
    try:
        done = test_flips.flips(victim, Random(seed), None)
        cut = test_flips.truncations(victim)
        test_flips.test_missing_objects(victim)
        test_flips.test_exchanged_objects(victim)
        return {"flipped bytes": done, "cuts": cut, "exact restores": victim.told, "refused": victim.refused}
    finally:
        victim.close()


def kills(folder: Path, seed: int) -> dict[str, int]:
    """P1, P5: rounds until so many processes were killed at work."""
    folder.mkdir()
    killed = test_kill.Killed(str(folder), Random(seed))
    rounds = 0
    while killed.killed < KILLS:
        killed.round(("capture", "restore", "promote")[rounds % 3])
        rounds += 1
    return {"kills": killed.killed, "rounds": rounds}


def models(_folder: Path, seed: int) -> dict[str, int]:
    """P1, P3, P11: the state machine over a repository."""
    budget = settings(_BUDGET, max_examples=400)
    run_state_machine_as_test(seeded(seed)(test_vault.vault_machine()), settings=budget)
    return {"examples": budget.max_examples}


_BUDGET = settings(
    stateful_step_count=40,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


def cuts(folder: Path, seed: int) -> dict[str, int]:
    """P1: what belongs together is captured together; the freezes that it took."""
    folder.mkdir()
    return test_one_cut.under_the_barrier(folder, seed, CAPTURES, copies=10)


def memory(folder: Path, seed: int) -> dict[str, int]:
    """The high-water mark of a process that captures MEMORY bytes: half of them random, a quarter text, a quarter holes."""
    folder.mkdir()
    argv = [sys.executable, "-m", "tests.soak", "--memory", str(folder), "--seed", str(seed)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout)
    assert peak < LIMIT, f"a capture took {peak >> 20} MB; it may take {LIMIT >> 20} MB"
    return {"peak MB": peak >> 20}


def capture_much(folder: str, seed: int) -> int:
    """Capture MEMORY bytes; returns this process's peak of resident memory in bytes."""
    rng = Random(seed)
    os.mkdir(f"{folder}/live")
    for number in range(4):
        with open(f"{folder}/live/{number}", "wb") as file:
            for _ in range(MEMORY // 4 // 1_000_000):
                _write_megabyte(file.fileno(), rng, number)
            file.truncate(MEMORY // 4)
    clock = ManualClock()
    repository, _ = Repository.create(LocalStore.create(f"{folder}/vault"), f"{folder}/keys", "much", clock)
    place = VaultPlace(path=f"{folder}/vault", keys=f"{folder}/keys")
    system = System(
        name="much", vault=place, components=(Component(name="files", driver="files", location=f"{folder}/live"),)
    )
    host = HostState(repository.vault.hex(), system.name, f"{folder}/state")
    capture(system, driver_for, no_witness, repository, host, clock)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _write_megabyte(descriptor: int, rng: Random, number: int) -> None:
    if number < 2:
        os.write(descriptor, rng.randbytes(1_000_000))
    elif number == 2:
        os.write(descriptor, (b"%d words that repeat " % rng.randrange(1000)) * 50_000)
    else:
        os.lseek(descriptor, 1_000_000, os.SEEK_CUR)


def codecs(_folder: Path, seed: int, cases: int = CASES) -> dict[str, int]:
    """P12: every codec on random and on hostile bytes, every kind of header that lies. What was met, by kind."""

    def tell(number: int) -> None:
        if number and number % 50_000 == 0:
            print(f"codecs, seed {seed}: {number} of {cases} cases", flush=True)

    return {"cases": cases, **dict(sorted(fuzzing.fuzz(seed, cases, tell).items()))}


def servers(_folder: Path, _seed: int) -> dict[str, int]:
    """P1, P2: those of them that are here; what is not here is told as 0."""
    here = {"Ceph": not ceph.missing(), "Azurite": shutil.which(azurite.PROGRAM) is not None}
    words = " or ".join(name for name, is_here in here.items() if is_here)
    if words:
        counts = {name: int(is_here) for name, is_here in here.items()}
        return counts | {"passed": _passed("tests/stores/exam_elsewhere.py", "-k", words)}
    return dict.fromkeys(here, 0)


def drivers(_folder: Path, _seed: int) -> dict[str, int]:
    """P1: what is marked as too long for `make test`: beside writers for long, and at the sizes of the figures in docs/drivers."""
    return {"passed": _passed("tests/drivers", "-m", "soak")}


def _passed(*words: str) -> int:
    """How many tests of those passed; none failed."""
    argv = [sys.executable, "-m", "pytest", "-q", "-x", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=3600, check=False)
    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0, done.stdout[-5000:]
    assert passed is not None, done.stdout[-5000:]
    return int(passed[1])


MACHINES: dict[str, Machine] = {
    "sweep": sweep,
    "prunes": prunes,
    "vault": vault,
    "processes": processes,
    "flips": flips,
    "models": models,
    "kills": kills,
    "cuts": cuts,
    "memory": memory,
    "codecs": codecs,
    "servers": servers,
    "drivers": drivers,
}


def main() -> int:
    """Run the machines; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="The long machines, in full.")
    parser.add_argument("--minutes", type=float, default=60.0, help="go on with other seeds until then (default 60)")
    parser.add_argument("--seed", type=int, default=None, help="repeat a run (default: a new one)")
    parser.add_argument("--only", choices=sorted(MACHINES), action="append", help="only this machine; repeatable")
    parser.add_argument("--cases", type=int, default=CASES, help=f"of the codecs (default {CASES:,})")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    words = parser.parse_args()
    seed = words.seed if words.seed is not None else secrets.randbelow(1 << 31)
    if words.memory:
        print(capture_much(words.memory, seed))
        return 0
    os.environ["RESURGAM_GENTLE"] = "no"  # machines wait for the verbs that they run
    print(f"seed {seed}: repeat with --seed {seed}", flush=True)
    machines = MACHINES | {"codecs": partial(codecs, cases=words.cases)}
    totals: Counter[str] = Counter()
    ends, passes = time.monotonic() + 60 * words.minutes, 0
    while passes == 0 or time.monotonic() < ends:
        for name in words.only or MACHINES:
            if passes and time.monotonic() >= ends:
                break
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="resurgam-soak-") as folder:
                done = machines[name](Path(folder) / name, seed + passes)
            told = ", ".join(f"{count} {what}" for what, count in done.items())
            print(f"{name}, seed {seed + passes}: {told}, in {time.monotonic() - began:.0f} s", flush=True)
            totals.update({f"{name}: {what}": count for what, count in done.items() if not what.startswith("peak")})
        passes += 1
    print("\n".join(["nothing was found", *(f"  {what} {count}" for what, count in sorted(totals.items()))]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
