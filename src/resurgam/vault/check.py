"""check: is everything that was promised really there? About bytes only; behaviour is ``verify``'s (design 2).

Three depths, each with what it needs:

* **structure** (index key): every record is signed by the right role, every chunk that a point lists is in the index, and
  the pack that the index names is there and long enough (``vault.lookup``);
* **digest**: packs have the digest that they are named by (``vault.packreading``);
* **contents** (an identity): every chunk in them decrypts, decodes, and has the id that it is known by, what is laid out from
  several comes back (``vault.laidout``), and every page of every snapshot leads to what it says (``vault.trees``).

Structure is looked up every time. Packs are read as is wished: all, those that waited longest, a sample, for so long
(``vault.checkorder``). What was read is remembered in the vault (``vault.checked``), so that checks that each have little time read
everything in turn.

    look up -> choose -> read pack by pack, noting -> walk trees -> report
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from random import Random, SystemRandom

import msgspec

from resurgam.clock import Clock, SystemClock
from resurgam.errors import Archived, NotFound
from resurgam.model.lazily import cached_property
from resurgam.vault.checked import MAX_AGE, WITNESSES, Bad, Coverage, Depth, Memory, Notes, coverage, fold, witness
from resurgam.vault.checkorder import Wish, due
from resurgam.vault.cost import Held, by_class
from resurgam.vault.laidout import LaidOut, Unmade, files_of
from resurgam.vault.lookup import Damage as Damage
from resurgam.vault.lookup import Lookup, Lost
from resurgam.vault.packreading import BytesDone, PackReader, Reading
from resurgam.vault.repository import Repository
from resurgam.vault.trees import TreeWalk

EVERYTHING = Wish(everything=True)
_UNMADE = "a piece that is laid out from it does not come back"
_NO_WITNESS = f"no key of a {', '.join(WITNESSES[:-1])} or {WITNESSES[-1]} is here"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a check looked at and what it found.

    ``packs`` are there, ``packs_read`` of them were read, ``bytes_read`` in all; ``left`` more were to be read, and time was up.
    ``contents`` says whether chunks were decrypted too, but for those of the shred domains ``closed``, which were shredded or whose
    keys are not here; ``withheld`` are components whose contents may not lie in this place; ``walked`` of how many points the trees
    were. ``located`` says whether chunks were looked up in the index.
    ``cold`` is what lies in cold classes, by class; so many packs of them were to be read, and are ``asleep``.
    ``coverage`` is how things stand after it, ``unremembered`` why what was read will not be remembered, empty where it will.
    """

    points: int
    chunks: int
    packs: int
    packs_read: int
    bytes_read: int
    left: int
    walked: int
    located: bool
    contents: bool
    damage: tuple[Damage, ...]
    closed: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    coverage: Coverage
    unremembered: str
    cold: dict[str, Held] = {}
    asleep: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.damage


def check(repository: Repository, *, read: bool = False, progress: BytesDone | None = None) -> Report:
    """Check the vault, with ``read`` every byte of it, and write nothing. Damage is in the report, not raised."""
    return Check(repository, EVERYTHING if read else Wish()).run(progress)


class Check:
    """One check of one vault. Only with ``remember`` is anything written to it. ``rng`` draws samples."""

    def __init__(
        self,
        repository: Repository,
        wish: Wish,
        clock: Clock | None = None,
        *,
        remember: bool = False,
        rng: Random | None = None,
    ) -> None:
        """Look up what is there and what is due. Raises Unreachable."""
        self._repository, self._wish, self._clock = repository, wish, clock or SystemClock()
        self._until = self._clock.monotonic() + (float("inf") if wish.max_duration is None else wish.max_duration)
        self._rng = rng or SystemRandom()
        self._depth = wish.depth or (Depth.CONTENTS if repository.keyring.can_read else Depth.DIGEST)
        signer = witness(repository) if remember else None
        self._notes = Notes(repository, signer, self._clock, _NO_WITNESS if remember else "")
        self.look = Lookup(repository)
        self.lost: list[Lost] = list(self.look.lost)
        self.read: list[Reading] = []
        self._damage: list[Damage] = []
        self._closed: set[str] = set()
        self._walked = 0
        self._asleep: list[str] = []
        self._unmade: dict[int, Unmade] = {}

    @cached_property
    def due(self) -> list[str]:
        """The packs that are to be read, in their order."""
        needed, now = self.look.needed_packs, self._clock.now().timestamp()
        found = due(self._memory(), self.look.sizes, needed, self._wish, self._depth, now, self._rng)
        return [name for name in found if name not in self.look.cold or self._wish.cold or name in self._wish.packs]

    @property
    def bytes_due(self) -> int:
        """How many bytes they have."""
        return sum(self.look.sizes[name] for name in self.due)

    def run(self, progress: BytesDone | None = None) -> Report:
        """Read, walk, and tell. Raises Unreachable; whatever stops it, what was read until then is remembered."""
        try:
            self.read_packs(progress, lay_out=True)
        finally:
            self._notes.write()
        self._name_unmade()
        self._walk_trees()
        now, max_age = self._clock.now().timestamp(), self._wish.max_age or MAX_AGE
        return Report(
            points=len(self.look.points),
            chunks=len(self.look.needs.ids) if self.look.needs is not None else 0,
            packs=len(self.look.sizes),
            packs_read=len(self.read),
            bytes_read=sum(reading.bytes for reading in self.read),
            left=len(self.due) - len(self.read) - len(self._asleep),
            cold=by_class(
                (name, self.look.sizes[pack]) for pack, name in self.look.cold.items() if pack in self.look.sizes
            ),
            asleep=len(self._asleep),
            walked=self._walked,
            located=self.look.needs is not None,
            contents=self._wish.reads and self._depth is Depth.CONTENTS,
            coverage=coverage(self._memory(), self.look.sizes, now, max_age),
            damage=tuple(dict.fromkeys((*self.look.damage, *self._damage, *self.look.told(self.lost)))),
            closed=tuple(sorted(self._closed)),
            withheld=self.look.withheld,
            unremembered=self._notes.unremembered if self.read else "",
        )

    def _memory(self) -> Memory:
        """What is known of packs, by earlier checks and this one."""
        return fold(list(self.look.sizes), [*self.look.checks, *self._notes.told])

    def read_packs(self, progress: BytesDone | None = None, *, lay_out: bool = False) -> None:
        """Read what is due, until time is up; with ``lay_out`` also what is laid out from it. Raises Unreachable."""
        if not self.due:
            return
        laid_out = None
        if lay_out and self._depth is Depth.CONTENTS and self.look.needs is not None:
            laid_out = LaidOut(self._repository, self.look.needs, self._before(), progress or (lambda _size: None))
        reader = PackReader(self._repository, self.look.needs, self._depth, laid_out)
        with closing(reader.read_each(self._in_time(), progress)) as found:
            for name, reading in found:
                if isinstance(reading, Archived):
                    self._asleep.append(name)
                elif isinstance(reading, NotFound):
                    if name not in self._repository.prunes().gone:
                        self._damage.append(Damage(f"pack {name[:16]}", "was there when the check began, and has gone"))
                else:
                    self.read.append(reading)
                    self._closed |= reading.closed
                    self._judge(reading, reader.needed(name))

    def _before(self) -> frozenset[str]:
        """Packs that were opened before, and that this check does not surely read again."""
        if self._wish.everything and self._wish.max_duration is None:
            return frozenset()
        memory = self._memory()
        opened = (name for name, time in zip(memory.packs, memory.contents, strict=True) if time)
        return frozenset(opened).difference(self.look.cold)

    def _in_time(self) -> Iterator[tuple[str, int]]:
        """What is due, with its sizes, until time is up."""
        for name in self.due:
            if self._clock.monotonic() >= self._until:
                return
            yield name, self.look.sizes[name]

    def _judge(self, reading: Reading, needed: list[bytes]) -> None:
        """What a reading means for the points, and for the next check."""
        name = f"pack {reading.pack[:16]}"
        whole = [one.what for one in reading.trouble if not one.chunk]
        for one in reading.trouble:
            if one.chunk:
                self.lost.append(Lost(one.chunk, f"chunk {one.chunk.hex()[:16]} in {name}", one.what))
        for what in whole:
            # Who opened every chunk knows which are damaged; who could not must take all for damaged.
            if self._depth is Depth.CONTENTS or not needed:
                self._damage.append(Damage(name, what))
            else:
                self.lost += [Lost(chunk, name, what) for chunk in needed]
        depth = Depth.DIGEST if whole else self._depth  # by which it was found: only a reading as deep takes it back
        wrong = [one.what for one in reading.trouble] + [f"{_UNMADE}: {one.why}" for one in reading.unmade]
        bad = Bad(pack=reading.pack, depth=depth, what=wrong[0]) if wrong else None
        self._unmade |= {one.key: one for one in reading.unmade}
        self._notes.note(reading.pack, reading.depth, reading.bytes, bad)

    def _name_unmade(self) -> None:
        """Say of which files of which points pieces do not come back."""
        if not self._unmade:
            return
        why = next(iter(self._unmade.values())).why
        for (component, path), points in files_of(self._repository, self.look.points, self._unmade).items():
            what = f"does not come back from what it is laid out from: {why}"
            self._damage.append(Damage(f"{path} of {component}", what, tuple(sorted(points))))

    def _walk_trees(self) -> None:
        """Of the newest points first, until time is up."""
        needs = self.look.needs
        if not self._wish.reads or self._depth is not Depth.CONTENTS or needs is None:
            return
        walk = TreeWalk(self._repository, needs)
        for sealed, _ in reversed(self.look.points):
            if self._clock.monotonic() >= self._until:
                return
            for snapshot in sealed.body.snapshots:
                if snapshot.component in self._repository.here.withholds(sealed.body):
                    continue
                if not self._repository.opens(snapshot.domain):
                    self._closed.add(snapshot.domain)
                    continue
                trouble = walk.walk(snapshot)
                if trouble and sealed.body.id in self._repository.prunes().expired:
                    break  # meanwhile: it promises nothing any more
                where = f"the tree of {snapshot.component}"
                self._damage += [Damage(where, what, (sealed.body.id,)) for what in trouble]
            self._walked += 1
