"""Making a virtual environment with exactly the packages of a description, by the installer that the user has.

pip is taken where there is one, since the index is what the user's pip is configured for and no host is named here; uv where
there is only uv. Packages are installed at their versions and without their dependencies: the list is whole, and a resolver
would improve it. pip itself, where it came with the interpreter (``ensurepip``), comes from there again.

An environment knows its own place: programs begin with the path of their interpreter. It is built under another name (P5), so
before its rename those paths are rewritten, and RECORD with them, and what was made is what stands at its place.

Building a package runs its code: installers are given no credential of the vault and of no cloud. What the index needs, pip has in
its own settings.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from resurgam.drivers.environment_form import Environment, Package, requirements, scrubbed
from resurgam.drivers.environment_machine import interpreter
from resurgam.drivers.environment_packages import record_hash, site_folders
from resurgam.errors import MissingExtra, NotFound, ResurgamError

INSTALL_TIME = 3600.0  # seconds for one run of an installer
_HOUSE = (
    "PYTHONPATH",
    "PYTHONHOME",
    "VIRTUAL_ENV",
    "PIP_REQUIRE_VIRTUALENV",
)  # variables that speak of another environment
_CREDENTIALS = ("RESURGAM_", "AWS_", "AZURE_", "GOOGLE_")  # how variables begin that no build may see
_BUNDLED = "import ensurepip; print(ensurepip.version())"


class Installer(NamedTuple):
    """``command`` is followed by ``target(python)`` and the packages or ``-r FILE``."""

    command: tuple[str, ...]
    is_pip: bool

    def call(self, python: str, verb: str, *words: str) -> list[str]:
        """The argument list for ``verb`` (install, uninstall) in the environment of ``python``."""
        if self.is_pip:
            return [*self.command, "--python", python, verb, *words]
        return [*self.command, verb, "--python", python, *words]


def choose_python(environment: Environment, given: str | None) -> str:
    """An interpreter to build with: the given one, else one of the captured version, else of its minor version.

    Looks where the captured one lived, on PATH, and at the one that runs this. Raises NotFound.
    """
    wanted = environment.interpreter.version
    minor = ".".join(wanted.split(".")[:2])
    if given is not None:
        if program := shutil.which(given):
            return program
        raise _no_python(f"There is no program {given}.", minor)
    home = environment.interpreter.home
    names = [os.path.join(home, "bin", f"python{minor}"), f"python{minor}", "python3", sys.executable]
    found = [path for path in dict.fromkeys(map(shutil.which, names)) if path is not None]
    versions = {path: version for path in found if (version := _version(path))}
    exact = [path for path, version in versions.items() if version == wanted]
    near = [path for path, version in versions.items() if version.startswith(f"{minor}.")]
    if not (exact or near):
        raise _no_python(f"There is no interpreter of Python {minor} on this host.", minor)
    return (exact or near)[0]


def installer(python: str) -> Installer:
    """pip of this or of the chosen interpreter, else uv. Raises MissingExtra where there is none."""
    if importlib.util.find_spec("pip") is not None:
        return Installer((sys.executable, "-m", "pip"), True)
    if _run([python, "-m", "pip", "--version"]).returncode == 0:
        return Installer((python, "-m", "pip"), True)
    if uv := shutil.which("uv"):
        return Installer((uv, "pip"), False)
    raise MissingExtra(
        "Neither pip nor uv is installed here.",
        untouched="Nothing was made.",
        next_step="Run `python -m ensurepip`, or install uv.",
    )


def sorted_out(environment: Environment) -> tuple[list[Package], list[Package]]:
    """The packages that an index or a repository has, and those that nobody can fetch by name."""
    fetchable = [package for package in environment.packages if package.origin in ("index", "vcs")]
    return fetchable, [package for package in environment.packages if package not in fetchable]


def make(
    environment: Environment,
    python: str,
    by: Installer,
    partial: str,
    into: str,
    tell: Callable[[str], None],
) -> dict[str, str]:
    """Build in the empty folder ``partial`` what will stand at ``into``; returns why packages could not be installed, by name.

    Raises ResurgamError where not even an empty environment can be made.
    """
    tell(f"making an environment of {python}")
    shared = ["--system-site-packages"] if environment.interpreter.system_packages else []
    done = _run([python, "-m", "venv", "--without-pip", "--prompt", os.path.basename(into), *shared, partial])
    if done.returncode:
        raise ResurgamError(
            f"{python} cannot make a virtual environment: {_last(done)}",
            untouched="What was begun was removed.",
            next_step="Install its venv module, or name another interpreter with --python.",
        )
    own = os.path.join(partial, "bin", "python")
    wanted, _ = sorted_out(environment)
    if _bundles_pip(python, wanted):
        _ensure_pip(own, by, wanted)
    tell(f"installing {len(wanted)} packages")
    listed = f"{partial}/requirements.txt"
    with open(listed, "wb") as file:
        file.write(requirements(environment))
    failures = _install(by, own, listed, wanted)
    os.unlink(listed)
    _settle(partial, into)
    return failures


def _install(by: Installer, own: str, listed: str, wanted: Sequence[Package]) -> dict[str, str]:
    """All at once; where that fails one by one, so that the report can name which, and why."""
    if not wanted or _run(by.call(own, "install", *_quietly(by), "-r", listed)).returncode == 0:
        return {}
    failures = {}
    for package in wanted:
        word = f"{package.name}=={package.version}" if package.origin == "index" else f"{package.name} @ {package.url}"
        done = _run(by.call(own, "install", *_quietly(by), word))
        if done.returncode:
            failures[package.name] = _last(done)
    return failures


def _quietly(by: Installer) -> list[str]:
    # Compiled files would hold the partial name; they are made when they are first wanted.
    return ["--no-deps", "--no-compile", "--no-input", "--quiet"] if by.is_pip else ["--no-deps", "--quiet"]


def _bundles_pip(python: str, wanted: Sequence[Package]) -> bool:
    """Whether the captured pip is the one that comes with the interpreter."""
    version = next((package.version for package in wanted if package.name == "pip"), None)
    return version is not None and _run([python, "-I", "-c", _BUNDLED]).stdout.decode().strip() == version


def _ensure_pip(own: str, by: Installer, wanted: Sequence[Package]) -> None:
    """As ``venv`` does it. Before 3.12 it brings setuptools as well, which was captured or goes again."""
    _run([own, "-I", "-m", "ensurepip", "--default-pip"])
    if "setuptools" not in {package.name for package in wanted}:
        _run(by.call(own, "uninstall", *(["--yes"] if by.is_pip else []), "setuptools"))


def _settle(partial: str, into: str) -> None:
    """Write ``into`` wherever ``partial`` stands: in programs, in what activates them, and in pyvenv.cfg; then mend RECORD."""
    programs = os.path.join(partial, "bin")
    paths = [os.path.join(programs, name) for name in os.listdir(programs)]
    for path in (*paths, os.path.join(partial, "pyvenv.cfg")):
        if os.path.islink(path) or not os.path.isfile(path):
            continue
        with open(path, "r+b") as file:
            data = file.read()
            if (changed := data.replace(os.fsencode(partial), os.fsencode(into))) != data:
                file.seek(0)
                file.write(changed)
                file.truncate()
    for site in site_folders(partial):
        for name in os.listdir(site):
            record = os.path.join(site, name, "RECORD")
            if name.endswith(".dist-info") and os.path.isfile(record):
                _mend(site, record)


def _mend(site: str, record: str) -> None:
    with open(record, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    for row in rows:
        path = os.path.join(site, row[0]) if row else ""
        if row and re.match(r"(\.\./)+bin/", row[0]) and row[1] and os.path.isfile(path):
            row[1:3] = [record_hash(path), str(os.path.getsize(path))]
    mended = io.StringIO(newline="")
    csv.writer(mended, lineterminator="\n").writerows(rows)
    with open(record, "w", encoding="utf-8", newline="") as file:
        file.write(mended.getvalue())


def _version(program: str) -> str:
    """Empty where the program cannot say: a launcher for a version that is not installed is on many a PATH."""
    try:
        return interpreter(os.path.dirname(os.path.dirname(program)), program).version
    except ResurgamError:
        return ""


def surroundings() -> dict[str, str]:
    """The variables that an installer, and so the code of any package, sees."""
    return {
        name: value for name, value in os.environ.items() if name not in _HOUSE and not name.startswith(_CREDENTIALS)
    }


def _run(argv: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            argv, env=surroundings(), stdin=subprocess.DEVNULL, capture_output=True, timeout=INSTALL_TIME, check=False
        )
    except subprocess.TimeoutExpired as error:
        return subprocess.CompletedProcess(argv, 1, error.stdout or b"", b"ERROR: it did not end in time")


def _last(done: subprocess.CompletedProcess[bytes]) -> str:
    """The last error that a command told, without credentials."""
    lines = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
    told = [line for line in lines if line.startswith("ERROR")] or lines
    return scrubbed(told[-1].removeprefix("ERROR: "))[0] if told else f"it ended with code {done.returncode}"


def _no_python(what: str, minor: str) -> NotFound:
    return NotFound(
        what,
        untouched="Nothing was made.",
        next_step=f"Install Python {minor}, or name another one with --python PATH.",
    )
