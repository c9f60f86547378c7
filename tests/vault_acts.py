"""What may happen in the life of a vault (``tests.vault_life``): each act is a function of the life and of its own chance.

Prunes are driven as the command line does, by either of two pruners, one step or all steps at a time; each may die at any call.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from random import Random

from resurgam.errors import IntegrityError, NotFound
from resurgam.model.system import Retention
from resurgam.model.verdict import Judgement
from resurgam.stores.base import Entry, Store
from resurgam.testing.faults import Crash, CrashStore
from resurgam.testing.interleave import Interleaver, Session
from resurgam.vault import holds, pruning
from resurgam.vault.check import check
from resurgam.vault.history import Hold
from resurgam.vault.leases import open_leases, revoke
from resurgam.vault.policies import next_policy, policies, put_policy, store_time
from resurgam.vault.prune import Economics
from resurgam.vault.prunes import Stage
from resurgam.vault.repository import Repository
from resurgam.vault.signing import Role
from tests.vault_hosts import CaptureHost, Host
from tests.vault_life import STATES, Life, contents_of, vouch
from tests.vault_model import DAY

HOUR = 3600.0
Act = Callable[[Life, Random], None]
VERDICTS = (Judgement.IDENTICAL, Judgement.IDENTICAL, Judgement.DIFFERENT)

# Captures -------------------------------------------------------------------------------------------------------------


def change(life: Life, rng: Random) -> None:
    """A system's users change it; what it held long ago may come back."""
    held = rng.choice(list(rng.choice(life.hosts).driver.held.values()))
    held.files = dict(rng.choice(STATES))
    if rng.random() < 0.2:
        held.files[b"new"] = rng.randbytes(2000)


def capture(life: Life, rng: Random) -> None:
    """A capture, which may die at one of its calls."""
    life.capture(rng.choice(life.hosts), dying(life, rng, 8))


def freeze(life: Life, rng: Random) -> None:
    """A capture begins, and its process is stopped before its end. Its host may know that, or be a clone's original."""
    if len(life.frozen) >= 3:
        thaw(life, rng)
    capturer = rng.choice(life.hosts)
    clone = capturer.clone()
    capturing = life.begin(capturer, life.store, clone)
    if rng.random() < 0.3 and (note := clone.under_way()):
        capturer.notes().begin(note)
    try:
        for _ in range(rng.randrange(3)):
            capturing.step()
    except BaseException:
        capturing.end()  # a capture that fails has ended
        raise
    life.frozen.append(capturing)


def thaw(life: Life, rng: Random) -> None:
    """A stopped capture goes on as if no time had passed: it seals, or hears that its name is gone."""
    if life.frozen:
        capturing = life.frozen.pop(rng.randrange(len(life.frozen)))
        try:
            capturing.seal()
        finally:
            capturing.end()


def forget(life: Life, rng: Random) -> None:
    """A host loses its notes (P3)."""
    shutil.rmtree(rng.choice(life.hosts).state, ignore_errors=True)


# Evidence and policy --------------------------------------------------------------------------------------------------


def judge(life: Life, rng: Random) -> None:
    """A verifier vouches for a point, or takes it back; perhaps it dies over it."""
    if point := life.a_point(rng):
        life.judge(point, rng.choice(VERDICTS), dying(life, rng, 6))


def freeze_judging(life: Life, rng: Random) -> None:
    """A verification begins, and is stopped."""
    if not life.judging and (point := life.a_point(rng)):
        life.judging.append((point, life.evidence(point, life.store)))


def thaw_judging(life: Life, _rng: Random) -> None:
    """It goes on as if no time had passed."""
    if life.judging:
        point, writer = life.judging.pop()
        with writer:
            vouch(writer, point, Judgement.IDENTICAL)


def policy(life: Life, rng: Random) -> None:
    """How long points stay is said anew: more, or less, at once or after a while."""
    repository = life.approver.repository(life.store)
    retention = Retention(last=rng.choice((1, 1, 2, 3, 5)), cooling=rng.choice((0.0, 0.0, 2 * DAY)))
    body = next_policy(policies(repository), rng.choice(life.hosts).system.name, retention)
    put_policy(repository, body, life.approver.clock)


def hold(life: Life, rng: Random) -> None:
    """A point is held, or one of its holds is lifted."""
    if (point := life.a_point(rng)) is None:
        return
    repository = life.approver.repository(life.store)
    if life.model.points[point].holds:
        held = holds.find(repository, min(life.model.points[point].holds))
        holds.lift(repository, held, holds.lifting(held.hold, "no longer"), life.approver.clock)
    else:
        until = rng.choice((None, life.clock.now().timestamp() + DAY))
        asked = Hold(id="", reason="a case", owner="counsel", until=until)
        holds.add(repository, repository.sealed(point), asked, life.approver.clock)


# Prune ----------------------------------------------------------------------------------------------------------------


def plan(life: Life, rng: Random) -> None:
    """A plan is made and put."""
    pruner = rng.choice(life.pruners)
    propose(pruner, pruner.repository(dying(life, rng, 2)), rng)


def begin(life: Life, rng: Random) -> None:
    """The plan that is open is begun."""
    pruner = rng.choice(life.pruners)
    repository = pruner.repository(dying(life, rng, 4))
    if open_one := repository.prunes().open:
        pruning.begin(repository, open_one, pruner.clock)


def prune(life: Life, rng: Random) -> None:
    """All that one pruner can do now."""
    prune_all(rng.choice(life.pruners), dying(life, rng, 20), rng)


def undo(life: Life, rng: Random) -> None:
    """The prune that is open is taken back."""
    pruner = rng.choice(life.pruners)
    repository = pruner.repository(dying(life, rng, 2))
    if open_one := repository.prunes().open:
        pruning.undo(repository, open_one.number, "it was hasty", pruner.clock)


def reap(life: Life, rng: Random) -> None:
    """Leases that look dead are revoked; their sessions may well be alive."""
    pruner = rng.choice(life.pruners)
    repository = pruner.repository(life.store)
    now, older = store_time(life.store), rng.choice((0.0, HOUR, DAY))
    for lease in open_leases(repository):
        if lease.names and now - lease.received >= older:
            revoke(repository, lease, Role.PRUNER, "it looks dead", pruner.clock)


def propose(pruner: Host, repository: Repository, rng: Random) -> None:
    """Draft by the policies in force, and put the plan where there is something to do."""
    if repository.prunes().open is None:
        economics = Economics(max_unused=rng.choice((0.0, 0.0, 0.05)), max_repack=rng.choice((10_000, 10**9)))
        drafted = pruning.draft(repository, pruning.expiring(repository), economics)
        if not drafted.plan.empty:
            pruning.propose(repository, drafted.plan, pruner.clock)


def prune_all(pruner: Host, store: Store, rng: Random) -> None:
    """As ``resurgam vault prune --yes`` does."""
    repository = pruner.repository(store)
    propose(pruner, repository, rng)
    if open_one := repository.prunes().open:
        begun = pruning.begin(repository, open_one, pruner.clock)
        if begun.stage is Stage.BEGUN and not pruning.waits_for(repository, begun):
            pruning.sweep(repository, begun, pruner.clock)
    else:
        pruning.clear_away(repository)


# The world ------------------------------------------------------------------------------------------------------------


def time(life: Life, rng: Random) -> None:
    """Time passes."""
    life.clock.advance(rng.choice((60.0, HOUR, DAY, 8 * DAY)))


def jump(life: Life, rng: Random) -> None:
    """A host's clock is set wrong, or right."""
    everybody = [*life.hosts, *life.pruners, life.verifier, life.approver]
    rng.choice(everybody).jump(rng.choice((0.0, -30 * DAY, -HOUR, HOUR, 400 * DAY)))


def lose_index(life: Life, rng: Random) -> None:
    """Segments are lost; packs tell by their trailers what lies in them."""
    for entry in list(life.memory.list("index/")):
        if rng.random() < 0.5:
            life.memory.delete(entry.name)


def reread(life: Life, rng: Random) -> None:
    """A reader that has the vault open since long: the right bytes, or a loud error until it looks again (P12)."""
    if (point := life.a_point(rng)) is None:
        return
    sealed = life.reader.sealed(point)
    try:
        found = contents_of(life.reader, sealed)
    except (IntegrityError, NotFound):
        life.reader.look_again()
        found = contents_of(life.reader, sealed)
    assert found == life.model.points[point].contents


def race(life: Life, rng: Random) -> None:
    """Two or three at once, taking turns at every call; one of them may be killed. A host captures once at a time."""
    captures = [_captures(life, capturer) for capturer in life.hosts]
    prunes = [_prunes(pruner, Random(rng.random())) for pruner in life.pruners]
    others = [_judges(life, rng), lambda store: check(life.verifier.repository(store), read=True).points]
    sessions = rng.sample([*captures, *prunes, *captures, *others], rng.choice((2, 2, 3)))
    sessions = list(dict.fromkeys(sessions))
    dies = {rng.randrange(len(sessions)): rng.randrange(1, 80)} if rng.random() < 0.3 else {}
    race_of(life, rng, sessions, dies)


def contest(life: Life, rng: Random) -> None:
    """A prune beside a capture of what was there before: what the one lets go, the other would build on."""
    capturer = rng.choice(life.hosts)
    for held in capturer.driver.held.values():
        held.files = dict(rng.choice(STATES))
    race_of(life, rng, [_captures(life, capturer), _prunes(rng.choice(life.pruners), Random(rng.random()))], {})


def race_of(life: Life, rng: Random, sessions: list[Session], dies: dict[int, int]) -> None:
    """``sessions`` at once."""
    falls = rng.choice((1, 1, 2, 3, 1 << 30))
    interleaver = Interleaver(life.store, rng, writes=rng.choice((0.05, 0.15, 0.4)), falls=falls)
    for end in interleaver.run(sessions, dies):
        if end.error is not None:
            life.done[f"in a race: {type(end.error).__name__}"] += 1
        if end.error is not None and not life.may_fail(end.error):
            raise end.error


def _captures(life: Life, capturer: CaptureHost) -> Session:
    return lambda store: life.capture(capturer, store)


def _prunes(pruner: Host, rng: Random) -> Session:
    return lambda store: prune_all(pruner, store, rng)


def _judges(life: Life, rng: Random) -> Session:
    point, verdict = life.a_point(rng), rng.choice(VERDICTS)
    return lambda store: life.judge(point, verdict, store) if point is not None else None


def dying(life: Life, rng: Random, writes: int) -> Store:
    """The store, on which the process dies now and then, before one of its first ``writes`` puts and deletes or after it. Where it
    dies between two of them makes no difference to anybody."""
    if rng.random() < 0.7:
        return life.store
    return DiesAtWrite(life.store, rng.randrange(1, writes + 1), after=rng.random() < 0.5)


class DiesAtWrite(CrashStore):
    """Counts only calls that change something."""

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Not counted; the dead do not read."""
        self._require_life()
        return self.inner.get(name, offset, length)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """Not counted; the dead do not read."""
        self._require_life()
        return self.inner.read_into(name, offset, buffer)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Not counted; the dead do not read."""
        self._require_life()
        return self.inner.list(prefix)

    def _require_life(self) -> None:
        if self.calls >= self._stop_at + self._after:
            raise Crash("dead already")


ACTS: dict[str, tuple[int, Act]] = {
    "change": (7, change),
    "capture": (9, capture),
    "freeze": (3, freeze),
    "thaw": (3, thaw),
    "forget": (1, forget),
    "judge": (3, judge),
    "freeze_judging": (1, freeze_judging),
    "thaw_judging": (1, thaw_judging),
    "policy": (1, policy),
    "hold": (1, hold),
    "plan": (2, plan),
    "begin": (2, begin),
    "prune": (5, prune),
    "undo": (1, undo),
    "reap": (3, reap),
    "time": (2, time),
    "jump": (1, jump),
    "lose_index": (1, lose_index),
    "reread": (2, reread),
    "race": (4, race),
    "contest": (2, contest),
}
"""Each act with how often it is chosen."""


def settle_in(life: Life) -> None:
    """Before anything happens: a policy under which points go soon, in force alone."""
    repository = life.truth()
    for capturer in life.hosts:
        body = next_policy(policies(repository), capturer.system.name, Retention(last=1, cooling=0.0))
        put_policy(repository, body, life.clock)
    life.clock.advance(15 * DAY)


def live(folder: str, climate: str, seed: int, steps: int, often: Mapping[str, int] | None = None) -> Life:
    """A life by chance; what is found bears its seed and its acts. ``often`` gives other weights, to these acts only."""
    rng = Random(seed)
    life = Life(folder, climate, Random(-seed))
    settle_in(life)
    weights = often if often is not None else {name: weight for name, (weight, _) in ACTS.items()}
    try:
        for name in rng.choices(list(weights), list(weights.values()), k=steps):
            life.act(name, ACTS[name][1], rng.randrange(1 << 20))
        life.end()
    except BaseException as error:
        error.add_note(f"{climate}, seed {seed}: {' '.join(life.trace)}")
        raise
    return life
