"""Shredding: what lies in one shred domain becomes unreadable, for everybody and for good, and everything else stays.

Nothing in a vault is ever changed (P2), and copies of it may lie anywhere. So what is destroyed is the identity of the domain,
which was never in the vault. Everything that was encrypted for it goes at once: in every point, every copy, every replica.

    successor     where answers go into the domain: the identity of the next one, durable in the keys folder
    role table    signed by the root key: the domain is shredded, since when and why; answers go to its successor (P2)
    log           announces the table
    identity      overwritten and removed here. Copies elsewhere are for their keepers to destroy; no vault can know of them

Whoever stops in between gives the same command again. A domain's name is used once: chunk ids are made from it, and a writer
that knew the old ones would not store the same bytes anew.

Records stay and still verify: they hold digests, counts and times. The domain ``default`` cannot be shredded, since it holds what
every restore needs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from resurgam.clock import Clock
from resurgam.errors import NotFound, TargetRefused
from resurgam.model.nearest import did_you_mean
from resurgam.model.placement import WORD
from resurgam.model.plan import Plan, Step
from resurgam.vault.keyformat import READER, RECOVERY
from resurgam.vault.keys import DEFAULT_DOMAIN, EVIDENCE_DOMAIN
from resurgam.vault.records import RecordType, timestamp
from resurgam.vault.replicas import require_primary
from resurgam.vault.repository import Repository
from resurgam.vault.retention_words import counted
from resurgam.vault.rolechange import authorised, publish
from resurgam.vault.roles import RoleTable, Shredded, next_table
from resurgam.vault.signing import Role

ACT = "shred"  # as a quorum names it
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_TAKEN = frozenset({DEFAULT_DOMAIN, READER.partition(".")[0], RECOVERY.partition(".")[0]})  # files of other keys
_KEPT = frozenset({RecordType.VERDICT, RecordType.BASELINE, RecordType.REFERENCE})


@dataclass(frozen=True)
class Contents:
    """What lies in a domain: snapshots by component, points with answers, records with evidence by their type."""

    snapshots: Counter[str]
    answers: int
    records: Counter[str]


def plan(repository: Repository, domain: str) -> Plan:
    """What :func:`shred` will do (P10). Raises NotFound for a domain that is not there, TargetRefused for one that cannot be."""
    _require_shreddable(repository, domain)
    contents, evidence = _contents(repository, domain), repository.roles.evidence
    path = repository.keyring.path_of(domain)
    here = repository.keyring.has(f"{domain}.agekey")
    steps = []
    if domain == evidence:
        successor = repository.keyring.path_of(_next(repository))
        steps.append(Step(verb="make", what=f"{successor}, for answers from now on"))
    steps += [
        Step(verb="sign", what=f"role table {repository.roles.serial + 1}: {domain} is shredded"),
        Step(verb="destroy", what=path if here else f"nothing here: {path} is not in this keys folder"),
        Step(verb="yours to destroy", what=f"every other copy of {domain}.agekey: who has one can still read"),
    ]
    others = [repository.roles.names.get(reader, "") for reader in repository.roles.recipients(domain)]
    steps += [Step(verb="yours to destroy", what=f"the key of {name}, who reads it too") for name in others if name]
    lost = [f"{name} in {counted(count, 'point')}" for name, count in sorted(contents.snapshots.items())]
    lost += [f"what was answered around {counted(contents.answers, 'capture')}"] if contents.answers else []
    lost += [f"the evidence of {counted(count, word)}" for word, count in sorted(contents.records.items())]
    steps += [Step(verb="unreadable for ever", what=what) for what in lost or ["nothing: the domain is empty"]]
    if contents.snapshots and domain != evidence:
        steps.append(Step(verb="keep", what=f"what probes answered: that lies in {evidence}, to be shredded apart"))
    steps.append(Step(verb="keep", what="all other domains, and every record with its signature, digests and counts"))
    return Plan(title=f"Shred the domain {domain} of {repository.identity.name}", steps=tuple(steps))


def shred(repository: Repository, domain: str, clock: Clock, why: str = "") -> None:
    """Do what :func:`plan` says; ended where a run before was stopped. ``why`` goes into the signed table, in the clear.

    Raises Denied without the root key or for want of approvals, NotFound, TargetRefused.
    """
    if not repository.shredded(domain):
        root = authorised(repository, ACT, plan(repository, domain))
        noted = Shredded(timestamp(clock.now()), _on_one_line(why))
        publish(repository, _without(repository, domain, noted), root, clock)
    repository.keyring.destroy(domain)  # last: as long as it is here, the same command can be given again


def unfinished(repository: Repository, domain: str) -> bool:
    """Whether a domain was noted as shredded, and its identity is still here."""
    return bool(repository.shredded(domain)) and repository.keyring.has(f"{domain}.agekey")


def add_domain(repository: Repository, domain: str, clock: Clock, residency: str = "") -> str:
    """Make a shred domain with an identity of its own, and return that file's path. With ``residency``, its contents never leave
    that region. ``evidence`` takes answers from then on, in a vault that kept them in ``default``.

    Raises Denied without the root key, TargetRefused for a name that cannot be.
    """
    roles = repository.roles
    if not _NAME.fullmatch(domain) or domain in _TAKEN or domain in roles.domains or domain in roles.shredded:
        raise TargetRefused(
            f"{domain!r} cannot be the name of a new shred domain: it is taken, was shredded, or is no name.",
            untouched="Nothing was changed.",
            next_step="Give another: lower-case letters, digits, - and _.",
        )
    if residency and not re.fullmatch(WORD, residency):
        raise TargetRefused(
            f"{residency[:80]!r} is not the word of a region.",
            untouched="Nothing was changed.",
            next_step="Give at most 31 characters a-z, 0-9 and '-', beginning with a letter or digit, such as `eu`.",
        )
    require_primary(repository)
    root = repository.keyring.signer(Role.ROOT)
    recipient = repository.keyring.make_identity(domain).recipient
    evidence = domain if (domain, roles.evidence) == (EVIDENCE_DOMAIN, DEFAULT_DOMAIN) else roles.evidence
    stays = {**roles.residency, domain: residency} if residency else roles.residency
    domains = {**roles.domains, domain: (recipient,)}
    table = next_table(roles, domains=domains, evidence=evidence, residency=stays)
    publish(repository, table, root, clock)
    return repository.keyring.path_of(domain)


def _require_shreddable(repository: Repository, domain: str) -> None:
    """A domain can be shredded whose recipients open nothing else."""
    if domain not in repository.roles.domains and not repository.shredded(domain):
        raise NotFound(
            f"The vault has no shred domain {domain!r}.",
            untouched="Nothing was changed.",
            next_step=did_you_mean(domain, repository.roles.domains),
        )
    ours = set(repository.roles.recipients(domain))
    shared = [name for name, to in repository.roles.domains.items() if name != domain and ours & set(to)]
    if domain == DEFAULT_DOMAIN or shared:
        why = "it holds what every restore needs" if not shared else f"its keys also open {', '.join(shared)}"
        raise TargetRefused(
            f"The shred domain {domain} cannot be shredded: {why}.",
            untouched="Nothing was changed.",
            next_step="To give up a whole vault, destroy every copy of its reader's and its recovery key.",
        )


def _without(repository: Repository, domain: str, noted: Shredded) -> RoleTable:
    """The next role table, in which ``domain`` is no more."""
    roles = repository.roles
    domains, evidence = {name: to for name, to in roles.domains.items() if name != domain}, roles.evidence
    if domain == evidence:
        evidence = _next(repository)
        domains[evidence] = (repository.keyring.make_identity(evidence).recipient,)
    shredded = {**roles.shredded, domain: noted}
    return next_table(roles, domains=domains, evidence=evidence, shredded=shredded)


def _next(repository: Repository) -> str:
    """A name for answers that no domain has had."""
    known = repository.roles.domains.keys() | repository.roles.shredded.keys()
    return next(name for n in range(2, len(known) + 3) if (name := f"{EVIDENCE_DOMAIN}-{n}") not in known)


class _Kept(msgspec.Struct, frozen=True):
    """So much of the bodies of verdicts, baselines and references as tells where their evidence lies."""

    evidence: str = DEFAULT_DOMAIN


def _contents(repository: Repository, domain: str) -> Contents:
    points = [sealed.body for sealed in repository.points()]
    return Contents(
        snapshots=Counter(s.component for body in points for s in body.snapshots if s.domain == domain),
        answers=sum(body.answers != "" and body.evidence == domain for body in points),
        records=Counter(kind for body in points for kind in _evidence(repository, body.id, domain)),
    )


def _evidence(repository: Repository, point: str, domain: str) -> Iterator[str]:
    for record in repository.records(point):
        if record.type in _KEPT and record.read(_Kept).evidence == domain:
            yield str(record.type)


def _on_one_line(words: str) -> str:
    """What a terminal may print ever after."""
    return " ".join("".join(c if c.isprintable() else " " for c in words).split())
