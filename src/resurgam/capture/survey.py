"""What lies in a folder, as the parts of a system: looks, and writes nothing.

    scan (each file gets one kind) -> choose (whole folders where they hold nothing else, single files elsewhere)

SQLite databases are known by their first bytes, everything else by its name. What holds a secret is kept out and told; so is
source code, which its version control keeps; what is not understood is told too. ``discover`` makes a manifest of it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from resurgam.capture import secrets
from resurgam.capture.discover_sqlite import is_database
from resurgam.drivers.sqlite_open import SIDE_FILES
from resurgam.errors import NotFound, UsageError


class Kind(StrEnum):
    """What a file is taken for."""

    DATABASE = "SQLite database"
    MODEL = "model file"
    PROMPT = "prompt or policy"
    CONFIG = "configuration"
    DATASET = "data set"
    CODE = "source code"
    PROSE = "about the project"
    SECRET = "secret"  # noqa: S105 - a kind of file
    LINK = "symbolic link"
    UNKNOWN = "not understood"


CAPTURED = {Kind.MODEL, Kind.PROMPT, Kind.CONFIG, Kind.DATASET}
MAX_LOOSE = 8  # more files than this beside other things want a folder of their own, not a component each
MAX_TEXT = 256 << 10  # bytes of a configuration file that are searched for secrets and for the names of databases

_SUFFIXES = {
    Kind.MODEL: ".safetensors .onnx .gguf .npy .npz .pt .pth .bin .joblib .faiss",
    Kind.PROMPT: ".prompt .j2 .jinja .jinja2 .md .txt",
    Kind.CONFIG: ".yaml .yml .toml .json .ini .cfg .conf",
    Kind.DATASET: ".jsonl .ndjson .parquet .arrow .csv .tsv",
    Kind.CODE: ".py .pyi .ipynb .sh .js .mjs .ts .tsx .go .rs .java .c .h .cc .cpp .sql .html .css",
    Kind.SECRET: ".pem .key .p12 .pfx .jks .agekey",
}
_KIND_OF = {suffix: kind for kind, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}
_PROSE = {
    "readme",
    "license",
    "licence",
    "copying",
    "changelog",
    "contributing",
    "authors",
    "notice",
    "requirements",
    "security",
}
_BUILD = {"pyproject.toml", "setup.cfg", "package.json", "package-lock.json", "tsconfig.json", "tox.ini", "pytest.ini",
          "docker-compose.yml", "docker-compose.yaml", "makefile", "dockerfile", "constraints.txt", "pipfile"}  # fmt: skip
_SECRET_NAMES = {".env", ".netrc", ".pgpass", ".npmrc", ".pypirc", "id_rsa", "id_ed25519", "id_ecdsa", "credentials.json",
                 "credentials", "client_secret.json", "service-account.json", "trust.json"}  # fmt: skip
_SKIPPED = {"node_modules", "__pycache__", "site-packages", "venv", "env", "target", "dist", "build"}


@dataclass(slots=True)
class Folder:
    """One scanned folder. ``path`` is relative to the scanned one (empty for itself)."""

    path: str
    files: dict[str, Kind] = field(default_factory=dict)
    folders: list[Folder] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def below(self) -> Iterator[tuple[str, Kind]]:
        """Every file under this folder with its path, in order."""
        for name, kind in self.files.items():
            yield os.path.join(self.path, name), kind
        for folder in self.folders:
            yield from folder.below()

    def left_out(self) -> list[str]:
        """What must stay out where the folder is captured whole: secrets and skipped folders, relative to it."""
        mine = [name for name, kind in self.files.items() if kind is Kind.SECRET] + list(self.skipped)
        return mine + [os.path.join(os.path.basename(f.path), name) for f in self.folders for name in f.left_out()]

    def whole(self) -> Kind | None:
        """What it is, where all of it can be one component. What lies beside a model's weights belongs to the model."""
        kinds = Counter(kind for _, kind in self.below())
        captured = Counter({kind: count for kind, count in kinds.items() if kind in CAPTURED})
        foreign = kinds[Kind.DATABASE] + kinds[Kind.CODE]
        if not self.path or foreign or not captured or kinds[Kind.UNKNOWN] > captured.total() or self._holds_vault():
            return None
        return Kind.MODEL if captured[Kind.MODEL] else captured.most_common(1)[0][0]

    def _holds_vault(self) -> bool:
        return "a vault" in self.skipped.values() or any(folder._holds_vault() for folder in self.folders)


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

    def mentions(self, found: Found, name: str) -> str | None:
        """The path of a text of ``found`` in which ``name`` stands."""
        own = (path for path in self.texts if path == found.path or path.startswith(found.path + os.sep))
        return next((path for path in own if name in self.texts[path]), None)


def survey(root: str) -> Survey:
    """Look at all of ``root``. Nothing is written, and no link is followed.

    Raises UsageError where ``root`` is no folder, NotFound where nothing in it can be captured.
    """
    if not os.path.isdir(root):
        raise UsageError(f"{root} is not a folder.", next_step="Name the folder in which the system's files lie.")
    seen = Survey(os.path.abspath(root))
    _choose(_scan("", seen), seen)
    if not seen.found:
        raise NotFound(
            f"Nothing in {root} looks like a database, a model, prompts, data or configuration.",
            untouched="Nothing was written.",
            next_step="Name another folder, or write resurgam.yaml by hand after docs/manifest.md."
            + "".join(f"\nSeen: {note}" for note in seen.notes),
        )
    return seen


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
    for entry in entries:
        where = os.path.join(path, entry.name)
        if entry.is_dir(follow_symlinks=False):
            if why := _why_skipped(entry):
                folder.skipped[entry.name] = why
            else:
                folder.folders.append(_scan(where, seen))
        elif where != "resurgam.yaml" and not _is_beside(entry, entries):
            folder.files[entry.name] = _kind_of(entry, where, seen)
    return folder


def _why_skipped(entry: os.DirEntry[str]) -> str | None:
    if entry.name.startswith(".") or entry.name.lower() in _SKIPPED or entry.name.endswith(("cache", ".egg-info")):
        return "a cache, a build or a tool's own folder"
    if os.path.exists(os.path.join(entry.path, "pyvenv.cfg")):
        return "a Python environment"
    if all(os.path.isdir(os.path.join(entry.path, part)) for part in ("keys", "roles")):
        return "a vault"
    return None


def _is_beside(entry: os.DirEntry[str], entries: list[os.DirEntry[str]]) -> bool:
    """SQLite's own files belong to the database beside them, and its driver takes care of them."""
    names = {other.name for other in entries}
    return any(entry.name.endswith(end) and entry.name.removesuffix(end) in names for end in SIDE_FILES)


def _kind_of(entry: os.DirEntry[str], where: str, seen: Survey) -> Kind:
    if entry.is_symlink():
        return Kind.LINK
    name = entry.name.lower()
    stem, suffix = os.path.splitext(name)
    try:
        if entry.is_file() and is_database(entry.path, entry.stat().st_size):
            return Kind.DATABASE
        sample = name.startswith(".env") and name.endswith((".example", ".sample", ".template"))
        if (
            name in _SECRET_NAMES
            or suffix in _SUFFIXES[Kind.SECRET].split()
            or (name.startswith(".env.") and not sample)
        ):
            seen.secrets[where] = "a file for secrets, by its name"
            return Kind.SECRET
        if stem in _PROSE or name in _BUILD or sample or name.startswith(".git"):
            return Kind.PROSE
        kind = _KIND_OF.get(suffix, Kind.UNKNOWN)
        if kind in {Kind.CONFIG, Kind.PROMPT} and (why := secrets.found_in_file(_text(entry.path, where, seen))):
            seen.secrets[where] = why
            return Kind.SECRET
        if suffix == ".safetensors":
            _text(entry.path, where, seen)  # its header may tell what it was trained on
        return kind
    except OSError as error:
        seen.notes.append(f"{where}: cannot be read ({error.strerror})")
        return Kind.UNKNOWN


def _text(path: str, where: str, seen: Survey) -> str:
    with open(path, "rb") as file:
        seen.texts[where] = file.read(MAX_TEXT).decode("utf-8", "replace")
    return seen.texts[where]


def _choose(folder: Folder, seen: Survey) -> None:
    """Components from the top down: a whole folder where it can be, else its files and what lies below."""
    if (kind := folder.whole()) and writable(folder.path):
        size = sum(_size(seen, path) for path, _ in folder.below())
        seen.found.append(Found(folder.path, kind, size, folder.left_out()))
        return
    loose = [name for name, kind in folder.files.items() if kind in CAPTURED - {Kind.PROMPT}]
    crowd = len(loose) > MAX_LOOSE
    for name, kind in folder.files.items():
        path = os.path.join(folder.path, name)
        if (kind is Kind.DATABASE or (name in loose and not crowd)) and writable(path):
            seen.found.append(Found(path, kind, _size(seen, path)))
        elif kind not in {Kind.SECRET, Kind.CODE, Kind.PROSE} and not (crowd and name in loose):
            seen.notes.append(
                f"{path}: {kind.value}{'' if writable(path) else ', and its name cannot stand in a manifest'}"
            )
    where = folder.path or "this folder"
    if crowd:
        seen.notes.append(
            f"{where}: {len(loose)} files beside other things; give them a folder of their own to capture them"
        )
    if code := sum(kind is Kind.CODE for kind in folder.files.values()):
        seen.notes.append(f"{where}: {code} files of source code; version control keeps them")
    seen.notes.extend(f"{os.path.join(folder.path, name)}: {why}" for name, why in folder.skipped.items())
    for below in folder.folders:
        _choose(below, seen)


def _size(seen: Survey, path: str) -> int:
    try:
        return os.lstat(os.path.join(seen.root, path)).st_size
    except OSError:  # gone since the scan: a size in a comment is not worth an error
        return 0
