"""Signing keys: adding one, removing one that was stolen, rotating one that is worn out.

    add       a key more for a role, in a file of its own: several approvers are several persons
    remove    the key is disowned: nothing it ever signed is believed any more. The plan first says what is lost by that
    rotate    a new key takes the place of the old, which is *retired*: what the store received until then stands, what comes
              later is refused. The new one goes on to build on what the old one stored

Each is a next role table (``vault.rolechange``). The new key is durable in its file before the table names it, and whoever was
stopped in between gives the same command again, which takes that file up.

The root key is none of these: every host pins it, so another one is another vault.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from resurgam.clock import Clock
from resurgam.errors import Ambiguous, NotFound, TargetRefused
from resurgam.model.plan import Plan, Step
from resurgam.vault.approvals import ACTS, plan_digest, require_approvals
from resurgam.vault.keyformat import SIGNING
from resurgam.vault.records import timestamp
from resurgam.vault.repository import Repository
from resurgam.vault.retention_words import counted
from resurgam.vault.rolechange import KEYS, authorised, is_name, publish
from resurgam.vault.roles import RoleKey, next_table
from resurgam.vault.signatures import Signed, signed_by
from resurgam.vault.signing import Role, SigningKey

_WHOLE_LISTS: Final = 12  # points that a plan names one by one
_AHEAD: Final = timedelta(hours=1)  # the most by which a store's clock may be ahead of ours when a key is retired


def file_of(role: str, name: str) -> str:
    """The file of a new key of ``role``; with ``name``, one to be moved to its holder and renamed there."""
    return f"{role}.{name}{SIGNING}" if name else f"{role}{SIGNING}"


# Adding -------------------------------------------------------------------------------------------------------------


def plan_add(repository: Repository, role: str, name: str) -> Plan:
    """What :func:`add` will do. Raises TargetRefused for a role or a name that cannot be."""
    _require_role(role)
    known = repository.roles.active(role)
    if (name and not is_name(name)) or (known and not name):
        raise _refused(
            f"{name!r} is no name for a key"
            if name
            else f"There is a {role} already, and keys are told apart by names",
            "Give --name: lower-case letters, digits and -.",
        )
    if any(key.name == name for key in known):
        raise _refused(f"There is a {role} {name} already", "Give another name, or `keys rotate` the key it has.")
    path = repository.keyring.path(file_of(role, name))
    own = f"move it into the keys folder of {name or 'its holder'}, as {role}{SIGNING}, along with trust.json"
    return Plan(
        title=f"Add {name or 'a key'} as {role} to {repository.identity.name}",
        steps=(
            Step(verb="make", what=path),
            Step(verb="sign", what=f"role table {repository.roles.serial + 1}: it counts as {role} from then on"),
            Step(verb="yours to do", what=own),
        ),
    )


def add(repository: Repository, role: str, name: str, clock: Clock) -> RoleKey:
    """Do what :func:`plan_add` says. Raises Denied without the root key, or for want of approvals."""
    root = authorised(repository, KEYS, plan_add(repository, role, name))
    key = repository.keyring.make_signer(file_of(role, name), role, lambda: repository.secret)
    _require_new(repository, key, file_of(role, name))
    entry = RoleKey(key.key_id, key.public.raw, name=name)
    publish(repository, next_table(repository.roles, roles=_with(repository, role, entry)), root, clock)
    return entry


# Removing -----------------------------------------------------------------------------------------------------------


def plan_remove(repository: Repository, words: str) -> Plan:
    """What :func:`remove` will do, and what is lost by it. Raises NotFound, Ambiguous, TargetRefused."""
    role, key = _removable(repository, words)
    found = signed_by(repository, key.key_id)
    refused = [*_points(found)]
    refused += [counted(count, word) for word, count in sorted(found.counts.items()) if word != "point"]
    steps = [
        Step(verb="sign", what=f"role table {repository.roles.serial + 1}: {role} {_label(key)} is removed"),
        *(Step(verb="believed no more", what=what) for what in refused or ["nothing: it has signed nothing"]),
        Step(verb="keep", what="all objects as they are, and what other keys have signed"),
    ]
    if not [other for other in repository.roles.active(role) if other != key]:
        steps.append(
            Step(
                verb="nobody left",
                what=f"who could act as {role}: afterwards move {file_of(role, key.name)} out of the keys folder where it lies, "
                f"then `resurgam vault keys add {role}`",
            )
        )
    return Plan(title=f"Remove the {role} {_label(key)} from {repository.identity.name}", steps=tuple(steps))


def remove(repository: Repository, words: str, clock: Clock, why: str = "") -> RoleKey:
    """Do what :func:`plan_remove` says; ``why`` goes into the signed table, in the clear. Raises as it, and Denied."""
    role, key = _removable(repository, words)
    root = authorised(repository, KEYS, plan_remove(repository, words))
    gone = msgspec.structs.replace(key, removed=timestamp(clock.now()), why=why)
    publish(repository, next_table(repository.roles, roles=_with(repository, role, gone)), root, clock)
    return gone


# Rotating -----------------------------------------------------------------------------------------------------------


def plan_rotate(repository: Repository, role: str, words: str = "") -> Plan:
    """What :func:`rotate` will do with the key ``words`` of ``role``, or with the one that is meant where none is named. Raises
    NotFound, Ambiguous, TargetRefused."""
    key = _meant(repository, role, words)
    file = _file_here(repository, role, key)
    steps = [
        Step(verb="make", what=repository.keyring.path(_next_to(file))),
        Step(
            verb="sign",
            what=f"role table {repository.roles.serial + 1}: {role} {_label(key)} is retired, the new one counts",
        ),
        Step(
            verb="believed no more",
            what="what the store receives later from the retired key; let what is under way end first",
        ),
        Step(verb="keep", what="what the store received from it until then"),
    ]
    if repository.keyring.has(file):
        steps.append(
            Step(verb="destroy", what=f"the retired key in {repository.keyring.path(file)}; the new one is there then")
        )
    else:
        own = f"{repository.keyring.path(file)} to its holder, and destroy the retired key there"
        steps.append(Step(verb="yours to move", what=own))
    return Plan(title=f"Rotate the {role} {_label(key)} of {repository.identity.name}", steps=tuple(steps))


def rotate(repository: Repository, role: str, clock: Clock, words: str = "", why: str = "") -> RoleKey:
    """Do what :func:`plan_rotate` says, or end what a run before began; returns the new key's entry. Raises as it, and Denied."""
    keyring = repository.keyring
    if (done := _interrupted(repository, role)) is not None:
        file, entry = done
        _put_in_place(repository, file)
        return entry
    key = _meant(repository, role, words)
    root = authorised(repository, KEYS, plan_rotate(repository, role, words))
    file = _file_here(repository, role, key)
    new = keyring.make_signer(_next_to(file), role, lambda: repository.secret)
    _require_new(repository, new, _next_to(file))
    entry = RoleKey(new.key_id, new.public.raw, name=key.name, succeeds=key.key_id)
    retired = msgspec.structs.replace(key, retired=_moment(repository, clock), why=why)
    publish(repository, next_table(repository.roles, roles=_with(repository, role, retired, entry)), root, clock)
    _put_in_place(repository, file)
    return entry


def _interrupted(repository: Repository, role: str) -> tuple[str, RoleKey] | None:
    """The file and the entry of a key that counts already, and has not come into its place."""
    for name in repository.keyring.files():
        if name.startswith(f"{role}.") and name.endswith(_next_to(SIGNING)):
            found = repository.roles.entry(repository.keyring.signer_in(name, role).key_id)
            if found is not None and found[1].active:
                return name.removesuffix(_next_to(SIGNING)) + SIGNING, found[1]
    return None


def _put_in_place(repository: Repository, file: str) -> None:
    """The new key into the file of the old, which is of no use but to a thief."""
    repository.keyring.discard(file)
    repository.keyring.move(_next_to(file), file)


def _moment(repository: Repository, clock: Clock) -> str:
    """Since when a key is retired: now, or by the store's clock where that is a little ahead, so that nothing that is there
    already is lost. A store, or a thief who sets times, cannot put it off by more than an hour."""
    now = clock.now()
    latest = max(
        (entry.received for folder in ("points/", "records/", "log/") for entry in repository.store.list(folder)),
        default=0,
    )
    stored = datetime.fromtimestamp(latest, UTC) + timedelta(milliseconds=1)
    return timestamp(max(now, stored) if stored <= now + _AHEAD else now)


# Quorum -------------------------------------------------------------------------------------------------------------


def plan_require(repository: Repository, quorum: dict[str, int]) -> Plan:
    """What :func:`require` will do. Raises TargetRefused for an act that is none, or a number that cannot be."""
    wrong = [act for act, count in quorum.items() if act not in ACTS or count < 0]
    if wrong:
        raise _refused(
            f"{wrong[0]!r} cannot be asked for approvals so", f"Say ACT=NUMBER; the acts are {', '.join(ACTS)}."
        )
    table, before = f"role table {repository.roles.serial + 1}", repository.roles.quorum
    steps = [
        Step(
            verb="sign", what=f"{table}: {act} needs {counted(count, 'approver')}, where it needed {before.get(act, 0)}"
        )
        for act, count in sorted(quorum.items())
    ]
    return Plan(title=f"Say who must agree in {repository.identity.name}", steps=tuple(steps))


def require(repository: Repository, quorum: dict[str, int], clock: Clock) -> None:
    """Do what :func:`plan_require` says. To need fewer for an act needs as many as it needed. Raises as it, and Denied."""
    plan = plan_require(repository, quorum)
    root = authorised(repository, KEYS, plan)
    before = repository.roles.quorum
    for act in (act for act, count in quorum.items() if count < before.get(act, 0)):
        require_approvals(repository, act, plan_digest(repository, KEYS, plan))
    after = {act: count for act, count in {**before, **quorum}.items() if count}
    publish(repository, next_table(repository.roles, quorum=after), root, clock)


# Which key ----------------------------------------------------------------------------------------------------------


def _removable(repository: Repository, words: str) -> tuple[str, RoleKey]:
    found = [
        (role, key)
        for role, keys in repository.roles.roles.items()
        for key in keys
        if words and (key.key_id.startswith(words) or key.name == words)
    ]
    role, key = _one(found, words)
    _require_role(role)
    if key.removed:
        raise _refused(
            f"The {role} {_label(key)} was removed on {key.removed[:10]}", "`vault keys list` shows all keys."
        )
    return role, key


def _meant(repository: Repository, role: str, words: str) -> RoleKey:
    """The key of ``role`` that is named, else the one that is here, else the only one."""
    _require_role(role)
    active = repository.roles.active(role)
    if words:
        return _one([("", key) for key in active if key.key_id.startswith(words) or key.name == words], words)[1]
    if repository.keyring.has(f"{role}{SIGNING}"):
        here = repository.keyring.signer(role).key_id
        active = tuple(key for key in active if key.key_id == here) or active
    return _one([("", key) for key in active], role)[1]


def _one(found: Sequence[tuple[str, RoleKey]], words: str) -> tuple[str, RoleKey]:
    if not found:
        raise NotFound(
            f"The vault has no key {words!r} that counts.",
            untouched="Nothing was changed.",
            next_step="`resurgam vault keys list` shows all keys; name one by the beginning of its id, or by its name.",
        )
    if len(found) > 1:
        raise Ambiguous(
            f"{words!r} may be {' or '.join(_label(key) for _, key in found)}.",
            untouched="Nothing was changed.",
            next_step="Name one by the beginning of its id.",
        )
    return found[0]


def _file_here(repository: Repository, role: str, key: RoleKey) -> str:
    """The file in which the key lies here, or would lie were it made here."""
    for name in repository.keyring.files():
        if (
            name.startswith(f"{role}.")
            and name.endswith(SIGNING)
            and repository.keyring.signer_in(name).key_id == key.key_id
        ):
            return name
    return file_of(role, key.name)


def _next_to(file: str) -> str:
    """Where a key is made that is to take the place of the one in ``file``."""
    return f"{file.removesuffix(SIGNING)}.next{SIGNING}"


def _with(repository: Repository, role: str, *entries: RoleKey) -> dict[str, tuple[RoleKey, ...]]:
    """All keys, with these of ``role`` as they are given."""
    roles = repository.roles.roles
    known = {key.key_id: key for key in roles.get(role, ())} | {entry.key_id: entry for entry in entries}
    return {**roles, role: tuple(known.values())}


def _require_role(role: str) -> None:
    if role == Role.ROOT or role not in list(Role):
        raise _refused(
            "The root key cannot be changed: every host pins it" if role == Role.ROOT else f"There is no role {role!r}",
            "Begin a new vault." if role == Role.ROOT else f"Roles with keys are {', '.join(set(Role) - {Role.ROOT})}.",
        )


def _require_new(repository: Repository, key: SigningKey, file: str) -> None:
    known = repository.roles.entry(key.key_id)
    if known is not None:
        another = (
            "Give the new one another --name." if known[1].active else "Move it away, then give the same command again."
        )
        raise _refused(f"{repository.keyring.path(file)} holds a key that the role table knows", another)


def _points(found: Signed) -> list[str]:
    shown = ", ".join(found.points[:_WHOLE_LISTS])
    more = f" and {len(found.points) - _WHOLE_LISTS} more" if len(found.points) > _WHOLE_LISTS else ""
    return [f"{counted(len(found.points), 'point')}: {shown}{more}"] if found.points else []


def _label(key: RoleKey) -> str:
    return f"{key.name} ({key.key_id})" if key.name else key.key_id


def _refused(what: str, next_step: str) -> TargetRefused:
    return TargetRefused(f"{what}.", untouched="Nothing was changed.", next_step=next_step)
