"""The sandbox: where a restored system is asked how it behaves, and can reach nothing that is live (P6).

    with Sandbox(directory, system) as box:
        if box.runs:                              # else nothing may be asked, and the verdict is inconclusive (P4)
            box.run(["python", "-m", "app"])      # a probes.base.Runner

Each command runs in namespaces of its own, built by :mod:`resurgam.restore.jail`: the live locations, the vault, its keys
and the well-known credentials in home folders are not there; the file system is read-only but for the copies and private
temporary folders; the network is a loopback of its own; the environment is the short list of
``probes.runner.clean_environment``; a reference to a secret (``${NAME}``) stays a reference. Everything in it dies with
the command, with its time, and with this process.

Where the operating system does not allow namespaces, ``isolation`` says why. Then ``required`` runs nothing, and
``best-effort`` runs commands with the scrubbed environment alone, and ``isolation`` still says that this was no isolation.
"""

from __future__ import annotations

import functools
import json
import os
import pwd
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

from resurgam.errors import Denied, NotFound
from resurgam.model.system import Isolation, System
from resurgam.model.verdict import IsolationReport
from resurgam.probes.base import Completed
from resurgam.probes.runner import clean_environment, run_child
from resurgam.restore import jail
from resurgam.restore.state import FILE
from resurgam.restore.switch import family
from resurgam.vault.host import state_home
from resurgam.vault.scratch import scratch

PROBING_TIME = 20.0  # seconds for building the walls once around nothing

# In home folders. Without a network a command could not use them; P6 says that it does not have them.
CREDENTIALS = (
    *(".ssh", ".gnupg", ".password-store", ".netrc", ".git-credentials", ".pgpass", ".my.cnf", ".vault-token"),
    *(".aws", ".azure", ".config/gcloud", ".config/gh", ".config/op", ".kube", ".docker", ".pypirc", ".npmrc"),
    *(".huggingface/token", ".cache/huggingface/token", ".cargo/credentials.toml"),
)


@functools.cache
def isolation() -> IsolationReport:
    """Build the walls once, around nothing, and say how far that went. Asked once per process."""
    if not sys.platform.startswith("linux"):
        return IsolationReport(isolated=False, reason="only Linux has namespaces")
    with tempfile.TemporaryDirectory(prefix="resurgam-sandbox-") as nothing:
        _, said = _jailed([], b"", {}, "/", nothing, (), PROBING_TIME, nothing)
    if "ready" in said:
        return IsolationReport(isolated=True)
    return IsolationReport(isolated=False, reason=str(said.get("failed", "the jail did not start")))


def available() -> tuple[bool, str]:
    """Whether commands can be isolated here, and if not, why; for preflight."""
    report = isolation()
    return report.isolated, report.reason


class Sandbox:
    """Runs commands against the restore of (live) ``system`` in the folder ``copies``; see the module's docstring. A ``Runner``.

    What lives is not there inside: the system's locations with SQLite's siblings, its vault, its keys, this host's state, and
    what ``hide`` adds (absolute paths): a system read from a point knows only where things were when it was taken.
    Commands run in the system's root, or among the copies on a host that has no such folder. Raises NotFound where
    ``copies`` is no folder.
    """

    def __init__(self, copies: str, system: System, *, hide: Sequence[str] = ()) -> None:
        if not os.path.isdir(copies):
            raise NotFound(
                f"{copies} is not a folder, so no command can be run against it.",
                untouched="Nothing was run.",
                next_step="Restore again.",
            )
        self._copies = os.path.realpath(copies)
        self._root = os.path.realpath(system.root) if os.path.isdir(system.root) else self._copies
        live = [*system.locations().values(), *system.vault.folders, state_home(), *hide]
        self._hidden = _spellings([*filter(os.path.isabs, live), *_credentials()])
        self._required = system.isolation is Isolation.REQUIRED
        self.isolation = isolation()

    @property
    def runs(self) -> bool:
        """Whether ``run`` runs commands here: isolated, or not but accepted by the manifest by name (P4)."""
        return self.isolation.isolated or not self._required

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing outlives a command, so nothing is left to end."""

    def run(
        self, argv: Sequence[str], *, input: bytes = b"", env: Mapping[str, str] | None = None, timeout: float = 60.0,
        inherit: Sequence[int] = (),
    ) -> Completed:  # fmt: skip
        """Run ``argv`` behind the walls, in the system's root.

        Raises Denied where the walls cannot be built and isolation is required, or where they failed this time: then the
        command was not run (P6, P12). What the command itself does wrong is in Completed.
        """
        given = dict(env or {})
        if not self.isolation.isolated:
            return self._unisolated(argv, input, given, timeout, inherit)
        with scratch("jail") as private:
            done, said = _jailed(argv, input, given, self._root, self._copies, self._hidden, timeout, private, inherit)
        if "failed" in said:
            raise _denied(str(said["failed"]))
        if done.timed_out or done.overflowed:
            return done
        if "ready" not in said:
            raise _denied("the jail ended without a word")
        # Without a code the first process was killed from outside, by the kernel's memory killer for example.
        code = said.get("code", -9)
        assert isinstance(code, int)
        return Completed(code, done.output, done.errors)

    def _unisolated(
        self, argv: Sequence[str], input: bytes, env: dict[str, str], timeout: float, inherit: Sequence[int]
    ) -> Completed:
        if self._required:
            raise _denied(self.isolation.reason)
        with scratch("home") as home:
            surroundings = clean_environment(home) | env
            return run_child(argv, input=input, env=surroundings, cwd=self._root, timeout=timeout, inherit=inherit)


def _jailed(
    argv: Sequence[str],
    input: bytes,
    env: Mapping[str, str],
    cwd: str,
    copies: str,
    hide: Sequence[str],
    timeout: float,
    private: str,
    inherit: Sequence[int] = (),
) -> tuple[Completed, dict[str, object]]:
    """Run the jail to its end; what the outer process left behind, and what the jail reported. It is told what to do by
    a file in the folder ``private``, which is not there inside, and reports to another."""
    spec, status = os.path.join(private, "spec"), os.path.join(private, "status")
    with open(status, "xb"):
        pass
    surroundings = clean_environment(jail.HOME) | {"TMPDIR": os.path.dirname(jail.HOME)} | dict(env)
    asked = {
        "argv": list(argv),
        "env": surroundings,
        "cwd": cwd,
        "copies": copies,
        "hide": list(hide),
        "seal": [os.path.join(copies, FILE)],  # what is judged does not write its own verdict
        "keep": _needed(cwd),
        "parent": os.getpid(),
        "status": status,
        "inherit": list(inherit),
    }
    with open(spec, "x", encoding="ascii") as file:
        json.dump(asked, file)  # ASCII: a name that is not UTF-8 keeps its surrogate escapes
    # -I and -S: neither the environment nor installed packages have a say in how the walls are built.
    command = [sys.executable, "-I", "-S", jail.__file__, spec]
    done = run_child(command, input=input, env=clean_environment(private), cwd="/", timeout=timeout, inherit=inherit)
    with open(status, "rb") as reports:
        said: dict[str, object] = {}
        for line in reports:
            said |= json.loads(line)
    return done, said


def _needed(cwd: str) -> list[str]:
    """Folders that must be there inside even if they lie in a temporary folder: the root, the interpreter, this package."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    wanted = [cwd, sys.prefix, sys.base_prefix, sys.exec_prefix, package]
    return [path for path in dict.fromkeys(map(os.path.realpath, wanted)) if os.path.isdir(path) and path != "/"]


def _spellings(paths: Iterable[str]) -> list[str]:
    """Each path with its SQLite siblings, as it is written and as it is after links are followed."""
    spelled: dict[str, None] = {}
    for path in paths:
        folder, name = os.path.split(os.path.abspath(path))
        written = os.path.join(os.path.realpath(folder), name)
        for spelling in (written, os.path.realpath(path)):
            spelled.update(dict.fromkeys(family(spelling)))
    return list(spelled)


def _credentials() -> list[str]:
    homes = dict.fromkeys([os.path.expanduser("~"), *(entry.pw_dir for entry in pwd.getpwall())])
    candidates = [os.path.join(home, name) for home in homes if home not in ("", "/") for name in CREDENTIALS]
    return [path for path in candidates if os.path.lexists(path)]


def _denied(reason: str) -> Denied:
    return Denied(
        f"The restored system cannot be isolated: {reason}.",
        untouched="Its command was not run.",
        next_step="Run as root or allow user namespaces; `isolation: best-effort` in resurgam.yaml accepts less, by name.",
    )
