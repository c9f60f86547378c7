"""What is timed, one process each: ``python -m bench.vault_scale.tasks TASK FOLDER`` prints one JSON object.

Each task is told in parts: what it prepares is not timed, what it does is, by the wall clock and by processor seconds (user and
system). Memory is the largest resident set of the process, which with its libraries alone is some 70 MB.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from resurgam.stores.local import LocalStore
from resurgam.vault import pruning
from resurgam.vault.check import check
from resurgam.vault.keyring import Keyring
from resurgam.vault.pack import ID
from resurgam.vault.policies import facts, in_force, policies, store_time
from resurgam.vault.repository import Repository
from resurgam.vault.retention import decide
from resurgam.vault.signing import Role

ASKED = 100_000  # chunk ids
Times = dict[str, tuple[float, float]]


class Bench:
    """A vault to try, and what was measured."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.times: Times = {}

    def repository(self) -> Repository:
        """The vault, opened anew."""
        return Repository(LocalStore(f"{self.folder}/vault"), Keyring(f"{self.folder}/keys"), f"{self.folder}/notes")

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Note what the block takes."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.times[what] = time.perf_counter() - wall, time.process_time() - cpu

    def some_ids(self, count: int = ASKED) -> bytes:
        """Ids of chunks all over the vault, joined: those of the first pages of segments."""
        places = self.repository().places
        found: list[bytes] = []
        for segment in places.segments():
            entries = segment.entries
            found.append(entries[: max(1, count // 50)].view(np.uint8).reshape(-1, entries.itemsize)[:, :ID].tobytes())
            if sum(map(len, found)) >= count * ID:
                break
        return b"".join(found)[: count * ID]


def open_cold(bench: Bench) -> None:
    """The index, on a host that remembers nothing."""
    shutil.rmtree(f"{bench.folder}/notes", ignore_errors=True)
    with bench.timed("open, nothing remembered"):
        assert len(bench.repository().index)


def open_warm(bench: Bench) -> None:
    """The index, on a host that remembers it."""
    with bench.timed("open"):
        assert len(bench.repository().index)


def open_to_write(bench: Bench) -> None:
    """What a capture opens: the chunks that its own key has signed for."""
    repository = bench.repository()
    with bench.timed("open to write"):
        index, orphans = repository.places.index(repository.keyring.signer(Role.CAPTURE).key_id)
    assert len(index)
    assert not orphans


def look_up(bench: Bench) -> None:
    """The first chunk that is looked for, and many at once."""
    asked = bench.some_ids()
    index = bench.repository().index
    with bench.timed("first find"):
        assert index.find(asked[:ID]) is not None
    with bench.timed(f"knows_all of {len(asked) // ID:,}"):
        assert index.knows_all(asked)
    few = asked[: ASKED // 10 * ID]
    with bench.timed(f"find of {len(few) // ID:,}, one by one"):
        for at in range(0, len(few), ID):
            assert index.find(asked[at : at + ID]) is not None


def claim(bench: Bench) -> None:
    """New chunks, as a first capture claims them."""
    index = bench.repository().index
    ids = np.random.default_rng(7).bytes(2 * ASKED * ID)
    with bench.timed(f"claim of {2 * ASKED:,} new"):
        for at in range(0, len(ids), ID):
            assert index.claim(ids[at : at + ID])


def points(bench: Bench) -> None:
    """What ``resurgam points`` reads: every point, and how each stands."""
    repository = bench.repository()
    with bench.timed("points"):
        found = repository.points()
    assert found
    with bench.timed("and their states"):
        for sealed in found:
            assert repository.state(sealed).damaged is None


def show(bench: Bench) -> None:
    """What ``resurgam show latest`` reads."""
    repository = bench.repository()
    with bench.timed("show latest"):
        sealed = repository.resolve("latest")
        repository.particulars(sealed.body)
        assert repository.state(sealed).sealed


def check_structure(bench: Bench) -> None:
    """``resurgam vault check``."""
    repository = bench.repository()
    with bench.timed("check"):
        assert check(repository).ok


def retention(bench: Bench) -> None:
    """What the policy in force says of every point."""
    repository = bench.repository()
    with bench.timed("gather what retention decides upon"):
        signed, known, now = in_force(policies(repository)), facts(repository), store_time(repository.store)
    with bench.timed("decide"):
        decisions = decide(signed, known, now)
    assert any(not decision.keep for decision in decisions)


def prune(bench: Bench) -> None:
    """``resurgam vault prune``, as far as the plan."""
    repository = bench.repository()
    with bench.timed("plan a prune"):
        drafted = pruning.draft(repository, pruning.expiring(repository))
    assert drafted.plan.expire
    assert not drafted.leases


TASKS: dict[str, Callable[[Bench], None]] = {
    "open-cold": open_cold,
    "open": open_warm,
    "open-to-write": open_to_write,
    "look-up": look_up,
    "claim": claim,
    "points": points,
    "show": show,
    "check": check_structure,
    "retention": retention,
    "prune": prune,
}


def _peak() -> int:
    """The largest resident set so far, in bytes: of this program alone, since it counts from its start by exec."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def main() -> None:
    """Do one task."""
    task, folder = sys.argv[1:]
    bench = Bench(folder)
    TASKS[task](bench)
    json.dump({"task": task, "peak": _peak(), "times": bench.times}, sys.stdout)


if __name__ == "__main__":
    main()
