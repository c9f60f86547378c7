"""What a verb needs before it can work: the system manifest, the vault, the keys, and this host's notes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

import typer

from resurgam.capture.manifest import load_manifest
from resurgam.capture.manifest_form import DURATION, SECONDS
from resurgam.cli import copies, output
from resurgam.clock import Clock, SystemClock
from resurgam.errors import Denied, NotFound, StoreFull, Unreachable, UsageError
from resurgam.model.lazily import cached_property
from resurgam.model.system import System
from resurgam.stores.asof import past
from resurgam.stores.base import Store, Tidy
from resurgam.stores.location import is_url
from resurgam.stores.registry import open_store
from resurgam.vault.host import VAULT_NOTES, HostState, state_home
from resurgam.vault.keyring import Keyring
from resurgam.vault.repository import Repository, Sealed

ManifestOption = Annotated[
    str,
    typer.Option("--manifest", "-m", envvar="RESURGAM_MANIFEST", help="The system manifest.", show_default=True),
]
VaultOption = Annotated[
    str | None, typer.Option("--vault", help="The vault's folder or URL, where there is no manifest any more.")
]
VaultsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--vault",
        help="The vault's folder or URL, not the manifest's; given again, copies that are read together, the preferred first.",
    ),
]
UnrecordedOption = Annotated[
    bool,
    typer.Option(
        "--unrecorded",
        help="Sign nothing and write nothing to the vault: where only a recovery key is left, or only a replica.",
    ),
]
KeysOption = Annotated[
    str | None,
    typer.Option("--keys", help="The keys folder, or a recovery key's file, in place of the manifest's vault.keys."),
]
AsOfOption = Annotated[
    str | None,
    typer.Option("--as-of", help="See the vault as its bucket kept it at this time, or as `first` written."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON value on standard output.")]
PointArgument = Annotated[
    str, typer.Argument(help="The beginning of a point's id, `latest`, or a time such as 2026-11-21T04:00.")
]
DEFAULT_MANIFEST = "resurgam.yaml"
LATEST = "latest"  # the point that is meant where none is named


@dataclass
class Context:
    """Everything is opened when it is first asked for."""

    manifest: str = DEFAULT_MANIFEST
    vault: str | Sequence[str] | None = None
    keys: str | None = None
    clock: Clock = SystemClock()  # noqa: RUF009  it holds no state
    as_of: str | None = None  # what is seen then is written nowhere, and no note of this host is read or made of it

    @cached_property
    def system(self) -> System:
        """The system of the manifest. Raises ManifestError, NotFound."""
        return load_manifest(self.manifest)

    @cached_property
    def keyring(self) -> Keyring:
        """The keys: of the manifest, or of ``--keys`` where the manifest is lost too (P3)."""
        keys = self.keys
        if self.vaults and keys is None and not os.path.exists(self.manifest):
            raise UsageError(
                "--vault needs --keys where there is no manifest.",
                untouched="Nothing was read.",
                next_step="Give --keys FOLDER, or --keys FILE of the recovery key.",
            )
        keys = keys or self.system.vault.keys
        return Keyring.from_recovery(keys) if os.path.isfile(keys) else Keyring(keys)

    @cached_property
    def repository(self) -> Repository:
        """The open vault: of the manifest, or of ``--vault``. Where it does not answer or is not there, the error names the copies
        that this host knows of."""
        try:
            return self._opened()
        except (NotFound, Unreachable) as error:
            raise copies.elsewhere(error, () if self.vaults else self._replicas()) from error

    def _opened(self) -> Repository:
        keyring = self.keyring
        if self.as_of is not None:
            return Repository(self.store, keyring)
        opened = Repository(self.store, keyring, os.path.join(state_home(), keyring.vault.hex(), VAULT_NOTES))
        if not self.vaults:
            output.at_end(lambda: self._note_replicas(opened))
        return opened

    @property
    def system_name(self) -> str | None:
        """The system that points belong to; None where only the vault is known."""
        return self.system.name if os.path.exists(self.manifest) else None

    @cached_property
    def host(self) -> HostState:
        """This host's notes on the system."""
        return HostState(self.repository.vault.hex(), self.system.name)

    @cached_property
    def vault_host(self) -> HostState:
        """This host's notes on the vault as such: needs no manifest."""
        return HostState(self.repository.vault.hex(), VAULT_NOTES)

    @cached_property
    def store(self) -> Store:
        """The vault's store, or what it was. Raises NotFound, Denied, UsageError, MissingExtra."""
        if len(self.vaults) > 1:
            return copies.opened(self.vaults, self._store_at, self.keyring, self.clock)
        if self.vaults:
            return self._store_at(self.vaults[0])
        where = self.system.vault
        return self._then(open_store(where.path, where.lock, self.clock, keys=self.keys or where.keys))

    def _store_at(self, place: str) -> Store:
        return self._then(open_store(place, clock=self.clock, keys=self.keys))

    def _then(self, store: Store) -> Store:
        return store if self.as_of is None else past(store, self.as_of, self.clock.now())

    @property
    def vaults(self) -> tuple[str, ...]:
        """What ``--vault`` names: copies of one vault, the preferred one first."""
        return (self.vault,) if isinstance(self.vault, str) else tuple(self.vault or ())

    def _note_replicas(self, repository: Repository) -> None:
        """Where copies of the vault are, for when the vault itself cannot say; as far as the command has asked for that."""
        listed = repository.here.listed if "here" in vars(repository) else None
        if listed is not None:
            with suppress(Denied, StoreFull):  # P3: a note, which the next command makes
                self.vault_host.remember_replicas([place.location for place in listed.replicas if place.location])

    def _replicas(self) -> tuple[str, ...]:
        return HostState(self.keyring.vault.hex(), VAULT_NOTES).replicas()

    @property
    def strays(self) -> list[str]:
        """What stands in the vault's place under a name that nothing of a vault has."""
        store = self.store
        return store.strays() if isinstance(store, Tidy) else []

    @property
    def named(self) -> list[str]:
        """The folders that ``--vault`` and ``--keys`` name."""
        return [path for path in (*self.vaults, self.keys) if path and not is_url(path)]

    def point(self, words: str, *, expired: bool = False, to_read: bool = False) -> Sealed:
        """The point that ``words`` mean, or also one that ``expired``, by the beginning of its id; ``to_read`` as ``resolve``."""
        try:
            return self.repository.resolve(words, self.system_name, to_read=to_read)
        except NotFound:
            over = self.repository.points(self.system_name, expired=True) if expired else []
            found = [sealed for sealed in over if sealed.body.id.startswith(words.lower())]
            if len(found) != 1:
                raise
            return found[0]


def duration(words: str) -> float:
    """Seconds in a duration such as ``2h``, as in manifests. Raises UsageError."""
    match = re.fullmatch(DURATION, words)
    if match is None:
        raise UsageError(
            f"{words!r} is not a duration.", untouched="Nothing was done.", next_step="Write 90s, 15m, 2h or 7d."
        )
    return float(words.removesuffix(match[2])) * SECONDS[match[2]]
