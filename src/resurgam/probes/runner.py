"""Runs the owner's commands on the live system, as plain child processes.

A command gets the same surroundings here and in the sandbox, so that what differs is the system and nothing else: an
environment scrubbed to a short list, an empty private HOME that is gone afterwards (``resurgam.private``: by ``kill -9`` too),
its own session, no open files. It is over when the process that was started ends, or its time does, or it has printed too
much; whatever is left of its process group is then killed. A child that makes itself a session of its own escapes that here;
the sandbox's process namespace holds it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence

from resurgam.model.system import REFERENCE
from resurgam.private import private_folder
from resurgam.probes.base import MAX_OUTPUT, Completed

CANNOT_RUN, NOT_FOUND = 126, 127  # as POSIX shells report it
KEPT_ERRORS = 64 << 10  # bytes: of standard error only the end is kept
TICK = 0.02  # seconds between looks at a command that has closed its output, or left it to a child
STEP = 64 << 10
DRAIN_TURNS = 32  # more than a pipe holds, and an end to hearing a child that escaped and writes on

_KEPT = re.compile(r"PATH|LANG|LANGUAGE|LC_[A-Z]+|TZ")


class LiveRunner:
    """Runs commands on this host, in the folder of the system manifest. A ``Runner``."""

    def __init__(self, root: str) -> None:
        self._root = root

    def run(
        self, argv: Sequence[str], *, input: bytes = b"", env: Mapping[str, str] | None = None, timeout: float = 60.0,
        inherit: Sequence[int] = (),
    ) -> Completed:  # fmt: skip
        """Run ``argv`` to its end; ``timeout`` is in seconds. Never raises for what the command does."""
        given = dict(env or {})
        names = {name: found[1] for name, value in given.items() if (found := REFERENCE.fullmatch(value))}
        unset = sorted({name for name in names.values() if name not in os.environ})
        if unset:
            return Completed(CANNOT_RUN, b"", f"cannot be run: {', '.join(unset)} is not set".encode())
        secrets = {name: os.environ[source] for name, source in names.items()}
        with private_folder("probe") as home:
            environment = clean_environment(home) | given | secrets
            cwd = self._root or None
            done = run_child(argv, input=input, env=environment, cwd=cwd, timeout=timeout, inherit=inherit)
        return dataclasses.replace(done, errors=_without(done.errors, secrets.values()))


def clean_environment(home: str) -> dict[str, str]:
    """What a command sees of this process's environment: where programs are, language, time zone, and a private home."""
    kept = {name: value for name, value in os.environ.items() if _KEPT.fullmatch(name)}
    return kept | {"HOME": home, "TMPDIR": home}


def run_child(
    argv: Sequence[str], *, input: bytes, env: Mapping[str, str], cwd: str | None, timeout: float,
    inherit: Sequence[int] = (),
) -> Completed:  # fmt: skip
    """Run ``argv`` in exactly the environment ``env`` and kill its process group at the end, whatever that was. Of open
    descriptors it gets those in ``inherit`` only."""
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
            pass_fds=tuple(inherit),
        )
    except (OSError, ValueError) as error:  # not there, not executable, no such folder; a NUL in an argument
        code = NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_RUN
        return Completed(code, b"", f"cannot be run: {error}".encode(errors="replace"))
    child = _Child(process, input)
    try:
        timed_out = child.attend(until=time.monotonic() + timeout)
    finally:
        code = child.end()
    return Completed(code, bytes(child.output), bytes(child.errors), timed_out, child.overflowed)


class _Child:
    """One running command, and what it has said so far."""

    def __init__(self, process: subprocess.Popen[bytes], input: bytes) -> None:
        self.output = bytearray()
        self.errors = bytearray()
        self._process = process
        self._input = memoryview(input)
        self._selector = selectors.DefaultSelector()
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        for stream, event, handler in (
            (process.stdin, selectors.EVENT_WRITE, self._feed),
            (process.stdout, selectors.EVENT_READ, self._hear_output),
            (process.stderr, selectors.EVENT_READ, self._hear_errors),
        ):
            os.set_blocking(stream.fileno(), False)
            self._selector.register(stream, event, (stream, handler))

    @property
    def overflowed(self) -> bool:
        """Whether it has printed more than it may."""
        return len(self.output) > MAX_OUTPUT

    def attend(self, until: float) -> bool:
        """Feed and hear it until it ends or overflows; True when the time ``until`` came first."""
        while not self._ended() and not self.overflowed:
            left = until - time.monotonic()
            if left <= 0:
                return True
            self._turn(min(left, TICK))
        return False

    def end(self) -> int:
        """Kill what is left of the group, hear what it had still said, and return the command's exit code."""
        with contextlib.suppress(ProcessLookupError):  # nobody is left
            # The leader is not reaped yet, so its number cannot have passed to a stranger's group.
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        for _ in range(DRAIN_TURNS):
            if self.overflowed or not self._turn(0):
                break
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream:
                stream.close()
        return code

    def _ended(self) -> bool:
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _turn(self, patience: float) -> bool:
        """Serve each stream that is ready once; whether any was."""
        ready = self._selector.select(patience)
        for key, _ in ready:
            stream, handler = key.data
            if not handler(key.fd):
                self._selector.unregister(stream)
                stream.close()  # for standard input: so that the command sees its end
        return bool(ready)

    def _feed(self, descriptor: int) -> bool:
        try:
            if self._input:
                self._input = self._input[os.write(descriptor, self._input[:STEP]) :]
        except BrokenPipeError:
            return False  # it does not want its input; its answer tells whether that was right
        return bool(self._input)

    def _hear_output(self, descriptor: int) -> bool:
        heard = os.read(descriptor, STEP)
        self.output += heard
        return bool(heard)

    def _hear_errors(self, descriptor: int) -> bool:
        heard = os.read(descriptor, STEP)
        self.errors += heard
        del self.errors[:-KEPT_ERRORS]
        return bool(heard)


def _without(errors: bytes, secrets: Iterable[str]) -> bytes:
    """P12: an error is shown and kept, so what the command says goes on without the secrets it was given."""
    for secret in secrets:
        if secret:
            errors = errors.replace(os.fsencode(secret), b"***")
    return errors
