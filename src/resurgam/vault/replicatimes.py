"""When the originals of a replica's objects were received.

Of a key that was retired counts what the store had received before. A replica receives everything later than its original, and no
store lets anybody say when it received something. So each run first puts down what it is about to copy, with the times of
the originals, and who reads at the replica goes by these: ``replica/<place>/times-<8 digits>``, compressed JSON.

Each run adds one such object, and every one of them tells also what some before it told: number n covers as many as the lowest
set bit of n (the rule of Fenwick's trees, doi:10.1002/spe.4380240306). So after n runs at most log2(n) + 1 of them are read.

Where one is damaged, what only that one told is not known, so that less is believed and never more; the next run tells everything
anew, in an object behind which nobody looks. Where something is withheld, nothing else than what was put there says which keys of
sessions belong there: their times are told too, after they came.

Who can write at a replica can lie about these times. So could whoever runs that store; to gain by it, one needs a retired key too.
Packs are not told of: where they lie is in segments, which are.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from resurgam.errors import IntegrityError
from resurgam.model.codec import to_json, versioned
from resurgam.stores.base import AlreadyThere, Store, put_once
from resurgam.vault.signing import broken

FORMAT = 1
LARGEST = 1 << 30  # bytes that the times of one object may have when they are unpacked
_NAME = re.compile(r"replica/([a-z0-9][a-z0-9-]{0,30})/times-([0-9]{8})")


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds since 1970 by name. All that the objects numbered from ``since`` on told is in it."""

    format: int
    since: int
    received: dict[str, float]


class Told(NamedTuple):
    """Seconds since 1970 by name, and the objects that should tell more and are ``damaged``, each with the reason."""

    received: dict[str, float]
    damaged: dict[str, str]


def told_times(store: Store, own: Iterable[str]) -> Told:
    """The times that the objects among ``own`` tell, the earliest where they differ. Raises NewerFormat."""
    found = Told({}, {})
    for place, numbers in _numbered(own).items():
        for times in _chain(store, place, numbers, 1, found.damaged):
            for name, received in times.received.items():
                found.received[name] = min(received, found.received.get(name, received))
    return found


def put_times(
    store: Store, place: str, new: Mapping[str, float], everything: Callable[[], Mapping[str, float]]
) -> tuple[str, ...]:
    """Put down ``new``, to be durable before any of these objects is copied; nothing where all of it is told already. Where
    some are damaged, ``everything`` is told anew, and the result names those. Raises NewerFormat, Unreachable, Denied."""
    while True:
        own = [entry.name for entry in store.list(f"replica/{place}/")]
        numbers, known = _numbered(own).get(place, set()), told_times(store, own)
        if not known.damaged and known.received.keys() >= new.keys():
            return ()
        number = max(numbers, default=0) + 1
        if known.damaged:
            since, told = 1, known.received | dict(everything())
        else:
            since, told = number - (number & -number) + 1, {}
            for times in _chain(store, place, numbers, since, {}):
                told = dict(times.received) | told
        data = zlib.compress(to_json(Times(format=FORMAT, since=since, received=told | dict(new))))
        try:
            put_once(store, times_name(place, number), data)
        except AlreadyThere:
            continue  # another run goes on beside this one
        return tuple(known.damaged)


def times_name(place: str, number: int) -> str:
    """Where they are stored."""
    return f"replica/{place}/times-{number:08d}"


def _chain(store: Store, place: str, numbers: Iterable[int], least: int, damaged: dict[str, str]) -> list[Times]:
    """As few objects as tell of everything from number ``least`` on, the newest first; what is ``damaged`` is passed over."""
    found, below = [], max(numbers, default=0) + 1
    for number in sorted(numbers, reverse=True):
        if least <= number < below:
            name = times_name(place, number)
            try:
                found.append(_read(store, name, number))
            except IntegrityError as error:
                damaged[name] = error.message
            else:
                below = found[-1].since
    return found


def _read(store: Store, name: str, number: int) -> Times:
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(store.get(name), LARGEST)
    except zlib.error as error:
        raise broken(name, "it cannot be unpacked") from error
    times = versioned(data, Times, FORMAT, what=name)
    if not 0 < times.since <= number:
        raise broken(name, f"it says that it goes back to {times.since}")
    return times


def _numbered(names: Iterable[str]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for name in names:
        if match := _NAME.fullmatch(name):
            found.setdefault(match[1], set()).add(int(match[2]))
    return found
