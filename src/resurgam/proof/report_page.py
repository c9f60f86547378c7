"""The report as one page of HTML: it opens from a file, asks no server for anything, and runs no script.

What is written into it may be an enemy's. So the template engine escapes every value, drawings escape theirs, texts that run
from right to left stay in their own cell, and the page forbids itself everything but its own style sheet (Content Security
Policy, https://www.w3.org/TR/CSP3/, by the sheet's digest). Needs jinja2, of the extra ``proof``.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from resurgam.errors import MissingExtra
from resurgam.proof import report_svg
from resurgam.proof.report_values import Report
from resurgam.proof.report_words import figures_of_test, percent, tested

if TYPE_CHECKING:
    from jinja2 import Environment

SHOWN = 20  # bars of a probe; the distribution beside them holds all cases


def page(report: Report) -> str:
    """The page. Raises MissingExtra without jinja2."""
    from_file = _environment()
    from markupsafe import Markup  # comes with jinja2

    style = (files("resurgam.proof") / "pages" / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return from_file.get_template("report.html").render(
        report=report,
        style=Markup(style),  # noqa: S704 - our own file; drawings escape what they show
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        drawing={
            "graph": Markup(report_svg.system_graph(report.components)),  # noqa: S704
            "time_line": Markup(report_svg.time_line(report.cut)),  # noqa: S704
        },
        distributions=lambda scores: Markup(report_svg.distributions(scores)),  # noqa: S704
        interval=lambda found: Markup(report_svg.interval(found)),  # noqa: S704
        bar=lambda share: Markup(report_svg.bar(share, "restored")),  # noqa: S704
        tested=tested,
        figures=figures_of_test,
        percent=percent,
        size=_size,
        ms=_duration,
        shown=SHOWN,
    )


@cache
def _environment() -> Environment:
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtra(
            "A report as a page needs jinja2, which is not installed.",
            untouched="Nothing was written.",
            next_step="Run: python -m pip install 'resurgam[proof]', or ask for --json or --junit.",
        ) from error
    pages = files("resurgam.proof") / "pages"
    return Environment(
        loader=FunctionLoader(lambda name: (pages / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
    )


def _size(number: int) -> str:
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
