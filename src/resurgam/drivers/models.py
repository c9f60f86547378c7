"""Driver ``models``: a folder of model files, or one, whose tensors can be told apart.

Bytes, modes, links and restores are those of ``files``. Beside them, each file of numbers (safetensors, GGUF, ONNX, npy, npz, what
``torch.save`` writes) is a view: the table ``tensors of FILE`` with name, dtype, shape, bytes, digest and norm, and the table
``header of FILE`` with what else its header says. So a diff names the tensors that changed, and a file that did not change is
not decoded again. Where a tensor lies in its file is not part of it: the same weights in another order are the same tensors.

No file is ever unpickled, executed, or trusted: one that is not as its format says is a finding and is kept as bytes.

Asked in SQL (invariants), there are three tables: ``files`` (path, bytes, sha256), ``tensors`` and ``metadata``.

Options: those of ``files``; ``tensors: false`` keeps bytes only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, suppress

import msgspec

from resurgam.drivers import models_rows as said
from resurgam.drivers.asked import ask
from resurgam.drivers.base import Blob, Facts, Item, Rows, Source, Told
from resurgam.drivers.files import FilesDriver
from resurgam.drivers.files_listing import excluded_by, scan, shown
from resurgam.drivers.files_reading import OpenFile, place_of
from resurgam.drivers.models_rows import FILES, METADATA, TENSORS, Row, name_of, state_of
from resurgam.drivers.models_telling import told
from resurgam.drivers.tensor import Malformed, Model, Window
from resurgam.drivers.tensor_formats import read_model
from resurgam.errors import Busy, ManifestError
from resurgam.model.point import Finding, Position
from resurgam.model.system import Component, Consistency

MAX_FILES = 1000  # seen as tensors; a folder of more is a data set


class ModelsDriver:
    """See the module's docstring."""

    kind = "models"
    traits = FilesDriver.traits

    def __init__(self) -> None:
        self._files = FilesDriver()
        self._answers: dict[str, dict[str, list[Row]]] = {}  # by position and table: what was decoded for a question

    def inspect(self, component: Component) -> Facts:
        """Facts of ``files``, and from the headers alone: formats, counts of tensors and of parameters, dtypes."""
        plain, wanted = _options(component)
        facts = self._files.inspect(plain)
        if not wanted:
            return facts
        formats, dtypes, parameters = Counter[str](), Counter[str](), 0
        for model in _headers(plain):
            formats[model.format] += 1
            dtypes.update(tensor.dtype for tensor in model.tensors)
            parameters += sum(tensor.parameters for tensor in model.tensors)
        counts = {"tensors": dtypes.total(), "parameters": parameters}
        return facts | counts | {"formats": dict(formats), "dtypes": dict(dtypes)}

    def freeze(self, component: Component, limit: float | None = None) -> AbstractContextManager[Position]:
        """As ``files``: a small folder is copied, a large one listed."""
        return self._files.freeze(_options(component)[0], limit)

    def read(self, component: Component, at: Position) -> Iterator[Item | Finding]:
        """The items of ``files``; after each model file the tables that are decoded from it."""
        plain, wanted = _options(component)
        seen: dict[bytes, object] = {}
        passed: list[str] = []
        for item in self._files.read(plain, at):
            if not wanted or not isinstance(item, Blob) or not _is_candidate(plain, item):
                yield item
            elif len(seen) == MAX_FILES:
                passed.append(shown(item.path))
                yield item
            else:
                seen[item.path] = item.size, item.meta["t"]
                item.view = True
                yield item
                if item.known:
                    item.source.close()
                else:
                    yield from _decoded(plain, at, item)
                item.view = False
        if passed:
            yield said.passed_over(plain, passed, MAX_FILES)
        if at.earned < Consistency.SNAPSHOT:
            changed = [shown(path) for path, state in seen.items() if state_of(place_of(plain, path)) != state]
            if changed:
                yield said.moved(plain, changed)

    def query(self, component: Component, at: Position, statement: str) -> Rows:
        """One SELECT over ``files``, ``tensors`` and ``metadata``. Raises ManifestError, NotFound, and Busy where a file of a large
        folder changed since the freeze."""
        plain, _ = _options(component)
        known = self._answers.setdefault(at.token, {})
        tables = []
        for name, columns in (("files", FILES), ("tensors", TENSORS), ("metadata", METADATA)):
            if re.search(name, statement, re.IGNORECASE):  # what nobody asks for is not decoded
                if name not in known:
                    known[name] = [row for blob in self._blobs(plain, at) for row in _rows(name, plain, at, blob)]
                tables.append(Rows(name, columns, (), [known[name]]))
        return ask(tables, statement, component.location)

    def _blobs(self, component: Component, at: Position) -> Iterator[Blob]:
        for item in self._files.read(component, at):
            if isinstance(item, Blob) and item.meta.get("y", "f") == "f":
                yield item
                item.source.close()

    def tell(self, component: Component, before: Blob | None, after: Blob | None) -> Iterator[Told]:
        """How tensors moved: norms, and the norm of the difference."""
        blob = after or before
        assert blob is not None, "what differs stands on one side at least"
        return told(shown(blob.path), name_of(component, blob.path), before, after)

    def reopen(self, component: Component, at: Position, path: bytes) -> Source:
        """As ``files``."""
        return self._files.reopen(component, at, path)

    def release(self, component: Component, at: Position) -> None:
        """Let go of what ``files`` holds and of what was decoded."""
        self._answers.pop(at.token, None)
        self._files.release(component, at)

    def write(self, items: Iterable[Item], target: Component) -> Component:
        """As ``files``; the tables lie in the files."""
        blobs = (item for item in items if not (isinstance(item, Rows) and item.view_of is not None))
        self._files.write(blobs, target)
        return target

    def fingerprint(self, component: Component) -> str:
        """As ``files``."""
        return self._files.fingerprint(_options(component)[0])

    def left_out(self, component: Component) -> list[bytes]:
        """As ``files``."""
        return self._files.left_out(_options(component)[0])

    def erase(self, target: Component) -> None:
        """As ``files``."""
        self._files.erase(target)


def _options(component: Component) -> tuple[Component, bool]:
    """The component as ``files`` knows it, and whether tensors are wanted."""
    options = dict(component.options)
    wanted = options.pop("tensors", True)
    if not isinstance(wanted, bool):
        raise ManifestError(
            f"Component {component.name!r}, options: tensors is {wanted!r}.",
            untouched="Nothing was read.",
            next_step="Write true or false; see docs/drivers/models.md.",
        )
    return msgspec.structs.replace(component, options=options), wanted


def _is_candidate(component: Component, blob: Blob) -> bool:
    return bool(blob.size and blob.meta.get("y", "f") == "f" and said.may_be_model(name_of(component, blob.path)))


def _headers(component: Component) -> Iterator[Model]:
    """What the headers of the live files say, of those that can be read and are as their formats say."""
    listing = scan(component.location, excluded_by(tuple(component.options.get("exclude", ()))))
    left = MAX_FILES
    for entry in listing:
        name = name_of(component, entry.path)
        if left and entry.is_file and entry.size and said.may_be_model(name):
            left -= 1
            with suppress(Malformed, OSError), closing(OpenFile(listing.where(entry.path))) as source:
                model = read_model(name, Window(source, entry.size))
                if model is not None:
                    yield model


def _source(component: Component, at: Position, blob: Blob) -> Source:
    """The file's bytes a second time, since the vault's threads read the first and close it. Raises OSError."""
    if at.earned >= Consistency.SNAPSHOT:
        return blob.source  # of a private copy, which several may read and nobody closes
    return OpenFile(place_of(component, blob.path))


def _decoded(component: Component, at: Position, blob: Blob) -> Iterator[Rows | Finding]:
    """The tables of one file, measured before the first is yielded, so that a file that lies yields none."""
    path = shown(blob.path)
    try:
        with closing(_source(component, at, blob)) as source:
            window = Window(source, blob.size)
            model = read_model(name_of(component, blob.path), window)
            if model is None:
                return
            tensors = list(said.tensor_rows(path, model))
            metadata = list(said.metadata_rows(path, model, window))
    except Malformed as error:
        yield said.unreadable(component, path, error)
        return
    except FileNotFoundError:
        return  # it is gone: its reader says so
    yield Rows(f"tensors of {path}", TENSORS, ("name",), [tensors], blob.path)
    yield Rows(f"header of {path}", METADATA, ("key",), [metadata], blob.path)
    yield from said.notes(component, blob, model)


def _rows(table: str, component: Component, at: Position, blob: Blob) -> list[Row]:
    """What one file adds to a table that is asked for; nothing where it is no model. Raises Busy."""
    path, name, before = shown(blob.path), name_of(component, blob.path), (blob.size, blob.meta["t"])
    try:
        with closing(_source(component, at, blob)) as source:
            rows = _TABLES[table](path, name, Window(source, blob.size))
    except (Malformed, FileNotFoundError) as error:
        if table == "files":
            raise _busy(path) from error
        return []
    if at.earned < Consistency.SNAPSHOT and state_of(place_of(component, blob.path)) != before:
        raise _busy(path)
    return rows


def _tensors_in(path: str, name: bytes, window: Window) -> list[Row]:
    model = read_model(name, window) if window.size and said.may_be_model(name) else None
    return list(said.tensor_rows(path, model)) if model is not None else []


def _metadata_in(path: str, name: bytes, window: Window) -> list[Row]:
    model = read_model(name, window) if window.size and said.may_be_model(name) else None
    return list(said.metadata_rows(path, model, window)) if model is not None else []


_TABLES: dict[str, Callable[[str, bytes, Window], list[Row]]] = {
    "files": lambda path, _, window: [said.file_row(path, window)],
    "tensors": _tensors_in,
    "metadata": _metadata_in,
}


def _busy(path: str) -> Busy:
    return Busy(
        f"{path} changed since the freeze, so it cannot be asked as it was.",
        untouched="Nothing was changed.",
        next_step="Let its writers rest, and capture again.",
    )
