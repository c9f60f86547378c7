"""The people of one vault, each on a host of their own: with their keys, their clock, and what the host remembers.

Capture hosts hold the index secret and a signing key, nothing that reads (P9). Verifiers read and vouch. Pruners have no
content key. The approver says how long points stay. Whatever they do goes through the store that they are given, which may be ill.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, nullcontext
from datetime import datetime
from itertools import count
from random import Random
from typing import TypeVar
from unittest.mock import patch

import msgspec

from resurgam.capture.cut import release, take
from resurgam.clock import Clock
from resurgam.model.point import Cut, Particulars, Snapshot, Witness
from resurgam.model.system import Component, System, VaultPlace
from resurgam.stores.base import Store
from resurgam.vault import threads
from resurgam.vault.host import HostState
from resurgam.vault.keyring import Keyring
from resurgam.vault.records import sign_roles
from resurgam.vault.repository import Repository, Sealed
from resurgam.vault.roles import RoleKey, RoleTable
from resurgam.vault.signing import Role, SigningKey
from tests.support import Files, Held, MemoryDriver, copy_keys

T = TypeVar("T")
CAPTURES = ("trust.json", "capture.json")
PRUNES = ("trust.json", "pruner.json")
VERIFIES = ("trust.json", "verifier.json", "reader.agekey", "evidence.agekey")
_clones = count()
APPROVES = ("trust.json", "approver.json", "reader.agekey", "evidence.agekey")


class HostClock:
    """A host's clock: the store's, with an error of its own that may jump."""

    def __init__(self, true: Clock) -> None:
        self._true = true
        self.ahead = 0.0

    def now(self) -> datetime:
        """What this host believes."""
        return datetime.fromtimestamp(self._true.now().timestamp() + self.ahead, self._true.now().tzinfo)

    def monotonic(self) -> float:
        """Monotonic time does not jump."""
        return self._true.monotonic()


class Host:
    """A host with some of the vault's keys."""

    def __init__(self, name: str, folder: str, keys: str, true: Clock) -> None:
        self.name, self.keys, self.state = name, keys, f"{folder}/state-{name}"
        self.clock: Clock = HostClock(true)

    def repository(self, store: Store) -> Repository:
        """The vault as this host opens it."""
        return Repository(store, Keyring(self.keys))

    def jump(self, seconds: float) -> None:
        """The clock is set wrong, or right again."""
        assert isinstance(self.clock, HostClock)
        self.clock.ahead = seconds


class CaptureHost(Host):
    """A host that captures a system of its own in memory."""

    def __init__(self, name: str, folder: str, keys: str, true: Clock) -> None:
        super().__init__(name, folder, keys, true)
        components = tuple(
            Component(name=part, driver="memory", location=f"{folder}/live/{name}/{part}") for part in ("one", "two")
        )
        self.system = System(name=name, vault=VaultPlace(path="/none", keys=keys), components=components)
        self.driver = MemoryDriver()
        for component in components:
            self.driver.held[component.name] = Held()

    def notes(self, state: str = "") -> HostState:
        """What the host remembers; ``state`` is the folder of a clone of it."""
        return HostState(Keyring(self.keys).vault.hex(), self.system.name, state or self.state)

    def clone(self) -> HostState:
        """The notes of a machine that was cloned from this one just now."""
        twin = f"{self.state}-{next(_clones)}"
        shutil.copytree(self.state, twin) if os.path.isdir(self.state) else os.mkdir(twin)
        return self.notes(twin)

    def contents(self) -> dict[str, Files]:
        """What the system holds now."""
        return {name: dict(held.files) for name, held in self.driver.held.items()}


class Capturing:
    """A capture that can be left lying between any two of its steps, and taken up again: a frozen process."""

    def __init__(self, host: CaptureHost, store: Store, notes: HostState | None = None) -> None:
        self.host = host
        self.writer = host.repository(store).writer(host.system, notes or host.notes(), host.clock)
        self.point = self.writer.point
        self.cut: Cut = take(host.system, lambda _: host.driver, host.clock)
        self.contents = host.contents()
        self._left = list(host.system.components)
        self._snapshots: list[Snapshot] = []

    def step(self) -> bool:
        """Read one more component; False when there is none."""
        if not self._left:
            return False
        component = self._left.pop(0)
        driver, at = self.host.driver, self.cut.position(component.name)
        self._snapshots.append(self.writer.snapshot(component, driver, at))
        return True

    def seal(self) -> Sealed:
        """Read what is left, and make the point exist."""
        while self.step():
            pass
        system = self.host.system
        facts = {component.name: self.host.driver.inspect(component) for component in system.components}
        findings = tuple(self.writer.findings)
        particulars = Particulars(system=system, facts=facts, findings=findings, witness=Witness(), cut=self.cut)
        return self.writer.seal(particulars, tuple(self._snapshots))

    def end(self) -> None:
        """Let go of threads and of the source, however it ended."""
        self.writer.__exit__(None, None, None)
        positions = {part.component: part.position for part in self.cut.parts}
        release(self.host.system, lambda _: self.host.driver, positions)


def capture_host(name: str, folder: str, keys: str, repository: Repository, true: Clock) -> CaptureHost:
    """A capture host with a signing key of its own, which the role table names from now on. ``keys`` are all of the vault's."""
    own = copy_keys(keys, f"{folder}/keys-{name}", CAPTURES)
    path = f"{own}/capture.json"
    with open(path, "rb") as file:
        held = json.load(file)
    signer = SigningKey.generate(Role.CAPTURE)
    held["key"] = base64.b64encode(signer.secret_bytes()).decode()
    with open(path, "w", encoding="utf-8") as file:
        json.dump(held, file)
    root = Keyring(keys).signer(Role.ROOT)
    table = _with(repository.roles, RoleKey(signer.key_id, signer.public.raw))
    repository.store.put(table.object_name, sign_roles(table, root, true.now()))
    repository.believe(table)
    return CaptureHost(name, folder, own, true)


def host(name: str, folder: str, keys: str, files: tuple[str, ...], true: Clock) -> Host:
    """A host that holds only ``files`` of the vault's keys."""
    return Host(name, folder, copy_keys(keys, f"{folder}/keys-{name}", files), true)


class AtOnce(Executor):
    """Does what is submitted at once, in the thread of who submits it."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def submit(self, fn: Callable[..., T], /, *args: object, **kwargs: object) -> Future[T]:
        """See Executor."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 (whoever asks for the result hears of it)
            future.set_exception(error)
        return future


@contextmanager
def chance(seed: int) -> Iterator[None]:
    """Ids, salts and keys from a seed, and no threads within a session, so that a life of a vault can be lived again: names and the
    order of chunks in packs decide the order of listings."""
    rng, lock = Random(hashlib.sha256(b"%d" % seed).digest()), threading.Lock()

    def drawn(length: int) -> bytes:
        with lock:
            return rng.randbytes(length)

    for name in (
        "secret",
        "places",
        "index",
    ):  # Python 3.11 has one lock for all repositories; theirs are processes of their own
        vars(Repository)[name].lock = nullcontext()
    with (
        patch.object(threads, "ThreadPoolExecutor", AtOnce),
        patch.object(os, "urandom", drawn),
        patch.object(secrets, "token_bytes", lambda length=32: drawn(length)),
        patch.object(secrets, "token_hex", lambda length=32: drawn(length).hex()),
    ):
        yield


def _with(table: RoleTable, key: RoleKey) -> RoleTable:
    roles = {**table.roles, Role.CAPTURE: (*table.roles[Role.CAPTURE], key)}
    return msgspec.structs.replace(table, serial=table.serial + 1, roles=roles)
