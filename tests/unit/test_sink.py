"""Packs on their way to a store: who fills them, what happens when one is not put, and how much memory they take."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from resurgam.errors import Denied
from resurgam.model.placement import Placement
from resurgam.vault.keys import DEFAULT_DOMAIN, new_session
from resurgam.vault.pack import PACK_SIZE, Kind
from resurgam.vault.signing import Role
from resurgam.vault.sink import DomainKeys, Sink
from tests.support import World

PATIENCE = 30.0  # seconds after which a thread counts as stuck


class Sinking:
    """A sink for two threads and one pack under way, and the packs that it has put."""

    def __init__(self, folder: Path, refused: Callable[[int], bool] = lambda _number: False) -> None:
        repository = World(str(folder)).repository()
        signer = repository.keyring.signer(Role.CAPTURE)
        session, _ = new_session(repository.vault, DEFAULT_DOMAIN, repository.roles.recipients(DEFAULT_DOMAIN))
        self.keys = DomainKeys(repository.secret, DEFAULT_DOMAIN, session)
        self.packs: list[tuple[int, Placement]] = []
        self._refused = refused
        self.sink = Sink(
            repository.vault,
            repository.places.index(signer.key_id)[0],
            self._put,
            lambda entries: repository.places.seal("trailer", entries, signer),
            threads=2,
            in_flight=1,
        )

    def _put(self, _name: str, data: memoryview, placement: Placement) -> None:
        self.packs.append((len(data), placement))
        if self._refused(len(self.packs)):
            raise Denied("The store says no.", untouched="All.", next_step="Ask again.")

    def put(self, size: int = 1000, kind: Kind = Kind.DATA) -> None:
        self.sink.put(self.keys, kind, os.urandom(size))


def in_threads(count: int, work: Callable[[], None]) -> None:
    """``work`` in so many threads, each of which has ended before the next one begins."""
    for _ in range(count):
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        assert not thread.is_alive(), "it waits for memory that nobody gives back"


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.TREE])
def test_a_thread_that_has_ended_keeps_no_pack(tmp_path: Path, kind: Kind) -> None:
    """Each component with small files has a thread of its own: many of them fill one pack, and none waits for ever."""
    world = Sinking(tmp_path)
    in_threads(12, lambda: world.put(kind=kind))
    world.sink.flush()
    world.sink.close()
    assert len(world.packs) == 1


def test_more_threads_than_packs(tmp_path: Path) -> None:
    """Whoever finds no memory waits until another one has added its chunk."""
    world = Sinking(tmp_path)

    def fill() -> None:
        for _ in range(40):
            world.put(200_000)

    threads = [threading.Thread(target=fill, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    world.sink.flush()
    world.sink.close()
    assert sum(size for size, _ in world.packs) > 8 * 40 * 200_000
    assert max(size for size, _ in world.packs) <= PACK_SIZE


def test_a_pack_that_was_not_put_is_never_forgotten(tmp_path: Path) -> None:
    """P1: whoever passes over the error once, as over a file that cannot be read, meets it again before anything is sealed."""
    world = Sinking(tmp_path, refused=lambda number: number == 1)

    def fill() -> None:
        for _ in range(3 * PACK_SIZE // 1_000_000):
            world.put(1_000_000)
        world.sink.flush()

    with pytest.raises(Denied, match="says no"):
        fill()
    for again in (world.put, world.sink.flush, world.sink.flush):
        with pytest.raises(Denied, match="says no"):
            again()
    world.sink.close()
