"""A restore's life: one table of states and moves, and the small file that remembers where one restore stands.

    planned ──▶ building ──▶ built ──▶ judged ──▶ promoting ──▶ promoted ──▶ undone ──▶ erased

Everything that is not in :data:`MOVES` cannot happen: a restore that was not judged is promoted by the one event that says
so in its name (P4), one that was promoted is not promoted again, one that was undone is restored afresh. :func:`diagram`
draws the table for the docs.

A restore directory holds one place per component and ``.resurgam-restore.json`` (:class:`Restored`). Component names
begin with a letter or a digit, so the file cannot collide with a component. Places inside are relative to the
directory: it is built as ``DIR.partial-ID`` and becomes ``DIR`` by one rename, last (P5).

The file is written by this host and signed by nobody. It says what was *built here*; that a point *is proven* is said
by the signed verdict in the vault, and whoever promotes compares the two.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from enum import StrEnum

import msgspec

from resurgam.errors import IntegrityError, NotFound, UsageError
from resurgam.model.codec import to_json, versioned
from resurgam.model.verdict import Verdict
from resurgam.restore.switch import fsync_folder, outside

FORMAT = 1
FILE = ".resurgam-restore.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class State(StrEnum):
    """Where a restore stands."""

    PLANNED = "planned"  # nothing is on the disk yet
    BUILDING = "building"  # DIR.partial-ID is being filled
    BUILT = "built"  # whole, fingerprinted, under its own name
    JUDGED = "judged"  # it has a verdict, whichever
    PROMOTING = "promoting"  # a switch is under way; its journal says how far
    PROMOTED = "promoted"  # it is live; what was live is kept beside it
    UNDONE = "undone"  # what was live before is live again
    FAILED = "failed"  # building broke off
    ERASED = "erased"  # removed


class Event(StrEnum):
    """What can happen to it."""

    START = "start"
    FINISH = "finish"
    FAIL = "fail"
    JUDGE = "judge"
    PROMOTE = "promote"
    PROMOTE_UNVERIFIED = "promote unverified"
    WITHDRAW = "withdraw"  # a promotion that broke off was taken back entirely
    WITHDRAW_UNJUDGED = "withdraw unjudged"  # the same, of a restore that nobody had judged
    ARRIVE = "arrive"
    UNDO = "undo"
    ERASE = "erase"


MOVES: Mapping[tuple[State, Event], State] = {
    (State.PLANNED, Event.START): State.BUILDING,
    (State.BUILDING, Event.FINISH): State.BUILT,
    (State.BUILDING, Event.FAIL): State.FAILED,
    (State.BUILT, Event.JUDGE): State.JUDGED,
    (State.JUDGED, Event.JUDGE): State.JUDGED,
    (State.JUDGED, Event.PROMOTE): State.PROMOTING,
    (State.BUILT, Event.PROMOTE_UNVERIFIED): State.PROMOTING,
    (State.JUDGED, Event.PROMOTE_UNVERIFIED): State.PROMOTING,
    (State.PROMOTING, Event.WITHDRAW): State.JUDGED,
    (State.PROMOTING, Event.WITHDRAW_UNJUDGED): State.BUILT,
    (State.PROMOTING, Event.ARRIVE): State.PROMOTED,
    (State.PROMOTED, Event.UNDO): State.UNDONE,
    (State.BUILT, Event.ERASE): State.ERASED,
    (State.JUDGED, Event.ERASE): State.ERASED,
    (State.PROMOTED, Event.ERASE): State.ERASED,
    (State.UNDONE, Event.ERASE): State.ERASED,
    (State.FAILED, Event.ERASE): State.ERASED,
}

_INSTEAD = {
    State.PLANNED: "Restore it first.",
    State.BUILDING: "Wait for the restore to end; if it was killed, erase what it left and restore again.",
    State.BUILT: "It was never judged: `resurgam verify POINT --into FOLDER` makes copies and judges them.",
    State.PROMOTING: "See `resurgam status`, then `resurgam promote --resume` or `--undo latest`.",
    State.PROMOTED: "It is live already; `resurgam promote --undo latest` brings back what was live before.",
    State.UNDONE: "Restore the point again into an empty folder.",
    State.FAILED: "Erase what it left and restore again.",
    State.ERASED: "Restore the point again.",
}


def move(state: State, event: Event) -> State:
    """The state after ``event``. Raises UsageError for a move that is not in the table."""
    following = MOVES.get((state, event))
    if following is None:
        raise UsageError(
            f"A restore that is {state.value} cannot {event.value}.",
            untouched="Nothing was changed.",
            next_step=_INSTEAD.get(state, "See `resurgam status`."),
        )
    return following


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.PLANNED.value}"]
    lines += [f"    {state.value} --> {following.value}: {event.value}" for (state, event), following in MOVES.items()]
    ends = [s for s in State if not any(state is s for state, _ in MOVES)]
    lines += [f"    {state.value} --> [*]" for state in ends]
    return "\n".join(lines) + "\n"


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """One component as restored: ``place`` is relative to the restore directory, ``fingerprint`` the driver's digest
    after the build, ``seconds`` what writing it took."""

    driver: str
    place: str
    fingerprint: str
    bytes: int = 0
    seconds: float = 0.0


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore directory says of itself. ``id`` is random and names the promotion; ``seconds`` is the whole
    restore from the first byte to the verdict."""

    id: str
    point: str
    system: str
    copies: dict[str, Copy]
    state: State = State.PLANNED
    verdict: Verdict | None = None
    seconds: float = 0.0
    format: int = FORMAT

    def after(self, event: Event) -> Restored:
        """The same restore one move on. Raises UsageError where the table has no such move."""
        return msgspec.structs.replace(self, state=move(self.state, event))

    def judged(self, verdict: Verdict) -> Restored:
        """The same restore with its verdict. Raises IntegrityError for a verdict over another point."""
        if verdict.point != self.point:
            raise IntegrityError(
                f"The verdict is over point {verdict.point}, this is a restore of {self.point}.",
                untouched="Nothing was changed.",
                next_step=f"`resurgam verify {self.point} --into FOLDER` makes copies and judges them.",
            )
        return msgspec.structs.replace(self.after(Event.JUDGE), verdict=verdict)


def is_free_name(name: str) -> bool:
    """Whether a component may be called ``name`` inside a restore directory."""
    return _NAME.fullmatch(name) is not None


def load(directory: str) -> Restored:
    """The state of the restore in ``directory``.

    Raises NotFound where it holds none, NewerFormat, and IntegrityError where the file is damaged or names a place
    outside the directory.
    """
    path = os.path.join(directory, FILE)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(
            f"{directory} holds no restore: there is no {FILE} in it.",
            untouched="Nothing was changed.",
            next_step="Name the folder that `resurgam restore --into` made.",
        ) from error
    except OSError as error:
        raise outside(error, f"read {path}") from error
    what = f"The restore state {path}"
    restored = versioned(data, Restored, FORMAT, what=what)
    for name, copy in restored.copies.items():
        _require_inside(path, name, copy.place)
    return restored


def save(directory: str, restored: Restored) -> None:
    """Replace the state file of ``directory`` in one step: a crash leaves the old one or the new one."""
    write_atomically(os.path.join(directory, FILE), to_json(restored))


def place_of(directory: str, copy: Copy) -> str:
    """The absolute place of ``copy`` in ``directory``."""
    return os.path.join(os.path.abspath(directory), copy.place)


def write_atomically(path: str, data: bytes) -> None:
    """Write ``path`` durably by a temporary file, fsync, rename, fsync of the folder. Raises as :func:`outside` maps."""
    temporary = f"{path}.new"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(
                temporary
            )  # what a crash left, or what a restored system's command put there to lead us elsewhere
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_folder(os.path.dirname(path))
    except OSError as error:
        raise outside(error, f"write {path}") from error


def _require_inside(path: str, name: str, place: str) -> None:
    parts = place.split("/")
    if not is_free_name(name) or place.startswith("/") or any(part in ("", ".", "..", FILE) for part in parts):
        raise IntegrityError(
            f"{path} names {place!r} as the place of component {name!r}, which is not inside its folder.",
            untouched="Nothing was read or changed there.",
            next_step="Do not promote this folder: restore the point again.",
        )
