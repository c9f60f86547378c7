"""Tolerances that judge all cases of a probe together, as the manifest writes them. Read and checked here, judged in ``together``.

The others (``proof.compare``) judge each case by itself, so a single noisy case decides. These make a claim about all of
them, by a test of equivalence with a stated margin::

    {equivalent: {score: overlap, k: 10, by: id, margin: 0.05, worst: 0.8}}
                    each case is scored, 1 is the same; the mean may fall below the yardstick's own by less than the margin,
                    and the worst 5 % of cases score ``worst`` on average. Scores: overlap, recall, rbo (of ranked lists),
                    numeric (1 less the largest part by which numbers differ, of ``scale`` where that is given)
    {passes: {margin: 0.02, when: tolerance}}
                    each case passes or not: the answer is true or false, or ``when`` is a tolerance that lets it pass.
                    Fewer than the margin of all cases pass on the yardstick and fail on the copy
    {ratio: {margin: 0.2, worse: higher}}
                    positive numbers such as seconds, one or a list per case: copy over yardstick is less than 1 + margin
    {text: {margin: 0.05, permutations: 1000, characters: 100}}
                    free text, several samples per prompt: the distributions of texts lie less than the margin apart

``alpha`` (0.05) is the chance with which each claim of equivalence may err, ``at`` a path to the one value of each answer that
is judged. A difference is told only at a chance of ``ALARM`` or less: without it the verdict is inconclusive and nothing is
promoted either, and a verdict that cries wolf is not read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from resurgam.model.system import Json
from resurgam.proof import compare
from resurgam.proof.compare import is_finite, malformed, members_of
from resurgam.proof.places import Step, parse_path, select

ALPHA, ALARM = 0.05, 0.01
SCORES = ("overlap", "recall", "rbo", "numeric")
DIRECTIONS = ("higher", "lower", "either")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What all of them state."""

    margin: float
    alpha: float = ALPHA
    at: tuple[Step, ...] = ()

    @property
    def alarm(self) -> float:
        """The chance with which a difference may be told of what is the same."""
        return min(self.alpha, ALARM)

    def value(self, answer: Json) -> Json:
        """What of an answer is judged; None where ``at`` does not find one value."""
        if not self.at:
            return answer
        found = list(select(self.at, answer).values())
        return found[0] if len(found) == 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Equivalent(Claim):
    """The mean score is not lower than the yardstick's own by the margin, and the worst cases keep the floor."""

    score: str
    k: int = 10
    by: str | int | None = None
    scale: float | None = None
    worst: float = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes(Claim):
    """Fewer than the margin of all cases regress."""

    when: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio(Claim):
    """The ratio of measurements is less than 1 + margin."""

    worse: str = "higher"


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(Claim):
    """The distributions of texts lie less than the margin apart."""

    permutations: int = 1000
    characters: int = 100


def read_claim(tolerance: Json) -> Claim | None:
    """The claim that a tolerance makes about all cases, None where it judges each. Raises ManifestError where malformed."""
    if not isinstance(tolerance, dict) or len(tolerance) != 1:
        return None
    ((word, given),) = tolerance.items()
    return _READERS[word](given) if word in _READERS else None


def check_tolerance(tolerance: Json) -> None:
    """Raises ManifestError where ``tolerance``, of either sort, is malformed; for the reader of the manifest."""
    if read_claim(tolerance) is None:
        compare.check_tolerance(tolerance)


def _equivalent(given: Json) -> Claim:
    fields = members_of("equivalent", given, {"score", "k", "by", "scale", "margin", "worst", "alpha", "at"})
    score, k, by, scale = fields.get("score"), fields.get("k", 10), fields.get("by"), fields.get("scale")
    worst = fields.get("worst", 0.8)
    if score not in SCORES:
        raise malformed("`equivalent`", given, "score, one of " + ", ".join(SCORES))
    if not _is_count(k, 1):
        raise malformed("`equivalent`", given, "k, a whole number of at least 1")
    if isinstance(by, bool) or not (by is None or isinstance(by, str) or _is_count(by, 0)):
        raise malformed("`equivalent`", given, "by, the name or the place of the identifying member")
    if scale is not None and not (is_finite(scale) and scale > 0):
        raise malformed("`equivalent`", given, "scale, a number above 0")
    if not (is_finite(worst) and 0 <= worst <= 1):
        raise malformed("`equivalent`", given, "worst, a score from 0 to 1")
    margin, alpha, at = _stated("equivalent", fields, below=1)
    return Equivalent(margin=margin, alpha=alpha, at=at, score=score, k=k, by=by, scale=scale, worst=worst)


def _passes(given: Json) -> Claim:
    fields = members_of("passes", given, {"margin", "when", "alpha", "at"})
    if "when" in fields:
        compare.check_tolerance(fields["when"])
    margin, alpha, at = _stated("passes", fields, below=1)
    return Passes(margin=margin, alpha=alpha, at=at, when=fields.get("when"))


def _ratio(given: Json) -> Claim:
    fields = members_of("ratio", given, {"margin", "worse", "alpha", "at"})
    worse = fields.get("worse", "higher")
    if worse not in DIRECTIONS:
        raise malformed("`ratio`", given, "worse, one of " + ", ".join(DIRECTIONS))
    margin, alpha, at = _stated("ratio", fields, below=100)
    return Ratio(margin=margin, alpha=alpha, at=at, worse=worse)


def _text(given: Json) -> Claim:
    fields = members_of("text", given, {"margin", "permutations", "characters", "alpha", "at"})
    permutations, characters = fields.get("permutations", 1000), fields.get("characters", 100)
    if not _is_count(permutations, 100) or permutations > 100_000:
        raise malformed("`text`", given, "permutations, a whole number from 100 to 100000")
    if not _is_count(characters, 1) or characters > 10_000:
        raise malformed("`text`", given, "characters, a whole number from 1 to 10000")
    margin, alpha, at = _stated("text", fields, below=2)
    return Text(margin=margin, alpha=alpha, at=at, permutations=permutations, characters=characters)


def _stated(word: str, fields: dict[str, Json], *, below: float) -> tuple[float, float, tuple[Step, ...]]:
    """Margin, alpha and path. The margin has no default: it is the owner's word on what does not matter."""
    margin, alpha, at = fields.get("margin", 0), fields.get("alpha", ALPHA), fields.get("at", "$")
    if not (is_finite(margin) and 0 < margin < below):
        raise malformed(f"`{word}`", fields, f"margin, a number above 0 and below {below:g}")
    if not (is_finite(alpha) and 0.0001 <= alpha <= 0.2):
        raise malformed(f"`{word}`", fields, "alpha, a chance from 0.0001 to 0.2")
    if not isinstance(at, str):
        raise malformed(f"`{word}`", fields, "at, a path")
    return margin, alpha, parse_path(at)


def _is_count(value: Json, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


_READERS: dict[str, Callable[[Json], Claim]] = {
    "equivalent": _equivalent,
    "passes": _passes,
    "ratio": _ratio,
    "text": _text,
}
