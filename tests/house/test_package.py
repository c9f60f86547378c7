"""The installed package works by itself: it holds its types, its licence, the examples that ``resurgam demo`` builds,
and the script that ``audit export`` puts beside what it exports."""

from __future__ import annotations

import os
import re
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from resurgam.restore.sandbox import available

ROOT = Path(__file__).parents[2]
SHIPPED = ("docs/verify.py", "examples/__init__.py", "examples/handbook", "examples/helpdesk")


def test_the_wheel_is_told_what_to_hold() -> None:
    """Where ``cli.demo_stage`` and ``vault.auditexport`` look for it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["src/resurgam"]
    assert wheel["force-include"] == {name: f"resurgam/shipped/{name}" for name in SHIPPED}


def test_the_wheel_holds_all_that_it_needs(tmp_path: Path) -> None:
    """Built as ``pip`` builds it. Needs hatchling, which installs with ``pip install .`` and not with the tests."""
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed beside the tests")
    (built,) = wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(built) as archive:
        names = set(archive.namelist())
    ours = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/resurgam").rglob("*.py")}
    shipped = {
        f"resurgam/shipped/{path.relative_to(ROOT).as_posix()}"
        for name in SHIPPED
        for path in (ROOT / name, *(ROOT / name).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert ours | shipped | {"resurgam/py.typed"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert [name for name in names if "__pycache__" in name or name.startswith("tests/")] == []


def test_no_store_is_skipped() -> None:
    """`make test` installs what the stores' tests need; where one is missing, those would be skipped and nobody told."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    names = {re.split(r"[<>=\[]", needed)[0] for extra in extras.values() for needed in extra} - {"resurgam"}
    assert len(names) >= 10
    for name in names:
        assert metadata.version(name)


@pytest.mark.skipif("CI" not in os.environ, reason="a developer's machine may have no namespaces")
def test_no_wall_is_skipped_in_ci() -> None:
    """P6: where the walls cannot be tested, CI is red and not green."""
    assert available() == (True, "")
