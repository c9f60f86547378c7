"""Private folders for one use, which a killed process cannot leave behind for good.

    with scratch("verify") as folder:             # <state home>/scratch/verify-XXXXXXXX, mode 0700
        ...                                       # removed at the end, whatever that was

What lies here may be a whole decrypted system, so it is not put into a temporary folder that nobody clears: all uses
share one folder of this host's state, each holds its own locked while it lives, and each first removes those that
nobody holds any more (``resurgam.private``).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from resurgam.private import claim, clear, sweep
from resurgam.vault.host import state_home, told

_OURS = re.compile(r"[a-z]+-[a-z0-9_]{8}")  # as tempfile.mkdtemp names them


@contextmanager
def scratch(purpose: str) -> Iterator[str]:
    """An empty folder of our own, removed at the end with all that is in it. ``purpose`` is a lower-case word.

    Raises Denied and StoreFull where this host's state cannot be kept, Busy.
    """
    home = os.path.join(state_home(), "scratch")
    clear()
    with told(home):
        os.makedirs(home, mode=0o700, exist_ok=True)
        os.chmod(home, 0o700)
        sweep(home, _OURS)
        folder, lock = claim(home, f"{purpose}-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
