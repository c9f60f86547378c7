"""What a vault costs in a month, and what a restore of it costs: a pure function of facts and prices.

    held        bytes by storage class                                     storage
    grows       bytes that captures add in a month                         storage, half a month of it on the average
    acts        captures, prunes, checks, drills: how often, what they ask requests, egress, retrieval, warm-up
    early       what a prune frees before its class's minimum days         what is still to be paid for it
    locked      what a prune could free but for its lock                   storage until the lock ends

Every line says what it counts and how it was reckoned, so that somebody with another price or habit can reckon again. What is
assumed is told with it. Money is in :class:`~decimal.Decimal`, and rounded only where it is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal

import msgspec

from resurgam.vault.prices import ClassPrices, Prices
from resurgam.vault.requests import Requests
from resurgam.vault.retention_words import counted

MONTH = Decimal(365) / 12  # days
_DAY = Decimal(86_400)
STANDARD = "STANDARD"  # the class of whatever a store says no class of


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What lies in one storage class."""

    objects: int = 0
    bytes: int = 0


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is done to a vault, so many times ``a_month``; None: told for one time, and in no month's sum.

    By storage class and for one time: ``requests``, bytes ``read`` out of packs, and what must be ``woken`` first. What is read
    leaves the store, unless it is read ``inside``, where nobody charges for that.
    """

    what: str
    a_month: Decimal | None
    requests: dict[str, Requests]
    read: dict[str, int] = {}
    woken: dict[str, Held] = {}
    inside: bool = False


class Early(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of one class that were put at ``received`` (seconds since 1970) and that a prune could free now. ``locked`` is until
    when their lock holds, 0 where there is none."""

    storage_class: str
    bytes: int
    received: float
    locked: float = 0.0


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a vault and of how it is used. ``now`` is the store's time; ``speed`` by which sleeping objects are
    woken; ``assumptions`` say what is not known but taken to be so."""

    now: float
    held: dict[str, Held]
    grows: dict[str, int]
    acts: tuple[Act, ...]
    early: tuple[Early, ...] = ()
    speed: str = "standard"
    assumptions: tuple[str, ...] = ()


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is paid for: ``quantity`` of ``unit`` at ``price`` each is ``amount``; ``how`` says where the quantity is
    from. ``monthly`` lines make up the month's sum; the others are for one time."""

    what: str
    storage_class: str
    quantity: Decimal
    unit: str
    price: Decimal
    amount: Decimal
    how: str
    monthly: bool = True


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What it costs: ``month`` is the sum of the monthly lines, ``each`` the sum for one time of every other act, by its name."""

    currency: str
    as_of: str
    month: Decimal
    each: dict[str, Decimal]
    lines: tuple[Line, ...]
    assumptions: tuple[str, ...]


def estimate(facts: Facts, prices: Prices) -> Estimate:
    """What ``facts`` cost by ``prices``. Raises UsageError where these lack a class that is used."""
    lines = [
        *_storage(facts, prices),
        *(line for act in facts.acts for line in _act(act, facts, prices)),
        *_freed(facts, prices),
    ]
    each: dict[str, Decimal] = {}
    for line in lines:
        if not line.monthly:
            each[line.what.partition(":")[0]] = each.get(line.what.partition(":")[0], Decimal(0)) + line.amount
    return Estimate(
        currency=prices.currency,
        as_of=prices.as_of,
        month=sum((line.amount for line in lines if line.monthly), Decimal(0)),
        each=each,
        lines=tuple(line for line in lines if line.quantity),
        assumptions=facts.assumptions,
    )


def reading(what: str, held: dict[str, Held], prices: Prices, speed: str = "standard") -> Estimate:
    """What it costs once to read all that is ``held``, by class, and to wake what of it sleeps."""
    asked = {name: Requests(get=one.objects) for name, one in held.items()}
    read = {name: one.bytes for name, one in held.items()}
    act = Act(what=what, a_month=None, requests=asked, read=read, woken=held)
    return estimate(Facts(now=0.0, held={}, grows={}, acts=(act,), speed=speed), prices)


def _storage(facts: Facts, prices: Prices) -> Iterator[Line]:
    for name, held in sorted(facts.held.items()):
        how = f"{held.bytes:,} bytes in {counted(held.objects, 'object')}, now"
        yield _gb_month("storage", name, Decimal(held.bytes), prices, how)
    for name, grown in sorted(facts.grows.items()):
        how = f"{grown:,} bytes are added in a month, and lie there for half of it on the average; nothing is freed meanwhile"
        yield _gb_month("storage: growth", name, Decimal(grown) / 2, prices, how)


def _act(act: Act, facts: Facts, prices: Prices) -> Iterator[Line]:
    times = Decimal(1) if act.a_month is None else act.a_month
    monthly = act.a_month is not None
    said = f"{_plain(times)} a month, each " if monthly else ""
    for name, requests in sorted(act.requests.items()):
        of = prices.of(name)
        for kind in ("put", "get", "list", "delete"):
            count: int = getattr(requests, kind)
            how = f"{said}{counted(count, 'request')}"
            yield _requests(f"{act.what}: {kind}", name, times * count, _price(of, kind), how, monthly)
    total = sum(act.read.values())
    if not act.inside and prices.egress:
        yield _gb(f"{act.what}: egress", "", times * total, prices.egress, prices, f"{said}{total:,} bytes", monthly)
    for name, read in sorted(act.read.items()):
        price, how = prices.of(name).retrieval, f"{said}{read:,} bytes read of that class"
        yield _gb(f"{act.what}: retrieval", name, times * read, price, prices, how, monthly)
    for name, woken in sorted(act.woken.items()):
        found = prices.of(name).warm_up.get(facts.speed)
        if found is not None:
            how = f"{said}{counted(woken.objects, 'object')} of {woken.bytes:,} bytes, woken at {facts.speed} speed"
            what = f"{act.what}: warm-up"
            yield _gb(what, name, times * woken.bytes, found.gb, prices, how, monthly)
            yield _requests(f"{what} requests", name, times * woken.objects, found.per_1000, how, monthly)


def _freed(facts: Facts, prices: Prices) -> Iterator[Line]:
    """What is still to be paid for bytes that a prune could free now: their class's minimum, and their lock."""
    for name in sorted({one.storage_class for one in facts.early}):
        of, ours = prices.of(name), [one for one in facts.early if one.storage_class == name]
        least = sum((_byte_days(one, facts.now, one.received + of.minimum_days * 86_400.0) for one in ours), Decimal(0))
        locked = sum((_byte_days(one, facts.now, one.locked) for one in ours), Decimal(0))
        total = sum(one.bytes for one in ours)
        how = f"of {total:,} bytes that no point needs, for the days until {of.minimum_days} days have passed"
        yield _once(_gb_month("prune now: early deletion", name, least / MONTH, prices, how))
        how = f"of {total:,} bytes that no point needs, until their locks end"
        yield _once(_gb_month("held by lock: storage", name, locked / MONTH, prices, how))


def _byte_days(one: Early, now: float, end: float) -> Decimal:
    return Decimal(one.bytes) * (Decimal(max(end - now, 0.0)) / _DAY)


def _once(line: Line) -> Line:
    return msgspec.structs.replace(line, monthly=False)


def _gb_month(what: str, name: str, amount: Decimal, prices: Prices, how: str) -> Line:
    quantity, price = amount / prices.gb, prices.of(name).storage
    return Line(
        what=what,
        storage_class=name,
        quantity=quantity,
        unit="GB-months",
        price=price,
        amount=quantity * price,
        how=how,
    )


def _gb(what: str, name: str, amount: Decimal, price: Decimal, prices: Prices, how: str, monthly: bool) -> Line:
    quantity = amount / prices.gb
    return Line(
        what=what,
        storage_class=name,
        quantity=quantity if price else Decimal(0),
        unit="GB",
        price=price,
        amount=quantity * price,
        how=how,
        monthly=monthly,
    )


def _requests(what: str, name: str, count: Decimal, price: Decimal, how: str, monthly: bool) -> Line:
    quantity = count / 1000
    return Line(
        what=what,
        storage_class=name,
        quantity=quantity,
        unit="1,000 requests",
        price=price,
        amount=quantity * price,
        how=how,
        monthly=monthly,
    )


def _price(of: ClassPrices, kind: str) -> Decimal:
    price: Decimal = getattr(of, kind)
    return price


def _plain(number: Decimal) -> str:
    """A number for people: at most two digits after the point."""
    return f"{number:,.2f}".rstrip("0").rstrip(".")


def by_class(parts: Iterable[tuple[str, int]]) -> dict[str, Held]:
    """Sizes of objects by their class."""
    found: dict[str, Held] = {}
    for name, size in parts:
        one = found.get(name, Held())
        found[name] = Held(objects=one.objects + 1, bytes=one.bytes + size)
    return found
