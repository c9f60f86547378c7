"""How alike two answers to one case are, from 0 to 1. An answer that is not of the form a score wants is alike to nothing: 0.

Ranked lists are looked at down to ``k``. Of two heads, *overlap* is the share that both have of the longer one; *recall* the
share of the expected one that was found; *rbo* rank-biased overlap with p = 0.9, extrapolated, in which early places weigh
more (Webber, Moffat and Zobel 2010). *numeric* is 1 less the largest part by which two numbers of the answers differ.
"""

from __future__ import annotations

from collections import Counter
from itertools import zip_longest

from resurgam.model.system import Json
from resurgam.proof.claims import Equivalent
from resurgam.proof.compare import head
from resurgam.proof.places import canonical, is_number

PERSISTENCE = 0.9  # of rbo: the first ten places hold 86 % of the weight


def score(claim: Equivalent, expected: Json, got: Json) -> float:
    """The score that a claim asks for, of two answers already reduced to what is judged."""
    if claim.score == "numeric":
        return numeric(expected, got, claim.scale)
    ours, theirs = head(expected, claim.k, claim.by), head(got, claim.k, claim.by)
    if ours is None or theirs is None:
        return 0.0
    if claim.score == "rbo":
        return rbo(ours, theirs)
    common = (Counter(ours) & Counter(theirs)).total()
    whole = len(ours) if claim.score == "recall" else max(len(ours), len(theirs))
    return common / whole if whole else 1.0


def is_scorable(claim: Equivalent, answer: Json) -> bool:
    """Whether an answer is of the form that the score wants."""
    return claim.score == "numeric" or head(answer, claim.k, claim.by) is not None


def rbo(ours: list[str], theirs: list[str]) -> float:
    """Rank-biased overlap of two heads; a head that ends early agrees on nothing below its end."""
    seen: Counter[str | None] = Counter()  # more often in ours above 0, in theirs below
    common, total = 0, 0.0
    depth = max(len(ours), len(theirs))
    for at, pair in enumerate(zip_longest(ours, theirs), 1):
        for item, side in zip(pair, (1, -1), strict=True):
            if item is not None:
                common += seen[item] * side < 0
                seen[item] += side
        total += PERSISTENCE**at * common / at
    return min(1.0, common / depth * PERSISTENCE**depth + (1 - PERSISTENCE) / PERSISTENCE * total) if depth else 1.0


def numeric(expected: Json, got: Json, scale: float | None) -> float:
    """The least score of any two numbers at the same place; 0 where the answers differ in anything but numbers."""
    if is_number(expected) and is_number(got):
        if expected == got:
            return 1.0
        whole = max(abs(expected), abs(got)) if scale is None else scale
        return float(max(0.0, 1 - abs(expected - got) / whole))
    if isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        return min((numeric(a, b, scale) for a, b in zip(expected, got, strict=True)), default=1.0)
    if isinstance(expected, dict) and isinstance(got, dict) and expected.keys() == got.keys():
        return min((numeric(expected[name], got[name], scale) for name in expected), default=1.0)
    return float(canonical(expected) == canonical(got))


def told(claim: Equivalent, expected: Json, got: Json) -> str:
    """What a person wants to know of a case that lost: which items went, and which are new."""
    ours, theirs = head(expected, claim.k, claim.by), head(got, claim.k, claim.by)
    if claim.score == "numeric" or ours is None or theirs is None:
        return ""
    lost, new = [i for i in ours if i not in theirs], [i for i in theirs if i not in ours]
    if not lost and not new:
        return "the same items in another order"
    words = [f"{len(lost)} of {len(ours)} lost: {_few(lost)}"] if lost else []
    return "; ".join([*words, *([f"new: {_few(new)}"] if new else [])])


def _few(items: list[str], most: int = 5) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
