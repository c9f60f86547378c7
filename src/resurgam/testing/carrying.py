"""How the exams carry a component from read to write through memory, as a vault would, and the processes they start.

No part of an exam is judged here; ``driver_kit`` holds the points.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO

import msgspec

from resurgam.drivers.base import Blob, Driver, InMemory, Item, Rows
from resurgam.model.point import Finding, Position
from resurgam.model.system import Component

ATTEMPTS = 3  # times that bytes which do not stand still are read again, as the vault does


@dataclass(slots=True)
class Taken:
    """A component as read: its items with their bytes in memory, what the driver found, and what never stood still."""

    position: Position
    items: list[Item] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    restless: list[bytes] = field(default_factory=list)

    @property
    def blobs(self) -> dict[bytes, bytes]:
        """Path to bytes."""
        return {item.path: item.read() for item in self.items if isinstance(item, Blob)}

    def through_memory(self) -> Iterator[Item]:
        """The items as a vault hands them back: blobs by path, then tables; views without their rows."""
        blobs = (item for item in self.items if isinstance(item, Blob))
        for blob in sorted(blobs, key=lambda blob: blob.path):
            yield Blob(blob.path, blob.size, InMemory(blob.read()), dict(blob.meta))
        for item in self.items:
            if isinstance(item, Rows):
                yield Rows(item.name, item.columns, item.key, () if item.view_of else item.batches, item.view_of)

    def described(self) -> list[tuple[object, ...]]:
        """All that makes two readings of one position the same."""
        return [
            ("blob", i.path, i.read(), dict(i.meta))
            if isinstance(i, Blob)
            else ("rows", i.name, i.columns, i.key, i.view_of, [row for batch in i.batches for row in batch])
            for i in self.items
        ]


def read_all(driver: Driver, component: Component, position: Position) -> Taken:
    """Read a component into memory; bytes that do not stand still are read again, as the vault does."""
    taken = Taken(position)
    for item in driver.read(component, position):
        if isinstance(item, Finding):
            taken.findings.append(item)
        elif isinstance(item, Rows):
            batches = [list(batch) for batch in item.batches]
            taken.items.append(Rows(item.name, item.columns, item.key, batches, item.view_of))
        else:
            taken.items.append(_settled(item, taken.restless))
    return taken


def _settled(blob: Blob, restless: list[bytes]) -> Blob:
    data = blob.read()
    calm = len(data) == blob.size and blob.source.settled()
    for _ in range(ATTEMPTS):
        if calm:
            break
        data = _to_the_end(blob)
        calm = blob.source.settled()
    if not calm:
        restless.append(blob.path)
    blob.source.close()
    return Blob(blob.path, len(data), InMemory(data), dict(blob.meta), blob.stamp)


def _to_the_end(blob: Blob) -> bytes:
    """All bytes up to wherever they end now, which may be elsewhere than ``blob.size`` says."""
    data, buffer = bytearray(), memoryview(bytearray(1 << 16))
    while done := blob.source.read_into(len(data), buffer):
        data += buffer[:done]
    return bytes(data)


def take(driver: Driver, component: Component) -> Taken:
    """One whole capture of a component into memory."""
    with driver.freeze(component) as position:
        pass
    try:
        return read_all(driver, component, position)
    finally:
        driver.release(component, position)


@contextmanager
def running(argv: list[str]) -> Iterator[IO[bytes]]:
    """A child process that works until its input is closed; yields its output once it wrote a first line."""
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline(), "the writer ended before it had written"
        yield process.stdout
    finally:
        process.stdin.close()
        try:
            code = process.wait(timeout=30)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
    assert code == 0, "the writer met an error: a live client may wait during a freeze, and never fails"


_AS_NOBODY = """
import json, os, sys
import msgspec
from resurgam.drivers.registry import driver_for
from resurgam.errors import ResurgamError
from resurgam.model.system import Component
component = msgspec.convert(json.load(sys.stdin), Component)
driver = driver_for(component.driver)
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
for verb in (driver.inspect, lambda c: driver.freeze(c).__enter__(), driver.fingerprint):
    try:
        verb(component)
        print("no error")
    except ResurgamError as error:
        print(type(error).__name__)
"""


def errors_of_nobody(component: Component) -> list[str]:
    """What inspect, freeze and fingerprint raise in a process that has no rights of a superuser: names of error classes."""
    told = json.dumps(msgspec.to_builtins(component)).encode()
    done = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY], input=told, stdout=subprocess.PIPE, check=True, timeout=60
    )
    return done.stdout.decode().split("\n")[:-1]
