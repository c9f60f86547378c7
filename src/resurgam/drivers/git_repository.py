"""A git repository as it was captured, read with dulwich: refs, index, objects, configuration. Git itself is never run.

Running git in a tree that somebody else can write to runs what its configuration names (``core.fsmonitor``, filters, hooks,
pagers). Here files are parsed and nothing else happens; ``include`` is not followed, and no filter is applied.

Formats: gitrepository-layout(5), gitformat-index(5), gitformat-pack(5).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

from resurgam.drivers.git_hold import Pinned
from resurgam.errors import IntegrityError, MissingExtra

MAX_SMALL = 64 << 20  # bytes of a file that is read whole: refs, index, configuration, the index of a pack
_LINE_END = b"\n"


class Readable(Protocol):
    """What the files of a repository are, held or live: a Blob is one."""

    @property
    def size(self) -> int: ...
    @property
    def meta(self) -> Mapping[str, Any]: ...
    @property
    def source(self) -> Any: ...
    def read(self) -> bytes: ...


class OnDisk:
    """A file as it is now, for the few questions that need no held state. Raises OSError."""

    source: Any = None

    def __init__(self, where: bytes) -> None:
        with open(where, "rb") as file:
            self._data = file.read()
        self.size, self.meta = len(self._data), dict[str, Any]()

    def read(self) -> bytes:
        """All bytes."""
        return self._data


class Entry(NamedTuple):
    """One path of the index: ``stage`` is 0, or 1 to 3 where a merge left a conflict. ``time`` in ns."""

    mode: int
    blob: bytes
    stage: int
    size: int
    time: int


def require_dulwich() -> None:
    """Raises MissingExtra."""
    try:
        import dulwich.objects  # noqa: F401 - an extra
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "Looking into a git repository needs dulwich, which is not installed.",
            untouched="Nothing was changed.",
            next_step="Run: python -m pip install 'resurgam[git]'",
        ) from error


class Repository:
    """Over ``files``, by path from the component's root; ``prefix`` as in ``git_hold``. Needs dulwich. Close it."""

    def __init__(self, files: Mapping[bytes, Readable], prefix: bytes) -> None:
        require_dulwich()
        self.files, self.prefix = files, prefix
        self.config = self._config()
        self.format = self._object_format()
        self._loose = {
            path[len(prefix) + 8 :].replace(b"/", b""): file
            for path, file in files.items()
            if path.startswith(prefix + b"objects/") and len(path) == len(prefix) + 9 + self.format.hex_length
        }
        self._packs: list[Any] | None = None

    def text(self, name: str) -> bytes | None:
        """A small file of the repository; None where there is none."""
        file = self.files.get(self.prefix + name.encode())
        if file is None or file.meta.get("y", "f") != "f":
            return None
        if file.size > MAX_SMALL:
            raise damaged(f"{name} has {file.size} bytes")
        return file.read()

    def has(self, name: str) -> bool:
        """Whether the repository has a file or folder of that name."""
        return self.prefix + name.encode() in self.files

    def refs(self) -> dict[str, bytes]:
        """Every ref with what it holds: an object's id, or ``ref: NAME`` for a symbolic one. Loose ones win over packed ones."""
        found: dict[str, bytes] = {}
        for line in (self.text("packed-refs") or b"").split(_LINE_END):
            oid, _, name = line.partition(b" ")
            if name and not line.startswith((b"#", b"^")):
                found[shown(name)] = oid
        below = self.prefix + b"refs/"
        for path, file in self.files.items():
            if path.startswith(below) and file.size:
                found[shown(path[len(self.prefix) :])] = file.read().strip()
        for special in ("HEAD", "ORIG_HEAD", "MERGE_HEAD"):
            if value := self.text(special):
                found[special] = value.split(_LINE_END)[0].strip()
        return found

    def head(self) -> bytes | None:
        """The commit that HEAD leads to; None before the first one."""
        refs = self.refs()
        value: bytes | None = refs.get("HEAD")
        for _ in range(5):
            if value is None or not value.startswith(b"ref: "):
                return value
            value = refs.get(shown(value[5:].strip()))
        return None

    def branch(self) -> str | None:
        """The branch that is checked out; None where HEAD is detached."""
        value = self.refs().get("HEAD", b"")
        return shown(value[5:].removeprefix(b"refs/heads/")) if value.startswith(b"ref: ") else None

    def index(self) -> dict[tuple[bytes, int], Entry]:
        """The entries of the index by path and stage. Raises IntegrityError."""
        data = self.text("index")
        return entries_of(data, self.format) if data else {}

    def __contains__(self, oid: bytes) -> bool:
        return oid in self._loose or any(oid in index for index, _ in self._opened())

    def object(self, oid: bytes) -> Any:
        """The object as dulwich has it. KeyError where it is not here, IntegrityError where it is damaged."""
        from dulwich.errors import FileFormatException
        from dulwich.objects import ShaFile

        try:
            if oid in self._loose:
                return ShaFile.from_file(io.BytesIO(self._loose[oid].read()), object_format=self.format)
            for index, pack in self._opened():
                if oid in index:
                    kind, data = pack.get_raw(oid)
                    return ShaFile.from_raw_string(kind, data, object_format=self.format)
        except (FileFormatException, zlib.error, AssertionError, ValueError, IndexError) as error:
            raise damaged(f"object {oid.decode('ascii', 'replace')}: {error}") from error
        raise KeyError(oid)

    def close(self) -> None:
        """Close the packs; repeatable."""
        packs, self._packs = self._packs or [], None
        for _, pack in packs:
            pack.close()

    def _opened(self) -> list[Any]:
        """Each pack with the set of its ids."""
        if self._packs is None:
            self._packs = []
            for path, file in sorted(self.files.items()):
                if path.startswith(self.prefix + b"objects/pack/") and path.endswith(b".pack"):
                    index = self.files.get(path[:-5] + b".idx")
                    if index is not None and index.size <= MAX_SMALL:
                        self._packs.append(self._open_pack(shown(path), file, index.read()))
        return self._packs

    def _open_pack(self, name: str, file: Readable, index: bytes) -> tuple[frozenset[bytes], Any]:
        from dulwich.pack import Pack, PackData, load_pack_index_file

        try:
            with ExitStack() as undo:
                ids = load_pack_index_file(name, io.BytesIO(index), self.format)
                undo.callback(ids.close)
                opened = undo.enter_context(
                    file.source.file() if isinstance(file.source, Pinned) else io.BytesIO(file.read())
                )
                data = PackData(name, self.format, file=opened)
                opened.close()
                undo.pop_all()
            pack = Pack.from_lazy_objects(lambda: data, lambda: ids)
            assert pack.data is data
            return frozenset(bytes(oid).hex().encode() for oid, *_ in ids.iterentries()), pack
        except (AssertionError, ValueError, IndexError) as error:
            raise damaged(f"{name}: {error}") from error

    def _config(self) -> list[tuple[tuple[bytes, ...], dict[bytes, bytes]]]:
        """The sections of the configuration. Raises IntegrityError where it cannot be parsed."""
        from dulwich.config import ConfigFile

        try:
            parsed = ConfigFile.from_file(io.BytesIO(self.text("config") or b""), expand_includes=False)
        except ValueError as error:
            raise damaged(f"config: {error}") from error
        return [(tuple(section), dict(parsed.items(section))) for section in parsed.sections()]

    def setting(self, section: str, name: str) -> bytes | None:
        """The last value of a setting in a section without a subsection."""
        found = [values.get(name.encode()) for words, values in self.config if words == (section.encode(),)]
        return next((value for value in reversed(found) if value is not None), None)

    def _object_format(self) -> Any:
        from dulwich.object_format import OBJECT_FORMATS, SHA1

        return OBJECT_FORMATS.get(
            (self.setting("extensions", "objectformat") or b"sha1").decode("ascii", "replace"), SHA1
        )


def entries_of(data: bytes, object_format: Any) -> dict[tuple[bytes, int], Entry]:
    """The entries of an index. Raises IntegrityError."""
    from dulwich.index import UnsupportedIndexFormat, read_index

    try:
        found = list(read_index(io.BytesIO(data), object_format))
    except (UnsupportedIndexFormat, AssertionError, ValueError, IndexError, KeyError, struct.error) as error:
        raise damaged(f"index: {error or type(error).__name__}") from error
    return {
        (entry.name, int(entry.stage().value)): Entry(
            entry.mode, bytes(entry.sha), int(entry.stage().value), entry.size, _nanoseconds(entry.mtime)
        )
        for entry in found
    }


def _nanoseconds(time: Any) -> int:
    return int(time[0] * 1_000_000_000 + time[1]) if isinstance(time, tuple) else int(time * 1_000_000_000)


def tree(repository: Repository, oid: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Path, mode and id of everything below a tree that is no tree. Raises KeyError where one is missing."""
    folders = [(b"", oid)]
    while folders:
        prefix, folder = folders.pop()
        for name, mode, inner in repository.object(folder).items():
            if mode == 0o40000:
                folders.append((prefix + name + b"/", inner))
            else:
                yield prefix + name, mode, bytes(inner)


def damaged(what: str) -> IntegrityError:
    """The repository is not as git would have it."""
    return IntegrityError(
        f"The git repository is damaged: {what}.",
        untouched="Nothing was changed.",
        next_step="Run `git fsck` there, on a machine where running git in it is safe.",
    )


def shown(value: bytes) -> str:
    """Bytes for people."""
    return value.decode("utf-8", "backslashreplace")
