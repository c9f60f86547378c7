"""``python -m bench``: see the package's docstring, and ``--help``."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys

from bench.data import has_parquet
from bench.report import GOALS, Row, details, rows, summarize, table, write
from bench.rounds import Bench
from bench.tools import BUFFERED, FAST, PEERS, TO_INSTALL, Tool, ours

HERE = os.path.dirname(os.path.abspath(__file__))


def main() -> int:
    """Run the bench."""
    options = _options()
    work = os.path.abspath(options.work)
    peers = _installed(PEERS)
    found, others = list[Row](), {BUFFERED: list[Row](), FAST: list[Row]()}
    report: list[str] = []
    for name in options.only or GOALS:
        tools = [*ours(name), *peers]
        runs = list(Bench(work, name, options.scale, _tell).runs(tools, options.repeat, random.Random(options.seed)))
        summary = summarize(runs)
        found += rows(name, summary, tools[0].name, [peer.name for peer in peers])
        for mode in others.keys() & {tool.name for tool in tools}:
            others[mode] += rows(name, summary, mode, [peer.name for peer in peers])
        report.append(details(name, summary, [tool.name for tool in tools]))
        write(os.path.join(HERE, "results.json"), found)
    if options.json:
        json.dump([row._asdict() for row in found], sys.stdout, indent=1)
        return 0
    print(f"\nscale {options.scale:g}, medians of {options.repeat}; seconds (processor seconds)\n")
    print("\n\n".join(report))
    print(f"\nAgainst the best peer mode of each cell; above 1.00 we are better\n\n{table(found)}")
    print(f"\nThe same with packs written through the page cache\n\n{table(others[BUFFERED])}")
    if others[FAST]:
        print(f"\nThe same with `compression: fast`, where there is text\n\n{table(others[FAST])}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Resurgam beside restic and borg.")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the data; 0.1 for a quick look")
    parser.add_argument("--only", choices=list(GOALS), action="append", help="only this set; may be given again")
    parser.add_argument("--repeat", type=int, default=5, help="rounds, of which the medians are taken")
    parser.add_argument("--seed", type=int, default=1, help="of the order in which tools take their turns")
    parser.add_argument(
        "--work", default=os.path.join(HERE, "work"), help="where data and repositories lie: on one disk"
    )
    parser.add_argument("--json", action="store_true", help="print the rows of results.json instead of tables")
    return parser.parse_args()


def _installed(peers: tuple[Tool, ...]) -> list[Tool]:
    present = []
    for tool in (*ours("dataset"), *ours("sqlite"), *peers):
        version = tool.version()
        _tell(f"{tool.name}: {version or f'absent; to compare with it: {TO_INSTALL}'}")
        if version and tool in peers:
            present.append(tool)
    _tell(f"columns of the dataset: {'Parquet' if has_parquet() else 'zstd blocks, since pyarrow is not installed'}")
    return present


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
