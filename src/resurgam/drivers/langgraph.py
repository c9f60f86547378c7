"""The driver ``langgraph``: an agent's threads and memories, as LangGraph's SQLite saver and store keep them in one file.

The file is captured by the driver ``sqlite``, exact to the byte, all tables at one position; this driver adds what the bytes
mean to an agent::

    freeze, image    as ``sqlite``; the position also notes the time of the cut, since memories may expire
    read             sqlite's Blob, findings and Rows, then findings on threads and memories (``langgraph_layout``,
                     ``langgraph_checks``), then the views threads, state and memories (``langgraph_views``)
    query            SQL over the tables and those views
    write            the Blob; where the option ``ttl`` asks for it, expiring memories are moved or dropped in a private file first
    fingerprint      as ``sqlite``; what ``ttl`` may change is left out of it (``langgraph_ttl``)

Nothing of LangGraph is imported, no object is constructed, nothing is unpickled, and no key is ever read: what is encrypted
stays so, and only the *name* of its key is told.

Options: those of ``sqlite`` (``rows``, ``check``, ``freeze_limit``), and ``ttl`` (keep, freeze, extend, drop), ``key``
(``${NAME}``), ``graph`` and ``libraries`` (paths). ``docs/drivers/langgraph.md`` tells the rest.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime

import msgspec

from resurgam.clock import Clock, SystemClock
from resurgam.drivers.base import Blob, Equality, Facts, Freeze, Item, Rows, Traits
from resurgam.drivers.langgraph_checks import check_memories, check_threads
from resurgam.drivers.langgraph_facts import graph_digest, library_facts, stored_facts
from resurgam.drivers.langgraph_layout import check_layout, read_layout
from resurgam.drivers.langgraph_pending import pending_work
from resurgam.drivers.langgraph_ttl import Ttl, apply, veil
from resurgam.drivers.langgraph_views import hidden, lay_views
from resurgam.drivers.sqlite import SqliteDriver
from resurgam.drivers.sqlite_open import explain, explain_os, reading
from resurgam.drivers.sqlite_pin import Pin
from resurgam.drivers.sqlite_rows import DATABASE, fingerprint, foreign_collations, rows_of
from resurgam.errors import ManifestError
from resurgam.model.codec import to_msgpack
from resurgam.model.point import Finding, Position, Severity
from resurgam.model.system import REFERENCE, Component, Consistency

_DECODING = 1  # raise it whenever views or findings change: what was decoded before is then decoded again
_CUT = "t"  # the Blob's time, which makes no two states differ (vault.compare)
_OF_SQLITE = ("rows", "check", "freeze_limit")


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A component's options; see the module's docstring. The first three belong to ``sqlite``, which judges them."""

    rows: bool = True
    check: str = "quick"
    freeze_limit: float = 5.0
    ttl: Ttl = Ttl.KEEP
    key: str | None = None
    graph: str | None = None
    libraries: str | None = None


class LangGraphDriver:
    """See the module's docstring. Pins live in this object and die with the process."""

    kind = "langgraph"
    traits = Traits(
        consistency=Consistency.TRANSACTION,
        equality=Equality.BYTES,
        freeze=Freeze.PIN,
        freeze_limit=SqliteDriver.traits.freeze_limit,
        look="sqlite3 -readonly {place}",
    )

    def __init__(self, clock: Clock | None = None) -> None:
        self._sqlite = SqliteDriver()
        self._clock = clock or SystemClock()

    def inspect(self, component: Component) -> Facts:
        """The database's facts, what the agent keeps in it, and what it needs from elsewhere; nothing is written."""
        options = _options(component)
        facts = self._sqlite.inspect(_as_sqlite(component))
        path = os.path.realpath(component.location)
        with reading(path) as connection:
            try:
                facts |= stored_facts(connection)
            except sqlite3.Error as error:  # the image of a damaged file is still worth having
                facts["uncounted"] = explain(error, path).message
        facts |= library_facts(_beside(component, options.libraries))
        facts["ttl"] = options.ttl.value
        if (graph := _beside(component, options.graph)) is not None:
            facts["graph"] = {"path": options.graph, "blake3": graph_digest(graph)}
        if options.key is not None:
            name = REFERENCE.sub(r"\1", options.key)
            facts["key"] = {"name": name, "set_at_capture": bool(os.environ.get(name))}
        return facts

    @contextmanager
    def freeze(self, component: Component, limit: float | None = None) -> Iterator[Position]:
        """As sqlite freezes; the token begins with the time of the cut."""
        _options(component)
        with self._sqlite.freeze(_as_sqlite(component), limit) as at:
            yield Position(token=f"{self._clock.now().isoformat()} {at.token}", earned=at.earned)

    def read(self, component: Component, at: Position) -> Iterator[Item | Finding]:
        """The image, what SQLite's checks found, the tables; then what they mean."""
        options, plain = _options(component), _as_sqlite(component)
        cut, inner = _parted(at)
        pin = self._sqlite.pinned(inner)
        damaged = False
        for item in self._sqlite.read(plain, inner):
            if isinstance(item, Blob):
                item.meta = {**item.meta, _CUT: cut}
                item.stamp = item.stamp and to_msgpack((item.stamp, _DECODING, options))
                yield item
                if item.known:
                    return
            else:
                damaged |= isinstance(item, Finding) and item.severity is Severity.BROKEN
                yield item
        if not damaged:  # else sqlite has told so
            yield from _meaning(pin, os.path.realpath(component.location), component.name, options)

    def release(self, component: Component, at: Position) -> None:
        """Let the pin go; repeatable, and harmless for an unknown position."""
        self._sqlite.release(component, _parted(at)[1])

    def query(self, component: Component, at: Position, statement: str) -> Rows:
        """The rows of one SELECT over tables and views at the position. Raises ManifestError where it is wrong."""
        inner = _parted(at)[1]
        pin = self._sqlite.pinned(inner)
        try:
            with pin.lock:
                lay_views(pin.reader, read_layout(pin.reader))
        except sqlite3.Error as error:
            raise explain(error, component.location) from error
        return self._sqlite.query(_as_sqlite(component), inner, statement)

    def write(self, items: Iterable[Item], target: Component) -> Component:
        """As sqlite writes; with a ``ttl`` other than keep, expiring memories are changed before the file is anything (P5)."""
        policy = _options(target).ttl
        if policy is Ttl.KEEP:
            self._sqlite.write(items, _as_sqlite(target))
            return target
        with closing(self._aged(items, target.location, policy)) as aged:
            self._sqlite.write(aged, _as_sqlite(target))
        return target

    def fingerprint(self, component: Component) -> str:
        """Hex digest of settings, schema and rows, but for what a restore may change as ``ttl`` declares."""
        policy, path = _options(component).ttl, os.path.realpath(component.location)
        if policy is Ttl.KEEP:
            return self._sqlite.fingerprint(_as_sqlite(component))
        with reading(path) as connection:
            missing = foreign_collations(connection)
        with reading(path, missing) as connection:
            veil(connection, read_layout(connection), policy)
            return fingerprint(connection)

    def erase(self, target: Component) -> None:
        """Remove the file, what SQLite keeps beside it, and what a broken-off write left; repeatable."""
        self._sqlite.erase(target)

    def pending(self, component: Component, now: datetime) -> list[str]:
        """Threads that wait or were cut off, and memories that expire. Raises as ``fingerprint`` does."""
        path = os.path.realpath(component.location)
        with reading(path) as connection:
            try:
                return pending_work(connection, read_layout(connection), now)
            except sqlite3.Error as error:
                raise explain(error, path) from error

    def _aged(self, items: Iterable[Item], location: str, policy: Ttl) -> Generator[Item, None, None]:
        """The items, the database among them as ``policy`` leaves it."""
        for item in items:
            if isinstance(item, Blob) and item.path == DATABASE:
                with _private_copy(item, location) as (path, source):
                    told = item.meta.get(_CUT)
                    cut = datetime.fromisoformat(told) if isinstance(told, str) else None
                    if os.path.getsize(path) == item.size:  # else sqlite refuses it
                        apply(path, policy, cut, self._clock.now())
                    yield Blob(DATABASE, os.path.getsize(path), source, item.meta)
            else:
                yield item


class _File:
    """A Source over an open file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """See ``drivers.base.Source``."""
        return os.preadv(self._descriptor, [buffer], offset)

    def settled(self) -> bool:
        """Nobody else knows the file."""
        return True

    def close(self) -> None:
        """Whoever opened the file closes it."""


@contextmanager
def _private_copy(blob: Blob, location: str) -> Iterator[tuple[str, _File]]:
    """The Blob's bytes in a file beside ``location``, under a name that ``erase`` knows, gone afterwards."""
    path = f"{location}.partial-{secrets.token_hex(8)}"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise explain_os(error, location) from error
    try:
        blob.copy_to(descriptor)
        yield path, _File(descriptor)
    finally:
        os.close(descriptor)
        with suppress(FileNotFoundError):
            os.unlink(path)


def _meaning(pin: Pin, path: str, component: str, options: Options) -> Iterator[Rows | Finding]:
    """Findings on threads and memories, then the views. What this release cannot read stops no capture (P12)."""
    try:
        with pin.lock:
            layout = read_layout(pin.reader)
            views = lay_views(pin.reader, layout)
        yield from check_layout(layout, component)
        if layout.has_saver:
            yield from check_threads(pin.reader, component, key_named=options.key is not None)
        if layout.has_store:
            yield from check_memories(pin.reader, layout, component, options.ttl)
    except sqlite3.Error as error:
        what = f"No findings and no views of threads and memories: {explain(error, path).message}"
        yield Finding(severity=Severity.WARNING, what=what, component=component)
        return
    if not options.rows:
        return
    for name in hidden(layout):
        what = f"No view {name}: the database has a table or view of that name."
        yield Finding(severity=Severity.NOTE, what=what, component=component)
    for view in views:
        yield rows_of(pin.reader, path, view)


def _options(component: Component) -> Options:
    try:
        options = msgspec.convert(component.options, Options, strict=True)
    except msgspec.ValidationError as error:
        raise _bad_options(component, str(error)) from error
    if options.key is not None and not REFERENCE.fullmatch(options.key):
        raise _bad_options(component, "key is the name of a variable, never a key itself")
    return options


def _bad_options(component: Component, why: str) -> ManifestError:
    return ManifestError(
        f"The options of component {component.name} are wrong: {why}.",
        untouched="Nothing was changed.",
        next_step="The driver langgraph knows: ttl (keep, freeze, extend or drop), key (${NAME}), graph and libraries (paths), "
        "rows (true or false), check (quick or none), freeze_limit (seconds).",
    )


def _as_sqlite(component: Component) -> Component:
    """The component as the driver sqlite knows it."""
    options = {name: value for name, value in component.options.items() if name in _OF_SQLITE}
    return msgspec.structs.replace(component, options=options)


def _parted(at: Position) -> tuple[str, Position]:
    """The time of the cut, and sqlite's own position."""
    cut, _, token = at.token.partition(" ")
    return cut, Position(token=token, earned=at.earned)


def _beside(component: Component, path: str | None) -> str | None:
    """``path``, which is relative to the folder of the database."""
    return path if path is None else os.path.join(os.path.dirname(os.path.realpath(component.location)), path)
