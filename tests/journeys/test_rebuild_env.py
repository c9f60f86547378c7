"""From a point back to a virtual environment: captured by the command line, lost, rebuilt by the installer here, compared.

The packages are wheels that the tests build themselves, offered to pip as a folder (``PIP_FIND_LINKS``, ``PIP_NO_INDEX``), so that
nothing is fetched and a wheel of the same version with other bytes can be put in its place.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

from tests.journeys.world import Result, World, partial_folders, remove

MANIFEST = """
  runtime: {{driver: environment, location: {venv}, options: {{hosted: {hosted}}}}}
"""


def wheel(folder: Path, name: str, version: str, body: str) -> None:
    """A wheel with one module and one program (packaging.python.org, "Binary distribution format")."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": body,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name}-say = {name}:main\n",
    }
    hashes = {
        path: urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=") for path, text in files.items()
    }
    record = "".join(f"{path},sha256={hashes[path].decode()},{len(text)}\n" for path, text in files.items())
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in (*files.items(), (f"{info}/RECORD", f"{record}{info}/RECORD,,\n")):
            archive.writestr(path, text)


def body(words: str) -> str:
    return f"def main():\n    print({words!r})\n"


class Story:
    """A system whose application runs in an environment with two packages, captured once."""

    def __init__(self, home: Path, hosted: str = "[]") -> None:
        self.wheels = home / "wheels"
        self.wheels.mkdir()
        wheel(self.wheels, "greeting", "1.2", body("good morning"))
        wheel(self.wheels, "farewell", "0.3", body("good night"))
        self.world = World(os.fspath(home)).build()
        self.world.env |= {"PIP_FIND_LINKS": str(self.wheels), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
        self.venv = Path(self.world.system.root, "venv")
        pip = [sys.executable, "-m", "pip", "--python", str(self.venv / "bin/python"), "install", "-q"]
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.venv], check=True)
        subprocess.run([*pip, "greeting", "farewell"], env=os.environ | self.world.env, check=True)
        added = MANIFEST.format(venv="venv", hosted=hosted)
        self.world.manifest(("\ninvariants:", f"{added}\ninvariants:"))
        assert self.world.run("vault", "init").code == 0
        self.point = self.world.capture()

    def rebuild(self, *words: str, into: str = "again") -> Result:
        return self.world.run("rebuild-env", "latest", "--into", self.world.path(into), "--json", *words)

    def unequal(self, result: Result) -> dict[str, str]:
        return {each["what"]: each["likeness"] for each in result.json["lines"] if each["likeness"] != "equal"}

    def say(self, folder: str, program: str) -> str:
        done = subprocess.run([self.world.path(f"{folder}/bin/{program}")], capture_output=True, text=True, check=True)
        return done.stdout.strip()


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


def test_what_was_captured_comes_back_and_runs(story: Story) -> None:
    """The live environment is gone; the new one is equal in all that is compared, and its programs work at their new place."""
    remove(os.fspath(story.venv))
    result = story.rebuild()
    assert (result.code, story.unequal(result)) == (0, {}), result
    assert result.json["judgement"] == "identical"
    assert {each["what"] for each in result.json["lines"]} >= {
        "greeting",
        "farewell",
        "interpreter version",
        "machine cpu",
    }
    assert story.say("again", "greeting-say") == "good morning"
    assert partial_folders(story.world.home) == []
    for where, _, names in os.walk(story.world.path("again")):
        # P5: nothing in it knows the name under which it was built
        assert not [name for name in names if b".partial-" in Path(where, name).read_bytes()], where


def test_the_same_version_with_other_bytes_is_different(story: Story) -> None:
    """P4: a name and a version prove nothing."""
    wheel(story.wheels, "greeting", "1.2", body("good mourning"))
    result = story.rebuild()
    assert (result.code, story.unequal(result)) == (20, {"greeting": "differs"})
    assert story.say("again", "greeting-say") == "good mourning"


def test_a_missing_package_leaves_nothing_at_the_place(story: Story) -> None:
    """P5: what is not whole does not appear; --incomplete accepts it, and the other package is there."""
    next(story.wheels.glob("greeting*")).unlink()
    result = story.rebuild()
    assert (result.code, story.unequal(result)) == (20, {"greeting": "missing"})
    assert result.json["into"] is None
    assert "greeting" in next(each["why"] for each in result.json["lines"] if each["what"] == "greeting")
    assert not os.path.lexists(story.world.path("again"))
    assert partial_folders(story.world.home) == []
    assert story.rebuild("--incomplete").code == 20
    assert story.say("again", "farewell-say") == "good night"


def test_what_cannot_be_restored_is_never_called_identical(tmp_path: Path) -> None:
    """P4: a hosted model is the provider's."""
    result = Story(tmp_path, hosted="[{provider: acme, model: large}]").rebuild()
    assert result.code == 21, result
    assert result.json["judgement"] == "inconclusive"


def test_a_plan_is_shown_and_nothing_done(story: Story) -> None:
    """P10; and P6: neither the live environment nor a full folder is a target."""
    shown = story.world.run("rebuild-env", story.point, "--into", story.world.path("again"), "--dry-run")
    assert shown.code == 0
    assert "2 packages" in shown.out
    assert not os.path.lexists(story.world.path("again"))
    assert story.world.run("rebuild-env", "latest", "--into", os.fspath(story.venv)).code == 13
    assert (
        story.world.run("rebuild-env", "latest", "--into", story.world.path("again"), "--python", "no-python").code == 4
    )
    assert story.world.run("rebuild-env", "latest", "--into", "again", "--component", "router").code == 4


def test_people_get_a_table(story: Story) -> None:
    """What is unequal line by line, the rest in one number."""
    wheel(story.wheels, "greeting", "1.2", body("good mourning"))
    told = story.world.run("rebuild-env", "latest", "--into", story.world.path("again")).out
    assert "different: environment of point" in told
    assert "greeting" in told
    assert "farewell" not in told
    assert "compared things are equal" in told


def test_an_environment_is_described_and_never_exchanged(story: Story) -> None:
    """A restore lays a description; a judged copy may be asked with the live environment in sight, and promotion leaves it be."""
    golden = f"run: [{json.dumps(sys.executable)}, bin/answer.py]"
    manifest = Path(story.world.system.root, "resurgam.yaml")
    text = manifest.read_text(encoding="utf-8")
    assert golden in text
    manifest.write_text(text.replace(golden, "run: [venv/bin/python, bin/answer.py]"), encoding="utf-8")
    story.world.capture()
    kept = story.world.path("kept")
    verified = story.world.run("verify", "latest", "--into", kept, "--json")
    assert verified.json["verdict"]["judgement"] in (1, 3), verified.out  # nothing probes a runtime: unprobed
    assert sorted(os.listdir(os.path.join(kept, "runtime/venv"))) == ["environment.json", "requirements.txt"]
    parts = {part["name"]: part["judgement"] for part in verified.json["verdict"]["parts"]}
    assert parts["golden"] == 1, verified.out


def test_promotion_leaves_the_live_environment(story: Story) -> None:
    """The data are exchanged; the environment is named in the plan as what stays, and stays."""
    manifest = Path(story.world.system.root, "resurgam.yaml")
    text = manifest.read_text(encoding="utf-8").replace("config], witness: true", "config, runtime], witness: true")
    manifest.write_text(text, encoding="utf-8")
    story.world.capture()
    kept = story.world.path("kept")
    assert story.world.run("verify", "latest", "--into", kept).code == 0
    story.world.system.change_prompt()
    plan = story.world.run("promote", kept, "--dry-run").out
    assert f"leave: {story.venv}" in plan
    inode = story.venv.stat().st_ino
    assert story.world.run("promote", kept, "--yes").code == 0
    assert story.venv.stat().st_ino == inode
    assert (story.venv / "bin/greeting-say").exists()
    assert "From the handbook" in Path(story.world.system.path("prompts/answer.txt")).read_text(encoding="utf-8")
