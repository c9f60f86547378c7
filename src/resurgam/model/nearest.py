"""The nearest valid word, for errors that say the next step (P12)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def closest(word: str, words: Iterable[str]) -> str | None:
    """The one of ``words`` that ``word`` was probably meant to be, whatever its case."""
    folded = {each.lower(): each for each in words}
    near = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.5)
    return folded[near[0]] if near else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence for an error's next step: the nearest of the ``known`` words, or all of them."""
    words = sorted(known)
    if near := closest(word, words):
        return f"Did you mean {near!r}?"
    return f"Known here: {', '.join(words)}." if words else "Nothing is known here."
