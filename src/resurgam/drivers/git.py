"""Driver ``git``: a working tree with its repository, or a bare one.

Everything comes back: objects, refs, index, configuration, hooks, stashes, logs, tracked and untracked files, a merge in the
middle. What is held in the freeze, and how, stands in ``git_hold``. Beside the files there are four tables, decoded from what
was captured and not from what is live: ``refs``, ``commits``, ``tracked`` (at HEAD) and ``status``. Where a captured ref needs an
object that was not captured, the point is broken and says so.

Git is never run, neither when reading nor when writing: in a tree that others can write to it would run what they configured.

The fingerprint is that of ``files``, with the index as its entries: ``git status`` rewrites the times in it and changes nothing.

Options: ``exclude``, globs as in ``files``; ``untracked_limit``, bytes of untracked files above which a finding tells of them.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager

import msgspec
from blake3 import blake3

from resurgam.drivers.asked import ask
from resurgam.drivers.base import Blob, Equality, Facts, Freeze, Item, Rows, Traits
from resurgam.drivers.files import FilesDriver
from resurgam.drivers.files_listing import failed
from resurgam.drivers.git_facts import Told, facts_of
from resurgam.drivers.git_history import History, walk
from resurgam.drivers.git_hold import Held, git_folder, hold, left_out
from resurgam.drivers.git_repository import OnDisk, Readable, Repository, shown
from resurgam.drivers.git_status import Changed, committed, status
from resurgam.errors import IntegrityError, ManifestError, MissingExtra, NotFound
from resurgam.model.codec import to_msgpack
from resurgam.model.nearest import did_you_mean
from resurgam.model.point import Finding, Position, Severity
from resurgam.model.system import Component, Consistency, Json

FREEZE_LIMIT = 10.0
REFS = ("name", "commit")
COMMITS = ("id", "author", "time", "subject", "parents")
TRACKED = ("path", "mode", "blob")
STATUS = ("path", "status")  # both are the key: a file may be deleted from the index and stand there untracked
TABLES = {"refs": REFS, "commits": COMMITS, "tracked": TRACKED, "status": STATUS}
_OUTSIDE = (
    "the repository lies outside this component (a linked working tree or a submodule): only its files are captured"
)

Row = tuple[Json, ...]


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A component's options; see the module's docstring."""

    exclude: tuple[str, ...] = ()
    untracked_limit: int = 256 << 20


class GitDriver:
    """See the module's docstring. What is held dies with the process."""

    kind = "git"
    traits = Traits(
        consistency=Consistency.SNAPSHOT,
        equality=Equality.BYTES,
        freeze=Freeze.COPY,
        freeze_limit=FREEZE_LIMIT,
        writers_wait=False,
        look="git -C {place} log --stat",
    )

    def __init__(self) -> None:
        self._files = FilesDriver()
        self._held: dict[str, tuple[Component, Held]] = {}
        self._answers: dict[str, dict[str, list[Row]]] = {}

    def inspect(self, component: Component) -> Facts:
        """Facts of ``files``, and where the repository stands: branch, commit, what is under way, remotes without credentials,
        submodules, what is changed and what is untracked. Of what is held where the component is frozen."""
        options = _options(component)
        facts = self._files.inspect(_plain(component, options))
        if git_folder(component.location) is None:
            return facts | {"repository": "elsewhere"}
        known = next((held for of, held in self._held.values() if of == component), None)
        with ExitStack() as undo:
            held = known or undo.enter_context(closing(hold(component.location, options.exclude, FREEZE_LIMIT)))
            with _opened(held) as repository:
                return facts | facts_of(repository) | _standing(repository)

    @contextmanager
    def freeze(self, component: Component, limit: float | None = None) -> Iterator[Position]:
        """Hold one state; no writer waits. Raises NotFound, Denied, Unreachable, LimitExceeded."""
        most = FREEZE_LIMIT if limit is None else min(FREEZE_LIMIT, limit)
        held = hold(component.location, _options(component).exclude, most)
        earned = Consistency.SNAPSHOT if held.steady else Consistency.CRASH
        position = Position(token=secrets.token_hex(16), earned=earned)
        self._held[position.token] = component, held
        try:
            yield position
        except BaseException:
            self.release(component, position)
            raise

    def read(self, component: Component, at: Position) -> Iterator[Item | Finding]:
        """The files in path order; after HEAD the tables, decoded from all of them."""
        held, options = self._holding(component, at), _options(component)
        head = held.prefix + b"HEAD"
        outside = git_folder(component.location) is None
        for blob in held.blobs:
            item = Blob(blob.path, blob.size, blob.source, dict(blob.meta), blob.stamp)
            if blob.path != head or outside:
                yield item
                continue
            item.view, item.stamp = True, held.stamp
            yield item
            if not item.known:
                yield from self._seen(component, at, held, options)
            item.view = False
        if outside:
            yield Finding(severity=Severity.WARNING, what=_OUTSIDE, component=component.name)
        for troubles in held.troubles:
            yield from troubles.findings(component.name)

    def _seen(self, component: Component, at: Position, held: Held, options: Options) -> Iterator[Rows | Finding]:
        """The tables, and what is to be said of the repository; a damaged one is said to be so."""
        try:
            with _opened(held) as repository:
                history, changed = walk(repository), list(status(repository))
                rows = _rows(repository, history, changed)
                untracked = [(shown(path), file.size) for path, letters, file in changed if letters == "??" and file]
                findings = list(Told(component.name, repository).all(history, untracked, options.untracked_limit))
        except MissingExtra as error:
            what = f"seen as files only: {error.message} {error.next_step}"
            yield Finding(severity=Severity.WARNING, what=what, component=component.name)
            return
        except IntegrityError as error:
            what = f"{error.message} {error.next_step}"
            yield Finding(severity=Severity.BROKEN, what=what, component=component.name)
            return
        self._answers[at.token] = rows
        for name, columns in TABLES.items():
            yield Rows(name, columns, columns if name == "status" else columns[:1], [rows[name]], held.prefix + b"HEAD")
        yield from findings

    def query(self, component: Component, at: Position, statement: str) -> Rows:
        """One SELECT over ``refs``, ``commits``, ``tracked`` and ``status``. Raises ManifestError, NotFound, IntegrityError."""
        held = self._holding(component, at)
        if at.token not in self._answers:
            with _opened(held) as repository:
                self._answers[at.token] = _rows(repository, walk(repository), list(status(repository)))
        rows = self._answers[at.token]
        tables = [Rows(name, columns, (), [rows[name]]) for name, columns in TABLES.items()]
        return ask(tables, statement, component.location)

    def release(self, component: Component, at: Position) -> None:
        """Let go of copies and packs; repeatable."""
        del component
        self._answers.pop(at.token, None)
        _, held = self._held.pop(at.token, (None, None))
        if held is not None:
            held.close()

    def write(self, items: Iterable[Item], target: Component) -> Component:
        """As ``files``; the tables lie in the files. No hook and no filter runs."""
        blobs = (item for item in items if not (isinstance(item, Rows) and item.view_of is not None))
        self._files.write(blobs, _plain(target, _options(target)))
        return target

    def fingerprint(self, component: Component) -> str:
        """See the module's docstring. Raises as ``files`` does, IntegrityError for an index that cannot be read, MissingExtra."""
        options, folder = _options(component), git_folder(component.location)
        if folder is None:
            return self._files.fingerprint(_plain(component, options))
        index = f"{folder or '/'}index"
        told = self._files.fingerprint(_plain(component, options, *left_out(folder), index))
        return blake3(to_msgpack(["resurgam git 1", told, _index_entries(component.location, folder)])).hexdigest()

    def left_out(self, component: Component) -> list[bytes]:
        """What ``exclude`` names."""
        return self._files.left_out(_plain(component, _options(component)))

    def erase(self, target: Component) -> None:
        """As ``files``."""
        self._files.erase(target)

    def _holding(self, component: Component, at: Position) -> Held:
        _, held = self._held.get(at.token, (None, None))
        if held is None:
            raise NotFound(
                f"The position of {component.name} is not held any more.",
                untouched="Nothing was read.",
                next_step="Take a new cut: positions of git repositories end with the process that took them.",
            )
        return held


def _options(component: Component) -> Options:
    try:
        return msgspec.convert(component.options, Options)
    except msgspec.ValidationError as error:
        unknown = next((word for word in component.options if word not in Options.__struct_fields__), None)
        step = did_you_mean(unknown, Options.__struct_fields__) if unknown else "See docs/drivers/git.md."
        raise ManifestError(
            f"Component {component.name!r}, options: {error}.", untouched="Nothing was read.", next_step=step
        ) from error


def _plain(component: Component, options: Options, *left: str) -> Component:
    """The component as ``files`` knows it."""
    return msgspec.structs.replace(component, driver="files", options={"exclude": [*options.exclude, *left]})


@contextmanager
def _opened(held: Held) -> Iterator[Repository]:
    with closing(Repository({blob.path: blob for blob in held.blobs}, held.prefix)) as repository:
        yield repository


def _standing(repository: Repository) -> Facts:
    """What is not as committed, counted."""
    found = list(status(repository))
    untracked = [file.size for _, letters, file in found if letters == "??" and file is not None]
    return {
        "dirty": any(letters not in {"??", "!!"} for _, letters, _ in found),
        "untracked": len(untracked),
        "untracked_bytes": sum(untracked),
    }


def _index_entries(location: str, folder: str) -> list[tuple[bytes, int, int, bytes]] | None:
    """What the live index says, without the times that are in it; None where there is no index."""
    files: dict[bytes, Readable] = {}
    for name in ("index", "config"):
        where = os.path.join(os.path.realpath(location), folder, name)
        try:
            files[os.fsencode(folder + name)] = OnDisk(os.fsencode(where))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise failed(error, os.fsencode(where), "Nothing was changed.") from error
    if os.fsencode(folder + "index") not in files:
        return None
    with closing(Repository(files, os.fsencode(folder))) as repository:
        return sorted((path, stage, entry.mode, entry.blob) for (path, stage), entry in repository.index().items())


def _rows(repository: Repository, history: History, changed: list[Changed]) -> dict[str, list[Row]]:
    """The four tables."""
    return {
        "refs": [(name, shown(value)) for name, value in sorted(repository.refs().items())],
        "commits": list(history.commits),
        "tracked": [
            (shown(path), f"{mode:06o}", shown(oid)) for path, (mode, oid) in sorted(committed(repository).items())
        ],
        "status": [(shown(path), letters) for path, letters, _ in changed],
    }
