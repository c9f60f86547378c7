"""The driver chroma beside clients in other processes that never rest, and what a freeze costs them.

An index is persisted every twenty operations, many times during each capture. ``pytest -s -m soak`` runs the long ones.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic

import pytest

from resurgam.drivers.base import Rows
from resurgam.drivers.chroma import ChromaDriver
from resurgam.errors import LimitExceeded
from resurgam.model.point import Severity
from resurgam.model.system import Component
from resurgam.testing.carrying import Taken, read_all, running, take
from tests.drivers.chroma_client import Client, script


@pytest.fixture
def client() -> Iterator[Client]:
    """A process for the acts of one test."""
    client = Client()
    yield client
    client.close()


@pytest.fixture
def live(client: Client, tmp_path: Path) -> Component:
    """A collection that was persisted once, for writers to fill."""
    path = str(tmp_path / "live")
    client("seed", path, data={f"seed-{number}": "" for number in range(30)})
    return Component(name="index", driver="chroma", location=path)


def index_of(live: Component) -> Path:
    """The folder of the collection's index."""
    (folder,) = (path for path in Path(live.location).iterdir() if path.is_dir())
    return folder


def ids_of(taken: Taken) -> set[str]:
    """The ids that were decoded from a capture."""
    rows = next(item for item in taken.items if isinstance(item, Rows) and item.name == "data")
    return {str(row[0]) for batch in rows.batches for row in batch}


def capture_beside_writers(driver: ChromaDriver, client: Client, live: Component, rounds: int) -> list[float]:
    """Capture ``rounds`` times; every capture must be consistent by its own findings and by Chroma's answers. Freezes in s."""
    target = live.bound_to(live.location + "-restored")
    freezes = []
    for _ in range(rounds):
        began = monotonic()
        with driver.freeze(live) as position:
            pass
        freezes.append(monotonic() - began)
        taken = read_all(driver, live, position)
        driver.release(live, position)
        assert not taken.findings
        restored = driver.write(taken.through_memory(), target)
        assert client("peek", restored.location).keys() == ids_of(taken)
        driver.erase(target)
    return sorted(freezes)


def test_no_capture_beside_a_writer_is_inconsistent(client: Client, live: Component) -> None:
    """P1: adds, updates and deletes go on; records, vectors and documents of every capture belong together."""
    with running([*script(), "writer", live.location, "only"]):
        capture_beside_writers(ChromaDriver(), client, live, 15)


@pytest.mark.soak
def test_no_capture_beside_a_writer_is_inconsistent_for_long(client: Client, live: Component) -> None:
    """P1: three hundred times; prints what the freezes took, the wait for the lock included."""
    with running([*script(), "writer", live.location, "only"]):
        freezes = capture_beside_writers(ChromaDriver(), client, live, 300)
    told = [f"{name} {freezes[int(part * (len(freezes) - 1))] * 1000:.1f} ms" for name, part in QUANTILES.items()]
    print("\nfreeze of a small folder beside a writer without a rest:", ", ".join(told))


QUANTILES = {"median": 0.5, "p99": 0.99, "longest": 1.0}


@contextmanager
def rivals(live: Component) -> Iterator[None]:
    """Two processes that write one folder. Each may meet an error or crash by what the other did; nobody minds here."""
    started = [
        subprocess.Popen(
            [*script(), "writer", live.location, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for name in ("first", "second")
    ]
    try:
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
        yield
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_what_two_clients_lose_is_found(client: Client, live: Component, tmp_path: Path) -> None:
    """P12: Chroma is made for one process. Where two lose vectors between them or tear the index, the point says so: Chroma
    answers from every capture without a BROKEN finding. It is not asked about the others, in which it can hang or crash."""
    driver = ChromaDriver()
    with rivals(live):
        rounds = [take(driver, live) for _ in range(8)]
    for number, taken in enumerate(rounds):
        if not any(finding.severity is Severity.BROKEN for finding in taken.findings):
            restored = driver.write(taken.through_memory(), live.bound_to(str(tmp_path / f"restored-{number}")))
            assert client("peek", restored.location).keys() == ids_of(taken)


def test_collections_that_come_and_go(client: Client, live: Component, tmp_path: Path) -> None:
    """Made and deleted in the middle of captures: each capture has them whole or not at all."""
    driver, stop = ChromaDriver(), threading.Event()
    code = (
        "made = create(client, name)\nput(made, {str(n): b'%d' % n for n in range(30)})\nclient.delete_collection(name)"
    )
    failed: list[AssertionError] = []

    def come_and_go() -> None:
        other = Client()
        try:
            for number in range(10_000):
                if stop.is_set():
                    break
                other("run", live.location, code=code, name=f"guest-{number}")
        except AssertionError as error:  # told to the test below
            failed.append(error)
        finally:
            other.close()

    guest = threading.Thread(target=come_and_go)
    guest.start()
    try:
        rounds = [take(driver, live) for _ in range(25)]
    finally:
        stop.set()
        guest.join()
    assert not failed
    for taken in rounds:
        assert all(finding.severity is Severity.NOTE for finding in taken.findings)
        guests = [i for i in taken.items if isinstance(i, Rows) and i.name.startswith("guest-")]
        assert all(len([row for batch in i.batches for row in batch]) in {0, 30} for i in guests)


def wait_for_the_lock(live: Component) -> None:
    """Have the write lock once, as a client would. Raises sqlite3.OperationalError when it is not had in 5 s."""
    with closing(sqlite3.connect(os.path.join(live.location, "chroma.sqlite3"), timeout=5)) as db:
        db.execute("BEGIN IMMEDIATE")
        db.execute("ROLLBACK")


def test_the_limit_lets_the_writers_go(live: Component) -> None:
    """A freeze that is held too long ends by itself, and says so; nobody waits for it."""
    driver = ChromaDriver()
    with pytest.raises(LimitExceeded), driver.freeze(live, limit=0.2):
        wait_for_the_lock(live)  # had only after the limit
    wait_for_the_lock(live)


def test_an_index_that_is_always_being_written(live: Component) -> None:
    """P12: where no moment between two persists is found, the capture ends with its limit and the source is let go."""
    segment = index_of(live)
    os.unlink(segment / "index_metadata.pickle")
    stop = threading.Event()

    def persist() -> None:
        with open(segment / "header.bin", "r+b") as header:
            while not stop.wait(0.001):
                header.seek(20)
                header.write(b"\x01")  # an element, and no label map yet
                header.flush()

    thread = threading.Thread(target=persist)
    thread.start()
    try:
        with pytest.raises(LimitExceeded) as exceeded, ChromaDriver().freeze(live, limit=0.4):
            pass
    finally:
        stop.set()
        thread.join()
    assert "sync_threshold" in exceeded.value.next_step
    wait_for_the_lock(live)


def test_what_a_crash_left_is_captured(client: Client, live: Component) -> None:
    """A persist that was cut off long ago is no reason to wait: the queue still covers it, as at Chroma's own next start."""
    with running([*script(), "writer", live.location, "only"]):
        pass
    segment = index_of(live)
    before = take(ChromaDriver(), live)
    for number, name in enumerate(("index_metadata.pickle", "length.bin", "header.bin", "data_level0.bin")):
        os.utime(segment / name, (10**9 + number, 10**9 + number))
    after = take(ChromaDriver(), live)
    assert not after.findings
    assert after.blobs == before.blobs


def test_private_copies_leave_nothing(live: Component, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A capture that is killed leaves nothing behind: its copies have no names from the beginning."""
    shutil.rmtree(tmp_path / "temporary", ignore_errors=True)
    os.mkdir(tmp_path / "temporary")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    driver = ChromaDriver()
    with driver.freeze(live) as position:
        assert not os.listdir(tmp_path / "temporary")
    driver.release(live, position)
