"""What has changed indeed: the application is asked itself, before and after, and its answers are compared as they are.

Nothing of Resurgam is imported here, so that judge and oracle cannot be wrong together. What is asked: the golden questions and the
threads (exact), the neighbours of the golden questions and the chunks that their own words do not find (noisy, with a margin), rows
(exact), tools (exact); and as many questions again, ``ELSEWHERE``, that no probe asks. ``python -m bench.proof.oracle SYSTEM HOME``
prints it all as JSON; what could not be answered is an ``error`` in its place.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

ELSEWHERE = 40  # questions that no probe asks, made of the headings of chunks evenly spread
NEIGHBOURS, COMMON = 10, 0.9  # of so many neighbours this share must be the same ones
OWN, OWN_NEAR = 500, 5  # so many chunks are asked for by their own words, and must be among so many neighbours
LOST = 1  # so many chunks more or fewer may be lost to their own words
WORDED = "worded"  # the system whose texts are never the same twice: topic and chunks are exact, the wording is noisy
OPENING, REWORDED = (
    100,
    0.5,
)  # its probe compares so many characters; where more of the texts than this begin otherwise, it must see it

Seen = dict[str, Any]


def felt(system: str, before: Seen, after: Seen) -> str:
    """``felt`` where an answer to what the probes ask changed, ``elsewhere`` where another did, else ``nothing``."""
    if _differ(system, before["asked"], after["asked"]):
        return "felt"
    return "elsewhere" if _differ(system, before["elsewhere"], after["elsewhere"]) else "nothing"


def _differ(system: str, before: Seen, after: Seen) -> bool:
    for name, old in before.items():
        new = after[name]
        if isinstance(new, dict) and "error" in new:
            return True
        if name == "neighbours":
            if any(shared(old[case], new.get(case, [])) < COMMON for case in old):
                return True
        elif name == "lost":
            if abs(new - old) > LOST:
                return True
        elif system == WORDED and name == "answers":
            if any(old[case][:2] != new[case][:2] for case in old) or _reworded(old, new) > REWORDED:
                return True
        elif old != new:
            return True
    return False


def _reworded(before: Seen, after: Seen) -> float:
    """The share of texts that begin otherwise. The writer draws the same words before and after, so that is no noise."""
    others = [case for case in before if before[case][2][:OPENING] != after[case][2][:OPENING]]
    return len(others) / max(1, len(before))


def shared(before: list[int], after: list[int]) -> float:
    """The share of the first neighbours that both lists have."""
    return len(set(before[:NEIGHBOURS]) & set(after[:NEIGHBOURS])) / max(
        1, len(before[:NEIGHBOURS]), len(after[:NEIGHBOURS])
    )


def _tried(what: Callable[[], Any]) -> Any:
    """P12 of a bench: an application that cannot answer is an answer too."""
    try:
        return what()
    except Exception as error:  # noqa: BLE001 - whatever a damaged part raises
        return {"error": f"{type(error).__name__}: {error}"}


def _rows(path: str, *asked: str) -> Any:
    with closing(sqlite3.connect(path, timeout=30)) as opened:
        return [opened.execute(one).fetchall() for one in asked]


_SECTIONS = (
    "SELECT section, count(*) FROM documents JOIN chunks ON document_id = documents.id WHERE section <> 'notes' "
    "GROUP BY 1 ORDER BY 1"
)
_STRAYS = "SELECT count(*) FROM tickets WHERE customer_id NOT IN (SELECT id FROM customers)"
_PLANS = "SELECT plan, count(*) FROM customers GROUP BY 1 ORDER BY 1"
_MEMORIES = "SELECT prefix, key, CAST(value AS TEXT) FROM store WHERE key LIKE 'customer-%' ORDER BY 1, 2"


def ask_helpdesk(places: dict[str, str], golden: dict[str, Any], other: dict[str, str]) -> Seen:
    """Everything about a helpdesk at these places."""
    texts = {case: question for case, question in golden.items() if isinstance(question, str)}
    threads = {case: question["thread"] for case, question in golden.items() if case not in texts}
    said = _tried(lambda: _said(places, texts | other, threads))
    near = _tried(lambda: _near(places, texts | other))
    return {
        "asked": {
            "answers": _some(said, "answers", texts),
            "threads": _some(said, "threads", threads),
            "neighbours": _some(near, "neighbours", texts),
            "lost": near if "error" in near else near["lost"],
            "tools": _tried(lambda: _tools(places["tools"])),
            "rows": _tried(lambda: _rows(places["documents"], _SECTIONS, _STRAYS)),
            "memories": _tried(lambda: _rows(places["agent"], _MEMORIES)),
        },
        "elsewhere": {"answers": _some(said, "answers", other), "neighbours": _some(near, "neighbours", other)},
    }


def _some(found: Any, name: str, cases: Iterable[str]) -> Any:
    return found if "error" in found else {case: found[name][case] for case in cases}


def _said(places: dict[str, str], questions: dict[str, str], threads: dict[str, str]) -> Any:
    from examples.helpdesk import desk

    with desk.answering(places) as asked:
        answers = {case: list(asked.answer(question)[:3]) for case, question in questions.items()}
        return {"answers": answers, "threads": {case: asked.thread(thread) for case, thread in threads.items()}}


def _near(places: dict[str, str], questions: dict[str, str]) -> Any:
    """The neighbours of each question, and how many chunks are not among the neighbours of their own words."""
    from examples.helpdesk import documents
    from examples.helpdesk.embedder import Embedder
    from examples.helpdesk.index import Reader

    embedder = Embedder.load(places["embedder"])
    with documents.connected(places["documents"], read_only=True) as opened:
        chunks = [chunk for chunk in documents.every_chunk(opened) if chunk.section != documents.NOTES]
    chunks = chunks[:: max(1, len(chunks) // OWN)]
    with Reader(places["index"]) as reader:
        vectors = embedder.embed(list(questions.values()))
        found = [reader.index.search(vector, NEIGHBOURS) for vector in vectors]
        own = reader.index.search_all(embedder.embed([chunk.words for chunk in chunks]), OWN_NEAR)
    return {
        "neighbours": {case: [one.chunk for one in some] for case, some in zip(questions, found, strict=True)},
        "lost": sum(chunk.id not in ids for chunk, ids in zip(chunks, own, strict=True)),
    }


def _tools(folder: str) -> Any:
    import yaml

    with open(os.path.join(folder, "tools.json"), encoding="utf-8") as file:
        offered = {tool["name"]: tool for tool in json.load(file)["tools"]}
    with open(os.path.join(folder, "agent.yaml"), encoding="utf-8") as file:
        return [offered, yaml.safe_load(file)["actions"]]


def ask_handbook(places: dict[str, str], golden: dict[str, str], other: dict[str, str]) -> Seen:
    """Everything about a handbook at these places."""
    from examples.handbook.answering import Handbook

    def answers(questions: dict[str, str]) -> Any:
        return {case: list(answer) for case, answer in Handbook(places).ask_all(questions).items()}

    return {
        "asked": {
            "answers": _tried(lambda: answers(golden)),
            "rows": _tried(lambda: _rows(places["documents"], _SECTIONS, _STRAYS, _PLANS)),
        },
        "elsewhere": {"answers": _tried(lambda: answers(other))},
    }


def other_questions(path: str) -> dict[str, str]:
    """Questions that no probe asks, about chunks evenly spread over the database at ``path``."""
    (headings,) = _rows(path, "SELECT heading FROM chunks ORDER BY id")
    step = max(1, len(headings) // ELSEWHERE)
    return {f"other {n}": f"What does {h.replace('.', ' ')} do?" for n, (h,) in enumerate(headings[::step][:ELSEWHERE])}


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    ask = ask_handbook if asked["system"] == "handbook" else ask_helpdesk
    print(json.dumps(ask(asked["places"], asked["golden"], asked["other"])))
