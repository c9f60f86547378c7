"""Each tolerance: what it lets pass, what not, and what is refused as malformed."""

from __future__ import annotations

import math
import time

import pytest

from resurgam.errors import ManifestError
from resurgam.model.system import Json
from resurgam.model.verdict import Judgement
from resurgam.proof.claims import ALARM, Equivalent, Passes, Ratio, Text, check_tolerance, read_claim
from resurgam.proof.compare import compare
from resurgam.proof.patterns import MAX_TEXT, safe_pattern
from resurgam.proof.places import first_difference, parse_path, select, show_place, show_value
from resurgam.proof.scores import numeric, rbo, score, told

IDENTICAL, EQUIVALENT, INCONCLUSIVE, DIFFERENT = Judgement


@pytest.mark.parametrize(
    ("expected", "got", "judgement"),
    [
        ({"a": 1, "b": [None]}, {"b": [None], "a": 1}, IDENTICAL),
        (1, 1.0, DIFFERENT),
        (True, 1, DIFFERENT),
        (0.0, -0.0, DIFFERENT),
        (math.nan, math.nan, IDENTICAL),
        (math.nan, None, DIFFERENT),
        (math.nan, "NaN", DIFFERENT),
        ("1", 1, DIFFERENT),
        (2**63, 2**63 + 1, DIFFERENT),
        (None, {}, DIFFERENT),
        ([], {}, DIFFERENT),
        ([1, 2], [2, 1], DIFFERENT),
        ("é", "e\u0301", DIFFERENT),
        ({"a": None}, {}, DIFFERENT),
    ],
)
def test_exact(expected: Json, got: Json, judgement: Judgement) -> None:
    assert compare(expected, got, "exact").judgement is judgement


@pytest.mark.parametrize(
    ("margin", "expected", "got", "judgement"),
    [
        ({"abs": 0.1}, 1.0, 1.05, EQUIVALENT),
        ({"abs": 0.1}, 1.0, 1.2, DIFFERENT),
        ({"abs": 0}, 1, 1.0, EQUIVALENT),
        ({"abs": 0}, 0.0, -0.0, EQUIVALENT),
        ({"rel": 0.01}, 100, 100.9, EQUIVALENT),
        ({"rel": 0.01}, 100, 102, DIFFERENT),
        ({"rel": 0.1}, 10, 11.05, EQUIVALENT),
        ({"rel": 0.1}, 11.05, 10, EQUIVALENT),
        ({"rel": 0.01, "abs": 5}, 100, 104, EQUIVALENT),
        ({"abs": 0}, 2**63, 2**63 + 1, DIFFERENT),
        ({"abs": 1}, [1, {"a": 2}], [1.5, {"a": 2.5}], EQUIVALENT),
        ({"abs": 1}, [1, "x"], [1, "y"], DIFFERENT),
        ({"abs": 1}, [1, 2], [1], DIFFERENT),
        ({"abs": 1}, {"a": 1}, {"b": 1}, DIFFERENT),
        ({"abs": 1}, True, 1, DIFFERENT),
        ({"abs": 1}, 1, True, DIFFERENT),
        ({"abs": 1}, 1, "1", DIFFERENT),
        ({"abs": 1}, math.nan, 1.0, DIFFERENT),
        ({"abs": 1}, math.inf, math.inf, IDENTICAL),
        ({"rel": 1}, math.inf, -math.inf, EQUIVALENT),
        ({"abs": 1}, math.inf, 1.0, DIFFERENT),
    ],
)
def test_numeric(margin: Json, expected: Json, got: Json, judgement: Judgement) -> None:
    assert compare(expected, got, {"numeric": margin}).judgement is judgement


@pytest.mark.parametrize(
    ("ends", "got", "judgement"),
    [
        ([1, 3], 2, EQUIVALENT),
        ([1, 3], 3, EQUIVALENT),
        ([1, 3], 3.01, DIFFERENT),
        ([1, None], 1e300, EQUIVALENT),
        ([None, 3], -7, EQUIVALENT),
        ([0, 3], True, DIFFERENT),
        ([0, 3], "2", DIFFERENT),
        ([0, 3], math.nan, DIFFERENT),
        ([0, 3], 99, IDENTICAL),
    ],
)
def test_range_judges_the_answer_alone(ends: Json, got: Json, judgement: Judgement) -> None:
    assert compare(99, got, {"range": ends}).judgement is judgement


@pytest.mark.parametrize(
    ("pattern", "got", "judgement"),
    [
        (r"ticket \d+", "ticket 12", EQUIVALENT),
        (r"ticket \d+", "my ticket 12", DIFFERENT),
        (r"ticket \d+", "ticket 12\n", DIFFERENT),
        (r"(?s).*fire.*", "the\ngreat fire of London", EQUIVALENT),
        (r"\d+", 12, DIFFERENT),
        (r".*", "x" * (MAX_TEXT + 1), INCONCLUSIVE),
    ],
)
def test_regex(pattern: str, got: Json, judgement: Judgement) -> None:
    assert compare("none of these", got, {"regex": pattern}).judgement is judgement


@pytest.mark.parametrize(
    "pattern", [r"(a+)+b", r"(a|a)*b", r"((a?){3})b", r"(?:x*y?){2,}", r"(a)\1", r"(?=a)b", r"(?x) a # )"]
)
def test_a_pattern_that_could_run_away_is_refused(pattern: str) -> None:
    """P12: a judge does not hang on the answer of a damaged system."""
    with pytest.raises(ManifestError, match="take very long"):
        check_tolerance({"regex": pattern})


HARMLESS = [r"(?:ab)+", r"(?P<n>\d{3})+", r"[(+*|)]+", r"\(a\+\)+", r"(cat|dog) \w+", r"(a+)?", r"a++", "[]|]*"]


@pytest.mark.parametrize("pattern", HARMLESS)
def test_a_harmless_pattern_is_taken(pattern: str) -> None:
    check_tolerance({"regex": pattern})


@pytest.mark.parametrize(
    "pattern", [r"a*a*b", r"a*a*a*b", r"a*a*a*a*a*a*b", r"a?" * 20 + "a*b", r"[ab]*a[ab]*a[ab]*a[ab]*c"]
)
def test_the_longest_text_takes_seconds_at_most(pattern: str) -> None:
    safe = safe_pattern(pattern)
    began = time.process_time()
    assert safe.regex.fullmatch("a" * safe.longest) is None
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    ("paths", "expected", "got", "judgement", "why"),
    [
        ({"$.answer": "exact"}, {"answer": 1, "ms": 5}, {"answer": 1, "ms": 9}, EQUIVALENT, "no path looks"),
        ({"$.answer": "exact"}, {"answer": 1}, {"answer": 2}, DIFFERENT, "$.answer: expected 1, got 2"),
        ({"$[*].s": {"numeric": {"abs": 1}}}, [{"s": 1}, {"s": 5}], [{"s": 2}, {"s": 5}], EQUIVALENT, "$[0].s: within"),
        ({"$[*].s": "exact"}, [{"s": 1}], [{"s": 1}, {"s": 2}], DIFFERENT, "$[1].s is new"),
        ({"$.*": "exact"}, {"a": 1}, {"b": 1}, DIFFERENT, "$.a is missing"),
        ({"$.nothing": "exact"}, {"a": 1}, {"a": 2}, INCONCLUSIVE, "finds nothing"),
        ({"$.a": "exact", "$.nothing": "exact"}, {"a": 1}, {"a": 2}, DIFFERENT, "$.a"),
        ({"$['a b'][0]": "exact"}, {"a b": [1, 2]}, {"a b": [1, 3]}, EQUIVALENT, "no path looks"),
        ({"$": {"numeric": {"abs": 1}}}, [1], [2], EQUIVALENT, "$: within"),
        (
            {"$.hits": {"overlap": {"k": 2, "at_least": 0.5}}},
            {"hits": [1, 2]},
            {"hits": [3, 1]},
            EQUIVALENT,
            "1 of the first 2",
        ),
    ],
)
def test_jsonpath(paths: Json, expected: Json, got: Json, judgement: Judgement, why: str) -> None:
    match = compare(expected, got, {"jsonpath": paths})
    assert match.judgement is judgement
    assert why in match.why


@pytest.mark.parametrize(
    ("options", "expected", "got", "judgement"),
    [
        ({"k": 5, "at_least": 0.8}, [1, 2, 3, 4, 5], [5, 4, 3, 2, 9], EQUIVALENT),
        ({"k": 5, "at_least": 0.8}, [1, 2, 3, 4, 5], [5, 4, 3, 8, 9], DIFFERENT),
        ({"k": 2, "at_least": 1}, [1, 2, 3], [2, 1, 9], EQUIVALENT),
        ({"k": 10, "at_least": 0.8}, [1, 2, 3], [1, 2], DIFFERENT),
        ({"k": 10, "at_least": 0.1}, [], [1], DIFFERENT),
        ({"k": 4, "at_least": 0.75}, [1, 1, 2, 3], [1, 2, 3, 4], EQUIVALENT),
        ({"k": 4, "at_least": 0.75}, [1, 1, 1, 1], [1, 2, 3, 4], DIFFERENT),
        (
            {"k": 2, "at_least": 1, "by": "id"},
            [{"id": 1, "s": 0.1}, {"id": 2}],
            [{"id": 2}, {"id": 1, "s": 0.2}],
            EQUIVALENT,
        ),
        ({"k": 2, "at_least": 0.5, "by": "id"}, [{"id": 1}], [{"name": 1}], DIFFERENT),
        ({"k": 2, "at_least": 1, "by": 0}, [["a", 0.1]], [["a", 0.2]], EQUIVALENT),
        ({"k": 2, "at_least": 0.1}, [1], "1", DIFFERENT),
    ],
)
def test_overlap(options: Json, expected: Json, got: Json, judgement: Judgement) -> None:
    assert compare(expected, got, {"overlap": options}).judgement is judgement


@pytest.mark.parametrize(
    ("tolerance", "words"),
    [
        ("exakt", "expected the word exact"),
        (None, "expected the word exact"),
        ({}, "expected the word exact"),
        ({"numeric": {"abs": 1}, "range": [1, 2]}, "expected the word exact"),
        ({"numerical": {"abs": 1}}, "Did you mean 'numeric'?"),
        ({"numeric": {}}, "abs, rel or both"),
        ({"numeric": {"abs": -1}}, "at least 0"),
        ({"numeric": {"abs": True}}, "at least 0"),
        ({"numeric": {"abs": math.nan}}, "at least 0"),
        ({"numeric": {"rell": 1}}, "Did you mean 'rel'?"),
        ({"numeric": 3}, "members abs, rel"),
        ({"range": [1]}, "[lo, hi]"),
        ({"range": [None, None]}, "[lo, hi]"),
        ({"range": [3, 1]}, "the lower end first"),
        ({"regex": 3}, "a pattern"),
        ({"regex": "(a"}, "no regular expression"),
        ({"jsonpath": {}}, "{path: tolerance"),
        ({"jsonpath": {"$..a": "exact"}}, "no path that tolerances know"),
        ({"jsonpath": {"a.b": "exact"}}, "no path that tolerances know"),
        ({"jsonpath": {"$.a[-1]": "exact"}}, "at character 3"),
        ({"jsonpath": {"$.a": "exactly"}}, "expected the word exact"),
        ({"overlap": {"k": 0, "at_least": 1}}, "k, a whole number"),
        ({"overlap": {"k": 3}}, "at_least, a share"),
        ({"overlap": {"k": 3, "at_least": 0}}, "at_least, a share"),
        ({"overlap": {"k": 3, "at_least": 0.5, "by": [1]}}, "by, the name"),
    ],
)
def test_a_malformed_tolerance_is_refused_with_the_next_step(tolerance: Json, words: str) -> None:
    """P12: also by `compare`, so that it can never pass for a tolerance that lets everything through."""
    with pytest.raises(ManifestError) as caught:
        check_tolerance(tolerance)
    assert words in str(caught.value)
    assert caught.value.next_step
    with pytest.raises(ManifestError):
        compare(1, 1, tolerance)


def test_the_first_difference_is_found_and_shown_where_it_is() -> None:
    assert (
        first_difference({"a": [1, {"b c": "x"}]}, {"a": [1, {"b c": "y"}]})
        == 'at $.a[1][\'b c\']: expected "x", got "y"'
    )
    assert first_difference([1], [1, 2]) == "at $[1] is new: 2"
    assert first_difference({"a": 1}, {}) == "at $.a is missing: 1"
    long = "word " * 1000
    difference = first_difference(long + "fire" + long, long + "water" + long)
    assert difference is not None
    assert "from character 4970" in difference
    assert len(difference) < 500
    assert first_difference("x" * 500, "x" * 501) is not None


def test_values_are_shown_cut_and_harmless() -> None:
    assert show_value("a" * 1000, 10) == '"aaaaaaaaa… (1002 characters)'
    assert show_value("\x9b31m é") == '"\\x9b31m é"'


def test_paths_select_and_are_shown() -> None:
    value = {"a": [{"b": 1}, {"b": 2}], "c d": {"e": 3}, "0": 4}
    assert select(parse_path("$.a[*].b"), value) == {("a", 0, "b"): 1, ("a", 1, "b"): 2}
    assert select(parse_path("$['c d'].e"), value) == {("c d", "e"): 3}
    assert select(parse_path('$["c d"]'), value) == {("c d",): {"e": 3}}
    assert select(parse_path("$[0]"), value) == {}
    assert select(parse_path(r"$['it\'s']"), {"it's": 1}) == {("it's",): 1}
    assert show_place(("a", 0, "c d")) == "$.a[0]['c d']"


@pytest.mark.parametrize(
    ("tolerance", "claim"),
    [
        ({"equivalent": {"score": "rbo", "margin": 0.1}}, Equivalent(score="rbo", margin=0.1)),
        (
            {
                "equivalent": {
                    "score": "overlap",
                    "k": 5,
                    "by": 0,
                    "margin": 0.01,
                    "worst": 0,
                    "alpha": 0.1,
                    "at": "$.hits",
                }
            },
            Equivalent(score="overlap", k=5, by=0, margin=0.01, worst=0, alpha=0.1, at=("hits",)),
        ),
        ({"passes": {"margin": 0.02}}, Passes(margin=0.02)),
        (
            {"passes": {"margin": 0.02, "when": {"numeric": {"abs": 1}}}},
            Passes(margin=0.02, when={"numeric": {"abs": 1}}),
        ),
        ({"ratio": {"margin": 0.2, "worse": "either"}}, Ratio(margin=0.2, worse="either")),
        ({"text": {"margin": 0.05, "characters": 20}}, Text(margin=0.05, characters=20)),
    ],
)
def test_claims_over_all_cases_are_read(tolerance: Json, claim: object) -> None:
    assert read_claim(tolerance) == claim
    check_tolerance(tolerance)


@pytest.mark.parametrize(
    "tolerance", ["exact", {"numeric": {"abs": 1}}, {"overlap": {"k": 1, "at_least": 1}}, None, {}]
)
def test_what_judges_each_case_makes_no_claim(tolerance: Json) -> None:
    assert read_claim(tolerance) is None


@pytest.mark.parametrize(
    ("tolerance", "words"),
    [
        ({"equivalent": {"margin": 0.1}}, "score, one of"),
        ({"equivalent": {"score": "overlap"}}, "margin, a number above 0"),
        ({"equivalent": {"score": "overlap", "margin": 1}}, "margin, a number above 0 and below 1"),
        ({"equivalent": {"score": "overlap", "margin": 0.1, "k": 0}}, "k, a whole number"),
        ({"equivalent": {"score": "overlap", "margin": 0.1, "by": True}}, "by, the name"),
        ({"equivalent": {"score": "overlap", "margin": 0.1, "worst": 2}}, "worst, a score"),
        ({"equivalent": {"score": "numeric", "margin": 0.1, "scale": 0}}, "scale, a number"),
        ({"equivalent": {"score": "overlap", "margin": 0.1, "alpha": 0.5}}, "alpha, a chance"),
        ({"equivalent": {"score": "overlap", "margin": 0.1, "at": "hits"}}, "is no path"),
        ({"equivalent": {"score": "overlap", "margin": 0.1, "al": 0.5}}, "no member"),
        ({"equivalent": [1]}, "members"),
        ({"passes": {"margin": 0.1, "when": "nearly"}}, "A tolerance is not as expected"),
        ({"passes": {"margin": 0.1, "when": {"ratio": {"margin": 0.1}}}}, "stands alone"),
        ({"jsonpath": {"$.a": {"passes": {"margin": 0.1}}}}, "stands alone"),
        ({"ratio": {"margin": 0}}, "margin, a number above 0"),
        ({"ratio": {"margin": 0.1, "worse": "up"}}, "worse, one of"),
        ({"text": {"margin": 0.1, "permutations": 10}}, "permutations, a whole number"),
        ({"text": {"margin": 0.1, "characters": 0}}, "characters, a whole number"),
        ({"text": {"margin": True}}, "margin, a number above 0"),
    ],
)
def test_malformed_claims_are_refused(tolerance: Json, words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        check_tolerance(tolerance)


def test_a_misspelt_tolerance_is_told_the_nearest_of_both_sorts() -> None:
    """P12."""
    with pytest.raises(ManifestError) as refused:
        check_tolerance({"equivalence": {}})
    assert "equivalent" in refused.value.next_step


def test_a_difference_is_told_at_a_smaller_chance_than_the_claim() -> None:
    assert (Passes(margin=0.1).alarm, Passes(margin=0.1, alpha=0.001).alarm) == (ALARM, 0.001)


def scored(name: str, expected: Json, got: Json, **more: Json) -> float:
    claim = read_claim({"equivalent": {"score": name, "margin": 0.1, "k": 4, **more}})
    assert isinstance(claim, Equivalent)
    return score(claim, expected, got)


@pytest.mark.parametrize(
    ("name", "expected", "got", "wanted"),
    [
        ("overlap", [1, 2, 3, 4, 5], [4, 3, 2, 1, 9], 1),
        ("overlap", [1, 2, 3, 4], [1, 2, 3, 9], 0.75),
        ("overlap", [1, 2], [1, 2, 3, 4], 0.5),
        ("recall", [1, 2], [1, 2, 3, 4], 1),
        ("recall", [1, 2, 3, 4], [1, 2], 0.5),
        ("overlap", [], [], 1),
        ("recall", [1], "1", 0),
        ("rbo", [1, 2], [1, 2], 1),
        ("rbo", [], [1], 0),
        ("rbo", [1, 2], [2, 1], 0.9),
        ("numeric", 1, 1.0, 1),
        ("numeric", 10, 9, 0.9),
        ("numeric", [1, {"a": 10}], [1, {"a": 5}], 0.5),
        ("numeric", [1, 2], [1], 0),
        ("numeric", {"a": 1, "b": "x"}, {"a": 1, "b": "y"}, 0),
        ("numeric", -1, 1, 0),
    ],
)
def test_scores(name: str, expected: Json, got: Json, wanted: float) -> None:
    """Rank-biased overlap of [1, 2] and [2, 1]: nothing of the first place, all of the two: 0.81 + 0.1/0.9 x 0.81."""
    assert scored(name, expected, got) == pytest.approx(wanted)


def test_scores_look_at_what_identifies_and_at_a_given_scale() -> None:
    assert scored("overlap", [["a", 0.1], ["b", 0.2]], [["a", 0.3], ["b", 0.4]], by=0) == 1
    assert scored("overlap", [{"id": 1}], [{"no": 1}], by="id") == 0
    assert numeric(0.4, 0.3, 1.0) == pytest.approx(0.9)


def test_early_places_weigh_more_in_rank_biased_overlap() -> None:
    head = list("abcdefgh")
    assert rbo(head, ["x", *head[1:]]) < rbo(head, [*head[:-1], "x"]) < 1


def test_what_a_list_lost_and_won_is_told() -> None:
    """Evidence that a person understands."""
    claim = Equivalent(score="overlap", margin=0.1, by=0)
    assert told(claim, [["a", 1], ["b", 2]], [["a", 1], ["c", 2]]) == '1 of 2 lost: "b"; new: "c"'
    assert told(claim, [["a", 1], ["b", 2]], [["b", 1], ["a", 2]]) == "the same items in another order"
