"""Carrying a repair out. Each step may be stopped at any call to the store and repeated, and two at once do no harm.

The order is what keeps it so: what another copy gives comes first, since more may show behind it; then what is sound goes into new
packs, is durable and named, before any damaged pack goes; then the index says what is there, before what cannot be believed in it
goes. What is announced and quarantined comes last, of what is there then.
"""

from __future__ import annotations

from collections.abc import Callable

from blake3 import blake3

from resurgam.clock import Clock
from resurgam.stores.base import put_once
from resurgam.vault.history import Quarantined
from resurgam.vault.index import encode_segment
from resurgam.vault.packreading import BytesDone
from resurgam.vault.records import RecordType
from resurgam.vault.repack import merge_segments
from resurgam.vault.repair import Planner, Repairs, Take
from resurgam.vault.salvage import Salvage
from resurgam.vault.signing import Role

REASON = "it lost chunks that a restore needs; `resurgam vault repair` names what"
Tell = Callable[[str], None]


def carry_out(planner: Planner, clock: Clock, tell: Tell, progress: BytesDone | None = None) -> Repairs:
    """Do what the plan says, and what shows only on the way; returns what is left. Raises Unreachable, Denied, StoreFull."""
    before: set[str] = set()
    while (plan := planner.plan(progress)).take and before != (names := {one.name for one in plan.take}):
        before = names
        for one in plan.take:
            _take(planner, one)
            tell(f"took {one.name}")
        planner.reopen()
    if plan.salvage:
        _salvage(planner, plan.salvage, tell)
        plan = planner.plan(progress)
    for origin, packs in plan.name.items():
        _name(planner, origin, packs)
        tell(f"named {len(packs)} packs in the index")
    _merge(planner, plan, tell)
    for kind, name in plan.announce:
        if planner.hands.announcer is not None:
            planner.repository.announce(RecordType(kind), name, planner.hands.announcer, clock)
            tell(f"announced {name}")
    for point in plan.quarantine:
        body = Quarantined(reason=REASON)
        planner.repository.put_record(RecordType.QUARANTINE, point, body, Role.APPROVER, clock)
        tell(f"quarantined {point}")
    return planner.plan(progress)


def _take(planner: Planner, one: Take) -> None:
    """Put what the other copy has under the name that it has there; it was verified when the plan was made, and a pack is again."""
    assert planner.other is not None, "there is something to take from somewhere"
    data = planner.other.store.get(one.name)
    if one.name.startswith("packs/") and blake3(data).hexdigest() != one.name.rpartition("/")[2]:
        return  # not as it was a moment ago: the next round says what is left
    if one.replaces:
        planner.repository.store.delete(one.name)  # stopped behind this, it is missing, and is taken all the same
    put_once(planner.repository.store, one.name, data)


def _salvage(planner: Planner, salvage: tuple[Salvage, ...], tell: Tell) -> None:
    pruner = planner.hands.pruner
    assert pruner is not None, "nobody else plans to salvage"
    planner.salvager(planner.seen).write(salvage, pruner)  # durable, and named, before anything goes
    for one in salvage:
        tell(f"wrote {len(one.chunks)} chunks of pack {one.pack[:16]} anew")
        if one.what:
            planner.repository.store.delete(f"packs/{one.pack[:2]}/{one.pack}")
            tell(f"removed pack {one.pack[:16]}, of which {one.what}")


def _name(planner: Planner, origin: str, packs: tuple[str, ...]) -> None:
    repository, signer = planner.repository, planner.hands.namer(origin)
    assert signer is not None, "nobody else plans to name"
    sizes = {entry.name.rpartition("/")[2]: entry.size for entry in repository.store.list("packs/")}
    said = [repository.places.trailer(pack, sizes[pack]) for pack in packs if pack in sizes]
    plain = encode_segment([(found.name, found.entries) for found in said if found is not None])
    repository.places.put_segment(plain, signer, origin if signer.role == Role.PRUNER else "")


def _merge(planner: Planner, plan: Repairs, tell: Tell) -> None:
    pruner = planner.hands.pruner
    if pruner is None:
        return
    replaced = merge_segments(planner.repository, pruner, frozenset(plan.merge)) if plan.merge else ()
    for name in (*replaced, *plan.clear):
        planner.repository.store.delete(name)
        tell(f"removed {name}")
