"""The log: announcing costs little however long it is, races lose no entry, and each entry names the one before it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest
from blake3 import blake3

from resurgam.clock import Clock
from resurgam.errors import NotFound
from resurgam.stores.base import Buffer
from resurgam.testing.faults import CrashStore, ManualClock, MemoryStore, Wrapped
from resurgam.vault.log import Announcement, Log, entries, object_name, read_entry
from resurgam.vault.records import RecordType
from resurgam.vault.roles import role_table
from resurgam.vault.signing import Role, SigningKey

VAULT = bytes(16)
KEYS = [SigningKey.generate(role) for role in (Role.ROOT, Role.CAPTURE)]
TABLE = role_table(VAULT, 1, KEYS, {"default": ("age1x",)})
CLOCK: Clock = ManualClock()


def a_store() -> MemoryStore:
    store = MemoryStore()
    store.put("points/a", b"a point")
    return store


def announce(log: Log, name: str = "points/a") -> int:
    return log.append(RecordType.POINT, name, KEYS[1], CLOCK)


def entry(store: MemoryStore, number: int) -> Announcement:
    (found,) = store.list(object_name(number))
    return read_entry(store.get(found.name), found, TABLE, VAULT)[1]


def long_log(length: int) -> MemoryStore:
    """A store whose log has ``length`` entries; what they say is of no concern here."""
    store = a_store()
    for number in range(1, length + 1):
        store.put(object_name(number), b"entry %d" % number)
    return store


def test_an_entry_names_its_object_and_the_entry_before_it() -> None:
    store = a_store()
    store.put("points/b", b"another")
    assert [announce(Log(store, VAULT)), announce(Log(store, VAULT), "points/b")] == [1, 2]
    first, second = entry(store, 1), entry(store, 2)
    assert first == Announcement(type="point", object="points/a", digest=blake3(b"a point").hexdigest(), previous="")
    assert (second.object, second.previous) == ("points/b", blake3(store.get(object_name(1))).hexdigest())


def test_nothing_is_announced_that_is_not_there() -> None:
    with pytest.raises(NotFound):
        announce(Log(MemoryStore(), VAULT))


@pytest.mark.parametrize("length", [0, 1, 2, 3, 1000, 100_000])
def test_announcing_reads_few_entries_and_lists_none(length: int) -> None:
    """P11: the cost does not follow the length of the log; a second one by the same process looks at one place more."""
    store = long_log(length)
    counted = CrashStore(store)
    log = Log(counted, VAULT)
    assert announce(log) == length + 1
    assert counted.calls <= 3 * length.bit_length() + 6
    before = counted.calls
    assert announce(log) == length + 2
    assert counted.calls - before == 3  # the object, the free place, the entry
    assert not [call for call in counted.history if call.startswith("list")]
    store.put(object_name(length + 3), b"by another")
    assert announce(log) == length + 4
    assert entry(store, length + 4).previous == blake3(b"by another").hexdigest()


def test_many_at_once_take_a_number_each() -> None:
    """Eight processes, one log: no number is lost, none given twice, and each entry follows the one before it."""
    store = MemoryStore()
    start = threading.Barrier(8)

    def one(writer: int) -> list[int]:
        log = Log(store, VAULT)
        store.put(f"points/{writer}", b"a point")
        start.wait()
        return [announce(log, f"points/{writer}") for _ in range(20)]

    with ThreadPoolExecutor(8) as pool:
        taken = [number for each in pool.map(one, range(8)) for number in each]
    assert sorted(taken) == list(range(1, 161)) == [number for number, _ in entries(store)]
    for number in range(2, 161):
        assert entry(store, number).previous == blake3(store.get(object_name(number - 1))).hexdigest()


def test_who_loses_the_race_names_the_winner() -> None:
    class Raced(Wrapped):
        """Somebody else is faster, twice."""

        left = 2

        def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
            """As the inner one, after another's."""
            if self.left:
                self.left -= 1
                self.inner.put(name, b"theirs %d" % self.left)
            self.inner.put(name, data)

    store = a_store()
    assert announce(Log(Raced(store), VAULT)) == 3
    assert entry(store, 3).previous == blake3(b"theirs 0").hexdigest()


def test_strays_are_named_and_never_numbers() -> None:
    """Whatever somebody puts there moves no entry out of its place."""
    store = long_log(2)
    strays = {"log/notes.txt", "log/3", "log/0000000000", "log/00000000003"}
    for stray in strays:
        store.put(stray, b"x")
    assert [number for number, _ in entries(store) if number] == [1, 2]
    assert {entry.name for number, entry in entries(store) if not number} == strays
    store.put("log/9999999999", b"x")  # else whoever comes next would need an eleventh digit
    assert announce(Log(store, VAULT)) == 3
