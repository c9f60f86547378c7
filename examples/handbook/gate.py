"""The gate: who may use the live system. A client holds a shared lock on the file ``gate`` for as long as it has a store open.

    fence    puts up ``maintenance``, and waits until the last client has left
    reload   takes it down

A client that finds ``maintenance`` stays out. So after a fence nobody holds the live files open. While a fence stands nobody is
served: this file is also a command that imports next to nothing, and starts in a hundredth of a second.

    python -IS gate.py fence|reload [HOME]
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

PAUSE = 0.02  # seconds between two looks at the gate
PATIENCE = 30.0  # seconds that a fence waits for clients to leave


class Closed(Exception):
    """The system is under maintenance."""


@contextmanager
def client(home: str) -> Iterator[None]:
    """Hold the gate open. Raises Closed during maintenance."""
    gate = os.open(os.path.join(home, "gate"), os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(gate, fcntl.LOCK_SH)
        if under_maintenance(home):  # looked at under the lock: a fence that comes now waits for us
            raise Closed("The system is under maintenance; ask again in a moment.")
        yield
    finally:
        os.close(gate)


def under_maintenance(home: str) -> bool:
    """Whether a fence stands."""
    return os.path.exists(os.path.join(home, "maintenance"))


def fence(home: str) -> None:
    """Keep clients out, and wait until those inside have left. Raises TimeoutError, with the fence still up."""
    with open(os.path.join(home, "maintenance"), "a", encoding="ascii"):
        pass
    gate = os.open(os.path.join(home, "gate"), os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + PATIENCE
        while not _locked(gate):
            if time.monotonic() > until:
                raise TimeoutError(f"A client has not left within {PATIENCE:g} s.")
            time.sleep(PAUSE)
    finally:
        os.close(gate)


def reload(home: str) -> None:
    """Let clients in. They read every part anew."""
    try:
        os.unlink(os.path.join(home, "maintenance"))
    except FileNotFoundError:
        return  # it was open already


def _locked(gate: int) -> bool:
    try:
        fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def main(words: list[str]) -> int:
    """Run one command; returns its exit code."""
    acts = {"fence": fence, "reload": reload}
    if not 1 <= len(words) <= 2 or words[0] not in acts:
        print("usage: gate.py fence|reload [HOME]", file=sys.stderr)
        return os.EX_USAGE
    try:
        acts[words[0]](words[1] if len(words) == 2 else ".")
    except (OSError, TimeoutError) as error:
        print(f"gate: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
