"""``python -m bench.vault_scale``: see the package's docstring, and ``--help``."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from bench.vault_scale.making import Size, make
from bench.vault_scale.tasks import TASKS

SIZES = (Size(100_000, 100), Size(1_000_000, 1_000), Size(10_000_000, 1_000), Size(10_000_000, 10_000))


def main(arguments: list[str] | None = None) -> int:
    """Run the bench."""
    given = _options(arguments)
    found: list[dict[str, Any]] = []
    with nullcontext(given.work) if given.work else tempfile.TemporaryDirectory(prefix="vault-scale-") as work:
        for size in given.size or SIZES:
            folder = os.path.join(work, size.name)
            if not os.path.exists(f"{folder}/made"):
                _make(folder, size, given.seed)
            for task in given.task or TASKS:
                rows = _run(task, folder)
                found += [{"chunks": size.chunks, "points": size.points, **row} for row in rows]
                _tell("\n".join(_line(row) for row in found[-len(rows) :]))
            if not given.work:
                shutil.rmtree(folder)
    if given.json:
        json.dump(found, sys.stdout, indent=1)
    else:
        print("\n".join([_HEAD, *map(_line, found)]))
    return 0


_HEAD = f"{'chunks':>10} {'points':>7}  {'what':<34} {'seconds':>8} {'processor':>9} {'memory':>8}"


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['chunks']:>10,} {row['points']:>7,}  {row['what']:<34} {row['wall']:>8.3f} {row['cpu']:>9.3f} "
        f"{row['peak'] / 1e6:>5.0f} MB"
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.vault_scale", description="Time and memory of large vaults.")
    parser.add_argument("--size", type=_size, nargs="+", help="as CHUNKS-POINTS, such as 1000000-1000 (four of them)")
    parser.add_argument("--task", choices=TASKS, nargs="+", help="only these")
    parser.add_argument("--seed", type=int, default=1, help="of the vaults (%(default)s)")
    parser.add_argument("--work", type=os.path.abspath, help="make the vaults there, keep them, and use them again")
    parser.add_argument("--json", action="store_true", help="everything as JSON instead of the table")
    return parser.parse_args(arguments)


def _size(words: str) -> Size:
    chunks, points = map(int, words.split("-"))
    if points < 1 or chunks < points:
        raise argparse.ArgumentTypeError("at least one point, and a chunk for each")
    return Size(chunks, points)


def _make(folder: str, size: Size, seed: int) -> None:
    began = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    make(folder, size, seed)
    with open(f"{folder}/made", "wb"):
        _tell(f"{size.chunks:,} chunks and {size.points:,} points made in {time.monotonic() - began:.0f} s")


def _run(task: str, folder: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "bench.vault_scale.tasks", task, folder]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    said = json.loads(done.stdout)
    return [
        {"what": what, "wall": wall, "cpu": cpu, "peak": said["peak"]} for what, (wall, cpu) in said["times"].items()
    ]


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
