"""What a judge says. The whole is the worst of its parts (P4): ``max`` over :class:`Judgement`."""

from __future__ import annotations

from enum import IntEnum

import msgspec

from resurgam.model.point import Observation
from resurgam.model.system import Json, Probe


class Judgement(IntEnum):
    """From best to worst. An empty set of parts is INCONCLUSIVE, never IDENTICAL."""

    IDENTICAL = 1
    EQUIVALENT = 2
    INCONCLUSIVE = 3
    DIFFERENT = 4

    @property
    def word(self) -> str:
        """The lower-case word used in output."""
        return self.name.lower()

    @property
    def passes(self) -> bool:
        """Whether promotion may follow."""
        return self <= Judgement.EQUIVALENT


class Deviation(msgspec.Struct, frozen=True, kw_only=True):
    """One case whose answer was not the expected one."""

    case: str
    expected: Json
    got: Json
    why: str


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a test over all cases of a probe found (``proof.statistics``); every loss is 0 where both sides are the same.

    ``estimate`` is the loss of the copy, ``interval`` of confidence 1 - 2 ``alpha``, ``margin`` the loss that is allowed.
    ``p`` is of the claim *the same within the margin*, ``difference`` of the opposite one, ``adjusted`` the latter after Holm
    over the ``family`` of all tests of the verdict. ``decided`` says what the judgement rests on: ``margin``, ``difference``,
    ``floor`` (of the worst cases), ``noise``, or ``data`` where that was too little. ``power`` is the chance that a copy
    that is the same is shown to be, ``needed`` the ``n`` that gives it 0.8, ``noise`` the loss among the yardstick's own
    runs. ``worst`` and ``floor`` are of the worst cases' mean score. ``seed`` is of what was permuted. ``scores`` has, by case,
    the copy's figure beside the yardstick's own.
    """

    test: str
    measure: str
    n: int
    estimate: float
    interval: tuple[float, float]
    margin: float
    alpha: float
    p: float
    difference: float
    decided: str
    adjusted: float | None = None
    family: int = 1
    power: float | None = None
    detects: float | None = None
    needed: int | None = None
    noise: float | None = None
    worst: float | None = None
    floor: float | None = None
    seed: int | None = None
    scores: dict[str, tuple[float, float]] = {}


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One probe (or one component that no probe read), judged by one yardstick: witness, baseline or reference. ``flaky`` names
    the cases whose own runs disagree; ``statistics`` is there where all cases were judged together."""

    name: str
    yardstick: str
    judgement: Judgement
    reason: str
    cases: int = 0
    deviations: tuple[Deviation, ...] = ()
    flaky: tuple[str, ...] = ()
    statistics: Statistics | None = None


class IsolationReport(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a copy is kept from the live system while it is asked (P6), and if not, why not."""

    isolated: bool
    reason: str = ""

    def __str__(self) -> str:
        return "isolated" if self.isolated else f"not isolated: {self.reason or 'no reason given'}"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The judged behaviour of one restore of one point."""

    point: str
    judgement: Judgement
    parts: tuple[Part, ...]
    isolation: str
    first_proof: bool
    seconds: float


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """How a point behaves on a copy restored from it: the same probes, observed at least twice. ``probes`` says what was
    asked; it is empty in baselines made before it was kept."""

    point: str
    runs: tuple[tuple[Observation, ...], ...]
    probes: tuple[Probe, ...] = ()

    def knows(self) -> tuple[str, ...]:
        """The names of the probes that it holds answers to, in order."""
        return tuple(dict.fromkeys(observation.probe for run in self.runs for observation in run))


def worst(parts: tuple[Part, ...]) -> Judgement:
    """P4: the whole is the worst of its parts; nothing judged is inconclusive."""
    return max((part.judgement for part in parts), default=Judgement.INCONCLUSIVE)
