"""A runner whose Python commands start warm: a server has imported the big libraries, and forks a child for each command.

The child runs the script that it is given as ``__main__``, in the folder and environment that it is given, alone, and ends. So
each command starts from the same state, nothing is left from one to the next, and only the seconds of importing chromadb and
langgraph are saved. ``Warm`` is a ``resurgam.probes.base.Runner``; it serves one thread.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from resurgam.probes.base import Completed
from resurgam.probes.runner import LiveRunner, clean_environment

LIBRARIES = (
    *("numpy", "safetensors.numpy", "yaml", "tokenizers", "chromadb", "chromadb.api.rust", "dulwich.repo"),
    *("langgraph.graph", "langgraph.types", "langgraph.checkpoint.sqlite", "langgraph.store.sqlite"),
)


class Warm:
    """See the module's docstring. Commands run in ``root``; one that is not Python's, or inherits open files, runs as on a live
    system."""

    def __init__(self, root: str, env: Mapping[str, str] | None = None) -> None:
        self.root = root
        self.env = dict(env or {})

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "bench.proof.warm"]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def run(
        self, argv: Sequence[str], *, input: bytes = b"", env: Mapping[str, str] | None = None, timeout: float = 60.0,
        inherit: Sequence[int] = (),
    ) -> Completed:  # fmt: skip
        """A ``Runner``'s. Raises ConnectionError where the server is gone."""
        if argv[0] != sys.executable or inherit:
            return LiveRunner(self.root).run(argv, input=input, env=env, timeout=timeout, inherit=inherit)
        script = [word for word in argv[1:] if word not in ("-I", "-S")]
        with tempfile.TemporaryDirectory(prefix="bench-proof-") as home:
            environment = clean_environment(home) | self.env | dict(env or {})
            asked = {"argv": script, "cwd": self.root, "env": environment, "timeout": timeout, "home": home}
            with open(os.path.join(home, "in"), "xb") as file:
                file.write(input)
            done = self._asked(asked)
            out, err = (_bytes(os.path.join(home, name)) for name in ("out", "err"))
        return Completed(done["code"], out, err, done["timed_out"])

    def _asked(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps(asked) + "\n")
        self._server.stdin.flush()
        line = self._server.stdout.readline()
        if not line:
            raise ConnectionError(f"The warm server ended by itself (exit code {self._server.wait()}).")
        done: dict[str, Any] = json.loads(line)
        return done


def serve() -> None:
    """Import what is big, then fork a child for each line of standard input until it ends."""
    for name in LIBRARIES:
        importlib.import_module(name)
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            _be(asked)
        print(json.dumps(_attended(child, asked["timeout"])), flush=True)


def _attended(child: int, timeout: float) -> dict[str, Any]:
    opened = os.pidfd_open(child)
    try:
        ended, _, _ = select.select([opened], [], [], timeout)
        if not ended:
            os.killpg(child, signal.SIGKILL)
    finally:
        os.close(opened)
    _, how = os.waitpid(child, 0)
    return {"code": os.waitstatus_to_exitcode(how), "timed_out": not ended}


def _be(asked: dict[str, Any]) -> None:
    """The child: become the script, and end. Does not return."""
    code = 1
    try:
        os.setsid()
        _redirected(asked["home"])
        os.chdir(asked["cwd"])
        os.environ.clear()
        os.environ.update(asked["env"])
        tempfile.tempdir = None
        code = _run(asked["argv"])
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001 - as the interpreter does: told, and exit code 1
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _redirected(home: str) -> None:
    modes = {0: ("in", os.O_RDONLY), 1: ("out", os.O_WRONLY | os.O_CREAT), 2: ("err", os.O_WRONLY | os.O_CREAT)}
    for number, (name, mode) in modes.items():
        opened = os.open(os.path.join(home, name), mode, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - it ends with the process; what the server had read ahead is not this child's


def _run(argv: list[str]) -> int:
    try:
        if argv[0] == "-m":
            sys.argv = argv[1:]
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = argv
            sys.path.insert(0, os.path.dirname(os.path.abspath(argv[0])))
            runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    return 0


def _bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


if __name__ == "__main__":
    serve()
