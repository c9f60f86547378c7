"""What lies in a folder, as the parts of a system: looks, and writes nothing.

    scan (each file gets one kind) -> choose (whole folders where they hold nothing else, single files elsewhere)

SQLite databases are known by their first bytes, LangGraph's and Chroma's among them by their tables, environments and git
working trees by what stands in their folders, everything else by name and text (``discover_kinds``). No library of a store is
needed. What holds a secret is kept out and told; so is source code, which its version control keeps; what is not understood is
told too. ``discover`` makes a manifest of it.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from resurgam.capture.discover_kinds import FILES, TEXTS, Kind, is_tools, kind_of_name, tells_requirements
from resurgam.capture.discover_sqlite import is_database, kind_of_database
from resurgam.drivers.sqlite_open import SIDE_FILES
from resurgam.errors import NotFound, UsageError
from resurgam.model import secrets

MAX_LOOSE = 8  # more files than this beside other things want a folder of their own, not a component each
MAX_TEXT = 256 << 10  # bytes of a configuration file that are searched for secrets and for the names of databases
MANIFEST = "resurgam.yaml"

_APART = {Kind.DATABASE, Kind.AGENT, Kind.VECTORS, Kind.REPOSITORY, Kind.ENVIRONMENT}  # always a component of their own
_SKIPPED = {"node_modules", "__pycache__", "site-packages", "venv", "env", "target", "dist", "build"}
_CACHE = "a cache, a build or a tool's own folder"


@dataclass(slots=True)
class Folder:
    """One scanned folder. ``path`` is relative to the scanned one (empty for itself); ``kind``: all of it is one thing."""

    path: str
    kind: Kind | None = None
    files: dict[str, Kind] = field(default_factory=dict)
    folders: list[Folder] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def below(self) -> Iterator[tuple[str, Kind]]:
        """Every file under this folder with its path, in order; a folder that is one thing comes as such."""
        for name, kind in self.files.items():
            yield os.path.join(self.path, name), kind
        for folder in self.folders:
            if folder.kind is not None:
                yield folder.path, folder.kind
            else:
                yield from folder.below()

    def left_out(self) -> list[str]:
        """What must stay out where the folder is captured whole: secrets and skipped folders, relative to it."""
        mine = [name for name, kind in self.files.items() if kind is Kind.SECRET] + list(self.skipped)
        return mine + [os.path.join(os.path.basename(f.path), name) for f in self.folders for name in f.left_out()]

    def whole(self) -> Kind | None:
        """What it is, where all of it can be one component. What lies beside a model's weights belongs to the model."""
        if self.kind is not None:
            return self.kind
        kinds = Counter(kind for _, kind in self.below())
        captured = Counter({kind: count for kind, count in kinds.items() if kind in FILES})
        foreign = kinds[Kind.CODE] + sum(kinds[kind] for kind in _APART)
        if not self.path or foreign or not captured or kinds[Kind.UNKNOWN] > captured.total() or self.holds_vault():
            return None
        for first in (Kind.MODEL, Kind.TOOLS):
            if captured[first]:
                return first
        return captured.most_common(1)[0][0]

    def holds_vault(self) -> bool:
        """Whether a vault lies in it."""
        return "a vault" in self.skipped.values() or any(folder.holds_vault() for folder in self.folders)


@dataclass(slots=True)
class Found:
    """One component to be proposed."""

    path: str
    kind: Kind
    size: int
    left_out: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Survey:
    """Everything that a scan saw. Paths are relative to ``root``; ``notes`` say what is not proposed, and why."""

    root: str
    found: list[Found] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)  # of configuration and of models' headers
    questions: list[str] = field(default_factory=list)
    requirements: list[str] = field(default_factory=list)
    code: list[str] = field(default_factory=list)  # folders that hold source code

    def place(self, found: Found) -> str:
        """Where it is."""
        return os.path.join(self.root, found.path)

    def mentions(self, found: Found, name: str) -> str | None:
        """The path of a text of ``found`` in which ``name`` stands."""
        own = (path for path in self.texts if path == found.path or path.startswith(found.path + os.sep))
        return next((path for path in own if name in self.texts[path]), None)


def survey(root: str) -> Survey:
    """Look at all of ``root``. Nothing is written, and no link is followed.

    Raises UsageError where ``root`` is no folder or is itself a part, NotFound where nothing in it can be captured.
    """
    if not os.path.isdir(root):
        raise UsageError(f"{root} is not a folder.", next_step="Name the folder in which the system's files lie.")
    seen = Survey(os.path.abspath(root))
    if (kind := _kind_of_folder(seen.root, _names(root))) is not None:
        raise UsageError(
            f"{root} is itself a part of a system: {kind.value}.",
            untouched="Nothing was written.",
            next_step="Name the folder that it lies in: the manifest stands beside the parts, not in one.",
        )
    _choose(_scan("", seen), seen)
    if not seen.found:
        raise NotFound(
            f"Nothing in {root} looks like a database, a model, prompts, data or configuration.",
            untouched="Nothing was written.",
            next_step="Name another folder, or write resurgam.yaml by hand after docs/manifest.md."
            + "".join(f"\nSeen: {note}" for note in seen.notes),
        )
    return seen


def _names(root: str) -> set[str]:
    try:
        return set(os.listdir(root))
    except OSError:  # noted when it is scanned
        return set()


def writable(path: str) -> bool:
    """Whether ``path`` can stand in a manifest: UTF-8, printable, and without what would be read as a reference."""
    return path.isprintable() and "$" not in path and not path.startswith("~")


def _scan(path: str, seen: Survey) -> Folder:
    folder = Folder(path)
    try:
        with os.scandir(os.path.join(seen.root, path)) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        seen.notes.append(f"{path}: cannot be listed ({error.strerror})")
        return folder
    names = {entry.name for entry in entries}
    folder.kind = _kind_of_folder(os.path.join(seen.root, path), names) if path else None
    if folder.kind is not None:
        return folder
    for entry in entries:
        where = os.path.join(path, entry.name)
        if entry.is_dir(follow_symlinks=False):
            if why := _why_skipped(entry):
                folder.skipped[entry.name] = why
            else:
                folder.folders.append(_scan(where, seen))
        elif entry.name != MANIFEST and not _is_beside(entry.name, names):
            folder.files[entry.name] = _kind_of(entry, where, seen)
    if ".git" in names:
        _as_repository(folder, seen)
    return folder


def _kind_of_folder(place: str, names: set[str]) -> Kind | None:
    """A folder that is one thing, whatever else lies in it."""
    if "pyvenv.cfg" in names:
        return Kind.ENVIRONMENT
    database = os.path.join(place, "chroma.sqlite3")
    try:
        if "chroma.sqlite3" in names and is_database(database, os.path.getsize(database)):
            return Kind.VECTORS if kind_of_database(database) is Kind.VECTORS else None
    except sqlite3.Error:
        return Kind.VECTORS  # torn or locked, which is told where it is looked into
    except OSError:
        return None  # looked at like any other folder, where its error is told
    return None


def _as_repository(folder: Folder, seen: Survey) -> None:
    """A git working tree is captured as one, unless parts of the system that are no files of it lie in it."""
    apart = sum(kind in _APART for _, kind in folder.below())
    if folder.path and not apart and not folder.holds_vault():
        folder.kind = Kind.REPOSITORY
        folder.skipped.pop(".git", None)
        folder.files.pop(".git", None)  # of a linked working tree
    else:
        holds = ", and holds parts of its own" if apart else ""
        seen.notes.append(
            f"{folder.path or 'this folder'}: a git working tree{holds}; its own remote keeps its history"
        )
        folder.skipped[".git"] = "the history of the working tree"
        folder.files.pop(".git", None)


def _why_skipped(entry: os.DirEntry[str]) -> str | None:
    if os.path.exists(os.path.join(entry.path, "pyvenv.cfg")):
        return None  # an environment, whatever its name
    if entry.name.startswith(".") or entry.name.lower() in _SKIPPED or entry.name.endswith(("cache", ".egg-info")):
        return _CACHE
    if all(os.path.isdir(os.path.join(entry.path, part)) for part in ("keys", "roles")):
        return "a vault"
    return None


def _is_beside(name: str, names: set[str]) -> bool:
    """SQLite's own files belong to the database beside them, and its driver takes care of them."""
    return any(name.endswith(end) and name.removesuffix(end) in names for end in SIDE_FILES)


def _kind_of(entry: os.DirEntry[str], where: str, seen: Survey) -> Kind:
    if entry.is_symlink():
        return Kind.LINK
    try:
        if entry.is_file() and is_database(entry.path, entry.stat().st_size):
            return _kind_of_database(entry.path)
        kind = kind_of_name(where)
        if kind is Kind.SECRET:
            seen.secrets[where] = "a file for secrets, by its name"
        if kind in TEXTS and (why := secrets.found_in_file(_text(entry.path, where, seen))):
            seen.secrets[where] = why
            return Kind.SECRET
        if kind is Kind.CONFIG and is_tools(entry.name.lower(), seen.texts[where]):
            return Kind.TOOLS
        if entry.name.endswith(".safetensors"):
            _text(entry.path, where, seen)  # its header may tell what it was trained on
        return kind
    except OSError as error:
        seen.notes.append(f"{where}: cannot be read ({error.strerror})")
        return Kind.UNKNOWN


def _kind_of_database(path: str) -> Kind:
    try:
        kind = kind_of_database(path)
    except sqlite3.Error:
        return Kind.DATABASE  # damaged or locked: that is told where it is looked into
    return Kind.DATABASE if kind is Kind.VECTORS else kind  # Chroma's is a folder, under its own name


def _text(path: str, where: str, seen: Survey) -> str:
    with open(path, "rb") as file:
        seen.texts[where] = file.read(MAX_TEXT).decode("utf-8", "replace")
    return seen.texts[where]


def _choose(folder: Folder, seen: Survey) -> None:
    """Components from the top down: a whole folder where it can be, else its files and what lies below."""
    if (kind := folder.whole()) and writable(folder.path):
        seen.found.append(Found(folder.path, kind, _size_of_all(seen, folder.path), folder.left_out()))
        return
    loose = [name for name, kind in folder.files.items() if kind in FILES - {Kind.PROMPT}]
    crowd = len(loose) > MAX_LOOSE
    for name, kind in folder.files.items():
        path = os.path.join(folder.path, name)
        if tells_requirements(name.lower()):
            seen.requirements.append(path)
        if kind is Kind.QUESTIONS and writable(path):
            seen.questions.append(path)
        elif (kind in _APART or (name in loose and not crowd)) and writable(path):
            seen.found.append(Found(path, kind, _size(seen, path)))
        elif kind not in {Kind.SECRET, Kind.CODE, Kind.PROSE} and not (crowd and name in loose):
            unnamed = "" if writable(path) else ", and its name cannot stand in a manifest"
            seen.notes.append(f"{path}: {kind.value}{unnamed}")
    if crowd:
        where = folder.path or "this folder"
        seen.notes.append(
            f"{where}: {len(loose)} files beside other things; give them a folder of their own to capture them"
        )
    _note_code(folder, seen)
    seen.notes.extend(f"{os.path.join(folder.path, name)}: {why}" for name, why in folder.skipped.items())
    for below in folder.folders:
        _choose(below, seen)


def _note_code(folder: Folder, seen: Survey) -> None:
    if code := sum(kind is Kind.CODE for kind in folder.files.values()):
        seen.code.append(folder.path)
        seen.notes.append(f"{folder.path or 'this folder'}: {code} files of source code; version control keeps them")


def _size(seen: Survey, path: str) -> int:
    try:
        return os.lstat(os.path.join(seen.root, path)).st_size
    except OSError:  # gone since the scan: a size in a comment is not worth an error
        return 0


def _size_of_all(seen: Survey, path: str) -> int:
    below = os.walk(os.path.join(seen.root, path))
    return sum(_size(seen, os.path.join(where, name)) for where, _, names in below for name in names)
