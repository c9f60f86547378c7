"""What was read, when and how deep: the memory of checks, kept in the vault itself as signed records (P2, P3).

Whoever checks says so in ``checks/<time>-<8 hex>``, every few minutes and when it is stopped: which packs it read whole, to which
depth, and which were damaged. It is signed by a verifier, a pruner or an auditor, and by nobody else: who writes packs cannot vouch
for them (P9). What is known of a pack is the fold over these records.

A record of 100,000 packs has about 1.5 MB: a pack stands in it as the first 8 bytes of its name. Two packs of one beginning are
taken for each other; to make such a pair is 2^32 work for whoever writes both, and gains that a pack of one's own is read later
than its turn. The time of a record is the one it says, but none after the store received it.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from operator import itemgetter
from typing import NamedTuple

import msgspec

from resurgam.clock import Clock
from resurgam.errors import IntegrityError, ResurgamError
from resurgam.model.codec import versioned
from resurgam.stores.base import Entry
from resurgam.vault.packlist import listed_packs
from resurgam.vault.records import RecordType, itself, timestamp
from resurgam.vault.repository import Repository
from resurgam.vault.roles import Disowned
from resurgam.vault.signing import Role, SigningKey

FORMAT = 1
PREFIX = "checks/"
SHORT = 8  # bytes of a pack's name that stand for it
MAX_AGE = 30 * 86_400.0  # seconds within which everything should be read, where nobody says otherwise
WITNESSES = (Role.VERIFIER, Role.PRUNER, Role.AUDITOR)


class Depth(StrEnum):
    """How a pack was read: its bytes against its name, or every chunk in it opened as well."""

    DIGEST = "digest"
    CONTENTS = "contents"


class Bad(msgspec.Struct, frozen=True, kw_only=True):
    """A pack that was found damaged: its name, by which reading, and what was wrong first."""

    pack: str
    depth: Depth
    what: str


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a record. ``began`` is when its first pack was read (RFC 3339), ``size`` how many bytes were. Packs stand in
    ``contents`` where every chunk in them opened too, else in ``digest``: the first bytes of their names, joined."""

    format: int
    began: str
    digest: bytes
    contents: bytes
    damaged: tuple[Bad, ...] = ()
    size: int = 0


class Memory(NamedTuple):
    """What is known of ``packs``, each by its place there: when it was last found whole by either reading, in seconds since 1970
    (0: never); and what was wrong with those that were found damaged since."""

    packs: tuple[str, ...]
    digest: list[float]
    contents: list[float]
    damaged: dict[str, Bad]

    def read(self, depth: Depth) -> list[float]:
        """When each pack was last read at least so deep."""
        return self.contents if depth is Depth.CONTENTS else self.digest


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """How much of ``bytes`` was read within ``max_age`` seconds, and how much was opened. ``oldest`` is when the pack that waits
    longest was read (seconds since 1970); None where one never was. ``damaged`` packs count as not read."""

    bytes: int
    read: int
    opened: int
    never: int
    oldest: float | None
    max_age: float
    damaged: int

    @property
    def share(self) -> float:
        """The share of bytes that were read in time; 1 of an empty vault."""
        return self.read / self.bytes if self.bytes else 1.0


def fold(packs: Sequence[str], records: Iterable[tuple[float, Checked]]) -> Memory:
    """What ``records``, each with its time, tell of ``packs``. Linear in what they name."""
    names = tuple(sorted(packs))
    digest: dict[int, float] = {}
    contents: dict[int, float] = {}
    found: dict[str, tuple[float, Bad]] = {}
    for time, body in sorted(records, key=itemgetter(0)):  # the latest of each is the last one
        for marks, told in ((digest, body.digest), (contents, body.contents)):
            marks.update(dict.fromkeys(_named(told), time))
        found.update((bad.pack, (time, bad)) for bad in body.damaged)
    short = [int(name[: 2 * SHORT], 16) for name in names]
    opened = [contents.get(pack, 0.0) for pack in short]
    read = [max(digest.get(pack, 0.0), time) for pack, time in zip(short, opened, strict=True)]
    place = {name: at for at, name in enumerate(names)} if found else {}
    damaged = {}
    for name, (time, bad) in found.items():
        # What one reading found, only a reading as deep takes back.
        if name in place and (opened if bad.depth is Depth.CONTENTS else read)[place[name]] <= time:
            damaged[name] = bad
    return Memory(names, read, opened, damaged)


def coverage(memory: Memory, sizes: Mapping[str, int], now: float, max_age: float) -> Coverage:
    """How well ``memory`` covers packs of these ``sizes``."""
    every = [
        (sizes[name], 0.0, 0.0) if name in memory.damaged else (sizes[name], read, opened)
        for name, read, opened in zip(memory.packs, memory.digest, memory.contents, strict=True)
    ]
    since = now - max_age
    oldest = min((read for size, read, _ in every if size), default=0.0)
    return Coverage(
        bytes=sum(size for size, _, _ in every),
        read=sum(size for size, read, _ in every if read and read >= since),
        opened=sum(size for size, _, opened in every if opened and opened >= since),
        never=sum(size for size, read, _ in every if not read),
        oldest=oldest or None,
        max_age=max_age,
        damaged=sum(name in memory.damaged for name in memory.packs),
    )


def coverage_of(repository: Repository, now: float, max_age: float = MAX_AGE) -> Coverage:
    """How well the vault was read, by what checks have remembered. Raises Unreachable."""
    sizes = listed_packs(repository.store).sizes
    return coverage(fold(list(sizes), remembered(repository)[0]), sizes, now, max_age)


def remembered(repository: Repository) -> tuple[list[tuple[float, Checked]], list[str]]:
    """All records of checks that can be believed, each with its time; and why others cannot."""
    found, refused = [], []
    for entry in repository.store.list(PREFIX):
        try:
            found.append(_believed(repository, entry))
        except Disowned:
            continue  # whoever read that is believed no more
        except IntegrityError as error:
            refused.append(error.message)
    return found, refused


class Notes:
    """What one check has read so far. Written into the vault every ``every`` seconds and when told to, signed by ``signer``.

    A vault that may only be read can be checked all the same: ``unremembered`` says why it will not be remembered.
    """

    def __init__(
        self, repository: Repository, signer: SigningKey | None, clock: Clock, why: str = "", every: float = 120.0
    ) -> None:
        self._repository, self._signer, self._clock, self._every = repository, signer, clock, every
        self.unremembered = "" if signer is not None else why or "nobody asked for it"
        self.told: list[tuple[float, Checked]] = []  # what was written down, and what would have been
        self._begin()

    def note(self, pack: str, depth: Depth, size: int, bad: Bad | None) -> None:
        """A pack was read, and is whole as deep as ``depth`` says, or damaged."""
        self._size += size
        if bad is not None:
            self._damaged.append(bad)
        else:
            self._whole[depth].append(bytes.fromhex(pack[: 2 * SHORT]))
        if self._clock.monotonic() - self._since >= self._every:
            self.write()

    def write(self) -> None:
        """Sign and store what was noted since the last time."""
        body = Checked(
            format=FORMAT,
            began=self._began,
            digest=b"".join(sorted(self._whole[Depth.DIGEST])),
            contents=b"".join(sorted(self._whole[Depth.CONTENTS])),
            damaged=tuple(self._damaged),
            size=self._size,
        )
        if body.digest or body.contents or body.damaged:
            self.told.append((datetime.fromisoformat(body.began).timestamp(), body))
            if self._signer is not None:
                self._store(body, self._signer)
        self._begin()

    def _store(self, body: Checked, signer: SigningKey) -> None:
        name = f"{datetime.fromisoformat(body.began):%Y%m%dt%H%M%Sz}-{secrets.token_hex(4)}"
        subject = itself(f"check/{name}", body)
        try:
            self._repository.put_signed(PREFIX + name, RecordType.CHECKED, subject, body, signer, self._clock)
            self._repository.announce(RecordType.CHECKED, PREFIX + name, signer, self._clock)
        except ResurgamError as error:
            self._signer, self.unremembered = None, error.message

    def _begin(self) -> None:
        self._began, self._since = timestamp(self._clock.now()), self._clock.monotonic()
        self._whole: dict[Depth, list[bytes]] = {depth: [] for depth in Depth}
        self._damaged: list[Bad] = []
        self._size = 0


def witness(repository: Repository) -> SigningKey | None:
    """The key here that may remember a check; None where there is none, or none that the role table lists."""
    for role in WITNESSES:
        if repository.keyring.has(f"{role}.json"):
            key = repository.keyring.signer(role)
            if repository.roles.lists(key.public, role):
                return key
    return None


def _believed(repository: Repository, entry: Entry) -> tuple[float, Checked]:
    name = entry.name.removeprefix(PREFIX)
    record = repository.record(entry, {RecordType.CHECKED}, about=f"check/{name}")
    body = versioned(record.body, Checked, FORMAT, what=entry.name)
    return min(datetime.fromisoformat(body.began).timestamp(), entry.received), body


def _named(told: bytes) -> tuple[int, ...]:
    """The packs that ``told`` names, each by the beginning of its name; what is left over is none."""
    count = len(told) // SHORT
    return struct.unpack_from(f">{count}Q", told)
