"""A live system of three components with a judged restore beside it, for the tests of promotion."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from typing import Any

import msgspec

from resurgam.capture.run import capture
from resurgam.clock import SystemClock
from resurgam.drivers.registry import driver_for
from resurgam.model.system import Component, Promotion, System, VaultPlace
from resurgam.model.verdict import Judgement, Verdict
from resurgam.probes.runner import LiveRunner
from resurgam.restore import state
from resurgam.restore.promote import Promoter
from resurgam.restore.state import Copy, Restored, State
from resurgam.restore.verify import VerdictBody
from resurgam.stores.local import LocalStore
from resurgam.vault.history import Quarantined
from resurgam.vault.host import HostState
from resurgam.vault.keyring import Keyring
from resurgam.vault.records import RecordType
from resurgam.vault.repository import Repository
from resurgam.vault.signing import Role
from tests.support import no_witness

Record = Callable[[str, dict[str, Any]], None]
Tree = dict[str, tuple[object, ...]]
ID = "0a1b2c3d"


class World:
    """``app`` is live: a database whose latest rows are in its WAL only, a folder of models, one prompt file. ``restore`` holds
    the same three as they were at ``point``, which the vault holds with its verdicts (and, since nobody restores from it here,
    without any content)."""

    def __init__(self, folder: str, *, restore: str = "", lost: bool = False, fresh: bool = True) -> None:
        self.folder = os.path.realpath(folder)
        self.root = f"{self.folder}/app"
        self.directory = restore or f"{self.folder}/restore"
        self.journals = f"{self.folder}/state"
        self.log = f"{self.folder}/log"
        self.records: list[tuple[str, dict[str, Any]]] = []
        self.places = {
            "documents": f"{self.root}/data/handbook.db",
            "models": f"{self.root}/models",
            "prompts": f"{self.root}/prompt.txt",
        }
        self.system = System(
            name="handbook",
            vault=VaultPlace(path="/none/vault", keys="/none/keys"),
            components=(
                Component(
                    name="models",
                    driver="files",
                    location=self.places["models"],
                    derived_from=("documents",),
                    options={"exclude": ["/.env", "*.log"]},
                ),
                Component(name="prompts", driver="files", location=self.places["prompts"]),
                Component(name="documents", driver="sqlite", location=self.places["documents"]),
            ),
            root=self.root,
            promotion=Promotion(fence=self.logs("fence"), reload=self.logs("reload"), timeout=20.0),
        )
        if fresh:
            self._build()
            Repository.create(LocalStore.create(f"{self.folder}/vault"), f"{self.folder}/keys", "test", SystemClock())
        self.repository = Repository(LocalStore(f"{self.folder}/vault"), Keyring(f"{self.folder}/keys"))
        self.point = self.capture("handbook") if fresh else self.repository.points("handbook")[-1].body.id
        if fresh:
            self.save_restore()
        if lost:
            shutil.rmtree(f"{self.root}/data")
            shutil.rmtree(self.places["models"])
            os.unlink(self.places["prompts"])

    def _build(self) -> None:
        os.makedirs(f"{self.root}/data")
        make_database(self.places["documents"], ["older", "later"], wal=True)
        make_files(self.places["models"], self.places["prompts"], "live")
        self.leave_out(".env", "empty/run.log")
        for name in self.places:
            os.makedirs(f"{self.directory}/{name}")
        make_database(self.copy("documents"), ["point"])
        make_files(self.copy("models"), self.copy("prompts"), "point")

    def leave_out(self, *names: str) -> None:
        """Files in the live models that no point holds, and only their owner may read."""
        for name in names:
            path = f"{self.places['models']}/{name}"
            with open(path, "w", errors="surrogateescape") as file:
                file.write(f"live {name}")
            os.chmod(path, 0o600)
            os.utime(path, ns=(1_000_000_000, 1_345_678_901))

    def copy(self, name: str) -> str:
        return f"{self.directory}/{name}/{os.path.basename(self.places[name])}"

    def logs(self, word: str) -> tuple[str, ...]:
        return ("sh", "-c", f"echo {word} >> {self.log}")

    def said(self) -> list[str]:
        """What the fence and reload commands wrote, in order."""
        if not os.path.exists(self.log):
            return []
        with open(self.log) as file:
            return file.read().split()

    def capture(self, system: str) -> str:
        """A point of a system of that name; its id."""
        host = HostState(self.repository.vault.hex(), system, f"{self.folder}/host")
        empty = msgspec.structs.replace(self.system, name=system, components=())
        return capture(empty, driver_for, no_witness, self.repository, host, SystemClock()).body.id

    def save_restore(self, judgement: Judgement | None = Judgement.IDENTICAL, **changes: Any) -> None:
        """What the restore's folder says of itself, with the signed verdict in the vault that belongs to it."""
        copies = {}
        for component in self.system.components:
            found = driver_for(component.driver).fingerprint(component.bound_to(self.copy(component.name)))
            place = os.path.relpath(self.copy(component.name), self.directory)
            copies[component.name] = Copy(driver=component.driver, place=place, fingerprint=found, bytes=1)
        restored = Restored(id=ID, point=self.point, system="handbook", copies=copies, state=State.BUILT)
        if judgement is not None:
            verdict = Verdict(
                point=self.point, judgement=judgement, parts=(), isolation="isolated", first_proof=False, seconds=0.1
            )
            restored = restored.judged(verdict)
        restored = msgspec.structs.replace(restored, **changes)
        state.save(self.directory, restored)
        if judgement is not None:
            self.sign(restored, judgement)

    def sign(self, restored: Restored, judgement: Judgement) -> None:
        """The verifier's word over the copies of ``restored``."""
        body = VerdictBody(
            judgement=judgement,
            word=judgement.word,
            restore=restored.id,
            document="",
            fingerprints={name: copy.fingerprint for name, copy in restored.copies.items()},
            isolation="isolated",
            first_proof=False,
            seconds=0.1,
        )
        self.repository.put_record(RecordType.VERDICT, restored.point, body, Role.VERIFIER, SystemClock())

    def quarantine(self, *, lifted: bool = False) -> None:
        """The approver's word that the point must not go live, or its end."""
        body = Quarantined(reason="a poisoned document", lifted=lifted)
        self.repository.put_record(RecordType.QUARANTINE, self.point, body, Role.APPROVER, SystemClock())

    def promoter(
        self,
        tell: Callable[[str], None] = lambda _: None,
        *,
        system: System | None = None,
        record: Record | None = None,
    ) -> Promoter:
        return Promoter(
            system=system or self.system,
            repository=self.repository,
            folder=self.journals,
            driver_for=driver_for,
            runner=LiveRunner(self.root),
            record=record or (lambda word, facts: self.records.append((word, facts))),
            tell=tell,
        )

    def state(self) -> State:
        return state.load(self.directory).state

    def live(self) -> Tree:
        """All that is under the live root, each with its inode, times, mode and bytes."""
        return tree(self.root)

    def restore(self) -> Tree:
        """All that is in the restore but its state file."""
        return {path: what for path, what in tree(self.directory).items() if not path.startswith(state.FILE)}

    def is_of_the_point(self) -> list[bool]:
        """For each component, whether what is live is as it was at the point; read without leaving a trace."""
        found = []
        for name, place in self.places.items():
            if name == "documents":
                found.append(rows(place, self.folder) == ["point"] if os.path.exists(place) else False)
            else:
                path = f"{place}/weights" if name == "models" else place
                found.append(os.path.exists(path) and read(path) == "point")
        return found


def make_database(path: str, values: list[str], *, wal: bool = False) -> None:
    """A database of one table; with ``wal`` the last row is in the WAL only, as a service that was killed leaves it."""
    made = f"{path}.made"
    with contextlib.closing(sqlite3.connect(made)) as connection:
        if wal:
            connection.execute("pragma journal_mode=wal")
        connection.execute("create table facts(id integer primary key, value)")
        for value in values:
            connection.execute("insert into facts(value) values (?)", (value,))
            if wal and value != values[-1]:
                connection.commit()
                connection.execute("pragma wal_checkpoint(truncate)")
        connection.commit()
        for suffix in ("", "-wal", "-shm"):
            if os.path.exists(made + suffix):
                shutil.copyfile(made + suffix, path + suffix)
    os.unlink(made)


def make_files(models: str, prompt: str, text: str) -> None:
    os.makedirs(f"{models}/empty")
    for path in (f"{models}/weights", f"{models}/tokenizer", prompt):
        with open(path, "w") as file:
            file.write(text)
    os.symlink("weights", f"{models}/current")
    os.utime(prompt, ns=(1_000_000_000, 1_234_567_890))


def rows(path: str, scratch: str) -> list[str]:
    """The values in a database, read from a private copy."""
    copy = f"{scratch}/looked-at"
    for suffix in ("", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(copy + suffix)
        if os.path.exists(path + suffix):
            shutil.copyfile(path + suffix, copy + suffix)
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        found = [value for (value,) in connection.execute("select value from facts order by id")]
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(copy + suffix)
    return found


def read(path: str) -> str:
    with open(path) as file:
        return file.read()


def tree(folder: str) -> Tree:
    """Every entry below ``folder``: kind, inode, mode, and of what is no folder its times and bytes."""
    found: Tree = {}
    for at, folders, files in os.walk(folder):
        for name in folders + files:
            path = os.path.join(at, name)
            status = os.lstat(path)
            what: tuple[object, ...] = (status.st_ino, status.st_mode)
            if os.path.islink(path):
                what += (os.readlink(path),)
            elif name in files:
                what += (status.st_mtime_ns, status.st_size, read_bytes(path))
            found[os.path.relpath(path, folder)] = what
    return found


def read_bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def without(found: Tree, part: str) -> Tree:
    """The entries whose path does not contain ``part``."""
    return {path: what for path, what in found.items() if part not in path}
