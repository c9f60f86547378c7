"""The kinds of change, and how a seed draws their parameters. A ``Change`` is a value: what to do to which system, and with what.

``python -m bench.proof.changes SYSTEM KIND PARAMETERS HOME`` does one, in a process of its own, and says what it did.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bench.proof import damage, upkeep
from examples.handbook import answering as handbook
from examples.helpdesk import harmless, incidents
from examples.helpdesk import places as helpdesk

CAPTURED = 0.25  # of the faults strike the live system before its capture
HELPDESK, HANDBOOK = "helpdesk", "handbook"
Parameters = dict[str, Any]


class Facts(NamedTuple):
    """What a draw may choose from: the golden questions, the chunks that their answers cite, and how many chunks there are."""

    questions: Sequence[str]
    cited: Sequence[int]
    chunks: int


class Change(NamedTuple):
    """One change. ``captured``: it strikes before the capture, so that only the reference can tell."""

    system: str
    kind: str
    parameters: Parameters
    harmless: bool
    captured: bool = False


class Kind(NamedTuple):
    """``act`` takes a home (an incident of the helpdesk's) or the places of the components."""

    act: Callable[..., str]
    draw: Callable[[random.Random, Facts], Parameters]
    by_home: bool = False


def _none(_rng: random.Random, _facts: Facts) -> Parameters:
    return {}


def _seed(rng: random.Random, _facts: Facts) -> Parameters:
    return {"seed": rng.randrange(1 << 30)}


def _chunks(rng: random.Random, facts: Facts) -> Parameters:
    """A few chunks: of those that golden answers cite, or of all, as it comes."""
    count = rng.choice((2, 5, 20, 100))
    if rng.random() < 0.7:
        return {"chunks": rng.sample(list(facts.cited), min(count, len(facts.cited)))}
    return {"chunks": rng.sample(range(1, facts.chunks + 1), count)}


def _of(**drawn: Sequence[Any]) -> Callable[[random.Random, Facts], Parameters]:
    """Each parameter is one of those given; ``seed`` is drawn where it is named."""

    def draw(rng: random.Random, _facts: Facts) -> Parameters:
        return {name: rng.choice(values) if values else rng.randrange(1 << 30) for name, values in drawn.items()}

    return draw


def _question(rng: random.Random, facts: Facts) -> Parameters:
    return {"question": rng.choice(list(facts.questions)), "chunks": rng.choice((1, 2, 5))}


def _pair(rng: random.Random, _facts: Facts) -> Parameters:
    source, target = rng.sample((7, 12, 31), 2)
    return {"source": source, "target": target}


def _word(places: dict[str, dict[str, Sequence[tuple[str, str]]]]) -> Callable[[random.Random, Facts], Parameters]:
    """A word of a file, and the one that takes its place."""

    def draw(rng: random.Random, _facts: Facts) -> Parameters:
        component = rng.choice(list(places))
        name = rng.choice(list(places[component]))
        before, after = rng.choice(places[component][name])
        return {"component": component, "name": name, "before": before, "after": after}

    return draw


_ANSWER = (("Never", "Always"), ("second", "third"), ("You asked", "Asked"), ("say:", "swear:"), ("Sources", "Source"))
_SEED: Sequence[int] = ()

_SHARED = {  # faults of both
    "added words": Kind(
        damage.add_word, lambda r, f: _chunks(r, f) | {"word": r.choice(("Never", "Wrong:", "Do not"))}
    ),
    "exchanged texts": Kind(damage.exchange_texts, _chunks),
    "deleted chunks": Kind(damage.delete_chunks, _chunks),
    "other sections": Kind(damage.relabel_sections, _of(share=(0.02, 0.1, 0.5), seed=_SEED)),
    "orphaned tickets": Kind(damage.orphan_tickets, _of(count=(1, 10, 100))),
    "cut short": Kind(damage.cut_short, _of(component=("documents",), keep=(0.1, 0.5, 0.9))),
    "zeroed pages": Kind(damage.zero_pages, _of(component=("documents",), count=(3, 20), seed=_SEED)),
    "rolled router": Kind(damage.roll_router, _of(shift=(1, 2, 5))),
    "noisy router": Kind(damage.disturb_router, _of(scale=(0.3, 1.0, 4.0), seed=_SEED)),
}
FAULTS: dict[str, dict[str, Kind]] = {
    HELPDESK: _SHARED
    | {
        "lost index": Kind(incidents.lose_index, _none, by_home=True),
        "ransomware": Kind(incidents.encrypt_database, _of(component=("documents", "agent")), by_home=True),
        "swapped embedder": Kind(incidents.swap_embedder, _of(shift=(1, 7, 128)), by_home=True),
        "index of another embedder": Kind(incidents.rebuild_by_other_embedder, _of(shift=(1, 64)), by_home=True),
        "missing vectors": Kind(incidents.drop_vectors, _of(share=(0.02, 0.05, 0.2), seed=_SEED), by_home=True),
        "poisoned chunks": Kind(incidents.poison_documents, _question, by_home=True),
        "moved memories": Kind(incidents.move_memories, _pair, by_home=True),
        "loosened tool": Kind(incidents.loosen_tool, _of(tool=("refund", "open_ticket")), by_home=True),
        "deleted prompt": Kind(incidents.delete_prompt, _none, by_home=True),
        "forgotten customer": Kind(damage.forget, _of(customer=(7, 12, 31))),
        "lost turns": Kind(damage.lose_checkpoints, _of(thread=("customer-7", "customer-12"), count=(1, 3, 6))),
        "noisy vectors": Kind(damage.disturb_vectors, _of(share=(0.05, 0.3, 1.0), scale=(0.2, 0.6), seed=_SEED)),
        "exchanged vectors": Kind(damage.exchange_vectors, _of(share=(0.02, 0.1, 0.5), seed=_SEED)),
        "deleted records": Kind(damage.delete_records, _of(share=(0.02, 0.1))),
        "coarse embedder": Kind(damage.coarsen_embedder, _of(levels=(2, 4, 8, 64))),
        "edited prompt": Kind(damage.edit, _word({"prompts": {"answer.md": _ANSWER, "unknown.md": (("None", "One"),)}})),
        "edited settings": Kind(
            damage.edit,
            _word({"config": {"": (
                ("passages: 3", "passages: 2"), ("own_section: 0.8", "own_section: 0.2"), ("candidates: 12", "candidates: 4"),
            )}}),
        ),
        "rewired tools": Kind(
            damage.edit, _word({"tools": {"agent.yaml": (("refunds, money", "refunds, how"), ("broken", "how"))}})
        ),
        "dropped rules": Kind(damage.drop_rules, _of(component=("prompts",), name=("policies/scope.md",), word=("refuse", "say"))),
    },
    HANDBOOK: _SHARED
    | {
        "unindexed chunks": Kind(damage.unindex_chunks, _chunks),
        "other plans": Kind(damage.change_plans, _of(count=(5, 50))),
        "edited prompt": Kind(damage.edit, _word({"prompts": {"answer.md": (("$topic", "$question"), ("Sources", "Source"))}})),
        "edited settings": Kind(
            damage.edit,
            _word({"config": {"handbook.toml": (
                ("passages = 3", "passages = 2"), ("own_section = 1.6", "own_section = 6.0"), ("sentences = 2", "sentences = 1"),
            )}}),
        ),
        "dropped rules": Kind(damage.drop_rules, _of(component=("policies",), name=("scope.md",), word=("refuse", "say"))),
    },
}  # fmt: skip

_KEPT = {  # harmless changes to both
    "nothing": Kind(upkeep.nothing, _none),
    "another page size": Kind(upkeep.page_size, _of(component=("documents",), size=(1024, 8192, 16384))),
    "built indexes": Kind(upkeep.reindex, _of(component=("documents",))),
    "search index": Kind(upkeep.search_index, _of(how=("optimize", "rebuild"))),
    "more tickets": Kind(upkeep.more_tickets, _of(count=(1, 100, 1000))),
    "saved router": Kind(upkeep.save_router, _of(note=("again", "once more"))),
}
HARMLESS: dict[str, dict[str, Kind]] = {
    HELPDESK: _KEPT
    | {
        "vacuum": Kind(harmless.vacuum, _of(component=("documents", "agent")), by_home=True),
        "compaction": Kind(harmless.compact_index, _none, by_home=True),
        "re-ordered rows": Kind(harmless.reorder_rows, _seed, by_home=True),
        "rebuilt index": Kind(harmless.rebuild_index, _seed, by_home=True),
        "tools laid out otherwise": Kind(harmless.reformat_tools, _of(indent=(0, 1, 4, 8)), by_home=True),
        "settings with a comment": Kind(harmless.comment_settings, _none, by_home=True),
        "other times": Kind(harmless.touch, _of(seconds=(1, 86400, 31536000)), by_home=True),
        "reloaded database": Kind(upkeep.reload, _of(component=("agent",))),
        "more memories": Kind(upkeep.more_memories, _of(count=(1, 500))),
        "packed repository": Kind(upkeep.repack, _none),
        "copied folder": Kind(upkeep.copy_tree, _of(component=("index", "embedder", "tools"))),
    },
    HANDBOOK: _KEPT
    | {
        "commented settings": Kind(upkeep.comment, _of(component=("config",), name=("handbook.toml",), words=("Seen.", "Kept."))),
        "copied folder": Kind(upkeep.copy_tree, _of(component=("router", "prompts", "policies"))),
    },
}  # fmt: skip


def draw(seed: int, count: int, facts: dict[str, Facts], *, harmless: bool) -> list[Change]:
    """``count`` changes: every kind in turn, in an order and with parameters that the seed draws; then again."""
    rng = random.Random(f"{seed} {'harmless' if harmless else 'faults'}")
    kinds = [(system, name) for system, known in (HARMLESS if harmless else FAULTS).items() for name in known]
    drawn: list[Change] = []
    while len(drawn) < count:
        rng.shuffle(kinds)
        for system, name in kinds[: count - len(drawn)]:
            parameters = (HARMLESS if harmless else FAULTS)[system][name].draw(rng, facts[system])
            drawn.append(Change(system, name, parameters, harmless, not harmless and rng.random() < CAPTURED))
    return drawn


def places_of(system: str, home: str) -> dict[str, str]:
    """Component to place, in the folder of a system."""
    return handbook.places_in(home) if system == HANDBOOK else helpdesk.places_in(home)


def do(change: Change, home: str) -> str:
    """Do it to the system in ``home``; what was done."""
    kind = (HARMLESS if change.harmless else FAULTS)[change.system][change.kind]
    return kind.act(home if kind.by_home else places_of(change.system, home), **change.parameters)


if __name__ == "__main__":
    asked, where = sys.argv[1:]
    print(do(Change(*json.loads(asked)), where))
