"""The figures of docs/drivers/files.md, models.md and git.md, on data of fixed seeds. ``pytest -s -m soak`` prints them."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from resurgam.drivers.base import Blob, Rows, read_fully
from resurgam.drivers.registry import driver_for
from resurgam.model.system import Component, Consistency

ROUNDS = 5
BUFFER = 4 << 20


def few_files(place: Path) -> None:
    """1,500 files of 4 KiB: small enough to be copied in the freeze."""
    many_files(place, 1500)


def many_files(place: Path, count: int = 20_000) -> None:
    """20,000 files of 4 KiB in 100 folders: listed, and read after the thaw."""
    chance = np.random.default_rng(1)
    for number in range(count):
        folder = place / str(number // 200)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.txt").write_bytes(chance.bytes(4096))


def a_model(place: Path) -> None:
    """One safetensors file, 64 tensors of 4 MiB."""
    chance = np.random.default_rng(1)
    place.mkdir()
    tensors = {f"layer {n}": chance.standard_normal((1024, 1024), dtype=np.float32) for n in range(64)}
    save_file(tensors, place / "model.safetensors")


def a_repository(place: Path) -> None:
    """2,000 commits, 500 files, one pack."""
    stream = bytearray()
    for number in range(2000):
        text = b"line %d of words\n" % number * 100
        stream += b"commit refs/heads/main\ncommitter a <a@b> %d +0000\ndata 2\nc\n\n" % (1_700_000_000 + number)
        stream += b"M 100644 inline f%d.txt\ndata %d\n%s\n" % (number % 500, len(text), text)
    place.mkdir()
    git = ["git", "-c", "init.defaultBranch=main", "-C", os.fspath(place)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "fast-import", "--quiet"], input=bytes(stream), check=True)
    subprocess.run([*git, "checkout", "-q", "-f", "main"], check=True)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("kind", "make", "earned"),
    [
        ("files", few_files, Consistency.SNAPSHOT),
        ("files", many_files, Consistency.CRASH),
        ("models", a_model, Consistency.CRASH),
        ("git", a_repository, Consistency.SNAPSHOT),
    ],
)
def test_figures(kind: str, make: Callable[[Path], None], earned: Consistency, tmp_path: Path) -> None:
    """What is at rest earns what its page says, at every round."""
    make(tmp_path / "live")
    component = Component(name="it", driver=kind, location=os.fspath(tmp_path / "live"))
    buffer = memoryview(bytearray(BUFFER))
    freezes, reads, prints = [], [], []
    for _ in range(ROUNDS):
        driver, began = driver_for(kind), time.perf_counter()
        with driver.freeze(component) as position:
            assert position.earned is earned
        freezes.append(time.perf_counter() - began)
        rows, began = 0, time.perf_counter()
        for item in driver.read(component, position):
            if isinstance(item, Rows):
                rows += sum(len(batch) for batch in item.batches)
            elif isinstance(item, Blob):
                assert sum(read_fully(item.source, at, buffer) for at in range(0, item.size, BUFFER)) == item.size
                item.source.close()
        reads.append(time.perf_counter() - began)
        driver.release(component, position)
        began = time.perf_counter()
        driver.fingerprint(component)
        prints.append(time.perf_counter() - began)
    middle = statistics.median
    print(
        f"\n{kind}, {make.__doc__}\n  freeze {middle(freezes) * 1e3:.0f} ms, longest {max(freezes) * 1e3:.0f}; "
        f"read {middle(reads):.2f} s, {rows} rows; fingerprint {middle(prints):.2f} s"
    )
