"""The drivers' exam, taken by ``files``: once with a small folder that is copied in the freeze, once read as if it were large."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from resurgam.drivers.base import Driver
from resurgam.drivers.files import FilesDriver
from resurgam.model.system import Component
from resurgam.testing.driver_kit import Data, DriverExam

WRITER = """
import os, select, sys
from resurgam.testing.driver_kit import PAIR, pair_value
files = [os.open(f"{sys.argv[1]}/{key}", os.O_WRONLY) for key in PAIR]
number = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    number += 1
    for file in files:
        os.pwrite(file, pair_value(number), 0)  # at once: a value that is half written at one moment is a true snapshot
    if number == 1:
        print("writing", flush=True)
"""


class TestFiles(DriverExam):
    """A folder of files, one per key."""

    @pytest.fixture
    def driver(self) -> Driver:
        return FilesDriver()

    @pytest.fixture
    def live(self, tmp_path: Path) -> Component:
        return Component(name="prompts", driver="files", location=str(tmp_path / "live"))

    @pytest.fixture
    def target(self, live: Component, tmp_path: Path) -> Component:
        return live.bound_to(str(tmp_path / "restored"))

    def seed(self, component: Component, data: Data) -> None:
        shutil.rmtree(component.location, ignore_errors=True)
        os.mkdir(component.location)
        for key, value in data.items():
            self.change(component, key, value)

    def peek(self, component: Component) -> Data:
        found = {}
        for key in os.listdir(component.location):
            with open(os.path.join(component.location, key), "rb") as file:
                found[key] = file.read()
        return found

    def change(self, component: Component, key: str, value: bytes | None) -> None:
        path = os.path.join(component.location, key)
        if value is None:
            os.unlink(path)
        else:
            with open(path, "wb") as file:
                file.write(value)

    def pair_writer(self, component: Component) -> list[str]:
        return [sys.executable, "-c", WRITER, component.location]


class TestFilesAsIfLarge(TestFiles):
    """The same with ``pin: never``: a listing in the freeze, bytes after the thaw."""

    @pytest.fixture
    def live(self, tmp_path: Path) -> Component:
        return Component(name="prompts", driver="files", location=str(tmp_path / "live"), options={"pin": "never"})


class TestSingleFile(TestFiles):
    """A component that is one file: a folder of one key's worth cannot hold the exam's data, so they are lines of it."""

    def seed(self, component: Component, data: Data) -> None:
        self._put(component, data)

    def peek(self, component: Component) -> Data:
        with open(component.location, "rb") as file:
            lines = [line.split(b" ") for line in file.read().splitlines()]
        return {bytes.fromhex(key.decode()).decode(): bytes.fromhex(value.decode()) for key, value in lines}

    def change(self, component: Component, key: str, value: bytes | None) -> None:
        data = self.peek(component)
        data.pop(key, None)
        self._put(component, data if value is None else {**data, key: value})

    def pair_writer(self, component: Component) -> list[str]:
        code = (
            "import select, sys\n"
            "sys.path[:0] = [sys.argv[2]]\n"
            "from resurgam.model.system import Component\n"
            "from resurgam.testing.driver_kit import PAIR, pair_value\n"
            "from tests.drivers.test_files_exam import TestSingleFile\n"
            "exam, number = TestSingleFile(), 0\n"
            "component = Component(name='prompts', driver='files', location=sys.argv[1])\n"
            "data = exam.peek(component)\n"
            "while not select.select([sys.stdin], [], [], 0)[0]:\n"
            "    number += 1\n"
            "    exam._put(component, {**data, **dict.fromkeys(PAIR, pair_value(number))})\n"
            "    number == 1 and print('writing', flush=True)\n"
        )
        return [sys.executable, "-c", code, component.location, os.getcwd()]

    def _put(self, component: Component, data: Data) -> None:
        """As careful writers do: beside it, and then renamed over it."""
        with open(component.location + "~", "wb") as file:
            file.writelines(b"%s %s\n" % (k.encode().hex().encode(), v.hex().encode()) for k, v in data.items())
        os.replace(component.location + "~", component.location)
