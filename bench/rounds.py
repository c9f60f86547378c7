"""What is run in which order.

A round of one data set: every tool makes an empty repository; then, phase by phase and in a new random order each time,

    first       version 1 into the empty repository
    unchanged   the same again
    changed     version 2
    restore     version 2 into an empty folder

with all that will be read in the page cache, and nothing dirty. In the first round every restored byte is compared with its
source. ``cp`` and a flush of the same files are run once a round: the floor that no tool can go below.

What was restored stays until the round ends: ext4 passes over each inode that was freed within the last minutes, so whoever
restored many files after another tool's had been removed took twice as long.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from bench.data import has_parquet, use
from bench.measure import Cost, run, same, size, warm
from bench.tools import Tool

TIMED = ("first", "unchanged", "changed", "restore")


class Run(NamedTuple):
    """One timed process: what ``tool`` took for ``metric`` in one round; ``stored`` is its repository's size by then."""

    set: str
    tool: str
    metric: str
    round: int
    cost: Cost
    stored: int


class Different(Exception):
    """A restore did not give back what was backed up."""


@dataclass(frozen=True)
class Bench:
    """The runs of one data set below the folder ``work``."""

    work: str
    set: str
    scale: float
    tell: Callable[[str], None]

    def runs(self, tools: list[Tool], rounds: int, order: random.Random) -> Iterator[Run]:
        """All runs of all ``tools``. Raises measure.Failed, Different."""
        data = self._data()
        source = os.path.join(data, "source")
        for number in range(rounds):
            with self._empty_folder("round") as folder:
                use(data, "v1")
                for tool in tools:
                    self._prepare(tool, folder, source)
                yield self._floor(folder, source, number)
                for metric in TIMED:
                    if metric == "changed":
                        use(data, "v2")
                    for tool in order.sample(tools, len(tools)):
                        yield self._timed(tool, metric, folder, source, number)

    def _timed(self, tool: Tool, metric: str, folder: str, source: str, number: int) -> Run:
        own = _own(folder, tool)
        self.tell(f"{self.set}, round {number + 1}: {metric}, {tool.name}")
        if metric != "restore":
            warm(source)
            cost = run(tool.backup(own, source), tool.environment(own), folder, log=own + ".log")
        else:
            warm(tool.repository(own))
            os.mkdir(target := own + "-restored")
            cost = run(tool.restore(own, target), tool.environment(own), target, log=own + ".log")
            if number == 0 and not same(tool.counterpart(source), tool.restored(source, target)):
                raise Different(f"{tool.name} did not restore {self.set} as it was")
        return Run(self.set, tool.name, metric, number, cost, size(tool.repository(own)))

    def _floor(self, folder: str, source: str, number: int) -> Run:
        warm(source)
        target = os.path.join(folder, "copy")
        cost = run(["cp", "-r", source, target], dict(os.environ), folder, log=target + ".log")
        stored = size(target)
        shutil.rmtree(target)
        return Run(self.set, "cp", "first", number, cost, stored)

    def _prepare(self, tool: Tool, folder: str, source: str) -> None:
        own = _own(folder, tool)
        os.mkdir(own)
        run(tool.prepare(own, source), tool.environment(own), folder, log=own + ".log")

    def _data(self) -> str:
        kind = ""
        if self.set == "dataset":
            kind = "-parquet" if has_parquet() else "-columns"
        folder = os.path.join(self.work, "data", f"{self.set}{kind}-{self.scale:g}")
        if not os.path.isdir(folder):
            self.tell(f"{self.set}: making the data (once)")
            os.makedirs(os.path.dirname(folder), exist_ok=True)
            # In a child, which may be large: see measure.run.
            subprocess.run([sys.executable, "-m", "bench.data", self.set, str(self.scale), folder], check=True)
        return folder

    @contextmanager
    def _empty_folder(self, name: str) -> Iterator[str]:
        path = os.path.join(self.work, name)
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
        try:
            yield path
        finally:
            shutil.rmtree(path)


def _own(folder: str, tool: Tool) -> str:
    return os.path.join(folder, tool.name.replace(" ", "-").replace(",", "-"))
