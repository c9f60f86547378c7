"""How well a vault was read, in words: for ``vault check``, and for ``status``, which loads nothing else of it."""

from __future__ import annotations

from datetime import UTC, datetime

from resurgam.cli import output
from resurgam.vault.checked import Coverage


def told_coverage(found: Coverage) -> str:
    """How well a vault was read, for people: one line."""
    days = f"{found.max_age / 86_400:g} days"
    if not found.bytes:
        return "there is nothing to read yet"
    if found.never == found.bytes:
        return "never read whole: run `resurgam vault check --read`"
    share = f"{100 * found.share:.0f} % of bytes read within {days}, {100 * found.opened / found.bytes:.0f} % opened"
    if found.never:
        return f"{share}; {output.size(found.never)} never read"
    oldest = datetime.fromtimestamp(found.oldest or 0, UTC)
    return f"{share}; all of it since {oldest:%Y-%m-%d %H:%M}"
