"""From items to a Chroma folder: the image as it was, or a fresh folder built by Chroma itself from the records.

**image** (the default): the files stand as they stood, so search is identical. They are written as the driver ``files`` writes:
beside the target, renamed once (P5). What a carrier hands over is checked against the digests taken at capture, unless it is
a vault, which proves each chunk by itself.

**records**: the image is written beside the target, decoded, and added record by record to a new folder by the library
(``chroma_rebuild``, a process of its own: Chroma keeps state per process and does not survive a fork). The HNSW graph is then
another one: search is equivalent, not identical. Worth it where the index is damaged, or Chroma's formats have moved on.
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn, TypeVar

import msgspec
from blake3 import blake3

from resurgam.drivers import files_writing
from resurgam.drivers.base import Blob, CopiesItself, Item, Rows, Source
from resurgam.drivers.chroma_pin import DATABASE_FILE, SEGMENT
from resurgam.drivers.chroma_view import DATABASE
from resurgam.drivers.files_listing import ROOT
from resurgam.drivers.sqlite_open import MAGIC, explain_os
from resurgam.errors import IntegrityError, MissingExtra

PREFIX = b"hnsw/"
_PATH = re.compile(rb"hnsw/(?P<segment>" + SEGMENT.pattern.encode() + rb")/(?P<name>[^/\0]+)")


class FileMeta(msgspec.Struct, frozen=True):
    """What a file's Blob carries: permission bits, owner, mtime in ns, and the digest of its bytes (the database has none)."""

    m: int
    o: tuple[int, int]
    t: int
    b3: bytes = b""


class FolderMeta(FileMeta, frozen=True):
    """What the database's Blob carries besides: all paths of the image, and its folders' own metadata by name (``.``: the root)."""

    files: tuple[bytes, ...] = ()
    folders: dict[str, tuple[int, tuple[int, int], int]] = {}


M = TypeVar("M", bound=FileMeta)


def write_image(items: Iterable[Item], location: str) -> None:
    """The folder as it was. Raises TargetRefused, IntegrityError, Denied, StoreFull, and what ``items`` raise."""
    files_writing.refuse_what_stands(os.path.abspath(os.fsencode(location)))
    files_writing.write(_as_files(list(items)), location)


def write_records(items: Iterable[Item], location: str) -> None:
    """A fresh folder with the same records. Raises MissingExtra besides what :func:`write_image` raises."""
    place = os.path.abspath(os.fsencode(location))
    files_writing.refuse_what_stands(place)
    if importlib.util.find_spec("chromadb") is None:
        raise MissingExtra(
            "A restore from records needs chromadb, which is not installed.",
            untouched="Nothing was written.",
            next_step="Run: python -m pip install 'resurgam[chroma]', or restore the image (option restore: image).",
        )
    partial = f"{os.fsdecode(place)}.partial-{secrets.token_hex(8)}"
    image, fresh = os.path.join(partial, "image"), os.path.join(partial, "fresh")
    try:
        write_image(items, image)
        _rebuild(image, fresh)
        os.sync()  # P5: durable before it gets its name
        if os.path.isdir(place):
            os.rmdir(place)
        os.rename(fresh, place)
    except OSError as error:
        raise explain_os(error, location) from error
    finally:
        files_writing.remove(os.fsencode(partial))


def _rebuild(image: str, fresh: str) -> None:
    command = [sys.executable, "-m", "resurgam.drivers.chroma_rebuild", image, fresh]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise IntegrityError(
            f"Chroma could not build the folder from the records: {last.partition(':')[0]}.",
            untouched="Nothing stands at the target.",
            next_step="Restore the image instead (option restore: image), or another point.",
        )


def _as_files(items: list[Item]) -> Iterator[Item]:
    """The items as the driver ``files`` would have read this folder, in its order. Raises IntegrityError."""
    blobs: dict[bytes, Blob] = {}
    for item in items:
        if isinstance(item, Rows) and item.view_of == DATABASE:
            continue
        if not isinstance(item, Blob) or item.path in blobs:
            refuse("an item is there that does not belong to a Chroma folder, or comes twice")
        blobs[item.path] = item
    if DATABASE not in blobs:
        refuse("the database is missing")
    about = _meta(blobs[DATABASE], FolderMeta)
    if blobs.keys() != {DATABASE, *about.files}:
        refuse("files are missing, or some are there that were not captured with the database")
    head = memoryview(bytearray(len(MAGIC)))
    if blobs[DATABASE].source.read_into(0, head) != len(MAGIC) or head != MAGIC:
        refuse("the database is none")
    found = {_place(path): _file(blob) for path, blob in blobs.items()}
    for name, (mode, owner, modified) in about.folders.items():
        if name != "." and not SEGMENT.fullmatch(name):
            refuse("a folder has a name that is none of Chroma's")
        path = ROOT if name == "." else name.encode()
        found[path] = Blob(path, 0, _NoBytes(), {"y": "d", "m": mode, "o": owner, "t": modified})
    yield from (found[path] for path in sorted(found))


def _place(path: bytes) -> bytes:
    if path == DATABASE:
        return DATABASE_FILE.encode()
    found = _PATH.fullmatch(path)
    if found is None or found["name"] in {b".", b".."}:
        refuse("a path is none of a Chroma folder")
    return found["segment"] + b"/" + found["name"]


def _file(blob: Blob) -> Blob:
    about = _meta(blob, FileMeta)
    source = blob.source
    if about.b3 and not isinstance(source, CopiesItself):
        source = _Checked(source, blob.size, about.b3)
    return Blob(_place(blob.path), blob.size, source, {"m": about.m, "o": about.o, "t": about.t})


def _meta(blob: Blob, kind: type[M]) -> M:
    try:
        return msgspec.convert(blob.meta, kind)
    except msgspec.ValidationError as error:
        raise _refused(f"an item's meta is not known to this release ({error})") from error


class _NoBytes:
    """The Source of a folder."""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Nothing."""
        del offset, buffer
        return 0

    def settled(self) -> bool:
        """Nothing changes."""
        return True

    def close(self) -> None:
        """Nothing is held."""


class _Checked:
    """A Source that is read once, in order, and whose bytes must have the ``digest`` when it is closed."""

    def __init__(self, source: Source, size: int, digest: bytes) -> None:
        self._source, self._size, self._digest = source, size, digest
        self._whole: Any = blake3()
        self._read = 0

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """See ``drivers.base.Source``."""
        done = self._source.read_into(offset, buffer)
        assert offset == self._read, "the driver files reads in order"
        self._whole.update(buffer[:done])
        self._read += done
        return done

    def settled(self) -> bool:
        """As the source says."""
        return self._source.settled()

    def close(self) -> None:
        """Raises IntegrityError where the bytes are not those of the capture."""
        self._source.close()
        if self._read == self._size and self._whole.digest() != self._digest:
            refuse("a file of an index does not have the bytes that were captured")


def refuse(why: str) -> NoReturn:
    """Raise IntegrityError about the items."""
    raise _refused(why)


def _refused(why: str) -> IntegrityError:
    return IntegrityError(
        f"The items are not a whole Chroma folder: {why}.",
        untouched="Nothing was put at the target.",
        next_step="Run `resurgam vault check`, or restore another point.",
    )
