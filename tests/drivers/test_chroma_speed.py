"""Speeds of the driver chroma on 20,000 records: ``pytest -s -m soak tests/drivers/test_chroma_speed.py`` prints them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import TypeVar

import pytest

from resurgam.drivers.base import Blob, Rows
from resurgam.drivers.chroma import ChromaDriver
from resurgam.model.point import Finding
from resurgam.model.system import Component
from resurgam.testing.carrying import take
from tests.drivers.chroma_client import Client

RECORDS, DIMENSION = 20_000, 384
FILL = f"""
import numpy as np
rng = np.random.default_rng(1)
made = create(client, "help", sync=1000)
for at in range(0, {RECORDS}, 1000):
    ids = range(at, at + 1000)
    made.add(ids=[f"{{n:06}}" for n in ids], embeddings=rng.normal(size=(1000, {DIMENSION})).astype("f4"),
        documents=[f"Passage {{n}} of the handbook, with some words about it. " * 8 for n in ids],
        metadatas=[{{"n": n}} for n in ids])
"""
T = TypeVar("T")


def timed(what: str, act: Callable[[], T]) -> T:
    """Do it, and print the seconds."""
    began = monotonic()
    done = act()
    print(f"{what:42} {monotonic() - began:8.3f} s")
    return done


@pytest.mark.soak
def test_speeds(tmp_path: Path) -> None:
    """Nothing is judged but that it is whole."""
    live = Component(name="index", driver="chroma", location=str(tmp_path / "live"))
    client, driver = Client(), ChromaDriver()
    print()
    timed(f"fill {RECORDS:,} x {DIMENSION}", lambda: client("run", live.location, code=FILL))
    client.close()
    for _ in range(3):
        holding = driver.freeze(live)
        position = timed("freeze, at rest", holding.__enter__)
        holding.__exit__(None, None, None)
        driver.release(live, position)
    with driver.freeze(live) as position:
        pass
    items = driver.read(live, position)
    blobs = timed("files with their digests", lambda: [next(items) for _ in range(6)])
    image = sum(blob.size for blob in blobs if isinstance(blob, Blob))
    rest = timed("checks and findings", lambda: list(items))
    assert not [finding for finding in rest if isinstance(finding, Finding)]
    rows = next(item for item in rest if isinstance(item, Rows) and item.name == "help")
    assert timed("rows", lambda: sum(len(batch) for batch in rows.batches)) == RECORDS
    timed("one invariant in SQL", lambda: list(driver.query(live, position, "SELECT id FROM help").batches))
    driver.release(live, position)
    digest = timed("fingerprint", lambda: driver.fingerprint(live))
    taken = take(driver, live)
    restored = timed(
        "restore of the image, from memory",
        lambda: driver.write(taken.through_memory(), live.bound_to(str(tmp_path / "a"))),
    )
    assert driver.fingerprint(restored) == digest
    fresh = Component(name="index", driver="chroma", location=str(tmp_path / "b"), options={"restore": "records"})
    timed("restore from the records", lambda: driver.write(taken.through_memory(), fresh))
    assert driver.fingerprint(fresh) == digest
    print(f"image {image / 1e6:.1f} MB; fresh from records {driver.inspect(fresh)['bytes'] / 1e6:.1f} MB")
