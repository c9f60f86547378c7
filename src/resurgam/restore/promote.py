"""Promotion: a restored, judged system takes the place of the live one, and can be taken back.

    check      the vault says that it passed, the copies are what was judged   (NotProven otherwise; P4)
    stage      each copy comes beside its live place, as LIVE.partial-ID       (P5: under another name)
    fence      the owner's command keeps clients out
    idle       nobody holds a live path open                                   (Busy otherwise)
    carry      what the options leave out of a live folder is copied along     (see restore.carry)
    switch     each LIVE and LIVE.partial-ID exchange names; what was live stays as LIVE.before-ID
    reload     the owner's command lets clients in to what is live now
    record     a signed record says who is live since when
    watch      live is asked the probes for the time the owner declared        (restore.watch); where it deviates, it is undone

Up to and with *switch*, whatever fails (a fence, a full disk, a held file, Ctrl-C) is taken back entirely, and the error
says so. From *reload* on the new state is live: a failing reload is reported, and ``undo`` or ``resume_or_undo`` decide.
Before anything moves, the intent journal (:mod:`resurgam.restore.intent`) says what will. After a ``kill -9`` or a power cut,
``resume_or_undo`` brings either all of the old state back or finishes the new one; until then, ``pending`` tells of it, and
no other promotion starts.

``undo`` is the same switch in the other direction: what was live before comes back with its very inodes, and what was
live until then stays as LIVE.undone-ID, since it may hold work that was done in between.

``only`` some components can be switched. Where the others are not as in the point any more, nobody has judged the two together
(P1, P4): then live is asked at least once, watch or no watch. ``unverified`` asks for no passing verdict, and is in the record.

Not done here: which approvals policy asks for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from resurgam.clock import Clock, SystemClock
from resurgam.drivers.base import Driver
from resurgam.errors import Busy, IntegrityError, NotFound, ResurgamError, UsageError
from resurgam.model.plan import Plan
from resurgam.model.system import Json, System
from resurgam.probes.base import Runner
from resurgam.proof.report import without_words
from resurgam.restore import candidate, carry, stage, state, switch
from resurgam.restore import intent as journal
from resurgam.restore.holders import require_idle
from resurgam.restore.intent import Intent, Kind, Move, Phase
from resurgam.restore.plan import replaceable
from resurgam.restore.recover_pending import Pending, pending_in
from resurgam.restore.run import copies_of
from resurgam.restore.state import Event, Restored
from resurgam.restore.watch import Watcher
from resurgam.vault.repository import Repository

Facts = dict[str, Json]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a promotion or an undo did: ``live`` says which copy is live now, ``kept`` where each component's other one
    stands, ``outage`` the seconds between the fence and the end of the reload. ``withdrawn`` says wherein live deviated during the
    watch, so that it was undone; ``pending`` is what goes on or ends by itself now (``Plan.pending``)."""

    id: str
    kind: Kind
    live: str
    kept: Mapping[str, str]
    outage: float
    withdrawn: str = ""
    pending: Pending = field(default_factory=dict)


@dataclass(slots=True)
class Promoter:
    """Promotes into one live ``system`` what ``repository`` holds a passing verdict over. ``folder`` keeps the journals;
    ``runner`` runs fence and reload on the host, in the system's root; ``record`` is given a word and the facts of what
    came to be, and may be called twice for one id after a crash; ``tell`` hears of each step just before it."""

    system: System
    repository: Repository
    folder: str
    driver_for: Callable[[str], Driver]
    runner: Runner
    record: Callable[[str, Facts], None]
    tell: Callable[[str], None] = lambda _: None
    clock: Clock = field(default_factory=SystemClock)
    watcher: Watcher | None = None
    judged_here: str = ""  # the id of the restore that this process has judged, where no record says so

    def plan(self, directory: str, *, only: tuple[str, ...] = (), unverified: bool = False) -> Plan:
        """What ``promote`` would do, without doing any of it (P10). Raises what ``promote`` raises before its first step."""
        directory = os.path.abspath(directory)
        restored = state.load(directory)
        word = self._require_fit(restored, unverified=unverified)
        places = candidate.places(self.system, directory, restored, self.driver_for, only)
        moved = self._moved(restored, only)
        plan = candidate.plan(
            self.system,
            directory,
            restored,
            places,
            self.driver_for,
            unverified=word,
            moved=moved,
            watch=self._watch_for(moved),
        )
        copies = copies_of(replaceable(self.system, self.driver_for), directory, restored)
        return msgspec.structs.replace(plan, pending=pending_in(copies, self.driver_for, self.clock.now()))

    def promote(
        self, directory: str, *, agreed: Plan | None = None, only: tuple[str, ...] = (), unverified: bool = False
    ) -> Outcome:
        """Make the restore in ``directory`` live. ``agreed`` is the plan that was shown: another one now is refused.

        Raises NotProven, UsageError (not judged yet, promoted already), TargetRefused (the restore does not fit the live
        system), Busy (a holder, or another promotion), and what the commands and the file system raise.
        """
        directory = os.path.abspath(directory)
        with stage.locked(self.folder):
            self._require_none_pending()
            plan = self.plan(directory, only=only, unverified=unverified)
            if agreed is not None and _without_pending(agreed) != _without_pending(plan):
                raise UsageError(
                    "The plan is another one now than the one that was agreed to.",
                    untouched="Nothing was changed.",
                    next_step="Show the plan again, and agree to that.",
                )
            restored = state.load(directory)
            places = candidate.places(self.system, directory, restored, self.driver_for, only)
            self.tell("check")
            for place in places:
                candidate.require_unchanged(restored, self.system, place, place.copy, self.driver_for)
            staged, made = stage.planned(places)
            intent = Intent(
                id=restored.id,
                number=journal.next_number(self.folder),
                kind=Kind.PROMOTE,
                point=restored.point,
                system=restored.system,
                directory=directory,
                started=self.clock.now().isoformat(),
                phase=Phase.STAGING,
                places=places,
                staged=staged,
                made=made,
                watch=self._watch_for(self._moved(restored, only)),
                unverified=self._require_fit(restored, unverified=unverified),
            )
            return dataclasses.replace(self._run(intent, restored), pending=plan.pending)

    def undo_plan(self, words: str) -> Plan:
        """What ``undo`` would do, without doing any of it (P10). Raises what ``undo`` raises before its first step."""
        return candidate.undo_plan(self.system, self._undoable(words))

    def undo(self, words: str) -> Outcome:
        """Bring back what was live before a promotion: the beginning of its id, or ``latest``. Raises NotFound, Ambiguous,
        UsageError (undone already), IntegrityError (what was kept is gone), Busy, and what the commands and the file system
        raise."""
        with stage.locked(self.folder):
            done = self._undoable(words)
            if done.phase in (Phase.RELOADING, Phase.RECORDING):
                done = self._arrive(done)  # its reload failed: it was live all the same, and the record says so (P8)
            outcome = self._undo(done)
            self._keep(done, phase=Phase.DONE)  # an undo by hand also ends a watch
            return outcome

    def resume_or_undo(self) -> list[Outcome]:
        """End every promotion and undo that was cut off: what was not wholly switched is taken back (no Outcome), what was
        is finished. Repeatable; raises Busy, IntegrityError and what the commands raise, with the journal kept."""
        outcomes = []
        with stage.locked(self.folder):
            for intent in sorted(self._pending(), key=lambda intent: intent.kind is Kind.PROMOTE):  # an undo first
                if intent.kind is Kind.PROMOTE and journal.find(self.folder, Kind.UNDO, intent.id) is not None:
                    self._keep(intent, phase=Phase.DONE)  # it was being watched, or withdrawn, when it was undone
                elif not intent.switched:
                    self._withdraw(intent)
                else:
                    outcomes.append(self._finish(intent, self.clock.monotonic()))
        return outcomes

    def _undoable(self, words: str) -> Intent:
        done = journal.resolve(self.folder, self.system.name, words)
        self._require_none_pending(besides=done.id if done else "")
        done = journal.require_not_undone(self.folder, done, words)
        self._require_latest(done)
        _require_kept(done)
        return done

    # ---- the way forward

    def _run(self, intent: Intent, restored: Restored | None = None) -> Outcome:
        began = self.clock.monotonic()
        try:
            if restored is not None:
                self._keep(intent)
                event = Event.PROMOTE_UNVERIFIED if intent.unverified else Event.PROMOTE
                state.save(intent.directory, restored.after(event))
                stage.bring(intent, self.tell)
                self._require_unchanged_if_copied(intent, restored)
            intent = self._keep(intent, phase=Phase.FENCING)
            exchanges = {parent: switch.can_exchange(parent) for parent in journal.parents(intent)}
            began = self.clock.monotonic()
            self._call("fence", intent)
            self._require_idle(intent)
            if restored is not None:
                intent = self._carry(intent)
            intent = self._keep(intent, phase=Phase.SWITCHING, moves=journal.moves_of(intent, exchanges))
            for move in intent.moves:
                self.tell(str(move))
                journal.make(move)
        except (Exception, KeyboardInterrupt) as error:
            self._give_up(intent, error)
            raise
        return self._finish(self._keep(intent, phase=Phase.RELOADING), began)

    def _carry(self, intent: Intent) -> Intent:
        """What is left out is listed afresh: a fence ends processes, and their last logs and pid files come and go."""
        places = []
        for place in intent.places:
            component = self.system.component(place.component)
            driver = self.driver_for(component.driver)
            carried, _ = carry.sorted_out(driver, component, place.live, place.partial)
            places.append(msgspec.structs.replace(place, carried=tuple(carried)))
        intent = journal.keep(self.folder, msgspec.structs.replace(intent, places=tuple(places)))
        for place in intent.places:
            carry.bring(place, self.tell)
        return intent

    def _undo(self, done: Intent) -> Outcome:
        return self._run(
            msgspec.structs.replace(
                done,
                kind=Kind.UNDO,
                number=journal.next_number(self.folder),
                started=self.clock.now().isoformat(),
                phase=Phase.FENCING,
                moves=(),
                staged=(),
                made=(),
                watch=0.0,
            )
        )

    def _finish(self, intent: Intent, began: float) -> Outcome:
        if intent.phase is Phase.RELOADING:
            self._call("reload", intent)
        outage = self.clock.monotonic() - began
        if intent.phase in (Phase.RELOADING, Phase.RECORDING):
            intent = self._arrive(intent)
        if intent.phase is Phase.WATCHING:
            intent = self._watch(intent)
        if intent.phase is Phase.WITHDRAWING:
            self.tell(f"withdraw: {intent.why}")
            outcome = self._undo(intent)
            self._keep(intent, phase=Phase.DONE)
            return outcome
        return self.ended(intent, outage)

    def ended(self, intent: Intent, outage: float) -> Outcome:
        """What a finished promotion or undo did, by its journal."""
        back = intent.kind is Kind.UNDO
        kept = {place.component: place.undone if back else place.before for place in intent.places}
        present = {name: path for name, path in kept.items() if os.path.lexists(path)}
        live = "what was live before" if back else f"point {intent.point}"
        return Outcome(intent.id, intent.kind, live, present, outage, withdrawn=intent.why if back else "")

    def _arrive(self, intent: Intent) -> Intent:
        self.tell("record")
        back = intent.kind is Kind.UNDO
        if intent.phase is not Phase.RECORDING:
            intent = self._keep(intent, phase=Phase.RECORDING)
        self._remember(intent.directory, Event.UNDO if back else Event.ARRIVE)
        self.record("undone" if back else "promoted", _facts(intent))
        return self._keep(intent, phase=Phase.WATCHING if intent.watch else Phase.DONE)

    def _watch(self, intent: Intent) -> Intent:
        assert self.watcher is not None, "whoever gives no watcher promotes nothing that is watched"
        why = self.watcher.watch(intent.point, intent.watch)
        return self._keep(msgspec.structs.replace(intent, why=why), phase=Phase.WITHDRAWING if why else Phase.DONE)

    # ---- the way back

    def _give_up(self, intent: Intent, error: BaseException) -> None:
        """Take back what was begun, and let ``error`` say that it was. Where that fails too, both are told."""
        newest = journal.find(self.folder, intent.kind, intent.id)
        if newest is None:
            return
        try:
            self._withdraw(newest)
        except (ResurgamError, OSError) as second:
            raise ResurgamError(
                f"{_message(error)} Taking the promotion back then failed as well: {_message(second)}",
                untouched=f"Its journal is kept: {journal.path_of(self.folder, newest.kind, newest.id)}.",
                next_step="Mend that, then run `resurgam promote --resume`.",
            ) from error
        if isinstance(error, ResurgamError):
            error.untouched = "All was taken back: what was live is live, the restored copies are where they were."

    def _withdraw(self, intent: Intent) -> None:
        """Back to how it was before the first step, phase by phase, so that this too can be cut off and repeated."""
        if intent.phase is Phase.SWITCHING:
            absent = [name for place in intent.places for name in place.names()]
            done = journal.progress(intent.moves, absent)
            if done:
                self._require_idle(intent)
            for move in reversed(intent.moves[:done]):
                self.tell(f"take back: {move}")
                journal.take_back(move)
            intent = self._keep(intent, phase=Phase.FENCING, moves=())
        if intent.phase is Phase.FENCING:
            self._call("reload", intent)  # a fence that stands, or half stands, must not outlive the promotion
            intent = self._keep(intent, phase=Phase.STAGING)
        if intent.kind is Kind.PROMOTE:
            for place in intent.places:
                carry.take_back(place, self.tell)
            stage.take_back(intent, self.tell)
            unjudged = intent.unverified == candidate.NOT_JUDGED
            self._remember(intent.directory, Event.WITHDRAW_UNJUDGED if unjudged else Event.WITHDRAW)
        journal.forget(self.folder, intent)

    # ---- what must hold

    def _require_fit(self, restored: Restored, *, unverified: bool) -> str:
        """P4: a passing verdict, or the owner's word that none is asked for; then how it was judged, else nothing."""
        if unverified:
            return candidate.require_unverified(restored, self.system, self.repository)
        judged_here = restored.id == self.judged_here
        candidate.require_proven(restored, self.system, self.repository, judged_here=judged_here)
        return ""

    def _moved(self, restored: Restored, only: tuple[str, ...]) -> list[str]:
        return candidate.moved_on(restored, self.system, only, self.driver_for) if only else []

    def _watch_for(self, moved: list[str]) -> float:
        """Seconds. Of two states side by side nobody knows how they behave (P1, P4), so live is asked at least once."""
        if moved and self.watcher is None:
            raise candidate.mixed(moved)
        return self.watcher.seconds(at_least_once=bool(moved)) if self.watcher is not None else 0.0

    def _require_unchanged_if_copied(self, intent: Intent, restored: Restored) -> None:
        copied = {move.target for move in intent.staged if move.verb is journal.Verb.COPY}
        for place in intent.places:
            if place.partial in copied:
                candidate.require_unchanged(restored, self.system, place, place.partial, self.driver_for)

    def _require_idle(self, intent: Intent) -> None:
        self.tell("idle")
        require_idle(name for place in intent.places for name in place.names())

    # ---- small steps

    def _require_none_pending(self, *, besides: str = "") -> None:
        """A promotion starts from a settled state; ``besides`` is the one whose failed reload an undo answers."""
        for other in self._pending():
            if other.kind is Kind.PROMOTE and other.id == besides:
                continue
            raise Busy(
                f"The {other.kind.value} {other.id} of {other.started} was cut off while {other.phase.value}.",
                untouched="Nothing was changed.",
                next_step="End it first: `resurgam promote --resume`.",
            )

    def _pending(self) -> list[Intent]:
        return [intent for intent in journal.pending(self.folder) if intent.system == self.system.name]

    def _require_latest(self, done: Intent) -> None:
        """Promotions are undone in the order of their making, last first: each one's ``before`` is the other's live."""
        for later in journal.kept(self.folder):
            same = later.system == done.system and later.kind is Kind.PROMOTE and later.number > done.number
            if same and journal.find(self.folder, Kind.UNDO, later.id) is None:
                raise UsageError(
                    f"Promotion {later.id} of {later.started} came after {done.id}.",
                    untouched="Nothing was changed.",
                    next_step=f"Undo that one first: `resurgam promote --undo {later.id}`.",
                )

    def _call(self, which: str, intent: Intent) -> None:
        argv = self.system.promotion.fence if which == "fence" else self.system.promotion.reload
        if not argv:
            return
        self.tell(which)
        completed = self.runner.run(argv, timeout=self.system.promotion.timeout)
        if completed.code != 0 or completed.timed_out:
            why = "did not end in time" if completed.timed_out else f"ended with code {completed.code}"
            last = completed.errors.decode("utf-8", "replace").strip()[-400:]
            raise ResurgamError(
                f"The {which} command {why}{': ' + last if last else ''}.",
                untouched="The promotion's journal is kept.",
                next_step=_after_failed(which, intent),
            )

    def _keep(self, intent: Intent, *, phase: Phase | None = None, moves: tuple[Move, ...] | None = None) -> Intent:
        changed = msgspec.structs.replace(
            intent, phase=intent.phase if phase is None else phase, moves=intent.moves if moves is None else moves
        )
        return journal.keep(self.folder, changed)

    def _remember(self, directory: str, event: Event) -> None:
        with contextlib.suppress(NotFound):  # it may have been erased since; the journal and the record suffice
            restored = state.load(directory)
            if (restored.state, event) in state.MOVES:  # else it was remembered before a crash
                state.save(directory, restored.after(event))


def pending(folder: str) -> list[Intent]:
    """Promotions and undos that were cut off, for ``resurgam status``."""
    return journal.pending(folder)


def _without_pending(plan: Plan) -> Plan:
    return msgspec.structs.replace(plan, pending={})  # it speaks of the time, which passes between two plans


def _require_kept(done: Intent) -> None:
    arrived = {move.target for move in done.moves}
    gone = [place.before for place in done.places if place.before in arrived and not os.path.lexists(place.before)]
    if gone:
        raise IntegrityError(
            f"What was live before promotion {done.id} is not there any more: {', '.join(gone)}.",
            untouched="Nothing was changed.",
            next_step="Restore an earlier point and promote that.",
        )


def _after_failed(which: str, intent: Intent) -> str:
    if which == "fence":
        return "Mend the command, and run the same again."
    undo = f"; or take it back: `resurgam promote --undo {intent.id}`"
    return f"Mend the command, then `resurgam promote --resume`{undo if intent.switched and intent.kind is Kind.PROMOTE else ''}."


def _facts(intent: Intent) -> Facts:
    return {
        "id": intent.id,
        "point": intent.point,
        "system": intent.system,
        "started": intent.started,
        "components": [place.component for place in intent.places],
        "unverified": intent.unverified,
        "why": without_words(intent.why),  # a signed record holds no answer's text
    }


def _message(error: BaseException) -> str:
    return error.message if isinstance(error, ResurgamError) else f"{type(error).__name__}: {error}."
