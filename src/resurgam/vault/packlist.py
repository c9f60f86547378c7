"""Which packs stand in a vault: one listing, with their sizes and where they lie. Loads nothing, for ``status`` asks it too."""

from __future__ import annotations

import re
from typing import NamedTuple

from resurgam.stores.archive import COLD, classes_of
from resurgam.stores.base import Store

_PACK = re.compile(r"packs/[0-9a-f]{2}/([0-9a-f]{64})")


class Listed(NamedTuple):
    """The ``sizes`` of all packs by digest; the classes of those that lie in a ``cold`` one; and the names of other objects among
    them, which anybody may have put."""

    sizes: dict[str, int]
    cold: dict[str, str]
    strangers: list[str]


def listed_packs(store: Store) -> Listed:
    """What stands where packs do."""
    listed = {entry.name: (entry.size, storage_class) for entry, storage_class in classes_of(store, "packs/")}
    packs = {match[1]: listed.pop(name) for name in list(listed) if (match := _PACK.fullmatch(name))}
    cold = {name: storage_class for name, (_, storage_class) in packs.items() if storage_class in COLD}
    return Listed({name: size for name, (size, _) in packs.items()}, cold, list(listed))
