"""What lives of a vault found in the prune (``tests/properties/test_vault_machine.py``), each as small as it can be told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from resurgam.errors import Busy
from resurgam.model.system import Retention
from resurgam.model.verdict import Judgement
from resurgam.stores.base import Buffer, Store
from resurgam.testing.faults import Crash, Wrapped
from resurgam.vault import pruning
from resurgam.vault.log import Announcement, entries, read_entry
from resurgam.vault.policies import next_policy, policies, put_policy
from resurgam.vault.prune import Economics
from resurgam.vault.prunes import Prune, Stage
from resurgam.vault.repository import Repository
from tests.vault_acts import prune_all, settle_in
from tests.vault_life import STATES, Life


@pytest.fixture
def life(tmp_path: Path) -> Life:
    """Four points, each of another state, and a policy that keeps the newest alone."""
    found = Life(str(tmp_path), "fair", Random(1))
    settle_in(found)
    for state in STATES:
        found.clock.advance(1)
        found.hosts[0].driver.held["one"].files = dict(state)
        found.capture(found.hosts[0], found.store)
    found.look(Random(1))
    return found


def planned(repository: Repository, life: Life) -> Prune:
    drafted = pruning.draft(repository, pruning.expiring(repository), Economics(max_unused=0.0))
    return pruning.propose(repository, drafted.plan, life.clock)


def test_a_plan_is_asked_again_before_it_begins(life: Life) -> None:
    """P4, P10: a point that was proven after the plan was made is the newest that is; the plan lets it go no more."""
    repository = life.pruners[0].repository(life.store)
    prune = planned(repository, life)
    assert prune.plan.decided
    proven = min(prune.plan.expire)
    life.judge(proven, Judgement.IDENTICAL, life.store)
    with pytest.raises(Busy, match=proven):
        pruning.begin(repository, prune, life.clock)
    assert proven in {sealed.body.id for sealed in repository.points()}
    pruning.undo(repository, prune.number, "a point was proven", life.clock)
    prune_all(life.pruners[0], life.store, Random(1))
    life.look(Random(1))
    assert not life.model.points[proven].expired
    assert sum(known.expired for known in life.model.points.values()) == 2


def test_and_again_before_it_sweeps(life: Life) -> None:
    """P10: a verification that was at work when the prune began has proven a point of it. That one is not swept."""
    repository = life.pruners[0].repository(life.store)
    prune = planned(repository, life)
    going = min(prune.plan.expire)
    with life.evidence(going, life.store) as writer:
        begun = pruning.begin(repository, prune, life.clock)
        with pytest.raises(Busy, match="waits"):
            pruning.sweep(repository, begun, life.clock)
        document = writer.document({"seen": "this"})
        writer.flush()
        writer.put(next(iter(writer._free)), {"document": document, "judgement": Judgement.IDENTICAL})
    with pytest.raises(Busy, match=going):
        pruning.sweep(repository, begun, life.clock)
    assert pruning.undo(repository, prune.number, "it was proven", life.clock).stage is Stage.UNDONE
    life.look(Random(1))
    life.all_stand()
    assert len(life.model.promised) == 4


def test_a_stronger_policy_stops_a_plan(life: Life) -> None:
    """P10: strengthening is at once, also for what was planned before it."""
    repository = life.pruners[0].repository(life.store)
    prune = planned(repository, life)
    body = next_policy(policies(life.truth()), life.hosts[0].system.name, Retention(last=3, cooling=0.0))
    put_policy(life.truth(), body, life.clock)
    with pytest.raises(Busy, match="must stay now"):
        pruning.begin(repository, prune, life.clock)


class Meanwhile(Wrapped):
    """Before the first pack is read, another pruner does all that there is to do."""

    def __init__(self, inner: Store, life: Life) -> None:
        super().__init__(inner)
        self._life: Iterator[Life] = iter([life])

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        for life in self._life:
            prune_all(life.pruners[1], self.inner, Random(1))
        return self.inner.read_into(name, offset, buffer)


def test_a_whole_prune_beside_a_draft_is_no_damage(life: Life) -> None:
    """P12: what another pruner has moved meanwhile is looked for again, and not called lost."""
    repository = life.pruners[0].repository(Meanwhile(life.store, life))
    drafted = pruning.draft(repository, pruning.expiring(repository), Economics(max_unused=0.0))
    assert repository.prunes().last == 1
    assert drafted.plan.number == 2
    life.look(Random(1))
    life.all_stand()


@pytest.mark.parametrize("what", ["plan", "tombstones", "awaited", "end"])
def test_a_prune_killed_before_it_said_so_says_it_when_it_goes_on(life: Life, what: str) -> None:
    """P2: what stands of a prune is in the log, however often its pruner died; and nothing is said there twice."""
    store = Unsaid(life.store, what)
    for _ in range(2):  # the second finds nothing more to prune than the announcement
        with suppress(Crash):
            prune_all(life.pruners[0], store, Random(1))
    repository = life.pruners[0].repository(life.store)
    if what == "end":
        assert f"prune/00000001/{what}" not in [said.object for said in _said(repository)]
    pruning.announce_rest(repository, life.clock)
    pruning.announce_rest(repository, life.clock)
    said = [one.object for one in _said(repository) if one.object.startswith("prune/")]
    assert sorted(said) == sorted(entry.name for entry in life.store.list("prune/"))


def _said(repository: Repository) -> Iterator[Announcement]:
    for _, entry in entries(repository.store):
        yield read_entry(repository.store.get(entry.name), entry, repository.roles, repository.vault)[1]


class Unsaid(Wrapped):
    """Whoever has put an object of a prune is killed once, before the log says so."""

    def __init__(self, inner: Store, what: str) -> None:
        super().__init__(inner)
        self._what, self._left, self._dying = what, 1, False

    def put(self, name: str, data: Buffer | Iterable[Buffer]) -> None:
        """See Store."""
        if self._dying:
            self._dying, self._left = False, 0
            raise Crash
        super().put(name, data)
        self._dying = bool(self._left) and name.startswith("prune/") and name.endswith(self._what)
