"""What must hold across components: keys, values, commands, asked at the cut's positions; not knowing is not holding (P12)."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from resurgam.capture import barriers
from resurgam.capture.cut import release, take
from resurgam.capture.invariants import hold_invariants
from resurgam.capture.keys import keys
from resurgam.clock import SystemClock
from resurgam.drivers.base import Rows, Traits
from resurgam.drivers.registry import driver_for
from resurgam.errors import Unreachable
from resurgam.model.point import BarrierHeld, Cut, Position, Severity
from resurgam.model.system import Barrier, Component, Invariant, Json, System, VaultPlace
from resurgam.testing.faults import ManualClock
from tests.support import Held, MemoryDriver, tree


class Answering(MemoryDriver):
    """Answers each statement as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, Sequence[Json | tuple[Json, ...]]] = {}

    def query(self, component: Component, at: Position, statement: str) -> Rows:
        """See ``drivers.base.Queries``."""
        assert at.token in self.pinned, "asked at a position that is let go"
        if statement == "unreachable":
            raise Unreachable("gone", untouched="all", next_step="again")
        rows = [value if isinstance(value, tuple) else (value,) for value in self.answers[statement]]
        return Rows("answer", tuple("abc"[: len(rows[0])]) if rows else ("a",), (), [[row] for row in rows])


@pytest.fixture
def asked() -> tuple[Answering, System, Cut]:
    """Two components that are frozen and can be asked."""
    driver = Answering()
    driver.held |= {"a": Held(), "b": Held()}
    parts = tuple(Component(name=name, driver="told", location=f"/none/{name}") for name in "ab")
    system = System(name="s", vault=VaultPlace(path="/v", keys="/k"), components=parts)
    return driver, system, take(system, lambda _kind: driver, ManualClock())


def found(asked: tuple[Answering, System, Cut], **words: Json) -> list[tuple[str, tuple[str, ...]]]:
    """What one invariant finds; always BROKEN."""
    driver, system, cut = asked
    system = msgspec.structs.replace(system, invariants=(Invariant(name="i", **words),))
    findings = hold_invariants(system, cut, lambda _kind: driver)
    assert {finding.severity for finding in findings} <= {Severity.BROKEN}
    return [(finding.what, finding.keys) for finding in findings]


@pytest.mark.parametrize(
    ("needed", "there", "missing"),
    [
        ([], [], ()),
        ([1, 2], [2, 1, 3], ()),
        ([1, 2, 2], [1], ("2",)),
        ([None, "x"], ["x"], ("None",)),
        ([1], [], ("1",)),
    ],
)
def test_key_inclusion(
    asked: tuple[Answering, System, Cut], needed: list[Json], there: list[Json], missing: tuple[str, ...]
) -> None:
    """Each key of the one side exists on the other; the finding names those that do not."""
    asked[0].answers = {"SELECT n": needed, "SELECT t": there}
    told = found(asked, every="a: SELECT n", exists_in="b: SELECT t")
    assert [keys for _, keys in told] == ([missing] if missing else [])


def test_composite_keys_are_compared_whole(asked: tuple[Answering, System, Cut]) -> None:
    """P12: that the first column of a key exists on the other side says nothing of the key."""
    asked[0].answers = {"SELECT n": [(1, "x"), (1, "y"), (2, "x")], "SELECT t": [(1, "x"), (2, "y")]}
    ((what, keys),) = found(asked, every="a: SELECT n", exists_in="b: SELECT t")
    assert "2 of 3" in what
    assert keys == ("1, y", "2, x")


def test_sides_of_different_width_cannot_be_compared(asked: tuple[Answering, System, Cut]) -> None:
    """P12: a mistake in the manifest is said as one, not as keys that are missing."""
    asked[0].answers = {"SELECT n": [(1, "x")], "SELECT t": [1]}
    ((what, keys),) = found(asked, every="a: SELECT n", exists_in="b: SELECT t")
    assert "2 and 1 columns" in what
    assert keys == ()


def test_at_most_twenty_examples(asked: tuple[Answering, System, Cut]) -> None:
    """A finding is for reading."""
    asked[0].answers = {"SELECT n": list(range(1000)), "SELECT t": []}
    ((what, keys),) = found(asked, every="a: SELECT n", exists_in="b: SELECT t")
    assert "1000 of 1000" in what
    assert len(keys) == 20


@pytest.mark.parametrize(
    ("answer", "expect", "holds"), [([3], 3, True), ([3], 4, False), ([], 0, False), (["a", "b"], "a", True)]
)
def test_expected_values(asked: tuple[Answering, System, Cut], answer: list[Json], expect: Json, holds: bool) -> None:
    """The first value of the first row; no row is no value."""
    asked[0].answers = {"SELECT count": answer}
    assert (found(asked, component="a", sql="SELECT count", expect=expect) == []) is holds


def test_what_cannot_be_asked_is_broken(asked: tuple[Answering, System, Cut]) -> None:
    """P12: not knowing is not holding."""
    ((what, _),) = found(asked, every="a: unreachable", exists_in="b: x")
    assert "could not be asked" in what

    class Mute(MemoryDriver):
        """Has no queries."""

    mute = Mute()
    system = msgspec.structs.replace(asked[1], invariants=(Invariant(name="i", component="a", sql="x"),))
    (finding,) = hold_invariants(system, asked[2], lambda _kind: mute)
    assert finding.severity is Severity.BROKEN
    assert isinstance(mute.traits, Traits)


def test_equality_is_asked_both_ways(asked: tuple[Answering, System, Cut]) -> None:
    """The finding names the keys on each side, and the query of that side."""
    asked[0].answers = {"SELECT l": [1, 2, 3, 3], "SELECT r": [2, 3, 4, 5]}
    left, right = found(asked, equal=("a: SELECT l", "b: SELECT r"))
    assert (left[1], right[1]) == (("1",), ("4", "5"))
    assert "1 of 3" in left[0]
    assert "a: SELECT l" in left[0]
    assert "2 of 4" in right[0]
    asked[0].answers["SELECT r"] = [3, 2, 1]
    assert found(asked, equal=("a: SELECT l", "b: SELECT r")) == []


def test_keys_need_no_memory_of_their_own_size() -> None:
    """Two sets that are far larger than the cache: what SQLite holds in memory stays bounded, and the answer is exact."""
    size, width = 60_000, 2000

    def rows(skip: int) -> Rows:
        batches = ([(f"{i:08d}" + "x" * width,) for i in range(s, s + 100) if i != skip] for s in range(0, size, 100))
        return Rows("k", ("k",), (), batches)

    before = resident()
    with keys() as sets:
        sets.fill("here", rows(-1))
        sets.fill("there", rows(4321))
        count, (example,) = sets.only("here", 20)
        assert sets.only("there", 20) == (0, ())
    assert count == 1
    assert str(example[0]).startswith("00004321x")
    assert resident() - before < size * width, "half of what both sets hold"


@pytest.mark.parametrize("value", [1 << 80, "\ud800"])
def test_values_that_are_no_keys_are_told_as_such(asked: tuple[Answering, System, Cut], value: Json) -> None:
    asked[0].answers = {"SELECT n": [value], "SELECT t": [1]}
    ((what, _),) = found(asked, every="a: SELECT n", exists_in="b: SELECT t")
    assert "could not be asked" in what


# Commands over private copies -------------------------------------------------------------------------------------------

CHECK = """
import os, sqlite3, sys
database, files = sys.argv[1:]
ids = {str(row[0]) for row in sqlite3.connect(f"file:{database}?mode=ro", uri=True).execute("SELECT id FROM note")}
there = set(os.listdir(files))
print(*sorted(ids ^ there), sep="\\n")
print(os.path.realpath(files), file=sys.stderr)
sys.exit(ids != there)
"""


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[System, Cut]]:
    """A database with notes and a folder with a file for each, at a cut; then the live ones move on."""
    monkeypatch.setenv("RESURGAM_STATE", str(tmp_path / "state"))
    (tmp_path / "check.py").write_text(CHECK)
    (tmp_path / "files").mkdir()
    database = sqlite3.connect(tmp_path / "notes.db")
    database.execute("CREATE TABLE note (id INTEGER)")
    for number in range(5):
        database.execute("INSERT INTO note VALUES (?)", (number,))
        (tmp_path / "files" / str(number)).write_text("x")
    os.link(tmp_path / "files/0", tmp_path / "files/00")
    os.unlink(tmp_path / "files/00")
    database.commit()
    parts = (
        Component(name="notes", driver="sqlite", location=str(tmp_path / "notes.db")),
        Component(name="files", driver="files", location=str(tmp_path / "files")),
    )
    system = System(name="s", vault=VaultPlace(path="/v", keys="/k"), components=parts, root=str(tmp_path))
    cut = take(system, driver_for, SystemClock())
    yield system, cut
    database.close()
    release(system, driver_for, {part.component: part.position for part in cut.parts})
    assert not [name for name in tree(str(tmp_path / "state")) if b"invariant" in name], "copies are gone"


def told(real: tuple[System, Cut], *run: str, timeout: float = 30.0) -> list[tuple[str, tuple[str, ...]]]:
    """What one command finds."""
    system, cut = real
    invariant = Invariant(name="i", run=run, reads=("notes", "files"), timeout=timeout)
    findings = hold_invariants(msgspec.structs.replace(system, invariants=(invariant,)), cut, driver_for)
    assert {finding.severity for finding in findings} <= {Severity.BROKEN}
    return [(finding.what, finding.keys) for finding in findings]


def test_a_command_sees_the_components_as_they_were_at_the_cut(real: tuple[System, Cut], tmp_path: Path) -> None:
    """What happened after the cut is not there; a broken one names the keys that it printed."""
    with sqlite3.connect(tmp_path / "notes.db") as database:
        database.execute("DELETE FROM note WHERE id > 1")
    database.close()
    check = (sys.executable, "check.py", "{notes}", "{files}")
    assert told(real, *check) == []
    live = (sys.executable, "check.py", str(tmp_path / "notes.db"), "{files}")
    ((what, found_keys),) = told(real, *live)
    assert found_keys == ("2", "3", "4")
    assert "3 keys" in what


def test_a_command_that_tells_nothing_is_no_proof(real: tuple[System, Cut]) -> None:
    """P12: one that hangs, dies, or is not there has not said that it holds."""
    python = sys.executable
    for run, said in (
        ((python, "-c", "import time; time.sleep(60)"), "did not end within"),
        ((python, "-c", "import os; os.kill(os.getpid(), 9)"), "signal 9"),
        (("no-such-command",), "cannot be run"),
        ((python, "-c", "raise SystemError('oops')"), "SystemError: oops"),
    ):
        ((what, _),) = told(real, *run, timeout=1.0 if "within" in said else 60.0)
        assert said in what


def test_at_most_twenty_lines_are_kept(real: tuple[System, Cut]) -> None:
    ((what, lines),) = told(real, sys.executable, "-c", "print(*range(1000), sep='\\n'); raise SystemExit(3)")
    assert "1000 keys (exit code 3)" in what
    assert lines == tuple(map(str, range(20)))


# What a barrier means for them ------------------------------------------------------------------------------------------


def test_invariants_across_components_without_a_barrier_carry_a_note(asked: tuple[Answering, System, Cut]) -> None:
    """Consistency: what holds without a barrier may hold by luck. One component by itself needs none."""
    _, system, cut = asked
    alone = Invariant(name="alone", component="a", sql="SELECT 1", expect=1)
    across = Invariant(name="across", equal=("a: SELECT 1", "b: SELECT 1"))
    system = msgspec.structs.replace(system, invariants=(alone,))
    assert barriers.findings(system, cut) == []
    system = msgspec.structs.replace(system, invariants=(alone, across))
    (note,) = barriers.findings(system, cut)
    assert note.severity is Severity.NOTE
    assert "(across)" in note.what
    system = msgspec.structs.replace(system, barrier=Barrier(file="/run/lock"))
    held = msgspec.structs.replace(cut, barrier=BarrierHeld(kind="file", waited=0.0, held=0.01))
    assert barriers.findings(system, held) == []
    passed = msgspec.structs.replace(cut, barrier=BarrierHeld(kind="file", waited=0.0, held=0.01, passed=True))
    (warning,) = barriers.findings(system, passed)
    assert warning.severity is Severity.WARNING


def resident() -> int:
    """Bytes of memory that this process holds."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
