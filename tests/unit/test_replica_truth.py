"""A replica is never half true unnoticed, and nothing finds a way round residency, by damage or by reading together."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from resurgam.errors import NotFound, TargetRefused
from resurgam.model.placement import Placement
from resurgam.stores.base import Store
from resurgam.testing.faults import Wrapped
from resurgam.vault import keyadmin
from resurgam.vault.check import check
from resurgam.vault.copies import open_together, survey
from resurgam.vault.keyring import Keyring
from resurgam.vault.leases import revoke_name
from resurgam.vault.pack import FRAME, frames, placement_of
from resurgam.vault.records import RecordType
from resurgam.vault.repair import Planner
from resurgam.vault.repairing import carry_out
from resurgam.vault.replicalag import Lag, lag
from resurgam.vault.replicas import MARK, next_list, put_list
from resurgam.vault.replicate import Run
from resurgam.vault.repository import Repository
from resurgam.vault.signing import Role
from tests.replication import Replicated, objects, replicated
from tests.support import World, copied, replaced

RESIDENCY = slice(32, 64)  # of a pack's header (docs/format.md)


class Vanishing(Wrapped):
    """One object is not found, once, though it is listed."""

    def __init__(self, inner: Store, name: str) -> None:
        super().__init__(inner)
        self._name = name

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """As the inner one."""
        if name == self._name:
            self._name = ""
            raise NotFound(f"There is no {name}.", untouched="Nothing.", next_step="Look again.")
        return self.inner.get(name, offset, length)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """As the inner one."""
        if name == self._name:
            self._name = ""
            raise NotFound(f"There is no {name}.", untouched="Nothing.", next_step="Look again.")
        return self.inner.read_into(name, offset, buffer)


@pytest.fixture
def both(tmp_path: Path) -> Replicated:
    """A vault with a replica in the EU and one in the US, both still empty."""
    found = replicated(tmp_path)
    found.add("frankfurt", "eu")
    found.add("ohio", "us")
    return found


def names(store: Store, prefix: str) -> list[str]:
    return [entry.name for entry in store.list(prefix)]


def sealed_chunks(store: Store, packs: Iterable[str]) -> set[bytes]:
    """The encrypted bytes of every frame."""
    wholes = (store.get(name) for name in packs)
    return {data[at + FRAME : at + FRAME + frame.stored] for data in wholes for at, frame in frames(memoryview(data))}


def standing(both: Replicated, name: str) -> Lag:
    """As `replicate status` sees it, right after."""
    return lag(both.origin, both.stores[name], both.place(name), both.world.clock.now().timestamp())


@pytest.mark.parametrize("name", ["frankfurt", "ohio"])
def test_p1_a_session_key_that_a_replica_lost_comes_again_with_verify(both: Replicated, name: str) -> None:
    """Where something is withheld only packs tell which keys belong there: all that were there come again, and no other."""
    both.run(name)
    there = both.stores[name]
    before = objects(there)
    for key in names(there, "keys/session-"):
        there.delete(key)
    done = both.run(name, verify=True)
    assert done.ok
    assert done.objects == sum(key.startswith("keys/session-") for key in before)
    assert objects(there) == before


@pytest.mark.parametrize("prefix", ["index/", "records/", "packs/"])
def test_p12_a_replica_that_lost_what_its_points_need_is_behind(both: Replicated, prefix: str) -> None:
    """However young the points are, and whatever it is: those that it shows may not restore."""
    (sealed, *_) = both.origin.points()
    with both.origin.evidence_writer(sealed.body.id, both.world.clock, RecordType.VERDICT) as writer:
        writer.put(RecordType.VERDICT, {"judgement": 1})
    both.world.capture()
    both.run("frankfurt")
    assert not standing(both, "frankfurt").behind
    lost = names(both.stores["frankfurt"], prefix)[0]
    both.stores["frankfurt"].delete(lost)
    found = standing(both, "frankfurt")
    assert (found.lost, found.seconds, found.behind) == ((lost,), 0.0, True)


@pytest.mark.parametrize("prefix", ["index/", "packs/", "points/"])
def test_p12_so_is_one_in_which_something_is_cut_off(both: Replicated, prefix: str) -> None:
    """Its name is listed, and that is not enough."""
    both.run("frankfurt")
    there = both.stores["frankfurt"]
    cut = names(there, prefix)[0]
    both.stores["frankfurt"] = replaced(there, cut, there.get(cut)[:-1])
    found = standing(both, "frankfurt")
    assert (found.lost, found.behind) == ((cut,), True)


@pytest.mark.parametrize("prefix", ["points/", "log/"])
def test_p12_a_primary_from_which_something_was_taken_is_told(both: Replicated, prefix: str) -> None:
    """Nothing is missing at the replica, and all is not well: its status must not be green on the day it is needed."""
    both.run("frankfurt")
    store = copied(both.world.store)
    taken = names(store, prefix)
    for name in taken:
        store.delete(name)
    both.world.store = store
    found = standing(both, "frankfurt")
    assert found.behind
    assert found.ahead == (tuple(taken) if prefix == "points/" else (taken[-1],))


def test_p12_so_is_one_that_lost_a_session_key_where_nothing_is_withheld(tmp_path: Path) -> None:
    """Then all keys belong there."""
    both = Replicated(World(str(tmp_path)))
    both.world.driver.held["files"].files = {b"a": b"1" * 1000}
    both.world.capture()
    both.add("ohio")
    both.run("ohio")
    assert not standing(both, "ohio").behind
    (key, *_) = names(both.stores["ohio"], "keys/session-")
    both.stores["ohio"].delete(key)
    assert standing(both, "ohio").lost == (key,)
    both.run("ohio")
    assert not standing(both, "ohio").behind


@pytest.mark.parametrize("name", ["frankfurt", "ohio"])
def test_p12_and_where_something_is_withheld(both: Replicated, name: str) -> None:
    """The runs have put down which keys belong there, and those that were withheld are not missed."""
    both.run(name)
    assert not standing(both, name).behind
    there = both.stores[name]
    (key, *_) = names(there, "keys/session-")
    there.delete(key)
    assert (standing(both, name).lost, standing(both, name).behind) == ((key,), True)
    assert both.run(name, verify=True).ok
    assert not standing(both, name).behind


@pytest.mark.parametrize("name", ["frankfurt", "ohio"])
@pytest.mark.parametrize("spoilt", [b"", b"no times", bytes(100)], ids=["empty", "words", "zeros"])
def test_p12_damaged_times_stop_no_run_and_are_told_anew(both: Replicated, name: str, spoilt: bytes) -> None:
    """Until then what a retired key signed is not believed there, and that is said; nothing more is ever believed."""
    both.run(name)
    keyadmin.rotate(both.origin, "capture", both.world.clock)
    both.run(name)
    points = [sealed.body.id for sealed in both.origin.points()]
    damaged = tuple(times for times in names(both.stores[name], "replica/") if "/times-" in times)
    for times in damaged:
        both.stores[name].delete(times)
        both.stores[name].put(times, spoilt)
    there, found = both.at(name), standing(both, name)
    assert (there.points(), len(there.refused_points)) == ([], len(damaged))
    assert (sorted(found.lost), found.behind) == (list(damaged), True)
    done = both.run(name)
    assert (done.ok, sorted(done.mended), done.objects) == (True, list(damaged), 0)
    there = both.at(name)
    assert ([sealed.body.id for sealed in there.points()], there.refused_points) == (points, [])
    assert (both.run(name).mended, standing(both, name).behind) == ((), False)


def test_a_run_counts_points_and_no_revocations(both: Replicated) -> None:
    """A name that was given up lies in ``points/`` too."""
    signer = both.origin.keyring.signer(Role.CAPTURE)
    revoke_name(both.origin, "points/0123456789abcdef", "it was stopped", signer, both.world.clock)
    assert len(names(both.world.store, "points/")) == 3
    assert both.run("frankfurt").points == 2
    assert standing(both, "frankfurt").points == 2


@pytest.mark.parametrize("spoilt", [True, False])
@pytest.mark.parametrize("name", ["frankfurt", "ohio"])
def test_p1_no_point_is_shown_whose_key_is_spoilt_or_gone_at_the_primary(
    both: Replicated, name: str, spoilt: bool
) -> None:
    """It could not be restored there; the damage is told, and the next run after the repair shows it."""
    both.run("ohio")
    key = next(key for key in names(both.world.store, "keys/session-") if key in names(both.stores["ohio"], "keys/"))
    both.stores["new"] = both.stores.pop(name)
    for entry in list(both.stores["new"].list()):
        both.stores["new"].delete(entry.name)
    both.stores[name] = both.stores.pop("new")
    data = bytearray(both.world.store.get(key))
    data[-1] ^= 1
    done = both.run(name, replaced(both.world.store, key, bytes(data) if spoilt else None))
    assert list(done.damaged) == [key]
    assert (done.points, done.held, names(both.stores[name], "points/")) == (0, 2, [])
    assert both.run(name).points == 2


def test_p12_what_waits_and_what_is_withheld_is_counted_once(both: Replicated) -> None:
    """Also where the primary has to be looked at twice."""
    own = {name for name in names(both.world.store, "packs/") if _residency(both.world.store, name) == ""}
    done = both.run("ohio", Vanishing(both.world.store, min(own)))
    assert (done.withheld, done.held, done.points) == (len(names(both.world.store, "packs/")) - len(own), 0, 2)


def test_p12_a_pack_that_lies_where_it_may_not_is_told(both: Replicated) -> None:
    """Somebody lists the folder of a replica in the EU as one in the US: nothing calls that fine."""
    both.run("frankfurt")
    place = msgspec.structs.replace(both.place("frankfurt"), region="us")
    made = Run(both.origin, both.stores["frankfurt"], place, both.world.clock, wait=lambda _seconds: None)
    done = made.run(verify=True)
    assert not done.ok
    assert set(done.damaged) == {
        name for name in names(both.world.store, "packs/") if _residency(both.world.store, name) == "eu"
    }


def test_evidence_does_not_leave_its_region_by_reading_copies_together(both: Replicated) -> None:
    """The primary lies in the US since the EU was lost; a replica of the EU shows all contents. What quotes them is not written."""
    both.run("frankfurt")
    both.run("ohio")
    there = both.at("ohio")
    listed = there.here.listed
    assert listed is not None
    put_list(there, next_list(listed, listed.places, "the region is gone", "ohio"), both.world.clock)
    keyring = Keyring(both.world.keys)
    copies = open_together([both.stores["ohio"], both.stores["frankfurt"]], keyring, both.world.clock)
    repository = Repository(copies, keyring)
    (sealed, *_) = repository.points()
    assert both.world.restored(sealed, repository) == both.told[sealed.body.id]
    before = objects(both.stores["ohio"])
    with pytest.raises(TargetRefused, match="quotes contents with residency eu"):
        repository.evidence_writer(sealed.body.id, both.world.clock, RecordType.VERDICT)
    assert objects(both.stores["ohio"]) == before


def test_a_header_that_somebody_changed_lets_nothing_leave_its_region(both: Replicated) -> None:
    """Whoever owns the primary's disks takes the word out of a pack, and waits for the repair to write its contents anew."""
    eu = {name for name in names(both.world.store, "packs/") if _residency(both.world.store, name) == "eu"}
    store = copied(both.world.store)
    stays = sealed_chunks(store, eu)
    for name in eu:
        data = bytearray(store.get(name))
        data[RESIDENCY] = bytes(32)
        store = replaced(store, name, bytes(data))
        assert _residency(store, name) == ""
    both.world.store = store
    carry_out(Planner(both.origin, both.world.clock, None, read=True), both.world.clock, lambda _: None)
    assert check(both.origin, read=True).ok
    assert not eu & set(names(both.world.store, "packs/"))
    both.run("ohio")
    there = both.stores["ohio"]
    came = sealed_chunks(there, names(there, "packs/"))
    assert came
    assert not stays & came
    both.run("frankfurt")
    for sealed in both.at("frankfurt").points():
        assert both.world.restored(sealed, both.at("frankfurt")) == both.told[sealed.body.id]


@pytest.mark.parametrize("read", [False, True])
def test_p12_copies_are_surveyed_without_what_is_one_places_own(both: Replicated, read: bool) -> None:
    """A replica's mark is no object of the vault: neither missing elsewhere nor damaged."""
    both.run("frankfurt")
    assert names(both.stores["frankfurt"], "replica/")
    copies = open_together([both.world.store, both.stores["frankfurt"]], Keyring(both.world.keys), both.world.clock)
    first, second = survey(copies, read=read)
    assert (first.missing, first.damaged, second.missing, second.damaged) == ((), (), (), ())
    assert first.objects == second.objects == len(objects(both.world.store))


def test_a_survey_tells_how_much_it_reads_before_it_does(both: Replicated) -> None:
    """So that `vault check --read --limit-read` holds its limit with several copies, too."""
    both.run("frankfurt")
    copies = open_together([both.world.store, both.stores["frankfurt"]], Keyring(both.world.keys), both.world.clock)
    spent: list[int] = []
    survey(copies, read=True, spend=spent.append)
    assert sum(spent) == 2 * sum(entry.size for entry in copies.list())
    spent.clear()
    survey(copies, read=False, spend=spent.append)
    assert not spent


def _residency(store: Store, name: str) -> str:
    data = store.get(name)
    placement: Placement = placement_of(data, data[16:32])
    return placement.residency


def test_the_place_where_the_vault_was_made_is_never_marked_as_a_replica(both: Replicated) -> None:
    """A colleague lists the vault itself under another path, or imports a disk into it: captures into it would end for good."""
    before = objects(both.world.store)
    with pytest.raises(TargetRefused, match="is origin among the places of this vault, not frankfurt"):
        both.run("frankfurt", far=both.world.store)
    assert objects(both.world.store) == before
    assert not names(both.world.store, MARK)
    both.world.capture()
