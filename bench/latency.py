"""What distance costs: ``python -m bench.latency``. The same work on a store that answers at once, and on one that is far.

A system of a model (650 MB of bf16), a database (280 MB) and 5,000 small files is captured, captured again unchanged, captured
after 1 % of it changed, and restored into an empty folder; every phase is a process of its own. Once the vault is a folder, once
the same folder behind 50 ms for each request, by turns; of each phase the quickest run and the ratio are printed, and the largest
resident set. The quickest, since whatever else runs on the machine only ever adds. Seconds are the verb's, without Python's start.
What was restored stays until the end: ext4 passes over inodes that were freed within the last minutes, one by one, so a restore of
many files takes up to a second longer where another one has just been removed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

from bench import data
from bench.tools import DATABASE
from resurgam.capture.run import capture
from resurgam.clock import SystemClock
from resurgam.drivers.registry import driver_for
from resurgam.model.system import Component, System, VaultPlace
from resurgam.restore.run import restore
from resurgam.stores.base import Store
from resurgam.stores.local import LocalStore
from resurgam.testing.faults import SlowStore
from resurgam.vault.host import HostState
from resurgam.vault.keyring import Keyring
from resurgam.vault.repository import Repository

SETS = {"model": 0.6, "sqlite": 0.2, "small": 0.05}  # each of ``bench.data``, and its scale
PHASES = ("first", "unchanged", "changed", "restore")
GOAL = 1.5


def main(arguments: list[str] | None = None) -> int:
    """Run the bench, or with ``--phase`` one phase of it."""
    given = _options(arguments)
    if given.phase:
        print(json.dumps(_phase(given.phase, given.work, given.latency)))
        return 0
    found: dict[tuple[str, float], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-latency-", dir=given.work) as work:
        for name, scale in SETS.items():
            making = f"from bench import data; data.make({name!r}, {scale * given.scale}, {f'{work}/{name}'!r})"
            subprocess.run([sys.executable, "-c", making], check=True)
        for number in range(given.repeat):
            for latency in (0.0, given.latency):
                for phase in PHASES:
                    if phase in ("first", "changed"):
                        for name in SETS:
                            data.use(f"{work}/{name}", "v1" if phase == "first" else "v2")
                    found.setdefault((phase, latency), []).append(_run(phase, work, latency))
                os.rename(f"{work}/out", f"{work}/out-{number}-{latency}")
                for name in ("vault", "keys", "state"):
                    shutil.rmtree(f"{work}/{name}")
    _tell(found, given.latency)
    return 0


def _tell(found: dict[tuple[str, float], list[dict[str, float]]], latency: float) -> None:
    print(f"{'phase':<10} {'at once':>9} {f'at {latency * 1000:.0f} ms':>9} {'ratio':>6}  {'memory':>15}")
    for phase in PHASES:
        near, far = found[phase, 0.0], found[phase, latency]
        seconds = [min(one["seconds"] for one in rows) for rows in (near, far)]
        memory = [max(one["peak"] for one in rows) / 1e6 for rows in (near, far)]
        ratio = seconds[1] / seconds[0]
        print(
            f"{phase:<10} {seconds[0]:>7.2f} s {seconds[1]:>7.2f} s {ratio:>6.2f}  {memory[0]:>4.0f} and {memory[1]:>3.0f} MB"
            f"{'' if ratio < GOAL else f'   more than {GOAL}'}"
        )


def _run(phase: str, work: str, latency: float) -> dict[str, float]:
    subprocess.run(["sync"], check=True)
    command = [sys.executable, "-m", "bench.latency", "--phase", phase, "--work", work, "--latency", str(latency)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    said: dict[str, float] = json.loads(done.stdout)
    return said


def _phase(phase: str, work: str, latency: float) -> dict[str, float]:
    """Do it, and say how long it took and what memory."""
    clock, keys, vault = SystemClock(), f"{work}/keys", f"{work}/vault"
    if phase == "first":
        Repository.create(LocalStore.create(vault), keys, "bench", clock)
    store: Store = LocalStore(vault)
    if latency:
        store = SlowStore(store, latency)
    system = System(
        name="bench",
        vault=VaultPlace(path=vault, keys=keys),
        components=tuple(
            Component(
                name=name,
                driver="sqlite" if name == "sqlite" else "files",
                location=f"{work}/{name}/source{f'/{DATABASE}' if name == 'sqlite' else ''}",
            )
            for name in SETS
        ),
    )
    began = time.monotonic()
    repository = Repository(store, Keyring(keys), f"{work}/state/notes")
    if phase == "restore":
        body = repository.resolve("latest", to_read=True).body
        restore(repository, body, repository.particulars(body), f"{work}/out", driver_for, clock)
    else:
        host = HostState(repository.vault.hex(), system.name, f"{work}/state")
        capture(system, driver_for, lambda _system: (), repository, host, clock)
    seconds = time.monotonic() - began
    with open(
        "/proc/self/status", encoding="ascii"
    ) as status:  # getrusage tells the parent's peak where that was larger
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return {"seconds": seconds, "peak": peak * 1024.0}


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.latency", description="What a distant store costs.")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds for each request (%(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the data (%(default)s is 1 GB)")
    parser.add_argument("--repeat", type=int, default=3, help="rounds (%(default)s)")
    parser.add_argument("--work", type=os.path.abspath, help="make it there")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
