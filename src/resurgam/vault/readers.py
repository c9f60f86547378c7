"""Who can read: adding a reader, taking one out, and giving one a new identity. Each is an age recipient of a shred domain.

    add       the domain gets a recipient more, and all its keys are wrapped anew for it
    remove    the domain loses one: it opens nothing that is written from then on. What it could open stays open to it
    rotate    a new identity takes the place of the one in a key file, in every domain where that stood

The identity is durable first, then the role table names it, then keys are wrapped anew (``vault.rewrap``). Whoever was stopped in
between gives the same command again. A recipient may be given in place of an identity: that of a plugin, or of a person who keeps
their own.
"""

from __future__ import annotations

from resurgam.clock import Clock
from resurgam.errors import TargetRefused
from resurgam.model.plan import Plan, Step
from resurgam.vault.age import Identity, is_recipient
from resurgam.vault.keyformat import IDENTITY, READER
from resurgam.vault.keys import DEFAULT_DOMAIN
from resurgam.vault.repository import Repository
from resurgam.vault.retention_words import counted
from resurgam.vault.rewrap import Done, Rewrapped, rewrap
from resurgam.vault.rolechange import KEYS, authorised, is_name, publish
from resurgam.vault.roles import RoleTable, next_table
from resurgam.vault.wraps import sessions


def file_of(domain: str, name: str) -> str:
    """The file of a new reader's identity, to be moved to its holder and renamed there."""
    return f"{'reader' if domain == DEFAULT_DOMAIN else domain}.{name}{IDENTITY}"


# Adding -------------------------------------------------------------------------------------------------------------


def plan_add(repository: Repository, name: str, domain: str = DEFAULT_DOMAIN, recipient: str = "") -> Plan:
    """What :func:`add` will do. Raises NotFound for a domain that is not there, TargetRefused for what cannot be."""
    _require_addable(repository, name, domain, recipient)
    steps = []
    if not _known(repository, name, domain):
        if not recipient:
            path = repository.keyring.path(file_of(domain, name))
            there = READER if domain == DEFAULT_DOMAIN else f"{domain}{IDENTITY}"
            steps.append(Step(verb="make", what=f"{path}, yours to move to {name}, as {there}, along with trust.json"))
        table = f"role table {repository.roles.serial + 1}"
        steps.append(Step(verb="sign", what=f"{table}: {name} reads what lies in {domain}"))
    steps.append(Step(verb="wrap anew", what=_keys_of(repository, [domain])))
    return Plan(title=f"Let {name} read {domain} of {repository.identity.name}", steps=tuple(steps))


def add(
    repository: Repository,
    name: str,
    clock: Clock,
    domain: str = DEFAULT_DOMAIN,
    recipient: str = "",
    progress: Done = lambda _: None,
) -> Rewrapped:
    """Do what :func:`plan_add` says, or end what a run before began. Raises as it, and Denied where nothing here opens the domain,
    for want of the root key or of approvals."""
    opening = repository.require_open(domain)  # before anything is signed that could not be kept
    plan, roles = plan_add(repository, name, domain, recipient), repository.roles
    if not _known(repository, name, domain):
        root = authorised(repository, KEYS, plan)
        new = recipient or repository.keyring.make_identity_in(file_of(domain, name)).recipient
        gains = {domain: (*roles.recipients(domain), new)}
        publish(repository, _gaining(roles, gains, {**roles.names, new: name}), root, clock)
    return rewrap(repository, domain, opening, progress)


# Removing -----------------------------------------------------------------------------------------------------------


def plan_remove(repository: Repository, recipient: str) -> Plan:
    """What :func:`remove` will do. Raises TargetRefused where nobody would be left to read."""
    domains = [name for name, to in repository.roles.domains.items() if recipient in to]
    if not domains:
        raise _refused(f"{recipient} reads nothing in this vault", "`resurgam vault keys list` shows who does.")
    alone = [name for name in domains if len(repository.roles.domains[name]) == 1]
    if alone:
        raise _refused(
            f"Nobody else could read {', '.join(alone)}",
            "Add a reader first. To make it unreadable for everybody, `resurgam vault shred` the domain.",
        )
    who, where = repository.roles.names.get(recipient, recipient), ", ".join(domains)
    return Plan(
        title=f"Take {who} out of the readers of {repository.identity.name}",
        steps=(
            Step(verb="sign", what=f"role table {repository.roles.serial + 1}: {recipient} is no reader of {where}"),
            Step(verb="cannot be undone", what="what was stored until now stays readable to whoever has that identity"),
        ),
    )


def remove(repository: Repository, recipient: str, clock: Clock) -> str:
    """Do what :func:`plan_remove` says; returns what was removed. Raises as it, and Denied."""
    root = authorised(repository, KEYS, plan_remove(repository, recipient))
    roles = repository.roles
    domains = {name: tuple(r for r in to if r != recipient) for name, to in roles.domains.items()}
    names = {r: name for r, name in roles.names.items() if r != recipient}
    publish(repository, next_table(roles, domains=domains, names=names), root, clock)
    return recipient


# Rotating -----------------------------------------------------------------------------------------------------------


def plan_rotate(repository: Repository, stem: str = "reader") -> Plan:
    """What :func:`rotate` will do with the identity in ``STEM.agekey``. Raises Denied where it is not here, TargetRefused where it
    reads nothing."""
    old, domains = _standing(repository, stem)
    where, table = ", ".join(domains), f"role table {repository.roles.serial + 1}"
    keyring = repository.keyring
    aside = f"{keyring.path(stem + IDENTITY)} to {_aside(stem, old)}, yours to destroy when `keys test` finds nothing"
    return Plan(
        title=f"Rotate {stem}{IDENTITY} of {repository.identity.name}",
        steps=(
            Step(verb="make", what=keyring.path(_next_to(stem))),
            Step(verb="sign", what=f"{table}: a new identity reads {where} in place of {old.recipient}"),
            Step(verb="wrap anew", what=_keys_of(repository, domains)),
            Step(verb="rename", what=aside),
            Step(
                verb="cannot be undone", what="what was stored until now stays readable to whoever has the old identity"
            ),
        ),
    )


def rotate(
    repository: Repository, clock: Clock, stem: str = "reader", progress: Done = lambda _: None
) -> dict[str, Rewrapped]:
    """Do what :func:`plan_rotate` says, or end what a run before began; by domain, what was wrapped anew. Raises as it, and Denied
    for want of the root key or of approvals."""
    keyring, file, following = repository.keyring, f"{stem}{IDENTITY}", _next_to(stem)
    new = keyring.identities_in(following)[0] if keyring.has(following) else None
    if new is None or not _read_by(repository, new):
        new = _replace(repository, stem, clock)
    held = keyring.identities_in(file) if keyring.has(file) else []
    done = {name: rewrap(repository, name, [new, *held], progress) for name in _read_by(repository, new)}
    if held:
        keyring.move(file, _aside(stem, held[0]))
    keyring.move(following, file)
    return done


def _replace(repository: Repository, stem: str, clock: Clock) -> Identity:
    """Sign a table in which a new identity stands for the one in ``STEM.agekey``."""
    roles = repository.roles
    old, domains = _standing(repository, stem)
    root = authorised(repository, KEYS, plan_rotate(repository, stem))
    identity = repository.keyring.make_identity_in(_next_to(stem))
    new = {old.recipient: identity.recipient}
    gains = {name: tuple(new.get(r, r) for r in roles.domains[name]) for name in domains}
    publish(repository, _gaining(roles, gains, {new.get(r, r): name for r, name in roles.names.items()}), root, clock)
    return identity


# Which --------------------------------------------------------------------------------------------------------------


def _standing(repository: Repository, stem: str) -> tuple[Identity, list[str]]:
    """The identity in a key file, and the domains that it reads."""
    old = repository.keyring.identities_in(f"{stem}{IDENTITY}")[0]
    domains = _read_by(repository, old)
    if not domains:
        raise _refused(f"{stem}{IDENTITY} reads nothing in this vault", "`vault keys list` shows who does.")
    return old, domains


def _read_by(repository: Repository, identity: Identity) -> list[str]:
    return [name for name, to in repository.roles.domains.items() if identity.recipient in to]


def _gaining(roles: RoleTable, domains: dict[str, tuple[str, ...]], names: dict[str, str]) -> RoleTable:
    """The next table, with these recipients of domains, and the serial in which they came."""
    changed = {**roles.changed, **dict.fromkeys(domains, roles.serial + 1)}
    return next_table(roles, domains={**roles.domains, **domains}, changed=changed, names=names)


def _known(repository: Repository, name: str, domain: str) -> str:
    """The recipient of ``domain`` that is called ``name``; empty where none is. Then nothing is left but to wrap for it."""
    names = repository.roles.names
    return next((known for known in repository.roles.recipients(domain) if names.get(known) == name), "")


def _require_addable(repository: Repository, name: str, domain: str, recipient: str) -> None:
    known = _known(repository, name, domain)
    if not is_name(name):
        raise _refused(f"{name!r} is no name for a reader", "Give --name: lower-case letters, digits and -.")
    if known and recipient and recipient != known:
        raise _refused(f"There is another reader {name} of {domain} already", "Give another name, or rotate that one.")
    if recipient and not is_recipient(recipient):
        raise _refused(f"{recipient[:70]!r} is no age recipient", "It begins with age1; `age-keygen -y` prints it.")
    elsewhere = [other for other, to in repository.roles.domains.items() if other != domain and recipient in to]
    if elsewhere:
        raise _refused(
            f"It reads {', '.join(elsewhere)} already, and domains with a key in common cannot be shredded apart",
            "Take another identity for each domain.",
        )


def _keys_of(repository: Repository, domains: list[str]) -> str:
    return f"the keys of {', '.join(domains)}, which are among those of {counted(len(sessions(repository.store)), 'session')}"


def _next_to(stem: str) -> str:
    return f"{stem}.next{IDENTITY}"


def _aside(stem: str, old: Identity) -> str:
    return f"{stem}.retired-{old.recipient[-8:]}{IDENTITY}"


def _refused(what: str, next_step: str) -> TargetRefused:
    return TargetRefused(f"{what}.", untouched="Nothing was changed.", next_step=next_step)
