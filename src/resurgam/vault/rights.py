"""Who may do what with which objects of a vault: roles x namespaces x operations, as data.

A store that enforces this table (``vault policy`` prints it for S3, the gateway applies it itself) holds back whoever steals one
role's credentials, whatever program they run:

* Only the pruner deletes, and only packs and segments; the root may take away what ``vault init`` has left under ``probe/``.
* The capture host adds, and reads what tells it where its own chunks lie; it reads no pack, not even encrypted (P9).
* Each role creates what its key can sign (docs/format.md section 1), and what its sessions store. Two have no key of their own:
  the *reader*, who restores and creates nothing, and the *replicator*, who copies every object to another place and deletes none.
* The root brings back objects of every kind (``vault repair --from``), and so creates everywhere.
* *lock* makes a lock longer. Who creates needs it, since a lock is put on in the request that creates; the pruner needs it to renew
  what is still promised. Nobody may shorten one, or change how a bucket keeps versions.
* Everybody lists: names, sizes and times are no secret to who has credentials here, and leases and prunes rest on whole listings.

A namespace is what names begin with, `vault.json` a whole name. A name outside of all of them is nobody's (P12). A folder cannot
hold both an object and others below it, so a thief's ``log/0000000007/x`` would keep that entry from ever being written: where the
vault is a folder, names are created at the depth of the format only (:func:`allows`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from resurgam.vault.identity import IDENTITY
from resurgam.vault.signing import Role

DEPTHS: Final = {"approvals/": 3, "packs/": 3, "prune/": 3, "records/": 3}  # parts of a name; else 2
READER: Final = "reader"
REPLICATOR: Final = "replicator"
PACKS: Final = "packs/"
REPLICA: Final = "replica/"
PROBE: Final = "probe/"
ROLES: Final = (*(role.value for role in Role), READER, REPLICATOR)


class Operation(StrEnum):
    """What a store can be asked for. *create* never replaces (P2), *lock* never shortens."""

    LIST = "list"
    READ = "read"
    CREATE = "create"
    LOCK = "lock"
    DELETE = "delete"


class Rights(NamedTuple):
    """Who may read, create, lock and delete the objects of one namespace."""

    read: frozenset[str]
    create: frozenset[str]
    lock: frozenset[str]
    delete: frozenset[str]

    def of(self, operation: Operation) -> frozenset[str]:
        """The roles that may do ``operation``."""
        return _ALL if operation is Operation.LIST else getattr(self, operation.value)


_ALL: Final = frozenset(ROLES)
_SIGNERS: Final = frozenset(role.value for role in Role)
_EVERYWHERE: Final = frozenset(
    {Role.ROOT.value, REPLICATOR}
)  # they bring and copy whole objects, which others have signed


def _rights(*creators: str, hidden_from: tuple[str, ...] = (), deleted_by: tuple[str, ...] = ()) -> Rights:
    """A row: the ``creators`` beside those who create everywhere; all read but those it is ``hidden_from``."""
    create = _EVERYWHERE | {str(role) for role in creators}
    return Rights(
        read=_ALL - {str(role) for role in hidden_from},
        create=create,
        lock=create | {Role.PRUNER.value},
        delete=frozenset(str(role) for role in deleted_by),
    )


RIGHTS: Final[dict[str, Rights]] = {
    IDENTITY: _rights(),
    "roles/": _rights(),
    "keys/index": _rights(hidden_from=(Role.CAPTURE,)),
    "keys/session-": _rights(Role.CAPTURE, Role.VERIFIER),
    PACKS: _rights(
        Role.CAPTURE,
        Role.VERIFIER,
        Role.PRUNER,
        hidden_from=(Role.CAPTURE, Role.APPROVER),  # P9
        deleted_by=(Role.PRUNER,),
    ),
    "index/": _rights(Role.CAPTURE, Role.VERIFIER, Role.PRUNER, deleted_by=(Role.PRUNER,)),
    "leases/": _rights(Role.CAPTURE, Role.VERIFIER, Role.APPROVER),
    "points/": _rights(Role.CAPTURE, Role.APPROVER, Role.PRUNER),  # the last two: revocations of what never was sealed
    "records/": _rights(Role.VERIFIER, Role.APPROVER, Role.PRUNER),
    "prune/": _rights(Role.PRUNER),
    "approvals/": _rights(Role.APPROVER),
    "retention/": _rights(Role.APPROVER),
    "checks/": _rights(Role.VERIFIER, Role.PRUNER, Role.AUDITOR),
    "checkpoints/": _rights(Role.AUDITOR),
    "replicas/": _rights(Role.APPROVER),
    REPLICA: _rights(),  # what one replica has for itself: its mark, and when the originals were received
    "log/": _rights(*_SIGNERS),
    PROBE: _rights(deleted_by=(Role.ROOT,)),
}


def namespace(name: str) -> str | None:
    """The namespace in which the object ``name`` lies; None for a name that is none of a vault's."""
    return next((own for own in RIGHTS if (name == own if own == IDENTITY else name.startswith(own))), None)


def may(role: str, operation: Operation, name: str) -> bool:
    """Whether ``role`` may do ``operation`` to the object ``name``; of a listing, ``name`` is the prefix, and any will do. What is
    not known, a role or a namespace, may nothing."""
    if operation is Operation.LIST:
        return role in _ALL
    own = namespace(name)
    return own is not None and role in RIGHTS[own].of(operation)


def allows(role: str, operation: Operation, name: str) -> bool:
    """As ``may``, where the vault is a folder: nothing is created where an object would stand in the way of others."""
    return may(role, operation, name) and (operation is not Operation.CREATE or _is_at_its_depth(name))


def _is_at_its_depth(name: str) -> bool:
    own, parts = namespace(name), name.count("/") + 1
    return own in (IDENTITY, PROBE, REPLICA) or parts == DEPTHS.get(own or "", 2)
