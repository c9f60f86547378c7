"""``langgraph`` through a real vault: a diff names threads and memories, and a restore is what was captured."""

from __future__ import annotations

import os
from pathlib import Path

from resurgam.capture.run import capture
from resurgam.clock import SystemClock
from resurgam.drivers.langgraph import LangGraphDriver
from resurgam.drivers.registry import driver_for
from resurgam.model.system import Component, System, VaultPlace
from resurgam.stores.local import LocalStore
from resurgam.vault.compare import compare_points
from resurgam.vault.host import HostState
from resurgam.vault.repository import Repository
from tests.drivers.langgraph_app import MEMORIES, opened, seed, thread


def test_a_diff_speaks_of_threads_and_memories(tmp_path: Path) -> None:
    """P4, P11: what an agent did between two points is named by thread, channel and memory; an idle agent costs nothing new."""
    agent_db = tmp_path / "agent.db"
    seed(str(agent_db))
    what = Component(name="agent", driver="langgraph", location=str(agent_db), options={"ttl": "freeze"})
    system = System(
        name="desk", vault=VaultPlace(path=str(tmp_path / "vault"), keys=str(tmp_path / "keys")), components=(what,)
    )
    os.mkdir(system.vault.path)
    repository, _ = Repository.create(LocalStore(system.vault.path), system.vault.keys, "tests", SystemClock())
    host = HostState(repository.identity.vault, system.name, str(tmp_path / "state"))

    def captured() -> str:
        return capture(system, driver_for, lambda _: (), repository, host, SystemClock()).body.id

    first, idle = captured(), captured()
    with opened(str(agent_db)) as (agent, memory):
        agent.invoke({"careful": False}, thread("t1"))
        memory.put(MEMORIES, "fact 2", {"text": "remembered otherwise"})
        memory.delete(MEMORIES, "fact 3")
    last = captured()

    bodies = {point: repository.sealed(point).body for point in (first, idle, last)}
    assert not list(compare_points(bodies[first], bodies[idle], repository))
    told = [
        d for d in compare_points(bodies[idle], bodies[last], repository) if d.where in {"threads", "state", "memories"}
    ]
    assert {(d.where, d.sign, d.key) for d in told} == {
        ("memories", "~", "agent.memories, fact 2"),
        ("memories", "-", "agent.memories, fact 3"),
        ("state", "~", "t1, , steps"),
        ("state", "~", "t1, , total"),
        ("threads", "~", "t1, "),
    }
    driver, target = LangGraphDriver(), what.bound_to(str(tmp_path / "restored" / "agent.db"))
    driver.write(repository.snapshot(bodies[last], "agent").items(), target)
    assert driver.fingerprint(target) == driver.fingerprint(what)
