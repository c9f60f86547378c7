"""``python -m bench.proof``: see the package's docstring, and ``--help``."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

from bench.proof.cases import Outcome
from bench.proof.changes import HANDBOOK, HELPDESK
from bench.proof.report import as_json, lines, totals
from bench.proof.rounds import jobs_of, run_all
from bench.proof.world import WORDED, World, prepare


def main(arguments: list[str] | None = None) -> int:
    """Run the bench; 1 where a target is missed."""
    given = _options(arguments)
    began = time.monotonic()
    with nullcontext(given.work) if given.work else tempfile.TemporaryDirectory(prefix="bench-proof-") as folder:
        os.environ["XDG_STATE_HOME"] = os.path.join(folder, "state")
        worlds = _prepared(given.systems, folder, given.workers)
        _tell(f"{', '.join(worlds)}: built, captured, proven, approved ({time.monotonic() - began:.0f} s)")
        outcomes: list[Outcome] = []
        for seed in given.seed:
            started = time.monotonic()
            jobs = jobs_of(worlds, seed, given.faults, given.harmless, given.aa)
            found = run_all(jobs, folder, given.workers, seed)
            _tell(f"seed {seed}: {len(found)} cases ({time.monotonic() - started:.0f} s); {lines(found)[-1]}")
            outcomes += found
    seconds = time.monotonic() - began
    if given.json:
        json.dump(as_json(outcomes, seconds), sys.stdout, indent=1)
    else:
        print("\n".join(lines(outcomes)))
    return 0 if totals(outcomes).met else 1


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.proof", description="How often a verdict is right.")
    parser.add_argument("--seed", type=int, nargs="+", help="of what is drawn (one, which is printed)")
    parser.add_argument("--faults", type=int, default=66, help="for each seed (%(default)s)")
    parser.add_argument("--harmless", type=int, default=32, help="harmless changes for each seed (%(default)s)")
    parser.add_argument("--aa", type=int, default=100, help="A/A runs for each seed (%(default)s)")
    parser.add_argument(
        "--systems", nargs="+", choices=(HELPDESK, HANDBOOK, WORDED), default=[HELPDESK, HANDBOOK, WORDED]
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=os.path.abspath, help="build there, keep what is built, and use it again")
    parser.add_argument("--json", action="store_true", help="everything as JSON instead of the table")
    given = parser.parse_args(arguments)
    given.seed = given.seed or [random.randrange(1 << 20)]
    return given


def _prepared(names: Sequence[str], folder: str, workers: int) -> dict[str, World]:
    with ThreadPoolExecutor(workers) as pool:
        return dict(zip(names, pool.map(lambda name: prepare(name, folder), names), strict=True))


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
