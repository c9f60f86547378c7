"""The description of an environment: one value, ``environment.json``, with tables decoded from it and a list to install from.

The document is deterministic JSON (``model.codec``), so equal environments have equal bytes. It names variables and holds the
values of those only that the owner listed; addresses and command lines come in without their credentials (:func:`scrubbed`,
:func:`without_secrets`), so that the document may be shown to anybody who may see the system.

The fingerprint is over the document without what says nothing about behaviour: how much memory there is, and which kernel release.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec
from blake3 import blake3
from msgspec.structs import replace

from resurgam.drivers.base import Rows
from resurgam.model.codec import to_json, versioned
from resurgam.model.system import Json

ENVIRONMENT = b"environment.json"
REQUIREMENTS = b"requirements.txt"
FORMAT = 1

# A name that says that its value is a secret. ``MAX_TOKENS`` is none: the word must end the name.
SAYS_SECRET = re.compile(
    r"(password|passwd|passphrase|secret)$|(^|[_.\- ])(pwd|token|credentials?|key|(api|access|private|signing)[_-]?key)$",
    re.IGNORECASE,
)
_CREDENTIALS = re.compile(r"\b([a-z][a-z0-9+.-]*://)[^\s/@]+@", re.IGNORECASE)
_OPTION = re.compile(r"(--?([A-Za-z][A-Za-z0-9_-]*)|([A-Za-z_][A-Za-z0-9_]*))=(.*)", re.DOTALL)
_TOKENS = re.compile(
    r"AGE-SECRET-KEY-1|-----BEGIN|\b(AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_\w{20}|\bgithub_pat_|\bsk-[\w-]{20}|\bhf_\w{20}"
)
LEFT_OUT = "(left out)"


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """One installed distribution. ``digest`` is over what its RECORD promises (None: it has no RECORD). ``origin`` is index,
    vcs, archive, folder or editable; ``url`` says where all but the first came from, without credentials. ``changed`` are
    files that are not what RECORD says, at most twenty of ``changed_count``; ``found`` is the digest over what they are."""

    name: str
    version: str
    digest: str | None
    files: int = 0
    requires_python: str = ""
    origin: str = "index"
    url: str = ""
    changed: tuple[str, ...] = ()
    changed_count: int = 0
    found: str = ""


class Interpreter(msgspec.Struct, frozen=True, kw_only=True):
    """What runs the code. ``digest`` is the SHA-256 of its program file; ``build`` is what it says of its own making; fields are
    empty where there was no interpreter to ask."""

    version: str
    implementation: str = ""
    build: str = ""
    platform: str = ""
    home: str = ""
    digest: str = ""
    system_packages: bool = False


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it ran. ``memory`` in bytes, ``threads`` are the variables by which libraries choose their number of threads."""

    system: str
    kernel: str
    libc: str
    distribution: str
    architecture: str
    cpu: str
    cpu_flags: tuple[str, ...]
    cores: int
    memory: int
    gpus: tuple[str, ...] = ()
    gpu_driver: str = ""
    container: str = ""
    threads: dict[str, str] = {}


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """One folder of the application's code: a git revision with what differs from it, or a digest of the files (always given
    where there is no clean revision)."""

    path: str
    revision: str = ""
    changes: tuple[str, ...] = ()
    digest: str = ""


class Pin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model that somebody else hosts, as the owner declared it."""

    provider: str
    model: str
    revision: str = ""


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """Something that no restore brings back, and why."""

    what: str
    why: str


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """All that was found. ``variables`` maps the declared names to whether they were set, ``values`` holds those of the
    allow-list. ``flags`` are the command line's words; ``flags_digest`` is of the file that holds them."""

    format: int
    interpreter: Interpreter
    packages: tuple[Package, ...]
    machine: Machine
    code: tuple[Code, ...] = ()
    variables: dict[str, bool] = {}
    values: dict[str, str] = {}
    flags: tuple[str, ...] = ()
    flags_digest: str = ""
    seeds: dict[str, Json] = {}
    threads: dict[str, Json] = {}
    image: str = ""
    hosted: tuple[Pin, ...] = ()
    cannot_be_restored: tuple[Lost, ...] = ()


def encoded(environment: Environment) -> bytes:
    """The document."""
    return to_json(environment)


def decoded(data: bytes) -> Environment:
    """The value of a document. Raises IntegrityError where it is none, NewerFormat."""
    return versioned(data, Environment, FORMAT, what="environment.json")


def fingerprint(environment: Environment) -> str:
    """BLAKE3 over what may change behaviour; see the module's docstring."""
    machine = replace(environment.machine, memory=0, kernel="")
    return blake3(b"resurgam environment 1\0" + encoded(replace(environment, machine=machine))).hexdigest()


def tables(environment: Environment) -> Iterator[Rows]:
    """The document as rows, all of them a view of it."""
    yield _table(
        "packages",
        ("name", "version", "digest", "origin", "url", "requires_python", "files", "changed"),
        ("name", "version"),
        (
            (p.name, p.version, p.digest, p.origin, p.url, p.requires_python, p.files, p.changed_count)
            for p in environment.packages
        ),
    )
    yield _table(
        "variables",
        ("name", "present", "value"),
        ("name",),
        ((name, int(there), environment.values.get(name)) for name, there in environment.variables.items()),
    )
    yield _table("machine", ("what", "value"), ("what",), _machine(environment))
    yield _table(
        "code",
        ("path", "revision", "changes", "digest"),
        ("path",),
        ((c.path, c.revision, len(c.changes), c.digest) for c in environment.code),
    )
    lost = ((lost.what, lost.why) for lost in environment.cannot_be_restored)
    yield _table("cannot_be_restored", ("what", "why"), ("what",), lost)


TABLES = frozenset({"packages", "variables", "machine", "code", "cannot_be_restored"})


def requirements(environment: Environment) -> bytes:
    """A list that pip reads: exact versions by name; what cannot be fetched by name stands in comments. There are no hashes:
    those of the files that were downloaded are not kept by any installer, and the digests here are of what was installed."""
    lines = ["# Made from environment.json. Digests of what was installed are there."]
    for package in environment.packages:
        if package.origin == "index":
            lines.append(f"{package.name}=={package.version}")
        elif package.origin == "vcs":
            lines.append(f"{package.name} @ {package.url}")
        else:
            lines.append(f"# {package.name}=={package.version}: {package.origin}, from {package.url}")
    return "".join(f"{line}\n" for line in lines).encode()


def scrubbed(url: str) -> tuple[str, bool]:
    """``url`` without user and password, and whether there were any."""
    clean = _CREDENTIALS.sub(r"\1", url)
    return clean, clean != url


def without_secrets(words: Iterable[str]) -> tuple[str, ...]:
    """A command line in which the values of options that say so (``--token x``, ``--api-key=x``), credentials in addresses and
    what begins like a key are left out."""
    clean: list[str] = []
    hide_next = False
    for word in words:
        option = _OPTION.fullmatch(word)
        if (hide_next and not word.startswith("-")) or _TOKENS.search(word):
            clean.append(LEFT_OUT)
        elif option and SAYS_SECRET.search(option[2] or option[3]):
            clean.append(f"{option[1]}={LEFT_OUT}")
        else:
            clean.append(scrubbed(word)[0])
        hide_next = option is None and word.startswith("-") and SAYS_SECRET.search(word.lstrip("-")) is not None
    return tuple(clean)


def looks_secret(value: str) -> bool:
    """Whether a value is one by its form."""
    return bool(_TOKENS.search(value) or _CREDENTIALS.search(value))


def _table(name: str, columns: tuple[str, ...], key: tuple[str, ...], rows: Iterable[tuple[Json, ...]]) -> Rows:
    return Rows(name=name, columns=columns, key=key, batches=[list(rows)], view_of=ENVIRONMENT)


def _machine(environment: Environment) -> Iterator[tuple[str, str]]:
    for prefix, value in (("interpreter", environment.interpreter), ("machine", environment.machine)):
        for name in value.__struct_fields__:
            yield f"{prefix}.{name}", _told(getattr(value, name))
    for name in ("flags", "flags_digest", "seeds", "threads", "image", "hosted"):
        yield name, _told(getattr(environment, name))


def _told(value: object) -> str:
    return value if isinstance(value, str) else to_json(value).decode()
