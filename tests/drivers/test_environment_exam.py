"""The driver environment sits the exam of all drivers.

A store's data are packages: a key is one, its value one file in it. An environment is described and not copied, so what comes back
of a value is its digest; the hooks look it up in a folder of values that stands for the package index, as an installer would. So a
driver that loses or mixes up a digest brings back another value, or none.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from resurgam.drivers.base import Driver
from resurgam.drivers.environment import EnvironmentDriver
from resurgam.model.system import Component
from resurgam.testing.driver_kit import DriverExam

SITE = "lib/python3.11/site-packages"
WRITER = """
import importlib.util, select, sys
spec = importlib.util.spec_from_file_location("exam", sys.argv[1])
exam = importlib.util.module_from_spec(spec)
spec.loader.exec_module(exam)
number = 0
while True:
    number += 1
    for key in ("left", "right"):
        exam.put(sys.argv[2], sys.argv[3], key, b"%08d" % number * 4096)
    if number == 1:
        print("writing", flush=True)
    if select.select([sys.stdin], [], [], 0)[0]:
        break
"""


def put(root: str, index: str, key: str, value: bytes) -> None:
    """Install or upgrade the package of ``key``: its file, then RECORD by one rename; the file of before goes last."""
    folder, package = places(root, key)
    digest = urlsafe_b64encode(hashlib.sha256(value).digest()).rstrip(b"=").decode()
    record = f"{os.path.basename(package)}/{digest}.bin,sha256={digest},{len(value)}\n"
    with open(os.path.join(index, hashlib.sha256(key.encode() + value).hexdigest()), "wb") as file:
        file.write(key.encode() + b"\0" + value)
    os.makedirs(package, exist_ok=True)
    before = os.listdir(package)
    with open(os.path.join(package, f"{digest}.bin"), "wb") as file:
        file.write(value)
    if not os.path.isdir(folder):
        os.makedirs(folder + ".new", exist_ok=True)
        with open(folder + ".new/METADATA", "w", encoding="utf-8") as file:
            file.write(f"Metadata-Version: 2.1\nName: k{key.encode().hex()}\nVersion: 1\n")
        lay(folder + ".new/RECORD", record)
        os.rename(folder + ".new", folder)
    else:
        lay(folder + "/RECORD", record)
    for name in before:
        if name != f"{digest}.bin":
            os.unlink(os.path.join(package, name))


def lay(path: str, text: str) -> None:
    """Replace a file by one rename."""
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".new", path)


def places(root: str, key: str) -> tuple[str, str]:
    """The folders of a package's metadata and of its one file."""
    stem = "p" + hashlib.sha256(key.encode()).hexdigest()[:20]
    return os.path.join(root, SITE, f"{stem}-1.dist-info"), os.path.join(root, SITE, stem)


def digest_of(key: str, value: bytes) -> str:
    """What a package's digest is by its definition, made without the driver."""
    digest = urlsafe_b64encode(hashlib.sha256(value).digest()).rstrip(b"=").decode()
    path = f"{os.path.basename(places('', key)[1])}/{digest}.bin"
    return hashlib.sha256(f"{path},sha256={digest}\n".encode()).hexdigest()


class TestEnvironment(DriverExam):
    """Packages in a folder like those that installers make."""

    @pytest.fixture
    def driver(self) -> Driver:
        """A new one for each test: positions live in it."""
        return EnvironmentDriver()

    @pytest.fixture
    def live(self, tmp_path: Path) -> Component:
        """Where the exam seeds its environment."""
        self.index = str(tmp_path / "index")
        os.mkdir(self.index)
        return Component(name="runtime", driver="environment", location=str(tmp_path / "live"))

    @pytest.fixture
    def target(self, tmp_path: Path) -> Component:
        """Where the description goes."""
        return Component(name="runtime", driver="environment", location=str(tmp_path / "restored" / "copy"))

    def seed(self, component: Component, data: dict[str, bytes]) -> None:
        """A prefix with one package per key."""
        shutil.rmtree(component.location, ignore_errors=True)
        os.makedirs(os.path.join(component.location, SITE))
        with open(os.path.join(component.location, "pyvenv.cfg"), "w", encoding="utf-8") as file:
            file.write("home = /usr/bin\nversion = 3.11.7\n")
        for key, value in data.items():
            self.change(component, key, value)

    def peek(self, component: Component) -> dict[str, bytes]:
        """The values of the packages that are installed, or described, at a place."""
        described = os.path.join(component.location, "environment.json")
        if not os.path.exists(described):
            return dict(self.installed(component.location))
        with open(described, encoding="utf-8") as file:
            packages = json.load(file)["packages"]
        values = {digest_of(key, value): value for key, value in self.offered()}
        return {bytes.fromhex(p["name"][1:]).decode(): values[p["digest"]] for p in packages}

    def installed(self, root: str) -> list[tuple[str, bytes]]:
        """Key and value of every package, read as an interpreter would."""
        found = []
        site = Path(root, SITE)
        for folder in site.glob("*.dist-info"):
            name = (folder / "METADATA").read_text(encoding="utf-8").split("Name: k")[1].split("\n")[0]
            path = (folder / "RECORD").read_text(encoding="utf-8").split(",")[0]
            found.append((bytes.fromhex(name).decode(), (site / path).read_bytes()))
        return found

    def offered(self) -> Iterator[tuple[str, bytes]]:
        """Every package that was ever put, by key and value."""
        with os.scandir(self.index) as entries:
            for entry in entries:
                key, _, value = Path(entry.path).read_bytes().partition(b"\0")
                yield key.decode(), value

    def change(self, component: Component, key: str, value: bytes | None) -> None:
        """What an installer does."""
        if value is not None:
            put(component.location, self.index, key, value)
            return
        folder, package = places(component.location, key)
        os.rename(folder, folder + ".gone")
        shutil.rmtree(folder + ".gone")
        shutil.rmtree(package)

    def pair_writer(self, component: Component) -> list[str]:
        """Two packages upgraded one after the other."""
        return [sys.executable, "-c", WRITER, __file__, component.location, self.index]
