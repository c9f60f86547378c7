"""Residency in the vault itself: no pack holds contents of two residencies, whoever writes it, and none says less than it holds."""

from __future__ import annotations

from pathlib import Path
from random import Random

import msgspec
import pytest

from resurgam.errors import TargetRefused
from resurgam.model.placement import ANYWHERE, NOWHERE, Placement, misplaced, of_all
from resurgam.model.system import Component
from resurgam.vault.needs import needs_of
from resurgam.vault.pack import HEADER, PackBuilder, frames, new_buffer, placement_of
from resurgam.vault.repack import Repacker
from resurgam.vault.shred import add_domain
from resurgam.vault.signing import Role
from tests.support import World

EU = Placement("eu")


def eu_world(folder: Path) -> World:
    """A system whose component ``private`` may not leave the EU, and whose ``open`` one may."""
    world = World(str(folder), ("open", "private"))
    add_domain(world.repository(), "people", world.clock, "eu")
    parts = [
        msgspec.structs.replace(c, shred_domain="people", residency="eu") if c.name == "private" else c
        for c in world.system.components
    ]
    world.system = msgspec.structs.replace(world.system, components=tuple(parts))
    rng = Random(7)
    for name, held in world.driver.held.items():
        held.files = {f"{name}-{n}".encode(): rng.randbytes(40_000) for n in range(20)}
    return world


def packs_by_placement(world: World) -> dict[Placement, set[bytes]]:
    """The chunk ids in packs of each placement."""
    found: dict[Placement, set[bytes]] = {}
    for entry in world.store.list("packs/"):
        data = memoryview(world.store.get(entry.name))
        placement = placement_of(data, world.repository().vault)
        found.setdefault(placement, set()).update(frame.id for _, frame in frames(data))
    return found


def test_packs_of_a_residency_hold_nothing_else_and_no_other_pack_holds_its_contents(tmp_path: Path) -> None:
    """Contents, pages and chunk lists of the restricted component lie in packs that say so, and those of the other in none."""
    world = eu_world(tmp_path)
    sealed = world.capture()
    repository = world.repository()
    found = packs_by_placement(world)
    assert found.keys() == {ANYWHERE, EU}
    assert not found[ANYWHERE] & found[EU]
    needs = needs_of(repository, [(sealed, ())])
    for row, chunk in enumerate(needs.ids):
        ours = EU if needs.domains[needs.domain[row]] == "people" else ANYWHERE
        assert chunk.tobytes() in found[ours]
    assert len(needs.ids) > 10
    assert {s.component: s.residency for s in sealed.body.snapshots} == {"open": "", "private": "eu"}
    assert world.restored(sealed) == world.contents()


def test_a_session_key_serves_one_residency(tmp_path: Path) -> None:
    """So that also the wrapped key of what may not leave can stay."""
    world = eu_world(tmp_path)
    world.capture()
    vault = world.repository().vault
    sessions: dict[bytes, set[Placement]] = {}
    for entry in world.store.list("packs/"):
        data = memoryview(world.store.get(entry.name))
        for _, frame in frames(data):
            sessions.setdefault(frame.session, set()).add(placement_of(data, vault))
    assert all(len(placements) == 1 for session, placements in sessions.items() if any(session))


def test_a_pruner_keeps_chunks_with_those_of_their_residency(tmp_path: Path) -> None:
    """A pack that is written anew says what the old one said: else a prune would let contents leave."""
    world = eu_world(tmp_path)
    world.capture()
    repository = world.repository()
    before = packs_by_placement(world)
    old = {entry.name for entry in world.store.list("packs/")}
    repacker = Repacker(repository, repository.keyring.signer(Role.PRUNER))
    for segment in list(repository.places.segments()):
        for ordinal, pack in enumerate(segment.packs):
            size = next(entry.size for entry in world.store.list(f"packs/{pack[:2]}/{pack}"))
            repacker.copy(pack, size, segment.entries[segment.entries["pack"] == ordinal])
    repacker.close()
    for name in old:
        world.store.delete(name)
    assert packs_by_placement(world) == before


def test_a_domain_keeps_its_residency(tmp_path: Path) -> None:
    """Chunks of before may have left: a component cannot become restricted in a domain that was not, nor the other way round."""
    world = eu_world(tmp_path)
    world.capture()
    objects = [entry.name for entry in world.store.list()]
    for residency in ("", "us"):
        parts = [
            msgspec.structs.replace(c, residency=residency) if c.name == "private" else c
            for c in world.system.components
        ]
        world.system = msgspec.structs.replace(world.system, components=tuple(parts))
        with pytest.raises(TargetRefused, match="has residency eu"):
            world.capture()
    assert [entry.name for entry in world.store.list()] == objects


def test_a_table_with_a_residency_is_refused_by_releases_that_do_not_know_it(tmp_path: Path) -> None:
    """They would store what must not leave among what may."""
    world = World(str(tmp_path))
    add_domain(world.repository(), "customers", world.clock)
    assert world.repository().roles.format == 1
    add_domain(world.repository(), "people", world.clock, "eu")
    assert (world.repository().roles.format, world.repository().roles.residency) == (3, {"people": "eu"})


@pytest.mark.parametrize(
    "placement", [ANYWHERE, EU, Placement("", cold=True), Placement("eu", cold=True), of_all(["eu", "us"])]
)
def test_a_pack_says_where_it_may_lie(placement: Placement) -> None:
    """In its header, which every copy has, and which the pack's name covers."""
    builder = PackBuilder(bytes(16), new_buffer(4096 * 4), placement)
    assert placement_of(builder.view[:HEADER], bytes(16)) == placement


@pytest.mark.parametrize("spoilt", [bytes(HEADER), b"", b"x" * HEADER])
def test_what_does_not_say_where_it_may_lie_goes_nowhere(spoilt: bytes) -> None:
    """P12: damage does not let contents leave."""
    assert placement_of(spoilt, bytes(16)) == NOWHERE
    assert not NOWHERE.may_go_to("eu")


def test_a_residency_goes_to_its_own_region_only() -> None:
    """And what quotes two regions' contents goes to neither."""
    went = {(word, region) for word in ("", "eu") for region in ("", "eu", "us") if Placement(word).may_go_to(region)}
    assert went == {("", ""), ("", "eu"), ("", "us"), ("eu", "eu")}
    assert of_all(["eu", "", "eu"]) == EU
    assert not any(of_all(["eu", "us"]).may_go_to(region) for region in ("eu", "us", ""))


def test_components_of_one_domain_have_one_placement() -> None:
    """The pure rule that manifests are held to."""

    def part(name: str, domain: str, residency: str = "", tier: str = "standard") -> Component:
        return Component(name=name, driver="files", location="/x", shred_domain=domain, residency=residency, tier=tier)

    assert not list(
        misplaced([part("a", "d", "eu"), part("b", "d", "eu"), part("c", "default"), part("e", "f", tier="cold")])
    )
    assert [c.name for c, _ in misplaced([part("a", "d", "eu"), part("b", "d")])] == ["b"]
    assert [c.name for c, _ in misplaced([part("a", "default", "eu"), part("b", "default", tier="cold")])] == ["a", "b"]
