"""The driver ``chroma``: the folder of a Chroma ``PersistentClient``, exact to the byte, while its application goes on writing.

The content is the image: ``chroma.sqlite3`` and the five files of each vector index, as they belong together (``chroma_pin``). Its
collections come with it as Rows that are a view of the image, vectors included, decoded without the library (``chroma_view``).

    freeze    a private copy under SQLite's write lock, taken between two persists of an index
    read      Blobs ``hnsw/SEGMENT/FILE``, then Blob ``sqlite/chroma.sqlite3``; then findings and Rows: table ``collections``,
              and one per collection (id, document, metadata as JSON, vector as float32 little-endian)
    write     the image, beside the target, becomes the target by one rename (P5); or a fresh folder from the records

Every capture asks of each collection whether the ids of its records and of its vectors are the same: Chroma can lose vectors
without an error, and its own count does not show it. Options: ``rows`` (true), ``check`` (quick or none), ``freeze_limit`` (5
seconds, to find a moment between two persists and to copy), ``restore`` (image or records). ``docs/drivers/chroma.md`` tells the
rest.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

import msgspec
from blake3 import blake3

from resurgam.drivers import chroma_index, chroma_search, chroma_store, chroma_writing, files_writing
from resurgam.drivers.asked import ask
from resurgam.drivers.base import Blob, Equality, Facts, Freeze, Item, Rows, Traits
from resurgam.drivers.chroma_pin import DATABASE_FILE, SETTLED, ChromaPin, Status, left_out, list_segments, take_pin
from resurgam.drivers.chroma_view import DATABASE, View, digest, folder_findings
from resurgam.drivers.chroma_writing import PREFIX
from resurgam.drivers.pins import Pins
from resurgam.drivers.searching import Floats, Hit, Vectors
from resurgam.drivers.sqlite_checks import check_virtual_tables, quick_check
from resurgam.drivers.sqlite_open import explain, explain_os, reading, require_database
from resurgam.errors import IntegrityError, ManifestError
from resurgam.model.codec import to_msgpack
from resurgam.model.point import Finding, Position, Severity
from resurgam.model.system import Component, Consistency, Json

_DECODER = 1  # raise it when what is decoded or found changes: views of unchanged images are then made anew


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A component's options; see the module's docstring."""

    rows: bool = True
    check: str = "quick"
    freeze_limit: float = 5.0
    restore: str = "image"


class ChromaDriver:
    """See the module's docstring. Pins live in this object and die with the process."""

    kind = "chroma"
    traits = Traits(
        consistency=Consistency.TRANSACTION,
        equality=Equality.LOGICAL,
        freeze=Freeze.COPY,
        freeze_limit=Options().freeze_limit,
        look="python -c 'import sys, chromadb; c = chromadb.PersistentClient(sys.argv[1]); "
        "print([(each.name, each.count()) for each in c.list_collections()])' {place}",
    )

    def __init__(self) -> None:
        self._pins = Pins[ChromaPin]("Chroma folder")

    def inspect(self, component: Component) -> Facts:
        """Versions, sizes, collections with their settings and counts. What cannot be decoded is said in ``understood``."""
        options, folder = _options(component), _folder(component)
        path = os.path.join(folder, DATABASE_FILE)
        with reading(path) as connection:
            pages = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count")]
            facts = _decoded_facts(connection)
        try:
            sizes = [status.size for status in list_segments(folder).values()]
        except OSError as error:
            raise explain_os(error, folder) from error
        return facts | {
            "bytes": pages[0] * pages[1] + sum(sizes),
            "library": _library(),
            "check": options.check,
            "freeze": Freeze.COPY.value,
            "restore": f"{options.restore}: search is {'identical' if options.restore == 'image' else 'equivalent'}",
            "sqlite": sqlite3.sqlite_version,
        }

    @contextmanager
    def freeze(self, component: Component, limit: float | None = None) -> Iterator[Position]:
        """Hold the writers, copy, yield, let the writers go. Raises LimitExceeded, Busy, Denied, NotFound, IntegrityError."""
        folder, own = _folder(component), _options(component).freeze_limit
        require_database(os.path.join(folder, DATABASE_FILE))
        writers, pin = take_pin(folder, own if limit is None else min(own, limit))
        position: Position | None = None
        try:
            position = self._pins.keep(pin)
            yield position
            writers.require_held()
        except BaseException:
            writers.let_go()
            if position is not None:
                self.release(component, position)
            raise
        writers.let_go()

    def read(self, component: Component, at: Position) -> Iterator[Item | Finding]:
        """The image, what is wrong with it, and the collections."""
        options, pin = _options(component), self._pins.at(at)
        yield from _files(pin)
        stamp = None
        if pin.stamp is not None:  # with what decides what is decoded from the image, and what is found in it
            stamp = to_msgpack((pin.stamp, pin.left_out, _DECODER, options.rows, options.check, sqlite3.sqlite_version))
        image = pin.database.image
        blob = Blob(DATABASE, image.size, image, _folder_meta(pin), stamp, view=True)
        yield blob
        if not blob.known:
            yield from _decoded(pin, options, component.name)

    def release(self, component: Component, at: Position) -> None:
        """Close the pin with its last holder; repeatable, and harmless for an unknown position."""
        del component
        self._pins.release(at)

    def query(self, component: Component, at: Position, statement: str) -> Rows:
        """The rows of one SELECT over the collections at the position. Raises ManifestError where it is wrong."""
        return ask(View(self._pins.at(at)).tables(statement), statement, component.location)

    def collections(self, component: Component, at: Position) -> list[str]:
        """See ``searching.Searches``."""
        del component
        return [collection.table for collection in View(self._pins.at(at)).collections]

    def vectors(self, component: Component, at: Position, collection: str) -> Vectors:
        """See ``searching.Searches``. Raises NotFound, IntegrityError."""
        view = View(self._pins.at(at))
        return chroma_search.vectors_of(view, chroma_search.collection_of(view, collection, component.location))

    def search(
        self, component: Component, at: Position, collection: str, queries: Floats, k: int
    ) -> tuple[list[list[Hit]], dict[str, str]]:
        """See ``searching.Searches``: what the library finds in a private copy. Raises NotFound, MissingExtra, IntegrityError."""
        pin = self._pins.at(at)
        found = chroma_search.collection_of(View(pin), collection, component.location)
        return chroma_search.search(pin, found, queries, k)

    def write(self, items: Iterable[Item], target: Component) -> Component:
        """Build the folder beside ``target.location``; it becomes the target by one rename, last (P5).

        Raises TargetRefused where something is there, IntegrityError on a missing, doubled, unknown or changed item, MissingExtra.
        """
        if _options(target).restore == "records":
            chroma_writing.write_records(items, target.location)
        else:
            chroma_writing.write_image(items, target.location)
        return target

    def fingerprint(self, component: Component) -> str:
        """Hex digest of settings and records; where the database cannot be decoded, of all bytes."""
        folder = _folder(component)
        require_database(os.path.join(folder, DATABASE_FILE))
        writers, pin = take_pin(folder, _options(component).freeze_limit)
        writers.let_go()
        try:
            return _fingerprint(pin)
        finally:
            pin.close()

    def left_out(self, component: Component) -> list[bytes]:
        """What lies in the folder and is none of Chroma's. Raises Denied, NotFound."""
        folder = _folder(component)
        try:
            return left_out(folder)
        except OSError as error:
            raise explain_os(error, folder) from error

    def erase(self, target: Component) -> None:
        """Remove the folder, and what a broken-off write left beside it; repeatable."""
        files_writing.erase(target.location)


def _options(component: Component) -> Options:
    try:
        options = msgspec.convert(component.options, Options, strict=True)
    except msgspec.ValidationError as error:
        raise _bad_options(component, str(error)) from error
    if options.check not in {"quick", "none"} or options.restore not in {"image", "records"}:
        raise _bad_options(component, "check is quick or none, restore is image or records")
    if not 0 < options.freeze_limit < threading.TIMEOUT_MAX:
        raise _bad_options(component, "freeze_limit is a number of seconds above 0")
    return options


def _bad_options(component: Component, why: str) -> ManifestError:
    return ManifestError(
        f"The options of component {component.name} are wrong: {why}.",
        untouched="Nothing was changed.",
        next_step="The driver chroma knows: rows (true or false), check (quick or none), freeze_limit (seconds), "
        "restore (image or records).",
    )


def _folder(component: Component) -> str:
    """The folder itself: a symbolic link to it is followed."""
    return os.path.realpath(component.location)


def _library() -> str | None:
    """The version of chromadb beside this driver, which is not always the application's."""
    try:
        return version("chromadb")
    except PackageNotFoundError:
        return None


def _decoded_facts(connection: sqlite3.Connection) -> Facts:
    try:
        found = chroma_store.read_version(connection)
        collections = [_about(connection, c) for c in chroma_store.read_collections(connection)]
    except (sqlite3.Error, IntegrityError) as error:
        return {
            "understood": f"no: {error.message if isinstance(error, IntegrityError) else error}",
            "migrations": {},
            "collections": [],
        }
    unknown = chroma_store.unknown_version(found)
    understood = f"in parts: the version is {unknown}" if unknown else "yes"
    return {"understood": understood, "migrations": found, "collections": collections}


def _about(connection: sqlite3.Connection, collection: chroma_store.Collection) -> Json:
    query = "SELECT count(*) FROM embeddings WHERE segment_id = ?"
    return {
        "name": collection.name,
        "database": f"{collection.tenant}/{collection.database}",
        "records": connection.execute(query, (collection.metadata_segment,)).fetchone()[0],
        "dimension": collection.dimension,
        "embedding_function": collection.embedding_function,
        **{name: collection.settings[name] for name in ("space", "hnsw")},
    }


def _files(pin: ChromaPin) -> Iterator[Blob]:
    """Every file of every index."""
    for (segment, name), piece in pin.pieces.items():
        status, source = piece.status, pin.source((segment, name))
        stamp = to_msgpack(status) if status.rested(SETTLED) else None
        meta = _meta(status) | {"b3": digest(source, status.size)}
        path = PREFIX + os.fsencode(f"{segment}/{name}")
        yield Blob(path, status.size, source, meta, stamp, in_place=name in chroma_index.FIXED)


def _meta(status: Status) -> dict[str, Json]:
    return {"m": status.mode & 0o7777, "o": [status.uid, status.gid], "t": status.modified}


def _folder_meta(pin: ChromaPin) -> dict[str, Json]:
    """With what tells whether the image is whole."""
    return _meta(pin.status) | {
        "files": [PREFIX + os.fsencode("/".join(key)) for key in pin.pieces],
        "folders": {name: [s.mode & 0o7777, [s.uid, s.gid], s.modified] for name, s in pin.folders.items()},
    }


def _decoded(pin: ChromaPin, options: Options, component: str) -> Iterator[Rows | Finding]:
    damage = quick_check(pin.database.reader, component) if options.check == "quick" else None
    if damage is not None:
        yield damage
        if damage.severity is Severity.BROKEN:
            yield _not_decoded("the database is damaged.", component)
            return
    try:
        if options.check == "quick" and damage is None:
            yield from check_virtual_tables(pin.database.reader, pin.database.image, component)
        view = View(pin)
        yield from folder_findings(pin, view, component)
        yield from (item for item in view.items(component) if options.rows or isinstance(item, Finding))
    except sqlite3.Error as error:
        yield _not_decoded(explain(error, pin.folder).message, component)
    except IntegrityError as error:
        yield _not_decoded(error.message, component)


def _not_decoded(why: str, component: str) -> Finding:
    what = f"The collections were not decoded, or not all: {why} The image was kept."
    return Finding(severity=Severity.BROKEN, what=what, component=component)


def _fingerprint(pin: ChromaPin) -> str:
    try:
        return View(pin).fingerprint()
    except (sqlite3.Error, IntegrityError):
        whole = blake3(b"resurgam chroma bytes 1\0")
        for key, piece in pin.pieces.items():
            whole.update(to_msgpack(key) + digest(pin.source(key), piece.status.size))
        whole.update(digest(pin.database.image, pin.database.image.size))
        return whole.hexdigest()
