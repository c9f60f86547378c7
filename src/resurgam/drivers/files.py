"""Driver ``files``: a folder with everything in it, or a single file.

A folder cannot be held still, so there are two ways to read one:

* **small** (up to 64 MiB and 2,000 entries: prompts, policies, configuration): listed, copied privately inside the freeze, and
  listed again. Where both listings are equal nothing changed in between, and the position earns *snapshot*;
* **large**, or never still: listed in the freeze and read after the thaw. Each file is whole, as it was at some moment during
  the reading (*crash*). One that changes while it is read is read again; what never stands still, vanishes or may not be
  read becomes a finding.

Kept: folders, files, symbolic links (never followed), hard links, holes, permission bits, mtime, owner and group (given back
when restoring as root), extended attributes with ACLs, names of any bytes. Left out with a note: sockets, pipes, devices.

Options: ``exclude``, a list of globs (see ``files_listing.excluded_by``); ``pin``, ``auto`` or ``never`` (always as if large).

The fingerprint is BLAKE3 over path, kind, permission bits, where links lead, bytes and user attributes; not over times, owners
and ACLs, which the one who restores may not be allowed to give back.
"""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import msgspec
from blake3 import blake3

from resurgam.drivers import files_writing
from resurgam.drivers.base import Blob, Equality, Facts, Freeze, Item, K, Source, Traits
from resurgam.drivers.files_listing import Entry, Listing, Troubles, excluded_by, failed, named, scan, shown
from resurgam.drivers.files_reading import (
    TICK,
    WHOLE_SECONDS,
    LiveSource,
    OpenFile,
    PrivateCopy,
    blobs,
    extended,
    nothing_known,
    place_of,
)
from resurgam.errors import Busy, Denied, ManifestError, NotFound
from resurgam.model.nearest import did_you_mean
from resurgam.model.point import Finding, Position
from resurgam.model.system import Component, Consistency

SMALL_BYTES = 64 << 20  # copied in some 50 ms, which every freeze limit can bear
SMALL_ENTRIES = 2_000  # listed in some 5 ms, copied in some 50 ms
ATTEMPTS = 3  # private copies begun before the folder counts as never still
FREEZE_LIMIT = 30.0  # seconds; some ten million entries
_READ_STEP = 4 << 20
_MANY_THREADS = 1 << 20  # bytes from which hashing with several threads gains


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A component's options; see the module's docstring."""

    exclude: tuple[str, ...] = ()
    pin: Literal["auto", "never"] = "auto"


class _Held(NamedTuple):
    """What a position stands for: a listing, and for a small component its bytes."""

    component: Component
    listing: Listing
    copy: PrivateCopy | None
    troubles: Troubles


class FilesDriver:
    """See the module's docstring. What is held dies with the process."""

    kind = "files"
    traits = Traits(
        consistency=Consistency.SNAPSHOT,
        equality=Equality.BYTES,
        freeze=Freeze.LISTING,
        freeze_limit=FREEZE_LIMIT,
        files=True,
    )

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}
        self._written: dict[
            files_writing.Seen, bytes
        ] = {}  # digests of large files that it wrote, for the first fingerprint

    def inspect(self, component: Component) -> Facts:
        """Counts, sizes, the newest change and where it lies; from the listing that is held, else from a new one."""
        options = _options(component)
        held = next((held.listing for held in self._held.values() if held.component == component), None)
        listing = held or scan(component.location, excluded_by(options.exclude))
        kinds: Counter[int] = Counter()
        suffixes: Counter[bytes] = Counter()
        size = newest = 0
        for entry in listing:  # this runs once per file: keep it flat
            kind = stat.S_IFMT(entry.mode)
            kinds[kind] += 1
            if entry.mtime > newest:
                newest = entry.mtime
            if kind == stat.S_IFREG:
                size += entry.size
                suffixes[_suffix(entry.path)] += 1
        return {
            "bytes": size,
            "files": kinds[stat.S_IFREG],
            "folders": kinds[stat.S_IFDIR],
            "links": kinds[stat.S_IFLNK],
            "newest": datetime.fromtimestamp(newest // 1_000_000_000, UTC).isoformat(),
            "suffixes": {shown(suffix): count for suffix, count in suffixes.most_common(10)},
            "file_system": _file_system(listing.root),
            "exclude": list(options.exclude),
        }

    @contextmanager
    def freeze(self, component: Component, limit: float | None = None) -> Iterator[Position]:
        """List, and copy where it is small; nobody is held up. Raises NotFound, Denied, Unreachable, LimitExceeded."""
        held = _hold(component, _options(component), FREEZE_LIMIT if limit is None else min(FREEZE_LIMIT, limit))
        earned = Consistency.SNAPSHOT if held.copy else Consistency.CRASH
        position = Position(token=secrets.token_hex(16), earned=earned)
        self._held[position.token] = held
        try:
            yield position
        except BaseException:
            self.release(component, position)
            raise

    def read(self, component: Component, at: Position) -> Iterator[Item | Finding]:
        """The items in path order, then what was found on the way."""
        return self.read_unknown(component, at, nothing_known)

    def read_unknown(
        self, component: Component, at: Position, known: Callable[[Sequence[bytes]], Sequence[K | None]]
    ) -> Iterator[Item | Finding | K]:
        """As ``read``, without looking at files that the reader knows by path and ``lstat``; see ``SkipsKnown``."""
        held = self._held.get(at.token)
        if held is None:
            raise NotFound(
                f"The position of {component.name} is not held any more.",
                untouched="Nothing was read.",
                next_step="Take a new cut: positions of files end with the process that took them.",
            )
        if held.copy is not None:
            troubles = held.troubles
            yield from (Blob(b.path, b.size, b.source, dict(b.meta), b.stamp) for b in held.copy.blobs)
        else:
            troubles = Troubles()
            yield from blobs(held.listing, troubles, known)
        yield from held.listing.troubles.findings(component.name)
        yield from troubles.findings(component.name)

    def reopen(self, component: Component, at: Position, path: bytes) -> Source:
        """See ``Reopens``: of a small component, from the private copy."""
        held = self._held.get(at.token)
        if held is not None and held.copy is not None:
            for blob in held.copy.blobs:
                if blob.path == path:
                    return blob.source
        where = place_of(component, path)
        try:
            return OpenFile(where)
        except OSError as error:
            raise failed(error, where, "Nothing was read.") from error

    def release(self, component: Component, at: Position) -> None:
        """Let go of the listing and the private copy."""
        del component
        held = self._held.pop(at.token, None)
        if held is not None and held.copy is not None:
            held.copy.close()

    def write(self, items: Iterable[Item], target: Component) -> Component:
        """Build it beside ``target.location`` and rename it there. See ``files_writing`` for what is refused."""
        self._written |= files_writing.write(items, target.location)
        return target

    def fingerprint(self, component: Component) -> str:
        """See the module's docstring. Raises Denied where a part may not be read, Busy where it changes meanwhile."""
        listing = scan(component.location, excluded_by(_options(component).exclude))
        if listing.troubles.incomplete:
            finding = next(listing.troubles.findings(component.name))
            step = "Grant it, or leave these out with options.exclude."
            raise Denied(
                f"{finding.what}: {', '.join(finding.keys)}.", untouched="Nothing was changed.", next_step=step
            )
        whole = blake3(b"resurgam files 1\0")
        first_path: dict[tuple[int, int], bytes] = {}
        for entry in listing:
            try:
                fields = _meaning(listing, entry, first_path, self._written)
            except FileNotFoundError as error:
                raise _changing(listing.where(entry.path)) from error
            except OSError as error:
                raise failed(error, listing.where(entry.path), "Nothing was changed.") from error
            if fields is not None:
                whole.update(b"".join(len(f).to_bytes(8, "little") + f for f in (bytes(len(fields)), *fields)))
        return whole.hexdigest()

    def left_out(self, component: Component) -> list[bytes]:
        """What ``exclude`` names and ``read`` does not give. Raises Denied where a folder may not be listed."""
        return named(component.location, excluded_by(_options(component).exclude))

    def erase(self, target: Component) -> None:
        """Remove what stands at the target and what a killed write left beside it."""
        files_writing.erase(target.location)


def _options(component: Component) -> Options:
    try:
        return msgspec.convert(component.options, Options)
    except msgspec.ValidationError as error:
        unknown = next((word for word in component.options if word not in Options.__struct_fields__), None)
        step = did_you_mean(unknown, Options.__struct_fields__) if unknown else "See docs/drivers/files.md."
        raise ManifestError(
            f"Component {component.name!r}, options: {error}.", untouched="Nothing was read.", next_step=step
        ) from error


def _hold(component: Component, options: Options, limit: float) -> _Held:
    """A private copy of what is small and still, else a listing."""
    excluded = excluded_by(options.exclude)
    for _ in range(ATTEMPTS):
        listing = scan(component.location, excluded, limit)
        if options.pin == "never" or not _is_small(listing):
            break
        if _is_fresh(listing):
            time.sleep(TICK / 1e9)
            continue
        troubles = Troubles()
        if (copy := _copied(listing, troubles)) is not None:
            if scan(component.location, excluded, limit).packed == listing.packed:
                return _Held(component, listing, copy, troubles)
            copy.close()
    return _Held(component, listing, None, Troubles())


def _is_small(listing: Listing) -> bool:
    return len(listing) <= SMALL_ENTRIES and sum(e.size for e in listing if e.is_file) <= SMALL_BYTES


def _is_fresh(listing: Listing) -> bool:
    """Whether something changed so shortly before that a second change could bear the same time."""
    changed = [entry.ctime for entry in listing]
    tick = TICK if any(ctime % 1_000_000_000 for ctime in changed) else WHOLE_SECONDS
    return any(listing.began - tick <= ctime <= listing.ended for ctime in changed)


def _copied(listing: Listing, troubles: Troubles) -> PrivateCopy | None:
    """All bytes of the listing; None where something moved meanwhile."""
    try:
        copy = PrivateCopy()
        with ExitStack() as undo:
            undo.callback(copy.close)
            if all(copy.add(blob) for blob in blobs(listing, troubles, nothing_known)):
                undo.pop_all()
                return copy
    except OSError as error:
        raise failed(error, os.fsencode(tempfile.gettempdir()), "Nothing was held.") from error
    return None


def _kind(entry: Entry) -> str:
    return "f" if entry.is_file else "d" if entry.is_folder else "l" if entry.is_link else "-"


def _suffix(path: bytes) -> bytes:
    name = path[path.rfind(b"/") + 1 :].lstrip(b".")  # dots in front make no suffix
    dot = name.rfind(b".")
    suffix = name[dot:].lower() if dot > 0 else b""
    return suffix if len(suffix) <= 16 else b"(other)"


def _meaning(
    listing: Listing,
    entry: Entry,
    first_path: dict[tuple[int, int], bytes],
    written: dict[files_writing.Seen, bytes],
) -> list[bytes] | None:
    """The fields of one entry that a fingerprint is made of; None for what is not kept. What is taken from ``written`` is gone from
    there: who asks a second time wants to know what the disk has."""
    kind, where = _kind(entry), listing.where(entry.path)
    fields = [entry.path, kind.encode()]
    if kind == "-":
        return None
    if kind == "l":
        return [*fields, os.readlink(where)]
    if entry.is_file and entry.links > 1:
        first = first_path.setdefault((entry.device, entry.inode), entry.path)
        if first != entry.path:
            return [*fields, b"h", first]
    fields.append(stat.S_IMODE(entry.mode).to_bytes(2, "little"))
    fields += [field for pair in extended(where) if pair[0].startswith(b"user.") for field in pair]
    if kind == "d":
        return fields
    told = written.pop((entry.device, entry.inode, entry.size, entry.mtime, entry.ctime), None)
    return [*fields, told or _digest(where, entry)]


def _digest(where: bytes, entry: Entry) -> bytes:
    hasher = blake3(max_threads=blake3.AUTO if entry.size >= _MANY_THREADS else 1)
    source, buffer, offset = LiveSource(where, entry, {}), memoryview(bytearray(min(_READ_STEP, entry.size))), 0
    try:
        source.open()
        while offset < entry.size and (done := source.read_into(offset, buffer)):
            hasher.update(buffer[:done])
            offset += done
        if offset != entry.size:
            raise _changing(where)
    finally:
        source.close()
    return hasher.digest()


def _changing(where: bytes) -> Busy:
    return Busy(
        f"{shown(where)} changes while its fingerprint is taken.",
        untouched="Nothing was changed.",
        next_step="Let its writers rest, and run it again.",
    )


def _file_system(root: bytes) -> str:
    """The type of the file system that holds ``root``, from the longest mount point above it (proc_pid_mountinfo(5))."""
    best, kind = -1, "unknown"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                before, _, after = line.partition(" - ")
                point = os.fsencode(before.split(" ")[4].replace("\\040", " "))
                if (root + b"/").startswith(point.rstrip(b"/") + b"/") and len(point) >= best:
                    best, kind = len(point), after.split(" ")[0]
    except FileNotFoundError:  # not a Linux
        return kind
    return kind
