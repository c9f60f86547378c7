"""The values of single rows of a point, which keeps digests of rows and the images that they were decoded from.

The component is restored into a private folder, its own driver reads it there, and of the rows only those stay whose key and
digest were asked for: what comes out is provably what was captured, and a row that this release decodes otherwise is not found.
Tables that nobody asks about are not decoded, and a table is left as soon as all that was asked for is there.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass

from resurgam.drivers.base import Blob, Drivers, Item, Rows
from resurgam.model.lazily import cached_property
from resurgam.model.point import PointBody, Snapshot
from resurgam.model.system import Component, Json
from resurgam.vault.reader import SnapshotReader
from resurgam.vault.repository import Repository
from resurgam.vault.scratch import scratch
from resurgam.vault.tables import Pair, keys_and_digests

Row = dict[str, Json]  # a value by its column
Wanted = Mapping[str, set[Pair]]  # by table
Found = dict[tuple[str, Pair], Row]


@dataclass
class Cost:
    """What values cost: private ``copies`` that were restored, and ``bytes`` of them and of files that were read."""

    copies: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Side:
    """One component in one point."""

    repository: Repository
    body: PointBody
    name: str

    @cached_property
    def snapshot(self) -> Snapshot:
        """As the point's record has it."""
        return next(s for s in self.body.snapshots if s.component == self.name)

    @cached_property
    def component(self) -> Component:
        """As it was declared when the point was taken."""
        return self.repository.particulars(self.body).system.component(self.name)

    @cached_property
    def reader(self) -> SnapshotReader:
        """Its items."""
        return self.repository.snapshot(self.body, self.name)

    @cached_property
    def row_key(self) -> bytes:
        """The key of its rows' digests."""
        return self.repository.secret.row_digest_key(self.snapshot.domain)


def fetch(side: Side, wanted: Wanted, drivers: Drivers, cost: Cost) -> Found:
    """The rows of ``wanted`` that the component holds; no copy is made where nothing is wanted.

    Raises what its driver raises, StoreFull where there is no room for a copy, MissingExtra.
    """
    if not any(wanted.values()):
        return {}
    component = side.component
    driver = drivers(component.driver)
    with scratch("diff") as folder:
        name = os.path.basename(component.location.rstrip("/")) or component.name
        copy = driver.write(_counted(side.reader.items(), cost), component.bound_to(os.path.join(folder, name)))
        cost.copies += 1
        with driver.freeze(copy) as at:
            pass
        try:
            found: Found = {}
            for item in driver.read(copy, at):
                if isinstance(item, Blob):
                    item.source.close()
                elif isinstance(item, Rows) and wanted.get(item.name):
                    found |= _picked(item, wanted[item.name], side.row_key)
            return found
        finally:
            driver.release(copy, at)


def _picked(rows: Rows, wanted: set[Pair], row_key: bytes) -> Found:
    found: Found = {}
    batches = iter(rows.batches)
    for batch in batches:
        for keys, digests in keys_and_digests(rows, [batch], row_key):
            for row, key, digest in zip(batch, keys, digests, strict=True):
                if (key, digest) in wanted:
                    found[rows.name, (key, digest)] = dict(zip(rows.columns, row, strict=True))
        if len(found) == len(wanted):
            break
    if isinstance(batches, Generator):
        batches.close()  # it may hold the store open
    return found


def _counted(items: Iterable[Item], cost: Cost) -> Iterator[Item]:
    for item in items:
        if isinstance(item, Blob):
            cost.bytes += item.size
        yield item
