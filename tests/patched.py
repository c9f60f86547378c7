"""What the tests of files that change in places share."""

from __future__ import annotations

from resurgam.vault.prune import Economics
from resurgam.vault.pruning import begin, draft, propose, sweep
from resurgam.vault.reader import ChunkReader
from resurgam.vault.repository import Sealed
from resurgam.vault.snapshots import Entry
from tests.support import World, stored_bytes


def added(world: World, files: dict[bytes, bytes]) -> tuple[Sealed, int]:
    """A point over ``files``, restored exactly; and how much larger the store is by it."""
    world.live.files = files
    before = stored_bytes(world.store)
    point = world.capture()
    assert world.restored(point) == world.contents()
    return point, stored_bytes(world.store) - before


def entry_of(world: World, sealed: Sealed) -> tuple[Entry, ChunkReader]:
    """The only entry of a point, and what reads it."""
    (entry,) = world.repository().snapshot(sealed.body, "files").entries()
    return entry, world.repository().chunks(sealed.body.snapshots[0].domain)


def prune_away(world: World, sealed: Sealed) -> None:
    """Let a point go, and take from the vault all that no other one needs."""
    repository = world.repository(keys=world.keys_with("trust.json", "pruner.json"))
    chosen = draft(repository, {sealed.body.id: "the test says so"}, Economics(max_unused=0.0))
    sweep(repository, begin(repository, propose(repository, chosen.plan, world.clock), world.clock), world.clock)
