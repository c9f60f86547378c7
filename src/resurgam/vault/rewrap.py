"""Wrapping keys anew, so that a reader who was added reads what was stored before. No chunk is touched, and nothing is rewritten:
each key gets one object more (``vault.wraps``), of some hundred bytes. Cut off anywhere, the next run goes on.

What this cannot undo: who could open an object once, can do so for ever, wherever a copy of it lies. A reader that is taken out of
the role table opens nothing that is written *from then on*, and everything that was there before. To take that away too, capture
into a new vault, or shred the domain.

Anybody who writes to the store can put an age file under the name that is next. It holds another key, by which nothing decrypts: so
what stands there already is opened and compared, and a difference is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from resurgam.errors import Denied, IntegrityError
from resurgam.stores.base import put_once
from resurgam.vault.age import Identity, wrap
from resurgam.vault.keys import DEFAULT_DOMAIN, INDEX_OBJECT, session_payload, unwrap_index
from resurgam.vault.repository import Repository
from resurgam.vault.signing import broken
from resurgam.vault.wraps import first_opened, object_for, session_of, sessions, wraps_of_index

Done = Callable[[int], None]  # wrapped keys looked at since the last call


@dataclass
class Rewrapped:
    """How many keys were ``wrapped`` anew, how many had been ``already``, and how many did not open: those of other domains."""

    wrapped: int = 0
    already: int = 0
    closed: int = 0


def rewrap(
    repository: Repository, domain: str, identities: Sequence[Identity], progress: Done = lambda _: None
) -> Rewrapped:
    """Wrap every key of ``domain`` to the readers that the role table gives it now; ``identities`` open what is there.

    Raises IntegrityError where an object stands in the way that holds another key, MissingExtra for a plugin that is missing.
    """
    serial = repository.roles.changed.get(domain, repository.roles.serial)
    done = Rewrapped()
    if domain == DEFAULT_DOMAIN:
        _index(repository, object_for(INDEX_OBJECT, serial), identities, done)
    for name, objects in sorted(sessions(repository.store).items()):
        _session(repository, name, objects, domain, object_for(name, serial), identities, done)
        progress(1)
    return done


def _index(repository: Repository, target: str, identities: Sequence[Identity], done: Rewrapped) -> None:
    if target in wraps_of_index(repository.store):
        found = unwrap_index(repository.store.get(target), repository.vault, identities)
        _require_same(found.secret_bytes() == repository.secret.secret_bytes(), target)
        done.already += 1
        return
    put_once(repository.store, target, repository.secret.wrapped(repository.roles.recipients(DEFAULT_DOMAIN)))
    done.wrapped += 1


def _session(
    repository: Repository,
    name: str,
    objects: set[str],
    domain: str,
    target: str,
    identities: Sequence[Identity],
    done: Rewrapped,
) -> None:
    opened = partial(session_payload, vault=repository.vault, session=session_of(name), identities=identities)
    try:
        of, payload = first_opened(repository.store, name, opened)
    except (Denied, IntegrityError):
        done.closed += 1  # of another domain, or damaged: `keys test` and `check` tell the one from the other
        return
    if of != domain:
        done.closed += 1
    elif target in objects:
        _require_same(opened(repository.store.get(target)) == (of, payload), target)
        done.already += 1
    else:
        put_once(repository.store, target, wrap(payload, repository.roles.recipients(domain)))
        done.wrapped += 1


def _require_same(same: bool, target: str) -> None:
    if not same:
        raise broken(target, "it holds another key than the one that it is a wrap of")
