"""How verbs speak of locks: pure functions of what was seen, and of a clock."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from resurgam.cli import protection
from resurgam.cli.protection import Guard
from resurgam.vault.protected import NEVER, Protected

DAY = 86_400.0
NOW = datetime(2026, 11, 21, 4, tzinfo=UTC).timestamp()


def seen(until: float) -> Protected:
    return Protected(point="3fa9c1d2e4b5a697", until=until, first="packs/ab/abcd")


def test_until_when_and_what_ends_first() -> None:
    """P12: an object that is not locked is no protection, and is named."""
    assert protection.told(seen(NOW)) == "protected until 2026-11-21 04:00 UTC, when the lock of packs/ab/abcd ends"
    assert protection.told(seen(NEVER)) == "not protected: packs/ab/abcd is not locked"
    assert [protection.when(one) for one in (seen(NOW), seen(NEVER), None)] == [
        "2026-11-21 04:00",
        "not locked",
        "not known",
    ]


@pytest.mark.parametrize(("left", "warned"), [(14.9, True), (15.1, False)])
def test_a_capture_warns_of_what_it_shares(left: float, warned: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """P12: where a new point rests on locks of which less than half is left, it is said, with what helps."""
    protection.advise(seen(NOW + left * DAY), NOW, 30 * DAY)
    assert ("resurgam vault renew --yes" in capsys.readouterr().err) is warned


def test_status_in_one_line() -> None:
    """What is well needs no advice; what ends soon names the command; what is not known says why."""
    well = protection.told_guard(Guard(lasts=True, first=seen(NOW), left=DAY))
    soon = protection.told_guard(Guard(lasts=False, first=seen(NOW), left=DAY))
    assert soon == f"{well}; run `resurgam vault renew --yes`"
    assert protection.told_guard(Guard(lasts=True, unknown="May not.")) == "not known: May not."
