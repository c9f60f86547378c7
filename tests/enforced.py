"""A store that enforces the table of rights, as the credentials of some roles would: what they may not do is Denied, and told."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from resurgam.errors import Denied
from resurgam.stores.base import Buffer, Entry, Store
from resurgam.vault.rights import Operation, may


class EnforcedStore:
    """``inner`` as ``roles`` may use it. ``refused`` lists what they may not and asked for all the same."""

    def __init__(self, inner: Store, roles: Collection[str]) -> None:
        self.inner, self.roles = inner, roles
        self.refused: list[tuple[Operation, str]] = []

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """See ``stores.base.Store``; so the others."""
        self._require(Operation.CREATE, name)
        self.inner.put(name, data)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        self._require(Operation.READ, name)
        return self.inner.get(name, offset, length)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        self._require(Operation.READ, name)
        return self.inner.read_into(name, offset, buffer)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        return self.inner.list(prefix)

    def delete(self, name: str) -> None:
        self._require(Operation.DELETE, name)
        self.inner.delete(name)

    def describe(self) -> str:
        return self.inner.describe()

    def _require(self, operation: Operation, name: str) -> None:
        if not any(may(role, operation, name) for role in self.roles):
            self.refused.append((operation, name))
            raise Denied(f"{self.roles} may not {operation} {name}.", untouched="Nothing.", next_step="Ask its owner.")
