"""What a vault costs: sums by hand, price lists that are wrong, and the same by the command line."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from resurgam.capture.manifest import load_manifest
from resurgam.capture.prices import load_prices
from resurgam.errors import ManifestError, NewerFormat, UsageError
from resurgam.stores.archive import HOURS
from resurgam.vault.cost import Act, Early, Estimate, Facts, Held, estimate
from resurgam.vault.prices import ClassPrices, Prices, WarmUpPrices
from resurgam.vault.requests import Requests
from tests.house.test_code import ROOT

EXAMPLE = ROOT / "examples/prices/example.yaml"
DAY = 86_400.0
GB = 10**9
PRICES = Prices(
    currency="EUR",
    as_of="2026-01-01",
    egress=Decimal("0.1"),
    classes={
        "STANDARD": ClassPrices(storage=Decimal("0.02"), put=Decimal("0.005"), get=Decimal("0.0004")),
        "GLACIER": ClassPrices(
            storage=Decimal("0.004"),
            put=Decimal("0.03"),
            retrieval=Decimal("0.01"),
            minimum_days=90,
            warm_up={"bulk": WarmUpPrices(hours=Decimal(12), gb=Decimal("0.002"), per_1000=Decimal("0.025"))},
        ),
    },
)


def reckoned(facts: Facts, prices: Prices = PRICES) -> dict[str, Decimal]:
    """The amount of each line, by what and class."""
    return {f"{line.what} {line.storage_class}".strip(): line.amount for line in estimate(facts, prices).lines}


def facts(*acts: Act, held: dict[str, Held] | None = None, early: tuple[Early, ...] = (), grown: int = 0) -> Facts:
    return Facts(
        now=0.0, held=held or {}, grows={"STANDARD": grown} if grown else {}, acts=acts, early=early, speed="bulk"
    )


def test_storage_is_paid_by_class_and_what_is_added_for_half_a_month() -> None:
    """10 GB at 0.02 and 100 GB at 0.004; 6 GB a month lie there for half of it."""
    held = {"STANDARD": Held(objects=3, bytes=10 * GB), "GLACIER": Held(objects=9, bytes=100 * GB)}
    assert reckoned(facts(held=held, grown=6 * GB)) == {
        "storage STANDARD": Decimal("0.20"),
        "storage GLACIER": Decimal("0.400"),
        "storage: growth STANDARD": Decimal("0.06"),
    }


def test_an_act_is_paid_for_as_often_as_it_is_done() -> None:
    """Requests by the thousand, egress once for all that is read, retrieval and waking by class."""
    act = Act(
        what="a drill",
        a_month=Decimal(2),
        requests={"STANDARD": Requests(put=500, get=1000), "GLACIER": Requests(get=7)},
        read={"STANDARD": 3 * GB, "GLACIER": 2 * GB},
        woken={"GLACIER": Held(objects=4000, bytes=5 * GB)},
    )
    assert reckoned(facts(act)) == {
        "a drill: put STANDARD": Decimal("0.005"),
        "a drill: get STANDARD": Decimal("0.0008"),
        "a drill: egress": Decimal("1.0"),
        "a drill: get GLACIER": Decimal(0),
        "a drill: retrieval GLACIER": Decimal("0.04"),
        "a drill: warm-up GLACIER": Decimal("0.020"),
        "a drill: warm-up requests GLACIER": Decimal("0.200"),
    }


def test_what_is_done_once_is_in_no_month() -> None:
    """A restore is told beside the month's sum."""
    one = Act(what="a restore", a_month=None, requests={}, read={"STANDARD": GB})
    found: Estimate = estimate(facts(one, held={"STANDARD": Held(objects=1, bytes=GB)}), PRICES)
    assert (found.month, found.each) == (Decimal("0.02"), {"a restore": Decimal("0.1")})


def test_minimum_days_and_locks_are_paid_for_to_their_end() -> None:
    """36.5 GB that could go after 30 of 90 days: 60 days of them are left, and 12 of a lock of 42. A month has 365/12 days."""
    early = Early(storage_class="GLACIER", bytes=36_500_000_000, received=-30 * DAY, locked=(42 - 30) * DAY)
    amounts = reckoned(facts(early=(early,)))
    assert round(amounts["prune now: early deletion GLACIER"], 12) == Decimal("0.288")  # 36.5 * 60 / 30.41… * 0.004
    assert round(amounts["held by lock: storage GLACIER"], 12) == Decimal("0.0576")
    old = Early(storage_class="GLACIER", bytes=GB, received=-100 * DAY)
    assert reckoned(facts(early=(old,))) == {}


def test_a_gb_is_what_the_provider_calls_one() -> None:
    """2^30 bytes are one GiB and 1.073741824 GB."""
    held = {"STANDARD": Held(objects=1, bytes=2**30)}
    assert reckoned(
        facts(held=held), Prices(currency="EUR", as_of="", egress=Decimal(0), classes=PRICES.classes, gb=2**30)
    ) == {"storage STANDARD": Decimal("0.02")}
    assert reckoned(facts(held=held)) == {"storage STANDARD": Decimal("0.02147483648")}


def test_a_class_without_prices_is_no_free_one() -> None:
    """P12: the sum would be too small, and look like an answer."""
    with pytest.raises(UsageError, match="DEEP_ARCHIVE") as caught:
        estimate(facts(held={"DEEP_ARCHIVE": Held(objects=1, bytes=1)}), PRICES)
    assert "STANDARD, GLACIER" in caught.value.next_step


def test_every_line_says_how_it_was_reckoned() -> None:
    """The quantity times the price is the amount, and `how` names the counts."""
    act = Act(what="a capture", a_month=Decimal(730), requests={"STANDARD": Requests(put=7)})
    (line,) = estimate(facts(act), PRICES).lines
    assert line.quantity * line.price == line.amount == Decimal("0.02555")
    assert line.how == "730 a month, each 7 requests"


# --- the price list ---------------------------------------------------------------------------------------------------


def test_the_example_is_read_as_it_is_written() -> None:
    """Decimals, not the nearest binary fractions; and it says itself that it is an example."""
    prices = load_prices(str(EXAMPLE))
    assert (prices.currency, prices.gb, prices.of("STANDARD").get) == ("EUR", GB, Decimal("0.0004"))
    assert prices.of("DEEP_ARCHIVE").warm_up["bulk"] == WarmUpPrices(
        hours=Decimal(48), gb=Decimal("0.0025"), per_1000=Decimal("0.025")
    )
    assert "example" in prices.note
    assert "EXAMPLE" in EXAMPLE.read_text(encoding="utf-8")


WRONG = [
    ("currency: EUR", "currency: euros", "8:11: expected a currency"),
    ("as_of: 2026-01-01", "as_of: yesterday", "7:8: expected a day"),
    ("egress: 0.08 ", "egress: -1 ", "11:9: expected a price per GB, such as 0.03, found -1"),
    ("storage: 0.02 ", "storrage: 0.02 ", "15:5: 'storrage' is not a field of a class. Did you mean 'storage'?"),
    ("put: 0.02\n", "put: cheap\n", "23:10: expected a price per 1,000 requests, such as 0.005, found text"),
    ("minimum_days: 180", "minimum_days: 180.5", "expected a whole number of days"),
    ("bulk: {hours: 12,", "slow: {hours: 12,", "'slow' is not a field of the speeds of waking"),
    ("gb: GB", "gb: Gb", "'Gb' is not a unit. Did you mean 'GB'?"),
    ("egress: 0.08 ", "#", "the price list lacks 'egress'"),
]


@pytest.mark.parametrize(("right", "wrong", "said"), WRONG)
def test_what_is_wrong_is_told_with_its_place(right: str, wrong: str, said: str, tmp_path: Path) -> None:
    """P12: file, line, column, the nearest word, and the page that explains it."""
    text = EXAMPLE.read_text(encoding="utf-8")
    assert right in text
    path = tmp_path / "prices.yaml"
    path.write_text(text.replace(right, wrong, 1), encoding="utf-8")
    with pytest.raises(ManifestError) as caught:
        load_prices(str(path))
    assert said in caught.value.message
    assert str(path) in caught.value.message
    assert "docs/cost.md" in caught.value.next_step


def test_a_newer_list_and_none_are_told_apart(tmp_path: Path) -> None:
    """P12: upgrade for the one, copy the example for the other."""
    path = tmp_path / "prices.yaml"
    path.write_text("resurgam_prices: 2\n", encoding="utf-8")
    with pytest.raises(NewerFormat):
        load_prices(str(path))
    with pytest.raises(ManifestError, match="cannot be read") as caught:
        load_prices(str(tmp_path / "none.yaml"))
    assert "Copy the example" in caught.value.next_step


def test_the_page_shows_a_list_that_is_read(tmp_path: Path) -> None:
    """What docs/cost.md shows is a price list and a manifest, as they stand there; and its table of hours is the program's."""
    page = (ROOT / "docs/cost.md").read_text(encoding="utf-8")
    listed, manifest = (block.partition("```")[0] for block in page.split("```yaml\n")[1:])
    (tmp_path / "prices.yaml").write_text(listed, encoding="utf-8")
    assert load_prices(str(tmp_path / "prices.yaml")).of("DEEP_ARCHIVE").minimum_days == 180
    (tmp_path / "resurgam.yaml").write_text(f"resurgam: 1\nsystem: films\n{manifest}", encoding="utf-8")
    system = load_manifest(str(tmp_path / "resurgam.yaml"))
    assert (system.vault.cold, system.component("masters").placement.cold) == ("DEEP_ARCHIVE", True)
    for (storage_class, speed), hours in HOURS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| {storage_class} |"))
        column = ["bulk", "standard", "expedited"].index(speed)
        assert row.split("|")[2 + column].strip() == f"{hours:g} h"
