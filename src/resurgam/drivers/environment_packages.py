"""Installed packages, by their own metadata: ``*.dist-info`` folders with METADATA and RECORD, without running any code.

    look      every dist-info's files as bytes; two equal looks are the packages as they were at one moment between them
    describe  name, version, where it came from, and a digest over RECORD
    drift     which installed files are not what RECORD says: a package that was edited in place answers differently

RECORD lists every installed file with its SHA-256 (packaging.python.org, "Recording installed projects"). The digest leaves out
what an installer adds or rewrites, so that one wheel has one digest wherever it is installed: scripts (their first line names
the environment), compiled files (no hash), and the installer's own notes (INSTALLER, REQUESTED, direct_url.json, RECORD).
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from time import monotonic
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from resurgam.drivers.environment_form import Package, scrubbed
from resurgam.errors import LimitExceeded
from resurgam.model.codec import json_decoder

MAX_CHANGED = 20
_NOTES = frozenset({"INSTALLER", "REQUESTED", "RECORD", "direct_url.json", "uv_cache.json", "uv_build.json"})
_SCRIPTS = re.compile(r"(\.\./)+(bin|Scripts)/")
_NAMES = ("METADATA", "RECORD", "direct_url.json")
_PYTHON = re.compile(r"python3(\.\d+)?t?|pypy3\.\d+")


class Raw(NamedTuple):
    """What a dist-info holds; None where a file is missing."""

    metadata: bytes | None
    record: bytes | None
    direct_url: bytes | None


Look = dict[
    tuple[str, str], Raw
]  # by site folder and name of the dist-info folder (or of an egg: nothing in it is read)


class _Archive(msgspec.Struct):
    hash: str = ""


class _Folder(msgspec.Struct):
    editable: bool = False


class _Vcs(msgspec.Struct):
    vcs: str = ""
    commit_id: str = ""


class _DirectUrl(msgspec.Struct):
    """direct_url.json (packaging.python.org, "Direct URL Data Structure")."""

    url: str = ""
    dir_info: _Folder | None = None
    archive_info: _Archive | None = None
    vcs_info: _Vcs | None = None


def site_folders(root: str) -> list[str]:
    """The folders of packages below the prefix ``root``, links between them followed, each once."""
    found: dict[str, None] = {}
    for lib in ("lib", "lib64", "Lib"):
        folder = os.path.join(root, lib)
        inner = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        candidates = [os.path.join(folder, name) for name in inner if _PYTHON.fullmatch(name)]
        for place in (*candidates, folder):
            for name in ("site-packages", "dist-packages"):
                if os.path.isdir(site := os.path.join(place, name)):
                    found[os.path.realpath(site)] = None
    return list(found)


def look(sites: list[str], deadline: float) -> Look:
    """All metadata as it is now. Raises OSError, and LimitExceeded once ``monotonic()`` passes ``deadline``."""
    seen: Look = {}
    for site in sites:
        for name in sorted(os.listdir(site)):
            if name.endswith(".dist-info"):
                folder = os.path.join(site, name)
                raw = Raw(*(_read(os.path.join(folder, part)) for part in _NAMES))
                if raw != (None, None, None) or os.path.isdir(folder):
                    seen[site, name] = raw
            elif name.endswith((".egg-info", ".egg-link", ".egg")):
                seen[site, name] = Raw(None, None, None)
            if monotonic() > deadline:
                raise LimitExceeded(
                    f"Reading the metadata of the packages in {site} took longer than the freeze may.",
                    untouched="Nothing was held, and nothing was changed.",
                    next_step="Raise limits.freeze in resurgam.yaml, or put the environment on a faster disk.",
                )
    return seen


def describe(seen: Look) -> tuple[list[Package], list[str]]:
    """The packages sorted by name, each name and version once, and the dist-info folders that are only half there."""
    packages: dict[tuple[str, str], Package] = {}
    halves = []
    for (_, folder), raw in seen.items():
        package = _package(folder, raw)
        packages.setdefault((package.name, package.version), package)
        if folder.endswith(".dist-info") and (raw.metadata is None or raw.record is None):
            halves.append(folder)
    return [packages[key] for key in sorted(packages)], halves


def drifted(packages: list[Package], seen: Look) -> tuple[list[Package], list[str]]:
    """``packages`` with the files that differ from RECORD, and the names of those whose RECORD is no more the one that was
    seen: nothing is said of their files."""
    by_key = {(package.name, package.version): package for package in packages}
    moved = []
    for (site, folder), raw in seen.items():
        package = _package(folder, raw)
        if raw.record is None:
            continue
        changed, digest = _changed(site, raw.record)
        if _read(os.path.join(site, folder, "RECORD")) != raw.record:
            moved.append(package.name)
        elif changed:
            by_key[package.name, package.version] = replace(
                by_key[package.name, package.version],
                changed=tuple(changed[:MAX_CHANGED]),
                changed_count=len(changed),
                found=digest,
            )
    return [by_key[package.name, package.version] for package in packages], moved


def normalized(name: str) -> str:
    """A package's name in its one spelling (packaging.python.org, "Names and normalization")."""
    return re.sub(r"[-_.]+", "-", name).lower()


def entries(record: bytes) -> Iterator[tuple[str, str]]:
    """Path and hash of every file in a RECORD; the hash is empty where it gives none."""
    rows = csv.reader(io.StringIO(record.decode("utf-8", "surrogateescape"), newline=""))
    for row in rows:
        if row and row[0]:
            yield row[0], row[1] if len(row) > 1 else ""


def record_hash(path: str) -> str:
    """The hash of a file in RECORD's spelling. Raises OSError."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    return "sha256=" + urlsafe_b64encode(digest).rstrip(b"=").decode()


def _package(folder: str, raw: Raw) -> Package:
    fields = _fields(raw.metadata or b"")
    stem = folder.rpartition(".")[0]
    name, _, version = stem.partition("-")
    origin, url = _origin(raw.direct_url) if folder.endswith(".dist-info") else ("egg", folder)
    listed = list(entries(raw.record)) if raw.record is not None else []
    return Package(
        name=normalized(fields.get("name", name)),
        version=fields.get("version", version),
        digest=_digest(listed) if raw.record is not None else None,
        files=len(listed),
        requires_python=fields.get("requires-python", ""),
        origin=origin,
        url=url,
    )


def _digest(listed: list[tuple[str, str]]) -> str:
    """SHA-256 over the lines ``path,hash`` of what the wheel itself holds, sorted."""
    lines = []
    for path, digest in listed:
        folder, _, name = path.rpartition("/")
        note = folder.endswith(".dist-info") and name in _NOTES
        if digest and not note and not _SCRIPTS.match(path):
            lines.append(f"{path},{digest}\n")
    return hashlib.sha256("".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()


def _changed(site: str, record: bytes) -> tuple[list[str], str]:
    """The files that are not what RECORD says, and a digest over what they are now."""
    changed, found = [], hashlib.sha256()
    for path, promised in sorted(entries(record)):
        if not promised.startswith("sha256="):
            continue
        try:
            is_now = record_hash(os.path.join(site, path))
        except FileNotFoundError:
            is_now = "missing"
        except OSError as error:
            is_now = f"unreadable ({error.strerror})"
        if is_now != promised:
            changed.append(path)
            found.update(f"{path},{is_now}\n".encode("utf-8", "surrogateescape"))
    return [path.encode("utf-8", "backslashreplace").decode() for path in changed], found.hexdigest()


def _fields(metadata: bytes) -> dict[str, str]:
    """The one-line fields before the first empty line, by lower-case name; the first of each counts."""
    fields: dict[str, str] = {}
    for line in metadata.decode("utf-8", "replace").splitlines():
        if not line:
            break
        name, colon, value = line.partition(":")
        if colon and not line[0].isspace():
            fields.setdefault(name.strip().lower(), value.strip())
    return fields


def _origin(direct_url: bytes | None) -> tuple[str, str]:
    """Where a package came from: ``index`` where the installer noted nothing else."""
    if direct_url is None:
        return "index", ""
    try:
        said = json_decoder(_DirectUrl).decode(direct_url)
    except msgspec.DecodeError:  # also what is JSON of another form
        return "archive", "(direct_url.json cannot be read)"
    url = scrubbed(said.url)[0]
    if said.vcs_info is not None:
        return "vcs", f"{said.vcs_info.vcs}+{url}@{said.vcs_info.commit_id}"
    if said.dir_info is not None:
        return ("editable" if said.dir_info.editable else "folder"), url
    return "archive", url


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
