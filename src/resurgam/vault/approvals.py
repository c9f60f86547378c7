"""Four eyes: what deletes or replaces may need more people than the one who does it.

The role table says for which acts and how many (``quorum``, set by the root key's holder: ``vault roles --require prune=2``). An
approver says yes to one plan, by its digest, with a record of its own::

    approvals/<first 32 digits of the digest>/<key id>     APPROVAL, subject plan/<digest>

A plan's digest covers all that it says, the vault and the act. So a yes to one plan is none to another, and a plan that would come
out otherwise by now (a point more, another role table) needs a new one (P10).

What counts are *keys*, not objects: two records by one key are one yes, and the name of an object proves nothing. Keys that
were retired or removed by now do not count, also for what they said before. An object that cannot be believed counts as none.

The quorum is held by whoever does the act, and by whoever reads what it left; it does not bind the holder of the root key, who
may name other approvers.
"""

from __future__ import annotations

import secrets
from typing import Final

import msgspec
from blake3 import blake3

from resurgam.clock import Clock
from resurgam.errors import Denied, IntegrityError, NewerFormat
from resurgam.model.codec import to_json, to_plain
from resurgam.stores.base import AlreadyThere
from resurgam.vault.records import RecordType, Subject, read_record
from resurgam.vault.repository import Repository
from resurgam.vault.retention_words import counted
from resurgam.vault.roles import RoleKey
from resurgam.vault.signing import Role

ACTS: Final = ("prune", "shred", "retention", "keys")  # that a quorum can be set for
PREFIX: Final = "approvals/"
DIGEST: Final = 64  # hex digits of a plan's digest
_SHORT = 32


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """The body of an approval: to what, in words, and why. What counts is the digest, which stands in the subject too."""

    plan: str
    act: str = ""
    title: str = ""
    why: str = ""


def plan_digest(repository: Repository, act: str, plan: object) -> str:
    """The hex BLAKE3 of ``plan`` as JSON, with the vault and the act that it is for."""
    said = {"resurgam": "plan", "vault": repository.vault.hex(), "act": act, "plan": to_plain(plan)}
    return blake3(to_json(said)).hexdigest()


def approve(repository: Repository, approval: Approval, clock: Clock) -> str:
    """Say yes to a plan, with the approver's key that is here; returns the record's name. Saying it again changes nothing.

    Raises Denied where there is no approver's key, or one that does not count.
    """
    signer = repository.keyring.signer(Role.APPROVER)
    repository.require_believed(signer)
    name = f"{PREFIX}{approval.plan[:_SHORT]}/{signer.key_id}"
    if signer.key_id in {key.key_id for key in approvers(repository, approval.plan)}:
        return name
    subject = Subject(f"plan/{approval.plan}", approval.plan)
    try:
        repository.put_signed(name, RecordType.APPROVAL, subject, approval, signer, clock)
    except AlreadyThere:  # something else has this name, and is no approval of ours
        name = f"{name}-{secrets.token_hex(4)}"
        repository.put_signed(name, RecordType.APPROVAL, subject, approval, signer, clock)
    repository.announce(RecordType.APPROVAL, name, signer, clock)
    return name


def approvers(repository: Repository, digest: str) -> tuple[RoleKey, ...]:
    """Whose yes to the plan with this digest counts now; each key once, in the order of the role table."""
    said_yes = set[str]()
    for entry in repository.store.list(f"{PREFIX}{digest[:_SHORT]}/"):
        try:
            record = read_record(
                repository.store.get(entry.name),
                repository.roles,
                repository.vault,
                {RecordType.APPROVAL},
                about=f"plan/{digest}",
                what=entry.name,
                received=repository.as_told(entry).received,
            )
        except (IntegrityError, NewerFormat):
            continue  # it is nobody's yes
        if record.subject.digest == digest:
            said_yes.add(record.signer)  # a set: one who signs twice has said it once
    return tuple(key for key in repository.roles.active(Role.APPROVER) if key.key_id in said_yes)


def required(repository: Repository, act: str) -> int:
    """How many approvers ``act`` needs in this vault; 0 where whoever may do it may do it alone."""
    return repository.roles.quorum.get(act, 0)


def require_approvals(repository: Repository, act: str, plan_digest: str) -> None:
    """Raises Denied, naming who has and who could still, where fewer approvers than the role table asks for have said yes to
    exactly this plan."""
    needed = required(repository, act)
    given = approvers(repository, plan_digest) if needed else ()
    if len(given) >= needed:
        return
    missing = [key for key in repository.roles.active(Role.APPROVER) if key not in given]
    said = f"{_named(given)} said yes" if given else "nobody said yes"
    raise Denied(
        f"This needs {counted(needed, 'approver')} ({act}), and {said} to the plan {plan_digest[:16]}.",
        untouched="Nothing was changed.",
        next_step=f"Have {needed - len(given)} of {_named(missing)} run `resurgam vault approve {plan_digest}`.",
    )


def _named(keys: tuple[RoleKey, ...] | list[RoleKey]) -> str:
    return ", ".join(f"{key.name} ({key.key_id})" if key.name else key.key_id for key in keys) or "nobody"
