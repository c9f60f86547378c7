"""What a frozen Chroma folder means: its collections as Rows, what is wrong with it as findings, a digest of its meaning.

All of it is decoded from the pin, without the chromadb library. Where a part cannot be decoded (another version, a torn file, a
label map that is refused) that is a finding, the other parts are decoded none the less, and the image is captured in any case.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import msgspec
from blake3 import blake3

from resurgam.drivers import chroma_store as store
from resurgam.drivers.base import COPY_STEP, Rows, Source, read_fully
from resurgam.drivers.chroma_index import Index, broken
from resurgam.drivers.chroma_pin import ChromaPin
from resurgam.drivers.chroma_records import COLUMNS, Records
from resurgam.drivers.chroma_store import COLLECTIONS, Collection
from resurgam.drivers.sqlite_open import explain
from resurgam.errors import IntegrityError
from resurgam.model.codec import to_json, to_msgpack
from resurgam.model.point import Finding, Severity
from resurgam.model.system import Json

DATABASE = b"sqlite/chroma.sqlite3"  # the Blob of which all Rows are a view: the last one, so it stamps them all
_ABOUT = (
    "tenant",
    "database",
    "name",
    "id",
    "dimension",
    "space",
    "embedding_function",
    "settings",
    "metadata",
    "schema",
)
_KEY = ("tenant", "database", "name")


class View:
    """A pin, decoded. Raises IntegrityError where its database is none of Chroma's, or of a version that cannot be read."""

    def __init__(self, pin: ChromaPin) -> None:
        self._pin = pin
        self._reader = pin.database.reader
        try:
            self.version = store.read_version(self._reader)
            self.unknown = store.unknown_version(self.version)
            self.collections = store.read_collections(self._reader)
            self._queue = store.read_queue(self._reader, self.collections)
        except sqlite3.Error as error:
            raise explain(error, pin.folder) from error

    def records(self, collection: Collection) -> tuple[Records, IntegrityError | None]:
        """The records of ``collection``, and what makes its index unreadable; then only the queue has vectors."""
        trouble, index = None, None
        try:
            index = self._index(collection)
        except IntegrityError as error:
            trouble = error
        return Records(self._reader, collection, index, self._queue[collection.id]), trouble

    def items(self, component: str) -> Iterator[Rows | Finding]:
        """Findings and Rows, collection by collection."""
        yield self.about()
        for collection in self.collections:
            records, trouble = self.records(collection)
            if trouble is not None:
                what = f"Collection {collection.name}: {trouble.message} Its files were kept."
                yield Finding(severity=Severity.BROKEN, what=what, component=component)
            try:
                yield from records.findings(component)
            except sqlite3.Error as error:
                raise explain(error, self._pin.folder) from error
            yield self._rows(collection, records)

    def about(self) -> Rows:
        """The table of collections."""
        rows = [
            (
                *(c.tenant, c.database, c.name, c.id, c.dimension, c.space, c.embedding_function),
                *(to_json(c.settings).decode(), store.canonical(c.metadata), c.schema),
            )
            for c in self.collections
        ]
        return Rows(COLLECTIONS, _ABOUT, _KEY, [rows], view_of=DATABASE)

    def tables(self, statement: str) -> Iterator[Rows]:
        """The tables that ``statement`` can mean: those whose names stand in it."""
        yield self.about()
        for collection in self.collections:
            if collection.table.lower() in statement.lower():
                yield self._rows(collection, self.records(collection)[0])

    def orphans(self) -> list[str]:
        """Folders of segments that no collection has."""
        known = {collection.vector_segment for collection in self.collections}
        return sorted({segment for segment, _ in self._pin.pieces} - known)

    def fingerprint(self) -> str:
        """Hex digest of settings and records, in the order of names and ids; ids of collections, places in files and the queue
        leave no trace. The files of an index that cannot be decoded count byte by byte."""
        whole = blake3(b"resurgam chroma 1\0")
        for c in self.collections:
            records, trouble = self.records(c)
            whole.update(to_msgpack([c.tenant, c.database, c.name, c.dimension, c.settings, c.metadata]))
            whole.update(_digest_of(records))
            if trouble is not None:
                whole.update(self._bytes_of(c.vector_segment))
        return whole.hexdigest()

    def _index(self, collection: Collection) -> Index | None:
        """None where nothing was persisted yet. Raises IntegrityError."""
        files = self._pin.segment(collection.vector_segment)
        if not files and not collection.applied_vector:
            return None
        index = Index(files, collection.space == "cosine")
        if collection.dimension is not None and index.dimension != collection.dimension:
            raise broken(f"it holds {index.dimension} numbers a vector, the collection {collection.dimension}")
        return index

    def _rows(self, collection: Collection, records: Records) -> Rows:
        batches = _explained(records.batches(), self._pin.folder)
        return Rows(collection.table, COLUMNS, ("id",), batches, view_of=DATABASE)

    def _bytes_of(self, segment: str) -> bytes:
        pieces = ((key, piece.status.size) for key, piece in self._pin.pieces.items() if key[0] == segment)
        return b"".join(digest(self._pin.source(key), size) for key, size in pieces)


def digest(source: Source, size: int) -> bytes:
    """BLAKE3 of all bytes, 32 bytes."""
    whole = blake3()
    buffer = memoryview(bytearray(min(COPY_STEP, max(size, 1))))
    offset = 0
    while offset < size and (done := read_fully(source, offset, buffer[: size - offset])):
        whole.update(buffer[:done])
        offset += done
    return whole.digest()


def folder_findings(pin: ChromaPin, view: View, component: str) -> Iterator[Finding]:
    """About the folder as a whole: its version, and what lies in it without belonging to it."""
    if view.unknown:
        what = (
            f"The folder is of a version of Chroma that is {view.unknown}; it was decoded as far as it looks familiar."
        )
        yield Finding(severity=Severity.WARNING, what=what, component=component)
    if orphans := view.orphans():
        what = f"{len(orphans)} index folders belong to no collection; they were kept."
        yield Finding(severity=Severity.NOTE, what=what, component=component, keys=tuple(orphans[:20]))
    if names := [name.decode("utf-8", "backslashreplace") for name in pin.left_out]:
        what = f"{len(names)} entries of {pin.folder} are not Chroma's and were left out."
        yield Finding(severity=Severity.NOTE, what=what, component=component, keys=tuple(names[:20]))


def _digest_of(records: Records) -> bytes:
    """Digests of the records, summed up in the order of ids: the tables and the queue give them in another."""
    encode = msgspec.msgpack.Encoder(order="sorted").encode
    each = {key: blake3(encode(rest)).digest() for key, *rest in records}
    whole = blake3()
    for key in sorted(each):
        whole.update(blake3(encode(key)).digest() + each[key])
    return whole.digest()


def _explained(batches: Iterator[list[tuple[Json, ...]]], folder: str) -> Iterator[list[tuple[Json, ...]]]:
    try:
        yield from batches
    except sqlite3.Error as error:
        raise explain(error, folder) from error
