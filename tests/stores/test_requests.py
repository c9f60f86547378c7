"""The model of requests is what stores that count see: in memory, on a folder, on a real S3 server.

The tolerance is a quarter, or eight requests where there are few: what a model of prices has to be good for.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from random import Random

import msgspec
import pytest

from resurgam.stores import abreast
from resurgam.stores.base import Store
from resurgam.stores.local import LocalStore
from resurgam.stores.registry import open_store
from resurgam.testing.archiving import CountingStore
from resurgam.testing.faults import ManualClock, MemoryStore
from resurgam.vault import requests, workers, writer
from resurgam.vault.needs import needs_of
from resurgam.vault.prune import Economics
from resurgam.vault.pruning import begin, draft, propose, sweep
from resurgam.vault.requests import Requests, Shape
from tests.stores.counting_proxy import counted
from tests.stores.seaweed import Seaweed, environment
from tests.support import World

FEW, SHARE = 8, 0.25
_numbers = count()


@pytest.fixture(params=["memory", "folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store that is near or far whatever the machine is busy with. One thread captures and restores: where chunks lie in several
    packs, and who reads on where, depends on which thread took which file."""
    monkeypatch.setattr(abreast, "QUICK", 0.0 if request.param == "s3" else 60.0)
    monkeypatch.setattr(writer, "THREADS", 1)
    monkeypatch.setattr(workers, "THREADS", 1)
    if request.param == "memory":
        yield MemoryStore()
    elif request.param == "folder":
        with LocalStore.create(str(tmp_path / "store")) as opened:
            yield opened
    else:
        server: Seaweed = request.getfixturevalue("seaweed")
        for name, value in environment("writer").items():
            monkeypatch.setenv(name, value)
        yield open_store(server.url("plain", f"requests-{os.getpid()}/{next(_numbers)}"))


def shape_of(world: World, store: Store) -> Shape:
    """The vault as it is now."""
    names = [entry.name for entry in store.list()]

    def those(prefix: str, end: str = "") -> int:
        return sum(name.startswith(prefix) and name.endswith(end) for name in names)

    return Shape(
        points=len(world.repository(store).points()),
        packs=those("packs/"),
        segments=those("index/"),
        log=those("log/"),
        prunes=those("prune/", "/plan"),
        domains=1,
        sessions=those("keys/session-"),
        far=not isinstance(store, MemoryStore | LocalStore),
    )


def require_alike(model: Requests, seen: Requests) -> None:
    """Within the tolerance, kind by kind."""
    for kind in ("put", "get", "list", "delete"):
        told, counted = getattr(model, kind), getattr(seen, kind)
        assert abs(told - counted) <= max(FEW, SHARE * counted), f"{kind}: {told} told, {counted} counted"


def test_captures_and_prunes_ask_as_the_model_says(store: Store, tmp_path: Path) -> None:
    """A first capture, one with a change, one without, and a prune of half of the points."""
    counting, rng = CountingStore(store), Random(1)
    world = World(str(tmp_path), store=counting)
    world.clock = ManualClock(datetime.now(UTC))  # as the store's: nothing is pruned by a clock that is wrong
    world.live.files = {f"{n}".encode(): rng.randbytes(300_000) for n in range(20)}
    for number in range(6):
        before, stored = shape_of(world, store), store_size(store)
        if number != 5:
            world.live.files[b"0"] = rng.randbytes(300_000 * (1 + number))
        counting.taken()
        world.capture()
        new = store_size(store) - stored if number != 5 else 0
        require_alike(requests.capture(before, new), counting.taken())
    shape = shape_of(world, store)
    points = [one.body.id for one in world.repository(store).points()]
    counting.taken()
    repository = world.repository()
    plan = draft(repository, dict.fromkeys(points[:3], "too old"), Economics(max_unused=0.0)).plan
    prune = sweep(repository, begin(repository, propose(repository, plan, world.clock), world.clock), world.clock)
    assert prune.end is not None
    require_alike(requests.prune(shape, 3, len(prune.end.gone), plan.copies), counting.taken())


def test_restores_ask_as_the_model_says(store: Store, tmp_path: Path) -> None:
    """Each of six points of new contents, and of packs that are partly read."""
    counting, rng = CountingStore(store), Random(2)
    world = World(str(tmp_path), store=counting)
    told, seen = Counter[str](), Counter[str]()
    for _ in range(6):
        world.live.files = {f"{n}".encode(): rng.randbytes(300_000) for n in range(20)}
        sealed = world.capture()
        shape = msgspec.structs.replace(shape_of(world, store), sessions=1)
        needs = needs_of(world.repository(store), [(sealed, ())])
        counting.taken()
        assert world.restored(sealed) == world.contents()
        seen.update(msgspec.structs.asdict(counting.taken()))
        told.update(msgspec.structs.asdict(requests.restore(shape, len(needs.ids), int(needs.entries["stored"].sum()))))
    require_alike(Requests(**told), Requests(**seen))


def test_what_is_counted_is_what_goes_over_the_wire(
    seaweed: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call of the port is one HTTP request, but for what S3 asks more: a delete looks first which version it deletes."""
    for name, value in environment("writer").items():
        monkeypatch.setenv(name, value)
    with counted(seaweed.endpoint) as wire:
        url = f"s3://plain/wire-{os.getpid()}?region=us-east-1&endpoint={wire.endpoint}"
        counting = CountingStore(open_store(url))
        world = World(str(tmp_path), store=counting)
        world.clock = ManualClock(datetime.now(UTC))
        world.live.files = {f"{n}".encode(): Random(n).randbytes(300_000) for n in range(10)}
        for _ in range(3):
            world.live.files[b"0"] = os.urandom(300_000)
            sealed = world.capture()
        assert world.restored(sealed) == world.contents()
        first = world.repository().points()[0].body.id
        repository = world.repository()
        plan = draft(repository, {first: "too old"}, Economics(max_unused=0.0)).plan
        sweep(repository, begin(repository, propose(repository, plan, world.clock), world.clock), world.clock)
        told, went = counting.taken(), wire.taken()
    assert told.delete == went.delete > 0
    assert (told.put, told.list) == (went.put, went.list)
    assert told.get + told.delete == pytest.approx(went.get, rel=0.05)


def store_size(store: Store) -> int:
    return sum(entry.size for entry in store.list("packs/"))


def test_the_model_is_told_apart_from_one_that_is_wrong() -> None:
    """The tolerance lets no capture pass for two."""
    with pytest.raises(AssertionError, match="put: 24 told, 12 counted"):
        require_alike(Requests(put=24), Requests(put=12))
