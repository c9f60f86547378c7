"""The price list: ``prices.yaml`` to :class:`Prices`, or every reason why not, each with file, line and column.

Read by the same forms as the manifest (``manifest_yaml``, ``manifest_form``), so what is wrong is told in the same way. Numbers are
kept as they are written, as decimals: ``0.023`` is not the nearest binary fraction.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from resurgam.capture.manifest_form import Choice, Field, Named, Number, Reading, Record, Text
from resurgam.capture.manifest_yaml import Node, Problems, bytes_of, read_tree
from resurgam.model.codec import require_format
from resurgam.stores.archive import Speed
from resurgam.vault.prices import ClassPrices, Prices, WarmUpPrices

FORMAT = 1
UNITS = {"GB": 10**9, "GiB": 2**30}
PAGE = "docs/cost.md"


@dataclass(frozen=True, slots=True)
class Amount:
    """A decimal number, 0 or more, as it is written."""

    what: str

    def read(self, node: Node, reading: Reading) -> Any:
        """See manifest_form.Form."""
        value = node.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            return reading.wrong(node, f"expected {self.what}, found {node.kind()}.")
        return Decimal(repr(value)) if value >= 0 else reading.wrong(node, f"expected {self.what}, found {value}.")

    def schema(self) -> dict[str, Any]:
        """See manifest_form.Form."""
        return {"type": "number", "minimum": 0}


_per_1000 = Amount("a price per 1,000 requests, such as 0.005")
_per_gb = Amount("a price per GB, such as 0.03")


WARM_UP = Record("a speed of waking", {
    "hours": Field(Amount("hours, such as 12"), "After how many hours a copy is there, at the latest.", required=True),
    "gb": Field(_per_gb, "Per GB that is woken."),
    "per_1000": Field(_per_1000, "Per 1,000 objects that are woken."),
})  # fmt: skip

_speeds = Record("the speeds of waking", {speed.value: Field(WARM_UP, f"Waking at {speed} speed.") for speed in Speed})

CLASS = Record("a class", {
    "storage": Field(Amount("a price per GB and month, such as 0.023"), "Per GB and month.", required=True),
    "put": Field(_per_1000, "Per 1,000 objects that are put."),
    "get": Field(_per_1000, "Per 1,000 ranges that are read."),
    "list": Field(_per_1000, "Per 1,000 pages of a listing."),
    "delete": Field(_per_1000, "Per 1,000 objects that are deleted."),
    "retrieval": Field(_per_gb, "Per GB that is read of this class."),
    "minimum_days": Field(Number("a whole number of days, 0 or more", whole=True),
                          "What is deleted sooner is paid for until then."),
    "warm_up": Field(_speeds, "What waking costs, where the class sleeps; by speed."),
})  # fmt: skip

PRICES = Record("the price list", {
    "resurgam_prices": Field(Number(f"the list's format, {FORMAT}", whole=True, least=1, most=FORMAT), "The format of this file.",
                             required=True),
    "as_of": Field(Text("a day, such as 2026-11-21", r"[0-9]{4}-[0-9]{2}-[0-9]{2}"), "The day of these prices.", required=True),
    "currency": Field(Text("a currency, such as EUR", r"[A-Z]{3}"), "The currency of all amounts.", required=True),
    "gb": Field(Choice("a unit", tuple(UNITS)), "What the provider calls a GB: 10^9 bytes (`GB`, unless said) or 2^30 (`GiB`)."),
    "note": Field(Text(), "Where they are from; shown with every estimate."),
    "egress": Field(_per_gb, "Per GB that leaves the store.", required=True),
    "classes": Field(Named("classes", CLASS, name=r"[A-Z][A-Z0-9_]{0,62}", filled=True),
                     "Storage classes by the store's own names; STANDARD for a folder and wherever there are none.", required=True),
})  # fmt: skip


def load_prices(path: str) -> Prices:
    """The price list at ``path``. Raises ManifestError, whose message has a line ``file:line:column: …`` for each problem found,
    and NewerFormat."""
    problems = Problems(path, what="a price list", begins="resurgam_prices: 1", page=PAGE)
    missing = f"Copy the example of {PAGE} and put in your provider's prices."
    root = read_tree(bytes_of(problems, missing), problems)
    node = root.child("resurgam_prices")
    if node and isinstance(node.value, int):
        require_format(node.value, FORMAT, what=f"{path}:{node.at.line}:{node.at.column}: the price list")
    folder = os.path.dirname(os.path.abspath(path))
    values = PRICES.read(root, Reading(problems, folder, {}, {}))
    problems.raise_if_any()
    classes = {name: _class(of) for name, of in values.pop("classes").items()}
    del values["resurgam_prices"]
    return Prices(classes=classes, gb=UNITS[values.pop("gb", "GB")], **values)


def _class(values: dict[str, Any]) -> ClassPrices:
    warm_up = {speed: WarmUpPrices(**of) for speed, of in values.pop("warm_up", {}).items()}
    return ClassPrices(warm_up=warm_up, **values)
