"""What the tests of the vault share: a system in memory whose every read is counted, and a tiny system of real stores.

``MemoryDriver`` is a whole driver: what it holds are dicts that a test changes as it likes, what it restores is one file.
It exists because a thousand captures must take seconds, and because only a store that counts can show what was *not* read.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count

import msgspec
from blake3 import blake3

from resurgam.capture.run import capture
from resurgam.drivers.base import Blob, Equality, Facts, Freeze, Item, Rows, Traits, read_fully
from resurgam.drivers.registry import driver_for
from resurgam.errors import IntegrityError, TargetRefused
from resurgam.model.point import Finding, Observation, Position
from resurgam.model.system import Component, Consistency, Json, System, VaultPlace
from resurgam.restore.run import restore
from resurgam.stores.base import Store
from resurgam.testing.faults import ManualClock, MemoryStore
from resurgam.vault.host import HostState
from resurgam.vault.keyring import Keyring
from resurgam.vault.records import RecordType
from resurgam.vault.repository import Repository, Sealed
from resurgam.vault.writer import EvidenceWriter

Files = dict[bytes, bytes]
Row = tuple[Json, ...]
_numbers = count()


class CountedSource:
    """A Source over bytes that counts what is read, and that may be told to move while it is read.

    ``moves`` are the contents that it has in turn, one more each time it is asked whether it settled and has not.
    """

    def __init__(self, data: bytes, counted: Callable[[int], None], moves: Iterable[bytes] = ()) -> None:
        self._data, self._counted, self._moves = data, counted, iter(moves)
        self.closed = 0

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """See ``drivers.base.Source``."""
        piece = self._data[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        self._counted(len(piece))
        return len(piece)

    def settled(self) -> bool:
        """False as often as there is a next content to move to."""
        moved = next(self._moves, None)
        if moved is not None:
            self._data = moved
        return moved is None

    def close(self) -> None:
        """Count, since a source that is never closed is a leak."""
        self.closed += 1


@dataclass
class Table:
    """A table of a component in memory; ``view_of`` makes it decoded from that file."""

    columns: tuple[str, ...]
    key: tuple[str, ...]
    rows: list[Row]
    view_of: bytes | None = None


@dataclass
class Held:
    """What a component in memory holds. ``moves``: contents that a file takes on while it is read."""

    files: Files = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    moves: dict[bytes, list[bytes]] = field(default_factory=dict)
    stamped: bool = True


class MemoryDriver:
    """A driver of components in memory, by name. ``read_bytes`` counts what was read from its sources, ``decoded`` the rows."""

    kind = "memory"
    traits = Traits(consistency=Consistency.SNAPSHOT, equality=Equality.BYTES, freeze=Freeze.PIN, freeze_limit=1.0)

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}
        self.read_bytes = 0
        self.decoded = 0
        self.pinned: dict[str, Held] = {}
        self.sources: list[CountedSource] = []

    def inspect(self, component: Component) -> Facts:
        """Its size."""
        return {"bytes": sum(map(len, self.held[component.name].files.values()))}

    @contextmanager
    def freeze(self, component: Component, limit: float | None = None) -> Iterator[Position]:
        """A private copy."""
        held = self.held[component.name]
        position = Position(token=f"at-{next(_numbers)}", earned=Consistency.SNAPSHOT)
        self.pinned[position.token] = Held(dict(held.files), dict(held.tables), dict(held.moves), held.stamped)
        yield position

    def read(self, component: Component, at: Position) -> Iterator[Item | Finding]:
        """Files by path, each followed by the tables that are decoded from it; then the other tables."""
        held = self.pinned[at.token]
        for path, data in sorted(held.files.items()):
            source = CountedSource(data, self._count, held.moves.get(path, ()))
            self.sources.append(source)
            views = {name: table for name, table in held.tables.items() if table.view_of == path}
            stamp = _digest(data) if held.stamped else None
            blob = Blob(path, len(data), source, {"m": 0o644}, stamp, view=bool(views))
            yield blob
            if not blob.known:
                for name, table in views.items():
                    yield self._rows(name, table)
            if views:
                source.close()
        for name, table in held.tables.items():
            if table.view_of is None:
                yield self._rows(name, table)

    def release(self, component: Component, at: Position) -> None:
        """Drop the copy."""
        self.pinned.pop(at.token, None)

    def write(self, items: Iterable[Item], target: Component) -> Component:
        """One file with all the bytes."""
        if os.path.lexists(target.location):
            raise TargetRefused(f"{target.location} exists.", untouched="Nothing was written.", next_step="Another.")
        files: Files = {}
        for item in items:
            if isinstance(item, Blob):
                files[item.path] = item.read()
                if len(files[item.path]) != item.size:
                    raise IntegrityError("Bytes are missing.", untouched="Nothing was written.", next_step="Check.")
        with open(target.location, "wb") as file:
            file.write(msgspec.msgpack.encode(sorted(files.items())))
        return target

    def fingerprint(self, component: Component) -> str:
        """Of the file that ``write`` made."""
        with open(component.location, "rb") as file:
            return _digest(file.read()).hex()

    def erase(self, target: Component) -> None:
        """Remove the file."""
        if os.path.exists(target.location):
            os.unlink(target.location)

    def _rows(self, name: str, table: Table) -> Rows:
        def batches() -> Iterator[list[Row]]:
            for start in range(0, len(table.rows), 1000):
                self.decoded += len(table.rows[start : start + 1000])
                yield table.rows[start : start + 1000]

        return Rows(name, table.columns, table.key, batches(), table.view_of)

    def _count(self, size: int) -> None:
        self.read_bytes += size


class Ticking:
    """A store's own clock, moments ahead of a world's: what is put later was received later."""

    def __init__(self, world: ManualClock) -> None:
        self._world, self._looks = world, count(1)

    def now(self) -> datetime:
        """A millisecond more of the world's time with each look."""
        return self._world.now() + timedelta(milliseconds=next(self._looks))

    def monotonic(self) -> float:
        """The world's."""
        return self._world.monotonic()


class World:
    """A vault in a store with its keys, and a system in memory. ``live`` are its components' contents."""

    def __init__(self, folder: str, components: Iterable[str] = ("files",), *, store: Store | None = None) -> None:
        self.folder = os.path.realpath(folder)
        self.clock = ManualClock()
        self.store: Store = store if store is not None else MemoryStore(Ticking(self.clock))
        self.keys = f"{self.folder}/keys"
        self.state = f"{self.folder}/state"
        self.driver = MemoryDriver()
        self.system = System(
            name="test",
            vault=VaultPlace(path="/none", keys=self.keys),
            components=tuple(
                Component(name=name, driver="memory", location=f"{self.folder}/live/{name}") for name in components
            ),
        )
        for component in self.system.components:
            self.driver.held[component.name] = Held()
        Repository.create(self.store, self.keys, "test", self.clock)

    @property
    def live(self) -> Held:
        """The only component's contents."""
        (component,) = self.system.components
        return self.driver.held[component.name]

    def repository(self, store: Store | None = None, keys: str | None = None) -> Repository:
        """The vault, opened anew."""
        return Repository(store or self.store, Keyring(keys or self.keys))

    def host(self) -> HostState:
        """This host's notes."""
        return HostState(Keyring(self.keys).vault.hex(), self.system.name, self.state)

    def forget(self) -> None:
        """Delete all that the host remembers (P3)."""
        shutil.rmtree(self.state, ignore_errors=True)

    def capture(
        self,
        store: Store | None = None,
        keys: str | None = None,
        *,
        paranoid: bool = False,
        tell: Callable[[str], None] = lambda _: None,
    ) -> Sealed:
        """One capture, as a new process would make it."""
        self.clock.advance(1)
        return capture(
            self.system,
            lambda _kind: self.driver,
            no_witness,
            self.repository(store, keys),
            self.host(),
            self.clock,
            paranoid=paranoid,
            tell=tell,
        )

    def evidence_writer(self) -> EvidenceWriter:
        """A session that may store documents and a verdict on the newest point, which is made where there is none."""
        repository = self.repository()
        newest = (repository.points() or [self.capture()])[-1]
        return self.repository().evidence_writer(newest.body.id, self.clock, RecordType.VERDICT)

    def restored(self, sealed: Sealed, repository: Repository | None = None) -> dict[str, Files]:
        """The contents of a point, by component: restored, read from the copies, removed."""
        repository = repository or self.repository()
        target = f"{self.folder}/restored-{next(_numbers)}"
        particulars = repository.particulars(sealed.body)
        try:
            done = restore(repository, sealed.body, particulars, target, lambda _kind: self.driver, self.clock)
            return {name: _loaded(f"{target}/{copy.place}") for name, copy in done.copies.items()}
        finally:
            shutil.rmtree(target, ignore_errors=True)

    def contents(self) -> dict[str, Files]:
        """What the components hold now."""
        return {name: dict(held.files) for name, held in self.driver.held.items()}

    def keys_with(self, *files: str) -> str:
        """A keys folder that holds only ``files``."""
        return copy_keys(self.keys, f"{self.folder}/keys-{next(_numbers)}", files)


def copy_keys(source: str, folder: str, files: Iterable[str]) -> str:
    """A private folder with only these key files."""
    os.mkdir(folder, 0o700)
    for file in files:
        shutil.copy(f"{source}/{file}", f"{folder}/{file}")
        os.chmod(f"{folder}/{file}", 0o600)
    return folder


def no_witness(_system: System) -> tuple[Observation, ...]:
    """Nobody is asked."""
    return ()


def stored_bytes(store: Store) -> int:
    """What a store holds, in bytes."""
    return sum(entry.size for entry in store.list())


def copied(store: Store) -> MemoryStore:
    """Another store with the same objects."""
    twin = MemoryStore(Ticking(ManualClock()))
    for entry in store.list():
        twin.put(entry.name, store.get(entry.name))
    return twin


def replaced(store: Store, name: str, data: bytes | None) -> MemoryStore:
    """Another store in which ``name`` holds ``data`` instead, or is missing: what no client of a vault can do (P2)."""
    twin = copied(store)
    twin.delete(name)
    if data is not None:
        twin.put(name, data)
    return twin


class TinySystem:
    """A database and a folder of files on disk, under the real drivers."""

    def __init__(self, folder: str) -> None:
        self.folder = os.path.realpath(folder)
        self.database = f"{self.folder}/live/notes.db"
        self.files = f"{self.folder}/live/prompts"
        os.makedirs(self.files)
        with sqlite3.connect(self.database) as connection:
            connection.execute("PRAGMA page_size = 512")
            connection.execute("CREATE TABLE note (id INTEGER PRIMARY KEY, words TEXT)")
            connection.executemany("INSERT INTO note VALUES (?, ?)", [(n, f"note {n} " * 3) for n in range(40)])
        connection.close()
        for number in range(4):
            with open(f"{self.files}/{number}.txt", "wb") as file:
                file.write(os.urandom(6000) + b"You are a handbook. " * number)
        self.system = System(
            name="tiny",
            vault=VaultPlace(path=f"{self.folder}/vault", keys=f"{self.folder}/keys"),
            components=(
                Component(name="prompts", driver="files", location=self.files),
                Component(name="notes", driver="sqlite", location=self.database, consistency="transaction"),
            ),
            root=f"{self.folder}/live",
        )

    def capture(self, repository: Repository, clock: ManualClock) -> Sealed:
        """One capture under the real drivers."""
        host = HostState(repository.vault.hex(), self.system.name, f"{self.folder}/state")
        return capture(self.system, driver_for, no_witness, repository, host, clock)


def tree(folder: str) -> Files:
    """Every file below ``folder`` with its bytes."""
    found: Files = {}
    for path, _, names in os.walk(folder):
        for name in names:
            where = os.path.join(path, name)
            with open(where, "rb") as file:
                found[os.fsencode(os.path.relpath(where, folder))] = file.read()
    return found


def read_whole(blob: Blob) -> bytes:
    """All bytes of a blob by ``read_into``."""
    buffer = bytearray(blob.size)
    assert read_fully(blob.source, 0, memoryview(buffer)) == blob.size
    return bytes(buffer)


def _loaded(place: str) -> Files:
    with open(place, "rb") as file:
        return dict(msgspec.msgpack.decode(file.read(), type=list[tuple[bytes, bytes]]))


def _digest(data: bytes) -> bytes:
    return blake3(data).digest(16)
