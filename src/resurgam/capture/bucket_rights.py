"""Which rights the credentials of a capture lack in a bucket, each with the statement that grants it.

Asked of the server, and nothing is changed: one byte is read of an object of each namespace that a capture reads; beside one of
each that it creates in, a put is tried that must fail (``lock.Bucket``). So a namespace is known as soon as something lies in it;
of what a first capture makes for the first time, its own error tells.
"""

from __future__ import annotations

from collections.abc import Iterator

from resurgam.capture.permissions import Missing
from resurgam.errors import Denied
from resurgam.stores.lock import Bucket, RoleBound
from resurgam.vault.rights import RIGHTS, Operation, may
from resurgam.vault.signing import Role


def lacking_for_role(store: RoleBound) -> Iterator[Missing]:
    """What the role of these credentials may not do, and a capture does. Raises Denied, Unreachable."""
    role = store.role()
    for own in RIGHTS:
        for operation in (Operation.READ, Operation.CREATE):
            if may(Role.CAPTURE, operation, own) and not may(role, operation, own):
                grant = f"a token made with `resurgam vault tokens add --role capture`; this one is for {role}"
                yield Missing(path=f"{store.describe()}: {own}", need=operation.value, grant=grant)


def lacking(store: Bucket) -> Iterator[Missing]:
    """What these credentials may not do in the vault in ``store``, and a capture does. Raises Denied where they may not list,
    Unreachable."""
    for own in RIGHTS:
        asked = [one for one in (Operation.READ, Operation.CREATE) if may(Role.CAPTURE, one, own)]
        there = next(iter(store.list(own)), None) if asked else None
        if there is None:
            continue
        for operation in asked:
            if grant := _grant(store, operation, there.name):
                yield Missing(path=f"{store.describe()}: {own}", need=operation.value, grant=grant)


def _grant(store: Bucket, operation: Operation, name: str) -> str:
    """How to come by a right that is missing; empty where it is there."""
    try:
        if operation is Operation.READ:
            store.get(name, 0, 1)
        else:
            store.require_creating(name)
    except Denied as error:
        return error.next_step
    return ""
