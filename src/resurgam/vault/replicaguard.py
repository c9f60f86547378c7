"""What a run asks of a place before it copies anything there: that it is this vault's, and that its log is the primary's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from resurgam.errors import IntegrityError, TargetRefused
from resurgam.model.codec import from_json
from resurgam.stores.base import Store
from resurgam.vault.identity import IDENTITY, VaultIdentity
from resurgam.vault.replicaplan import Copy, Stage
from resurgam.vault.repository import Repository

T = TypeVar("T")


class Ask(Protocol):
    """Makes a request, perhaps again and again."""

    def __call__(self, call: Callable[[], T], /) -> T: ...


def asked_once(call: Callable[[], T]) -> T:
    """Once."""
    return call()


def require_ours(far: Store, near: Repository) -> None:
    """Raises TargetRefused where something else lies in ``far`` than this vault."""
    names = (
        [entry.name for entry in far.list() if not entry.name.startswith("probe/")] if not has(far, IDENTITY) else []
    )
    if names and not any(name.startswith("replica/") for name in names):
        raise TargetRefused(
            f"{far.describe()} is not empty, and no replica of this vault: {names[0]} lies there.",
            untouched="Nothing was written.",
            next_step="Name an empty place.",
        )
    if has(far, IDENTITY):
        theirs = from_json(far.get(IDENTITY), VaultIdentity, what=f"{IDENTITY} in {far.describe()}")
        if (theirs.vault, theirs.root) != (near.identity.vault, near.identity.root):
            raise TargetRefused(
                f"{far.describe()} holds another vault, {theirs.name} ({theirs.vault}).",
                untouched="Nothing was written.",
                next_step="Name the place of a replica of this vault, or an empty one.",
            )


def require_one_log(near: Repository, far: Store, copy: Copy, ask: Ask) -> None:
    """Raises IntegrityError where the two logs have parted. Each entry names the digest of the one before it, so the last one that
    both have speaks for all."""
    log = copy.stages[Stage.LOG]
    if copy.ahead:
        raise IntegrityError(
            f"The replica in {far.describe()} has {copy.ahead}, and the primary has nothing of that number any more.",
            untouched="Nothing was copied, and nothing was removed.",
            next_step="Find out what was taken from the primary: `resurgam audit verify`. "
            "`resurgam vault repair --from REPLICA` brings it back.",
        )
    last = log.last_there
    if last and ask(lambda: near.store.get(last)) != ask(lambda: far.get(last)):
        raise IntegrityError(
            f"{last} in {far.describe()} is another than the primary's: both were written to, each without the other.",
            untouched="Nothing was copied, and nothing was removed.",
            next_step="Keep that place as it is for what only it has (`--vault` reads it), and add an empty one in its stead.",
        )


def has(store: Store, name: str) -> bool:
    """Whether an object of exactly that name is listed."""
    return any(entry.name == name for entry in store.list(name))
