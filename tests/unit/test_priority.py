"""Standing back: on processors and disks, for every thread, by anybody, and never while writers wait."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from resurgam import priority
from resurgam.capture import cut, invariants
from resurgam.cli.context import Context
from resurgam.model.system import Limits
from tests.journeys.world import World

_ASK = """
import ctypes, json, os, sys, threading
from resurgam import priority

def disks(thread):
    return ctypes.CDLL(None).syscall({"x86_64": 252, "aarch64": 31}[os.uname().machine], 1, thread)

go, done = threading.Event(), threading.Event()
early = threading.Thread(target=go.wait)
early.start()
priority.lower(processor=sys.argv[1] == "both")
priority.lower(processor=sys.argv[1] == "both")
seen = []
late = threading.Thread(target=lambda: seen.append((os.getpriority(os.PRIO_PROCESS, 0), disks(0))))
late.start(); late.join()
seen += [(os.getpriority(os.PRIO_PROCESS, t), disks(t)) for t in (0, early.native_id)]
go.set()
print(json.dumps(seen))
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.machine() not in {"x86_64", "aarch64"}, reason="Linux's numbers"
)
@pytest.mark.parametrize("what", ["both", "disks"])
def test_all_threads_stand_back_once(what: str) -> None:
    """Those there are and those that come; a second time changes nothing."""
    here = os.getpriority(os.PRIO_PROCESS, 0)
    done = subprocess.run([sys.executable, "-c", _ASK, what], capture_output=True, text=True, check=True, timeout=60)
    nice = max(here, priority.NICE) if what == "both" else here
    assert json.loads(done.stdout) == [[nice, 2 << 13 | 7]] * 3


_IDLE = """
import ctypes, os, sys
from resurgam import priority

call, get = ctypes.CDLL(None).syscall, {"x86_64": 252, "aarch64": 31}[os.uname().machine]
call(get - 1, 1, 0, 3 << 13)
priority.lower()
print(call(get, 1, 0) >> 13)
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.machine() not in {"x86_64", "aarch64"}, reason="Linux's numbers"
)
def test_what_stands_behind_everybody_stays_there() -> None:
    """Whoever has put `ionice -c 3` before a line of cron is not brought forward by what is gentle by itself."""
    done = subprocess.run([sys.executable, "-c", _IDLE], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "3"


_TERMINAL = """
import os, pty, sys
from resurgam import priority
if sys.argv[1] == "terminal":
    _, end = pty.openpty()
    os.open(os.ttyname(end), os.O_RDWR)  # the first that the leader of a session opens, controls it
print(priority.unattended())
"""


@pytest.mark.parametrize(("where", "unattended"), [("terminal", False), ("timer", True)])
def test_nobody_waits_where_no_terminal_is(where: str, unattended: bool) -> None:
    argv = [sys.executable, "-c", _TERMINAL, where]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60, start_new_session=True)
    assert done.stdout.strip() == str(unattended)


def test_a_capture_stands_back_after_the_thaw(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers wait for a freeze, so it stands back behind nobody; and without the word nothing does, in tests."""
    world = World(str(tmp_path_factory.mktemp("world"))).ready()
    events: list[str] = []

    def telling(event: str, work: Callable[..., Any], first: bool) -> Callable[..., Any]:
        def told(*of: Any) -> Any:
            if first:
                events.append(event)
            done = work(*of)
            if not first:
                events.append(event)
            return done

        return told

    module = "resurgam.capture.run"
    monkeypatch.setattr(f"{module}.take", telling("thawed", cut.take, first=False))
    monkeypatch.setattr(f"{module}.priority.lower", lambda: events.append("lower"))
    monkeypatch.setattr(f"{module}.hold_invariants", telling("read", invariants.hold_invariants, first=True))
    assert world.run("capture").code == 0
    assert events == ["thawed", "read"]
    assert world.run("capture", "--gentle").code == 0
    assert events[2:] == ["thawed", "lower", "read"]
    monkeypatch.setenv("RESURGAM_GENTLE", "yes")
    assert world.run("capture").code == 0
    assert events[5:] == ["thawed", "lower", "read"]


def test_limits_that_are_given_stand_in_the_point(tmp_path_factory: pytest.TempPathFactory) -> None:
    """P12: and words that are no share are refused before anything is read."""
    world = World(str(tmp_path_factory.mktemp("world"))).ready()
    assert world.run("capture", "--limit-read", "1000", "--limit-cpu", "150%").code == 0
    for words in ("nan", "inf", "0", "-1"):  # a range bars neither of the first two
        assert world.run("capture", "--limit-read", words).code == 2
    for words in ("0", "-1", "nan", "inf", "half", "50 percent", "1_0", "1e1", ".", "%"):
        refused = world.run("capture", "--limit-cpu", words)
        assert refused.code == 2
        assert "no share of the processors" in refused.err
    repository = Context(f"{world.system.root}/resurgam.yaml", keys=world.path("keys")).repository
    (point,) = repository.points()
    assert repository.particulars(point.body).system.limits == Limits(read_mb_s=1000, cpu=1.5)


def test_a_run_of_replicas_stands_back_too(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads the whole vault, perhaps on the host that serves."""
    world = World(str(tmp_path_factory.mktemp("world"))).ready()
    assert world.run("replicate", "add", "far", world.path("far"), "--region", "us", "--home-region", "eu").code == 0
    events: list[str] = []
    monkeypatch.setattr("resurgam.cli.replicate.priority.lower", lambda: events.append("lower"))
    assert world.run("replicate", "run").code == 0
    assert events == []
    assert world.run("replicate", "run", "--gentle").code == 0
    assert events == ["lower"]


def test_a_limit_of_a_check_that_reads_nothing_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    """P12: whoever gives it believes that packs are read."""
    world = World(str(tmp_path_factory.mktemp("world"))).ready()
    refused = world.run("vault", "check", "--limit-read", "5")
    assert refused.code == 2
    assert "none is to be read" in refused.err
    for reading in (("--read",), ("--sample", "5%"), ("--max-age", "1d"), ("--max-duration", "1m")):
        assert world.run("vault", "check", "--limit-read", "5000", *reading).code == 0
