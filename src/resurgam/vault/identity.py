"""``vault.json``: who a vault is. The last object that makes it, and the first that is read."""

from __future__ import annotations

from typing import Final

import msgspec

from resurgam.errors import NotFound
from resurgam.model.codec import versioned
from resurgam.stores.base import Store

FORMAT: Final = 1
IDENTITY: Final = "vault.json"


class VaultIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Who a vault is. Nothing in it is secret; it is believed only as far as the pinned root fingerprint confirms it."""

    format: int
    vault: str
    name: str
    root: str
    made: str


def identity_of(store: Store) -> VaultIdentity:
    """Who the vault in ``store`` says that it is. Raises NotFound, IntegrityError, NewerFormat."""
    try:
        data = store.get(IDENTITY)
    except NotFound as error:
        raise NotFound(
            f"There is no vault in {store.describe()}.",
            untouched="Nothing was changed.",
            next_step="Check vault.path in resurgam.yaml, or make one with `resurgam vault init`.",
        ) from error
    return versioned(data, VaultIdentity, FORMAT, what=f"The vault's {IDENTITY}")
