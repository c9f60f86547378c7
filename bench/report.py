"""From runs to figures: medians, ratios against the best peer mode, goals, and the table.

A ratio above 1 means that we are better: the peer's seconds or bytes divided by ours. The best peer is chosen for each
cell by itself: the fastest mode, for ``stored`` the one that stores least, for ``memory`` the one that needs least.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from statistics import median
from typing import NamedTuple

from bench.rounds import TIMED, Run

METRICS = (*TIMED, "stored", "memory")
MOST_MEMORY = 400e6  # bytes

# The goals of this release: least ratio by set, in the order first, unchanged, changed, restore, stored. Two thirds of what a
# prototype reached against the best peer mode on these sets, and its stored size itself; None where it could not be decided.
GOALS = {
    "model": (2.9, 1.1, 3.7, 1.7, 1.17),
    "vectors": (3.3, 1.1, 3.4, 1.3, 1.11),
    "sqlite": (1.6, 1.1, 3.2, 1.2, 0.94),
    "dataset": (1.5, 1.1, 2.2, 1.7, 0.93),
    "small": (1.4, 2.7, 2.4, None, 1.22),
}


class Figures(NamedTuple):
    """The medians of one tool's runs for one metric."""

    wall: float
    cpu: float
    memory: float
    stored: float


class Row(NamedTuple):
    """One cell of the table, as it stands in ``results.json``: seconds or bytes; without a peer there is no ratio."""

    name: str
    metric: str
    ours: float
    peer: float | None
    peer_name: str | None
    ratio: float | None


Summary = dict[tuple[str, str], Figures]  # tool and metric


def summarize(runs: Iterable[Run]) -> Summary:
    """The medians of one set's runs."""
    gathered: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        gathered.setdefault((run.tool, run.metric), []).append(run)
    return {
        key: Figures(
            median(run.cost.wall for run in some),
            median(run.cost.cpu for run in some),
            max(run.cost.memory for run in some),
            median(run.stored for run in some),
        )
        for key, some in gathered.items()
    }


def rows(name: str, summary: Summary, ours: str, peers: list[str]) -> Iterator[Row]:
    """The set's cells."""
    for metric in METRICS:
        own = _value(summary, ours, metric)
        values = {peer: _value(summary, peer, metric) for peer in peers}
        best = min(values, key=values.__getitem__, default=None)
        if best is None:
            yield Row(name, metric, own, None, None, None)
        else:
            yield Row(name, metric, own, values[best], best, values[best] / own)


def met(row: Row) -> bool | None:
    """Whether a cell's goal is met; None where there is none, or no peer."""
    if row.metric == "memory":
        return row.ours < MOST_MEMORY
    goal = GOALS[row.name][METRICS.index(row.metric)]
    return None if goal is None or row.ratio is None else row.ratio >= goal


def table(found: list[Row]) -> str:
    """The cells for people."""
    lines = [f"{'set':<8} {'metric':<10} {'ours':>10} {'best peer':>10}  {'mode':<12} {'ratio':>6} {'goal':>7}"]
    for row in found:
        peer = "absent" if row.peer is None else _shown(row.metric, row.peer)
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        answer = {None: "", True: "met", False: "MISSED"}[met(row)]
        lines.append(
            f"{row.name:<8} {row.metric:<10} {_shown(row.metric, row.ours):>10} {peer:>10}  {row.peer_name or '':<12} "
            f"{ratio:>6} {_goal(row):>7} {answer}".rstrip()
        )
    return "\n".join(lines)


def details(name: str, summary: Summary, tools: list[str]) -> str:
    """Every mode's medians: seconds and, in brackets, processor seconds."""
    lines = [f"{name:<28}{''.join(f'{metric:>17}' for metric in TIMED)}{'stored':>11}{'with v2':>11}{'memory':>11}"]
    for tool in tools:
        times = "".join(f"{_timed(summary[tool, metric]):>17}" for metric in TIMED)
        stored, added = summary[tool, "first"].stored, summary[tool, "changed"].stored
        memory = _value(summary, tool, "memory")
        lines.append(f"  {tool:<26}{times}{stored / 1e6:>8.0f} MB{added / 1e6:>8.0f} MB{memory / 1e6:>8.0f} MB")
    floor = summary["cp", "first"]
    lines.append(f"  {'cp and flush':<26}{_timed(floor):>17}{'':>51}{floor.stored / 1e6:>8.0f} MB")
    return "\n".join(lines)


def write(path: str, found: list[Row]) -> None:
    """Write ``results.json``."""
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump([row._asdict() for row in found], file, indent=1)
    os.replace(path + ".new", path)


def _value(summary: Summary, tool: str, metric: str) -> float:
    if metric == "stored":
        return summary[tool, "first"].stored
    if metric == "memory":
        return max(summary[tool, timed].memory for timed in TIMED)
    return summary[tool, metric].wall


def _goal(row: Row) -> str:
    if row.metric == "memory":
        return f"<{MOST_MEMORY / 1e6:.0f} MB"
    goal = GOALS[row.name][METRICS.index(row.metric)]
    return "" if goal is None else f"{goal:.2f}"


def _shown(metric: str, value: float) -> str:
    return f"{value / 1e6:.0f} MB" if metric in {"stored", "memory"} else f"{value:.2f} s"


def _timed(figures: Figures) -> str:
    return f"{figures.wall:.2f} ({figures.cpu:.2f})"
