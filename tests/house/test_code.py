"""The house in order: floors, sizes, and words that do not belong in a repository."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import resurgam

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
FILE_LINES, FUNCTION_LINES = 450, 60
LEFT_OUT = {".git", ".venv", ".hypothesis", "__pycache__", "work", "dist", "build"}
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".json", ".cfg", ""}
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
PLACES = re.compile(r"(?<![\w./{}])/(root|work)/\w|/tmp/parts|pythonhosted\.org|pypi\.org")
BAGS = re.compile(r"(^|_)(util|utils|common|helpers?|misc)(_|$)")


def texts() -> Iterator[Path]:
    """Every text file of the repository but this one, which names what none may hold."""
    for where, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in LEFT_OUT and not name.endswith(("_cache", ".egg-info"))]
        files = (Path(where, name) for name in names if Path(name).suffix in TEXT)
        yield from (path for path in files if path != Path(__file__))


def functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every function with its number of lines, its docstring left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            yield node.name, (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_imports_go_down_only() -> None:
    """The floors of docs/design.md, by import-linter's own judgement."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_a_file_is_short_and_tells_its_story(path: Path) -> None:
    """A file that is long or hard to name is two files; a function that needs a heading inside is two."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= FILE_LINES
    assert not text or ast.get_docstring(tree), "a module begins with what it is"
    assert [(name, lines) for name, lines in functions(tree) if lines > FUNCTION_LINES] == []
    assert not BAGS.search(path.stem), "a bag of things has no name"


def test_nothing_is_left_unfinished_and_no_machine_is_named() -> None:
    """What is not done stands in the README's status, and no path of anybody's machine stands anywhere."""
    found = []
    for path in texts():
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if UNFINISHED.search(line) or PLACES.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert found == []


def test_no_dangerous_shortcuts() -> None:
    """No pickle, no shell, no eval: what is read may come from an enemy."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import) and any(
                alias.name in {"pickle", "marshal", "shelve"} for alias in node.names
            ):
                found.append(f"{path.name}:{node.lineno}")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"eval", "exec"}:
                found.append(f"{path.name}:{node.lineno}")
            if isinstance(node, ast.keyword) and node.arg == "shell":
                found.append(f"{path.name}:{node.lineno}")
    assert found == []


def test_one_version_and_one_licence() -> None:
    """Package, code and changelog agree; the licence is where it is said to be."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    newest = re.search(r"^## \[([0-9.]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert project["version"] == resurgam.__version__ == newest[1]
    assert project["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert (ROOT / "src/resurgam/py.typed").exists()


def test_what_is_installed_is_pinned() -> None:
    """A fresh clone installs what was tested: exact versions, from wherever the owner's installer takes them."""
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9._-]+==[0-9][0-9a-z.]*", pin)] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    names = {re.split(r"[<>=\[ ]", requirement)[0].lower() for requirement in wanted}
    assert names <= {pin.split("==")[0] for pin in pins}
