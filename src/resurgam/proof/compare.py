"""Whether two answers are the same, as far as the manifest's ``tolerance`` asks. Values in, values out.

An answer whose canonical JSON equals the expected one's is IDENTICAL, whatever the tolerance. Another is EQUIVALENT
when the tolerance allows it, else DIFFERENT; INCONCLUSIVE when the tolerance found nothing to judge. Tolerances::

    exact                                      nothing else is the same: 1 is not 1.0, 0.0 not -0.0, true not 1
    {numeric: {abs: 0.01, rel: 0.001}}         numbers, wherever they stand in the answer, may part by the larger of abs
                                               and rel times the larger magnitude; 1 is 1.0; all else is exact
    {range: [lo, hi]}                          the answer alone: a number within both ends; null is an open end
    {regex: "pattern"}                         the answer alone: a string that the whole pattern matches (proof.patterns)
    {jsonpath: {"$.a.b[*]": tolerance, …}}     only what the paths find is compared, place by place (proof.places)
    {overlap: {k: 10, at_least: 0.8, by: id}}  ranked lists: the share that their first k items have in common, whatever
                                               the order among them; ``by`` names the member (or, as a number, the place)
                                               that identifies an item, else the whole item does

The share in ``overlap`` is of the longer of the two heads, so a list that grew or shrank below k loses by it. The
tolerances that judge all cases of a probe together are in ``proof.claims``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from resurgam.errors import ManifestError
from resurgam.model.nearest import did_you_mean
from resurgam.model.system import Json
from resurgam.model.verdict import Judgement
from resurgam.proof.patterns import safe_pattern
from resurgam.proof.places import canonical, first_difference, is_number, parse_path, select, show_place, show_value

OVER_ALL_CASES = ("equivalent", "passes", "ratio", "text")  # the words of proof.claims


class Match(NamedTuple):
    """How one answer compares, and why."""

    judgement: Judgement
    why: str


Rule = Callable[[Json, Json], Match]  # (expected, got), which are not canonically equal

IDENTICAL = Match(Judgement.IDENTICAL, "the same")


def compare(expected: Json, got: Json, tolerance: Json) -> Match:
    """Compare one answer with the expected one. Raises ManifestError where the tolerance is malformed."""
    return _compare(_rule(tolerance), expected, got)


def check_tolerance(tolerance: Json) -> None:
    """Raises ManifestError where ``tolerance`` is malformed; for the reader of the manifest."""
    _rule(tolerance)


def _compare(rule: Rule, expected: Json, got: Json) -> Match:
    return IDENTICAL if canonical(expected) == canonical(got) else rule(expected, got)


def _rule(tolerance: Json) -> Rule:
    if tolerance == "exact":
        return _exact
    if not isinstance(tolerance, dict) or len(tolerance) != 1:
        raise malformed("A tolerance", tolerance, "the word exact, or one of " + ", ".join(_RULES))
    ((word, given),) = tolerance.items()
    if word in OVER_ALL_CASES:
        raise malformed(
            "A tolerance", tolerance, f"one that judges each case; {word} judges all together, and stands alone"
        )
    if word not in _RULES:
        known = ["exact", *_RULES, *OVER_ALL_CASES]
        raise ManifestError(f"{word!r} is no tolerance.", next_step=did_you_mean(str(word), known))
    return _RULES[word](given)


def _exact(expected: Json, got: Json) -> Match:
    return Match(Judgement.DIFFERENT, first_difference(expected, got) or "not the same")


def _numeric(given: Json) -> Rule:
    fields = members_of("numeric", given, {"abs", "rel"})
    if not fields or not all(is_finite(margin) and margin >= 0 for margin in fields.values()):
        raise malformed("`numeric`", given, "abs, rel or both, as numbers of at least 0")
    absolute, relative = fields.get("abs", 0), fields.get("rel", 0)

    def close(a: float, b: float) -> bool:
        return a == b or abs(a - b) <= max(absolute, relative * max(abs(a), abs(b)))

    def rule(expected: Json, got: Json) -> Match:
        difference = first_difference(expected, got, close)
        return (
            Match(Judgement.DIFFERENT, f"beyond the numeric tolerance: {difference}")
            if difference
            else _equivalent("within the numeric tolerance")
        )

    return rule


def _range(given: Json) -> Rule:
    ends = given if isinstance(given, list | tuple) and len(given) == 2 else None
    if ends is None or not all(end is None or is_finite(end) for end in ends) or ends[0] is ends[1] is None:
        raise malformed("`range`", given, "[lo, hi], one of which may be null")
    low, high = (-math.inf if ends[0] is None else ends[0]), (math.inf if ends[1] is None else ends[1])
    if low > high:
        raise malformed("`range`", given, "the lower end first")

    def rule(_expected: Json, got: Json) -> Match:
        if is_number(got) and low <= got <= high:
            return _equivalent(f"within [{low}, {high}]")
        return Match(Judgement.DIFFERENT, f"{show_value(got)} is not a number within [{low}, {high}]")

    return rule


def _regex(given: Json) -> Rule:
    if not isinstance(given, str):
        raise malformed("`regex`", given, "a pattern")
    pattern = safe_pattern(given)

    def rule(_expected: Json, got: Json) -> Match:
        if not isinstance(got, str):
            return Match(Judgement.DIFFERENT, f"{show_value(got)} is not a string")
        if len(got) > pattern.longest:
            why = f"{len(got)} characters are more than this pattern may be tried on ({pattern.longest})"
            return Match(Judgement.INCONCLUSIVE, why)
        if pattern.regex.fullmatch(got):
            return _equivalent("matches the pattern")
        return Match(Judgement.DIFFERENT, f"{show_value(got)} does not match {show_value(given)}")

    return rule


def _jsonpath(given: Json) -> Rule:
    if not isinstance(given, dict) or not given or not all(isinstance(path, str) for path in given):
        raise malformed("`jsonpath`", given, "{path: tolerance, …}")
    rules = [(path, parse_path(path), _rule(tolerance)) for path, tolerance in given.items()]

    def rule(expected: Json, got: Json) -> Match:
        matches: list[Match] = []
        for path, steps, inner in rules:
            ours, theirs = select(steps, expected), select(steps, got)
            if not ours and not theirs:  # P4: what finds nothing has judged nothing
                matches.append(Match(Judgement.INCONCLUSIVE, f"{path} finds nothing in either answer"))
            for place in ours.keys() | theirs.keys():
                where = show_place(place)
                if place in ours and place in theirs:
                    match = _compare(inner, ours[place], theirs[place])
                    matches.append(Match(match.judgement, f"{where}: {match.why}"))
                else:
                    what = "is missing" if place in ours else "is new"
                    matches.append(Match(Judgement.DIFFERENT, f"{where} {what}"))
        worst = max(match.judgement for match in matches)
        if worst is Judgement.IDENTICAL:
            return _equivalent("differs only where no path looks")
        return min(match for match in matches if match.judgement is worst)

    return rule


def _overlap(given: Json) -> Rule:
    fields = members_of("overlap", given, {"k", "at_least", "by"})
    k, share, by = fields.get("k"), fields.get("at_least"), fields.get("by")
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise malformed("`overlap`", given, "k, a whole number of at least 1")
    if share is None or not is_finite(share) or not 0 < share <= 1:
        raise malformed("`overlap`", given, "at_least, a share above 0 and up to 1")
    if isinstance(by, bool) or not (by is None or isinstance(by, str) or (isinstance(by, int) and by >= 0)):
        raise malformed("`overlap`", given, "by, the name or the place of the identifying member")

    def rule(expected: Json, got: Json) -> Match:
        heads = []
        for answer in (expected, got):
            items = head(answer, k, by)
            if items is None:
                wanted = "a list" if by is None else f"a list of items with {by!r}"
                return Match(Judgement.DIFFERENT, f"{show_value(answer)} is not {wanted}")
            heads.append(Counter(items))
        size = max(heads[0].total(), heads[1].total())
        common = (heads[0] & heads[1]).total()
        why = f"{common} of the first {size} in common, {share:g} wanted"
        return _equivalent(why) if common >= share * size - 1e-9 else Match(Judgement.DIFFERENT, why)

    return rule


def head(answer: Json, k: int, by: str | int | None) -> list[str] | None:
    """What identifies the first ``k`` items, or None where the answer is not such a list."""
    if not isinstance(answer, list):
        return None
    items = answer[:k]
    if by is not None:
        found = [list(select((by,), item).values()) for item in items]
        if not all(found):
            return None
        items = [values[0] for values in found]
    return [canonical(item) for item in items]


_RULES: dict[str, Callable[[Json], Rule]] = {
    "numeric": _numeric,
    "range": _range,
    "regex": _regex,
    "jsonpath": _jsonpath,
    "overlap": _overlap,
}


def _equivalent(why: str) -> Match:
    return Match(Judgement.EQUIVALENT, why)


def members_of(word: str, given: Json, known: AbstractSet[str]) -> dict[str, Json]:
    """The members of a tolerance's object. Raises ManifestError where it is none, or has one that is not ``known``."""
    if not isinstance(given, dict):
        raise malformed(f"`{word}`", given, "members " + ", ".join(sorted(known)))
    for name in given:
        if name not in known:
            raise ManifestError(f"`{word}` has no member {name!r}.", next_step=did_you_mean(str(name), known))
    return given


def is_finite(value: Json) -> bool:
    """Whether ``value`` is a number that can be a margin."""
    return is_number(value) and math.isfinite(value)


def malformed(what: str, given: Json, wanted: str) -> ManifestError:
    """The error for a tolerance that is not as ``wanted``."""
    return ManifestError(
        f"{what} is not as expected: {show_value(given)}; expected {wanted}.",
        next_step="The tolerances are described in docs/probes.md.",
    )
