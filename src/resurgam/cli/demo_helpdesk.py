"""The helpdesk in ``resurgam demo``: a support agent with a vector index and a memory, and four damages that no count shows.

The damages are the helpdesk's own (``examples/helpdesk/incidents.py``), done by its own command in a process of its own: a folder
of Chroma is not opened by whoever tells the story.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing

from resurgam.cli.demo_cast import Cast, Incident, Trace, Watched
from resurgam.cli.demo_stage import Stage
from resurgam.model.system import Json

DATABASE = "documents.db"
THREAD = "customer-7"  # which asked for a refund on the first day, and waits for a human's decision since


def _built(told: Json) -> tuple[str, ...]:
    return (
        (f"{told['chunks']} chunks of documents (the help of this Python, PSF-2.0), each with its vector in Chroma;"),
        (
            f"a router trained here: {told['accuracy']:.0%} of unseen chunks in the right one of {told['sections']} sections;"
        ),
        (
            f"an agent in LangGraph with {told['memories']} memories; thread {told['waiting']} waits for a human's yes to a refund."
        ),
    )


def _written(told: Json) -> str:
    return (
        f"{told['writers']} processes wrote {told['notes']} notes ({told['chunks']} chunks, each in SQLite and Chroma, and a "
        f"memory of them) and had {told['threads']} threads"
    )


def _struck(name: str) -> Callable[[Stage, str, Iterable[int]], str]:
    return lambda stage, home, _cited: stage.application(home, "strike", name)


def resume(stage: Stage, number: int, home: str) -> None:
    """The thread that waited before everything goes on in the recovered system, and what it does is done."""
    stage.heading(f"{number}  The thread that waited for a human goes on, in the system that was recovered last")
    path = os.path.join(home, DATABASE)
    before = _states(path)
    said = json.loads(stage.application(home, "resume", THREAD, "yes", "--json", tell=True))
    was, now = (states.get(said["ticket"], "gone") for states in (before, _states(path)))
    stage.say(f"{said['text']}; its ticket {said['ticket']} was {was} and is {now}")
    stage.expect((said["text"], was, now) == ("refund: approved", "waiting", "closed"), "it goes on where it was")


def _states(path: str) -> dict[int, str]:
    with closing(sqlite3.connect(path)) as database:
        return dict(database.execute("SELECT id, state FROM tickets"))


INCIDENTS = (
    Incident("vectors", "Some vectors are lost; every count is as before", (), _struck("missing-vectors")),
    Incident(
        "embedder",
        "The embedder is swapped for another of the same name, shape and size",
        (),
        _struck("swapped-embedder"),
    ),
    Incident(
        "poison",
        "A poisoned document is added through the agent, and captured too, as a schedule would",
        (),
        _struck("poisoned-document"),
        trace=Trace("documents / chunks", "+"),
    ),
    Incident(
        "memory",
        "A memory of the agent is rewritten, and captured too; no golden question shows it",
        (),
        _struck("corrupted-memory"),
        trace=Trace("agent / memories", "~"),
        broken="memories-cite-chunks",
        probed=False,
    ),
)

HELPDESK = Cast(
    name="helpdesk",
    title="A system: documents, vector index, embedder, router, prompts, tools, an agent's memory, configuration",
    needs=(
        "chromadb",
        "dulwich",
        "langgraph",
        "langgraph-checkpoint-sqlite",
        "ormsgpack",
        "tokenizers",
        "wordllama",
    ),
    build="make",
    built=_built,
    tickets=DATABASE,
    question="How do I acquire a lock in a thread and release it again?",
    asked=("--read-only",),
    probe="answers",
    case="lock",
    writers=("load", "--writers", "3", "--rate", "20"),
    ends_by=0,
    written=_written,
    agree=("agree",),
    watched=Watched(
        ("documents.db", "index", "embedder", "router", "prompts", "tools", "agent.db", "config.yaml"),
        ("documents.db", "agent.db", "index/chroma.sqlite3"),
        ("embedder/model.safetensors", "router/router.safetensors"),
    ),
    incidents=INCIDENTS,
    ending=resume,
)
