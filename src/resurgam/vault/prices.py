"""What a store charges, as its owner has written it down: values only. Reading the file is ``capture.prices``'s work.

Amounts are decimal numbers in one currency, since sums of money are added and compared. Nothing here knows any provider's prices:
they differ by region, contract and day, so each file says as of when they are.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec

from resurgam.errors import UsageError

ZERO = Decimal(0)


class WarmUpPrices(msgspec.Struct, frozen=True, kw_only=True):
    """What waking sleeping objects costs at one speed, and how many ``hours`` it takes at most."""

    hours: Decimal
    gb: Decimal = ZERO
    per_1000: Decimal = ZERO


class ClassPrices(msgspec.Struct, frozen=True, kw_only=True):
    """One storage class: ``storage`` per GB and month; ``put``, ``get``, ``list``, ``delete`` per 1,000 requests; ``retrieval`` per
    GB that is read; whatever is deleted before ``minimum_days`` is paid for until then. ``warm_up`` are the speeds by which objects
    of a class that sleeps are woken."""

    storage: Decimal
    put: Decimal = ZERO
    get: Decimal = ZERO
    list: Decimal = ZERO
    delete: Decimal = ZERO
    retrieval: Decimal = ZERO
    minimum_days: int = 0
    warm_up: dict[str, WarmUpPrices] = {}


class Prices(msgspec.Struct, frozen=True, kw_only=True):
    """A price list. ``egress`` is per GB that leaves the store; ``gb`` is how many bytes its GB has."""

    currency: str
    as_of: str
    egress: Decimal
    classes: dict[str, ClassPrices]
    gb: int = 10**9
    note: str = ""

    def of(self, storage_class: str) -> ClassPrices:
        """The prices of one class. Raises UsageError where the list has none: a guess would look like an answer (P12)."""
        found = self.classes.get(storage_class)
        if found is None:
            raise UsageError(
                f"The prices have no class {storage_class}, and the vault holds objects of it.",
                untouched="Nothing was changed.",
                next_step=f"Add {storage_class} under `classes:`; they are: {', '.join(self.classes)}.",
            )
        return found
