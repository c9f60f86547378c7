"""The files of keys that one role holds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from resurgam.vault.rights import READER, REPLICATOR
from resurgam.vault.signing import Role
from tests.support import copy_keys

READS = ("reader.agekey", "evidence.agekey")
FILES = {Role.VERIFIER.value: ("verifier.json", *READS), READER: READS, REPLICATOR: ()}


@contextmanager
def only_keys_of(role: str, folder: str) -> Iterator[None]:
    """Within, ``folder`` holds what a host of that ``role`` has; the root's has all. Nothing is to be made in it meanwhile, but by
    the root."""
    if role == Role.ROOT:
        yield
        return
    aside = f"{folder}.all"
    os.rename(folder, aside)
    try:
        copy_keys(aside, folder, ("trust.json", *FILES.get(role, (f"{role}.json",))))
        yield
    finally:
        shutil.rmtree(folder)
        os.rename(aside, folder)
