"""The exam that every store passes. Subclass, give the fixture and the hooks, and run it::

    class TestMyStore(StoreExam):
        @pytest.fixture
        def store(self): ...                   # a new, empty store for each test
        def put_behind(self, name, data): ...  # past the store, straight into what it stands on
        def get_behind(self, name): ...        # likewise; None where there is no such object
        def reopen(self): ...                  # another Store over the same objects
        def program(self): ...                 # only where processes can share it: Python that binds ``store`` to it

The two hooks behind the store's back exist so that a store cannot be the only witness of what it did. A store that retries
inside may not be given the exam with faults under it: put the retrying caller around it and examine that.
"""

from __future__ import annotations

import mmap
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from random import Random

import pytest

from resurgam.errors import IntegrityError, NotFound
from resurgam.stores.base import AlreadyThere, Buffer, Store
from resurgam.testing.faults import MemoryStore

LARGE = (8 << 20) + 13  # more than one step of any store, and no multiple of anything
BAD_NAMES = (
    "", "/", "/a", "a/", "a//b", "..", ".", "a/..", "../a", "a/./b", ".a", "A", "a/B", "a b", "a\n", "ä", "a" * 201,
)  # fmt: skip
NAMES = (
    "a-b", "a.b", "a/b", "a/c/d", "a0", "aa/b", "b", "b-", "b0/a", "b0/a-a", "b0/aa/x", "log/00", "log/01", "log/1",
)  # fmt: skip
PREFIXES = ("a", "a/", "a/b", "a/c", "a/c/", "aa", "b", "b0/a", "b0/aa", "log/0", "z", "a/c/d/", "../", "/", "A", ".")

_HALF_A_PUT = """
import sys
def half():
    yield b"x" * (1 << 20)
    print("half", flush=True)
    sys.stdin.readline()
store.put("points/a", half())
"""

_RACE = """
import sys
from resurgam.stores.base import AlreadyThere
own = sys.argv[1].encode()
print("ready", flush=True)
sys.stdin.readline()
for n in range(20):
    try:
        store.put(f"race/{n:02}", own * 50_000)
        print(n, flush=True)
    except AlreadyThere:
        pass
"""


class StoreExam:
    """See the module's docstring."""

    races = 10  # of threads; a server that lets each loser wait for a second may be given fewer

    @pytest.fixture
    def store(self) -> Store:
        """A new, empty store for each test."""
        raise NotImplementedError

    def put_behind(self, name: str, data: bytes) -> None:
        """Make an object without the store."""
        raise NotImplementedError

    def get_behind(self, name: str) -> bytes | None:
        """The bytes of an object without the store; None where there is none."""
        raise NotImplementedError

    def reopen(self) -> Store:
        """Another Store over the same objects."""
        raise NotImplementedError

    def program(self) -> str | None:
        """Python that binds ``store`` to the same objects in another process; None where there can be no other."""
        return None

    # --- objects ------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("data", [b"", b"a", bytes(range(256)) * 300], ids=["empty", "byte", "76800"])
    def test_what_is_put_is_there(self, store: Store, data: bytes) -> None:
        """Read after write, through the store and behind its back."""
        store.put("a/b/c", data)
        assert store.get("a/b/c") == data
        assert self.get_behind("a/b/c") == data

    def test_what_stands_there_is_read(self, store: Store) -> None:
        """The store shows what is there, not what it remembers."""
        self.put_behind("data/0", b"from elsewhere")
        assert store.get("data/0") == b"from elsewhere"
        assert [(e.name, e.size) for e in store.list()] == [("data/0", 14)]

    def test_pieces_are_joined(self, store: Store) -> None:
        """An iterable of any buffers is one object."""
        pieces: list[Buffer] = [b"one", bytearray(b""), memoryview(b"-two-"), bytearray(b"three")]
        store.put("a", iter(pieces))
        assert self.get_behind("a") == b"one-two-three"

    def test_large_object(self, store: Store) -> None:
        """More than a store writes at a time, in one buffer and in pieces."""
        data = Random(1).randbytes(LARGE)
        store.put("whole", data)
        store.put("pieces", (data[i : i + 1_000_003] for i in range(0, LARGE, 1_000_003)))
        assert self.get_behind("whole") == data
        assert store.get("pieces") == data

    @pytest.mark.parametrize("size", [1 << 20, (2 << 20) + 4096, (9 << 20) + 5])
    def test_mapped_memory(self, store: Store, size: int) -> None:
        """Page-aligned memory, as packs are, with and without an unaligned tail."""
        with mmap.mmap(-1, size) as memory:
            memory[:] = data = Random(size).randbytes(size)
            with memoryview(memory) as view:
                store.put("pack", view)
        assert self.get_behind("pack") == data

    def test_never_overwritten(self, store: Store) -> None:
        """P2: a second put says AlreadyThere and changes nothing, whatever it brings."""
        store.put("points/a", b"first")
        for again in (b"other", b"", iter([b"first", b"and more"])):
            with pytest.raises(AlreadyThere):
                store.put("points/a", again)
        assert self.get_behind("points/a") == b"first"
        self.put_behind("points/b", b"theirs")
        with pytest.raises(AlreadyThere) as caught:
            store.put("points/b", b"ours")
        assert caught.value.untouched  # P12
        assert caught.value.next_step
        assert self.get_behind("points/b") == b"theirs"

    def test_missing(self, store: Store) -> None:
        """What is not there is NotFound, also where only the beginning of a name is there."""
        store.put("a/b", b"x")
        for name in ("c", "a", "a/c", "a/b/c", "x/y/z"):
            with pytest.raises(NotFound) as caught:
                store.get(name)
            assert caught.value.next_step  # P12
            with pytest.raises(NotFound):
                store.read_into(name, 0, memoryview(bytearray(1)))

    def test_names_refused(self, store: Store) -> None:
        """P12: what is no object name is refused by every verb that takes one, and nothing comes of it."""
        verbs: dict[str, Callable[[str], object]] = {
            "put": lambda name: store.put(name, b"x"),
            "get": store.get,
            "read_into": lambda name: store.read_into(name, 0, memoryview(bytearray(1))),
            "delete": store.delete,
        }
        for (verb, call), name in product(verbs.items(), BAD_NAMES):
            try:
                call(name)
            except IntegrityError:
                continue
            pytest.fail(f"{verb} took {name!r}")
        assert list(self.reopen().list()) == []

    # --- ranges -------------------------------------------------------------------------------------------------------

    def test_ranges(self, store: Store) -> None:
        """``get`` and ``read_into`` give what slicing gives, and touch no more of the buffer."""
        data = bytes(range(100))
        store.put("a", data)
        for offset, length in product((0, 7, 99, 100, 500), (0, 1, 20, 99, 100, 101, None)):
            expected = data[offset : None if length is None else offset + length]
            assert store.get("a", offset, length) == expected, (offset, length)
            buffer = bytearray(b"\xff" * (100 if length is None else length))
            assert store.read_into("a", offset, memoryview(buffer)) == len(expected), (offset, length)
            assert buffer == expected + b"\xff" * (len(buffer) - len(expected)), (offset, length)

    def test_many_readers(self, store: Store) -> None:
        """``read_into`` from many threads never mixes two reads."""
        data = {f"data/{n}": Random(n).randbytes(300_000) for n in range(4)}
        for name, content in data.items():
            store.put(name, content)

        def read(seed: int) -> None:
            rng = Random(seed)
            for _ in range(50):
                name, offset = rng.choice(sorted(data)), rng.randrange(300_000)
                buffer = bytearray(rng.randrange(1, 70_000))
                done = store.read_into(name, offset, memoryview(buffer))
                assert buffer[:done] == data[name][offset : offset + len(buffer)]

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(read, range(16)))

    # --- listing ------------------------------------------------------------------------------------------------------

    def test_list_is_sorted_and_complete(self, store: Store) -> None:
        """Every object once, by name, however folders sort, with its size and time."""
        for name in reversed(NAMES):
            store.put(name, name.encode())
        entries = list(store.list())
        assert [entry.name for entry in entries] == sorted(NAMES)
        assert [entry.size for entry in entries] == [len(name) for name in sorted(NAMES)]
        assert all(entry.received > 0 for entry in entries)

    def test_prefix_is_any_string(self, store: Store) -> None:
        """A prefix need not end with a part; one that can match nothing lists nothing."""
        for name in NAMES:
            store.put(name, b"x")
        for prefix in PREFIXES:
            expected = sorted(name for name in NAMES if name.startswith(prefix))
            assert [entry.name for entry in store.list(prefix)] == expected, prefix

    def test_list_shows_each_put_and_delete(self, store: Store) -> None:
        """Read after write for listings too, also for others: a capture and a prune find each other by them (P1)."""
        names: list[str] = []
        for n in range(12):
            names.append(f"leases/{n:02}")
            store.put(names[-1], b"x")
            assert [entry.name for entry in store.list("leases/")] == names
            if n % 4 == 3:
                store.delete(names.pop(n // 2))
                assert [entry.name for entry in store.list("leases/")] == names
        assert [entry.name for entry in self.reopen().list("leases/")] == names

    def test_list_while_writing(self, store: Store) -> None:
        """What was there before a listing began is in it, whatever is put meanwhile, also with many listing at once."""
        for n in range(40):
            store.put(f"{n % 4}/{n:02}", b"x")
        before = {entry.name for entry in store.list()}
        done = threading.Event()

        def write() -> None:
            for n in range(60):
                store.put(f"{n % 4}/new-{n:02}", b"x")
            done.set()

        def look(_: int) -> None:
            while not done.is_set():
                names = [entry.name for entry in store.list()]
                assert names == sorted(set(names))
                assert before <= set(names)

        with ThreadPoolExecutor(4) as pool:
            writing = pool.submit(write)
            list(pool.map(look, range(3)))
            writing.result()

    def test_reopen_sees_all(self, store: Store) -> None:
        """P3: nothing that matters is kept in the process."""
        store.put("a/b", b"one")
        store.put("c", b"two")
        store.delete("c")
        again = self.reopen()
        assert [entry.name for entry in again.list()] == ["a/b"]
        assert again.get("a/b") == b"one"

    # --- whole or not at all ------------------------------------------------------------------------------------------

    def test_broken_off(self, store: Store) -> None:
        """P1: an error of the source leaves nothing, comes out as it is, and the name is still free."""
        for broken in (ValueError("the source"), OSError(28, "the source"), KeyboardInterrupt()):

            def half(error: BaseException = broken) -> Iterator[bytes]:
                yield b"x" * 100_000
                raise error

            with pytest.raises(type(broken)) as caught:
                store.put("points/a", half())
            assert caught.value is broken
            assert self.get_behind("points/a") is None
            assert list(store.list()) == []
        store.put("points/a", b"whole")
        assert store.get("points/a") == b"whole"

    def test_unseen_until_whole(self, store: Store) -> None:
        """P1: while a put is under way, nobody sees the object."""

        def watched() -> Iterator[bytes]:
            for _ in range(3):
                yield b"x" * 70_000
                assert self.get_behind("points/a") is None
                assert list(store.list("points/")) == []
                with pytest.raises(NotFound):
                    store.get("points/a")

        store.put("points/a", watched())
        assert len(store.get("points/a")) == 210_000

    def test_killed(self, store: Store) -> None:
        """P1: a writer killed in the middle of a put leaves nothing that is seen, and the name is still free."""
        with self._child(_HALF_A_PUT) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "half\n"
            child.kill()
        assert self.get_behind("points/a") is None
        assert list(store.list()) == []
        store.put("points/a", b"whole")
        assert [(e.name, e.size) for e in store.list()] == [("points/a", 5)]

    # --- two writers --------------------------------------------------------------------------------------------------

    def test_threads_race(self, store: Store) -> None:
        """P2: of several writers of one name exactly one wins; readers see nothing or all of the winner's bytes."""
        writers = 6
        for n in range(self.races):
            start = threading.Barrier(writers + 1)
            name = f"race/{n}"

            def write(own: int, name: str = name, start: threading.Barrier = start) -> int | None:
                start.wait(timeout=30)
                try:
                    store.put(name, bytes([own]) * 50_000)
                except AlreadyThere:
                    return None
                return own

            def look(name: str = name, start: threading.Barrier = start) -> set[bytes]:
                start.wait(timeout=30)
                seen = set()
                for _ in range(50):
                    try:
                        seen.add(store.get(name))
                    except NotFound:
                        continue
                return seen

            with ThreadPoolExecutor(writers + 1) as pool:
                looking = pool.submit(look)
                won = [own for own in pool.map(write, range(writers)) if own is not None]
                seen = looking.result()
            assert len(won) == 1
            assert self.get_behind(name) == bytes(won) * 50_000
            assert seen <= {bytes(won) * 50_000}

    def test_processes_race(self, store: Store) -> None:
        """P2: the same between processes."""
        children = {own: self._child(_RACE, own) for own in "abc"}
        for child in children.values():
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children.values():
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        won: dict[int, list[str]] = {n: [] for n in range(20)}
        for own, child in children.items():
            out, _ = child.communicate(timeout=60)
            assert child.returncode == 0
            for line in out.split():
                won[int(line)].append(own)
        for n, winners in won.items():
            assert len(winners) == 1
            assert self.get_behind(f"race/{n:02}") == winners[0].encode() * 50_000
        assert len(list(store.list())) == 20

    def test_reading_back_tells_whose_it_is(self, store: Store) -> None:
        """A writer who meets AlreadyThere can find by reading back whether an earlier try of his own took effect."""
        store.put("points/mine", b"stamped by me")
        self.put_behind("points/theirs", b"stamped by them")
        for name, mine in (("points/mine", True), ("points/theirs", False)):
            with pytest.raises(AlreadyThere):
                store.put(name, b"stamped by me, later")
            assert (store.get(name) == b"stamped by me") is mine

    # --- the rest -----------------------------------------------------------------------------------------------------

    def test_delete(self, store: Store) -> None:
        """Deleted is gone, at once and for everybody; deleting again is no error; others stay."""
        store.put("a/b", b"x")
        store.put("a/c", b"y")
        store.delete("a/b")
        store.delete("a/b")
        store.delete("never/there")
        store.delete("a")  # the beginning of a name is not an object
        store.delete("a/c/d")
        assert self.get_behind("a/b") is None
        assert [entry.name for entry in self.reopen().list()] == ["a/c"]
        with pytest.raises(NotFound):
            store.get("a/b")
        store.put("a/b", b"new")
        assert store.get("a/b") == b"new"

    def test_describe(self, store: Store) -> None:
        """People can be told where it is."""
        assert store.describe()

    @pytest.mark.parametrize("seed", range(3))
    def test_agrees_with_a_model(self, store: Store, seed: int) -> None:
        """Any sequence of calls says what a store in memory says."""
        rng = Random(seed)
        model = MemoryStore()
        names = ("a/b", "a/c", "a-b", "d/e/f", "d/e/g", "h")
        for _ in range(120):
            name, data = rng.choice(names), rng.randbytes(rng.randrange(200))
            verb = rng.choice(("put", "put", "get", "list", "delete"))
            assert _outcome(store, verb, name, data) == _outcome(model, verb, name, data)

    def _child(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        """A process that runs ``script`` with ``store`` bound to the same objects."""
        program = self.program()
        if program is None:
            pytest.skip("this store cannot be shared between processes")
        command = [sys.executable, "-c", f"{program}\n{script}", *arguments]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _outcome(store: Store, verb: str, name: str, data: bytes) -> object:
    """What a call comes to, as a value that can be compared."""
    try:
        if verb == "put":
            store.put(name, data)
        elif verb == "delete":
            store.delete(name)
        elif verb == "get":
            return store.get(name, len(data) // 3, len(data) // 2)
        else:
            return [(entry.name, entry.size) for entry in store.list(name[: len(data) % 4])]
    except (AlreadyThere, NotFound) as error:
        return type(error)
    return None
