"""Recovery: from a broken system to one that is live again, in one act that can be cut off anywhere and run again.

    choose     the newest point that is clean and proven, or can be proven     (restore.recover_choice)
    plan       what is lost, what takes how long, what would go on by itself   (P10; nothing is changed)
    restore    into a folder beside the system, hidden from what is live       (P5, P6)
    judge      by the point's yardsticks; a copy that passed before is kept    (P4; stops here where it does not pass)
    promote    fence, switch, reload, watch, withdraw where live deviates      (restore.promote)
    remove     what is left of the folder

One note on this host says which recovery is under way: which point, into which folder. Everything else is read off the world:
the folder's state, the promotion's journal, the vault. So after a ``kill -9`` the same command goes on where it was: a half-built
folder is built anew, a judged one is promoted, a begun promotion is ended first, one way or the other.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from resurgam.clock import Clock
from resurgam.drivers.base import Drivers
from resurgam.errors import Busy, NotFound
from resurgam.model.codec import from_json, to_json
from resurgam.model.point import Severity
from resurgam.model.system import System
from resurgam.model.verdict import Verdict
from resurgam.restore import candidate, stage, state
from resurgam.restore import intent as journal
from resurgam.restore.intent import Kind
from resurgam.restore.plan import replaceable, restore_order
from resurgam.restore.promote import Outcome, Promoter
from resurgam.restore.recover_choice import PassedOver, choose
from resurgam.restore.recover_estimate import Estimate, estimate, measured, remember, run_of
from resurgam.restore.recover_pending import pending_at
from resurgam.restore.run import Progress, sweep_partial
from resurgam.restore.state import Restored, State, write_atomically
from resurgam.restore.switch import fsync_folder
from resurgam.restore.verify import verify
from resurgam.vault.repository import Repository

NOTE = "recovering.json"
_WENT_LIVE = (State.PROMOTED, State.UNDONE)


class Underway(msgspec.Struct, frozen=True, kw_only=True):
    """The note on this host: a recovery that was agreed to. ``only`` names the components that are switched, none for all. Once it
    is ``over``, there is nothing left but to remove its folder."""

    point: str
    directory: str
    only: tuple[str, ...] = ()
    over: bool = False


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One component in a plan. ``switched`` is False for one that stays as it is."""

    name: str
    driver: str
    bytes: int
    live: str
    switched: bool


class RecoveryPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a recovery is going to do, to print, to agree to and to refuse (P10). ``loses`` are the seconds between the point's cut
    and now: what was written in them is not in it (RPO). ``findings`` counts the point's broken invariants. ``parts`` are in the
    order in which they are restored and switched. ``hidden`` is what the judged copies cannot see. ``resumes`` says how far an
    earlier run came, empty for a new one."""

    point: str
    taken: str
    loses: float
    word: str
    proven: bool
    findings: int
    passed_over: tuple[PassedOver, ...]
    parts: tuple[Part, ...]
    directory: str
    hidden: tuple[str, ...]
    fence: tuple[str, ...]
    reload: tuple[str, ...]
    estimate: Estimate
    rpo: float | None
    rto: float | None
    pending: dict[str, tuple[str, ...]]
    resumes: str = ""

    @property
    def only(self) -> tuple[str, ...]:
        """The components that are switched where not all are."""
        switched = tuple(part.name for part in self.parts if part.switched)
        return () if len(switched) == len(self.parts) else switched


class Recovered(msgspec.Struct, frozen=True, kw_only=True):
    """How a recovery ended. Without ``outcome`` the verdict did not pass and nothing live was touched; the copies are gone then."""

    point: str
    verdict: Verdict
    outcome: Outcome | None
    seconds: float

    @property
    def live(self) -> bool:
        """Whether the point is live now."""
        return self.outcome is not None and self.outcome.kind is Kind.PROMOTE


@dataclass
class Recovery:
    """Recovers ``system`` from ``repository`` by ``promoter``, whose folder also keeps the note and what earlier runs took.
    ``hide`` are more paths that a restored system must not see. Where nothing is ``recorded``, for want of keys that sign or of a
    vault that is written to, only a verdict of the very same run counts (P4)."""

    system: System
    repository: Repository
    promoter: Promoter
    drivers: Drivers
    clock: Clock
    hide: Sequence[str] = ()
    recorded: bool = True

    def plan(self, to: str = "", only: tuple[str, ...] = (), into: str | None = None) -> RecoveryPlan:
        """The way to the point that ``to`` means (see ``recover_choice``), or on with the recovery that was cut off.

        Raises NotFound, Ambiguous, NotProven, IntegrityError, Denied, and Busy where another promotion was cut off.
        """
        underway = self._underway()
        self._require_ours_pending(underway)
        resumable = underway if underway is not None and not underway.over else None
        if resumable is not None and not to and not only:
            to, only = resumable.point, resumable.only
        choice = choose(self.repository, self.system.name, to)
        body = choice.sealed.body
        goes_on = resumable is not None and (resumable.point, resumable.only) == (body.id, only)
        where = resumable.directory if resumable is not None and goes_on else self._fresh_directory(into)
        particulars = self.repository.particulars(body)
        now = self.clock.now()
        sizes = {snapshot.component: snapshot.bytes for snapshot in body.snapshots}
        live = replaceable(self.system, self.drivers)
        order = restore_order(live)
        candidate.require_known(only, order)
        parts = tuple(
            Part(
                name=name,
                driver=live.component(name).driver,
                bytes=sizes.get(name, 0),
                live=live.component(name).location,
                switched=not only or name in only,
            )
            for name in order
        )
        runs = measured(self.promoter.folder)
        return RecoveryPlan(
            point=body.id,
            taken=particulars.cut.at,
            loses=(now - datetime.fromisoformat(particulars.cut.at)).total_seconds(),
            word=choice.state.word,
            proven=choice.state.proven is not None,
            findings=body.findings.get(Severity.BROKEN, 0),
            passed_over=choice.passed_over,
            parts=parts,
            directory=where,
            hidden=(*live.locations().values(), *self.system.vault.folders, *self.hide),
            fence=self.system.promotion.fence,
            reload=self.system.promotion.reload,
            estimate=estimate(sum(sizes.values()), runs, self.system.promotion.watch),
            rpo=self.system.objectives.rpo,
            rto=self.system.objectives.rto,
            pending=pending_at(self.repository, body, particulars, self.drivers, now),
            resumes=_how_far(where) if goes_on else "",
        )

    def carry_out(self, plan: RecoveryPlan, progress: Progress | None = None) -> Recovered:
        """Do what ``plan`` says. Run again after a kill with the plan of then: it goes on where it was.

        Raises what ``verify`` and ``promote`` raise; what was live is live then, unless the error says otherwise.
        """
        with stage.locked(self.promoter.folder, "recover"):
            return self._carry_out(plan, progress)

    # ---- steps

    def _carry_out(self, plan: RecoveryPlan, progress: Progress | None) -> Recovered:
        began = self.clock.monotonic()
        self._give_up_other(plan)
        underway = Underway(point=plan.point, directory=plan.directory, only=plan.only)
        write_atomically(self._note, to_json(underway))
        resumed = self.promoter.resume_or_undo()
        restored = self._judged(plan, progress)
        assert restored.verdict is not None
        outcome = None
        if restored.verdict.judgement.passes:
            outcome = resumed[-1] if resumed else self._live_already(restored)
            outcome = outcome or self.promoter.promote(plan.directory, only=plan.only)
        remember(self.promoter.folder, run_of(restored, (outcome.outage or None) if outcome is not None else None))
        seconds = self.clock.monotonic() - began
        self._end(underway)
        return Recovered(point=plan.point, verdict=restored.verdict, outcome=outcome, seconds=seconds)

    def _judged(self, plan: RecoveryPlan, progress: Progress | None) -> Restored:
        """The judged copies in the plan's folder; made, unless an earlier run has made them."""
        found = _found(plan.directory)
        if found is not None and found.verdict is not None and (self.recorded or found.state in _WENT_LIVE):
            return found
        if found is not None:  # built and never judged, or nobody signed that: its probes may have written to it
            self.promoter.tell(f"remove: {plan.directory}, which was not judged, or without a record")
            shutil.rmtree(plan.directory)
        proof = verify(
            self.repository,
            self.repository.sealed(plan.point),
            self.drivers,
            self.clock,
            own=self.system,
            hide=self.hide,
            into=plan.directory,
            record=self.recorded,
            progress=progress,
            tell=self.promoter.tell,
        )
        if not self.recorded:
            self.promoter.judged_here = proof.restored.id
        return proof.restored

    def _live_already(self, restored: Restored) -> Outcome | None:
        """A promotion of these very copies that was finished before this run could say so."""
        if restored.state not in _WENT_LIVE:
            return None
        kind = Kind.UNDO if restored.state is State.UNDONE else Kind.PROMOTE
        done = journal.find(self.promoter.folder, kind, restored.id)
        return self.promoter.ended(done, 0.0) if done is not None else None

    def _end(self, underway: Underway) -> None:
        """Say that it is over before anything goes away: else a crash in between would have it all done once more."""
        write_atomically(self._note, to_json(msgspec.structs.replace(underway, over=True)))
        self.promoter.tell(f"remove: {underway.directory}")
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(underway.directory)
        sweep_partial(underway.directory)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._note)
            fsync_folder(self.promoter.folder)

    def _give_up_other(self, plan: RecoveryPlan) -> None:
        """The copies of an earlier recovery that is over, or that nobody goes on with; no promotion of them may be under way."""
        underway = self._underway()
        if underway is not None and underway.directory != plan.directory:
            self._require_none_pending()
            self._end(underway)

    # ---- what must hold

    def _require_ours_pending(self, underway: Underway | None) -> None:
        found = _found(underway.directory) if underway is not None else None
        for intent in journal.pending(self.promoter.folder):
            if intent.system == self.system.name and (found is None or intent.id != found.id):
                raise _cut_off(intent)

    def _require_none_pending(self) -> None:
        for intent in journal.pending(self.promoter.folder):
            if intent.system == self.system.name:
                raise _cut_off(intent)

    # ---- places

    @property
    def _note(self) -> str:
        return os.path.join(self.promoter.folder, NOTE)

    def _underway(self) -> Underway | None:
        try:
            with open(self._note, "rb") as file:
                return from_json(file.read(), Underway, what="the note on the recovery under way")
        except FileNotFoundError:
            return None

    def _fresh_directory(self, into: str | None) -> str:
        """Beside the system, so on its file system: what lies there is renamed into its place."""
        beside = os.path.realpath(self.system.root)
        return os.path.abspath(into) if into else f"{beside}.recover-{secrets.token_hex(4)}"


def _found(directory: str) -> Restored | None:
    try:
        return state.load(directory)
    except NotFound:
        return None


def _how_far(directory: str) -> str:
    found = _found(directory)
    return f"its copies are {found.state.value}" if found is not None else "nothing is restored yet"


def _cut_off(intent: journal.Intent) -> Busy:
    return Busy(
        f"The {intent.kind.value} {intent.id} of {intent.started} was cut off while {intent.phase.value}.",
        untouched="Nothing was changed.",
        next_step="End it first: `resurgam promote --resume`.",
    )
