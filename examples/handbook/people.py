"""The customers and what they asked: invented by a seeded generator, so that backups hold personal data worth guarding.

Names are drawn from lists; addresses end in ``example.com`` (RFC 2606) and numbers begin with ``555-01``, which are set aside
for fiction. Times count from one fixed day, so that two set-ups agree.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

CUSTOMERS, TICKETS = 300, 200
OPENING = datetime(2026, 1, 5, 9, tzinfo=UTC)
PLANS = ("free", "team", "enterprise")
STATES = ("open", "waiting", "closed")

_FIRST = "Ada Bela Chidi Dana Emeka Farah Goro Hana Ines Jonas Kofi Lena Mira Nils Omar Priya Quinn Rosa Sami Tove"
_LAST = "Abara Berg Castro Dvorak Eze Fischer Greco Haddad Ivanov Jansen Kaya Lund Moreau Novak Okoye Patel Rossi Silva"


class Customer(NamedTuple):
    """A row of ``customers``."""

    id: int
    name: str
    email: str
    phone: str
    plan: str
    since: str


class Ticket(NamedTuple):
    """A row of ``tickets``, without its id."""

    customer_id: int
    chunk_id: int
    question: str
    state: str
    opened: str


def customers(rng: random.Random) -> Iterator[Customer]:
    """The customers of the opening day."""
    for number in range(1, CUSTOMERS + 1):
        first, last = rng.choice(_FIRST.split()), rng.choice(_LAST.split())
        email = f"{first}.{last}{number}@example.com".lower()
        phone = f"555-01{rng.randrange(100):02}"
        since = OPENING - timedelta(days=rng.randrange(900))
        yield Customer(number, f"{first} {last}", email, phone, rng.choice(PLANS), since.date().isoformat())


def tickets(rng: random.Random, chunks: Sequence[tuple[int, str]], count: int = TICKETS) -> Iterator[Ticket]:
    """Tickets about chunks, given as (id, heading), one every 20 minutes from the opening on."""
    for number in range(count):
        chunk, heading = rng.choice(chunks)
        opened = (OPENING + timedelta(minutes=20 * number)).isoformat()
        yield Ticket(rng.randint(1, CUSTOMERS), chunk, f"How does {heading} work?", rng.choice(STATES), opened)
