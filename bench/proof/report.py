"""What came of the cases, as a table of kinds with its totals, and as JSON; and whether the targets are met."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any, NamedTuple

from bench.proof.cases import LEVELS, Outcome

DETECTION, FALSE_ALARMS = 0.99, 0.01
CHECKS = ("counts", "sums", "overlap")


class Totals(NamedTuple):
    """Cases and what was said of them. ``felt`` are the faults that are to be detected, ``others`` harmless changes that changed
    nothing that is asked, ``alike`` the A/A runs; ``checks`` of each simpler check: found of ``felt``, alarms of ``others``."""

    faults: int
    felt: int
    detected: int
    undecided: int
    elsewhere: int
    nothing: int
    alarms_on_nothing: int
    others: int
    alarms_on_others: int
    alike: int
    alarms_on_alike: int
    undecided_alike: int
    checks: dict[str, tuple[int, int]]

    @property
    def detection(self) -> float:
        """The share of felt faults that are called different."""
        return self.detected / self.felt if self.felt else 0.0

    @property
    def false_alarms(self) -> float:
        """The share of A/A runs and harmless changes that are called different."""
        runs = self.alike + self.others
        return (self.alarms_on_alike + self.alarms_on_others) / runs if runs else 1.0

    @property
    def met(self) -> bool:
        """Whether both targets are met."""
        return self.detection >= DETECTION and self.false_alarms <= FALSE_ALARMS


def totals(outcomes: Sequence[Outcome]) -> Totals:
    """Count. A harmless change that was felt is a fault like any other: the oracle decides, not its name."""
    alike = [one for one in outcomes if one.kind == "A/A"]
    changed = [one for one in outcomes if one.kind != "A/A"]
    felt = [one for one in changed if one.effect == "felt"]
    others = [one for one in changed if one.harmless and one.effect != "felt"]
    faults = [one for one in changed if not one.harmless]
    nothing = [one for one in faults if one.effect == "nothing"]
    return Totals(
        faults=len(faults), felt=len(felt), detected=_different(felt),
        undecided=sum(one.verdict == "inconclusive" for one in felt),
        elsewhere=sum(one.effect == "elsewhere" for one in faults), nothing=len(nothing),
        alarms_on_nothing=_different(nothing), others=len(others), alarms_on_others=_different(others),
        alike=len(alike), alarms_on_alike=_different(alike),
        undecided_alike=sum(one.verdict == "inconclusive" for one in [*alike, *others]),
        checks={name: (sum(getattr(one, name) for one in felt), sum(getattr(one, name) for one in others)) for name in CHECKS},
    )  # fmt: skip


def lines(outcomes: Sequence[Outcome]) -> list[str]:
    """The table: a line for each kind, what was missed or cried at in full, and the totals last."""
    rows: list[tuple[str, ...]] = [
        ("system", "kind", "cases", "felt", "found", "level", "seconds", "counts", "sums", "overlap")
    ]
    grouped: dict[tuple[bool, str, str], list[Outcome]] = defaultdict(list)
    for one in outcomes:
        grouped[one.harmless, one.system, one.kind].append(one)
    for (_, system, kind), some in sorted(grouped.items()):
        levels = sorted({LEVELS[one.level] for one in some if one.level})
        simpler = [str(sum(getattr(one, name) for one in some)) if kind != "A/A" else "-" for name in CHECKS]
        rows.append((
            system, kind, str(len(some)), str(sum(one.effect == "felt" for one in some)), str(_different(some)),
            ", ".join(levels) or "-", f"{median(one.seconds for one in some):.2f}", *simpler,
        ))  # fmt: skip
    return [*_aligned(rows), "", *_told(outcomes), *_summed(totals(outcomes))]


def _told(outcomes: Iterable[Outcome]) -> list[str]:
    """Each case that is not as it should be, and each fault that no probe asks about, in a line."""
    told = []
    for one in outcomes:
        when = "before the capture: " if one.captured else ""
        if one.effect == "felt" and not one.different:
            told.append(f"MISSED ({one.verdict}) {one.system}, {one.kind}: {when}{one.told}")
        elif one.harmless and one.effect != "felt" and one.different:
            told.append(f"FALSE ALARM by {', '.join(one.caught)}: {one.system}, {one.kind}: {one.told}")
        elif not one.harmless and one.effect != "felt":
            word = "changed nothing that is asked" if one.effect == "elsewhere" else "changed nothing"
            told.append(f"{word} ({one.verdict}): {one.system}, {one.kind}: {when}{one.told}")
    return [*sorted(told), ""] if told else []


def _summed(all_: Totals) -> list[str]:
    counted = (
        f"{all_.faults} faults: {all_.felt} felt (harmless ones that were, included), {all_.elsewhere} only where no probe asks, "
        f"{all_.nothing} changed nothing; inconclusive: {all_.undecided} of the felt, {all_.undecided_alike} A/A runs and harmless"
    )
    said = [counted]
    names = {"counts": "counts and integrity checks", "sums": "checksums", "overlap": "mean overlap, vecdiff's gates"}
    for name, (found, cried) in all_.checks.items():
        said.append(
            f"{names[name]}: {_share(found, all_.felt)} of the felt, and an alarm at {_share(cried, all_.others)} harmless"
        )
    verdict = "met" if all_.met else "MISSED"
    said.append(
        f"total: detected {all_.detected} of {all_.felt} ({_percent(all_.detected, all_.felt)}, target {DETECTION:.0%}); "
        f"false alarms {all_.alarms_on_alike} of {all_.alike} A/A runs and {all_.alarms_on_others} of {all_.others} harmless "
        f"changes ({all_.false_alarms:.1%}, target {FALSE_ALARMS:.0%}): {verdict}"
    )
    return said


def as_json(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """Everything, for machines."""
    all_ = totals(outcomes)
    counted = all_._asdict() | {"detection": all_.detection, "false_alarms": all_.false_alarms, "met": all_.met}
    return {"totals": counted, "seconds": round(seconds, 1), "cases": [one._asdict() for one in outcomes]}


def _different(outcomes: Iterable[Outcome]) -> int:
    return sum(one.different for one in outcomes)


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({_percent(part, whole)})"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
