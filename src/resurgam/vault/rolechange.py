"""A change of the role table: decided and printed first (P10), approved where the quorum asks for it, signed, put once.

Whoever reads goes by the highest serial that the root key has signed, so a change is in force when its table is put. Two that were
begun from one table cannot both be: the name holds the serial, and the put is create-only.
"""

from __future__ import annotations

import re
from typing import Final

from resurgam.clock import Clock
from resurgam.errors import Busy, TargetRefused
from resurgam.model.plan import Plan
from resurgam.stores.base import AlreadyThere, put_once
from resurgam.vault.approvals import plan_digest, require_approvals
from resurgam.vault.records import RecordType, sign_roles
from resurgam.vault.replicas import require_primary
from resurgam.vault.repository import Repository
from resurgam.vault.retention_words import counted
from resurgam.vault.roles import RoleTable
from resurgam.vault.signing import Role, SigningKey

KEYS: Final = "keys"  # the act, as a quorum names it
_NAME: Final = re.compile(
    r"(?!next$|retired-)[a-z0-9][a-z0-9-]{0,30}"
)  # it stands in the name of a file, beside those words


def is_name(words: str) -> bool:
    """Whether a holder of a key may be called so."""
    return _NAME.fullmatch(words) is not None


def authorised(repository: Repository, act: str, plan: Plan) -> SigningKey:
    """The root key, where those that ``act`` needs have said yes to ``plan``. Raises Denied."""
    root = repository.keyring.signer(Role.ROOT)
    require_approvals(repository, act, plan_digest(repository, act, plan))
    return root


def publish(repository: Repository, table: RoleTable, root: SigningKey, clock: Clock) -> None:
    """Put the table, which is create-only: two with one serial cannot be. Raises Busy, TargetRefused."""
    require_primary(repository)
    _require_enough_approvers(table)
    try:
        put_once(repository.store, table.object_name, sign_roles(table, root, clock.now()))
    except AlreadyThere as error:
        raise Busy(
            f"Another role table {table.serial} was signed meanwhile.",
            untouched="That one holds, and nothing of this was done.",
            next_step="Give the same command again.",
        ) from error
    repository.believe(table)
    repository.announce(RecordType.ROLES, table.object_name, root, clock)


def _require_enough_approvers(table: RoleTable) -> None:
    """A quorum that can never be reached would lock the vault's own keepers out."""
    approvers = len(table.active(Role.APPROVER))
    for act, needed in sorted(table.quorum.items()):
        if needed > approvers:
            raise TargetRefused(
                f"{act} would need {counted(needed, 'approver')}, and the vault would have {approvers}.",
                untouched="Nothing was changed.",
                next_step="Add one first, `resurgam vault keys add approver --name NAME`, or ask for fewer.",
            )
