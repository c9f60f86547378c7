"""P1: every sealed, unexpired point restores exactly, whatever its vault lives through (``tests.vault_life``).

Hypothesis makes lives of acts and shrinks one that ends badly; lives by seed go on for longer, in every climate. `make soak` has
both in full (machine ``vault``); what a seed found, ``live`` finds again. That the machine finds mistakes in the protocol is shown
in ``test_machine_finds``.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.vault_acts import ACTS, live, settle_in
from tests.vault_hosts import chance
from tests.vault_life import CLIMATES, Life

SEED = 20261121
STEPS = 30
OFTEN = [name for name, (weight, _) in ACTS.items() for _ in range(weight)]


class VaultMachine(RuleBasedStateMachine):
    """One vault; every act is drawn with a seed of its own, so that leaving some out leaves the others as they were."""

    def __init__(self) -> None:
        super().__init__()
        self.open = ExitStack()

    @initialize(climate=st.sampled_from(sorted(CLIMATES)), seed=st.integers(0, 1 << 16))
    def begin(self, climate: str, seed: int) -> None:
        """A new vault in a store of some kind."""
        folder = tempfile.mkdtemp(prefix="resurgam-life-")
        self.open.callback(shutil.rmtree, folder)
        self.open.enter_context(chance(seed))
        self.life = Life(folder, climate, Random(seed))
        settle_in(self.life)

    @rule(name=st.sampled_from(OFTEN), seed=st.integers(0, 1 << 16))
    def act(self, name: str, seed: int) -> None:
        """Something happens, and everything is looked at."""
        self.life.act(name, ACTS[name][1], seed)

    def teardown(self) -> None:
        """The last look."""
        with self.open:
            if hasattr(self, "life"):
                self.life.end()


TestVaultMachine = VaultMachine.TestCase
TestVaultMachine.settings = settings(
    max_examples=10,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def lives(folder: Path, climate: str, seeds: range, steps: int) -> Counter[str]:
    """Lives by seed, one after the other; returns what was done in them."""
    done: Counter[str] = Counter()
    for seed in seeds:
        place = folder / f"{climate}-{seed}"
        place.mkdir(parents=True)
        with chance(seed):
            done += live(str(place), climate, seed, steps).done
        shutil.rmtree(place)
    return done


@pytest.mark.parametrize("climate", CLIMATES)
def test_lives_in_every_climate(tmp_path: Path, climate: str) -> None:
    """P1: and something happened in them: points were captured, let go, and read back."""
    done = lives(tmp_path, climate, range(SEED, SEED + 3), STEPS)
    assert done["restores"] > 20
    assert done["race"] + done["prune"] + done["capture"] > 10


def test_a_life_can_be_lived_again(tmp_path: Path) -> None:
    """What a seed found, it finds again: the same acts come to the same ends, down to the names of all objects."""

    def names(folder: Path) -> list[str]:
        folder.mkdir()
        with chance(SEED):
            life = live(str(folder), "faulty", SEED, STEPS)
        return [entry.name for entry in life.memory.list("points/")]

    assert names(tmp_path / "one") == names(tmp_path / "two")
