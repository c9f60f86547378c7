"""What a report holds: values for people and programs, ready to be shown. ``report`` makes them, the renderers only arrange.

Judgements stand here as their words (identical, equivalent, inconclusive, different). Times are RFC 3339, durations
seconds, sizes bytes.
"""

from __future__ import annotations

import msgspec

from resurgam.model.verdict import Statistics
from resurgam.proof.report_words import View


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One case that was not as expected: ``why`` is the judge's word, ``views`` show how the answers part."""

    case: str
    why: str
    views: tuple[View, ...] = ()

    @property
    def sentence(self) -> str:
        """The change in one line."""
        told = [f"{view.place}: {view.sentence}" if view.place else view.sentence for view in self.views]
        return "; ".join(told) or self.why


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """How alike the copy's answer to a case is to the yardstick's (``restored``), and the yardstick's to its own (``noise``)."""

    case: str
    restored: float
    noise: float | None = None


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """One probe by one yardstick. ``changes`` are what the verdict names, ``within`` what changed most and passed; ``flaky``
    cases do not even agree with themselves. ``statistics`` come without the figure of each case; ``otherwise``
    names libraries and settings that answered for the yardstick and are others in the copy."""

    yardstick: str
    judgement: str
    reason: str
    cases: int
    changes: tuple[Change, ...] = ()
    within: tuple[Change, ...] = ()
    scores: tuple[Score, ...] = ()
    flaky: tuple[str, ...] = ()
    statistics: Statistics | None = None
    otherwise: tuple[str, ...] = ()


class ProbeReport(msgspec.Struct, frozen=True, kw_only=True):
    """One probe: what it is, and what each yardstick says. ``seconds`` is what asking the copy took, None where not kept."""

    name: str
    kind: str
    reads: tuple[str, ...]
    judgement: str
    judged: tuple[Judged, ...]
    seconds: float | None = None


class ComponentReport(msgspec.Struct, frozen=True, kw_only=True):
    """One component. ``state`` is proven, different, inconclusive or unprobed, or unchanged where a probe that reads it differs
    and it cannot be the cause. ``after`` names what it is made from or reads, ``writes`` what it writes or serves."""

    name: str
    driver: str
    owner: str
    tier: str
    state: str
    why: str
    probes: tuple[str, ...]
    items: int
    bytes: int
    consistency: str
    after: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


class Frozen(msgspec.Struct, frozen=True, kw_only=True):
    """One component in the cut, in seconds after it began: from when it was asked for, held, and let go."""

    component: str
    asked: float
    held: float
    thawed: float


class FindingReport(msgspec.Struct, frozen=True, kw_only=True):
    """A finding of the capture, with examples."""

    severity: str
    component: str
    what: str
    keys: tuple[str, ...] = ()


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """A record about the point whose signature was verified."""

    made: str
    what: str
    role: str
    key: str
    resurgam: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All that is shown. ``made`` is when it was judged; sizes in bytes, times in seconds; ``suspects`` are the components
    that every differing probe reads and that may have changed; ``unjudged`` says what was not judged, and why."""

    point: str
    system: str
    description: str
    sealed: str
    made: str
    judgement: str
    conclusion: str
    first_proof: bool
    isolation: str
    seconds: float
    promised: float | None
    components: tuple[ComponentReport, ...]
    probes: tuple[ProbeReport, ...]
    suspects: tuple[str, ...]
    unjudged: tuple[tuple[str, str], ...]
    cut_at: str
    freeze: float
    skew: float
    barrier: str
    cut: tuple[Frozen, ...]
    findings: tuple[FindingReport, ...]
    signed: tuple[Signed, ...]
    host_can_read: bool
    resurgam: str
    redacted: bool = False
