"""One cut under load: real writers in other processes, real stores, the barrier on and off, and what is killed in between."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import msgspec
import pytest

from resurgam import barrier as lock
from resurgam.barrier import ENVIRONMENT, barrier
from resurgam.capture.barriers import findings, traces
from resurgam.capture.cut import release, take
from resurgam.capture.invariants import hold_invariants
from resurgam.cli.main import main
from resurgam.clock import SystemClock
from resurgam.drivers.base import Queries
from resurgam.drivers.registry import driver_for
from resurgam.drivers.sqlite import SqliteDriver
from resurgam.errors import LimitExceeded, Unreachable
from resurgam.model.point import Cut, Finding, Position, Severity
from resurgam.model.system import Barrier, Component, Invariant, Limits, System, VaultPlace

CUTS = 20
DEADLINE = 60.0
WRITER = """
import os, sqlite3, sys, time
from resurgam.sdk import barrier
work, me = sys.argv[1:]
stores = [sqlite3.connect(os.path.join(work, name), isolation_level=None, timeout=30) for name in ("tickets.db", "memory.db")]
print("at work", flush=True)
for number in range(1 << 40):
    with barrier(timeout=30):
        stores[0].execute("INSERT INTO entry VALUES (?)", (f"{me}-{number}",))
        with open(os.path.join(work, "notes", f"{me}-{number % 50}"), "w") as file:
            file.write(str(number))
        stores[1].execute("INSERT INTO entry VALUES (?)", (f"{me}-{number}",))
    time.sleep(0.002)
"""
CAPTURE = """
import sys
import msgspec
from resurgam.capture.barriers import held
from resurgam.clock import SystemClock
from resurgam.model.system import System
with held(msgspec.json.decode(sys.argv[1], type=System), SystemClock()):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def system(tmp_path: Path) -> System:
    """Two databases in WAL mode and a folder, which belong together, and a barrier."""
    (tmp_path / "notes").mkdir()
    for name in ("tickets.db", "memory.db"):
        with closing(sqlite3.connect(tmp_path / name)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("CREATE TABLE entry (id TEXT PRIMARY KEY)")
    places = (("tickets", "sqlite", "tickets.db"), ("memory", "sqlite", "memory.db"), ("notes", "files", "notes"))
    parts = tuple(Component(name=name, driver=kind, location=str(tmp_path / place)) for name, kind, place in places)
    return System(
        name="s",
        vault=VaultPlace(path=str(tmp_path / "vault"), keys=str(tmp_path / "keys")),
        components=parts,
        invariants=(Invariant(name="both", equal=("tickets: SELECT id FROM entry", "memory: SELECT id FROM entry")),),
        barrier=Barrier(file=str(tmp_path / "barrier.lock"), timeout=10.0),
        limits=Limits(freeze=10.0),
        root=str(tmp_path),
    )


@contextmanager
def process(script: str, *words: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has said its first word; killed at the end."""
    argv = [sys.executable, "-c", script, *words]
    started = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **(env or {})})
    with started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline()
            yield started
        finally:
            started.kill()


@contextmanager
def load(system: System, path: str) -> Iterator[None]:
    """Three writers at work; without a barrier where ``path`` is empty."""
    with ExitStack() as writers:
        for me in range(3):
            writers.enter_context(process(WRITER, system.root, str(me), env={ENVIRONMENT: path}))
        yield


def one_cut(system: System) -> tuple[Cut, list[Finding], int]:
    """A cut, what is broken at it, and how many entries are in it."""
    cut = take(system, driver_for, SystemClock())
    try:
        driver = driver_for("sqlite")
        assert isinstance(driver, Queries)
        answer = driver.query(system.component("tickets"), cut.position("tickets"), "SELECT count(*) FROM entry")
        ((count,),) = [row for batch in answer.batches for row in batch]
        return cut, hold_invariants(system, cut, driver_for), count
    finally:
        release(system, driver_for, {part.component: part.position for part in cut.parts})


def until(condition: Callable[[], bool]) -> None:
    """Wait for ``condition``, and fail where it never comes."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_no_cut_under_load_is_torn(system: System) -> None:
    """Writers in other processes write to three stores all the time; every cut has both databases equal, and none was passed."""
    assert system.barrier is not None
    counts = []
    with load(system, system.barrier.file):
        for _ in range(CUTS):
            cut, broken, count = one_cut(system)
            assert broken == []
            assert cut.barrier is not None
            assert not cut.barrier.passed
            assert findings(system, cut) == []
            assert all(0 < part.freeze <= cut.freeze <= cut.barrier.held for part in cut.parts)
            counts.append(count)
            until(lambda: entries(system) > count)  # noqa: B023 - writers go on between two cuts
    assert counts == sorted(set(counts))


def test_without_the_barrier_some_are(system: System) -> None:
    """The counter-proof: writers that do not take it are cut apart, and the invariant names the entry."""
    torn: list[Finding] = []

    def tear() -> bool:
        torn.extend(one_cut(system)[1])
        return bool(torn)

    with load(system, ""):
        until(tear)
    assert torn[0].severity is Severity.BROKEN
    assert torn[0].keys


class Slow(SqliteDriver):
    """The real driver, with a store that takes its time while it is frozen."""

    seconds = 0.3

    @contextmanager
    def freeze(self, component: Component, limit: float | None = None) -> Iterator[Position]:
        """See ``drivers.base.Driver``."""
        with super().freeze(component, limit) as position:
            time.sleep(self.seconds)
            yield position


def test_a_freeze_over_its_limit_leaves_everything_as_it_was(system: System) -> None:
    """P12: no cut; the databases can be written to and the barrier can be had, at once."""
    slow = Slow()
    system = msgspec.structs.replace(system, limits=Limits(freeze=0.2))
    with pytest.raises(LimitExceeded):
        take(system, lambda kind: slow if kind == "sqlite" else driver_for(kind), SystemClock())
    for name in ("tickets.db", "memory.db"):
        with closing(sqlite3.connect(f"{system.root}/{name}", timeout=0, isolation_level=None)) as database:
            database.execute("INSERT INTO entry VALUES ('x')")
    with barrier(f"{system.root}/barrier.lock", timeout=0.0) as passage:
        assert passage.held


def test_a_capture_that_cannot_have_the_barrier_ends_with_11(
    system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    """P12: nothing is frozen, no point is made, and the error says what to do; with the barrier free there is one."""
    assert system.barrier is not None
    manifest = Path(system.root, "resurgam.yaml")
    manifest.write_text(
        "resurgam: 1\nsystem: s\nvault: {path: vault, keys: keys}\nbarrier: {file: barrier.lock, timeout: 50ms}\n"
        "components:\n  tickets: {driver: sqlite, location: tickets.db}\n  notes: {driver: files, location: notes}\n"
    )
    assert main(["vault", "init", "-m", str(manifest)]) == 0
    with barrier(system.barrier.file):
        assert main(["capture", "-m", str(manifest)]) == LimitExceeded.exit_code
    assert "barrier.timeout" in capsys.readouterr().err
    assert main(["capture", "-m", str(manifest)]) == 0
    said = capsys.readouterr().out
    assert "barrier by file, waited for" in said
    assert "(notes " in said
    assert main(["points", "-m", str(manifest), "--json"]) == 0
    (point,) = msgspec.json.decode(capsys.readouterr().out)
    assert set(point["freezes"]) == {"tickets", "notes"}
    assert point["barrier"]["kind"] == "file"


# Commands that stand for the barrier --------------------------------------------------------------------------------------


def commanded(system: System, hold: Sequence[str], release: Sequence[str], timeout: float = 5.0) -> System:
    """The same system with commands for its barrier; each is a program text for Python."""
    made = [(sys.executable, "-c", text) for text in ("\n".join(hold), "\n".join(release))]
    return msgspec.structs.replace(system, barrier=Barrier(hold=made[0], release=made[1], timeout=timeout))


def write(name: str, text: str) -> str:
    """A line of program text that writes a file."""
    return f"open({name!r}, 'w').write({text!r})"


def entries(system: System) -> int:
    """How many tickets there are now."""
    with closing(sqlite3.connect(f"{system.root}/tickets.db", timeout=30)) as database:
        ((count,),) = database.execute("SELECT count(*) FROM entry")
        return int(count)


def test_commands_hold_and_release(system: System, tmp_path: Path) -> None:
    """In the manifest's folder; released before the stores are read, and after they were thawed."""
    system = commanded(
        system, [write("state", "held")], ["assert open('state').read() == 'held'", write("state", "free")]
    )
    cut, _, _ = one_cut(system)
    assert cut.barrier is not None
    assert (cut.barrier.kind, cut.barrier.passed, cut.trouble) == ("command", False, "")
    assert (tmp_path / "state").read_text() == "free"
    assert traces(system) == ()


@pytest.mark.parametrize(
    ("hold", "error", "said"),
    [
        ("import time; time.sleep(60)", LimitExceeded, "did not hold the barrier within"),
        ("raise SystemExit('pausing is not possible')", Unreachable, "pausing is not possible"),
    ],
)
def test_a_hold_that_fails_is_released_and_nothing_is_frozen(
    system: System, tmp_path: Path, hold: str, error: type[Exception], said: str
) -> None:
    """P12: also where it hangs; it is killed, and then `release` runs."""
    system = commanded(system, [write("began", ""), hold], [write("state", "free")], timeout=5.0)
    drivers: list[str] = []
    with pytest.raises(error, match=said):
        take(system, lambda kind: drivers.append(kind) or driver_for(kind), SystemClock())  # type: ignore[func-returns-value]
    assert drivers == []
    assert (tmp_path / "state").read_text() == "free"


def test_a_release_that_fails_is_a_finding(system: System) -> None:
    """The cut stands; that the application may still be held must be heard."""
    for text, said in (("raise SystemExit('no way')", "no way"), ("import time; time.sleep(60)", "did not end")):
        cut, _, _ = one_cut(commanded(system, ["pass"], [text], timeout=5.0))
        (finding,) = findings(system, cut)
        assert finding.severity is Severity.WARNING
        assert said in finding.what


@pytest.mark.parametrize("kind", ["file", "command"])
def test_a_killed_capture_lets_the_application_go_on(system: System, tmp_path: Path, kind: str) -> None:
    """``kill -9`` while it holds the barrier: the kernel drops the lock, the keeper runs `release`."""
    path = str(tmp_path / "barrier.lock")
    if kind == "command":
        system = commanded(
            system, [write("state", "held")], [write("freed", ""), "import os; os.rename('freed', 'state')"]
        )
    with process(CAPTURE, msgspec.json.encode(system).decode()) as capture:
        if kind == "file":
            with pytest.raises(LimitExceeded), lock.exclusive(path, 0.05):
                pass
        else:
            assert (tmp_path / "state").read_text() == "held"
        capture.send_signal(signal.SIGKILL)
        capture.wait()
    if kind == "file":
        with barrier(path, timeout=1.0) as passage:
            assert passage.held
    else:
        until(lambda: (tmp_path / "state").read_text() == "")
