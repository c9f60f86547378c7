"""The drivers' exam, taken by ``models``: a folder of safetensors, one per key, with one tensor that holds the value."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from resurgam.drivers.base import Driver
from resurgam.drivers.models import ModelsDriver
from resurgam.model.system import Component
from resurgam.testing.driver_kit import Data, DriverExam

WRITER = """
import os, select, sys
import numpy as np
from safetensors.numpy import save
from resurgam.testing.driver_kit import PAIR, pair_value
files = [os.open(f"{sys.argv[1]}/{key}.safetensors", os.O_WRONLY) for key in PAIR]
number = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    number += 1
    for file in files:
        os.pwrite(file, save({"value": np.frombuffer(pair_value(number), np.uint8)}), 0)
    if number == 1:
        print("writing", flush=True)
"""


class TestModels(DriverExam):
    """A folder of model files, one per key."""

    @pytest.fixture
    def driver(self) -> Driver:
        return ModelsDriver()

    @pytest.fixture
    def live(self, tmp_path: Path) -> Component:
        return Component(name="weights", driver="models", location=str(tmp_path / "live"))

    @pytest.fixture
    def target(self, live: Component, tmp_path: Path) -> Component:
        return live.bound_to(str(tmp_path / "restored"))

    def seed(self, component: Component, data: Data) -> None:
        shutil.rmtree(component.location, ignore_errors=True)
        os.mkdir(component.location)
        for key, value in data.items():
            self.change(component, key, value)

    def peek(self, component: Component) -> Data:
        return {
            name.removesuffix(".safetensors"): load_file(os.path.join(component.location, name))["value"].tobytes()
            for name in os.listdir(component.location)
        }

    def change(self, component: Component, key: str, value: bytes | None) -> None:
        path = os.path.join(component.location, f"{key}.safetensors")
        if value is None:
            os.unlink(path)
        else:
            with open(path, "wb") as file:
                file.write(save({"value": np.frombuffer(value, np.uint8)}))

    def pair_writer(self, component: Component) -> list[str]:
        return [sys.executable, "-c", WRITER, component.location]


class TestModelsAsIfLarge(TestModels):
    """The same with ``pin: never``: a listing in the freeze, bytes and tensors after the thaw."""

    @pytest.fixture
    def live(self, tmp_path: Path) -> Component:
        return Component(name="weights", driver="models", location=str(tmp_path / "live"), options={"pin": "never"})
