"""The intent journal of a promotion: what is about to be switched, written and fsynced before anything moves.

One small JSON file per promotion and per undo stands in the state folder. It holds the phase and the *moves*: renames and
exchanges, each with the inode numbers of what it moves. So how far a crashed promotion came is read off the file system
(:func:`progress`), and nothing beyond this file has to be remembered.

Inode numbers without device numbers, since those may change over a reboot and all moves stay within one file system.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

import msgspec

from resurgam.errors import Ambiguous, Busy, IntegrityError, NotFound, UsageError
from resurgam.model.codec import to_json, versioned
from resurgam.restore import switch
from resurgam.restore.state import write_atomically

FORMAT = 1


class Kind(StrEnum):
    """Which way it goes: the restored over the live, or back."""

    PROMOTE = "promote"
    UNDO = "undo"


class Phase(StrEnum):
    """How far it is. Before RELOADING a broken promotion is taken back; from there on it is finished."""

    STAGING = "staging"  # copies are brought beside the live places
    FENCING = "fencing"  # clients are being kept out
    SWITCHING = "switching"  # names are being exchanged: the only phase in which components may be of different times
    RELOADING = "reloading"  # all is switched; clients are being let in
    RECORDING = "recording"
    WATCHING = "watching"  # clients are in, and the live system is asked whether it behaves as the point did
    WITHDRAWING = "withdrawing"  # it did not: what was live before comes back, by an undo with a journal of its own
    DONE = "done"


class Verb(StrEnum):
    """What a move does. COPY is used where source and target lie on different file systems."""

    RENAME = "rename"
    EXCHANGE = "exchange"
    COPY = "copy"


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """``inode`` is what stands at ``source`` before, ``other`` what stands at ``target`` (an exchange only)."""

    verb: Verb
    source: str
    target: str
    inode: int
    other: int = 0

    def __str__(self) -> str:
        return f"{self.verb.value} {self.source} -> {self.target}"


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One component's names: the restored ``copy``, and beside ``live`` what comes (``partial``), what was live (``before``)
    and what was live until an undo (``undone``). ``folder``: it has no SQLite siblings.
    ``carried`` are the paths in ``live`` that the component's options leave out and that go along (see ``restore.carry``)."""

    component: str
    copy: str
    live: str
    partial: str
    before: str
    undone: str
    folder: bool
    carried: tuple[bytes, ...] = ()

    def names(self) -> list[str]:
        """Every name at which this promotion may put something, SQLite siblings with it."""
        stems = (self.live, self.partial, self.before, self.undone)
        return [name for stem in stems for name in ([stem] if self.folder else switch.family(stem))]


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """The whole journal of one promotion or undo. ``made`` are parent folders of lost places that had to be made; ``number``
    orders the journals of one folder, since clocks go back. ``watch`` are the seconds for which live is asked afterwards, ``why``
    says wherein it deviated, ``unverified`` how the restore had been judged where no passing verdict was asked for."""

    id: str
    number: int
    kind: Kind
    point: str
    system: str
    directory: str
    started: str
    phase: Phase
    places: tuple[Place, ...]
    staged: tuple[Move, ...] = ()
    moves: tuple[Move, ...] = ()
    made: tuple[str, ...] = ()
    watch: float = 0.0
    why: str = ""
    unverified: str = ""
    format: int = FORMAT

    @property
    def switched(self) -> bool:
        """Whether every component was switched: from there on it goes forward only."""
        return self.phase not in (Phase.STAGING, Phase.FENCING, Phase.SWITCHING)


def path_of(folder: str, kind: Kind, identity: str) -> str:
    """Where the journal of this promotion or undo stands."""
    return os.path.join(folder, f"{kind.value}-{identity}.json")


def keep(folder: str, intent: Intent) -> Intent:
    """Write ``intent`` durably, replacing the one before it; returns it."""
    write_atomically(path_of(folder, intent.kind, intent.id), to_json(intent))
    return intent


def forget(folder: str, intent: Intent) -> None:
    """Remove the journal of a promotion that was taken back entirely; repeatable."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path_of(folder, intent.kind, intent.id))
        switch.fsync_folder(folder)


def find(folder: str, kind: Kind, identity: str) -> Intent | None:
    """The journal of this promotion or undo; None where there is none. Raises IntegrityError, NewerFormat."""
    path = path_of(folder, kind, identity)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise switch.outside(error, f"read {path}") from error
    what = f"The promotion journal {path}"
    return versioned(data, Intent, FORMAT, what=what)


def kept(folder: str) -> list[Intent]:
    """Every journal in ``folder``, oldest first."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        kind, dash, rest = name.partition("-")
        if dash and kind in tuple(Kind) and rest.endswith(".json"):
            intent = find(folder, Kind(kind), rest.removesuffix(".json"))
            if intent is not None:
                found.append(intent)
    return sorted(found, key=lambda intent: intent.number)


def next_number(folder: str) -> int:
    """A number above that of every journal in ``folder``."""
    return max((intent.number for intent in kept(folder)), default=0) + 1


def pending(folder: str) -> list[Intent]:
    """Promotions and undos that began and did not end, for ``resurgam status``; oldest first."""
    return [intent for intent in kept(folder) if intent.phase is not Phase.DONE]


def promotions(folder: str, system: str) -> list[Intent]:
    """The promotions of ``system`` that went live, oldest first, those that were undone since with them."""
    return [i for i in kept(folder) if i.kind is Kind.PROMOTE and i.system == system and i.switched]


def undoable(folder: str, system: str) -> list[Intent]:
    """The promotions of ``system`` that are finished and not undone, latest first: in this order they can be undone."""
    done = [intent for intent in promotions(folder, system) if intent.phase is Phase.DONE]
    return [intent for intent in reversed(done) if find(folder, Kind.UNDO, intent.id) is None]


def resolve(folder: str, system: str, words: str) -> Intent | None:
    """The promotion that ``words`` mean: the beginning of its id, or ``latest``, the last one that was not undone; None
    where there is none. Raises Ambiguous."""
    known = promotions(folder, system)
    if words == "latest":
        return next((i for i in reversed(known) if find(folder, Kind.UNDO, i.id) is None), None)
    matching = [i for i in known if i.id == words] or [i for i in known if words and i.id.startswith(words.lower())]
    if len(matching) > 1:
        raise Ambiguous(
            f"{len(matching)} promotions begin with {words!r}: {', '.join(i.id for i in matching[:5])}.",
            untouched="Nothing was changed.",
            next_step="Give more of the id, or `latest`.",
        )
    return matching[0] if matching else None


def require_not_undone(folder: str, done: Intent | None, words: str) -> Intent:
    """``done``, the promotion that ``words`` mean. Raises NotFound where there is none, UsageError where it was undone already."""
    if done is None:
        raise NotFound(
            f"There is no promotion {words!r} to undo.",
            untouched="Nothing was changed.",
            next_step="`resurgam status` lists those that can be undone.",
        )
    if find(folder, Kind.UNDO, done.id) is not None:
        raise UsageError(
            f"Promotion {done.id} was undone already.",
            untouched="Nothing was changed.",
            next_step="Restore the point again to promote it again.",
        )
    return done


def rename(source: str, target: str, inode: int | None = None) -> Move:
    """A rename of what stands at ``source`` now, or of ``inode``, which will stand there by then."""
    return Move(verb=Verb.RENAME, source=source, target=target, inode=_require(source) if inode is None else inode)


def swap(live: str, incoming: str, outgoing: str, *, folder: bool, exchanges: bool) -> list[Move]:
    """The moves that put ``incoming`` in the place of ``live`` and keep what was live as ``outgoing``, each with its
    SQLite siblings. Either of the first two may be missing (a lost component; one that was lost before)."""
    leaving, arriving = ([], []) if folder else (switch.siblings(live), switch.siblings(incoming))
    moves = [rename(live + suffix, outgoing + suffix) for suffix in leaving]
    here, there = inode_of(live), inode_of(incoming)
    if here is not None and there is not None and exchanges:
        moves.append(Move(verb=Verb.EXCHANGE, source=live, target=incoming, inode=here, other=there))
        moves.append(rename(incoming, outgoing, here))
    else:
        if here is not None:
            moves.append(rename(live, outgoing, here))
        if there is not None:
            moves.append(rename(incoming, live, there))
    moves += [rename(incoming + suffix, live + suffix) for suffix in arriving]
    return moves


def parents(intent: Intent) -> set[str]:
    """The folders in which names are exchanged."""
    return {os.path.dirname(place.live) for place in intent.places}


def moves_of(intent: Intent, exchanges: Mapping[str, bool]) -> tuple[Move, ...]:
    """All moves of the switch, one way or the other; ``exchanges`` tells of each of ``parents`` whether names in it can be."""
    back = intent.kind is Kind.UNDO
    moves: list[Move] = []
    for place in reversed(intent.places) if back else intent.places:
        incoming, outgoing = (place.before, place.undone) if back else (place.partial, place.before)
        can = exchanges[os.path.dirname(place.live)]
        moves += swap(place.live, incoming, outgoing, folder=place.folder, exchanges=can)
    return tuple(moves)


def progress(moves: Sequence[Move], absent: Iterable[str] = ()) -> int:
    """How many of ``moves`` are done, found by looking at the inodes; ``absent`` are names that no move puts there.

    A move is one step of the file system, so after a crash the world is exactly as it was between two of them. Raises
    IntegrityError where it is not: somebody else was at work there meanwhile, and nothing is guessed (P12).
    """
    stages = _stages(moves, absent)
    found = {path: inode_of(path) for path in stages[0]}
    for done, expected in enumerate(stages):
        if expected == found:
            return done
    nearest = min(stages, key=lambda expected: sum(found[path] != inode for path, inode in expected.items()))
    strange = [path for path, inode in nearest.items() if found[path] != inode]
    raise IntegrityError(
        f"Somebody else has changed {', '.join(strange)} since the promotion began.",
        untouched="Nothing was moved now; the promotion's journal and all of its files are kept.",
        next_step="Put those paths back as the journal names them (or move them away if new), then `resurgam promote --resume`.",
    )


def make(move: Move) -> None:
    """Do a rename or an exchange. Raises as :mod:`resurgam.restore.switch` does."""
    if move.verb is Verb.EXCHANGE:
        switch.exchange(move.source, move.target)
    else:
        switch.move(move.source, move.target)


def take_back(move: Move) -> None:
    """Undo a rename or an exchange that was done."""
    if move.verb is Verb.EXCHANGE:
        switch.exchange(move.target, move.source)
    else:
        switch.move(move.target, move.source)


def inode_of(path: str) -> int | None:
    """The inode number of ``path`` itself, not of what it links to; None where nothing is."""
    try:
        return os.lstat(path).st_ino
    except (FileNotFoundError, NotADirectoryError):
        return None


def _stages(moves: Sequence[Move], absent: Iterable[str]) -> list[dict[str, int | None]]:
    """What stands where before the first move, and after each: path to inode, None for nothing."""
    world: dict[str, int | None] = {}
    for move in moves:  # a path's first mention tells what it held in the beginning
        world.setdefault(move.source, move.inode)
        world.setdefault(move.target, move.other or None)
    for path in absent:
        world.setdefault(path, None)
    stages = [dict(world)]
    for move in moves:
        world[move.source], world[move.target] = world[move.target], world[move.source]
        stages.append(dict(world))
    return stages


def _require(path: str) -> int:
    inode = inode_of(path)
    if inode is None:
        raise Busy(
            f"{path} went away while the switch was being planned.",
            untouched="Nothing was switched.",
            next_step="Something still writes there: declare a fence in resurgam.yaml (promotion: fence) and run again.",
        )
    return inode
