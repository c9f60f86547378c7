"""A driver for mailboxes in the mbox format (RFC 4155), as Python's ``mailbox`` module reads, writes and locks them.

The content is the file; its messages are a view of it, told by their headers and a digest of their bytes, never by their text.

    freeze    the lock that writers take, held shared, while the file is copied into a private one
    read      Blob ``mbox``, then Rows ``messages``: message_id, sender, subject, date, bytes, digest
    write     the file, beside the target, becomes the target by one rename (P5)

The lock is the one of ``fcntl.lockf``, which the kernel drops when its process dies: a killed capture stops no mail. Writers that
take only a dot lock (``mailbox.lock``) are waited for, and are not held: whoever begins in the freeze is one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
import secrets
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from email.parser import BytesHeaderParser
from typing import IO, TYPE_CHECKING

from resurgam.drivers.asked import ask
from resurgam.drivers.base import Blob, Equality, Facts, Freeze, Item, Rows, Traits
from resurgam.errors import (
    Denied,
    IntegrityError,
    LimitExceeded,
    ManifestError,
    NotFound,
    ResurgamError,
    StoreFull,
    TargetRefused,
    Unreachable,
)
from resurgam.model.point import Position
from resurgam.model.system import Component, Consistency, Json

if TYPE_CHECKING:
    from typing_extensions import Buffer

IMAGE = b"mbox"
MESSAGES = "messages"
COLUMNS = ("message_id", "sender", "subject", "date", "bytes", "digest")
STARTS = b"From "  # of a line: a new message, as Python's mailbox takes it
FREEZE_LIMIT = 5.0
_NAP = 0.001  # seconds between two tries for the lock
_BATCH = 500
_STEP = 1 << 20

Row = tuple[Json, ...]


class _Image:
    """A private copy of a mailbox, and a Source over it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.size = os.fstat(file.fileno()).st_size

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """See ``drivers.base.Source``."""
        return os.preadv(self.file.fileno(), [buffer], offset)

    def settled(self) -> bool:
        """Nobody writes to it."""
        return True

    def close(self) -> None:
        """``release`` closes it: a position may be read again."""


class _Reading(io.RawIOBase):
    """An image from its beginning, at a place of its own: several may read it at a time."""

    def __init__(self, image: _Image) -> None:
        self._image = image
        self._at = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Buffer) -> int:
        """Fill ``buffer``; 0 at the end."""
        done = self._image.read_into(self._at, memoryview(buffer))
        self._at += done
        return done


class MboxDriver:
    """See the module's docstring. What is held dies with the process. There are no options."""

    kind = "mbox"
    traits = Traits(
        consistency=Consistency.TRANSACTION,
        equality=Equality.BYTES,
        freeze=Freeze.COPY,
        freeze_limit=FREEZE_LIMIT,
    )

    def __init__(self) -> None:
        self._held: dict[str, _Image] = {}

    def inspect(self, component: Component) -> Facts:
        """Size, and how many messages there are."""
        _no_options(component)
        with _locked(component.location, FREEZE_LIMIT) as file:
            return {"bytes": os.fstat(file.fileno()).st_size, "messages": sum(line.startswith(STARTS) for line in file)}

    @contextmanager
    def freeze(self, component: Component, limit: float | None = None) -> Iterator[Position]:
        """Hold the writers, copy, yield, let the writers go. Raises NotFound, Denied, LimitExceeded, StoreFull."""
        _no_options(component)
        most = FREEZE_LIMIT if limit is None else min(FREEZE_LIMIT, limit)
        began = time.monotonic()
        position = Position(token=secrets.token_hex(16), earned=Consistency.TRANSACTION)
        with _locked(component.location, most) as file:
            self._held[position.token] = _copied(file, component.location)
            try:
                yield position
                if time.monotonic() - began > most:
                    raise _too_long(component.location, most, "it was held too long")
            except BaseException:
                self.release(component, position)
                raise

    def read(self, component: Component, at: Position) -> Iterator[Item]:
        """The file, and its messages as a view of it."""
        image = self._image(component, at)
        yield Blob(IMAGE, image.size, image, view=True)
        yield _rows(image)

    def query(self, component: Component, at: Position, statement: str) -> Rows:
        """The rows of one SELECT over ``messages``: for invariants. Raises ManifestError where it is wrong."""
        return ask([_rows(self._image(component, at))], statement, component.location)

    def release(self, component: Component, at: Position) -> None:
        """Close the copy; repeatable."""
        del component
        image = self._held.pop(at.token, None)
        if image is not None:
            image.file.close()

    def write(self, items: Iterable[Item], target: Component) -> Component:
        """Build the file beside ``target.location``; one rename makes it the target (P5)."""
        location = target.location
        _refuse_what_stands(location)
        partial = f"{location}.partial-{secrets.token_hex(8)}"
        try:
            os.makedirs(os.path.dirname(location), exist_ok=True)
            _build(items, partial)
            _refuse_what_stands(location)
            if os.path.isdir(location):  # an empty one may stand there
                os.rmdir(location)
            os.rename(partial, location)
            _sync(os.path.dirname(location))
        except OSError as error:
            raise _explained(error, location) from error
        finally:
            with suppress(FileNotFoundError):
                os.unlink(partial)
        return target

    def fingerprint(self, component: Component) -> str:
        """SHA-256 of the file, under the lock."""
        with _locked(component.location, FREEZE_LIMIT) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def erase(self, target: Component) -> None:
        """Remove the file, and what a write that was killed left beside it; repeatable."""
        folder, name = os.path.split(target.location)
        try:
            left = [entry for entry in os.listdir(folder) if entry == name or entry.startswith(f"{name}.partial-")]
            for entry in left:
                os.unlink(os.path.join(folder, entry))
        except FileNotFoundError:
            return
        except OSError as error:
            raise _explained(error, target.location) from error

    def _image(self, component: Component, at: Position) -> _Image:
        try:
            return self._held[at.token]
        except KeyError:
            raise NotFound(
                f"The position of {component.name} is not held any more.",
                untouched="Nothing was read.",
                next_step="Take a new cut: positions of mailboxes end with the process that took them.",
            ) from None


@contextmanager
def _locked(path: str, limit: float) -> Iterator[io.BufferedReader]:
    """The mailbox, open while its writers wait. A writer that rewrites it puts a new file in its place, so it may have to be opened
    again."""
    deadline = time.monotonic() + limit
    try:
        while True:
            with open(path, "rb") as file:
                if _lock(file, path):
                    yield file
                    return
            if time.monotonic() > deadline:
                raise _too_long(path, limit, "its writers did not let go of it")
            time.sleep(_NAP)
    except OSError as error:
        raise _explained(error, path) from error


def _lock(file: io.BufferedReader, path: str) -> bool:
    """Whether no writer is at work and none can begin until ``file`` is closed. The dot lock is looked at before the lock is tried:
    a writer that has it may be about to lock the file that it has just renamed, and must not find us there."""
    if os.path.exists(f"{path}.lock"):
        return False
    try:
        fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return os.path.samestat(os.stat(path), os.fstat(file.fileno()))


def _copied(file: io.BufferedReader, path: str) -> _Image:
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - `release` closes it
    try:
        while piece := file.read(_STEP):
            copy.write(piece)
        copy.flush()
    except OSError as error:
        copy.close()
        raise _explained(error, path) from error
    return _Image(copy)


def _rows(image: _Image) -> Rows:
    """The messages. Message-IDs may come twice, so there is no key: rows count with multiplicity."""
    return Rows(MESSAGES, COLUMNS, (), _batches(image), view_of=IMAGE)


def _batches(image: _Image) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in _messages(image):
        batch.append(row)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _messages(image: _Image) -> Iterator[Row]:
    """Line by line: one message's headers are in memory, never its text."""
    with io.BufferedReader(_Reading(image)) as file:
        digest, size, headers, in_headers = hashlib.sha256(), 0, bytearray(), True
        for line in file:
            if line.startswith(STARTS):
                if size:
                    yield _row(headers, size, digest.hexdigest())
                digest, size, headers, in_headers = hashlib.sha256(), 0, bytearray(), True
            elif in_headers:
                in_headers = bool(line.strip())
                headers += line
            digest.update(line)
            size += len(line)
        if size:
            yield _row(headers, size, digest.hexdigest())


def _row(headers: bytearray, size: int, digest: str) -> Row:
    found = BytesHeaderParser().parsebytes(bytes(headers))
    told = (str(found[name] or "") for name in ("Message-ID", "From", "Subject", "Date"))
    return (*(text.encode("utf-8", "replace").decode() for text in told), size, digest)


def _build(items: Iterable[Item], partial: str) -> None:
    """Exactly one Blob, whole; the rows lie in it. Raises IntegrityError for anything else."""
    with open(partial, "xb") as file:
        written = False
        for item in items:
            if isinstance(item, Rows) and item.name == MESSAGES and item.view_of == IMAGE:
                continue
            if not isinstance(item, Blob) or item.path != IMAGE or written:
                raise _not_whole("an item is there that does not belong to a mailbox")
            item.copy_to(file.fileno())
            if os.fstat(file.fileno()).st_size != item.size:
                raise _not_whole("the mailbox ends too early")
            written = True
        if not written:
            raise _not_whole("the mailbox is missing")
        os.fsync(file.fileno())


def _sync(folder: str) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _refuse_what_stands(location: str) -> None:
    if os.path.lexists(location) and not (os.path.isdir(location) and not os.listdir(location)):
        raise TargetRefused(
            f"{location} is there already.",
            untouched="Nothing was written, and what stands there was not touched.",
            next_step="Name a place where nothing is.",
        )


def _no_options(component: Component) -> None:
    if component.options:
        raise ManifestError(
            f"Component {component.name!r}: the driver mbox has no options.",
            untouched="Nothing was read.",
            next_step="Remove `options`.",
        )


def _too_long(path: str, limit: float, why: str) -> LimitExceeded:
    return LimitExceeded(
        f"{path} could not be frozen within {limit:g} s: {why}.",
        untouched="The mailbox was let go, and nothing was changed.",
        next_step="Capture at a quieter time, raise limits.freeze, or remove a stale .lock beside the mailbox.",
    )


def _not_whole(why: str) -> IntegrityError:
    return IntegrityError(
        f"The snapshot of the mailbox is not whole: {why}.",
        untouched="Nothing was put at the target.",
        next_step="Run `resurgam vault check`, or restore another point.",
    )


def _explained(error: OSError, path: str) -> ResurgamError:
    """What the operating system's error means to the caller (P12)."""
    untouched = "Nothing was changed."
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        step = "Correct the component's location: it is the mailbox's file."
        return NotFound(f"There is no mailbox {path}.", untouched=untouched, next_step=step)
    if isinstance(error, PermissionError):
        step = "Give this user read permission on the file, and for a restore write permission on its folder."
        return Denied(f"{path} may not be used by this user.", untouched=untouched, next_step=step)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        step = "Free some space, or set TMPDIR to a disk with room."
        return StoreFull(f"No space is left for {path}.", untouched=untouched, next_step=step)
    step = "Check the disk and run the same command again."
    return Unreachable(f"{path} cannot be used: {error.strerror}.", untouched=untouched, next_step=step)
