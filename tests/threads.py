"""Which threads a test leaves behind, whatever those of tests before it do meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 30.0  # seconds: a thread that was told to end may need a moment on a busy machine


@contextmanager
def none_left() -> Iterator[set[threading.Thread]]:
    """Asserts that threads which begin inside end with it; yields those that ran before."""
    before = set(threading.enumerate())
    yield before
    until = time.monotonic() + PATIENCE
    for thread in begun(before):
        thread.join(max(0.0, until - time.monotonic()))
    assert not begun(before)


def begun(before: set[threading.Thread]) -> set[threading.Thread]:
    """The threads that run now and are not among those of ``before``."""
    return set(threading.enumerate()) - before
