"""What must be true of a vault, as dicts: its points, what they hold, and whether a point may be let go.

``may_expire`` says in other words, and more weakly, what ``vault.retention`` decides: with ``last: n`` alone, a point may go only
if n others that the store received no earlier stand no lower than it does. It errs on the side of letting go, by seconds,
never by a rule.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from resurgam.model.system import Retention
from tests.support import Files

DAY = 86400.0
USUAL_COOLING = 14 * DAY


@dataclass
class Known:
    """A sealed point: what it held, how it stands, and until when each of its holds lasts (the store's clock; None: for ever)."""

    contents: dict[str, Files]
    system: str
    received: float
    proven: bool = False
    once_proven: bool = False
    holds: dict[str, float | None] = field(default_factory=dict)
    expired: bool = False

    @property
    def standing(self) -> int:
        """2 is proven, 1 was so once, 0 never."""
        return self.proven + (self.proven or self.once_proven)

    def held(self, now: float) -> bool:
        """Whether somebody holds it."""
        return any(until is None or now < until for until in self.holds.values())


@dataclass
class Model:
    """All points by id, and the policies in their order: when the store received each, and what it says of each system."""

    points: dict[str, Known] = field(default_factory=dict)
    policies: list[tuple[float, dict[str, Retention]]] = field(default_factory=list)

    @property
    def promised(self) -> dict[str, Known]:
        """Those that did not expire."""
        return {point: known for point, known in self.points.items() if not known.expired}

    def may_expire(self, point: str, now: float) -> bool:
        """Whether nothing keeps ``point`` at ``now``."""
        known = self.points[point]
        line = [other for other in self.promised.values() if other.system == known.system and other is not known]
        as_good = [other for other in line if other.standing >= known.standing and other.received >= known.received]
        lasting = [self._lets_go(policy, len(as_good)) for policy in self._in_force(known.system, now)]
        return not known.held(now) and len(as_good) >= 1 and bool(lasting) and all(lasting)

    def _in_force(self, system: str, now: float) -> list[Retention]:
        """The newest policy, and each before it whose cooling is not over since its successor came; before the first, all stays."""
        said = [(0.0, {system: Retention(never=True, cooling=USUAL_COOLING)}), *self.policies]
        ends = [received for received, _ in self.policies]
        found = []
        for (_, policy), end in zip(said, [*ends, None], strict=True):
            retention = policy.get(system, Retention(never=True, cooling=USUAL_COOLING))
            if end is None or now < end + retention.cooling:
                found.append(retention)
        return found

    @staticmethod
    def _lets_go(policy: Retention, as_good: int) -> bool:
        return not policy.expires_nothing and as_good >= max(policy.last, policy.at_least)
