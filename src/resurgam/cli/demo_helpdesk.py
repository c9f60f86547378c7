"""The helpdesk in ``resurgam demo``: a support agent with a vector index and a memory; what befalls it, and what must not alarm.

Damages and maintenance are the helpdesk's own (``examples/helpdesk/incidents.py``, ``harmless.py``), done by its own command in a
process of its own: a folder of Chroma is not opened by whoever tells the story.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing

from resurgam.cli.demo_cast import Act, Cast, Trace, Watched, moved
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


def _struck(*names: str) -> Callable[[Stage, str, Iterable[int]], str]:
    return lambda stage, home, _cited: "; ".join(stage.application(home, "strike", name) for name in names)


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
    Act(
        "lost-index",
        "The index folder is removed by a clean-up",
        _struck("lost-index"),
        ("files", "row counts", "quick_check"),
        level="retrieval",
        few=True,
    ),
    Act(
        "encrypted-database",
        "The documents are encrypted by ransomware",
        _struck("encrypted-database"),
        ("row counts", "quick_check"),
        level="rows",
    ),
    Act(
        "poisoned-chunks",
        "Five chunks are added that capture a question which many ask, and lie",
        _struck("poisoned-chunks"),
        level="rows",
    ),
    Act("edited-prompt", "A prompt is edited by one word", _struck("edited-prompt"), level="answers", few=True),
    Act(
        "swapped-router",
        "The router's weights are swapped for others of the same shape",
        _struck("swapped-router"),
        level="answers",
    ),
    Act(
        "other-embedder",
        "The index is rebuilt with another embedder, and all counts agree",
        _struck("other-embedder"),
        level="retrieval",
    ),
    Act("missing-vectors", "The graph (HNSW) lacks 2 % of the vectors", _struck("missing-vectors"), level="retrieval"),
    Act(
        "moved-memories",
        "What the agent remembers of one customer is moved to another",
        _struck("moved-memories"),
        level="rows",
    ),
    Act("loosened-tool", "A tool's schema is loosened", _struck("loosened-tool"), level="rows"),
    Act(
        "captured-as-healthy",
        "A prompt is edited and memories are moved, and then the system is captured as if it were healthy",
        _struck("edited-prompt", "moved-memories"),
        level="rows",
        captured=True,
        traces=(Trace("prompts", "~ answer.md", details=6),),
        few=True,
    ),
)
HARMLESS = (
    Act("vacuum", "The documents' database is vacuumed", _struck("vacuum"), few=True),
    Act("compaction", "The index's own database is compacted", _struck("compaction")),
    Act("reordered-rows", "The memories are put in another order", _struck("reordered-rows")),
    Act("rebuilt-index", "The index is rebuilt from the same chunks, in another order", _struck("rebuilt-index")),
    Act("other-path", "The system is moved to another folder", moved),
    Act(
        "other-words",
        "The writer says the same in other words each time, as a hosted model does",
        _struck("other-words"),
        captured=True,
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
    levels={
        **dict.fromkeys(("memories", "sections", "strays", "offer"), "rows"),
        **dict.fromkeys(("retrieval", "recall", "canaries", "reach"), "retrieval"),
        **dict.fromkeys(("answers", "wording"), "answers"),
    },
    watched=Watched(
        ("documents.db", "index", "embedder", "router", "prompts", "tools", "agent.db", "config.yaml"),
        ("documents.db", "agent.db", "index/chroma.sqlite3"),
        ("embedder/model.safetensors", "router/router.safetensors"),
        ("acquire_write", "embeddings_queue", "embeddings_queue_config", "max_seq_id", "segments", "segment_metadata"),
    ),
    incidents=INCIDENTS,
    harmless=HARMLESS,
    ending=resume,
)
