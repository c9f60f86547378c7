"""Until when a point is protected by locks: the answer as a value, and how little of a lock is too little.

How it is found stands in ``vault.protection``.
"""

from __future__ import annotations

import msgspec

RENEW_BELOW = 0.5  # share of the period below which what is left of a lock is made longer: a daily run asks for little
WARN_BELOW = 0.25  # share of the period below which somebody is told: half a period of renewals has failed by then
NEVER = 0.0  # the end of a lock that is not there


class Protected(msgspec.Struct, frozen=True, kw_only=True):
    """Until when ``point`` is protected, in seconds since 1970; ``first`` is the object whose lock ends then. ``NEVER`` where an
    object is not locked at all, or where it is not known what the point needs: then ``why`` says so."""

    point: str
    until: float
    first: str
    why: str = ""
