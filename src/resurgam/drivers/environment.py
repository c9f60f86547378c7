"""The driver ``environment``: a Python environment and what is around it, described exactly, so that it can be made again.

An environment is not copied: it holds paths of its own place and programs for its own machine. What is kept is one document,
``environment.json`` (``environment_form``), from which ``resurgam rebuild-env`` makes a new one and compares.

    freeze    the packages' metadata is read twice; equal looks are the packages as they were at one moment (*snapshot*).
              Where they never stand still, or ``code`` is to be read as well, the position earns *crash*
    read      after the thaw: installed files against RECORD, interpreter, machine, code; then the document, tables that are a
              view of it, and findings. Read again, a position gives the same
    write     environment.json and requirements.txt in a folder. No environment is made in a restore

A folder that ``write`` made can be inspected, read and fingerprinted like the environment it describes. It is a description
(``Traits.describes``): promotion leaves the live environment where it is.

Options: ``code``, ``python``, ``env``, ``env_values``, ``flags``, ``seeds``, ``threads``, ``image``, ``hosted``, ``pid``,
``covered``, ``check``; ``docs/drivers/environment.md`` tells what they mean. Paths among them start at the folder in which
the environment lies. Names of variables are kept; values of the allow-list ``env_values`` only, and never one that looks like
a secret.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Literal

import msgspec

from resurgam.drivers import environment_form as form
from resurgam.drivers import files_writing
from resurgam.drivers.asked import ask
from resurgam.drivers.base import Blob, Equality, Facts, Freeze, InMemory, Item, Rows, Traits
from resurgam.drivers.environment_form import ENVIRONMENT, REQUIREMENTS, Environment, Pin
from resurgam.drivers.environment_packages import Look, look, site_folders
from resurgam.drivers.environment_reading import Circumstances, circumstances, describe, findings
from resurgam.drivers.files_listing import ROOT, failed
from resurgam.errors import IntegrityError, ManifestError, NotFound
from resurgam.model.nearest import did_you_mean
from resurgam.model.point import Finding, Position
from resurgam.model.system import Component, Consistency, Json

FREEZE_LIMIT = 5.0
LOOKS = 4  # times that the metadata is read before it counts as never still
_UNTOUCHED = "Nothing was read or changed."


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A component's options; see the page of the driver."""

    code: tuple[str, ...] = ()
    python: str | None = None
    env: tuple[str, ...] = ()
    env_values: tuple[str, ...] = ()
    flags: tuple[str, ...] | str = ()
    seeds: dict[str, Json] = {}
    threads: dict[str, Json] = {}
    image: str = ""
    hosted: tuple[Pin, ...] = ()
    pid: int | str | None = None
    covered: tuple[str, ...] = ()
    check: Literal["full", "none"] = "full"


@dataclass(slots=True)
class _Held:
    """What a position stands for. The document is made when it is first read; then ``seen`` is dropped."""

    seen: Look | None
    around: Circumstances | None
    document: bytes | None
    findings: tuple[Finding, ...]
    lock: Lock


class EnvironmentDriver:
    """See the module's docstring. What is held dies with the process."""

    kind = "environment"
    traits = Traits(
        consistency=Consistency.SNAPSHOT,
        equality=Equality.LOGICAL,
        freeze=Freeze.COPY,
        freeze_limit=FREEZE_LIMIT,
        writers_wait=False,
        describes=True,
        look="cat {place}/environment.json",
    )

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}

    def inspect(self, component: Component) -> Facts:
        """The environment in short. Installed files are not read."""
        document = _description(component)
        environment = form.decoded(document) if document is not None else _now(component, check=False)[0]
        size = len(document if document is not None else form.encoded(environment))
        return {
            "bytes": size,
            "python": environment.interpreter.version,
            "packages": len(environment.packages),
            "system": " ".join((environment.machine.distribution, environment.machine.architecture)).strip(),
            "cpu": environment.machine.cpu,
            "code": {code.path: code.revision or code.digest for code in environment.code},
            "variables": sorted(name for name, there in environment.variables.items() if there),
            "image": environment.image,
            "hosted": [f"{pin.provider} {pin.model} {pin.revision}".strip() for pin in environment.hosted],
            "cannot_be_restored": [lost.what for lost in environment.cannot_be_restored],
        }

    @contextmanager
    def freeze(self, component: Component, limit: float | None = None) -> Iterator[Position]:
        """Look until two looks are equal; nobody is held up. Raises NotFound, Denied, LimitExceeded, ManifestError."""
        held, earned = _hold(component, FREEZE_LIMIT if limit is None else min(FREEZE_LIMIT, limit))
        position = Position(token=secrets.token_hex(16), earned=earned)
        self._held[position.token] = held
        try:
            yield position
        except BaseException:
            self.release(component, position)
            raise

    def read(self, component: Component, at: Position) -> Iterator[Item | Finding]:
        """The document, its tables, and what was found."""
        document, found = self._document(component, at)
        yield Blob(ENVIRONMENT, len(document), InMemory(document), view=True)
        yield from form.tables(form.decoded(document))
        yield from found

    def release(self, component: Component, at: Position) -> None:
        """Let go of what was seen."""
        del component
        self._held.pop(at.token, None)

    def query(self, component: Component, at: Position, statement: str) -> Rows:
        """The rows of one SELECT over the tables of the page. Raises ManifestError where it is anything else, or is wrong."""
        document, _ = self._document(component, at)
        return ask(form.tables(form.decoded(document)), statement, component.location)

    def write(self, items: Iterable[Item], target: Component) -> Component:
        """Lay the document and the list to install from into ``target.location``, by one rename (P5)."""
        files_writing.refuse_what_stands(os.path.abspath(os.fsencode(target.location)))
        document = _only_document(items)
        listed = form.requirements(form.decoded(document))
        now = time.time_ns()
        blobs = [Blob(ROOT, 0, InMemory(b""), {"m": 0o755, "t": now, "y": "d"})]
        for path, data in ((ENVIRONMENT, document), (REQUIREMENTS, listed)):
            blobs.append(Blob(path, len(data), InMemory(data), {"m": 0o644, "t": now}))
        files_writing.write(blobs, target.location)
        return target

    def fingerprint(self, component: Component) -> str:
        """See ``environment_form``; of the live environment every installed file is read."""
        document = _description(component)
        if document is not None:
            return form.fingerprint(form.decoded(document))
        return form.fingerprint(_now(component, check=True)[0])

    def erase(self, target: Component) -> None:
        """Remove what stands at the target and what a killed write left beside it."""
        files_writing.erase(target.location)

    def _document(self, component: Component, at: Position) -> tuple[bytes, tuple[Finding, ...]]:
        held = self._held.get(at.token)
        if held is None:
            raise NotFound(
                f"The position of {component.name} is not held any more.",
                untouched="Nothing was read.",
                next_step="Take a new cut: positions of environments end with the process that took them.",
            )
        with held.lock:
            if held.document is None:
                assert held.seen is not None
                assert held.around is not None
                options = _options(component)
                environment, moved = describe(component.location, held.seen, held.around, check=options.check == "full")
                held.document = form.encoded(environment)
                held.findings = tuple(findings(component.name, environment, held.seen, moved))
                held.seen = held.around = None
            return held.document, held.findings


def captured(component: Component, python: str | None = None) -> Environment:
    """The environment at ``component.location`` as it is now, every installed file read: for comparing. ``python`` takes the place
    of the option. Raises what ``fingerprint`` raises."""
    options = {**component.options, "python": python} if python else component.options
    return _now(msgspec.structs.replace(component, options=options), check=True)[0]


def _now(component: Component, *, check: bool) -> tuple[Environment, list[str]]:
    options = _options(component)
    held, _ = _hold(component, FREEZE_LIMIT)
    assert held.seen is not None
    assert held.around is not None
    return describe(component.location, held.seen, held.around, check=check and options.check == "full")


def _hold(component: Component, limit: float) -> tuple[_Held, Consistency]:
    """Two equal looks, or the last one; of a description its document."""
    options, deadline = _options(component), time.monotonic() + limit
    document = _description(component)
    if document is not None:
        form.decoded(document)
        return _Held(None, None, document, (), Lock()), Consistency.SNAPSHOT
    around = circumstances(component, options)
    sites = site_folders(component.location)
    try:
        seen = look(sites, deadline)
        for _ in range(LOOKS - 1):
            again = look(sites, deadline)
            if again == seen:
                still = Consistency.CRASH if options.code else Consistency.SNAPSHOT
                return _Held(again, around, None, (), Lock()), still
            seen = again
    except OSError as error:
        raise failed(error, os.fsencode(error.filename or component.location), _UNTOUCHED) from error
    return _Held(seen, around, None, (), Lock()), Consistency.CRASH


def _description(component: Component) -> bytes | None:
    """The document at a place that ``write`` made; None where an environment lives. Raises NotFound, Denied."""
    location = component.location
    try:
        inside = set(os.listdir(location))
        if site_folders(location) or "pyvenv.cfg" in inside:
            return None
        if ENVIRONMENT.decode() in inside:
            with open(os.path.join(location, ENVIRONMENT.decode()), "rb") as file:
                return file.read()
    except OSError as error:
        raise failed(error, os.fsencode(location), _UNTOUCHED) from error
    raise NotFound(
        f"{location} is no Python environment: it has neither pyvenv.cfg nor a folder of packages.",
        untouched=_UNTOUCHED,
        next_step="Name the folder that holds bin/python as the component's location.",
    )


def _options(component: Component) -> Options:
    try:
        options = msgspec.convert(component.options, Options)
    except msgspec.ValidationError as error:
        unknown = next((word for word in component.options if word not in Options.__struct_fields__), None)
        step = did_you_mean(unknown, Options.__struct_fields__) if unknown else "See docs/drivers/environment.md."
        raise _bad_options(component, str(error), step) from error
    secret = next((name for name in options.env_values if form.SAYS_SECRET.search(name)), None)
    if secret is not None:
        raise _bad_options(
            component, f"env_values names {secret}, which is a secret by its name", "List it in env: names are kept."
        )
    return options


def _bad_options(component: Component, why: str, step: str) -> ManifestError:
    return ManifestError(
        f"Component {component.name!r}, options: {why}.", untouched="Nothing was read.", next_step=step
    )


def _only_document(items: Iterable[Item]) -> bytes:
    """The one Blob among the items; Rows of this driver are views of it. Raises IntegrityError for anything else."""
    document: bytes | None = None
    for item in items:
        if isinstance(item, Rows) and item.view_of == ENVIRONMENT and item.name in form.TABLES:
            continue
        if not isinstance(item, Blob) or item.path != ENVIRONMENT or document is not None:
            raise _wrong_items("an item is there that does not belong to an environment")
        document = item.read()
        if len(document) != item.size:
            raise _wrong_items("environment.json ends too early")
    if document is None:
        raise _wrong_items("environment.json is missing")
    return document


def _wrong_items(why: str) -> IntegrityError:
    return IntegrityError(
        f"The snapshot of the environment is not whole: {why}.",
        untouched="Nothing was put at the target.",
        next_step="Run `resurgam vault check`, or restore another point.",
    )
