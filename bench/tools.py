"""The tools' command lines. Encryption is on everywhere; every mode is a tool of its own.

What each flushes by itself, as their sources say: restic and borg each file of their repository and its folder, and nothing
of what they restore; Resurgam both. ``measure`` makes up the difference.
"""

# ruff: noqa: ARG002 - no tool needs all that its verbs are given

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import metadata

_PASSWORD = "bench"  # noqa: S105  of repositories that live for a minute

TO_INSTALL = "apt-get install restic borgbackup"
DATABASE = "documents.db"
BUFFERED = "resurgam, buffered packs"
FAST = "resurgam, fast"
OF_TEXT = ("dataset", "small")  # where that differs: of databases it compresses as hard, of floats no harder


class Tool(ABC):
    """One tool in one mode. The folder ``own`` is for its repository, caches and keys."""

    name: str

    @abstractmethod
    def version(self) -> str | None:
        """Its version and mode in words; None where it is not installed."""

    @abstractmethod
    def environment(self, own: str) -> dict[str, str]:
        """The variables that its commands run with."""

    @abstractmethod
    def prepare(self, own: str, source: str) -> list[str]:
        """The command that makes an empty repository for backups of ``source``; not timed."""

    @abstractmethod
    def backup(self, own: str, source: str) -> list[str]:
        """The command that backs ``source`` up."""

    @abstractmethod
    def restore(self, own: str, target: str) -> list[str]:
        """The command that restores the newest backup; it is run in ``target``."""

    def repository(self, own: str) -> str:
        """The folder whose bytes are what is stored."""
        return os.path.join(own, "repository")

    def counterpart(self, source: str) -> str:
        """What of ``source`` is backed up."""
        return source

    def restored(self, source: str, target: str) -> str:
        """Where that stands after a restore into ``target``."""
        return target + source


@dataclass(frozen=True)
class Resurgam(Tool):
    """Ours: the command line on a manifest of one component. ``options`` are the driver's, ``vault`` more of the vault's
    fields; ``program`` is what Python is to run."""

    name: str = "resurgam"
    driver: str = "files"
    options: tuple[tuple[str, object], ...] = ()
    program: tuple[str, ...] = ("-m", "resurgam")
    vault: tuple[tuple[str, object], ...] = ()

    def version(self) -> str | None:
        """See Tool."""
        options = dict(self.options + self.vault) or "as it comes"
        return f"resurgam {metadata.version('resurgam')}, driver {self.driver} {options}, AES-256-GCM"

    def environment(self, own: str) -> dict[str, str]:
        """See Tool."""
        # As from a terminal: the peers stand back behind nobody either.
        return _inherited() | {"RESURGAM_STATE": os.path.join(own, "state"), "RESURGAM_GENTLE": "no"}

    def prepare(self, own: str, source: str) -> list[str]:
        """See Tool."""
        location = self.counterpart(source)
        manifest = {
            "resurgam": 1,
            "system": "bench",
            "vault": {"path": self.repository(own), "keys": os.path.join(own, "keys"), **dict(self.vault)},
            "components": {"data": {"driver": self.driver, "location": location, "options": dict(self.options)}},
        }
        with open(os.path.join(own, "resurgam.yaml"), "w", encoding="utf-8") as file:
            json.dump(manifest, file)  # JSON is YAML
        return self._words(own, "vault", "init")

    def backup(self, own: str, source: str) -> list[str]:
        """See Tool."""
        del source  # the manifest says it
        return self._words(own, "capture")

    def restore(self, own: str, target: str) -> list[str]:
        """See Tool."""
        return self._words(own, "restore", "latest", "--into", os.path.join(target, "out"))

    def counterpart(self, source: str) -> str:
        """See Tool."""
        return os.path.join(source, DATABASE) if self.driver == "sqlite" else source

    def restored(self, source: str, target: str) -> str:
        """See Tool."""
        return os.path.join(target, "out", "data", os.path.basename(self.counterpart(source)))

    def _words(self, own: str, *words: str) -> list[str]:
        return [sys.executable, *self.program, *words, "--manifest", os.path.join(own, "resurgam.yaml")]


@dataclass(frozen=True)
class Restic(Tool):
    """restic with its repository format 2, the one that compresses."""

    compression: str

    @property
    def name(self) -> str:  # type: ignore[override]
        """See Tool."""
        return f"restic {self.compression}"

    def version(self) -> str | None:
        """See Tool."""
        said = _said(["restic", "version"])
        return said and f"{said}, repository format 2, --compression {self.compression}"

    def environment(self, own: str) -> dict[str, str]:
        """See Tool."""
        cache = os.path.join(own, "cache")
        return _inherited() | {
            "RESTIC_REPOSITORY": self.repository(own),
            "RESTIC_PASSWORD": _PASSWORD,
            "RESTIC_CACHE_DIR": cache,
        }

    def prepare(self, own: str, source: str) -> list[str]:
        """See Tool."""
        return ["restic", "init", "--repository-version", "2"]

    def backup(self, own: str, source: str) -> list[str]:
        """See Tool."""
        return ["restic", "backup", "--quiet", "--compression", self.compression, source]

    def restore(self, own: str, target: str) -> list[str]:
        """See Tool."""
        return ["restic", "restore", "latest", "--quiet", "--target", target]


@dataclass(frozen=True)
class Borg(Tool):
    """borg with repokey-blake2."""

    compression: str

    @property
    def name(self) -> str:  # type: ignore[override]
        """See Tool."""
        return f"borg {self.compression}"

    def version(self) -> str | None:
        """See Tool."""
        said = _said(["borg", "--version"])
        return said and f"{said}, repokey-blake2, --compression {self.compression}"

    def environment(self, own: str) -> dict[str, str]:
        """See Tool."""
        base = os.path.join(own, "base")
        return _inherited() | {"BORG_REPO": self.repository(own), "BORG_PASSPHRASE": _PASSWORD, "BORG_BASE_DIR": base}

    def prepare(self, own: str, source: str) -> list[str]:
        """See Tool."""
        return ["borg", "init", "--encryption", "repokey-blake2"]

    def backup(self, own: str, source: str) -> list[str]:
        """See Tool."""
        return ["borg", "create", "--compression", self.compression, "::{now:%s-%f}", source]

    def restore(self, own: str, target: str) -> list[str]:
        """See Tool."""
        newest = _said(["borg", "list", "--last", "1", "--format", "{archive}"], self.environment(own))
        return ["borg", "extract", f"::{newest}"]


PEERS: tuple[Tool, ...] = (Restic("auto"), Restic("off"), Borg("lz4"), Borg("zstd,1"))


def ours(name: str) -> list[Tool]:
    """Our modes for the data set ``name``; the first is the one that is compared with the peers."""
    buffered = ("-P", os.path.join(os.path.dirname(os.path.abspath(__file__)), "buffered.py"))
    if name != "sqlite":
        fast = [Resurgam(FAST, vault=(("compression", "fast"),))] * (name in OF_TEXT)
        return [Resurgam(), *fast, Resurgam(BUFFERED, program=buffered)]
    image_only = (("rows", False), ("check", "none"))
    return [
        Resurgam(driver="sqlite"),
        Resurgam("resurgam, image only", "sqlite", image_only),
        Resurgam(BUFFERED, "sqlite", program=buffered),
    ]


def _said(command: list[str], environment: dict[str, str] | None = None) -> str | None:
    """The first line of what ``command`` prints; None where it is not installed."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.splitlines()[0].strip()


def _inherited() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ}
