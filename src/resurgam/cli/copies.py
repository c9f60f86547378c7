"""Several copies of a vault on the command line: opened together, told of at the end, and named where the first does not answer.

``--vault`` given again names more copies, the preferred one first. What each gave, lacked or had damaged is said beside the answer
when the command ends. A copy that cannot be opened is left out, and that is said before anything is read: only it may know what
takes back what the others say.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence

from resurgam.cli import output
from resurgam.clock import Clock
from resurgam.errors import Denied, NotFound, ResurgamError, Unreachable
from resurgam.stores.base import Store
from resurgam.stores.together import Together, Told
from resurgam.vault.keyring import Keyring
from resurgam.vault.retention_words import counted


def opened(places: Sequence[str], open_one: Callable[[str], Store], keyring: Keyring, clock: Clock) -> Store:
    """The copies at ``places`` as one store. Raises what opening the first raises where none can be opened."""
    from resurgam.vault.copies import open_together  # here: most vaults are read at one place

    stores: list[Store] = []
    refusals: list[ResurgamError] = []
    for place in places:
        try:
            stores.append(open_one(place))
        except (NotFound, Denied, Unreachable) as error:
            refusals.append(error)
    if not stores:
        raise refusals[0]
    together = open_together(stores, keyring, clock)
    for why in (*(error.message for error in refusals), *together.left_out.values()):
        output.warning(f"a copy is left out, and what only it holds is not seen: {why}")
    output.at_end(lambda: tell(together))
    return together


def tell(together: Together) -> None:
    """How each copy did, beside the answer; nothing of one that did all that was asked of it."""
    for line in words(together.told):
        output.note(line)


def words(told: Sequence[Told]) -> Iterator[str]:
    """The same as lines."""
    for copy in told:
        parts = (
            (copy.came, "came from it"),
            (copy.lacking, "missing there"),
            (copy.spoilt, "damaged there"),
            (copy.put, "written there"),
        )
        said = ", ".join(f"{counted(number, 'object')} {what}" for number, what in parts if number)
        silent = "does not answer" if copy.silent else ""
        if said or silent:
            yield f"{copy.copy}: {', '.join(part for part in (silent, said) if part)}"


def elsewhere(error: ResurgamError, replicas: Sequence[str]) -> ResurgamError:
    """``error``, of a vault that could not be opened, with the command that goes on from the copies that this host knows (P12)."""
    if not replicas:
        return error
    ways = " or ".join(f"`resurgam recover --vault {shlex.quote(place)}`" for place in replicas)
    return type(error)(
        error.message,
        untouched=error.untouched,
        next_step=f"{error.next_step} Copies of it are known: {ways} brings the system back from there; restore, verify, points, "
        "show, diff and vault check take the same --vault.",
    )
