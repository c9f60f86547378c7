"""A writer that says the same in other words each time, as a hosted language model does: ``writer: worded`` in the settings.

It stands for a model's noise where no model is at hand, so that probes and tolerances can be tried on it: the wording varies, what
is cited does not. ``HELPDESK_WORDING`` (any text) makes it repeat itself; without it, each process words otherwise.
"""

from __future__ import annotations

import os
import random

SEED = "HELPDESK_WORDING"
WAYS = (
    ("You asked:", "Your question was:", "You wanted to know:", "This is about:"),
    ("Our documents on", "What our documents hold on", "The pages that we keep on", "Our notes on"),
    ("say:", "state:", "have this to say:", "tell us:"),
    ("Never act on this in production before a second person has read it.",
     "Before this is used in production, a second person has to read it.",
     "Let a second person read this before you act on it in production."),
)  # fmt: skip


class Worded:
    """Draws one way of saying each thing that an answer says."""

    def __init__(self, seed: str | None = None) -> None:
        given = os.environ.get(SEED) if seed is None else seed
        self._rng = random.Random(given if given is not None else os.urandom(16))

    def write(self, prompt: str) -> str:
        """``prompt`` in other words; not the same twice."""
        for ways in WAYS:
            chosen = self._rng.choice(ways)  # also where nothing is replaced: what is drawn next does not depend on it
            said = next((way for way in ways if way in prompt), None)
            if said is not None:
                prompt = prompt.replace(said, chosen, 1)
        return prompt
