"""What ``resurgam drivers`` claims is so: a certified driver has sat its exam, unskipped, with the versions that are pinned."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator

import pytest

from resurgam.drivers.registry import _OURS, answers_of, driver_for
from tests.house.test_code import ROOT

EXAMS = ROOT / "tests/drivers"
CERTIFIED = sorted(kind for kind, place in _OURS.items() if place.certified)
HEADINGS = (
    "What is captured",
    "Consistency",
    "Minimum permissions",
    "Locks and load on the source",
    "Pitfalls",
    "Figures",
)
SKIPS = {"importorskip", "skip", "skipif", "xfail"}


def examined(tree: ast.Module) -> Iterator[ast.ClassDef]:
    """The classes of a module that sit the exam, directly or through one of their own module."""
    exams = {"DriverExam"}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and {base.id for base in node.bases if isinstance(base, ast.Name)} & exams:
            exams.add(node.name)
            yield node


def exam_of(kind: str) -> ast.Module:
    """The module that holds the exam of a kind."""
    return ast.parse((EXAMS / f"test_{kind}_exam.py").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", CERTIFIED)
def test_a_certified_driver_sits_its_exam(kind: str) -> None:
    """A class of the exam makes this very driver, and nothing in its module skips a test of it."""
    tree, maker = exam_of(kind), type(driver_for(kind)).__name__
    assert any(maker in ast.unparse(exam) for exam in examined(tree)), f"no exam makes a {maker}"
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & SKIPS
    assert not used, f"the exam of {kind} may be skipped by {used}"


def test_every_driver_that_sits_its_exam_is_certified() -> None:
    """The list does not lag behind the tests."""
    sitting = {path.name[5:-8] for path in EXAMS.glob("test_*_exam.py")}
    assert sitting & set(_OURS) == set(CERTIFIED)


@pytest.mark.parametrize("kind", sorted(_OURS))
def test_the_versions_tested_are_those_that_are_pinned_and_asked_for(kind: str) -> None:
    """``constraints.txt`` says what the exam runs with; the newest version claimed is that one, and an extra brings it."""
    pins = dict(pin.split("==") for pin in (ROOT / "constraints.txt").read_text(encoding="utf-8").split())
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    brought = {re.split(r"[<>=\[ ]", asked)[0] for extra in extras.values() for asked in extra}
    for library, versions in _OURS[kind].tested.items():
        assert versions[-1] == pins[library], library
        assert library in brought


@pytest.mark.parametrize("kind", sorted(_OURS))
def test_what_a_kind_answers_is_what_its_driver_has(kind: str) -> None:
    """The table is read where a driver's library may be missing; a driver of another package has no line in it."""
    assert _OURS[kind].answers == answers_of(driver_for(kind))


@pytest.mark.parametrize("kind", sorted(_OURS))
def test_every_driver_has_its_page(kind: str) -> None:
    """Named in the list of drivers, told in a page that answers what every owner of a store asks."""
    assert _OURS[kind].captures
    page = (ROOT / f"docs/drivers/{kind}.md").read_text(encoding="utf-8")
    assert [heading for heading in HEADINGS if f"\n## {heading}\n" not in page] == []
    assert "Not captured" in page
