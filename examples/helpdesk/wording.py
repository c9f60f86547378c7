"""A writer that says the same in other words each time, as a hosted language model does: ``writer: worded`` in the settings.

It stands for a model's noise where no model is at hand, so that probes and tolerances can be tried on it: the wording varies, what
is cited does not. ``HELPDESK_WORDING`` (any text) makes it repeat itself; without it, each process words otherwise.
"""

from __future__ import annotations

import json
import os
import random

from .places import places_in, read

SEED = "HELPDESK_WORDING"
WAYS = (
    ("You asked:", "Your question was:", "You wanted to know:", "This is about:"),
    ("Our documents on", "What our documents hold on", "The pages that we keep on", "Our notes on"),
    ("say:", "state:", "have this to say:", "tell us:"),
    ("Never act on this in production before a second person has read it.",
     "Before this is used in production, a second person has to read it.",
     "Let a second person read this before you act on it in production."),
)  # fmt: skip
# Texts for a question. Of copies that nothing had happened to, 10 of 2,500 were inconclusive with 8 of them, none with 12.
SAMPLES = 12
MARGIN = 0.15  # how far two distributions of texts may be apart, of which 2 is the most
OPENING = 100  # characters that are compared: what follows is quoted


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


def adopt(home: str) -> str:
    """From now on the desk in ``home`` has this writer, and a manifest whose probes say what of an answer must stay: topic and
    sources exactly, the wording as a distribution. It goes by a name of its own, since it is asked otherwise."""
    import yaml

    config = places_in(home)["config"]
    _write(config, read(config).replace("writer: composed", "writer: worded", 1))
    manifest = os.path.join(home, "resurgam.yaml")
    said = yaml.safe_load(read(manifest))
    golden = json.loads(read(os.path.join(home, "probes", "golden.json")))
    _write(
        os.path.join(home, "probes", "texts.json"), json.dumps({c: q for c, q in golden.items() if isinstance(q, str)})
    )
    answers = said["probes"]["answers"]
    said["system"] += "-in-other-words"
    said["promotion"].pop("watch_probes", None)
    answers["ask"] = {"file": "probes/texts.json"}
    said["probes"] = {
        "answers": answers | {"tolerance": {"jsonpath": {"$.topic": "exact", "$.chunks": "exact"}}},
        "wording": answers
        | {
            "run": [*answers["run"], "--samples", str(SAMPLES)],
            "tolerance": {"text": {"margin": MARGIN, "characters": OPENING}},
        },
    }
    _write(manifest, yaml.safe_dump(said, sort_keys=False))
    return f"each answer is worded otherwise now; topic and sources must stay, {SAMPLES} wordings are compared as a distribution"


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
