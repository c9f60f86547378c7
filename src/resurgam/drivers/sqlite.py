"""The driver ``sqlite``: one database file, exact to the byte, while its application goes on writing.

The content is the image: the one file that a full checkpoint would have produced at the position (``sqlite_image``). Every
ordinary table comes with it as Rows that are a view of the image (``sqlite_rows``), for diffs and invariants.

    freeze    a WAL database is pinned by a read transaction (milliseconds, nothing is copied); a rollback-journal
              database is copied privately inside the freeze (``sqlite_pin``)
    read      Blob ``database``, then findings of SQLite's own checks (``sqlite_checks``), then Rows
    write     the Blob, beside the target, becomes the target by one rename (P5); Rows need no writing

Options: ``rows`` (true), yield Rows; ``check`` (quick), or ``none``; ``freeze_limit`` (5), seconds to wait for a moment
without a writer, and to hold one. ``docs/drivers/sqlite.md`` tells the rest.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256

import msgspec

from resurgam.drivers.base import Blob, Equality, Facts, Freeze, Item, Rows, Traits
from resurgam.drivers.pins import Pins
from resurgam.drivers.sqlite_checks import check_virtual_tables, quick_check, virtual_tables
from resurgam.drivers.sqlite_leaves import leaves_of
from resurgam.drivers.sqlite_open import (
    SIDE_FILES,
    explain,
    explain_os,
    is_wal,
    opened,
    read_header,
    reading,
    require_database,
)
from resurgam.drivers.sqlite_pin import Pin, Writers, take_pin
from resurgam.drivers.sqlite_rows import DATABASE, SCHEMA, fingerprint, foreign_collations, query, read_tables, rows_of
from resurgam.errors import IntegrityError, ManifestError, TargetRefused
from resurgam.model.codec import to_msgpack
from resurgam.model.point import Finding, Position, Severity
from resurgam.model.system import Component, Consistency

_PRAGMAS = ("page_size", "page_count", "user_version", "application_id", "encoding", "auto_vacuum")


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A component's options; see the module's docstring."""

    rows: bool = True
    check: str = "quick"
    freeze_limit: float = 5.0


class SqliteDriver:
    """See the module's docstring. Pins live in this object and die with the process."""

    kind = "sqlite"
    traits = Traits(
        consistency=Consistency.TRANSACTION,
        equality=Equality.BYTES,
        freeze=Freeze.PIN,
        freeze_limit=Options().freeze_limit,
        look="sqlite3 -readonly {place}",
    )

    def __init__(self) -> None:
        self._pins = Pins[Pin]("database")

    def inspect(self, component: Component) -> Facts:
        """Settings, size and tables, at one read snapshot; nothing is written."""
        options, path = _options(component), _path(component)
        with reading(path) as connection:
            facts: Facts = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in _PRAGMAS}
            schema = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name").fetchall()
            modules = sorted({module for _, module in virtual_tables(connection)})
        wal = is_wal(read_header(path))
        return facts | {
            "bytes": facts["page_size"] * facts["page_count"],
            "journal_mode": "wal" if wal else "delete",
            "freeze": Freeze.PIN.value if wal else Freeze.COPY.value,
            "schema": sha256(to_msgpack(schema)).hexdigest(),
            "tables": [name for kind, name, _ in schema if kind == "table"],
            "modules": modules,
            "check": options.check,
            "sqlite": sqlite3.sqlite_version,
        }

    @contextmanager
    def freeze(self, component: Component, limit: float | None = None) -> Iterator[Position]:
        """Hold the writers, pin, yield, let the writers go. Raises LimitExceeded, Busy, Denied, NotFound, IntegrityError."""
        path = _path(component)
        require_database(path)
        own = _options(component).freeze_limit
        writers = Writers(path, own if limit is None else min(own, limit))
        position: Position | None = None
        try:
            position = self._pins.keep(take_pin(path, writers))
            yield position
            writers.require_held()
        except BaseException:
            writers.let_go()
            if position is not None:
                self.release(component, position)
            raise
        writers.let_go()

    def read(self, component: Component, at: Position) -> Iterator[Item | Finding]:
        """The image, what SQLite's checks found, and the tables."""
        options, path, pin = _options(component), _path(component), self.pinned(at)
        stamp = None
        if pin.stamp is not None:  # with what decides what is decoded from the image, and what is found in it
            stamp = to_msgpack((pin.stamp, options.rows, options.check, sqlite3.sqlite_version))
        blob = Blob(DATABASE, pin.image.size, pin.image, dict(pin.facts), stamp, view=True)
        yield blob
        if blob.known:
            return
        damage = quick_check(pin.reader, component.name) if options.check == "quick" else None
        if damage is not None:
            yield damage
        elif options.check == "quick":
            yield from _index_findings(pin, path, component.name)
        if options.rows and damage is not None and damage.severity is Severity.BROKEN:
            yield _not_decoded("the tables", "the database is damaged; its image was kept.", component.name)
        elif options.rows:
            yield from _views(pin, path, component.name)

    def release(self, component: Component, at: Position) -> None:
        """Close the pin with its last holder; repeatable, and harmless for an unknown position."""
        del component
        self._pins.release(at)

    def query(self, component: Component, at: Position, statement: str) -> Rows:
        """The rows of one SELECT at the position. Raises ManifestError where it is anything else, or is wrong."""
        pin = self.pinned(at)
        with pin.lock:
            return query(pin.reader, _path(component), statement)

    def write(self, items: Iterable[Item], target: Component) -> Component:
        """Build the file beside ``target.location``; it becomes the target by one rename, last (P5).

        Raises TargetRefused where something is there, IntegrityError on a missing, doubled, unknown or short item.
        """
        _options(target)
        location = target.location
        _require_free(location)
        partial = f"{location}.partial-{secrets.token_hex(8)}"
        try:
            os.makedirs(os.path.dirname(location), exist_ok=True)
            _build(items, partial)
            for ending in SIDE_FILES:  # a stale -wal would be laid over the restored file
                _remove(location + ending)
            _require_free(location)
            os.rename(partial, location)
            _sync_folder(os.path.dirname(location))
        except OSError as error:
            raise explain_os(error, location) from error
        finally:
            _remove(partial)
        return target

    def fingerprint(self, component: Component) -> str:
        """Hex digest of settings, schema and rows at one read snapshot."""
        path = _path(component)
        with reading(path) as connection:
            missing = foreign_collations(connection)
            if not missing:
                return fingerprint(connection)
        with reading(path, missing) as connection:
            return fingerprint(connection)

    def erase(self, target: Component) -> None:
        """Remove the file, what SQLite keeps beside it, and what a broken-off write left; repeatable."""
        folder, name = os.path.split(target.location)
        try:
            for ending in ("", *SIDE_FILES):
                _remove(target.location + ending)
            with os.scandir(folder) as entries:
                left = [entry.path for entry in entries if entry.name.startswith(name + ".partial-")]
            for path in left:
                _remove(path)
        except FileNotFoundError:
            return  # not even the folder is there
        except OSError as error:
            raise explain_os(error, target.location) from error

    def pinned(self, at: Position) -> Pin:
        """The state at ``at``, for drivers that are composed over this one. Raises NotFound once it was released."""
        return self._pins.at(at)


def _options(component: Component) -> Options:
    try:
        options = msgspec.convert(component.options, Options, strict=True)
    except msgspec.ValidationError as error:
        raise _bad_options(component, str(error)) from error
    if options.check not in {"quick", "none"} or not 0 < options.freeze_limit < threading.TIMEOUT_MAX:
        raise _bad_options(component, "check is quick or none, freeze_limit a number of seconds above 0")
    return options


def _bad_options(component: Component, why: str) -> ManifestError:
    return ManifestError(
        f"The options of component {component.name} are wrong: {why}.",
        untouched="Nothing was changed.",
        next_step="The driver sqlite knows: rows (true or false), check (quick or none), freeze_limit (seconds).",
    )


def _path(component: Component) -> str:
    """The file itself: SQLite keeps ``-wal`` beside it, not beside a symbolic link to it."""
    return os.path.realpath(component.location)


def _index_findings(pin: Pin, path: str, component: str) -> Iterator[Finding]:
    try:
        yield from check_virtual_tables(pin.reader, pin.image, component)
    except sqlite3.Error as error:
        raise explain(error, path) from error
    except OSError as error:
        raise explain_os(error, path) from error


def _views(pin: Pin, path: str, component: str) -> Iterator[Rows | Finding]:
    """The schema and each table that this SQLite can read; it lacks the collations and functions of an application's own."""
    yield rows_of(pin.reader, path, SCHEMA)
    try:
        tables = read_tables(pin.reader)
    except sqlite3.Error as error:
        yield _not_decoded("the tables", explain(error, path).message, component)
        return
    for table in tables:
        try:
            pin.reader.execute(f"EXPLAIN {table.select}").close()
            pieces = leaves_of(pin.reader, path, pin.image, table)
        except sqlite3.Error as error:
            yield _not_decoded(f"table {table.name}", explain(error, path).message, component)
        else:
            yield rows_of(pin.reader, path, table, pieces)


def _not_decoded(what: str, why: str, component: str) -> Finding:
    return Finding(severity=Severity.WARNING, what=f"No rows of {what}: {why}", component=component)


def _build(items: Iterable[Item], partial: str) -> None:
    """The Blob as a synced, sound file at ``partial``."""
    built = False
    for item in items:
        if isinstance(item, Rows) and item.view_of == DATABASE:
            continue
        if not isinstance(item, Blob) or item.path != DATABASE or built:
            raise _wrong_items("An item is there that does not belong to an SQLite database")
        _write_image(item, partial)
        built = True
    if not built:
        raise _wrong_items("The database itself is missing")


def _write_image(blob: Blob, partial: str) -> None:
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        blob.copy_to(descriptor)
        if os.fstat(descriptor).st_size != blob.size:
            raise _wrong_items("The database's bytes end too early")
        mode, uid, gid = blob.meta.get("mode"), blob.meta.get("uid"), blob.meta.get("gid")
        if isinstance(uid, int) and isinstance(gid, int) and os.geteuid() == 0:
            os.fchown(descriptor, uid, gid)  # else the application could not write to its own database
        if isinstance(mode, int):
            os.fchmod(descriptor, mode & 0o777)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    with opened(partial, "immutable=1") as connection:
        page_size, pages = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count"))
    if page_size * pages != blob.size:
        raise _wrong_items(f"The database says {pages} pages of {page_size} bytes, but has {blob.size} bytes")


def _wrong_items(why: str) -> IntegrityError:
    return IntegrityError(
        f"{why}.",
        untouched="Nothing was put at the target.",
        next_step="Run `resurgam vault check`, or restore another point.",
    )


def _require_free(location: str) -> None:
    if os.path.lexists(location):
        raise TargetRefused(
            f"There is already something at {location}.",
            untouched="It was not touched.",
            next_step="Restore into another folder, or move it away first.",
        )


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
