"""From what was seen of an environment to its description, and to what the owner should know of it.

    circumstances   what can change under the freeze and is cheap: variables and command line of the application
    describe        packages, interpreter, machine, code and the owner's declarations as one value
    findings        drift, packages half installed, what no restore brings back

Variables and command line are those of the process ``pid`` where one is declared, else the variables are of the capturing process.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from msgspec.structs import replace

from resurgam.drivers import environment_code, environment_form, environment_packages
from resurgam.drivers.environment_form import FORMAT, Environment, Interpreter, Lost, Package, Pin, without_secrets
from resurgam.drivers.environment_machine import digest_of, interpreter, machine
from resurgam.drivers.environment_packages import MAX_CHANGED, Look
from resurgam.drivers.files_listing import failed
from resurgam.errors import NotFound
from resurgam.model.point import Finding, Severity
from resurgam.model.system import Component, Json

_UNTOUCHED = "Nothing was read or changed."


class _Options(Protocol):
    """What of a component's options is read here."""

    @property
    def code(self) -> tuple[str, ...]: ...
    @property
    def python(self) -> str | None: ...
    @property
    def env(self) -> tuple[str, ...]: ...
    @property
    def env_values(self) -> tuple[str, ...]: ...
    @property
    def flags(self) -> tuple[str, ...] | str: ...
    @property
    def seeds(self) -> dict[str, Json]: ...
    @property
    def threads(self) -> dict[str, Json]: ...
    @property
    def image(self) -> str: ...
    @property
    def hosted(self) -> tuple[Pin, ...]: ...
    @property
    def pid(self) -> int | str | None: ...
    @property
    def covered(self) -> tuple[str, ...]: ...


class Circumstances(NamedTuple):
    """What is around the packages: the application's variables and command line, and what the owner declared."""

    environ: Mapping[str, str]
    flags: tuple[str, ...]
    options: _Options
    base: str


def circumstances(component: Component, options: _Options) -> Circumstances:
    """Ask the application's process, where one is declared. Raises NotFound where it does not run, Denied."""
    base = os.path.dirname(os.path.abspath(component.location))
    pid = _pid(options.pid, base)
    flags = options.flags if isinstance(options.flags, tuple) else ()
    if pid is None:
        return Circumstances(dict(os.environ), without_secrets(flags), options, base)
    environ = dict(pair.split("=", 1) for pair in _words(pid, "environ") if "=" in pair)
    return Circumstances(environ, without_secrets(flags or _words(pid, "cmdline")), options, base)


def describe(location: str, seen: Look, around: Circumstances, *, check: bool) -> tuple[Environment, list[str]]:
    """The environment, and the names of packages that changed while their files were compared with RECORD (``check``)."""
    options, base = around.options, around.base
    packages, _ = environment_packages.describe(seen)
    moved: list[str] = []
    try:
        if check:
            packages, moved = environment_packages.drifted(packages, seen)
        code = tuple(replace(environment_code.describe(os.path.join(base, path)), path=path) for path in options.code)
    except OSError as error:
        raise failed(error, os.fsencode(error.filename or location), _UNTOUCHED) from error
    program = os.path.join(base, options.python) if options.python else None
    runs = interpreter(location, program)
    names, values = _variables(around)
    flags_file = os.path.join(base, options.flags) if isinstance(options.flags, str) else None
    environment = Environment(
        format=FORMAT,
        interpreter=runs,
        packages=tuple(packages),
        machine=machine(around.environ),
        code=code,
        variables=names,
        values={name: value for name, value in values.items() if not environment_form.looks_secret(value)},
        flags=around.flags,
        flags_digest=digest_of(flags_file) if flags_file else "",
        seeds=options.seeds,
        threads=options.threads,
        image=options.image,
        hosted=options.hosted,
        cannot_be_restored=tuple(_lost(packages, runs, values, around)),
    )
    return environment, moved


def findings(component: str, environment: Environment, seen: Look, moved: list[str]) -> Iterator[Finding]:
    """What the owner should know; no finding means that all installed files are what their wheels brought."""
    _, halves = environment_packages.describe(seen)
    changed = [package for package in environment.packages if package.changed_count]
    count = sum(package.changed_count for package in changed)
    keys = [f"{package.name}: {path}" for package in changed for path in package.changed]
    told = (
        (
            Severity.WARNING,
            f"{count} installed files are not what their RECORD says: edited in place, or damaged",
            keys,
        ),
        (Severity.WARNING, f"{len(halves)} packages lack METADATA or RECORD: half installed, or half removed", halves),
        (Severity.WARNING, f"{len(moved)} packages changed while they were read; their files were not judged", moved),
        (Severity.WARNING, "packages are installed in two versions at once", _doubled(environment.packages)),
        (
            Severity.NOTE,
            f"{len(environment.cannot_be_restored)} things cannot be restored from the point alone",
            [lost.what for lost in environment.cannot_be_restored],
        ),
    )
    for severity, what, of in told:
        if of:
            yield Finding(severity=severity, what=what, component=component, keys=tuple(of[:MAX_CHANGED]))


def _variables(around: Circumstances) -> tuple[dict[str, bool], dict[str, str]]:
    """Declared names and whether each was set (a pattern stands for those that were), and the values of the allow-list."""
    options, environ = around.options, around.environ
    names: dict[str, bool] = {}
    for wanted in (*options.env, *options.env_values):
        if "*" in wanted:
            names |= dict.fromkeys(fnmatch.filter(environ, wanted), True)
        else:
            names[wanted] = wanted in environ
    return names, {name: environ[name] for name in options.env_values if name in environ}


def _lost(
    packages: list[Package], runs: Interpreter, values: Mapping[str, str], around: Circumstances
) -> Iterator[Lost]:
    options, base = around.options, around.base
    covered = [os.path.realpath(os.path.join(base, path)) for path in options.covered]
    for package in packages:
        place = os.path.realpath(package.url.removeprefix("file://"))
        ours = package.url.startswith("file://") and any(f"{place}/".startswith(f"{path}/") for path in covered)
        if package.origin not in ("index", "vcs") and not ours:
            why = f"{package.origin} from {package.url}: no index has it under this name, as far as its installer noted"
            yield Lost(what=f"package {package.name} {package.version}", why=why)
        elif package.digest is None:
            yield Lost(what=f"package {package.name} {package.version}", why="it has no RECORD to compare with")
        if package.changed_count:
            why = "installed files were edited in place; an installer brings the unedited ones"
            yield Lost(what=f"edits in {package.name} {package.version}", why=why)
    if runs.system_packages:
        yield Lost(what="packages of the base interpreter", why="the environment sees them, and they are not its own")
    for pin in options.hosted:
        fixed = f"revision {pin.revision} is the provider's to keep" if pin.revision else "no revision is pinned"
        yield Lost(what=f"hosted model {pin.provider} {pin.model}", why=fixed)
    for name, value in values.items():
        if environment_form.looks_secret(value):
            yield Lost(what=f"value of {name}", why="it looks like a secret, so it was not kept")


def _doubled(packages: tuple[Package, ...]) -> list[str]:
    names = [package.name for package in packages]
    return sorted({name for name in names if names.count(name) > 1})


def _pid(declared: int | str | None, base: str) -> int | None:
    if not isinstance(declared, str):
        return declared
    path = os.path.join(base, declared)
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read(32).strip())
    except OSError as error:
        raise failed(error, os.fsencode(path), _UNTOUCHED) from error
    except ValueError as error:
        raise NotFound(
            f"{path} holds no process id.",
            untouched=_UNTOUCHED,
            next_step="Start the application, or take options.pid out.",
        ) from error


def _words(pid: int, what: str) -> tuple[str, ...]:
    path = f"/proc/{pid}/{what}"
    try:
        with open(path, "rb") as file:
            return tuple(os.fsdecode(word) for word in file.read().split(b"\0") if word)
    except FileNotFoundError as error:
        raise NotFound(
            f"There is no process {pid}, which options.pid names.",
            untouched=_UNTOUCHED,
            next_step="Start the application, or take options.pid out.",
        ) from error
    except OSError as error:
        raise failed(error, path.encode(), _UNTOUCHED) from error
