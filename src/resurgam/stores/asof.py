"""A bucket as it was: before somebody overwrote or hid what stands there.

Where a bucket keeps versions, what a name held before is still there, also under the marker that a plain DELETE puts on top. Two
views of that:

    past(store, time)    of each name the version that was the newest at that time; none where that was a marker of a deletion
    past(store, "first") of each name what was put there first: the vault never puts a name twice (P2), so whatever came on top of
                         it is another's doing
    originals(store)     the second of them, with its locks: what ``vault renew`` keeps locked, whatever lies on top

Nothing is written through them. What a prune has deleted was deleted with its versions: it is in neither view, and points that
have expired since are listed without the packs that went with them.

Times are those of the store, in whole seconds. Facts: the S3 API reference, ListObjectVersions, GetObject with a versionId.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime

from resurgam.errors import Denied, IntegrityError, NotFound, UsageError
from resurgam.stores.base import Buffer, Entry, Store, checked_name
from resurgam.stores.lock import Retention, StoredVersion, Versioned

FIRST = "first"

Choose = Callable[[Sequence[StoredVersion]], StoredVersion | None]


def past(store: Store, words: str, now: datetime) -> Store:
    """What ``store`` was at the time that ``words`` name (ISO 8601, UTC unless it says otherwise), or as it was ``first`` written.
    Raises UsageError where the store keeps no versions, and for what is no time, or one of the future."""
    if words == FIRST:
        return PastStore(_versioned(store), _first, "as it was first written")
    moment = _moment(words)
    if moment > now:
        raise UsageError(
            f"{words} is in the future.",
            untouched="Nothing was read.",
            next_step="Give a time before the harm was done.",
        )
    latest = moment.timestamp()

    def choose(versions: Sequence[StoredVersion]) -> StoredVersion | None:
        return next((version for version in reversed(versions) if version.received <= latest), None)

    return PastStore(_versioned(store), choose, f"as of {moment:%Y-%m-%d %H:%M:%S} UTC")


def originals(store: Store) -> Store:
    """What was first put under each name, with its locks, where ``store`` keeps versions; else ``store`` itself."""
    return Originals(store) if isinstance(store, Versioned) and store.facts.versioned is not False else store


class PastStore:
    """Of each name of ``inner`` the version that ``choose`` takes among all of them, oldest first. Read-only."""

    def __init__(self, inner: Versioned, choose: Choose, when: str) -> None:
        """``when`` is for people."""
        self._inner, self._choose, self._when = inner, choose, when
        self._known: dict[str, StoredVersion] = {}  # versions never change, and neither does the choice among them

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:  # noqa: ARG002  the port's
        """Refused: Denied."""
        raise self._read_only(f"{name} was not written")

    def delete(self, name: str) -> None:
        """Refused: Denied."""
        raise self._read_only(f"{name} was not deleted")

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of ``name`` from ``offset``; fewer than ``length`` only at its end. Raises NotFound."""
        version = self.version(name)
        rest = max(version.size - offset, 0)
        wanted = rest if length is None else min(rest, length)
        return self._inner.get_version(name, version.id, offset, wanted) if wanted else b""

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """As ``get``, into ``buffer``; returns the number of bytes read. Safe from several threads. Raises NotFound."""
        view = buffer.cast("B")
        data = self.get(name, offset, len(view))
        view[: len(data)] = data
        return len(data)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """All that was there, sorted by name; one listing of versions."""
        for name, versions in self._inner.history(prefix).items():
            version = self._choose(versions)
            if version is None or version.deleted or not _is_name(name):
                continue
            self._known[name] = version
            self._saw(name, versions, version)
            yield Entry(name, version.size, version.received)

    def describe(self) -> str:
        """Where this is, and when."""
        return f"{self._inner.describe()} {self._when}"

    def version(self, name: str) -> StoredVersion:
        """The version that stands for ``name``. Raises NotFound."""
        if checked_name(name) not in self._known:
            versions = self._inner.history(name).get(name, [])
            version = self._choose(versions)
            if version is None or version.deleted:
                raise NotFound(
                    f"There was no {name} in {self.describe()}.",
                    untouched="Nothing was changed.",
                    next_step="Give another time with --as-of, or leave it out.",
                )
            self._known[name] = version
        return self._known[name]

    def _saw(self, name: str, versions: Sequence[StoredVersion], chosen: StoredVersion) -> None:
        """Told of each name that is listed."""

    def _read_only(self, what: str) -> Denied:
        return Denied(
            f"{what}: {self.describe()} is a view of the past.",
            untouched="Nothing was changed.",
            next_step="Leave out --as-of to act on the vault as it is.",
        )


class Originals(PastStore):
    """What was first put under each name, and its locks. ``covered`` tells of what was listed and lies under something else now."""

    def __init__(self, inner: Versioned) -> None:
        super().__init__(inner, _first, "as it was first written")
        self._locks = inner
        self.covered: dict[str, str] = {}

    def look(self, prefix: str) -> None:
        """List these names for what ``covered`` tells of them. Raises Denied, Unreachable."""
        for _ in self.list(prefix):
            pass

    def protected(self, name: str) -> Retention | None:
        """See ``lock.Locks``."""
        return self._locks.protected(name, self.version(name).id)

    def protect(self, name: str, until: datetime) -> None:
        """See ``lock.Locks``."""
        self._locks.protect(name, until, self.version(name).id)

    def describe(self) -> str:
        """Where this is."""
        return self._inner.describe()

    def _saw(self, name: str, versions: Sequence[StoredVersion], chosen: StoredVersion) -> None:
        newest = versions[-1]
        if newest != chosen:
            when = datetime.fromtimestamp(newest.received, UTC)
            self.covered[name] = f"{'deleted' if newest.deleted else 'overwritten'} {when:%Y-%m-%d %H:%M:%S} UTC"


def _first(versions: Sequence[StoredVersion]) -> StoredVersion | None:
    return next((version for version in versions if not version.deleted), None)


def _versioned(store: Store) -> Versioned:
    """``store``, when it keeps versions, or may not say whether. Raises UsageError."""
    if isinstance(store, Versioned) and store.facts.versioned is not False:
        return store
    raise UsageError(
        f"{store.describe()} keeps no versions, so it cannot be seen as it was.",
        untouched="Nothing was read.",
        next_step="Leave out --as-of, or look at a copy that keeps them; of a folder, at a snapshot of its file system.",
    )


def _moment(words: str) -> datetime:
    try:
        moment = datetime.fromisoformat(words)
    except ValueError:
        raise UsageError(
            f"{words!r} is no time.",
            untouched="Nothing was read.",
            next_step=f"Write it as 2026-11-21T04:00, in UTC, or `{FIRST}`.",
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _is_name(name: str) -> bool:
    try:
        checked_name(name)
    except IntegrityError:
        return False
    return True
