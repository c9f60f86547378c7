"""Properties of the vault against models: a repository is a dict of points, a table is a set of rows, a tree is a list."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import msgspec
import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from resurgam.drivers.base import Rows
from resurgam.model.codec import to_msgpack
from resurgam.testing.faults import Crash, CrashStore
from resurgam.vault import pages, tables
from resurgam.vault.check import check
from resurgam.vault.compare import compare_points
from resurgam.vault.pack import Kind
from resurgam.vault.pages import EMPTY, Child, Root, TreeBuilder, differing, leaves
from resurgam.vault.repository import Sealed
from resurgam.vault.tables import decode_key, differing_keys, encode_key, store_rows
from tests.support import Files, World

KEY = b"k" * 32
relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

integers = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([-(2**63), 2**63 - 1, 0, -1])
floats = st.floats(allow_nan=False) | st.sampled_from([math.inf, -math.inf, -0.0, 0.0, 5e-324])
texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["", "\0", "a\0", "a\0b", "\x00\xff", "a" * 300, "é" * 150, "\0" * 200]
)
blobs = st.binary(max_size=12) | st.sampled_from([b"\0", b"\0\xff", b"\xff", b"\0" * 300])
values = st.none() | integers | floats | texts | blobs


class Pages:
    """Pages in memory, counting what is read."""

    def __init__(self) -> None:
        self.kept: dict[bytes, bytes] = {}
        self.read: list[bytes] = []

    def put(self, kind: Kind, data: bytes) -> bytes:
        page = blake3(bytes([kind]) + data, key=KEY).digest()
        self.kept[page] = data
        return page

    def get(self, page: bytes, kind: Kind) -> bytes:
        self.read.append(page)
        assert blake3(bytes([kind]) + self.kept[page], key=KEY).digest() == page
        return self.kept[page]


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of about eight entries and runs of sixty rows, so that a few hundred make levels and spill."""
    monkeypatch.setattr(tables, "LEAF_BITS", 3)
    monkeypatch.setattr(tables, "MAX_ENTRIES", 20)
    monkeypatch.setattr(pages, "MAX_ENTRIES", 6)
    monkeypatch.setattr(tables, "RUN", 60)
    monkeypatch.setattr(tables, "_READ", 100)


# Keys -----------------------------------------------------------------------------------------------------------------


@given(st.lists(values, max_size=4))
def test_keys_are_read_back(row: list[Any]) -> None:
    """P11: a diff names keys, so a key must be read back as it was, type and sign included."""
    found = decode_key(encode_key(row))
    assert [(type(v), v) for v in found] == [(type(v), v) for v in row]
    assert [math.copysign(1, v) for v in found if v == 0.0 and type(v) is float] == [
        math.copysign(1, v) for v in row if v == 0.0 and type(v) is float
    ]


@given(st.sampled_from([integers, floats, texts, blobs]).flatmap(lambda kind: st.tuples(kind, kind, kind, kind)))
def test_comparing_bytes_compares_keys(four: tuple[Any, ...]) -> None:
    """Memcmp order: pages are sorted by bytes, and that is the order of the values."""

    def order(value: Any) -> Any:
        if isinstance(value, str):
            return value.encode()
        return (value, math.copysign(1, value)) if isinstance(value, float) else value

    one, other = four[:2], four[2:]
    assert (encode_key(one) < encode_key(other)) == ([order(v) for v in one] < [order(v) for v in other])


@given(st.lists(values, min_size=1, max_size=3), texts | blobs)
def test_cut_keys_are_still_shown(row: list[Any], end: Any) -> None:
    """A key that was cut can be shown, whatever the sixteen bytes at its end are; one that was not is whole."""
    key = tables._bounded(encode_key([*row, end, "z" * 260]), KEY)
    assert len(key) == 217
    assert str(decode_key(key)[-1]).endswith("\N{HORIZONTAL ELLIPSIS}")


@pytest.mark.parametrize("digest", [b"\0" * 16, b"\0\0" + b"\xff" * 14, b"\xff" * 14 + b"\0\0", b"\x10" * 16])
def test_a_digest_that_looks_like_an_end(digest: bytes) -> None:
    """The bytes behind the cut are no text, whatever they look like."""
    cut = encode_key(["x" * 400])[:200] + b"\x7f" + digest
    assert decode_key(cut) == ("x" * 199 + "\N{HORIZONTAL ELLIPSIS}",)


# Tables ---------------------------------------------------------------------------------------------------------------


def stored(rows: list[tuple[Any, ...]], key: tuple[str, ...], size: int, kept: Pages) -> Root:
    """The tree of a table that comes in batches of ``size``."""
    columns = ("a", "b", "c")
    batches = [rows[at : at + size] for at in range(0, len(rows), size)]
    return store_rows(Rows("t", columns, key, batches), KEY, kept.put).root


some_rows = st.lists(st.tuples(values, values, st.integers(0, 3)), max_size=150)


@relaxed
@given(some_rows, some_rows, st.sampled_from([(), ("a",), ("a", "b"), ("c",)]), st.randoms(), st.integers(1, 50))
def test_tables_differ_as_sets_differ(
    one: list[tuple[Any, ...]], other: list[tuple[Any, ...]], key: tuple[str, ...], rng: Random, size: int
) -> None:
    """P11: keys that two trees tell apart are those that a naive comparison tells apart, with multiplicity."""
    kept = Pages()
    second = other + [row for row in one if rng.random() < 0.8]
    rng.shuffle(second)
    a, b = stored(one, key, size, kept), stored(second, key, 7, kept)
    assert (a.count, b.count) == (len(one), len(second))
    assert differing_keys(a, b, kept.get) == naive(one, second, key)


def naive(
    one: list[tuple[Any, ...]], other: list[tuple[Any, ...]], key: tuple[str, ...]
) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """What ``differing_keys`` must say."""
    pick = ["abc".index(name) for name in key]

    def pairs(rows: list[tuple[Any, ...]]) -> Counter[tuple[bytes, bytes]]:
        return Counter((tables._bounded(encode_key([row[n] for n in pick]), KEY), to_msgpack(row)) for row in rows)

    gone, new = pairs(one) - pairs(other), pairs(other) - pairs(one)
    changed = ({k for k, _ in gone} & {k for k, _ in new}) - {b""}
    return (
        sorted(k for k, _ in gone.elements() if k not in changed),
        sorted(k for k, _ in new.elements() if k not in changed),
        sorted(changed),
    )


@relaxed
@given(some_rows, st.sampled_from([(), ("a",), ("c",)]), st.randoms(), st.integers(1, 40))
def test_order_and_batches_leave_no_trace(
    rows: list[tuple[Any, ...]], key: tuple[str, ...], rng: Random, size: int
) -> None:
    """P11: the same rows in another order, in other batches, sorted in memory or in spilled runs, are the same pages."""
    kept = Pages()
    shuffled = list(rows)
    rng.shuffle(shuffled)
    assert stored(rows, key, size, kept) == stored(shuffled, key, 1000, kept)


def test_spills_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """P11: tables that are sorted on disk have the pages of those that are sorted in memory, at real page sizes too."""
    rows = [(Random(n).randrange(10**9), f"{n}", 0) for n in range(30_000)]
    for page in (20, 4096):
        monkeypatch.setattr(tables, "MAX_ENTRIES", page)
        kept = Pages()
        roots = set()
        for run in (5000, 7001, 1 << 20):
            monkeypatch.setattr(tables, "RUN", run)
            roots.add(stored(rows, ("a",), 999, kept).page)
        assert len(roots) == 1


@pytest.mark.parametrize(("one", "other"), [(3, 2), (50, 51), (400, 380), (10_000, 14_096)])
def test_equal_rows_are_counted(one: int, other: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """P11: a table without a key may hold a row many times, on pages that are all equal."""
    monkeypatch.setattr(tables, "RUN", 1000)
    for row in ((1, "same", 0), (2, "another", 1), (9, "third", 2)):
        kept = Pages()
        a, b = stored([row] * one, (), 100, kept), stored([row] * other, (), 100, kept)
        gone, new, changed = differing_keys(a, b, kept.get)
        assert (len(gone), len(new), changed) == (max(0, one - other), max(0, other - one), [])


# Trees ----------------------------------------------------------------------------------------------------------------


def built(entries: dict[bytes, bytes], kept: Pages) -> Root:
    """A tree with one leaf per entry or few, cut by content."""
    builder = TreeBuilder(Kind.TREE, kept.put)
    group: list[tuple[bytes, bytes]] = []
    for key, value in sorted(entries.items()):
        group.append((key, value))
        if blake3(key).digest()[0] < 90:
            builder.leaf(group[0][0], kept.put(Kind.TREE, to_msgpack(group)), len(group))
            group = []
    if group:
        builder.leaf(group[0][0], kept.put(Kind.TREE, to_msgpack(group)), len(group))
    return builder.root()


def content(children: list[Child], kept: Pages) -> set[tuple[bytes, bytes]]:
    """The entries of leaves."""
    found = (msgspec.msgpack.decode(kept.kept[child.page], type=list[tuple[bytes, bytes]]) for child in children)
    return {pair for group in found for pair in group}


maps = st.dictionaries(st.binary(min_size=1, max_size=4), st.binary(max_size=2), max_size=250)


@relaxed
@given(maps, maps, st.randoms())
def test_trees_differ_as_maps_differ(base: dict[bytes, bytes], edits: dict[bytes, bytes], rng: Random) -> None:
    """P11: the leaves that differ hold all that differs, and no leaf that both have."""
    kept = Pages()
    after = {key: value for key, value in (base | edits).items() if rng.random() < 0.95}
    a, b = built(base, kept), built(after, kept)
    left, right = differing(a, b, Kind.TREE, kept.get)
    assert set(base.items()) - set(after.items()) <= content(left, kept)
    assert set(after.items()) - set(base.items()) <= content(right, kept)
    assert not {child.page for child in left} & {child.page for child in right}
    whole = [child.page for child in leaves(a, Kind.TREE, kept.get)]
    assert content(left, kept) - content(right, kept) == set(base.items()) - set(after.items())
    assert sum(c.count for c in leaves(a, Kind.TREE, kept.get)) == a.count == len(base)
    assert {child.page for child in left} <= set(whole)


def test_one_edit_reads_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """P11: between trees of 20,000 leaves, one changed entry costs the pages above it."""
    monkeypatch.undo()
    kept = Pages()
    base = {b"%08d" % n: b"v" for n in range(60_000)}
    a, b = built(base, kept), built(base | {b"00030000": b"w"}, kept)
    kept.read.clear()
    left, right = differing(a, b, Kind.TREE, kept.get)
    assert (len(left), len(right)) == (1, 1)
    assert a.level >= 1
    assert len(kept.read) <= 2 * a.level + 2


def test_nothing_differs_from_itself() -> None:
    """P11: equal trees are not read, and an empty one has nothing."""
    kept = Pages()
    root = built({b"%d" % n: b"" for n in range(50)}, kept)
    kept.read.clear()
    assert differing(root, root, Kind.TREE, kept.get) == ([], [])
    assert kept.read == []
    assert differing(EMPTY, EMPTY, Kind.TREE, kept.get) == ([], [])
    assert content(differing(EMPTY, root, Kind.TREE, kept.get)[1], kept) == {(b"%d" % n, b"") for n in range(50)}


# The repository -------------------------------------------------------------------------------------------------------

paths = st.sampled_from([b"a", b"a/b", b"a.b", b"ab", b"b", b"\xff\xfe", b"deep/er/path", b"z" * 200])
sizes = st.sampled_from([0, 1, 100, 5000, 200_000, (256 << 10) - 1, 256 << 10, 300_000, 1_200_000])


def vault_machine(maker: Callable[[str], World] = World) -> type[RuleBasedStateMachine]:
    """A state machine over one vault; its model is a dict of what each point held."""

    class VaultMachine(RuleBasedStateMachine):
        points = Bundle("points")

        @initialize()
        def begin(self) -> None:
            self.folder = tempfile.mkdtemp()
            self.world = maker(self.folder)
            self.model: dict[str, dict[str, Files]] = {}

        @rule(path=paths, size=sizes, seed=st.integers(0, 5))
        def put(self, path: bytes, size: int, seed: int) -> None:
            self.world.live.files[path] = Random(seed).randbytes(size)

        @rule(path=paths, shift=st.binary(max_size=3))
        def insert(self, path: bytes, shift: bytes) -> None:
            self.world.live.files[path] = shift + self.world.live.files.get(path, b"")

        @rule(path=paths)
        def remove(self, path: bytes) -> None:
            self.world.live.files.pop(path, None)

        @rule(stamped=st.booleans())
        def stamps(self, stamped: bool) -> None:
            self.world.live.stamped = stamped

        @rule(target=points, paranoid=st.booleans())
        def capture(self, paranoid: bool) -> Sealed:
            sealed = self.world.capture(paranoid=paranoid)
            self.model[sealed.body.id] = self.world.contents()
            return sealed

        @rule(stop=st.integers(1, 18), after=st.booleans())
        def interrupt(self, stop: int, after: bool) -> None:
            with suppress(Crash):
                self.world.capture(CrashStore(self.world.store, stop, after=after))
            for sealed in self.world.repository().points():
                self.model.setdefault(sealed.body.id, self.world.contents())

        @rule()
        def forget(self) -> None:
            self.world.forget()

        @rule()
        def lose_the_index(self) -> None:
            for entry in list(self.world.store.list("index/")):
                self.world.store.delete(entry.name)

        @rule(point=points)
        def restore(self, point: Sealed) -> None:
            assert self.world.restored(point) == self.model[point.body.id]

        @rule(one=points, other=points)
        def diff(self, one: Sealed, other: Sealed) -> None:
            before, after = (self.model[p.body.id]["files"] for p in (one, other))
            expected = {("-", k) for k in before.keys() - after.keys()} | {
                ("+", k) for k in after.keys() - before.keys()
            }
            expected |= {("~", k) for k in before.keys() & after.keys() if before[k] != after[k]}
            found = compare_points(one.body, other.body, self.world.repository())
            assert {(d.sign, d.key) for d in found} == {(s, k.decode("utf-8", "backslashreplace")) for s, k in expected}

        @invariant()
        def everything_listed_is_known(self) -> None:
            if hasattr(self, "world"):
                assert {s.body.id for s in self.world.repository().points()} == set(self.model)

        def teardown(self) -> None:
            if hasattr(self, "world"):
                for sealed in self.world.repository().points():
                    assert self.world.restored(sealed) == self.model[sealed.body.id]
                assert check(self.world.repository(), read=True).ok
                shutil.rmtree(self.folder)

    return VaultMachine


TestVault = vault_machine().TestCase
TestVault.settings = settings(
    max_examples=25, stateful_step_count=16, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
