"""The system: what ``resurgam.yaml`` declares. Values only; reading the file is ``capture.manifest``'s work.

Field names are the words of the file. Durations are seconds, sizes bytes, unless a name says otherwise. Locations are
absolute once a manifest is loaded, so a System means the same wherever the command was started.
"""

from __future__ import annotations

import re
from enum import IntEnum, StrEnum
from typing import Any

import msgspec

from resurgam.model.placement import COLD, Placement

REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")  # a value kept outside the manifest, by its name
Json = Any  # a JSON value: None, bool, int, float, str, list, or dict with str keys


class Consistency(IntEnum):
    """How a snapshot of one component relates to its writers; more is better. In files it is written in lower case."""

    CRASH = 1  # each part as it was at some moment during the reading, as after a power cut
    SNAPSHOT = 2  # all parts as they were at one moment
    TRANSACTION = 3  # as SNAPSHOT, and between two transactions of the store

    @property
    def word(self) -> str:
        """The lower-case word used in manifests and output."""
        return self.name.lower()


class Isolation(StrEnum):
    """What a verdict asks of the sandbox: see P4."""

    REQUIRED = "required"
    BEST_EFFORT = "best-effort"


class Component(msgspec.Struct, frozen=True, kw_only=True):
    """One restorable part of a system.

    ``driver`` is a registered kind, ``location`` an absolute path (or, for later drivers, a URL without secrets).
    The relations name other components. ``consistency`` is what the owner asks for; less earned is a finding.
    ``residency`` is the region that its contents never leave; that and the tier ``cold`` belong to its whole shred domain.
    ``options`` belong to the driver, which validates them.
    """

    name: str
    driver: str
    location: str
    owner: str = ""
    tier: str = "standard"
    derived_from: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    serves: tuple[str, ...] = ()
    consistency: str = "crash"
    shred_domain: str = "default"
    options: dict[str, Json] = {}
    residency: str = ""

    @property
    def placement(self) -> Placement:
        """Where its bytes may lie."""
        return Placement(self.residency, self.tier == COLD)

    def bound_to(self, location: str) -> Component:
        """The same component at another place: a sandbox, a target."""
        return msgspec.structs.replace(self, location=location)


class Invariant(msgspec.Struct, frozen=True, kw_only=True):
    """A checkable statement across components. Exactly one of the forms is given:

    ``every`` and ``exists_in``: each key that the first query yields stands among the second's (key inclusion);
    ``equal``: two queries yield the same keys (rows of a pair of stores, digests of a thing as two stores know it);
    ``component`` and ``sql`` with ``expect``: the query's first value equals ``expect`` (counts, digests of the store);
    ``run`` with ``reads``: a command that gets private copies of those components, ``{name}`` standing for the location of
    *name*'s; it holds where the command ends with 0, else the lines that it printed are the keys.
    A query is written ``component: SELECT …``. ``timeout`` is the command's, in seconds.
    """

    name: str
    every: str | None = None
    exists_in: str | None = None
    equal: tuple[str, ...] = ()
    component: str | None = None
    sql: str | None = None
    expect: Json = None
    run: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    timeout: float = 60.0

    @property
    def queries(self) -> tuple[str, ...]:
        """Every query that is asked, each as ``component: SELECT …``."""
        asked = f"{self.component}: {self.sql}" if self.component is not None else None
        return tuple(query for query in (self.every, self.exists_in, *self.equal, asked) if query is not None)

    @property
    def components(self) -> tuple[str, ...]:
        """The names of the components that it speaks of, each once."""
        return tuple(dict.fromkeys([*(query.partition(":")[0].strip() for query in self.queries), *self.reads]))


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """A question to a live or restored system, with what makes two answers the same.

    ``reads`` names the components whose state the answers depend on; what no probe reads is *unprobed* (P4).
    ``witness`` marks a cheap, read-only probe that is also asked of the live system around the cut.
    ``ask`` is handed to a command on standard input as JSON (one case per entry); ``run`` is its argument list, in
    which ``{name}`` stands for the location of component *name*. ``tolerance`` is documented in ``proof.compare``.

    ``collection``, ``k`` (how many neighbours), ``mode`` (exact, approximate, recall) and ``canaries`` belong to retrieval;
    ``loader``, ``model`` (a path in the component) and ``trusted`` (names of types) to predict; ``encode`` to both: the
    command that turns the texts among what is asked into numbers. ``serve`` (a command), ``ready`` (a path) and ``url`` belong to
    http; ``tools`` (a command) to agent; ``of`` (a probe), ``repeat`` and ``warm_up`` to latency. docs/probes.md explains them.
    """

    name: str
    kind: str
    reads: tuple[str, ...] = ()
    witness: bool = False
    component: str | None = None
    sql: str | None = None
    run: tuple[str, ...] = ()
    ask: Json = None
    env: dict[str, str] = {}
    timeout: float = 60.0
    tolerance: Json = "exact"
    collection: str | None = None
    k: int = 10
    mode: str = "exact"
    canaries: bool = False
    loader: str | None = None
    model: str = ""
    trusted: tuple[str, ...] = ()
    encode: tuple[str, ...] = ()
    serve: tuple[str, ...] = ()
    ready: str = ""
    url: str = ""
    tools: tuple[str, ...] = ()
    of: str | None = None
    repeat: int = 20
    warm_up: int = 3


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """The most that may be asked of a hosted model by one verification or one recording: requests, bytes (both ways), seconds
    of answering."""

    requests: int = 1000
    bytes: int = 64_000_000
    seconds: float = 600.0


class Hosted(msgspec.Struct, frozen=True, kw_only=True):
    """A model or tool that others run, which no restore brings back. ``url`` is the one address that may be asked; ``provider``,
    ``model`` and ``revision`` pin what is expected to answer there. ``mode`` says what a copy gets in its place: ``refuse``,
    ``replay`` of ``recording`` (docs/probes.md tells its form), or ``proxy``: requests that stand on ``allow`` ("METHOD /path") are
    let through, of their headers those that ``headers`` names beside the harmless ones, within ``budget``. ``key`` refers to the
    credential that is put in then (``${NAME}``), as ``Authorization: Bearer`` or alone in the header that ``header`` names; no copy
    gets it (P6)."""

    name: str
    url: str
    provider: str = ""
    model: str = ""
    revision: str = ""
    mode: str = "refuse"
    recording: Json = None
    allow: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    key: str = ""
    header: str = ""
    budget: Budget = Budget()

    @property
    def stand_in(self) -> str:
        """Its address for a copy. The name resolves nowhere (RFC 6761, ``invalid``), so that a copy which nobody answers in its
        place reaches nothing (P6)."""
        return f"http://{self.name}.hosted.invalid"


class Objectives(msgspec.Struct, frozen=True, kw_only=True):
    """Promised RPO and RTO, in seconds; None is no promise."""

    rpo: float | None = None
    rto: float | None = None


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How long points stay; ``vault.retention`` decides by it. In force is what the approver has signed into the vault, not what a
    manifest says.

    ``last`` points; the first of each of so many hours, days, weeks, months, years that have one; all younger than ``window``
    seconds; those with one of ``keep_tags``; never fewer than ``at_least``. With ``never`` nothing expires. A policy that replaces
    this one waits ``cooling`` seconds before it lets go of what this one keeps.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    window: float | None = None
    at_least: int = 1
    keep_tags: tuple[str, ...] = ()
    never: bool = False
    cooling: float = 14 * 86400.0

    @property
    def expires_nothing(self) -> bool:
        """Whether every point stays: where that is said, and where no rule says which ones do. Tags and the floor only add."""
        counts = (self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly)
        return self.never or (not any(counts) and self.window is None)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a capture may cost its sources. ``freeze`` is in seconds, ``read_mb_s`` in 10^6 bytes per second, ``cpu`` in processor
    seconds per second: 0.5 is half of one processor. The last two hold outside of the freeze only."""

    freeze: float = 5.0
    read_mb_s: float | None = None
    cpu: float | None = None


class Barrier(msgspec.Struct, frozen=True, kw_only=True):
    """A shared lock around the application's writes to several stores, held alone while a capture freezes. Either ``file``
    (an absolute path, of ``resurgam.barrier``) or two commands that stand for it. ``timeout`` is the longest that a capture
    waits for it, and each command may take, in seconds."""

    file: str = ""
    hold: tuple[str, ...] = ()
    release: tuple[str, ...] = ()
    timeout: float = 2.0


class Promotion(msgspec.Struct, frozen=True, kw_only=True):
    """The owner's own commands around a switch: ``fence`` keeps clients out, ``reload`` lets them in to the new state. Afterwards
    live is asked the probes for ``watch`` seconds (those of ``watch_probes``, all where none is named); where it deviates, what was
    live before comes back."""

    fence: tuple[str, ...] = ()
    reload: tuple[str, ...] = ()
    timeout: float = 60.0
    watch: float = 0.0
    watch_probes: tuple[str, ...] = ()


class LockMode(StrEnum):
    """Who can delete an object before its lock ends."""

    GOVERNANCE = "governance"  # who has a permission of its own for that
    COMPLIANCE = "compliance"  # nobody


class VaultLock(msgspec.Struct, frozen=True, kw_only=True):
    """Each object of the vault is locked when it is written, for ``period`` seconds (``for`` in files)."""

    mode: LockMode
    period: float = msgspec.field(name="for")


class Compression(StrEnum):
    """What new chunks are compressed for: it decides how they are coded, not what they are, so a vault may hold all three."""

    FAST = "fast"  # the shortest capture
    BALANCED = "balanced"
    SMALL = "small"  # the fewest bytes


class VaultPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where the vault and this host's keys are, never the keys themselves: ``path`` is a path or the URL of a bucket, ``keys`` a
    path. ``cold`` is the storage class, in the store's own word, of contents of the tier ``cold``; empty for that of all else.
    ``compression`` is a word of Compression; a point may be read by a release that does not know it."""

    path: str
    keys: str
    lock: VaultLock | None = None
    cold: str = ""
    compression: str = Compression.BALANCED

    @property
    def folders(self) -> tuple[str, ...]:
        """What of both lies on this host."""
        return (self.keys,) if "://" in self.path else (self.path, self.keys)


class System(msgspec.Struct, frozen=True, kw_only=True):
    """Named components, their relations, probes and objectives."""

    name: str
    vault: VaultPlace
    components: tuple[Component, ...]
    description: str = ""
    invariants: tuple[Invariant, ...] = ()
    probes: tuple[Probe, ...] = ()
    objectives: Objectives = Objectives()
    retention: Retention = Retention()
    limits: Limits = Limits()
    barrier: Barrier | None = None
    promotion: Promotion = Promotion()
    isolation: Isolation = Isolation.REQUIRED
    hosted: tuple[Hosted, ...] = ()
    root: str = ""  # the folder of the manifest; commands run in it
    apart: bool = False  # its components are copies: what is live must not be asked (P6)
    at: str = ""  # the instant that the copies are of, RFC 3339; "" is now

    def component(self, name: str) -> Component:
        """The component called ``name``; KeyError when there is none."""
        for component in self.components:
            if component.name == name:
                return component
        raise KeyError(name)

    def bound_to(self, locations: dict[str, str]) -> System:
        """The same system with its components at other places (a sandbox), and so apart from what is live."""
        moved = tuple(c.bound_to(locations[c.name]) if c.name in locations else c for c in self.components)
        return msgspec.structs.replace(self, components=moved, apart=True)

    def locations(self) -> dict[str, str]:
        """Component name to location."""
        return {c.name: c.location for c in self.components}

    def places(self) -> dict[str, str]:
        """What a brace in a probe's command may name: ``name``, a component; ``hosted:name``, the address of a hosted model."""
        return self.locations() | {f"hosted:{h.name}": h.stand_in if self.apart else h.url for h in self.hosted}
