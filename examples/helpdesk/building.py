"""Make: a folder becomes a whole helpdesk, from the documents to the system manifest. Equal Python and libraries, equal parts: to
the byte where a store allows it (embedder, router, prompts, tools, configuration), else in what they hold.

documents.db  index/  embedder/  router/  prompts/  tools/  agent.db  config.yaml     the components
app/  bin/helpdesk                                                                    the application: code, kept elsewhere
run/  probes/  resurgam.yaml                                                          its barrier, how to ask it, what it is
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from string import Template
from typing import NamedTuple

from examples.handbook import building, people, router

from . import desk, documents, embedder, index, llm, repository
from .places import LAUNCHER, PLACES, read

PACKAGE = os.path.dirname(os.path.abspath(__file__))
CONTENT = os.path.join(PACKAGE, "content")
CHUNKS = 2000
CANARIES = 200  # chunks whose neighbours a probe asks for

HISTORY = {  # message -> what the commit adds
    "Begin with a prompt and what we do not speak of": ["answer.md", "unknown.md", "notices.md", "policies/scope.md"],
    "Keep personal data in the house": ["policies/privacy.md"],
    "Have a human approve refunds": ["policies/refunds.md"],
}
CONVERSATIONS = (  # customer, question: what the desk was asked on its first day
    (7, "How do I acquire a lock in a thread and release it again?"),
    (12, "How do I create a temporary directory that is removed afterwards?"),
    (12, "How do I add a file to a tar archive? The last one is broken."),
    (31, "How do I parse the arguments of a command line?"),
    (7, "The course on threads was not what I was promised: I want a refund."),
)

STARTER = '''\
"""Starts the application of this folder: python bin/helpdesk ask "…"."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "app"))
from examples.helpdesk.__main__ import main

sys.exit(main())
'''


class Built(NamedTuple):
    """What was made. ``accuracy`` is the router's on texts that it was not trained on; ``seconds`` is how long it took."""

    chunks: int
    sections: int
    accuracy: float
    memories: int
    waiting: str
    seconds: float


def make(home: str, chunks: int = CHUNKS, isolation: str = "required", with_llm: bool = False) -> Built:
    """Make the system in ``home``, which must not exist or be empty. Raises FileExistsError otherwise, and ModuleNotFoundError
    where a library is not installed."""
    started = time.monotonic()
    home = os.path.abspath(home)
    if os.path.isdir(home) and os.listdir(home):
        raise FileExistsError(f"{home} is not empty; nothing was changed.")
    places = {name: os.path.join(home, place) for name, place in PLACES.items()}
    for folder in ("bin", "app", "run", "router"):
        os.makedirs(os.path.join(home, folder))
    for name in ("prompts", "tools", "probes"):
        shutil.copytree(os.path.join(CONTENT, name), os.path.join(home, name))
    repository.start(places["prompts"], HISTORY, int(people.OPENING.timestamp()))
    embedder.install(places["embedder"])
    if with_llm:
        llm.install(os.path.join(home, "llm"))
    _settings(places["config"], "llm" if with_llm else "composed")
    filled = documents.fill(places["documents"], chunks, building.SEED)
    index.create(places["index"], filled, embedder.Embedder.load(places["embedder"]))
    learned = filled[
        : documents.unrepeated(places["documents"])
    ]  # what is repeated would be held out and learned at once
    model, accuracy = router.train([chunk.words for chunk in learned], [chunk.section for chunk in learned])
    model.save(places["router"])
    waiting = _first_day(places | ({"llm": os.path.join(home, "llm")} if with_llm else {}))
    _asked_of_index(os.path.join(home, "probes"), filled)
    _application(home)
    _manifest(home, isolation, with_llm)
    return Built(
        len(filled), len(model.sections), accuracy, len(CONVERSATIONS), waiting, round(time.monotonic() - started, 2)
    )


def _first_day(places: dict[str, str]) -> str:
    """Customers ask, so that the agent has threads and memories; the thread that waits for a human's decision."""
    waiting = ""
    with desk.opened(places) as opened:
        for customer, question in CONVERSATIONS:
            answer = opened.ask(question, customer, f"customer-{customer}")
            waiting = answer.thread if answer.waits else waiting
    return waiting


def _asked_of_index(folder: str, filled: Sequence[documents.Chunk]) -> None:
    """The golden questions that are texts, and chunks from all over: a canary asks for the neighbours of one that is there."""
    golden = json.loads(read(os.path.join(folder, "golden.json")))
    spread = filled[:: max(1, len(filled) // CANARIES)][:CANARIES]
    asked = {
        "questions": {case: question for case, question in golden.items() if isinstance(question, str)},
        "canaries": {f"chunk {chunk.id}": {"like": str(chunk.id)} for chunk in spread},
    }
    for name, queries in asked.items():
        with open(os.path.join(folder, f"{name}.json"), "x", encoding="utf-8") as file:
            json.dump(queries, file, indent=1)


def _settings(path: str, writer: str) -> None:
    with open(path, "x", encoding="utf-8") as file:
        file.write(Template(read(os.path.join(CONTENT, "config.yaml"))).substitute(writer=writer))


def _application(home: str) -> None:
    """This package and the handbook's, whose code it shares, as one importable tree."""
    examples = os.path.join(home, "app", "examples")
    ignored = shutil.ignore_patterns("__pycache__")
    for package in (building.PACKAGE, PACKAGE):
        shutil.copytree(package, os.path.join(examples, os.path.basename(package)), ignore=ignored)
    for path, text in ((os.path.join(examples, "__init__.py"), ""), (os.path.join(home, LAUNCHER), STARTER)):
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)


def _manifest(home: str, isolation: str, with_llm: bool) -> None:
    manifest = Template(read(os.path.join(CONTENT, "resurgam.yaml")))
    model = "\n  llm: {driver: models, location: llm, owner: ml-team}" if with_llm else ""
    filled = manifest.substitute(
        python=json.dumps(sys.executable), environment=json.dumps(sys.prefix), isolation=isolation,
        llm=model, and_llm=", llm" if with_llm else "",
    )  # fmt: skip
    with open(os.path.join(home, "resurgam.yaml"), "x", encoding="utf-8") as file:
        file.write(filled)
