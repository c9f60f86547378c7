"""What the driver ``models`` says of one file: its tables, and what people should know of it."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterator
from typing import Any

from blake3 import blake3

from resurgam.drivers.base import Blob
from resurgam.drivers.files_listing import ROOT, shown
from resurgam.drivers.files_reading import place_of
from resurgam.drivers.tensor import Model, Window, measure
from resurgam.drivers.tensor_formats import SUFFIXES
from resurgam.model.codec import to_json
from resurgam.model.point import Finding, Severity
from resurgam.model.system import Component, Json

FILES = ("path", "bytes", "sha256")
TENSORS = ("file", "name", "dtype", "shape", "bytes", "digest", "norm")
METADATA = ("file", "key", "value")
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAX_KEYS = 20

Row = tuple[Json, ...]


def name_of(component: Component, path: bytes) -> bytes:
    """The file's name, which a component that is one file has in its location only."""
    return os.path.basename(place_of(component, path))


def may_be_model(name: bytes) -> bool:
    """Whether a file is worth a look: by its suffix, or, as in caches of downloads, because it has none."""
    return name.lower().endswith((*SUFFIXES, b".bin")) or b"." not in name


def tensor_rows(path: str, model: Model) -> Iterator[Row]:
    """The table ``tensors``. Reads every tensor once; raises Malformed."""
    for tensor in model.tensors:
        digest, norm = measure(tensor)
        shape = to_json(list(tensor.shape)).decode()
        yield path, tensor.name, tensor.dtype, shape, tensor.size, digest, norm


def metadata_rows(path: str, model: Model, window: Window) -> Iterator[Row]:
    """The table ``metadata``: the header's values, the format, and a digest of the whole file, which misses no change."""
    whole = blake3(max_threads=blake3.AUTO)
    for piece in window.pieces(0, window.size):
        whole.update(piece)
    for key, value in {"file.format": model.format, "file.digest": whole.hexdigest(), **model.metadata}.items():
        yield path, key, value


def file_row(path: str, window: Window) -> Row:
    """A row of the table ``files``."""
    digest = hashlib.sha256()
    for piece in window.pieces(0, window.size):
        digest.update(piece)
    return path, window.size, digest.hexdigest()


def notes(component: Component, blob: Blob, model: Model) -> Iterator[Finding]:
    """What people should know of one file. Where tensors lie in other files, its ``stamp`` goes, so that these are looked for
    anew each time."""
    path = shown(blob.path)
    for note in model.notes:
        yield _finding(component, f"{path} {note}", (path,), Severity.NOTE)
    if not model.elsewhere:
        return
    blob.stamp = None
    others = tuple(sorted(model.elsewhere))[:_MAX_KEYS]
    yield _finding(component, f"{path} has tensors in {len(model.elsewhere)} other files", others, Severity.NOTE)
    for other, end in sorted(model.elsewhere.items()):
        if (wrong := _wrong_with(component, path, other, end)) is not None:
            yield _finding(component, f"{path} has tensors in {other}, {wrong}", (path, other), Severity.WARNING)


def _wrong_with(component: Component, path: str, other: str, end: int) -> str | None:
    """Why a file that another one needs does not serve; None where it does."""
    beside = posixpath.normpath(posixpath.join(posixpath.dirname(path), other))
    if posixpath.isabs(other) or beside.startswith("..") or path == shown(ROOT):
        return "which lies outside this component and is not captured: make it part of one"
    try:
        size = os.stat(place_of(component, os.fsencode(beside))).st_size
    except OSError:
        return "which is not there: the model cannot be loaded"
    return None if size >= end else f"which has {size} bytes and should have {end}"


def unreadable(component: Component, path: str, why: Exception) -> Finding:
    """A file that is not as its format says."""
    return _finding(component, f"seen as bytes only: {path} {why}", (path,), Severity.WARNING)


def moved(component: Component, paths: list[str]) -> Finding:
    """Files whose tensors were read at another moment than their bytes."""
    what = (
        f"{len(paths)} model files changed while they were read: what is said of their tensors may be of another moment"
    )
    return _finding(component, what, tuple(paths[:_MAX_KEYS]), Severity.WARNING)


def passed_over(component: Component, paths: list[str], limit: int) -> Finding:
    """Files beyond the limit."""
    what = f"{len(paths)} files are kept as bytes only: {limit} are seen as tensors; split the folder into components"
    return _finding(component, what, tuple(paths[:_MAX_KEYS]), Severity.NOTE)


def _finding(component: Component, what: str, keys: tuple[str, ...], severity: Severity) -> Finding:
    return Finding(severity=severity, what=what, component=component.name, keys=keys)


def state_of(where: bytes) -> Any:
    """Size and mtime of a file, None where it is gone: equal where it did not change."""
    try:
        found = os.lstat(where)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
