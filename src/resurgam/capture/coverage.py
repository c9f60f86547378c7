"""What a running application really uses, against what the manifest covers: each gap with the lines that would close it.

    look      /proc of the process and its children: files open and mapped, sockets, names of variables (``coverage_look``)
    sort      each file is covered by a component, the system's or the interpreter's own (summed up), or a gap
    propose   one component per gap, a database for each database, the topmost folder for files that lie together

One look sees what is open at that moment. ``watch`` looks again and again, and still misses what is opened and closed between
two looks; configuration that was read at the start is closed long ago. So no gap found is no proof that there is none, and
the report says how often was looked. What Python imported is closed at once too: its environment is known by its interpreter.
"""

from __future__ import annotations

import fnmatch
import os
import re
import time
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from resurgam.capture.coverage_look import Look, Remote, look
from resurgam.capture.discover_sqlite import is_database
from resurgam.drivers.files_listing import excluded_by
from resurgam.drivers.sqlite_open import SIDE_FILES
from resurgam.model.system import REFERENCE, Component, System

INTERVAL = 0.02  # seconds between two looks of ``watch``
MAX_KEYS = 20
MANY = 3  # from so many files in one folder on, the folder is proposed

_SYSTEM = (
    "/usr",
    "/lib",
    "/lib64",
    "/lib32",
    "/bin",
    "/sbin",
    "/etc",
    "/dev",
    "/proc",
    "/sys",
    "/opt/conda",
    "/snap",
    "/nix",
)
_CHECKED_OUT = ("/usr/local/share", "/usr/src")  # below /usr, and an application's all the same
_MODELS = (".safetensors", ".onnx", ".gguf", ".npy", ".npz", ".pt", ".pth")
_COMMON = re.compile(
    r"(PATH|HOME|LANG|LANGUAGE|LC_\w+|TERM\w*|COLORTERM|SHELL|USER|LOGNAME|PWD|OLDPWD|SHLVL|_|HOSTNAME|TZ|TMPDIR|MAIL|EDITOR|PAGER|LESS\w*"
    r"|DISPLAY|WAYLAND_DISPLAY|XDG_\w+|SSH_\w+|GPG_\w+|DBUS_\w+|LS_COLORS|PS1|SUDO_\w+|INVOCATION_ID|JOURNAL_STREAM|SYSTEMD_\w+"
    r"|MEMORY_PRESSURE_\w+|NOTIFY_SOCKET|VIRTUAL_ENV\w*|PYENV_\w+|CONDA_\w+|PIP_\w+|UV_\w+|__\w+|WINDOWID|MAKE\w*|MFLAGS)"
)
_PORTS = {
    5432: "PostgreSQL", 6432: "PgBouncer", 3306: "MySQL", 1433: "SQL Server", 1521: "Oracle", 6379: "Redis", 27017: "MongoDB",
    6333: "Qdrant", 6334: "Qdrant", 19530: "Milvus", 8000: "Chroma or another HTTP service", 9200: "Elasticsearch or OpenSearch",
    8080: "an HTTP service", 7687: "Neo4j", 9042: "Cassandra", 9092: "Kafka", 5672: "RabbitMQ", 4222: "NATS", 2379: "etcd",
    8500: "Consul", 8200: "Vault", 9000: "MinIO or ClickHouse",
    11211: "memcached", 11434: "Ollama", 5000: "MLflow or another HTTP service",
    4317: "OpenTelemetry", 53: "DNS", 80: "HTTP", 443: "HTTPS",
}  # fmt: skip
_NO_STATE = {53, 4317}


class Covered(msgspec.Struct, frozen=True, kw_only=True):
    """What a component takes in: how many of the used files (or connections), and some of them."""

    component: str
    count: int
    examples: tuple[str, ...]


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is used and that no component covers. ``kind``: file, environment, connection, variable, deleted.
    ``add`` are lines for resurgam.yaml, empty where no line can close it; ``examples`` are what was seen."""

    kind: str
    what: str
    examples: tuple[str, ...] = ()
    add: tuple[str, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """``processes`` are programs by process id. ``summed`` counts what needs no component. ``looks`` were
    taken in ``seconds``: what was open between two of them was missed."""

    system: str
    processes: dict[str, str]
    looks: int
    seconds: float
    covered: tuple[Covered, ...]
    gaps: tuple[Gap, ...]
    summed: dict[str, int]


class _Sorted(NamedTuple):
    covered: dict[str, set[str]]
    open: set[str]
    summed: dict[str, int]


def coverage(system: System, pid: int, watch: float = 0.0) -> Report:
    """What ``pid`` and its children use, against ``system``. ``watch`` is how many seconds to go on looking.

    Raises NotFound where there is no such process, Denied where it may not be looked at.
    """
    began = time.monotonic()
    seen, looks = look(pid), 1
    while time.monotonic() - began < watch and os.path.exists(f"/proc/{pid}"):
        time.sleep(INTERVAL)
        seen, looks = seen | look(pid, wanted=False), looks + 1
    return report(system, seen, looks, time.monotonic() - began)


def report(system: System, seen: Look, looks: int, seconds: float) -> Report:
    """``seen`` sorted by what covers it."""
    found = _sorted(system, seen)
    gaps = [*_environments(system, seen), *_files(system, found.open), *_connections(system, seen, found)]
    gaps += [*_deleted(seen), *_variables(system, seen, found)]
    return Report(
        system=system.name,
        processes={str(pid): command for pid, command in sorted(seen.processes.items())},
        looks=looks,
        seconds=round(seconds, 3),
        covered=tuple(
            Covered(component=name, count=len(used), examples=tuple(sorted(used)[:MAX_KEYS]))
            for name, used in sorted(found.covered.items())
        ),
        gaps=tuple(gaps),
        summed=dict(sorted(found.summed.items())),
    )


def _sorted(system: System, seen: Look) -> _Sorted:
    covered: dict[str, set[str]] = {}
    open_: set[str] = set()
    summed = {"system files": 0, "interpreter files": 0, "unnamed unix connections": seen.unnamed}
    interpreters = [f"{prefix}/" for prefix in (*seen.prefixes, *seen.bases)]
    for path in seen.files:
        if (name := _covering(system, path)) is not None:
            covered.setdefault(name, set()).add(path)
        elif any(path.startswith(prefix) for prefix in interpreters):
            summed["interpreter files"] += 1
        elif _is_system(path):
            summed["system files"] += 1
        else:
            open_.add(path)
    for prefix in seen.prefixes:
        if (name := _covering(system, prefix)) is not None:
            covered.setdefault(name, set()).add(prefix)
    return _Sorted(covered, open_, summed)


def _covering(system: System, path: str) -> str | None:
    """The component that holds ``path``: its location, what SQLite keeps beside one, or what lies below it and is not left out."""
    for component in system.components:
        place = os.path.realpath(component.location)
        if path == place or path in [place + ending for ending in SIDE_FILES]:
            return component.name
        if path.startswith(place + "/") and not _left_out(component, os.path.relpath(path, place)):
            return component.name
    return None


def _left_out(component: Component, path: str) -> bool:
    globs = component.options.get("exclude")
    excluded = excluded_by(tuple(map(str, globs))) if isinstance(globs, list | tuple) else None
    parts = path.split("/")
    above = ("/".join(parts[: end + 1]) for end in range(len(parts)))
    return excluded is not None and any(excluded(os.fsencode(each)) for each in above)


def _is_system(path: str) -> bool:
    return _below(path, _SYSTEM) and not _below(path, _CHECKED_OUT)


def _below(path: str, folders: tuple[str, ...]) -> bool:
    return any(path == folder or path.startswith(folder + "/") for folder in folders)


def _environments(system: System, seen: Look) -> Iterator[Gap]:
    for prefix in seen.prefixes:
        if _covering(system, prefix) is None:
            add = _component(system, os.path.basename(prefix).strip(".") or "runtime", "environment", prefix)
            yield Gap(kind="environment", what=f"the Python environment {prefix}", examples=(prefix,), add=add)


def _files(system: System, paths: set[str]) -> Iterator[Gap]:
    folders: dict[str, list[str]] = {}
    for path in sorted(paths):
        base = next((path.removesuffix(end) for end in SIDE_FILES if path.removesuffix(end) in paths), path)
        if base != path:
            continue  # SQLite's own file beside a database that is a gap itself
        chroma = _above_with(path, "chroma.sqlite3")
        if chroma is not None:
            folders.setdefault(chroma + "\0chroma", []).append(path)
        elif _is_sqlite(path):
            stem = os.path.splitext(os.path.basename(path))[0]
            yield Gap(kind="file", what=f"the SQLite database {path}", examples=(path,),
                      add=_component(system, stem, "sqlite", path))  # fmt: skip
        else:
            driver = "models" if path.endswith(_MODELS) else "files"
            folders.setdefault(f"{os.path.dirname(path)}\0{driver}", []).append(path)
    for key, inside in sorted(folders.items()):
        folder, driver = key.split("\0")
        whole = driver == "chroma" or len(inside) >= MANY
        for place in [folder] if whole else inside:
            what = f"{len(inside)} files in {place}" if whole else place
            add = _component(system, os.path.basename(place), driver, place)
            yield Gap(kind="file", what=what, examples=tuple(inside[:MAX_KEYS]) if whole else (place,), add=add)


def _connections(system: System, seen: Look, found: _Sorted) -> Iterator[Gap]:
    places = {component.name: component.location for component in system.components if "://" in component.location}
    for remote in sorted(seen.remotes):
        name = next((name for name, place in places.items() if _leads_to(place, remote)), None)
        if name is not None:
            found.covered.setdefault(name, set()).add(str(remote))
        elif remote.port in _NO_STATE:
            found.summed["connections without state"] = found.summed.get("connections without state", 0) + 1
        else:
            who = f", served by {remote.server}" if remote.server else ""
            what = f"{_PORTS.get(remote.port, 'an unknown service')} at {remote}{who}"
            yield Gap(kind="connection", what=what, examples=(str(remote),))
    for path in sorted(seen.unix):
        if _covering(system, path) is None and not _below(path, ("/run", "/var/run", "/tmp/.X11-unix")):  # noqa: S108
            yield Gap(kind="connection", what=f"the unix socket {path}", examples=(path,))


def _leads_to(place: str, remote: Remote) -> bool:
    match = re.match(r"[a-z+]+://(?:[^/@]*@)?(\[[^\]]+\]|[^:/]+)(?::(\d+))?", place)
    local = match is not None and match[1] in ("localhost", "127.0.0.1", "[::1]", "::1") and remote.is_local
    return match is not None and (local or match[1].strip("[]") == remote.host) and match[2] == str(remote.port)


def _deleted(seen: Look) -> Iterator[Gap]:
    if seen.deleted:
        what = f"{len(seen.deleted)} files that are open and have no name any more: they end with the process"
        yield Gap(kind="deleted", what=what, examples=tuple(sorted(seen.deleted)[:MAX_KEYS]))


def _variables(system: System, seen: Look, found: _Sorted) -> Iterator[Gap]:
    """Names that no manifest knows: an application's behaviour may hang on each of them."""
    declared: list[str] = [match for text in _texts(system) for match in REFERENCE.findall(text)]
    for component in system.components:
        for option in ("env", "env_values"):
            declared += map(str, component.options.get(option) or ())
    common = {name for name in seen.variables if _COMMON.fullmatch(name)}
    known = {name for name in seen.variables - common if any(fnmatch.fnmatchcase(name, each) for each in declared)}
    found.summed["variables of every session"] = len(common)
    found.summed["variables that are declared"] = len(known)
    if missing := sorted(seen.variables - common - known):
        add = (f"    options: {{env: [{', '.join(missing)}]}}  # of the component with `driver: environment`",)
        what = f"{len(missing)} environment variables that the manifest does not name"
        yield Gap(kind="variable", what=what, examples=tuple(missing), add=add)


def _texts(system: System) -> Iterator[str]:
    for component in system.components:
        yield from (str(value) for value in component.options.values())
    for probe in system.probes:
        yield from probe.env.values()


def _component(system: System, stem: str, driver: str, place: str) -> tuple[str, ...]:
    """Lines of a component, at the place where they stand in resurgam.yaml."""
    taken = {component.name for component in system.components}
    base = re.sub(r"[^a-z0-9_]+", "-", stem.lower()).strip("-_")[:56] or "part"
    name = next(n for n in (base, *(f"{base}-{number}" for number in range(2, 10_000))) if n not in taken)
    inside = system.root and place.startswith(os.path.realpath(system.root) + "/")
    where = os.path.relpath(place, os.path.realpath(system.root)) if inside else place
    quoted = "'" + where.replace("'", "''") + "'" if re.search(r"[^\w./-]", where) else where
    return (f"  {name}: {{driver: {driver}, location: {quoted}}}",)


def _above_with(path: str, name: str) -> str | None:
    """The nearest folder above ``path``, at most two up, that holds ``name``."""
    folder = os.path.dirname(path)
    return next((f for f in (folder, os.path.dirname(folder)) if os.path.isfile(os.path.join(f, name))), None)


def _is_sqlite(path: str) -> bool:
    try:
        return is_database(path, os.stat(path).st_size)
    except OSError:
        return False  # gone, or not ours to read: it is proposed as a file
