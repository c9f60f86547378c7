"""The machine can find: with any one of the vault's defences taken away, some life of a vault loses a point (ADR 17).

Each mutation below is a plausible mistake, made on purpose. Lives are those of fixed seeds; a mistake that none of them meets is a
hole in the machine, and fails here. The same lives without the mistake end well.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest

from resurgam.clock import Clock
from resurgam.errors import IntegrityError, NotFound
from resurgam.vault import leases, marking, pruning, writer
from resurgam.vault.index import Index
from resurgam.vault.leases import Lease
from resurgam.vault.prunes import Prune, PruneEnd, Prunes
from resurgam.vault.repack import merge_segments
from resurgam.vault.repository import Repository
from resurgam.vault.signing import Role, SigningKey
from tests.vault_acts import live
from tests.vault_hosts import chance

STEPS, LIVES = 40, 60
STYLES: dict[str, dict[str, int]] = {
    "quarrels": {"change": 2, "capture": 4, "contest": 12, "begin": 1},
    "sleepers": {"change": 4, "capture": 4, "freeze": 4, "thaw": 5, "plan": 1, "begin": 4, "prune": 6, "reap": 1},
    "deciders": {
        "change": 3,
        "capture": 5,
        "judge": 4,
        "hold": 2,
        "policy": 1,
        "plan": 4,
        "begin": 4,
        "prune": 4,
        "undo": 4,
    },
}
"""Lives with little else than what they are about, in a fair climate."""
FOUND = (AssertionError, IntegrityError, NotFound)


@contextmanager
def reads_before_its_lease() -> Iterator[None]:
    """A writer looks at what it may reuse first, and says afterwards that it is there."""
    read: dict[int, Index] = {}
    own_index, reserve = writer._own_index, leases.reserve_point

    def early(repository: Repository, system: str, signer: SigningKey, clock: Clock, point: str) -> Lease:
        read[id(repository)] = own_index(repository, signer)
        return reserve(repository, system, signer, clock, point)

    def late(repository: Repository, signer: SigningKey) -> Index:
        return read.pop(id(repository), None) or own_index(repository, signer)

    with patch.object(writer, "reserve_point", early), patch.object(writer, "_own_index", late):
        yield


@contextmanager
def waits_for_nobody() -> Iterator[None]:
    """A pruner that ignores leases."""
    with patch.object(pruning, "open_leases", lambda _repository: []):
        yield


@contextmanager
def does_not_mark_anew() -> Iterator[None]:
    """A sweep that removes what the plan says, and does not look at what was sealed since."""

    def decide(repository: Repository, prune: Prune, *_: object) -> PruneEnd:
        gone = frozenset(prune.plan.remove)
        segments = merge_segments(repository, repository.keyring.signer(Role.PRUNER), gone)
        return PruneEnd(swept=True, gone=tuple(sorted(gone)), segments=segments)

    with patch.object(pruning, "_decide", decide):
        yield


@contextmanager
def reuses_marked_packs() -> Iterator[None]:
    """A writer that builds on packs whose tombstones stood before it began."""
    with patch.object(Prunes, "going", property(lambda prunes: prunes.gone)):
        yield


@contextmanager
def deletes_before_its_end() -> Iterator[None]:
    """Packs go before it is said that they are gone, so that an undo, or who comes after a crash, takes them for there."""
    end_of = pruning._end

    def end(repository: Repository, prune: Prune, end: PruneEnd, clock: Clock) -> None:
        for name in end.gone:
            repository.store.delete(f"packs/{name[:2]}/{name}")
        end_of(repository, prune, end, clock)

    with patch.object(pruning, "_end", end):
        yield


@contextmanager
def forgets_evidence() -> Iterator[None]:
    """A pruner that marks what points need, and not what their records rest on."""
    with patch.object(marking, "_records", lambda *_: iter(())):
        yield


@contextmanager
def asks_once() -> Iterator[None]:
    """A plan is begun and swept as it was made, whatever was decided, held or proven since."""
    with patch.object(pruning, "require_free", lambda *_: None):
        yield


@dataclass(frozen=True)
class Mistake:
    """One way to be wrong: the lives in which it shows, and the first seed at which it is known to."""

    made: Callable[[], AbstractContextManager[None]]
    style: str
    first: int = 0


MISTAKES = [
    Mistake(reads_before_its_lease, "quarrels", 3),
    Mistake(waits_for_nobody, "sleepers", 4),
    Mistake(does_not_mark_anew, "sleepers", 4),
    Mistake(reuses_marked_packs, "quarrels", 10),
    Mistake(deletes_before_its_end, "deciders", 10),
    Mistake(forgets_evidence, "deciders", 2),
    Mistake(asks_once, "deciders", 28),
]


def ends_well(folder: Path, style: str, seed: int) -> bool:
    """Whether the life of this seed loses nothing."""
    folder.mkdir()
    try:
        with chance(seed):
            live(str(folder), "fair", seed, STEPS, STYLES[style])
    except FOUND:
        return False
    finally:
        shutil.rmtree(folder)
    return True


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.made.__name__)
def test_is_found(tmp_path: Path, mistake: Mistake) -> None:
    """P1: some life loses a point by this mistake, and the same life without it loses none."""
    for seed in range(mistake.first, mistake.first + LIVES):
        with mistake.made():
            lost = not ends_well(tmp_path / f"{seed}", mistake.style, seed)
        if lost:
            assert ends_well(tmp_path / f"{seed}-sound", mistake.style, seed)
            return
    pytest.fail(f"{LIVES} lives did not meet it")
