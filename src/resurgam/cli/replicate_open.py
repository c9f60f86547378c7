"""How verbs open the place of a replica: never written to by what is not asked for, and asked what it promises first."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from resurgam.cli import output
from resurgam.clock import Clock
from resurgam.stores.base import Store
from resurgam.stores.location import Location, parse
from resurgam.stores.promises import Promise, examine, is_empty, require
from resurgam.stores.registry import create_store, open_store
from resurgam.vault.replicaguard import require_ours
from resurgam.vault.replicas import Place, require_free
from resurgam.vault.repository import Repository

OneVaultOption = Annotated[
    str | None, typer.Option("--vault", help="The vault's folder or URL, where there is no manifest any more.")
]


def at(location: str, clock: Clock) -> Store:
    """The store at ``location``. Raises NotFound, Denied, Unreachable: a disk that is not mounted is no empty replica."""
    return open_store(location, clock=clock)


def replica_store(replica: Place, clock: Clock, repository: Repository, json: bool) -> tuple[Promise, ...]:
    """Make the folder, or ask the bucket what it promises. Raises TargetRefused where something else lies there, Denied."""
    place = parse(replica.location)
    folder = not isinstance(place, Location)
    there = not isinstance(place, Location) and os.path.exists(place)
    store = (open_store if there else create_store)(replica.location, clock=clock)
    require_ours(store, repository)
    require_free(store, repository.vault, replica.name)
    if folder or not is_empty(store):
        return ()
    promises = examine(store, None, clock)
    for promise in promises if not json else ():
        output.line(f"  {promise.name:11}  {promise.words}", style=None if promise.kept else "bold")
    require(promises, store.describe())
    return promises
