"""What the tests of replicas share: a world with a system that lives in two regions, and its replicas in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random

import msgspec

from resurgam.stores.base import Store
from resurgam.testing.faults import ManualClock, MemoryStore
from resurgam.vault.replicas import ORIGIN, Place, next_list, put_list
from resurgam.vault.replicate import Copied, Run
from resurgam.vault.repository import Repository, Sealed
from resurgam.vault.shred import add_domain
from tests.support import Ticking, World

LARGE = 40_000  # bytes of a file


class Later(ManualClock):
    """The clock of a store that receives everything years after the world's."""

    def __init__(self) -> None:
        super().__init__()
        self._looks = count(1)
        self.advance(3 * 365 * 86_400.0)

    def now(self):  # type: ignore[no-untyped-def]  # as the inner one, a moment later each time
        """Each look is a moment later."""
        self.advance(0.001)
        return super().now()


@dataclass
class Replicated:
    """A world whose component ``private`` may not leave the EU, and its replicas; all stores are in memory."""

    world: World
    stores: dict[str, Store] = field(default_factory=dict)
    told: dict[str, dict[str, dict[bytes, bytes]]] = field(default_factory=dict)

    @property
    def origin(self) -> Repository:
        """The vault where it was made, opened anew."""
        return self.world.repository()

    def at(self, name: str) -> Repository:
        """The vault as a replica has it."""
        return self.world.repository(self.stores[name])

    def add(self, name: str, region: str = "", lag: float = 60.0, store: Store | None = None) -> Place:
        """List a place."""
        here, place = self.origin, Place(name=name, location=f"/replicas/{name}", region=region, lag=lag)
        before = here.here.listed
        places = before.places if before is not None else (Place(name=ORIGIN, location="/vault", region="eu"),)
        put_list(here, next_list(before, (*places, place)), self.world.clock)
        self.stores[name] = store or MemoryStore(Later())
        return place

    def place(self, name: str) -> Place:
        """It, as it is listed."""
        listed = self.origin.here.listed
        assert listed is not None
        place = listed.named(name)
        assert place is not None
        return place

    def run(self, name: str, near: Store | None = None, far: Store | None = None, *, verify: bool = False) -> Copied:
        """One run, as a new process would make it."""
        repository = self.world.repository(near)
        made = Run(repository, far or self.stores[name], self.place(name), self.world.clock, wait=lambda _seconds: None)
        return made.run(verify=verify)

    def change(self, rng: Random) -> Sealed:
        """A point of a system that changed a little."""
        for name, held in self.world.driver.held.items():
            held.files[f"{name}-{rng.randrange(4)}".encode()] = rng.randbytes(LARGE)
        sealed = self.world.capture()
        self.told[sealed.body.id] = self.world.contents()
        return sealed


def replicated(folder: Path, seed: int = 5, points: int = 2) -> Replicated:
    """A system of two components, one of them restricted to the EU, with some points and no replica yet."""
    world = World(str(folder), ("open", "private"))
    add_domain(world.repository(), "people", world.clock, "eu")
    parts = [
        msgspec.structs.replace(c, shred_domain="people", residency="eu") if c.name == "private" else c
        for c in world.system.components
    ]
    world.system = msgspec.structs.replace(world.system, components=tuple(parts))
    found, rng = Replicated(world), Random(seed)
    for name, held in world.driver.held.items():
        held.files = {f"{name}-{n}".encode(): rng.randbytes(LARGE) for n in range(4)}
    for _ in range(points):
        found.change(rng)
    return found


def objects(store: Store) -> dict[str, bytes]:
    """Everything that a store holds, but what a replica has for itself."""
    return {e.name: store.get(e.name) for e in store.list() if not e.name.startswith("replica/")}


__all__ = ["LARGE", "Later", "Replicated", "Ticking", "objects", "replicated"]
