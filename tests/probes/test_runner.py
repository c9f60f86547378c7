"""The live runner: real commands, their surroundings, and their end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resurgam import private
from resurgam.probes import runner as runner_module
from resurgam.probes.base import MAX_OUTPUT, Completed
from resurgam.probes.runner import CANNOT_RUN, NOT_FOUND, LiveRunner


def python(
    code: str, root: Path, *, input: bytes = b"", env: dict[str, str] | None = None, timeout: float = 20
) -> Completed:
    return LiveRunner(str(root)).run([sys.executable, "-I", "-S", "-c", code], input=input, env=env, timeout=timeout)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def wait_until_gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        os.sched_yield()
    return not is_running(pid)


def test_output_errors_and_code_come_back(tmp_path: Path) -> None:
    done = python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)", tmp_path)
    assert done == Completed(3, b"out\n", b"err\n")


def test_large_input_and_output_pass_through_together(tmp_path: Path) -> None:
    data = bytes(range(256)) * 4096
    done = python("import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())", tmp_path, input=data)
    assert done.output == data


def test_a_command_that_ignores_its_input_is_no_failure(tmp_path: Path) -> None:
    assert python("print(1)", tmp_path, input=b"x" * 1_000_000) == Completed(0, b"1\n", b"")


def test_it_runs_in_the_systems_folder(tmp_path: Path) -> None:
    assert python("import os; print(os.getcwd())", tmp_path).output.decode().strip() == str(tmp_path.resolve())


def test_the_environment_is_scrubbed_and_home_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P6: what a command gets is listed, so that the live system and a copy are asked in equal surroundings."""
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    code = "import json, os; print(json.dumps(dict(os.environ))); print(os.listdir(os.environ['HOME']))"
    shown, listed = python(code, tmp_path, env={"GIVEN": "1"}).output.decode().splitlines()
    environment = json.loads(shown)
    assert set(environment) <= {"PATH", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "HOME", "TMPDIR", "GIVEN"}
    assert environment["GIVEN"] == "1"
    assert environment["LC_ALL"] == "C.UTF-8"
    assert environment["HOME"] != os.environ["HOME"]
    assert listed == "[]"
    assert not os.path.exists(environment["HOME"])


def test_a_reference_is_looked_up_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P12: no secret in an error."""
    monkeypatch.setenv("LIVE_TOKEN", "s3cr3t-value")
    done = python("import os, sys; sys.exit('token ' + os.environ['TOKEN'])", tmp_path, env={"TOKEN": "${LIVE_TOKEN}"})
    assert done.code == 1
    assert done.errors == b"token ***\n"


def test_an_unset_reference_is_named_and_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIVE_TOKEN", raising=False)
    done = python("open('ran', 'w')", tmp_path, env={"TOKEN": "${LIVE_TOKEN}"})
    assert done == Completed(CANNOT_RUN, b"", b"cannot be run: LIVE_TOKEN is not set")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("argv", "code"), [(["no-such-program-here"], NOT_FOUND), (["/"], CANNOT_RUN), (["echo", "a\0b"], CANNOT_RUN)]
)
def test_what_cannot_be_started_is_told(tmp_path: Path, argv: list[str], code: int) -> None:
    done = LiveRunner(str(tmp_path)).run(argv)
    assert done.code == code
    assert b"cannot be run" in done.errors


FORKING = """
import os, time
child = os.fork()
if child == 0:
    time.sleep(600)
with open("child", "w") as file:
    file.write(str(child))
"""


def test_a_hang_is_killed_with_its_children(tmp_path: Path) -> None:
    """P12: a probe that hangs ends, and so does what it started."""
    began = time.monotonic()
    done = python(FORKING + "print('here', flush=True); time.sleep(600)", tmp_path, timeout=5.0)
    assert time.monotonic() - began < 30
    assert done.timed_out
    assert done.output == b"here\n"
    assert wait_until_gone(int((tmp_path / "child").read_text()))


def test_a_child_left_behind_neither_delays_nor_stays(tmp_path: Path) -> None:
    began = time.monotonic()
    done = python(FORKING + "print('done')", tmp_path, timeout=60)
    assert time.monotonic() - began < 30
    assert (done.code, done.output, done.timed_out) == (0, b"done\n", False)
    assert wait_until_gone(int((tmp_path / "child").read_text()))


def test_a_command_that_closes_its_output_is_waited_for(tmp_path: Path) -> None:
    code = "import os, sys, time\nos.close(1); os.close(2); time.sleep(0.2)\nopen('finished', 'w').close(); os._exit(7)"
    assert python(code, tmp_path).code == 7
    assert (tmp_path / "finished").exists()


def test_endless_output_is_stopped(tmp_path: Path) -> None:
    done = python("import sys\nwhile True: sys.stdout.write('x' * 65536)", tmp_path)
    assert done.overflowed
    assert MAX_OUTPUT < len(done.output) < MAX_OUTPUT + (2 << 20)


def test_of_endless_errors_the_end_is_kept(tmp_path: Path) -> None:
    done = python("import sys\nfor i in range(100000): print(i, file=sys.stderr)", tmp_path)
    assert len(done.errors) == runner_module.KEPT_ERRORS
    assert done.errors.endswith(b"99999\n")


def test_an_interrupt_kills_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a probe runs leaves no process behind."""

    def interrupted(self: object) -> bool:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            raise KeyboardInterrupt
        return False

    monkeypatch.setattr(runner_module._Child, "_ended", interrupted)
    with pytest.raises(KeyboardInterrupt):
        python("import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(600)", tmp_path)
    assert not is_running(int((tmp_path / "pid").read_text()))


ASKING = """
import sys
from resurgam.probes.runner import LiveRunner
LiveRunner(sys.argv[1]).run([sys.executable, "-c", sys.argv[2]], timeout=60)
"""
KEEPING = """
import os, time
open(os.environ["HOME"] + "/personal", "w").write("an answer")
with open("child.new", "w") as file:
    file.write(f"{os.getpid()} {os.environ['HOME']}")
os.rename("child.new", "child")
time.sleep(600)
"""


def test_the_home_of_a_killed_run_goes_and_that_of_a_living_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``kill -9`` while a command runs: what it wrote into its HOME is cleared away by the next capture or verification."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    with subprocess.Popen([sys.executable, "-c", ASKING, str(tmp_path), KEEPING]) as process:
        deadline = time.monotonic() + 20
        while not (tmp_path / "child").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        child, home = (tmp_path / "child").read_text().split()
        try:
            private.clear()
            assert os.listdir(home) == ["personal"], "it is in use"
            process.kill()
            process.wait()
            assert os.path.exists(f"{home}/personal")
            private.clear()
            assert os.listdir(temporary) == []
        finally:
            process.kill()
            os.kill(int(child), signal.SIGKILL)
