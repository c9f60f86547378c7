"""The watch after a promotion: live is asked the probes for the declared time, and judged by the promoted point.

A copy was judged in isolation; what is live now runs with the host's own libraries, permissions and clients. So the same
questions are asked again there, by the same yardsticks, round after round, with as long a pause after each as it took. One
round that is *different* ends the watch: whoever watches withdraws. An *inconclusive* one decides nothing (P4: it saw nothing).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from resurgam.clock import Clock
from resurgam.model.system import System
from resurgam.model.verdict import Judgement, Verdict
from resurgam.probes.base import Runner
from resurgam.proof.judge import explain
from resurgam.restore.verify import judge_live
from resurgam.vault.keys import DEFAULT_DOMAIN
from resurgam.vault.repository import Repository

PAUSE = 0.5  # seconds between two rounds, at least
AT_LEAST_ONCE = 0.001  # seconds of a watch that is one round


@dataclass(frozen=True)
class Watcher:
    """Asks the live ``system`` those of its probes that ``promotion.watch_probes`` names, by ``runner``."""

    system: System
    repository: Repository
    runner: Runner
    clock: Clock
    tell: Callable[[str], None] = lambda _: None

    def seconds(self, *, at_least_once: bool) -> float:
        """For how long the owner declared that live is watched. Raises Denied where a key that it takes is not here: before
        anything is switched, and not when live is to be judged (P12)."""
        found = max(self.system.promotion.watch, AT_LEAST_ONCE if at_least_once else 0.0)
        for domain in (DEFAULT_DOMAIN, self.repository.roles.evidence) if found else ():
            self.repository.require_open(domain)
        return found

    def watch(self, point: str, seconds: float) -> str:
        """Wherein live deviates from ``point``, in words; empty where ``seconds`` passed without that. One round at least.

        Raises Denied without a reader's key, and what the vault raises.
        """
        self.repository.look_again()  # the point's first proof may have left its baseline a moment ago
        sealed = self.repository.sealed(point)
        watched = self._watched()
        until = self.clock.monotonic() + seconds
        while True:
            began = self.clock.monotonic()
            verdict = judge_live(self.repository, sealed, watched, self.runner, self.clock)
            took = self.clock.monotonic() - began
            self.tell(f"watch: live is {verdict.judgement.word}, asked in {took:.1f} s")
            if verdict.judgement is Judgement.DIFFERENT:
                return told(verdict)
            pause = max(PAUSE, took)
            if self.clock.monotonic() + pause >= until:
                time.sleep(max(0.0, until - self.clock.monotonic()))
                return ""
            time.sleep(pause)

    def _watched(self) -> System:
        names = self.system.promotion.watch_probes
        probes = tuple(probe for probe in self.system.probes if not names or probe.name in names)
        return msgspec.structs.replace(self.system, probes=probes)


def told(verdict: Verdict) -> str:
    """The parts of ``verdict`` that are different, each by its name and reason."""
    parts = [part for part in verdict.parts if part.judgement is Judgement.DIFFERENT]
    return "; ".join(f"{part.name}: {part.reason}" for part in parts) or explain(verdict)[0]
