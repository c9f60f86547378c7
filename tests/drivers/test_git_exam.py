"""The drivers' exam, taken by ``git``: one file per key in a working tree, half of the changes committed by git itself."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from resurgam.drivers.base import Driver
from resurgam.drivers.git import GitDriver
from resurgam.model.system import Component
from resurgam.testing.driver_kit import Data, DriverExam
from tests.drivers.git_tree import git, make

WRITER = """
import os, select, subprocess, sys
from resurgam.testing.driver_kit import PAIR, pair_value
files = [os.open(f"{sys.argv[1]}/{key}", os.O_WRONLY) for key in PAIR]
number = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    number += 1
    for file in files:
        os.pwrite(file, pair_value(number), 0)
    if number % 20 == 1:
        subprocess.run(["git", "-C", sys.argv[1], "commit", "-qam", "more"], check=True)
    if number == 1:
        print("writing", flush=True)
"""


class TestGit(DriverExam):
    """A working tree."""

    machine_examples = 4  # each step starts git

    @pytest.fixture
    def driver(self) -> Driver:
        return GitDriver()

    @pytest.fixture
    def live(self, tmp_path: Path) -> Component:
        return Component(name="prompts", driver="git", location=str(tmp_path / "live"))

    @pytest.fixture
    def target(self, live: Component, tmp_path: Path) -> Component:
        return live.bound_to(str(tmp_path / "restored"))

    def seed(self, component: Component, data: Data) -> None:
        shutil.rmtree(component.location, ignore_errors=True)
        make(component.location)
        for key, value in data.items():
            self._put(component, key, value)
        git(component.location, "add", "-A")
        git(component.location, "commit", "-q", "--allow-empty", "-m", "seeded")

    def peek(self, component: Component) -> Data:
        found = {}
        for key in set(os.listdir(component.location)) - {".git"}:
            with open(os.path.join(component.location, key), "rb") as file:
                found[key] = file.read()
        return found

    def change(self, component: Component, key: str, value: bytes | None) -> None:
        if value is None:
            os.unlink(os.path.join(component.location, key))
        else:
            self._put(component, key, value)
        if len(value or b"") % 2:
            git(component.location, "add", "-A")
            git(component.location, "commit", "-q", "-m", "changed")

    def pair_writer(self, component: Component) -> list[str]:
        return [sys.executable, "-c", WRITER, component.location]

    def _put(self, component: Component, key: str, value: bytes) -> None:
        with open(os.path.join(component.location, key), "wb") as file:
            file.write(value)
