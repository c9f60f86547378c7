"""How two values differ: each kind in its own language, cut where it is long, and with no secret in it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resurgam.model.secrets import masked
from resurgam.restore.differences import LINES, MEMBERS, SHORT, Value, changed, only, printable, text, unified

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3),
    max_leaves=8,
)


def told(name: str, before: Any, after: Any) -> list[Value]:
    return list(changed(name, before, after, masked))


def vector(*numbers: float) -> bytes:
    return np.array(numbers, "<f4").tobytes()


def test_numbers_and_short_texts_are_shown_whole() -> None:
    assert told("size", 3, 4) == [Value(name="size", before="3", after="4")]
    assert told("title", "old", "new") == [Value(name="title", before='"old"', after='"new"')]
    assert told("owner", None, "me") == [Value(name="owner", before="null", after='"me"')]
    assert told("size", 3, 3) == []


def test_a_value_of_another_type_is_another_value() -> None:
    """``1`` is not ``1.0`` and not ``"1"``: each shows."""
    assert told("n", 1, 1.0) == [Value(name="n", before="1", after="1.0")]
    assert told("n", 1, "1") == [Value(name="n", before="1", after='"1"')]


def test_of_a_long_text_the_stretch_that_differs_is_shown() -> None:
    before = "a" * 500 + "the cat" + "b" * 500
    (value,) = told("body", before, before.replace("cat", "dog"))
    assert value.before is not None
    assert value.after is not None
    assert "the cat" in value.before
    assert "the dog" in value.after
    assert len(value.after) <= SHORT + 4
    assert value.said == "at character 505 of 1007"


def test_lines_become_a_unified_diff() -> None:
    (value,) = told("prompt", "one\ntwo\nthree\n", "one\nTWO\nthree\n")
    assert value.lines == ("@@ -1,3 +1,3 @@", " one", "-two", "+TWO", " three")


def test_a_long_diff_is_cut_and_says_so() -> None:
    lines = unified("\n".join(map(str, range(500))), "\n".join(map(str, range(500, 1000))))
    assert len(lines) == LINES + 1
    assert "more lines" in lines[-1]


def test_json_is_told_member_by_member() -> None:
    before, after = {"a": {"b": [1, 2]}, "gone": 1}, {"a": {"b": [1, 3, 4]}, "new": "x"}
    for one, other in ((before, after), (json.dumps(before), json.dumps(after))):
        found = {(v.name, v.before, v.after) for v in told("state", one, other)}
        assert found == {
            ("state.a.b[1]", "2", "3"),
            ("state.a.b[2]", None, "4"),
            ("state.gone", "1", None),
            ("state.new", None, '"x"'),
        }


def test_true_is_not_one_inside_a_structure_either() -> None:
    assert told("v", [True], [1]) == [Value(name="v[0]", before="true", after="1")]


def test_the_same_json_written_otherwise_says_so() -> None:
    (value,) = told("v", '{"a": 1, "b": 2}', '{"b":2,"a":1}')
    assert value.said == "the same JSON value, written otherwise"


def test_many_members_are_cut_and_said() -> None:
    values = told("state", {str(n): 0 for n in range(99)}, {str(n): 1 for n in range(99)})
    assert len(values) == MEMBERS + 1
    assert values[-1].said == "more members differ"


@given(JSON, JSON)
def test_what_differs_is_told_and_what_is_equal_is_not(before: Any, after: Any) -> None:
    """Never nothing where two values differ, never something where they are the same."""
    same = json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)
    assert bool(told("v", before, after)) == (not same)


def test_a_vector_says_how_far_it_moved() -> None:
    (value,) = told("vector", vector(1, 0), vector(0, 1))
    assert value.said == f"moved: cosine distance 1, L2 {math.sqrt(2):.3g} (2 dimensions)"
    (value,) = told("embedding", vector(1, 1), vector(1.1, 1.1))
    assert value.said.startswith("moved: cosine distance ")
    assert float(value.said.split()[3].rstrip(",")) < 1e-6


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (vector(1, 2), vector(1, 2, 3), "another dimension: 2 -> 3"),
        (vector(1, 2), vector(1, math.nan), "no numbers"),
        (vector(0, 0), vector(3, 4), "moved: L2 5 (2 dimensions)"),  # nothing has no direction
    ],
)
def test_vectors_that_cannot_be_compared_say_why(before: bytes, after: bytes, words: str) -> None:
    (value,) = told("vector", before, after)
    assert words in value.said


def test_other_bytes_are_told_by_size_and_digest() -> None:
    (value,) = told("checkpoint", b"1234", b"12345")
    assert value.before is not None
    assert value.before.startswith("4 bytes, blake3 ")
    assert value.before != value.after


def test_a_row_of_one_side_is_told_by_its_columns() -> None:
    assert list(only(("id", "note", "vector"), (1, None, vector(1, 2)), "after", masked)) == [
        Value(name="id", after="1"),
        Value(name="vector", after="a vector of 2 dimensions"),
    ]


SECRETS = [
    ("password", "hunter2", "hunter3"),
    ("note", "api_key: hunter2", "api_key: hunter3"),
    ("note", "x" * 300 + " postgres://me:hunter2@host/db", "x" * 300 + " postgres://me:hunter3@host/db and more"),
    ("note", {"deep": [{"token": "hunter2"}]}, {"deep": [{"token": "hunter3"}]}),
    ("note", '{"secret": "hunter2", "a": 1}', '{"secret": "hunter3", "a": 2}'),
    ("note", "line\nsk-hunter2hunter2hunter2\n", "line\nsk-hunter3hunter3hunter3\n"),
    ("note", "see https://host/a?token=hunter2", "see https://host/a?token=hunter3"),
    ("note", "-----BEGIN PRIVATE KEY-----\nhunter2\n", "-----BEGIN PRIVATE KEY-----\nhunter3\n"),
    ("note", None, {"api_key": "hunter3", "kept": "hunters"}),
]


@pytest.mark.parametrize(("name", "before", "after"), SECRETS)
def test_no_secret_is_shown(name: str, before: Any, after: Any) -> None:
    """P12: not whole, not its beginning, not in a member; that something differs is said all the same."""
    values = told(name, before, after)
    assert values
    assert not [value for value in values if "hunter2" in repr(value) or "hunter3" in repr(value)]


@pytest.mark.parametrize(
    "plain", ["max_tokens: 5", "token by token", "secret: ${NAME}", "password:", "tokens = [1]", "a: b\nc: d"]
)
def test_what_is_no_secret_stays(plain: str) -> None:
    assert masked(plain) == plain


def test_nothing_shown_steers_a_terminal() -> None:
    assert printable("a\x1b[2Jb\u202ec\td") == "a\\x1b[2Jb\\u202ec\td"
    (value,) = told("title", "a", "\x1b[31mred")
    assert "\x1b" not in repr(value.after).replace("\\x1b", "")
    assert all("\x1b" not in line for line in text("x", "a\nb\n", "a\n\x1b[0m\n").lines)
