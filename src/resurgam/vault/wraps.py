"""Wrapped keys: what opens a session or the index is an object of its own for each set of readers (P2).

    keys/session-<id>              as its writer wrapped it, to the readers of then
    keys/session-<id>-<serial>     the same key, wrapped to the readers that role table <serial> named
    keys/index, keys/index-<serial>

Whoever reads takes what opens: the first object, else those that came later, the newest first. So a reader that is added reads what
was stored before, no chunk is touched, and a key whose object was lost or damaged is found in the next. They are
made by ``vault.rewrap``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

from resurgam.errors import Denied, IntegrityError, NotFound
from resurgam.stores.base import Store, of_each_copy
from resurgam.vault.keys import INDEX_OBJECT

T = TypeVar("T")

_SESSION = re.compile(r"(keys/session-([0-9a-f]{32}))(?:-[0-9]{8})?")


def object_for(name: str, serial: int) -> str:
    """What the wrapped key ``name`` is called for the readers of role table ``serial``."""
    return f"{name}-{serial:08d}"


def first_opened(store: Store, name: str, opened: Callable[[bytes], T]) -> T:
    """What ``opened`` makes of the first object of the key ``name`` that it does not refuse.

    Raises what it said of the first (Denied, IntegrityError), NotFound where there is none at all.
    """
    refused: Denied | IntegrityError | None = None
    for blob in _blobs(store, name):
        try:
            return opened(blob)
        except (Denied, IntegrityError) as error:
            refused = refused or error
    if refused is None:
        store.get(name)  # raises NotFound, in the store's words
        raise AssertionError(f"{name} appeared while it was looked for")
    raise refused


def sessions(store: Store) -> dict[str, set[str]]:
    """All sessions, by the name of their first object: what lies there for each, that one perhaps not among it."""
    found: dict[str, set[str]] = {}
    for entry in store.list("keys/session-"):
        if match := _SESSION.fullmatch(entry.name):
            found.setdefault(match[1], set()).add(entry.name)
    return found


def session_of(name: str) -> bytes:
    """The id of the session whose key has the object ``name``."""
    match = _SESSION.fullmatch(name)
    assert match is not None, f"{name} is no session's key"
    return bytes.fromhex(match[2])


def wraps_of_index(store: Store) -> set[str]:
    """The objects of the index secret."""
    return {entry.name for entry in store.list(INDEX_OBJECT) if _is_wrap(entry.name, INDEX_OBJECT)}


def _blobs(store: Store, name: str) -> Iterator[bytes]:
    with suppress(NotFound):
        yield from of_each_copy(store, name)
    later = [entry.name for entry in store.list(f"{name}-") if _is_wrap(entry.name, name)]
    for other in sorted(later, reverse=True):
        yield from of_each_copy(store, other)


def _is_wrap(found: str, name: str) -> bool:
    return found == name or re.fullmatch(re.escape(name) + "-[0-9]{8}", found) is not None
