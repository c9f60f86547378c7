"""Agents' work that is pending in a point: what would go on, or end, by itself once the point is live.

A restore brings back threads that waited for a human yesterday, runs that were cut off since finished, and memories whose time
has passed meanwhile. Whoever promotes must know before, so it is read from the copies (or from private ones, before there are
any) by each driver that ``HoldsWork``.
"""

from __future__ import annotations

import os
from datetime import datetime

from resurgam.drivers.base import Drivers, HoldsWork
from resurgam.errors import MissingExtra
from resurgam.model.point import Particulars, PointBody
from resurgam.model.system import System
from resurgam.vault.repository import Repository
from resurgam.vault.scratch import scratch

AT_MOST = 256_000_000  # bytes of a component that are restored for a look ahead

Pending = dict[str, tuple[str, ...]]  # component -> lines


def pending_in(system: System, drivers: Drivers, now: datetime) -> Pending:
    """Of ``system`` as bound to its copies; components with nothing pending are left out. Raises what the drivers raise."""
    found: Pending = {}
    for component in system.components:
        try:
            driver = drivers(component.driver)
        except MissingExtra as error:  # P8: unknown is told, not hidden
            found[component.name] = (f"not known: {error.message}",)
            continue
        if isinstance(driver, HoldsWork) and (lines := driver.pending(component, now)):
            found[component.name] = tuple(lines)
    return found


def pending_at(
    repository: Repository, body: PointBody, particulars: Particulars, drivers: Drivers, now: datetime
) -> Pending:
    """Of a point that is not restored yet, from private copies that are gone afterwards. One that is too large for a look
    ahead says so: it is listed before the promotion. Raises what restoring those components raises."""
    found: Pending = {}
    sizes = {snapshot.component: snapshot.bytes for snapshot in body.snapshots}
    for component in particulars.system.components:
        try:
            driver = drivers(component.driver)
        except MissingExtra:
            continue  # told by the restore, which cannot do without
        if not isinstance(driver, HoldsWork):
            continue
        if sizes.get(component.name, 0) > AT_MOST:
            found[component.name] = ("too large to look ahead: it is listed once it is restored",)
            continue
        with scratch("pending") as folder:
            place = os.path.join(folder, os.path.basename(component.location.rstrip("/")) or component.name)
            copy = driver.write(repository.snapshot(body, component.name).items(), component.bound_to(place))
            if lines := driver.pending(copy, now):
                found[component.name] = tuple(lines)
    return found
